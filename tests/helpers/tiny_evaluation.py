"""The smallest evaluation that still has every part, and what becomes of it."""

import shutil

from experiments.evaluation import likelihoods, sample_quality
from experiments.evaluation.evaluate import Request

SAMPLES = sample_quality.Settings(
    ("ddim@2", "heun@3@cosine"), num_samples=40, num_resamples=39
)


REQUEST = Request(
    batch_size=16,
    likelihood=likelihoods.Settings(num_times=4, ode_steps=4, num_probes=2),
    samples=SAMPLES,
)


def copied(workdir, path, *names):
    """Some of what a run and its evaluation left, in another place."""
    for name in names or ("checkpoints", "evaluation", "samples"):
        shutil.copytree(workdir / name, path / name)
    return path


def reproducible(found):
    """Results without time and machine."""
    return found | {"environment": None}
