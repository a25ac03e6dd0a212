"""The checks for users' own parts: right ones pass, and each mistake is named."""

import jax.numpy as jnp
import numpy as np
import pytest

import diffusionflow
from diffusionflow import predictions, samplers, schedules, testing, weightings
from tests.helpers.all_weightings import ALL as ALL_WEIGHTINGS

FLOW = schedules.FlowMatching()
DENOISER = predictions.denoiser(lambda z, t: -z, kind="u", schedule=FLOW)


@diffusionflow.register
class Cosine(schedules.Schedule):
    """Written with `jax.numpy`, as users do."""

    slope_factor: float = 1.0
    level_factor: float = 1.0

    def alpha(self, t):
        return jnp.cos(jnp.pi / 2 * t)

    def sigma(self, t):
        return self.level_factor * jnp.sin(jnp.pi / 2 * t)

    def logsnr(self, t):
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(jnp.sin(jnp.pi / 2 * t)))

    def derivatives(self, t):
        slopes = -jnp.sin(jnp.pi / 2 * t), jnp.cos(jnp.pi / 2 * t)
        return tuple(self.slope_factor * jnp.pi / 2 * slope for slope in slopes)


@diffusionflow.register
class Scaled(predictions.Denoiser):
    """A factor on the prediction that depends on the time, aligned to z or not."""

    inner: predictions.Denoiser
    aligned: bool = diffusionflow.static(default=True)

    def denoise(self, z, t):
        t = jnp.asarray(t)
        scale = 1 + (predictions.per_event(t, z) if self.aligned else t)
        x = scale * self.inner(z, t).x
        t = predictions.per_event(t, z)
        return predictions.Denoised(x, (z - (1 - t) * x) / t)


@diffusionflow.register
class Uncounted:
    """Calls the network twice a step and does not say so."""

    num_noises = 0

    def plan(self, t, s, schedule):
        return dict(t=t, h=s - t)

    def init(self, z):
        return z

    def step(self, z, row, noise, denoise_fn):
        denoise_fn(z, row["t"])
        found = denoise_fn(z, row["t"])
        return z + row["h"] * (found.eps - found.x)

    def output(self, z):
        return z


@pytest.mark.ci
def test_right_ones_pass():
    testing.check_schedule(Cosine())
    testing.check_sampler(samplers.Heun("u"), order=2)
    testing.check_denoiser(DENOISER, np.ones((3, 2), np.float32), schedule=FLOW)
    testing.check_denoiser(Scaled(DENOISER), np.eye(4, dtype="f4"), schedule=FLOW)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Cosine(slope_factor=1.01), "derivatives has the slope of alpha"),
        (Cosine(level_factor=1.01), r"logsnr is 2 log\(alpha / sigma\)"),
    ],
)
def test_a_wrong_schedule_is_refused(schedule, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_schedule(schedule)


@diffusionflow.register
class Weight(weightings.Weighting):
    """`(1 - t) + least` on the u error, times factors that break it."""

    least: float = 0.0
    sum_factor: float = 0.0
    closed_factor: float = 1.0
    name: str = diffusionflow.static(default="u")

    @property
    def kind(self):
        return self.name

    def __call__(self, t, *, schedule):
        total = self.sum_factor * np.size(t)
        return 1 - t + self.least + total

    def on_eps(self, t, *, schedule):
        return self.closed_factor * (1 - t + self.least) / (1 - t) ** 2


class Unregistered(weightings.Weighting):
    kind = "eps"

    def __call__(self, t, *, schedule):
        return 1.0 + 0 * t


class Constant(Unregistered):
    def __call__(self, t, *, schedule):
        return np.ones(())


@pytest.mark.parametrize("name", ALL_WEIGHTINGS)
def test_every_weighting_of_the_library_passes(name):
    for schedule in (schedules.FlowMatching(), schedules.Cosine()):
        testing.check_weighting(ALL_WEIGHTINGS[name], schedule=schedule)


@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        (Weight(name="uu"), "kind is a prediction type"),
        (Weight(least=-0.5), "the factor is at least 0"),
        (Weight(least=np.inf), "the factor is finite inside"),
        (Weight(sum_factor=0.1), "the factor at a time depends on it alone"),
        (Weight(closed_factor=1.1), "on_eps is the factor on the eps-MSE"),
        (Constant(), "the factor has the shape of t"),
        (Unregistered(), "Unregistered is registered"),
    ],
    ids=["kind", "negative", "infinite", "sum", "closed form", "shape", "unregistered"],
)
def test_a_wrong_weighting_is_refused(weighting, message):
    testing.check_weighting(Weight())
    with pytest.raises(AssertionError, match=message):
        testing.check_weighting(weighting)


@pytest.mark.ci
def test_a_wrong_sampler_is_refused():
    with pytest.raises(AssertionError, match="falls at order 2"):
        testing.check_sampler(samplers.Euler("u"), order=2)
    with pytest.raises(AssertionError, match="give the plan a column calls"):
        testing.check_sampler(Uncounted())


@pytest.mark.parametrize("shape", [(4, 3), (4, 4)], ids=str)
def test_times_multiplied_to_the_wrong_axis_are_refused(shape):
    z = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    with pytest.raises(AssertionError, match="predictions.per_event"):
        testing.check_denoiser(Scaled(DENOISER, aligned=False), z, schedule=FLOW)
