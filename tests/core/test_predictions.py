"""Kinds of prediction, the input of a network, and denoisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import predictions, schedules
from tests.helpers.all_schedules import SCHEDULES as ALL
from tests.helpers.kinds import SCHEDULES, exact
from tests.helpers.levels import Levels


def test_a_kind_is_a_name_or_has_a_plane():
    for value in (None, 3, np.float32):
        with pytest.raises(ValueError, match="must be one of x, eps, .* or have"):
            predictions.as_kind(value)
    kind = predictions.edm_f(0.5)
    assert predictions.as_kind(kind) is kind


def test_ambiguous_and_unknown_names():
    for name, words in {
        "velocity": '"u" .* "v"',
        "epsilon": '"eps"',
        "noise": '"eps"',
        "sample": '"x"',
        "x0": '"x"',
        "scor": "did you mean 'score'",
    }.items():
        with pytest.raises(ValueError, match=words):
            predictions.as_kind(name)
    with pytest.raises(ValueError, match=r"sigma_data=0.*positive"):
        predictions.edm_f(sigma_data=0)


def test_shapes_and_dtypes():
    schedule = schedules.FlowMatching()
    denoise_fn = predictions.denoiser(lambda z, t: z, kind="u", schedule=schedule)
    for shape in ((3,), (3, 2), (3, 3, 3, 3), (1, 4, 4, 1)):
        z = np.ones(shape, np.float32)
        assert denoise_fn(z, 0.5).x.shape == shape
        assert denoise_fn(z, np.full(shape[:1], 0.5, np.float32)).x.shape == shape
    for t in (np.full((4,), 0.5), np.full((3, 1), 0.5)):
        with pytest.raises(ValueError, match="does not fit an array of shape"):
            denoise_fn(np.ones((3, 2), np.float32), t)
    with pytest.raises(ValueError, match=r"has shape \(3, 1\): must be \(3, 2\)"):
        predictions.denoiser(lambda z, t: z[:, :1], kind="u", schedule=schedule)(
            np.ones((3, 2), np.float32), 0.5
        )
    half = denoise_fn(jnp.ones((3, 2), jnp.bfloat16), 0.5)
    assert half.x.dtype == jnp.float32


def test_per_example_times_do_not_leak_between_axes():
    """The B = H = W = C trap: times must follow the batch axis and no other."""
    t = np.array([0.1, 0.5, 0.9], np.float32)
    z = np.ones((3, 3, 3, 3), np.float32)
    schedule = schedules.FlowMatching()
    x = predictions.to_denoised(z, kind="eps", z=z, t=t, schedule=schedule).x
    np.testing.assert_allclose(x[:, 0, 0, 0], (1 - t) / (1 - t), rtol=1e-6)
    u = predictions.to_denoised(0 * z, kind="eps", z=z, t=t, schedule=schedule).x
    np.testing.assert_allclose(u[:, 1, 2, 0], 1 / (1 - t), rtol=1e-6)


def test_precondition_names_the_noise_level_alike_on_every_schedule():
    seen = {}
    for schedule in SCHEDULES:
        net_fn = lambda z, time: seen.setdefault("got", (z, time)) and z
        t = schedule.inverse_logsnr(np.array([-2.0, 0.0, 3.0], np.float32))
        alpha = schedule.alpha(t)[:, None]
        z = alpha * np.ones((3, 2), np.float32)  # z / alpha = 1 whatever the schedule
        predictions.precondition(net_fn, schedule=schedule, sigma_data=0.5)(z, t)
        scaled, time = seen.pop("got")
        np.testing.assert_allclose(time, 1 / (1 + np.exp([-1.0, 0, 1.5])), rtol=2e-5)
        rho2 = np.exp([2.0, 0.0, -3.0])
        np.testing.assert_allclose(scaled[:, 0], (rho2 + 0.25) ** -0.5, rtol=2e-5)
    flow = predictions.precondition(lambda z, time: time, schedule=SCHEDULES[0])
    t = np.array([0.0, 0.25, 1.0], np.float32)
    np.testing.assert_allclose(flow(np.zeros((3, 2), np.float32), t), t)


def test_preconditioned_input_has_unit_variance():
    generator = np.random.default_rng(0)
    x, eps = generator.normal(size=(2, 20_000, 1)).astype(np.float32)
    for schedule in SCHEDULES:
        for t in (0.0, 0.3, 0.9, 1.0):
            z = schedule.alpha(t) * 0.5 * x + schedule.sigma(t) * eps
            predict_fn = predictions.precondition(
                lambda z, time: z, schedule=schedule, sigma_data=0.5
            )
            np.testing.assert_allclose(np.var(predict_fn(z, t)), 1, atol=0.05)


def test_flip_time():
    z, t = np.ones((3, 2), np.float32), np.array([0.1, 0.2, 0.7], np.float32)
    signs = {"x": 1, "eps": 1, "v": 1, "score": 1, "u": -1, "dz_dt": -1}
    scaled = lambda z, t: z * t[:, None]
    for kind, sign in signs.items():
        flipped = predictions.flip_time(scaled, kind=kind)
        np.testing.assert_allclose(
            flipped(z, t), sign * z * (1 - t)[:, None], rtol=1e-6
        )
        twice = predictions.flip_time(flipped, kind=kind)
        np.testing.assert_allclose(twice(z, t), scaled(z, t), rtol=1e-6)


def test_the_calls_of_a_network_are_those_that_are_given():
    schedule = schedules.FlowMatching()
    settings, keep = dict(kind="u", schedule=schedule), lambda z, t: z
    flipped = predictions.flip_time(keep, kind="u")
    scaled = predictions.precondition(flipped, schedule=schedule)
    for predict_fn in (keep, flipped, scaled):
        once = predictions.denoiser(predict_fn, **settings)
        twice = predictions.denoiser(predict_fn, num_network_calls=2, **settings)
        assert once.num_network_calls(0.5) == 1
        assert twice.num_network_calls(0.5) == 2
    with pytest.raises(ValueError, match="num_network_calls=0: must be at least 1"):
        predictions.denoiser(keep, num_network_calls=0, **settings)


def test_denoiser_is_data_to_jit():
    traces = []

    def net(scale, z, t):
        traces.append(None)
        return scale * z

    @jax.jit
    def implied(denoise_fn, z, t):
        return denoise_fn(z, t).x

    schedule, z = schedules.FlowMatching(), np.ones((2, 3), np.float32)
    for scale in (0.5, 1.5):
        predict_fn = jax.tree_util.Partial(net, jnp.float32(scale))
        denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
        np.testing.assert_allclose(implied(denoise_fn, z, 0.5), z - 0.5 * scale * z)
    assert len(traces) == 1


@pytest.mark.pinned
@pytest.mark.parametrize("name", ALL)
def test_edm_preconditioning_on_any_schedule(name):
    """c_skip z + c_out F is x; input and F have unit variance on data of that std."""
    t, std = np.array([0.03, 0.4, 0.97]), 0.5
    schedule = Levels.of(ALL[name], t)
    levels = schedule.plain()
    alpha, sigma = (level[:, 0] for level in levels[:2])
    x, eps = np.random.default_rng(0).normal(size=(2, 3, 6))
    z = levels[0] * x + levels[1] * eps
    with jax.enable_x64(True):
        found = predictions.edm_preconditioning(t, schedule=schedule, sigma_data=std)
        c_skip, c_out, c_in, c_noise = (np.asarray(part) for part in found)
        a, b = (
            np.asarray(part)
            for part in predictions.edm_f(std).plane(t, schedule=schedule)
        )
    value = exact("edm_f(sigma_data=0.5)", x, eps, *levels)
    wide = lambda part: part[:, None]
    np.testing.assert_allclose(wide(c_skip) * z + wide(c_out) * value, x, rtol=1e-9)
    np.testing.assert_allclose(c_in**2 * (alpha**2 * std**2 + sigma**2), 1, rtol=1e-12)
    np.testing.assert_allclose(a**2 * std**2 + b**2, 1, rtol=1e-12)
    np.testing.assert_allclose(c_noise, np.log(sigma / alpha) / 4, rtol=1e-8, atol=1e-9)
    with pytest.raises(ValueError, match="sigma_data=0"):
        predictions.edm_preconditioning(t, schedule=schedule, sigma_data=0.0)
