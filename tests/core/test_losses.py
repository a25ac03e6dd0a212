"""Losses by their definition, of batches, masks and proposals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    losses,
    objectives,
    predictions,
    random,
    schedules,
    times,
    weightings,
)
from tests.helpers.kinds import KINDS, SCHEDULES, case, exact
from tests.helpers.loss_cases import FLOW, net
from tests.helpers.parametrize import in_turn


@pytest.mark.pinned
@in_turn(kind=KINDS, schedule=SCHEDULES)
def test_plain_losses_are_their_definition(schedule, kind):
    t = np.array([0.1, 0.4, 0.9])
    x, eps, z, levels = case(schedule, t, (3, 2, 3))
    error = np.sin(z) * (1 + t)[:, None, None] - exact(kind, x, eps, *levels)
    with jax.enable_x64(True):
        loss = losses.kind_loss(net, x, t, eps, kind=kind, schedule=schedule)
        np.testing.assert_allclose(loss, (error**2).mean((1, 2)), rtol=1e-9)
        named = {
            "dz_dt": losses.cfm_loss,
            "eps": losses.ddpm_loss,
            "score": losses.dsm_loss,
        }
        if str(kind) in named:
            same = named[str(kind)](net, x, t, eps, schedule=schedule)
            np.testing.assert_array_equal(loss, same)


@pytest.mark.pinned
@in_turn(kind=KINDS, weighted=("x", "eps", "v", "u"))
def test_objective_terms_weigh_the_error_of_another_kind(kind, weighted):
    """The loss equals the error of the converted prediction, whatever is predicted."""
    t = np.array([0.1, 0.4, 0.9])
    for schedule in SCHEDULES:
        x, eps, z, levels = case(schedule, t, (3, 2, 3))
        objective = objectives.Objective(
            schedule, kind, weightings.Mse(weighted), times.Uniform()
        )
        with jax.enable_x64(True):
            terms = losses.objective_terms(
                None, net, x, objective=objective, t=t, eps=eps
            )
            errors = {}
            for target in (weighted, "eps"):
                moved = predictions.convert(
                    net(z, t), source=kind, target=target, z=z, t=t, schedule=schedule
                )
                wrong = (np.asarray(moved) - exact(target, x, eps, *levels)) ** 2
                errors[target] = wrong.mean((1, 2))
            logsnr = schedule.logsnr(t)
        np.testing.assert_allclose(terms.loss, errors[weighted], rtol=1e-8)
        np.testing.assert_allclose(terms.eps_mse, errors["eps"], rtol=1e-8)
        np.testing.assert_allclose(terms.logsnr, logsnr)


@pytest.mark.ci
def test_the_exact_denoiser_has_the_irreducible_error():
    """Flow matching on N(0, v): E loss = pi / 2 sqrt(v) (math of FM against CFM)."""
    variance, count = 0.37, 200_000
    data = analytic.gaussian(np.zeros(1), variance)
    key, data_key = jax.random.split(jax.random.key(0))
    x = data.sample(data_key, (count,))

    def predict_fn(z, t):
        denoised = data.denoise_fn(schedule=FLOW)(z, t)
        return predictions.from_denoised(denoised, kind="u", t=t, schedule=FLOW)

    loss = losses.objective_loss(
        key, predict_fn, x, objective=objectives.flow_matching()
    )
    error = np.std(loss) / np.sqrt(count)
    np.testing.assert_allclose(
        loss.mean(), np.pi / 2 * np.sqrt(variance), atol=4 * error
    )


@pytest.mark.ci
def test_a_proposal_leaves_the_mean_and_is_importance_weighted():
    base = objectives.Objective(
        FLOW, "u", weightings.Mse("u"), times.LogitNormal(0.3, 0.8)
    )
    proposed = objectives.Objective(
        FLOW, "u", base.weighting, base.times, proposal=times.Uniform()
    )
    x = jax.random.normal(jax.random.key(1), (100_000, 1))
    plain = losses.objective_terms(jax.random.key(2), net, x, objective=base)
    moved = losses.objective_terms(jax.random.key(3), net, x, objective=proposed)
    np.testing.assert_array_equal(plain.importance, 1)
    assert abs(moved.t.mean() - 0.5) < 0.01 < abs(plain.t.mean() - 0.5)
    spread = np.hypot(np.std(plain.loss), np.std(moved.loss)) / np.sqrt(len(x))
    assert abs(plain.loss.mean() - moved.loss.mean()) < 4 * spread


@pytest.mark.parametrize("kind", ["x", "u", "v", "eps"])
def test_loss_and_gradient_are_finite_at_both_ends(kind):
    t = np.array([0.0, 1e-7, 1 - 1e-7, 1.0], np.float32)
    x = np.ones((4, 3), np.float32)
    for schedule in SCHEDULES:
        objective = objectives.Objective(
            schedule, kind, weightings.Mse(kind), times.Uniform()
        )

        def total(scale, objective=objective):
            predict_fn = lambda z, t: scale * z
            terms = losses.objective_terms(
                None, predict_fn, x, objective=objective, t=t, eps=2 * x
            )
            return terms.loss.sum()

        value, slope = jax.value_and_grad(total)(0.5)
        assert np.isfinite(value) and np.isfinite(slope)


@pytest.mark.ci
def test_batches_of_one_two_three_and_the_equal_axes_trap():
    objective = objectives.flow_matching()
    jitted = jax.jit(losses.objective_loss, static_argnums=1)
    for batch in (1, 2, 3):
        x = np.ones((batch, 3, 3, 3), np.float32)
        loss = jitted(jax.random.key(0), net, x, objective=objective)
        assert loss.shape == (batch,)
    keys = random.example_keys(0, np.arange(3))
    x = jax.random.normal(jax.random.key(5), (3, 3, 3, 3))
    batched = losses.objective_loss(keys, net, x, objective=objective)
    single = lambda key, x: losses.objective_loss(
        key, net, x, objective=objective, batch_ndim=0
    )
    one_by_one = [single(key, example) for key, example in zip(keys, x, strict=True)]
    np.testing.assert_allclose(batched, one_by_one, rtol=1e-5)
    mapped = jax.jit(jax.vmap(single))
    np.testing.assert_allclose(batched, mapped(keys, x), rtol=1e-5)
    np.testing.assert_allclose(
        batched, jitted(keys, net, x, objective=objective), rtol=1e-5
    )


def test_bad_shapes_and_missing_keys_raise():
    x = np.ones((4, 2), np.float32)
    objective = objectives.flow_matching()
    with pytest.raises(ValueError, match="key=None: must be .* both t and eps"):
        losses.objective_loss(None, net, x, objective=objective, t=np.full(4, 0.5))
    with pytest.raises(ValueError, match="must be scalar or"):
        losses.objective_loss(
            None, net, x, objective=objective, t=np.full((4, 1), 0.5), eps=x
        )
    with pytest.raises(ValueError, match=r"eps.*\(4, 1\).*\(4, 2\)"):
        losses.objective_loss(
            None, net, x, objective=objective, t=np.full(4, 0.5), eps=x[:, :1]
        )
    with pytest.raises(ValueError, match=r"\(4, 1\): must be \(4, 2\)"):
        losses.cfm_loss(lambda z, t: z[:, :1], x, np.full(4, 0.5), x, schedule=FLOW)


MASK = np.arange(6)[None, :, None] < np.array([4, 6, 1])[:, None, None]
MASKED = {
    "kind": functools.partial(losses.kind_loss, kind="v"),
    "cfm": losses.cfm_loss,
    "ddpm": losses.ddpm_loss,
    "dsm": losses.dsm_loss,
    "fm": lambda fn, x, t, eps, **settings: losses.fm_loss(
        fn, lambda z, t: 2 * z, x, t, eps, **settings
    ),
}


def objective_losses(fn, x, t, eps, *, schedule, mask=None):
    """The loss and the error of eps of an objective whose network predicts a score."""
    objective = objectives.Objective(
        schedule, "score", weightings.SoftMinSNR(), times.Uniform()
    )
    terms = losses.objective_terms(
        None, fn, x, objective=objective, t=t, eps=eps, mask=mask
    )
    return jnp.stack([terms.loss, terms.eps_mse], axis=-1)


MASKED["objective"] = objective_losses


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_loss_is_the_loss_of_the_part(name):
    """Of series of 4, 6 and 1 values of the 6; the net acts on each value alone."""
    x, eps = np.random.RandomState(0).standard_normal((2, 3, 6, 2)).astype("f4")
    t, fn = np.array([0.1, 0.5, 0.9], np.float32), MASKED[name]
    found = fn(net, x, t, eps, schedule=FLOW, mask=MASK)
    for i, size in enumerate((4, 6, 1)):
        part = fn(net, x[i, :size], t[i], eps[i, :size], schedule=FLOW)
        np.testing.assert_allclose(found[i], part, rtol=1e-5)
    whole = np.broadcast_to(MASK, x.shape)
    jitted = jax.jit(lambda x, mask: fn(net, x, t, eps, schedule=FLOW, mask=mask))
    np.testing.assert_allclose(jitted(x, whole), found, rtol=1e-5)
    gradient = jax.grad(lambda x: jitted(x, whole).sum())(x)
    assert (gradient[whole] != 0).all() and (gradient[~whole] == 0).all()


def test_a_mask_that_cannot_be_is_refused():
    x, t = np.ones((3, 6, 2), np.float32), np.full(3, 0.5, np.float32)
    loss_fn = functools.partial(losses.cfm_loss, net, x, t, x, schedule=FLOW)
    for mask in (MASK[..., 0], MASK[:2], MASK[:, :3], MASK.astype(np.float32)):
        said = r"must be an array of bool, of the shape \(3, 6, 2\) of x"
        with pytest.raises(ValueError, match=said):
            loss_fn(mask=mask)
    empty = MASK & (np.arange(3) != 1)[:, None, None]
    with pytest.raises(ValueError, match="mask is False for a whole example"):
        loss_fn(mask=empty)
    traced = jax.jit(lambda mask: loss_fn(mask=mask))(empty)
    np.testing.assert_array_equal(np.isnan(traced), [False, True, False])


def test_fm_loss_takes_a_field_or_a_denoiser_and_vanishes_on_the_exact_one():
    with jax.enable_x64(True):
        data = analytic.gaussian(np.array([0.5, -1.0]), 0.3)
    t = np.array([0.1, 0.4, 0.9])
    for schedule in SCHEDULES:
        oracle = data.denoise_fn(schedule=schedule)
        field = lambda z, t, oracle=oracle, schedule=schedule: (
            predictions.from_denoised(
                oracle(z, t), kind="dz_dt", t=t, schedule=schedule
            )
        )
        x, eps, *_ = case(schedule, t, (3, 2))
        with jax.enable_x64(True):
            exact = losses.fm_loss(field, oracle, x, t, eps, schedule=schedule)
            one = losses.fm_loss(net, oracle, x, t, eps, schedule=schedule)
            two = losses.fm_loss(net, field, x, t, eps, schedule=schedule)
        np.testing.assert_allclose(exact, 0, atol=1e-28)
        np.testing.assert_array_equal(one, two)
        assert (np.asarray(one) > 0).all()


def test_log_variance_is_optimal_at_the_log_of_the_expected_loss():
    """Minimised over s by gradient: s(level) = log E[loss | level], on N(0, v)."""
    variance, levels = 0.37, np.array([0.1, 0.3, 0.5, 0.8])
    exact = variance / ((1 - levels) ** 2 * variance + levels**2)  # of u, on N(0, v)
    with jax.enable_x64(True):
        data = analytic.gaussian(np.zeros(1), variance)
    nodes, mass = np.polynomial.hermite_e.hermegauss(8)
    mass = mass / mass.sum()
    x, eps, t = (
        grid.ravel() for grid in np.meshgrid(np.sqrt(variance) * nodes, nodes, levels)
    )
    weights = np.multiply.outer(mass, mass)[..., None].repeat(len(levels), 2).ravel()
    denoise_fn = data.denoise_fn(schedule=FLOW)
    predict_fn = lambda z, t: predictions.from_denoised(
        denoise_fn(z, t), kind="u", t=t, schedule=FLOW
    )

    def mean(s):
        seen = lambda level: s[jnp.searchsorted(levels + 0.01, level)]
        loss = losses.objective_loss(
            None,
            predict_fn,
            x[:, None],
            objective=objectives.flow_matching(),
            t=t,
            eps=eps[:, None],
            log_variance_fn=seen,
        )
        return (loss * weights).sum()

    with jax.enable_x64(True):
        best = np.log(exact)
        both = jax.jit(jax.value_and_grad(mean))
        value, slope = both(best)
        np.testing.assert_allclose(slope, 0, atol=1e-12)
        np.testing.assert_allclose(value, (1 + best).sum(), rtol=1e-12)
        assert (both(best + 0.1)[1] > 0.05).all()


def test_log_variance_is_inside_the_importance_weight():
    objective = objectives.Objective(
        FLOW, "u", weightings.Mse("u"), times.LogitNormal(), times.Uniform()
    )
    x, t = np.ones((3, 2), np.float32), np.array([0.2, 0.5, 0.9], np.float32)
    arguments = dict(objective=objective, t=t, eps=2 * x)
    plain = losses.objective_terms(None, net, x, **arguments)
    seen = []
    terms = losses.objective_terms(
        None, net, x, log_variance_fn=lambda u: seen.append(u) or 3 * u, **arguments
    )
    np.testing.assert_allclose(seen[0], t)
    expected = plain.loss * np.exp(-3 * t) + plain.importance * 3 * t
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-6)
    np.testing.assert_array_equal(terms.eps_mse, plain.eps_mse)
    with pytest.raises(AssertionError):
        losses.uncertainty_loss(plain.loss, plain.loss[:, None])


def test_times_outside_0_to_1_are_refused():
    """An index 0..999 would otherwise be taken for a time."""
    x = np.ones((2, 3), np.float32)
    schedule = schedules.Discrete.linear_betas()
    for t in ([500.0, 0.5], [0.5, -0.1], [np.nan, 0.5]):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\].*i / T"):
            losses.ddpm_loss(
                lambda z, t: z, x, np.array(t, np.float32), x, schedule=schedule
            )


def test_importance_is_0_where_neither_density_is():
    window = times.Uniform(0.2, 0.8)
    objective = dataclasses.replace(
        objectives.flow_matching(), times=window, proposal=window
    )
    x = np.ones((2, 3), np.float32)
    terms = losses.objective_terms(
        None,
        lambda z, t: z,
        x,
        objective=objective,
        t=np.array([0.1, 0.5], np.float32),
        eps=x,
    )
    np.testing.assert_array_equal(terms.importance, [0, 1])
    assert np.isfinite(terms.loss).all()
