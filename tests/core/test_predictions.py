import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, predictions, samplers, schedules
from diffusionflow._dataclass import register
from tests.helpers import oracles
from tests.helpers.all_schedules import SCHEDULES as ALL
from tests.helpers.kinds import KINDS, SCHEDULES, case, exact

EPS32 = np.finfo(np.float32).eps


@register
class Levels(schedules.Schedule):
    """What a schedule is at some times, as data: one compiled program for all."""

    levels: dict

    @classmethod
    def of(cls, schedule, t, dtype=np.float64):
        """Computed in float64, at times of any shape."""
        with jax.enable_x64(True):
            t = np.asarray(t, np.float64)
            slopes = schedule.derivatives(t)
            levels = {
                "alpha": schedule.alpha(t),
                "sigma": schedule.sigma(t),
                "logsnr": schedule.logsnr(t),
                "dalpha": slopes[0],
                "dsigma": slopes[1],
            }
            return cls({name: np.asarray(v, dtype) for name, v in levels.items()})

    def alpha(self, t):
        return jnp.asarray(self.levels["alpha"])

    def sigma(self, t):
        return jnp.asarray(self.levels["sigma"])

    def logsnr(self, t):
        return jnp.asarray(self.levels["logsnr"])

    def derivatives(self, t):
        return jnp.asarray(self.levels["dalpha"]), jnp.asarray(self.levels["dsigma"])

    def plain(self, *names):
        names = names or ("alpha", "sigma", "dalpha", "dsigma")
        return [np.asarray(self.levels[name], np.float64)[:, None] for name in names]


def all_pairs(schedule, values, z):
    """Every kind as every kind, `{(source, target): value}` by name."""
    t = schedule.alpha(0.0)  # of the right shape and dtype, and of no use
    return {
        (str(source), str(target)): predictions.convert(
            values[str(source)],
            source=source,
            target=target,
            z=z,
            t=t,
            schedule=schedule,
        )
        for source, target in itertools.product(KINDS, KINDS)
    }


def there_and_back(schedule, values, z):
    pairs = all_pairs(schedule, values, z)
    back = lambda source, target, value: predictions.convert(
        value,
        source=target,
        target=source,
        z=z,
        t=schedule.alpha(0.0),
        schedule=schedule,
    )
    return {
        (str(source), str(target)): back(
            source, target, pairs[str(source), str(target)]
        )
        for source, target in itertools.product(KINDS, KINDS)
    }


all_pairs, there_and_back = jax.jit(all_pairs), jax.jit(there_and_back)


@pytest.mark.pinned
@pytest.mark.parametrize("name", ALL)
def test_every_kind_becomes_every_kind(name):
    """On N(0.3, 0.4) data: the posterior mean of each kind, from that of any other."""
    schedule = Levels.of(ALL[name], np.array([0.02, 0.3, 0.7, 0.98]))
    levels = schedule.plain()
    alpha, sigma = levels[:2]
    z = alpha * 0.3 + np.random.default_rng(0).normal(size=(4, 6))
    x, eps = oracles.gaussian_denoised(z, alpha, sigma, 0.3, 0.4)
    values = {str(kind): exact(kind, x, eps, *levels) for kind in KINDS}
    with jax.enable_x64(True):
        for pair, found in all_pairs(schedule, values, z).items():
            np.testing.assert_allclose(
                found, values[pair[1]], rtol=1e-9, atol=1e-9, err_msg=str(pair)
            )


@pytest.mark.pinned
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_conversion_takes_the_levels_of_its_time(schedule):
    t = np.array([0.02, 0.3, 0.7, 0.98])
    x, eps, z, levels = case(schedule, t)
    for source, target in (("u", "v"), ("dz_dt", "x"), ("x", "score")):
        value, expected = (exact(kind, x, eps, *levels) for kind in (source, target))
        with jax.enable_x64(True):
            found = predictions.convert(
                value, source=source, target=target, z=z, t=t, schedule=schedule
            )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_round_trips_in_float32(name):
    """Within 4 eps32 max(1/alpha, 1/sigma) max(alpha, sigma, 1) of the largest value.

    x and eps are of size 1, so only score, dz_dt and v (where sigma is large) are not:
    of them no absolute bound can hold, as z - alpha x is known to eps32 alone, and the
    score is that over sigma^2.
    """
    t = np.array([1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 1 - 1e-4])
    schedule = Levels.of(ALL[name], t, np.float32)
    levels = schedule.plain()
    alpha, sigma = levels[:2]
    resolved = np.minimum(alpha, sigma)[:, 0] > 1e-6  # float32 resolves both in z
    assert resolved.sum() >= 7
    x, eps = np.random.default_rng(0).uniform(-1, 1, (2, t.size, 64))
    with np.errstate(divide="ignore", over="ignore"):
        bound = 4 * EPS32 * np.maximum(1 / alpha, 1 / sigma)
        bound = bound * np.maximum(np.maximum(alpha, sigma), 1)
        values = {
            str(kind): exact(kind, x, eps, *levels).astype(np.float32) for kind in KINDS
        }
    z = (alpha * x + sigma * eps).astype(np.float32)
    for pair, back in there_and_back(schedule, values, z).items():
        assert back.dtype == np.float32
        value = values[pair[0]]
        size = np.maximum(np.abs(value).max(1, keepdims=True), 1)
        with np.errstate(invalid="ignore"):
            error = np.abs(np.asarray(back, np.float64) - value) / size
        assert (error <= bound)[resolved].all(), (
            f"{pair}: {(error / bound)[resolved].max()}"
        )


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
    t=st.floats(1e-3, 1 - 1e-3),
    pair=st.sampled_from(
        list(itertools.permutations(("x", "eps", "v", "u", "score"), 2))
    ),
    schedule=st.sampled_from(SCHEDULES),
    seed=st.integers(0, 100),
)
def test_round_trips_at_any_time(t, pair, schedule, seed):
    x, eps, z, levels = case(schedule, np.full(4, t), seed=seed)
    source, target = pair
    value = exact(source, x, eps, *levels).astype(np.float32)
    arguments = dict(z=z.astype(np.float32), t=np.full(4, t, np.float32))
    there = predictions.convert(
        value, source=source, target=target, schedule=schedule, **arguments
    )
    back = predictions.convert(
        there, source=target, target=source, schedule=schedule, **arguments
    )
    alpha, sigma = levels[0].min(), levels[1].min()
    size = max(np.abs(value).max(), np.abs(x).max(), np.abs(eps).max())
    bound = 4 * EPS32 * max(1 / alpha, 1 / sigma) * max(alpha, sigma, 1) * size
    assert np.abs(back - value).max() <= bound


def all_ratios(schedule):
    t = schedule.alpha(0.0)
    return {
        str(kind): (
            predictions.mse_ratio(kind, t, schedule=schedule),
            predictions.error_ratio(kind, "x", t, schedule=schedule),
        )
        for kind in KINDS
    }


all_ratios = jax.jit(all_ratios)


@pytest.mark.pinned
@pytest.mark.parametrize("name", ALL)
def test_mse_ratio_is_the_table(name):
    """Of each kind, in log-SNR, alpha, sigma and the slope of the log-SNR."""
    schedule, t = ALL[name], np.array([0.05, 0.5, 0.95])
    with jax.enable_x64(True):
        slope = np.asarray(schedule.dlogsnr_dt(t))
        levels = Levels.of(schedule, t)
        found = jax.tree.map(np.asarray, all_ratios(levels))
    alpha, sigma, logsnr = (
        part[:, 0] for part in levels.plain("alpha", "sigma", "logsnr")
    )
    table = {
        "x": np.exp(-logsnr),
        "eps": np.ones(3),
        "v": alpha**2 * (1 + np.exp(-logsnr)) ** 2,
        "u": (1 + np.exp(-logsnr / 2)) ** 2,
        "dz_dt": (sigma * slope / 2) ** 2,
        "score": 1 / sigma**2,
        "edm_f(sigma_data=0.5)": 1 + np.exp(-logsnr) / 0.25,
    }
    for kind, (ratio, to_x) in found.items():
        np.testing.assert_allclose(ratio, table[kind], rtol=1e-9, err_msg=kind)
        np.testing.assert_allclose(to_x, table[kind] / table["x"], rtol=1e-9)


def test_error_ratio_at_the_ends():
    ends, flow = np.array([0.0, 1.0], np.float32), schedules.FlowMatching()
    ratio = lambda kind, source: predictions.error_ratio(
        kind, source, ends, schedule=flow
    )
    np.testing.assert_array_equal(ratio("x", "u"), [0, 1])
    np.testing.assert_array_equal(ratio("eps", "u"), [1, 0])
    np.testing.assert_array_equal(ratio("eps", "x"), [np.inf, 0])
    np.testing.assert_array_equal(ratio("score", "score"), [1, 1])


def test_the_ratio_of_eps_and_score_needs_no_alpha():
    t, schedule = np.array([0.5, 1.0], np.float32), schedules.FlowMatching()
    ratio = predictions.mse_ratio("score", t, schedule=schedule)
    np.testing.assert_array_equal(ratio, [4, 1])
    back = predictions.error_ratio("eps", "score", t, schedule=schedule)
    np.testing.assert_array_equal(back, [0.25, 1])


@pytest.mark.pinned
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_mse_ratio_is_the_ratio_of_errors(kind):
    t = np.array([0.1, 0.5, 0.9])
    for schedule in SCHEDULES:
        x, eps, z, levels = case(schedule, t, (3, 2, 3))
        wrong = eps + 0.1
        implied = (z - levels[1] * wrong) / levels[0]  # x moves so that z stays
        error = exact(kind, implied, wrong, *levels) - exact(kind, x, eps, *levels)
        with jax.enable_x64(True):
            ratio = predictions.mse_ratio(kind, t, schedule=schedule)
        np.testing.assert_allclose(ratio, (error**2).mean((1, 2)) / 0.01, rtol=1e-9)


FINITE = ("v", "u", predictions.edm_f(0.5))


@jax.jit
def at_the_ends(schedule, values, z):
    """x and eps of each kind that is never singular, and the gradient of their sum."""

    def implied(value, kind):
        return predictions.to_denoised(
            value, kind=kind, z=z, t=schedule.alpha(0.0), schedule=schedule
        )

    total = lambda value, kind: sum(jnp.sum(part) for part in implied(value, kind))
    return {
        str(kind): (implied(values[str(kind)], kind), slope)
        for kind in FINITE
        for slope in [jax.grad(total)(values[str(kind)], kind)]
    }


@pytest.mark.parametrize("name", ALL)
def test_v_u_and_f_are_finite_at_both_ends(name):
    t = np.array([0.0, 1e-7, 1 - 1e-7, 1.0], np.float32)
    schedule = Levels.of(ALL[name], t, np.float32)
    alpha, sigma = schedule.plain("alpha", "sigma")
    x, eps = np.random.default_rng(0).normal(size=(2, 4, 6))
    z = (alpha * x + sigma * eps).astype(np.float32)
    values = {
        str(kind): exact(kind, x, eps, alpha, sigma, 0, 0).astype(np.float32)
        for kind in FINITE
    }
    size = 2e-6 * np.maximum(sigma, 1)  # of the rounding of z
    for denoised, slope in at_the_ends(schedule, values, z).values():
        assert (np.abs(np.asarray(denoised.x) - x) <= size).all()
        np.testing.assert_allclose(denoised.eps, eps, atol=2e-6)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=str)
def test_eps_and_score_need_no_alpha(schedule):
    """At alpha = 0 eps says nothing of x, and everything of the score."""
    z = np.ones((2, 3), np.float32)
    convert = lambda source, target, t: predictions.convert(
        z, source=source, target=target, z=z, t=t, schedule=schedule
    )
    np.testing.assert_array_equal(convert("eps", "score", 1.0), -z)
    np.testing.assert_array_equal(convert("score", "eps", 1.0), -z)
    with pytest.raises(ValueError, match="score does not determine the other at t=0"):
        convert("score", "eps", 0.0)


@pytest.mark.parametrize(
    ("kind", "t"),
    [("eps", 1.0), ("score", 1.0), ("x", 0.0), ("x", np.array([0.5, 0.0]))],
)
def test_impossible_pairs_are_refused(kind, t):
    schedule = schedules.FlowMatching()
    denoise_fn = predictions.denoiser(lambda z, t: z, kind=kind, schedule=schedule)
    z = np.zeros((2, 3), np.float32)
    with pytest.raises(
        ValueError, match=f"prediction of {kind} does not .*predict 'u'"
    ):
        denoise_fn(z, t)
    with pytest.raises(ValueError, match=f"prediction of {kind} does not"):
        predictions.convert(z, source=kind, target="v", z=z, t=t, schedule=schedule)
    denoise_fn(z, np.array([0.3, 0.5]))


@pytest.mark.parametrize(
    ("schedule", "source", "target"),
    [
        (schedules.FlowMatching(), "u", "score"),
        (schedules.LinearBeta(), "v", "dz_dt"),
    ],
)
def test_impossible_targets_are_refused(schedule, source, target):
    z = np.ones((2, 3), np.float32)
    convert = lambda t: predictions.convert(
        z, source=source, target=target, z=z, t=t, schedule=schedule
    )
    with pytest.raises(ValueError, match=f"prediction of {target} is infinite at t=0"):
        convert(np.array([0.5, 0.0], np.float32))
    assert np.isfinite(convert(0.5)).all()


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


def mixture():
    means = np.array([[-1.0, 0.5], [0.8, 1.5]])
    return analytic.Mixture(np.array([0.3, 0.7]), means, np.array([[0.2], [0.5]]))


RANGE = {  # schedules that reach [-4, 4] of log-SNR: source and target of the tests
    name: ALL[name]
    for name in ("FM", "cos", "vp_lin", "subvp", "ve_geo", "discrete", "interpolated")
}


@pytest.mark.pinned
@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(("FM", name) for name in RANGE if name != "FM"),
        *((name, "FM") for name in RANGE if name != "FM"),
        ("cos", "ve_geo"),
        ("subvp", "discrete"),
    ],
)
def test_a_rescheduled_model_is_the_model_of_the_other_schedule(source, target):
    """The exact denoiser of a mixture on `source` becomes the one on `target`."""
    source, target = RANGE[source], RANGE[target]
    z = np.random.default_rng(0).normal(size=(5, 2))
    with jax.enable_x64(True):
        t = target.inverse_logsnr(np.linspace(-4.0, 4.0, 5))
        denoise_fn = predictions.reschedule(
            mixture().denoise_fn(schedule=source), source=source, target=target
        )
        found, expected = denoise_fn(z, t), mixture().denoise_fn(schedule=target)(z, t)
        for value, exact in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, exact, rtol=1e-9)


def test_reschedule_at_the_ends_and_from_outside():
    """Infinite ends go to infinite ends; a scale changes z, never x and eps."""
    flow, t = schedules.FlowMatching(), np.array([0.0, 1.0], np.float32)
    z = np.array([[0.3, -1.0], [1.2, 0.4]], np.float32)
    for name in ("cos", "iddpm", "laplace", "fm_shift", "fm_as_vp", "cos_shift"):
        exact = mixture().denoise_fn(schedule=flow)
        denoise_fn = predictions.reschedule(exact, source=flow, target=ALL[name])
        for times in (t, jnp.asarray(t)):
            found, expected = denoise_fn(z, times), exact(z, times)
            jax.tree.map(np.testing.assert_array_equal, found, expected)
        back = predictions.reschedule(denoise_fn, source=ALL[name], target=flow)
        jax.tree.map(np.testing.assert_array_equal, back(z, t), exact(z, t))
    scaled = schedules.Scaled(flow, lambda t: 3 + t)
    half = predictions.reschedule(exact, source=flow, target=scaled)(3.5 * z, 0.5)
    jax.tree.map(
        lambda found, exact: np.testing.assert_allclose(found, exact, rtol=1e-5),
        half,
        exact(z, 0.5),
    )


def test_a_target_outside_the_source_is_refused():
    """At concrete times with a ValueError, and at traced ones with NaN."""
    narrow, flow = schedules.Cosine(-5.0, 5.0), schedules.FlowMatching()
    denoise_fn = predictions.reschedule(
        mixture().denoise_fn(schedule=narrow), source=narrow, target=flow
    )
    z = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"t=0.999.*is outside.*\[-5.*, 5"):
        denoise_fn(z, np.array([0.5, 0.999], np.float32))
    with pytest.raises(ValueError, match=r"t=0.0 is outside"):
        denoise_fn.check_times(np.array([0.5, 0.0]))
    jitted = jax.jit(lambda fn, z, t: fn(z, t))
    found = jitted(denoise_fn, z, np.array([0.5, 0.999], np.float32))
    for part in found:
        assert np.isfinite(part[0]).all() and np.isnan(part[1]).all()
    ends = np.array([0.0, 1.0], np.float32)
    same = predictions.reschedule(
        mixture().denoise_fn(schedule=narrow), source=narrow, target=narrow
    )
    np.testing.assert_allclose(
        same(z, ends).x, mixture().denoise_fn(schedule=narrow)(z, ends).x, rtol=1e-6
    )
    assert np.isfinite(jitted(same, z, ends).x).all()


@pytest.mark.parametrize(
    ("name", "end"), [("learned", 0.0), ("learned", 1.0), ("from_sde", 1.0)]
)
def test_a_finite_end_found_by_bisection_refuses_an_infinite_target(name, end):
    source, flow = ALL[name], schedules.FlowMatching()
    denoise_fn = predictions.reschedule(
        mixture().denoise_fn(schedule=source), source=source, target=flow
    )
    with pytest.raises(ValueError, match=f"t={end} is outside"):
        denoise_fn.check_times(end)


END = {  # source, target, and the end of the source that is reached on the target
    "steep": (schedules.LinearLogSNR(-18.0, 10.0), schedules.FlowMatching(), -18.0),
    "cosine": (schedules.LinearLogSNR(-15.0, 10.0), schedules.Cosine(), -15.0),
    "exploding": (schedules.VE(0.01, 2000.0), schedules.FlowMatching(), None),
    "rounds to 1": (
        schedules.LinearLogSNR(-36.0, 10.0),
        schedules.FlowMatching(),
        -36.0,
    ),
    "data": (schedules.LinearLogSNR(), schedules.FlowMatching(), 13.3),
}


@pytest.mark.parametrize(("source", "target", "end"), END.values(), ids=END)
def test_reschedule_at_the_end_of_the_source_in_float32(source, target, end):
    """A time rounded to float32 is at the end, or not far beyond, on steep targets."""
    end = -2 * np.log(2000.0) if end is None else end
    inwards = 0.5 * np.sign(end)
    with jax.enable_x64(True):
        times = np.asarray(target.inverse_logsnr([end, end - inwards, end + inwards]))
    exact = mixture()
    denoise_fn = predictions.reschedule(
        exact.denoise_fn(schedule=source), source=source, target=target
    )
    jitted = jax.jit(lambda z, t: denoise_fn(z, t))
    z = np.array([[0.3, -1.0]], np.float32)
    for t in times[:2].astype(np.float32):
        denoise_fn.check_times(t)
        expected = exact.denoise_fn(schedule=target)(z, t).x
        for fn in (denoise_fn, jitted):
            np.testing.assert_allclose(fn(z, t).x, expected, rtol=1e-3)
    denoise_fn.check_times(times[:2])
    if times[2].astype(np.float32) < 1:
        with pytest.raises(ValueError, match="is outside"):
            denoise_fn.check_times(times[2])
        assert np.isnan(jitted(z, times[2].astype(np.float32)).x).all()


def test_the_derivative_in_time_at_the_ends_of_a_rescheduled_model():
    """x_hat of a Gaussian, a smooth function of t: one-sided differences agree."""
    cosine, target = schedules.Cosine(-5.0, 5.0), schedules.LinearLogSNR(-5.0, 5.0)
    denoise_fn = predictions.reschedule(
        mixture().denoise_fn(schedule=cosine), source=cosine, target=target
    )
    with jax.enable_x64(True):
        z, step = np.array([[0.3, -1.0]]), 1e-6
        x = jax.jit(lambda t: denoise_fn(z, t).x[0, 0])
        for t, other in ((0.0, step), (1.0, 1 - step)):
            quotient = (x(other) - x(t)) / (other - t)
            slope = jax.grad(x)(t)
            np.testing.assert_allclose(slope, quotient, rtol=1e-4)


def test_a_source_that_lacks_the_middle_of_the_target_is_sampled():
    """At the log-SNRs that it has, and DDIM to sigma = 0, which evaluates nothing."""
    source, target = schedules.Cosine(0.0, 15.0), schedules.FlowMatching()
    exact = mixture()
    denoise_fn = predictions.reschedule(
        exact.denoise_fn(schedule=source), source=source, target=target
    )
    times = np.array([0.4, 0.2, 0.1, 0.0])  # the source begins at t = 1/2
    z = np.array([[0.3, -1.0]], np.float32)
    draw = lambda fn: samplers.sample(
        None, fn, z, times, sampler=samplers.Euler("u"), schedule=target
    )
    found = draw(denoise_fn)
    expected = draw(exact.denoise_fn(schedule=target))
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-4)
    assert found.nfe == expected.nfe == 3


def test_a_rescheduled_network_is_sampled():
    """DDIM on flow matching of a network of the cosine schedule: the same samples."""
    cosine, flow = schedules.Cosine(), schedules.FlowMatching()
    net = lambda z, t: jnp.tanh(z) * predictions.per_event(1 + t, z)
    original = predictions.denoiser(net, kind="v", schedule=cosine)
    moved = predictions.reschedule(original, source=cosine, target=flow)
    assert moved.num_network_calls(0.5) == 1
    times = np.linspace(1.0, 0.0, 9)
    with jax.enable_x64(True):
        grid = np.asarray(flow.inverse_logsnr(cosine.logsnr(times)))
        z = np.random.default_rng(0).normal(size=(4, 3))
        arguments = dict(sampler=samplers.ddim())
        one = samplers.sample(
            jax.random.key(0), original, z, times, schedule=cosine, **arguments
        )
        two = samplers.sample(
            jax.random.key(0), moved, z, grid, schedule=flow, **arguments
        )
        np.testing.assert_allclose(one.x, two.x, rtol=1e-10)


def test_a_score_at_sigma_0_says_nothing_of_eps_under_jit():
    """Where times are traced nothing can be refused, and 0 would be wrong."""
    denoised = jax.jit(
        lambda value, t: predictions.to_denoised(
            value, kind="score", z=value, t=t, schedule=schedules.FlowMatching()
        )
    )
    value = np.ones((2, 3), np.float32)
    at_data, inside = denoised(value, 0.0), denoised(value, 0.5)
    assert np.isnan(at_data.eps).all() and np.isfinite(at_data.x).all()
    np.testing.assert_allclose(inside.eps, -0.5)


def test_conversion_is_the_same_single_vmapped_and_jitted():
    schedule = schedules.Cosine()
    generator = np.random.default_rng(0)
    value, z = generator.normal(size=(2, 5, 3)).astype(np.float32)
    t = np.linspace(0.1, 0.9, 5, dtype=np.float32)
    for source, target in itertools.permutations(predictions.NAMES, 2):
        one = lambda value, z, t, source=source, target=target: predictions.convert(
            value, source=source, target=target, z=z, t=t, schedule=schedule
        )
        batched = one(value, z, t)
        single = [one(*example) for example in zip(value, z, t, strict=True)]
        vmapped = jax.jit(jax.vmap(one))(value, z, t)
        np.testing.assert_allclose(batched, np.stack(single), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batched, vmapped, rtol=1e-5, atol=1e-6)


def test_equal_kinds_are_checked_too():
    with pytest.raises(ValueError, match=r"has shape \(2, 3\): must be \(2, 1\)"):
        predictions.convert(
            np.ones((2, 3)),
            source="u",
            target="u",
            z=np.ones((2, 1)),
            t=0.5,
            schedule=schedules.FlowMatching(),
        )
