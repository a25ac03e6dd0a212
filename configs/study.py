"""Six recipes on the digits, to be compared: `configs/study.py:RECIPE` is one of them.

    python -m experiments.study --study=configs/study.py --workdir=runs/study

trains, evaluates and compares all of them with five seeds each. One alone:

    python -m experiments.train --config=configs/study.py:edm --workdir=runs/study_edm

The network is small and the same for all, as are optimizer, steps, and the sampler and
its noise levels, by which the samples are compared; only the objective differs.
What was measured is in `docs/study.md`.
"""

import ml_collections

from configs import (
    digits,
    digits_ddpm,
    digits_edm,
    digits_sd3,
    digits_vcosine,
)

OBJECTIVES = {
    "flow_matching": digits.get_config().objective,
    "v_cosine": digits_vcosine.get_config().objective,
    "edm": digits_edm.get_config().objective,
    "eps_linear": digits_ddpm.get_config().objective,
    "sd3": digits_sd3.get_config().objective,
    "x": dict(
        schedule="flow_matching",
        kind="x",
        weighting="mse(kind='x')",
        times="stratified(uniform)",
        proposal="",
        coupling="",
    ),
}


def get_config(recipe: str = "flow_matching") -> ml_collections.ConfigDict:
    """The experiment with one recipe: plain values."""
    if recipe not in OBJECTIVES:
        raise ValueError(f"no recipe {recipe!r}; there are {', '.join(OBJECTIVES)}")
    config = digits.get_config()
    config.num_steps = 1_000
    config.batch_size = 64
    config.objective = OBJECTIVES[recipe]
    config.network.channels = 16
    config.samples.every = 0
    config.sampler = dict(name="ddim", num_steps=40, grid="karras(rho=7.0)")
    config.checkpoint.keep = 1
    return config


def get_study() -> ml_collections.ConfigDict:
    """What is trained, and how each run is evaluated: flags of experiments.evaluate."""
    study = ml_collections.ConfigDict()
    study.recipes = tuple(OBJECTIVES)
    study.seeds = (0, 1, 2, 3, 4)
    study.likelihood = dict(num_times=32, num_draws=2, ode_steps=30, num_probes=2)
    study.samples = dict(
        samplers=tuple(f"ddim@{steps}@karras(rho=7.0)" for steps in (5, 10, 20, 40)),
        num_samples=1_000,
    )
    return study
