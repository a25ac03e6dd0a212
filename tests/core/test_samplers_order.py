"""The order of every deterministic sampler, on data whose flow is known."""

import pytest

from tests.helpers.all_samplers import DETERMINISTIC, FURTHER, SCHEDULES, pairs
from tests.helpers.sampler_runs import (
    FEW_NUM_STEPS,
    NUM_STEPS,
    WARM_UP_NUM_STEPS,
    order,
)

EVERY = DETERMINISTIC | FURTHER


@pairs(DETERMINISTIC)
def test_order_of_convergence(on, name):
    converges(EVERY[name], SCHEDULES[on])


@pytest.mark.nightly
@pairs(FURTHER)
def test_order_of_convergence_of_other_settings(on, name):
    converges(EVERY[name], SCHEDULES[on])


def converges(entry, schedule):
    """From exact starting values, and as shipped."""
    assert order(entry.sampler, schedule, *exactly(entry)) >= entry.order - 0.15
    if entry.shipped is not None:
        shipped = order(entry.sampler, schedule, 0, WARM_UP_NUM_STEPS)
        assert shipped >= entry.shipped - 0.15


def exactly(entry):
    """Number of exact starting values, and numbers of steps."""
    warm = 0 if entry.shipped is None else 3
    return warm, NUM_STEPS if entry.order <= 4 else FEW_NUM_STEPS


def main():
    """Prints the orders as rows of a table: the least over the schedules."""
    for name, entry in EVERY.items():
        cells = [f"`{entry.sampler}`", str(entry.order)]
        least = lambda *args, entry=entry: min(
            order(entry.sampler, schedule, *args) for schedule in SCHEDULES.values()
        )
        cells.append(f"{least(*exactly(entry)):.2f}")
        cells.append(
            "the same"
            if entry.shipped is None
            else f"{least(0, WARM_UP_NUM_STEPS):.2f}"
        )
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
