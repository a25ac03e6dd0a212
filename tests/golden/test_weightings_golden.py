"""Loss weights of other libraries: factors on the error of u at noise level sigma."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import objectives, schedules, times, weightings
from tests.helpers import golden

FLOW = schedules.FlowMatching()
CASES = golden.cases("loss_weight")


def weight(objective, t):
    """Total weight over that of flow matching: the factor on the u error."""
    with jax.enable_x64(True):
        logsnr = FLOW.logsnr(t)
        top = objectives.total_weight(objective, logsnr)
        return np.asarray(
            top / objectives.total_weight(objectives.flow_matching(), logsnr)
        )


OURS = {
    "none": objectives.flow_matching(),
    "cosmap": objectives.sd3_cosmap(),  # as a density of times instead of a weight
    "sigma_sqrt": objectives.Objective(
        FLOW,
        "u",
        # sigma^-2 of flow matching: sigma = 1 / (1 + sqrt(SNR))
        weightings.Factor(lambda logsnr: (1 + jnp.exp(logsnr / 2)) ** 2, "u"),
        times.Uniform(),
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_weights_of_sd3_training(case):
    assert len(CASES) == len(OURS)
    found = weight(OURS[case.config["weighting_scheme"]], case.a["sigma"])
    np.testing.assert_allclose(found, case.a["weight"], rtol=1e-10)
