"""Divergences in nats per dimension: `losses/kl.py`."""

import jax
import numpy as np
import pytest

from diffusionflow import (
    losses,
    predictions,
    schedules,
)
from tests.helpers import oracles
from tests.helpers.kinds import SCHEDULES, case
from tests.helpers.loss_cases import FLOW, net
from tests.helpers.parametrize import in_turn


def gaussian_kl(mean, variance, other_mean, other_variance):
    """KL(N(mean, variance) || N(other_mean, other_variance)), elementwise."""
    ratio = variance / other_variance
    square = (mean - other_mean) ** 2 / other_variance
    return (ratio - 1 - np.log(ratio) + square) / 2


@pytest.mark.pinned
@in_turn(schedule=SCHEDULES, kind=("x", "u"), variance=("posterior", "forward"))
def test_kl_terms_are_the_divergence_of_two_gaussians(schedule, kind, variance):
    """Against q(z_s | z_t, x) by conditioning the joint Gaussian of z_s and z_t."""
    t, s = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.45, 0.3])
    x, eps, z, levels = case(schedule, t, (3, 2, 3))
    _, _, _, (alpha_s, sigma_s, _, _) = case(schedule, s, (3, 2, 3))
    alpha, sigma = levels[:2]
    with jax.enable_x64(True):
        found = losses.kl_terms(
            net, x, t, s, eps, kind=kind, schedule=schedule, variance=variance
        )
        x_hat = predictions.convert(
            net(z, t), source=kind, target="x", z=z, t=t, schedule=schedule
        )
    gain = alpha / alpha_s  # z_t = gain z_s + noise of variance forward
    forward = sigma**2 - gain**2 * sigma_s**2
    kalman = gain * sigma_s**2 / sigma**2
    mean = lambda x: alpha_s * x + kalman * (z - alpha * x)
    narrow = sigma_s**2 - kalman * gain * sigma_s**2
    wide = narrow if variance == "posterior" else forward
    expected = gaussian_kl(mean(x), narrow, mean(np.asarray(x_hat)), wide)
    np.testing.assert_allclose(found, expected.mean((1, 2)), rtol=1e-9)


@in_turn(
    schedule={
        "flow": FLOW,
        "cosine": schedules.Cosine(),
        "zero_snr": schedules.Discrete(
            schedules.zero_terminal_snr(np.linspace(0.99, 0.02, 10))
        ),
    },
    kind=("x", "u"),
    variance=("posterior", "forward"),
)
def test_kl_terms_of_a_first_step_from_pure_noise(schedule, kind, variance):
    """At alpha_t = 0, q(z_s | z_t, x) is N(alpha_s x, sigma_s^2)."""
    x, eps, s = np.full((1, 3), 0.8), np.full((1, 3), -1.5), np.array([0.9])
    one = np.ones(1)

    def term(scale, t):
        predict_fn = lambda z, t: scale * z
        return losses.kl_terms(
            predict_fn, x, t, s, eps, kind=kind, schedule=schedule, variance=variance
        )[0]

    with jax.enable_x64(True):
        alpha, sigma = (np.asarray(level(s)) for level in levels_of(schedule))
        x_hat = {"x": 0.7, "u": 1 - 0.7}[kind] * eps
        wide = sigma**2 if variance == "posterior" else one
        expected = gaussian_kl(alpha * x, sigma**2, alpha * x_hat, wide).mean()
        np.testing.assert_allclose(term(0.7, one), expected, rtol=1e-12)
    single = jax.jit(jax.value_and_grad(lambda scale: term(scale, np.float32(one))))
    found, slope = single(0.7)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert np.isfinite(slope) and slope != 0


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_kl_terms_of_a_step_to_the_data_are_infinite(variance):
    """Where sigma_s = 0, q is a point: no Gaussian of another mean is near it."""
    x, t = np.ones((1, 2), np.float32), np.array([0.1], np.float32)
    terms = lambda s: losses.kl_terms(
        net, x, t, s, 2 * x, kind="u", schedule=SCHEDULES[0], variance=variance
    )
    assert SCHEDULES[0].sigma(0.0) == 0
    assert jax.jit(terms)(0 * t) == terms(0 * t) == np.inf
    near = terms(np.full(1, 1e-6, np.float32))
    assert np.isfinite(near) and near > terms(t / 2)


def levels_of(schedule):
    return schedule.alpha, schedule.sigma


def test_kl_terms_under_jit_are_those_outside():
    x = np.ones((3, 4), np.float32)
    t, s = np.array([0.2, 0.5, 0.9], np.float32), np.array([0.1, 0.4, 0.3], np.float32)
    terms = lambda t, s: losses.kl_terms(net, x, t, s, 2 * x, kind="v", schedule=FLOW)
    np.testing.assert_allclose(jax.jit(terms)(t, s), terms(t, s), rtol=2e-5)
    np.testing.assert_array_equal(jax.jit(terms)(t, t), 0)
    for late in (s, t):
        with pytest.raises(
            ValueError, match=r"step from t=0.2.* to s=0.2.*: s must be"
        ):
            terms(np.append(t[:1], s[1:]), np.append(t[:1], late[1:]))
    with pytest.raises(ValueError, match="unknown variance 'fixed'.*posterior"):
        losses.kl_terms(net, x, t, s, x, kind="v", schedule=FLOW, variance="fixed")


@pytest.mark.pinned
def test_prior_kl_is_the_divergence_from_the_prior():
    x = np.random.default_rng(0).normal(size=(3, 2, 3))
    for schedule in SCHEDULES:
        with jax.enable_x64(True):
            found = losses.prior_kl(x, schedule=schedule)
            alpha, sigma = (
                np.asarray(f(1.0)) for f in (schedule.alpha, schedule.sigma)
            )
        expected = gaussian_kl(alpha * x, sigma**2, 0, 1)
        np.testing.assert_allclose(found, expected.mean((1, 2)), rtol=1e-10, atol=1e-15)
    # 20 digits: v = 0.37, log-SNR -5 at the noise end of a variance preserving schedule
    x = np.full((1, 1), np.sqrt(float(oracles.VECTORS["gaussian"]["v"])))
    low = float(oracles.VECTORS["gaussian"]["lmin"])
    with jax.enable_x64(True):
        found = losses.prior_kl(x, schedule=schedules.Cosine(low, 10.0))
    expected = float(oracles.VECTORS["gaussian"]["prior_VP"])
    np.testing.assert_allclose(found, expected, rtol=1e-11)
