"""The eps-MSE at fixed log-SNRs: `evaluation/heldout.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import schedules
from experiments.data import Examples
from experiments.evaluation import heldout
from experiments.evaluation.heldout import LEVELS, EvalAccumulator, Evaluation
from experiments.runtime import rng
from tests.helpers import arrays
from tests.helpers.exact_model import SCHEDULES, STD, model_of
from tests.helpers.networks import fast


def tallied(model, size=4_000, draws=2):
    values = STD * jax.random.normal(jax.random.key(1), (size, 4))
    number = jnp.arange(size)
    examples = Examples(values, jnp.zeros(size, jnp.int32))
    run = fast(
        lambda: heldout.eval_step(
            {}, examples, number, rng.stream(0, 0), model=model, draws=draws
        )
    )
    accumulator = EvalAccumulator(draws, heldout.reached(model.objective.schedule))
    accumulator.add(run(), np.arange(size), np.ones(size, bool))
    return accumulator.row()


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_best_predictor_has_the_error_of_its_law_in_every_recipe(name):
    """Of N(0, s^2) the variance of eps given z is s^2 / (s^2 + e^-logsnr).

    4000 values a level; the relative deviation of their mean square is sqrt(2 / 4000).
    """
    row = tallied(model_of(name))
    expected = STD**2 / (STD**2 + np.exp(-LEVELS))
    np.testing.assert_allclose(row["eps_mse_by_level"], expected, rtol=5 * 0.0224)
    assert row["eps_mse"] == pytest.approx(np.mean(row["eps_mse_by_level"]))


def test_a_vector_that_the_network_copies_is_its_prediction_of_x():
    """Of kind x: the loss is the distance of the vector to x, and 0 at x itself."""
    model = model_of("x")._replace(net=arrays.Copy(), vector_features=4)
    x, vectors = np.random.RandomState(0).standard_normal((2, 6, 4)).astype("f4")
    for given, expected in ((x, 0 * x), (vectors, (vectors - x) ** 2)):
        found = heldout.eval_step(
            {},
            Examples(x, np.zeros(6, np.int32), given),
            jnp.arange(6),
            rng.stream(0, 0),
            model=model,
            draws=2,
        )
        np.testing.assert_allclose(found.loss, expected.mean(1), rtol=1e-5, atol=1e-12)


def test_a_mask_leaves_the_mean_of_the_values_that_count():
    model = model_of("x")._replace(net=arrays.Copy(), vector_features=4)
    x, vectors = np.random.RandomState(0).standard_normal((2, 6, 4)).astype("f4")
    mask = np.arange(4) < np.array([1, 2, 3, 4, 2, 1])[:, None]
    found = heldout.eval_step(
        {},
        Examples(x, np.zeros(6, np.int32), vectors, mask),
        jnp.arange(6),
        rng.stream(0, 0),
        model=model,
        draws=6,
    )
    expected = ((vectors - x) ** 2).mean(1, where=mask)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    ratio = np.exp(LEVELS)[heldout.levels_of(np.arange(6), 6)]
    np.testing.assert_allclose(found.eps_mse, expected[:, None] * ratio, rtol=1e-4)


def test_noise_of_an_example_is_its_eps_in_every_draw():
    """A network that copies its vector as eps: the loss is their distance."""
    model = model_of("eps")._replace(net=arrays.Copy(), vector_features=4)
    x, vectors, noise = np.random.RandomState(0).standard_normal((3, 6, 4)).astype("f4")
    found = heldout.eval_step(
        {},
        Examples(x, np.zeros(6, np.int32), vectors, noise=noise),
        jnp.arange(6),
        rng.stream(0, 0),
        model=model,
        draws=3,
    )
    expected = ((vectors - noise) ** 2).mean(1)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    every = np.broadcast_to(expected[:, None], (6, 3))
    np.testing.assert_allclose(found.eps_mse, every, rtol=1e-4)


def test_the_levels_alone_have_the_same_values():
    """Those of as many draws as levels, of which the first half is of the objective."""
    model, key = model_of("cosine"), rng.stream(0, 0)
    x = STD * np.random.RandomState(0).standard_normal((5, 4)).astype("f4")
    given = {}, Examples(x, np.zeros(5, np.int32)), jnp.arange(5), key
    found = fast(lambda: heldout.eps_mse(*given, model=model))()
    whole = fast(lambda: heldout.eval_step(*given, model=model, draws=len(LEVELS)))()
    np.testing.assert_allclose(found, whole.eps_mse, rtol=1e-5)


@pytest.mark.ci
def test_recipes_are_measured_with_the_same_noise():
    """So that runs are compared without its chance."""
    one, other = (tallied(model_of(name), 64) for name in ("flow_matching", "cosine"))
    assert one["eps_mse"] == pytest.approx(other["eps_mse"], rel=1e-3)
    assert abs(one["loss"] / other["loss"] - 1) > 0.05  # which losses are not


def test_levels_that_a_schedule_does_not_reach_are_no_number():
    low = schedules.Cosine(logsnr_min=-3.0, logsnr_max=5.0)
    found, reached = heldout.times_of_levels(low), heldout.reached(low)
    np.testing.assert_array_equal(reached, (LEVELS >= -3) & (LEVELS <= 5))
    np.testing.assert_allclose(low.logsnr(found[reached]), LEVELS[reached], atol=1e-3)
    assert np.isfinite(found).all()  # the program has no NaN in it
    accumulator = EvalAccumulator(len(LEVELS), reached)
    seen = Evaluation(np.ones(1), np.ones((1, len(LEVELS))))
    accumulator.add(seen, np.zeros(1, int), np.ones(1, bool))
    row = accumulator.row()
    np.testing.assert_array_equal(np.isfinite(row["eps_mse_by_level"]), reached)
    assert np.isnan(row["eps_mse"])  # a mean over other levels is no mean


def test_each_example_is_seen_at_its_levels_in_turn_and_counted_once():
    number = np.array([0, 1, 2, 4])
    expected = [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5], [4, 5, 0, 1]]
    assert heldout.levels_of(number, 4).tolist() == expected
    everything = np.ones(len(LEVELS), bool)
    accumulator = EvalAccumulator(4, everything)
    eps_mse = np.arange(16.0).reshape(4, 4)
    found = Evaluation(np.array([1.0, 2.0, 4.0, 100.0]), eps_mse)
    accumulator.add(found, number, np.array([True, True, True, False]))
    row = accumulator.row()
    assert row["loss"] == pytest.approx(7 / 3)
    by_level = [(low + low + 6) / 2 for low in range(6)]
    assert row["eps_mse_by_level"] == by_level
    assert row["eps_mse"] == pytest.approx(np.mean(by_level))
    empty = EvalAccumulator(1, everything)
    empty.add(
        Evaluation(np.ones(1), np.ones((1, 1))), np.zeros(1, int), np.ones(1, bool)
    )
    assert np.isnan(empty.row()["eps_mse"])
