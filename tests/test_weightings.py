import numpy as np
import pytest

from diffusionflow import schedules, weightings


def test_mse_is_one_and_names_its_kind():
    weighting = weightings.Mse("v")
    assert str(weighting.kind) == "v"
    t = np.array([0.0, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(weighting(t, schedules.FlowMatching()), np.ones(3))
    with pytest.raises(ValueError, match="ambiguous"):
        weightings.Mse("velocity")
