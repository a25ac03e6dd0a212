"""Few-step methods at the exact flow map of Gaussian data: `config/methods.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    distillation,
    losses,
    objectives,
    predictions,
    random,
    schedules,
    times,
    weightings,
)
from experiments.config import methods
from experiments.config.methods import flow_maps, halving, pairs
from tests.helpers.fewstep import exact_predict_fn, gaussian_map

COUNT, MEAN, VARIANCE = 64, 0.4, 0.37
DATA = analytic.gaussian(jnp.full((3,), MEAN), VARIANCE)
OBJECTIVES = {
    "flow": objectives.flow_matching(),
    "cosine": objectives.Objective(
        schedules.Cosine(), "v", weightings.Mse("v"), times.Uniform()
    ),
}
KEYS = random.example_keys(jax.random.key(0), jnp.arange(COUNT))
EPS = jax.random.normal(jax.random.key(1), (COUNT, 3))
X = MEAN + np.sqrt(VARIANCE) * jax.random.normal(jax.random.key(2), (COUNT, 3))


@functools.cache
def networks(name, teacher=True):
    """The exact flow map as student and average, and the exact denoiser as teacher."""
    objective = OBJECTIVES[name]
    settings = dict(kind=objective.kind, schedule=objective.schedule)
    jump = exact_predict_fn(mean=MEAN, v=VARIANCE, **settings)
    denoise_fn = DATA.denoise_fn(schedule=objective.schedule)

    def student(z, t, s):
        """The jump is a ratio 0 / 0 near the diagonal, where it is the prediction."""
        now = predictions.from_denoised(denoise_fn(z, t), t=t, **settings)
        apart = t - s > 1e-3
        jumped = jump(z, t, jnp.where(apart, s, t / 2))
        return jnp.where(apart[:, None], jumped, now)

    return methods.Networks(student, student, denoise_fn if teacher else None)


def terms(method, name, *, teacher=True, stage=0, progress=0.0, x=X, scale=1.0):
    """The terms of a batch, with the student's prediction multiplied by `scale`."""

    def run(keys, x, eps):
        given = networks(name, teacher)
        student = lambda z, t, s: scale * given.student(z, t, s)
        batch = methods.Batch(keys, x, eps, jnp.int32(stage), jnp.float32(progress))
        return method.terms(given._replace(student=student), batch, OBJECTIVES[name])

    return jax.jit(run)(KEYS, x, EPS)


EXACT = {
    "meanflow": flow_maps.MeanFlow(share=0.25),
    "meanflow, adaptive": flow_maps.MeanFlow(share=0.25, power=1.0),
    "meanflow, own tangent": flow_maps.MeanFlow(share=0.25, tangent="own"),
}


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:.*below 64")
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("method", EXACT.values(), ids=EXACT)
def test_the_eulerian_loss_of_the_teacher_is_0_at_its_flow_map(method, name):
    """But for pairs of times so near that the test's map is the diagonal."""
    loss = terms(method, name).loss
    assert loss.shape == (COUNT,)
    assert np.sort(loss)[-3] < 1e-6
    assert terms(method, name, scale=1.1).loss.min() > 1e-6


@pytest.mark.ci
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    "method", [flow_maps.Lagrangian(), flow_maps.Shortcut()], ids=str
)
def test_half_of_a_batch_is_the_objective_and_half_is_0_at_the_flow_map(method, name):
    found = terms(method, name, teacher=isinstance(method, flow_maps.Lagrangian))
    own, rest = np.asarray(found.loss[1::2]), np.asarray(found.loss[::2])
    assert np.sort(rest)[-3] < 1e-9
    objective, student = OBJECTIVES[name], networks(name).student
    expected = losses.objective_terms(
        KEYS[1::2],
        lambda z, t: student(z, t, t),
        X[1::2],
        objective=objective,
        eps=EPS[1::2],
    )
    np.testing.assert_allclose(own, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(found.t[1::2], expected.t, rtol=1e-6)
    scaled = np.asarray(terms(method, name, scale=1.1).loss[::2])
    assert np.median(scaled) > 1e-6


@pytest.mark.parametrize(("share", "on"), [(0.25, [3, 7]), (0.5, [1, 3, 5, 7])])
def test_the_diagonals_share_is_spread_over_the_batch(share, on):
    places, others = flow_maps.spread(8, share)
    assert places.tolist() == on
    assert sorted([*places, *others]) == [*range(8)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_step_is_0_at_the_flow_map_of_its_pairs(name):
    schedule = OBJECTIVES[name].schedule
    ones = jnp.ones(COUNT)
    x = gaussian_map(schedule, MEAN, VARIANCE)(EPS, ones, 0 * ones)
    assert terms(pairs.OneStep(), name, x=x, teacher=False).loss.max() < 1e-9
    wrong = terms(pairs.OneStep(), name, teacher=False).loss
    np.testing.assert_allclose(wrong, ((x - X) ** 2).mean(1), rtol=1e-4)


def test_reflow_is_the_objective_with_the_noise_of_the_pairs():
    found = terms(pairs.Reflow(), "flow", teacher=False)
    expected = losses.objective_terms(
        KEYS,
        lambda z, t: networks("flow").student(z, t, t),
        X,
        objective=OBJECTIVES["flow"],
        eps=EPS,
    )
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


def two_steps(name, number):
    """The network whose step t -> t - 1/number is two of the teacher."""
    objective = OBJECTIVES[name]
    settings = dict(kind=objective.kind, schedule=objective.schedule)
    denoise_fn = DATA.denoise_fn(schedule=objective.schedule)
    predict = lambda z, t: predictions.from_denoised(denoise_fn(z, t), t=t, **settings)

    def student(z, t, s):
        m = t - 0.5 / number
        z_m = distillation.jump(predict(z, t), z=z, t=t, s=m, **settings)
        z_s = distillation.jump(predict(z_m, m), z=z_m, t=m, s=s, **settings)
        return distillation.inverse_jump(z_s, z=z, t=t, s=s, **settings)

    return student


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("stage", [0, 2])
def test_a_stage_of_progressive_distillation_is_0_at_two_steps_of_its_teacher(
    name, stage
):
    method = halving.Progressive(first=16, last=1)
    assert method.num_stages == 4
    number = 16 / 2 ** (stage + 1)

    def run(keys, x, eps):
        given = networks(name)._replace(student=two_steps(name, number))
        batch = methods.Batch(keys, x, eps, jnp.int32(stage), jnp.float32(0))
        return method.terms(given, batch, OBJECTIVES[name])

    found = jax.jit(run)(KEYS, X, EPS)
    assert found.loss.max() < 1e-6
    grid = np.round(np.asarray(found.t) * number, 4)
    assert set(grid) == set(np.arange(1.0, number + 1))  # pure noise is among them
    assert terms(method, name, stage=stage).loss.max() > 1e-5  # exact is not DDIM


def test_the_levels_of_a_consistency_model_double():
    method = halving.Consistency(first=2, last=8)
    for progress, levels in ((0.0, 2), (0.34, 4), (0.99, 8)):
        found = terms(method, "flow", teacher=False, progress=progress)
        assert set(np.round(np.asarray(found.t) * levels, 4)) == set(
            np.arange(1.0, levels + 1)
        )


def test_a_consistency_model_is_distilled_where_steps_are_short():
    """At the flow map what is left is the error of one DDIM step."""
    errors = [
        float(terms(halving.Consistency(n, 2 * n), "flow").loss.mean())
        for n in (16, 64)
    ]
    assert errors[1] < errors[0] / 32  # of second order, squared
    assert errors[1] < 1e-6


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_meanflow_learns_guidance_of_its_own_predictions(kappa):
    """Trained on targets that are right in the mean, at the map of the guided velocity.

    With s = t throughout the target is `guided_source`. It is regressed on pairs, whose
    mean given z is the conditional velocity; here each pair is that mean itself.
    """
    flow, scale = OBJECTIVES["flow"], 2.0
    settings = dict(kind="u", schedule=flow.schedule)
    with_label = DATA.denoise_fn(schedule=flow.schedule)
    without = analytic.gaussian(jnp.zeros(3), 1.0).denoise_fn(schedule=flow.schedule)
    predict = lambda fn, z, t: predictions.from_denoised(fn(z, t), t=t, **settings)
    both = lambda z, t: (predict(with_label, z, t), predict(without, z, t))
    guided = lambda z, t: scale * both(z, t)[0] + (1 - scale) * both(z, t)[1]
    null = lambda z, t, s: predict(without, z, t)
    t = jnp.full(COUNT, 0.6)
    z = 0.4 * X + 0.6 * EPS
    mean = with_label(z, t)
    method = flow_maps.MeanFlow(share=0.5, kappa=kappa)

    def source(student, scales):
        given = methods.Networks(student, student, None, null)
        batch = methods.Batch(
            KEYS, mean.x, mean.eps, jnp.int32(0), jnp.float32(0), scales
        )
        found = method._source(given, batch, z, t, flow)
        return found.eps - found.x

    scales = jnp.where(jnp.arange(COUNT) % 2 == 0, scale, 1.0)
    student = lambda z, t, s: jnp.where(
        (scales == 1)[:, None], predict(with_label, z, t), guided(z, t)
    )
    found = jax.jit(source, static_argnums=0)(student, scales)
    np.testing.assert_allclose(found, student(z, t, t), atol=2e-6)
    assert np.abs(found - predict(with_label, z, t))[::2].max() > 0.1


WRONG = {
    "kappa": lambda: flow_maps.MeanFlow(kappa=1.0),
    "share": lambda: flow_maps.MeanFlow(share=1.0),
    "share=0": lambda: flow_maps.Lagrangian(share=0.0),
    "share=1": lambda: flow_maps.Shortcut(share=1),
    "tangent": lambda: flow_maps.MeanFlow(tangent="both"),
    "power": lambda: flow_maps.MeanFlow(power=-1.0),
    "first=12": lambda: halving.Progressive(first=12),
    "first=1": lambda: halving.Progressive(first=1),
    "last=0": lambda: halving.Progressive(last=0),
    "last=24": lambda: halving.Consistency(first=8, last=24),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_with_its_bound(name):
    with pytest.raises(ValueError, match=f"{name}.*must be"):
        WRONG[name]()
