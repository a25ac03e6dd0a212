"""Published recipes: their total weights against papers and 20 digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusionflow import losses, objectives, schedules, times
from tests.helpers import oracles
from tests.helpers.objective_cases import DIGITS20, FLOW, after, recipe, total_weight

L = np.linspace(-6.0, 6.0, 25)  # log-SNRs
sech = lambda x: 1 / np.cosh(x)
sigmoid = lambda x: 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("name", DIGITS20)
def test_total_weight_against_20_digits(name):
    logsnr, expected = oracles.weights(name)
    np.testing.assert_allclose(
        total_weight(DIGITS20[name], logsnr), expected, rtol=1e-11
    )


def beta(lam):
    """Of the linear-beta schedule at log-SNR `lam`: b0^2 + 2 (b1 - b0) B, rooted."""
    return np.sqrt(0.1**2 + 2 * 19.9 * np.log1p(np.exp(-lam)))


def iddpm_tangent(lam):
    start = np.pi / 2 * 0.008 / 1.008
    return np.tan(np.arccos(np.cos(start) * np.sqrt(sigmoid(lam))))


def sub_vp(lam):
    alpha = 2 * np.exp(lam / 2) / (1 + np.sqrt(1 + 4 * np.exp(lam)))
    integral = -2 * np.log(alpha)
    rate = np.sqrt(0.1**2 + 2 * 19.9 * integral)
    return -np.expm1(-integral) / (rate * (1 + np.exp(-integral)))


def mode_density(lam, scale):
    """By inverting the published map with bisection, at log-SNR `lam`."""
    t, low, high = sigmoid(-lam / 2), np.zeros_like(lam), np.ones_like(lam)
    for _ in range(80):
        middle = (low + high) / 2
        value = 1 - middle - scale * (np.cos(np.pi * middle / 2) ** 2 - 1 + middle)
        low, high = np.where(value > t, middle, low), np.where(value > t, high, middle)
    return 1 / np.abs(1 + scale - scale * np.pi / 2 * np.sin(np.pi * middle))


reached = stats.norm(-1.2, 1.2).cdf(np.log([0.002, 80.0]))
flow_u = lambda lam: (1 + np.exp(-lam / 2)) ** 2  # u-error over eps-error
RECIPES = {
    "flow_matching": (objectives.flow_matching(), lambda lam: np.exp(-lam / 2) / 2),
    "v_cosine": (objectives.v_cosine(), lambda lam: np.exp(-lam / 2) / np.pi),
    "ddpm": (objectives.ddpm(), lambda lam: sigmoid(-lam) / beta(lam)),
    "iddpm": (
        objectives.iddpm(),
        lambda lam: 1.008 * sigmoid(-lam) / (np.pi * iddpm_tangent(lam)),
    ),
    "vdm": (objectives.vdm(), np.ones_like),
    "score_sde_vp": (
        objectives.score_sde_vp(),
        lambda lam: after * sigmoid(-lam) / beta(lam),
    ),
    "score_sde_vp, g^2": (
        objectives.score_sde_vp(likelihood=True),
        lambda lam: after * np.ones_like(lam),
    ),
    "score_sde_subvp": (
        objectives.score_sde_subvp(),
        lambda lam: after * sub_vp(lam),
    ),
    "score_sde_ve": (
        objectives.score_sde_ve(),
        lambda lam: after * np.ones_like(lam) / (2 * np.log(5000)),
    ),
    "edm": (
        objectives.edm(),
        lambda lam: (
            (1 + 4 * np.exp(-lam))
            * stats.norm(2.4, 2.4).pdf(lam)
            / (reached[1] - reached[0])
        ),
    ),
    "sd3": (
        objectives.sd3(0.3, 1.2, shift=3.0),
        lambda lam: flow_u(lam) * stats.norm(-0.6 - 2 * np.log(3), 2.4).pdf(lam),
    ),
    "sd3_mode": (
        objectives.sd3_mode(0.8),
        lambda lam: np.exp(-lam / 2) / 2 * mode_density(lam, 0.8),
    ),
    "sd3_cosmap": (
        objectives.sd3_cosmap(),
        lambda lam: flow_u(lam) * sech(lam / 2) / (2 * np.pi),
    ),
    "min_snr": (
        objectives.min_snr(),
        lambda lam: np.minimum(1, 5 * np.exp(-lam)) * sech(lam / 2) / (2 * np.pi),
    ),
    "p2": (
        objectives.p2(2.0, 0.5),
        lambda lam: (2 + np.exp(lam)) ** -0.5 * sigmoid(-lam) / beta(lam),
    ),
    "sid2": (objectives.sid2(-1.0, shift=2.0), lambda lam: sigmoid(-1 - lam)),
    "sit": (objectives.sit(), lambda lam: np.exp(-lam / 2) / 2),
    "sit gvp": (objectives.sit("gvp"), lambda lam: np.pi / 4 * np.exp(-lam / 2)),
    "sit vp": (objectives.sit("vp"), lambda lam: beta(lam) / 4),
    "sit linear eps": (
        objectives.sit("linear", "eps"),
        lambda lam: sech(lam / 4) ** 2 / 8,
    ),
    "sit gvp score": (
        objectives.sit("gvp", "score"),
        lambda lam: sech(lam / 2) / (2 * np.pi),
    ),
}


def test_every_recipe_is_in_the_table():
    assert {recipe.__name__ for recipe in objectives.RECIPES} <= set(RECIPES)
    for build in objectives.RECIPES:
        assert isinstance(build(), objectives.Objective) and "W = " in build.__doc__


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_weights_of_their_papers(name):
    objective, formula = RECIPES[name]
    np.testing.assert_allclose(total_weight(objective, L), formula(L), rtol=1e-10)


@pytest.mark.ci
def test_the_rows_of_the_table_that_are_no_recipe():
    shifted = schedules.Shifted(FLOW, 3.0)
    rows = [
        (recipe(FLOW, "u", "eps"), sech(L / 4) ** 2 / 8),
        (recipe(shifted, "u", "u"), flow_u(L) * sech((L + 2 * np.log(3)) / 4) ** 2 / 8),
        (
            recipe(shifted, "u", "v"),  # alpha = sigmoid(l / 2) on straight paths
            (sigmoid(L / 2) * (1 + np.exp(-L))) ** 2
            * sech((L + 2 * np.log(3)) / 4) ** 2
            / 8,
        ),
        (
            recipe(FLOW, "u", "u", times.UniformOn(schedules.Cosine())),
            flow_u(L) * sech(L / 2) / (2 * np.pi),
        ),
    ]
    for objective, expected in rows:
        np.testing.assert_allclose(total_weight(objective, L), expected, rtol=1e-10)
    for name, schedule in (("vp", schedules.LinearBeta()), ("fm", FLOW)):
        score = total_weight(recipe(schedule, "eps", "score"), L)
        with jax.enable_x64(True):
            t = schedule.inverse_logsnr(L)
            g2 = -np.asarray(schedule.sigma(t) ** 2 * schedule.dlogsnr_dt(t))
        np.testing.assert_allclose(score, 1 / g2, rtol=1e-10, err_msg=name)


@pytest.mark.ci
@pytest.mark.parametrize("build", objectives.RECIPES, ids=lambda build: build.__name__)
def test_recipes_train(build):
    """One loss and gradient in float32 at random times: finite for all of them."""
    objective = build()
    x = jax.random.normal(jax.random.key(1), (256, 2))

    @jax.jit
    def loss(scale):
        predict_fn = lambda z, t: scale * z
        return losses.objective_loss(
            jax.random.key(0), predict_fn, x, objective=objective
        ).mean()

    value, slope = jax.value_and_grad(loss)(0.5)
    assert np.isfinite(value) and np.isfinite(slope) and value > 0


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        (objectives.edm, dict(sigma_data=[0.4, 0.5], mean=[-1.2, 0.0], std=[1.0, 1.2])),
        (objectives.sd3, dict(mean=[0.0, 0.5], std=[1.0, 0.8], shift=[1.0, 3.0])),
        (objectives.sd3_mode, dict(scale=[1.29, 0.5], shift=[1.0, 3.0])),
        (objectives.sd3_cosmap, dict(shift=[1.0, 3.0])),
        (objectives.min_snr, dict(gamma=[5.0, 3.0])),
        (objectives.sid2, dict(bias=[0.0, 1.0], shift=[1.0, 2.0])),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_one_trace_for_every_number_of_a_recipe(recipe, values):
    traces = []

    @jax.jit
    def weight(objective):
        traces.append(None)
        return objectives.total_weight(objective, jnp.float32(2.0))

    found = [
        float(weight(recipe(**dict(zip(values, numbers, strict=True)))))
        for numbers in zip(*values.values(), strict=True)
    ]
    assert len(traces) == 1 and found[0] != found[1]
