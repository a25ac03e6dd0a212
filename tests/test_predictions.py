import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import predictions, schedules

SCHEDULES = (
    schedules.FlowMatching(),
    schedules.Cosine(),
    schedules.Cosine(-15.0, 15.0),
    schedules.LinearBeta(),
)
KINDS = (*predictions.NAMES, predictions.edm_f(sigma_data=0.5))
EPS32 = np.finfo(np.float32).eps


def exact(kind, x, eps, alpha, sigma, dalpha, dsigma):
    """Every kind from its definition, float64."""
    root = np.sqrt(sigma**2 + 0.25 * alpha**2)
    forms = {
        "x": lambda: x,
        "eps": lambda: eps,
        "v": lambda: alpha * eps - sigma * x,
        "u": lambda: eps - x,
        "dz_dt": lambda: dalpha * x + dsigma * eps,
        "score": lambda: -eps / sigma,
        "edm_f(sigma_data=0.5)": lambda: (sigma * x / 0.5 - 0.5 * alpha * eps) / root,
    }
    return forms[str(kind)]()


def case(schedule, t, shape=(4, 2, 3), seed=0):
    """x, eps, z and the levels in float64, at times t of shape [batch]."""
    generator = np.random.default_rng(seed)
    x, eps = generator.normal(size=(2, *shape))
    with jax.enable_x64(True):
        levels = [
            np.asarray(value).reshape(-1, 1, 1)
            for value in (
                schedule.alpha(t),
                schedule.sigma(t),
                *schedules.derivatives(schedule, t),
            )
        ]
    return x, eps, levels[0] * x + levels[1] * eps, levels


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(
    ("source", "target"),
    list(itertools.product(KINDS, KINDS)),
    ids=lambda kind: str(kind),
)
def test_every_kind_becomes_every_kind(schedule, source, target):
    t = np.array([0.02, 0.3, 0.7, 0.98])
    x, eps, z, levels = case(schedule, t)
    value, expected = (exact(kind, x, eps, *levels) for kind in (source, target))
    convert = lambda value, z, t: predictions.convert(
        value, source=source, target=target, z=z, t=t, schedule=schedule
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(convert(value, z, t), expected, rtol=1e-9, atol=1e-9)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    t=st.floats(1e-3, 1 - 1e-3),
    pair=st.sampled_from(
        list(itertools.permutations(("x", "eps", "v", "u", "score"), 2))
    ),
    schedule=st.sampled_from(SCHEDULES),
    seed=st.integers(0, 100),
)
def test_round_trips_in_float32(t, pair, schedule, seed):
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
    size = max(np.abs(value).max(), np.abs(there).max(), np.abs(z).max(), 1)
    bound = 8 * EPS32 * max(1 / alpha, 1 / sigma) * size
    assert np.abs(back - value).max() <= bound


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_mse_ratio_is_the_ratio_of_errors(kind, schedule):
    t = np.array([0.1, 0.5, 0.9])
    x, eps, z, levels = case(schedule, t, (3, 2, 3))
    wrong = eps + 0.1
    implied = (z - levels[1] * wrong) / levels[0]  # x moves so that z stays
    error = exact(kind, implied, wrong, *levels) - exact(kind, x, eps, *levels)
    with jax.enable_x64(True):
        ratio = predictions.mse_ratio(kind, t, schedule=schedule)
    np.testing.assert_allclose(ratio, (error**2).mean((1, 2)) / 0.01, rtol=1e-9)


@pytest.mark.parametrize("kind", ["v", "u", predictions.edm_f(0.5)], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_v_u_and_f_are_finite_at_both_ends(kind, schedule):
    t = np.array([0.0, 1e-7, 1 - 1e-7, 1.0], np.float32)
    x, eps, z, levels = case(schedule, t)
    value = exact(kind, x, eps, *levels).astype(np.float32)
    denoised = predictions.to_denoised(
        value, kind=kind, z=z.astype(np.float32), t=t, schedule=schedule
    )
    np.testing.assert_allclose(denoised.x, x, atol=2e-6)
    np.testing.assert_allclose(denoised.eps, eps, atol=2e-6)
    total = lambda value: jnp.sum(
        predictions.to_denoised(
            value, kind=kind, z=z.astype(np.float32), t=t, schedule=schedule
        ).x
    )
    assert np.isfinite(jax.grad(total)(value)).all()


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
        with pytest.raises(ValueError, match="do not fit an array of shape"):
            denoise_fn(np.ones((3, 2), np.float32), t)
    with pytest.raises(AssertionError):
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


def test_the_cost_of_a_network_is_kept_by_every_wrapper():
    class Twice:
        cost = 2

        def __call__(self, z, t):
            return z

    schedule = schedules.FlowMatching()
    flipped = predictions.flip_time(Twice(), kind="u")
    scaled = predictions.precondition(flipped, schedule=schedule)
    for predict_fn, cost in ((Twice(), 2), (flipped, 2), (scaled, 2), (jnp.sin, 1)):
        denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
        assert denoise_fn.cost == cost


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
