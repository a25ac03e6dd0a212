"""Reports the solver errors of likelihoods by the probability-flow ODE."""

from collections.abc import Sequence

from experiments.comparison.paired import Comparison
from experiments.comparison.run_record import Group, RunRecord
from experiments.evaluation import results


def _has_ode(run: RunRecord) -> bool:
    return run.likelihood is not None and "ode" in run.likelihood


def within(group: Group) -> float | None:
    """Returns the largest solver error in a group; None where one is unknown."""
    runs = [run for run in group.evaluated if _has_ode(run)]
    errors = [run.likelihood["solver_error"] for run in runs]
    if not errors or None in errors:
        return None
    return max(map(results.solver_bound, errors))


def notes(groups: Sequence[Group], likelihoods: Comparison) -> list[str]:
    """Lists unknown solver errors, and differences no larger than the solver errors.

    Args:
      groups: that are compared.
      likelihoods: the likelihoods by the ODE.
    """
    errors = {group.name: within(group) for group in groups}
    unknown = [
        group.name
        for group in groups
        if any(map(_has_ode, group.runs)) and errors[group.name] is None
    ]
    lines = []
    if unknown:
        lines.append(
            f"{likelihoods.title}: the error of the solver is not known of "
            f"{', '.join(unknown)}, with an evaluation of fewer than 16 examples or "
            "with numbers that are not finite"
        )
    for name, each in likelihoods.differences.items():
        pair = errors[name], errors[likelihoods.reference]
        significant = not each.low <= 0 <= each.high
        if significant and None not in pair and abs(each.value) <= sum(pair):
            lines.append(
                f"{likelihoods.title}: the difference of {name} from "
                f"{likelihoods.reference}, {each.value:+.3g}, is not above the errors "
                f"of the solver, {pair[0]:.2g} and {pair[1]:.2g}: evaluate with more "
                "--ode_steps"
            )
    return lines
