import jax
import numpy as np
import pytest

from diffusionflow import objectives, schedules, times, weightings
from tests import oracles

UNIFORM = times.Uniform()


def recipe(schedule, kind, weighting, density=UNIFORM):
    return objectives.Objective(schedule, kind, weightings.Mse(weighting), density)


RECIPES = {
    "FM": objectives.flow_matching(),
    "v_cos": objectives.v_cosine(),
    "eps_cos": recipe(schedules.Cosine(), "x", "eps"),
    "eps_vp_linear": objectives.ddpm(),
    "SD3_0_1": recipe(schedules.FlowMatching(), "u", "u", times.LogitNormal(0.0, 1.0)),
    "InDI": recipe(schedules.FlowMatching(), "u", "x"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_total_weight_against_20_digits(name):
    logsnr, expected = oracles.weights(name)
    with jax.enable_x64(True):
        weight = objectives.total_weight(RECIPES[name], logsnr)
    np.testing.assert_allclose(weight, expected, rtol=1e-11)


def test_flow_matching_is_v_prediction_on_the_cosine_schedule():
    found = objectives.same_objective(
        objectives.flow_matching(), objectives.v_cosine(), (-20.0, 20.0)
    )
    assert found.same
    np.testing.assert_allclose(found.constant, np.pi / 2, rtol=1e-12)


def test_output_and_proposal_do_not_change_the_objective():
    base = objectives.flow_matching()
    other = objectives.Objective(
        base.schedule, "x", base.weighting, base.times, proposal=times.LogitNormal()
    )
    assert objectives.same_objective(base, other) == (True, 1.0, 0.0, -10.0)


def test_different_objectives_are_told_apart_and_where():
    found = objectives.same_objective(
        objectives.flow_matching(), RECIPES["SD3_0_1"], (-6.0, 6.0)
    )
    assert not found.same and found.deviation > 0.5
    assert abs(found.logsnr) == 6.0
    again = objectives.same_objective(RECIPES["eps_cos"], objectives.v_cosine())
    assert not again.same


def test_bad_values():
    with pytest.raises(ValueError, match="ambiguous"):
        recipe(schedules.FlowMatching(), "velocity", "u")
    with pytest.raises(ValueError, match="num_points=1"):
        objectives.same_objective(objectives.ddpm(), objectives.ddpm(), num_points=1)
