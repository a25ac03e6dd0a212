import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import guidance, predictions, schedules

SCHEDULE = schedules.Cosine()


def pair(kind="u"):
    make = lambda fn: predictions.denoiser(fn, kind=kind, schedule=SCHEDULE)
    return make(lambda z, t: jnp.sin(z)), make(lambda z, t: jnp.cos(3 * z))


def test_scale_zero_and_one_are_exact():
    conditional, unconditional = pair()
    z, t = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4), np.float32(0.3)
    for scale, expected in ((1.0, conditional), (0.0, unconditional)):
        guided = guidance.classifier_free(conditional, unconditional, scale)(z, t)
        for ours, theirs in zip(guided, expected(z, t), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_scale_three_goes_three_times_as_far():
    conditional, unconditional = pair()
    z, t = np.linspace(-2, 2, 12, dtype=np.float32), np.float32(0.7)
    guided = guidance.classifier_free(conditional, unconditional, 3.0)(z, t)
    start, end = unconditional(z, t), conditional(z, t)
    np.testing.assert_allclose(guided.x, start.x + 3 * (end.x - start.x), rtol=1e-5)
    assert guidance.classifier_free(conditional, unconditional, 3.0).cost == 2


@pytest.mark.parametrize(
    "kind", ["x", "eps", "v", "score", predictions.edm_f(0.5)], ids=str
)
def test_the_same_in_every_kind(kind):
    """Mixing the predictions of any kind equals mixing x and eps."""
    with jax.enable_x64(True):
        z, t = np.linspace(-2, 2, 9), np.float64(0.4)
        conditional, unconditional = pair()
        guided = guidance.classifier_free(conditional, unconditional, 2.5)(z, t)
        values = [
            predictions.from_denoised(fn(z, t), kind=kind, t=t, schedule=SCHEDULE)
            for fn in (conditional, unconditional)
        ]
        mixed = values[1] + 2.5 * (values[0] - values[1])
        implied = predictions.to_denoised(mixed, kind=kind, z=z, t=t, schedule=SCHEDULE)
        np.testing.assert_allclose(guided.x, implied.x, rtol=1e-10)
        np.testing.assert_allclose(guided.eps, implied.eps, rtol=1e-10)


def test_what_one_network_refuses_the_pair_refuses():
    guided = guidance.classifier_free(*pair("eps"), 2.0)
    with pytest.raises(ValueError, match="eps does not determine"):
        guided.check(np.array([1.0, 0.5]))
