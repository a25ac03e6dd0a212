"""What a comparison says of the ODE: where it was cut off, and how well solved."""

from collections.abc import Sequence

from experiments.comparison.grouping import Group
from experiments.comparison.paired import Finding
from experiments.comparison.run_record import RunRecord
from experiments.evaluation import bits_per_dim


def ends(run: RunRecord) -> dict[str, str]:
    """Where the ODE of a run ends, in words, at the "data" and at the "noise"."""
    found = run.evaluation["likelihood"]["ode_ends"]
    return {
        name: "that of the schedule" if end is None else f"log-SNR {end:.6g}"
        for name, end in found.items()
    }


def within(group: Group) -> float | None:
    """The largest error of the solver in a group; None where one is not known."""
    errors = [run.evaluation["likelihood"]["solver_error"] for run in group.evaluated]
    if not errors or None in errors:
        return None
    return max(map(bits_per_dim.solver_bound, errors))


def notes(groups: Sequence[Group], found: Finding) -> list[str]:
    """Whose error is not known, and which differences such errors alone might make.

    Args:
      groups: that are compared.
      found: of the ODE.
    """
    errors = {group.name: within(group) for group in groups}
    unknown = [one.name for one in groups if one.evaluated and errors[one.name] is None]
    lines = []
    if unknown:
        lines.append(
            f"{found.title}: the error of the solver is not known of "
            f"{', '.join(unknown)}, with an evaluation of fewer than 16 examples or "
            "with numbers that are not finite"
        )
    for name, each in found.differences.items():
        pair = errors[name], errors[found.reference]
        apart = not each.low <= 0 <= each.high
        if apart and None not in pair and abs(each.value) <= sum(pair):
            lines.append(
                f"{found.title}: the difference of {name} from {found.reference}, "
                f"{each.value:+.3g}, is not above the errors of the solver, "
                f"{pair[0]:.2g} and {pair[1]:.2g}: evaluate with more --ode_steps"
            )
    return lines
