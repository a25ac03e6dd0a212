"""Numbers that are not finite, no counts or of another shape: one sentence each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    couplings,
    distillation,
    grids,
    guidance,
    inverse,
    likelihood,
    losses,
    metrics,
    predictions,
    samplers,
    schedules,
)
from diffusionflow.distillation import curricula
from diffusionflow.inverse import operators
from diffusionflow.inverse.exact import posterior
from diffusionflow.inverse.particles import Particles, resample

FLOW, KEY = schedules.FlowMatching(), jax.random.key(0)
NAN, INF = float("nan"), float("inf")
LAW = analytic.gaussian(np.zeros(2, np.float32), 1.0)
DENOISE = LAW.denoise_fn(schedule=FLOW)
Z, T = np.ones((3, 2), np.float32), np.full(3, 0.5, np.float32)
EIGHT_BITS = np.full((3, 2), 200, np.uint8)
OPERATOR = operators.masking(np.array([True, False]))
Y = np.array([2.0, 0.0], np.float32)
PAIR = predictions.Denoised(Z, Z)
GRID = np.linspace(1, 0, 5)


def measured(y=Y, std=0.5):
    return inverse.Measurement(OPERATOR, y, std)


def plan(sampler):
    return samplers.plan(sampler, GRID, schedule=FLOW)


def guided(fn=guidance.projected, **settings):
    made = fn(DENOISE, DENOISE, schedule=FLOW, **{"scale": 2.0} | settings)
    return jax.eval_shape(made, Z, T)


def jump(fn=distillation.jump, p=Z, z=Z, t=0.5, **settings):
    return fn(p, z=z, t=t, s=0.2, kind="u", schedule=FLOW, **settings)


def matching(**settings):
    return distillation.matching_loss(Z, Z, Z, **settings)


def smc(**settings):
    given = dict(z=Z, measurement=measured()) | settings
    z, measurement = given.pop("z"), given.pop("measurement")
    return inverse.twisted_smc(
        KEY, DENOISE, z, GRID, measurement, schedule=FLOW, **given
    )


def pigdm(**settings):
    return inverse.pigdm(DENOISE, measured(), schedule=FLOW, **settings)


def sinkhorn(**settings):
    return couplings.sinkhorn_plan(jnp.eye(2), **{"reg": 1.0} | settings)


def weighted(weight_fn):
    net, times = lambda z, t, s: z, (T, T / 2, T / 4)
    return distillation.semigroup_loss(
        net, Z, *times, kind="u", schedule=FLOW, weight_fn=weight_fn
    )


def fit(data=Z, **settings):
    return couplings.Semidiscrete.fit(KEY, data, num_steps=1, batch_size=1, **settings)


def paint(x=Y, **settings):
    sampler = inverse.RePaint(x, np.array([True, False]), **settings)
    run = lambda z: samplers.sample(
        KEY, DENOISE, z, GRID, sampler=sampler, schedule=FLOW
    )
    return jax.eval_shape(run, Z)


# what is given, and what is said of it
COUNTS = {
    "moves without an end": (lambda: paint(resamplings=INF), "resamplings=inf: must"),
    "half a move": (lambda: paint(resamplings=2.5), "resamplings=2.5: .* whole"),
    "half a round": (lambda: samplers.Restart(repeats=0.5), "repeats=0.5: .* whole"),
    "many rounds": (lambda: samplers.Restart(repeats=10**9), "at most 10,000"),
    "many corrections": (lambda: samplers.Langevin(steps=10**6), "at most 1,000"),
    "an order": (lambda: samplers.SASolver(order=2.0), "order=2.0: must be 1, 2 or 3"),
    "a word": (lambda: pigdm(num_iterations="3"), "num_iterations='3': must be"),
    "many iterations": (lambda: pigdm(num_iterations=10**6), "and at most 1,000"),
    "no iterations": (lambda: smc(num_iterations=0), "num_iterations=0: must be"),
    "a group": (lambda: couplings.Assignment(group=2.5), "group=2.5: .* whole"),
    "steps of a grid": (lambda: grids.uniform(2.5), "num_steps=2.5: .* whole"),
    "axes of a batch": (lambda: guided(batch_ndim=1.5), "batch_ndim=1.5: .* whole"),
    "too many axes": (
        lambda: distillation.squared(Z, Z, 3),
        "batch_ndim=3: must be 0, 1 or 2",
    ),
    "the last axis": (lambda: losses.prior_kl(Z, schedule=FLOW, batch_ndim=-1), "=-1"),
    "axes of an encoding": (
        lambda: likelihood.encode(KEY, DENOISE, Z, schedule=FLOW, batch_ndim=-1),
        "batch_ndim=-1: must be 0, 1 or 2",
    ),
    "axes of a solution": (
        lambda: samplers.solve(DENOISE, Z, 1.0, 0.0, schedule=FLOW, batch_ndim=-1),
        "batch_ndim=-1: must be 0, 1 or 2",
    ),
    "a tableau": (lambda: samplers.RungeKutta(method=5), "method=5: must be"),
}
NOT_FINITE = {
    "a scale": (lambda: guided(scale=NAN), "scale=nan: must be finite"),
    "another scale": (lambda: guided(guidance.zero_star, scale=INF), "scale=inf"),
    "of classifiers": (
        lambda: guidance.classifier_free(DENOISE, DENOISE, scale=INF),
        "scale=inf: must be finite",
    ),
    "a step's scale": (
        lambda: guidance.plus_plus(DENOISE, DENOISE, scale=NAN),
        "scale=nan: must be finite",
    ),
    "a band": (
        lambda: guidance.frequency_decoupled(DENOISE, DENOISE, scales=(1.0, NAN)),
        "scales=nan: must be finite",
    ),
    "a deviation": (lambda: measured(std=INF), "std=inf: must be at least 0 and fin"),
    "a noise": (lambda: samplers.SASolver(tau=INF), "tau=inf: must be at least 0 and"),
    "a level": (lambda: samplers.Restart(rho_max=INF), "rho_max=inf: must be finite"),
    "a kernel": (lambda: operators.blurring([NAN], (4, 1)), "kernel: 1 of 1 numbers"),
    "costs": (lambda: couplings.assign(jnp.array([[INF]])), "cost: 1 of 1 entries"),
    "data": (lambda: fit(Z * NAN), "data: 3 of 3 rows are not finite"),
    "weights": (lambda: fit(weights=np.array([1, INF, 1])), "weights: inf of row 1"),
    "a probability": (
        lambda: curricula.level_pairs(KEY, (1,), times=GRID, probability=[NAN] * 4),
        "probability from nan",
    ),
}
SHAPES = {
    "a word for a level": (lambda: samplers.Restart(rho_max="1"), "rho_max='1'"),
    "a factor of each feature": (
        lambda: guided(parallel=np.zeros(2)),
        "parallel of shape .2,. does not fit",
    ),
    "a number for bands": (
        lambda: guidance.frequency_decoupled(DENOISE, DENOISE, scales=2.0),
        "scales=2.0: must be a sequence",
    ),
    "a deviation of each value": (
        lambda: measured(std=np.ones(2)).variance(Z),
        r"std of shape \(2,\): must be one number",
    ),
    "a strength of each step": (
        lambda: plan(samplers.Langevin(snr=np.ones((4, 1)))),
        r"snr of shape \(4, 1\): must be a scalar or \(4,\)",
    ),
    "another event": (lambda: OPERATOR(Z[:, :1]), r"shape \(3, 1\): must end in"),
    "an event without sizes": (
        lambda: operators.averaging(2, (4,)),
        "the channels are",
    ),
    "several measurements": (lambda: posterior(LAW, measured(Z)), r"y of shape \(3, 2"),
    "one particle": (lambda: smc(z=Z[0]), "must be .particles"),
    "a target": (
        lambda: distillation.squared(Z, Z[:, :1], 1),
        r"target of shape \(3, 1",
    ),
    "a ratio": (
        lambda: matching(kind="js", ratio=np.ones((3, 1))),
        r"ratio of shape \(3, 1\): must be a scalar or \(3,\)",
    ),
    "a ratio of no use": (
        lambda: matching(ratio=2.0),
        "must be left out; only the div",
    ),
    "a weight": (
        lambda: weighted(lambda t, s: jnp.ones((3, 1))),
        r"weight_fn gives shape \(3, 1\): must be",
    ),
    "one condition for all": (
        lambda: distillation.guided_source(
            PAIR, predictions.Denoised(Z[:1], Z[:1]), PAIR, scale=2.0
        ),
        r"shape \(1, 2\): must have the shape",
    ),
    "a share": (lambda: sinkhorn(rows=np.ones(2)), "rows from 1 up, of sum 2: must"),
    "a strength of each column": (lambda: sinkhorn(reg=np.ones(2)), "reg of shape"),
    "no examples": (lambda: couplings.Assignment()(None, Z[:0], Z[:0]), "one at least"),
    "a level too many": (
        lambda: curricula.level_pairs(KEY, (1,), times=GRID, probability=GRID),
        r"probability of shape \(5,\): must be \(4,\)",
    ),
}
UNITS = {
    "a measured image": (
        lambda: measured(EIGHT_BITS).residual(Z),
        "y of dtype uint8 .*: must be floating; scale it first",
    ),
    "a law of an image": (
        lambda: posterior(LAW, measured(EIGHT_BITS[0])),
        "y of dtype",
    ),
    "a known image": (lambda: paint(EIGHT_BITS), "x of dtype uint8"),
    "an image to inpaint": (
        lambda: guidance.inpaint(
            DENOISE, EIGHT_BITS, np.ones((3, 2), bool), schedule=FLOW
        )(Z, T),
        "x of dtype uint8 .*: must be floating",
    ),
    "a difference that wraps": (
        lambda: distillation.squared(EIGHT_BITS, EIGHT_BITS, 1),
        "prediction of dtype uint8",
    ),
    "a jump from an image": (lambda: jump(z=EIGHT_BITS), "z of dtype uint8"),
    "a level for a time": (lambda: jump(t=np.array([500, 1, 2])), "t of dtype int64"),
    "a level for a traced time": (
        lambda: jax.eval_shape(lambda t: jump(t=t), np.array([500, 1, 2])),
        "t of dtype int.*: must be floating",
    ),
    "a time beyond": (lambda: jump(t=5.0), r"t=5.0: must be in \[0, 1\]"),
    "a grid of levels": (
        lambda: distillation.progressive_times(KEY, (1,), times=[1000.0, 500.0, 0.0]),
        r"must be in \[0, 1\]",
    ),
    "a grid that rises": (
        lambda: distillation.progressive_times(KEY, (1,), times=[0.0, 0.5, 1.0]),
        "must be below the one before",
    ),
    "timesteps of a solver": (
        lambda: samplers.SASolver(t_min=200, t_max=800),
        r"t_min=200: must be in \[0, 1\], not a timestep",
    ),
    "a timestep of guidance": (
        lambda: guided(guidance.zero_star, zero_from=1000),
        r"zero_from=1000: must be in \(0, 1\]",
    ),
    "a share of guidance": (
        lambda: distillation.guided_source(PAIR, PAIR, PAIR, scale=2.0, kappa=1.0),
        r"kappa=1.0: must be in \[0, 1\)",
    ),
    "levels that fall": (
        lambda: curricula.ict_probabilities(np.array([2.0, 1.0])),
        "levels or more, which rise",
    ),
    "no steps of a curriculum": (
        lambda: curricula.tangent_warmup(0, num_steps=0),
        "num_steps=0: must be positive",
    ),
    "times that turn": (
        lambda: metrics.straightness(np.ones((3, 1, 1)), [1.0, 0.0, 0.5]),
        "must fall or rise",
    ),
}
MISTAKES = {
    f"{kind}: {name}": case
    for kind, cases in dict(
        counts=COUNTS, not_finite=NOT_FINITE, shapes=SHAPES, units=UNITS
    ).items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_number_is_one_sentence(name):
    call, said = MISTAKES[name]
    with pytest.raises(ValueError, match=said):
        call()


def test_particles_without_weights_are_no_samples():
    """One that is not finite leaves no shares: NaN, not some of the others."""
    weights = jnp.log(jnp.array([0.5, NAN, 0.5]))
    found = resample(KEY, Particles(jnp.asarray(Z), weights, None, None))
    assert found.shape == Z.shape and np.isnan(found).all()
