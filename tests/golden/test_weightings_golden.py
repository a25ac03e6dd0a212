"""Loss weights of other libraries: factors on the error of u at noise level sigma."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import objectives, schedules, times, weightings
from tests.helpers import golden

FLOW = schedules.FlowMatching()


def weight(objective, t):
    """Total weight over that of flow matching: the factor on the u error."""
    with jax.enable_x64(True):
        logsnr = FLOW.logsnr(t)
        top = objectives.total_weight(objective, logsnr)
        return np.asarray(
            top / objectives.total_weight(objectives.flow_matching(), logsnr)
        )


OURS = {
    # the first is none; the others are weightings by their density of times
    **dict.fromkeys(("none", "logit_normal", "mode"), objectives.flow_matching()),
    "cosmap": objectives.sd3_cosmap(),  # as a density of times instead of a weight
    "sigma_sqrt": objectives.Objective(
        FLOW,
        "u",
        # sigma^-2 of flow matching: sigma = 1 / (1 + sqrt(SNR))
        weightings.Factor(lambda logsnr: (1 + jnp.exp(logsnr / 2)) ** 2, "u"),
        times.Uniform(),
    ),
}


@golden.each("loss_weight", "diffusers_training", 3)
def test_weights_of_sd3_training(case):
    found = weight(case.choose("weighting_scheme", OURS), case.a["sigma"])
    np.testing.assert_allclose(found, case.a["weight"], rtol=1e-10)
