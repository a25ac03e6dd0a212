"""What an evaluation computes, from the flags of `evaluate`."""

from collections.abc import Mapping
from typing import Any

from experiments.evaluation import evaluate, likelihoods, sample_quality


def from_values(values: Mapping[str, Any]) -> evaluate.Request:
    """Makes the request of an evaluation.

    Args:
      values: of the flags, by name.
    """

    def settings(kind: Any, **known: Any) -> Any:
        return kind(**{k: values[k] for k in kind._fields if k in values} | known)

    samples = settings(
        sample_quality.Settings,
        samplers=tuple(values["sampler"]),
        features=tuple(values["features"]),
    )
    request: evaluate.Request = settings(
        evaluate.Request,
        likelihood=settings(likelihoods.Settings),
        samples=samples,
        leave_out=tuple(values["leave_out"]),
    )
    return request
