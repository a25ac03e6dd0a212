"""Guidance on exact denoisers of class-conditional mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, guidance, predictions, samplers, schedules
from tests.helpers.all_schedules import SCHEDULES
from tests.helpers.guided import BOTH, MEANS, SCHEDULE, network

ONE = analytic.Mixture(np.array([1.0]), MEANS[:1], 0.2)
NETWORK_KINDS = ("x", "eps", "u", "v", "dz_dt", "score")


def pair(kind="u", schedule=SCHEDULE):
    return network(ONE, kind, schedule), network(BOTH, kind, schedule)


def combinations(conditional, unconditional, schedule=SCHEDULE, scale=2.5):
    """Every wrapper, and wrappers of wrappers."""
    plain = guidance.classifier_free(conditional, unconditional, scale=scale)
    interval = guidance.limited(
        plain, schedule=schedule, logsnr_min=-2.0, logsnr_max=2.0
    )
    shape = dict(schedule=schedule, batch_ndim=1)
    known = np.array([0.4, 0.0, 0.0]), np.array([True, False, False])
    both = conditional, unconditional
    bands = guidance.frequency_decoupled(*both, scales=(1.5, 3.0), batch_ndim=0)
    return {
        "classifier-free": plain,
        "limited": interval,
        "rescaled": guidance.rescale(plain, kind="v", **shape),
        "rescaled limited": guidance.rescale(interval, kind="x", **shape),
        "projected": guidance.projected(
            *both, scale=scale, parallel=0.3, norm_limit=1.0, **shape
        ),
        "zero star": guidance.zero_star(*both, scale=scale, **shape),
        "weighted bands": guidance.weighted(
            bands, schedule=schedule, weight_fn=jax.nn.sigmoid
        ),
        "static": guidance.static_threshold(
            interval, schedule=schedule, low=-0.9, high=1.1
        ),
        "dynamic": guidance.dynamic_threshold(
            guidance.rescale(interval, kind="v", **shape), quantile=0.8, **shape
        ),
        "inpainted": guidance.inpaint(
            guidance.static_threshold(plain, schedule=schedule, low=-2.0, high=2.0),
            *known,
            schedule=schedule,
        ),
    }


NAMES = tuple(combinations(*pair()))
Z = np.random.default_rng(0).normal(size=(5, 3)) * 1.5


def test_scale_zero_and_one_are_exact():
    conditional, unconditional = pair()
    z, t = Z.astype(np.float32), np.float32(0.3)
    for scale, expected in ((1.0, conditional), (0.0, unconditional)):
        guided = guidance.classifier_free(conditional, unconditional, scale=scale)(z, t)
        for ours, theirs in zip(guided, expected(z, t), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.ci
def test_each_example_may_have_a_scale_of_its_own():
    """As many examples as features, so that a wrong axis would fit, too."""
    fns, z, scale = pair(), jnp.asarray(MEANS, jnp.float32), jnp.array([1.0, 3.0, 0.5])
    settings = dict(kind="v", schedule=SCHEDULE, batch_ndim=1)
    both = guidance.classifier_free(*fns, scale=scale)
    rescaled = guidance.rescale(both, strength=scale / 4, **settings)
    for number in range(3):
        alone = guidance.classifier_free(*fns, scale=scale[number])
        np.testing.assert_array_equal(both(z, 0.4).x[number], alone(z, 0.4).x[number])
        alone = guidance.rescale(alone, strength=scale[number] / 4, **settings)
        np.testing.assert_array_equal(
            rescaled(z, 0.4).eps[number], alone(z, 0.4).eps[number]
        )
    with pytest.raises(ValueError, match=r"scale of shape \(2,\) does not fit"):
        guidance.classifier_free(*fns, scale=jnp.ones(2))(z, 0.4)


def test_scale_three_goes_three_times_as_far():
    conditional, unconditional = pair()
    z, t = Z.astype(np.float32), np.float32(0.7)
    guided = guidance.classifier_free(conditional, unconditional, scale=3.0)(z, t)
    start, end = unconditional(z, t), conditional(z, t)
    expected = start.x + 3 * (end.x - start.x)
    np.testing.assert_allclose(guided.x, expected, rtol=1e-5, atol=1e-6)
    plain = guidance.classifier_free(conditional, unconditional, scale=3.0)
    assert plain.num_network_calls(0.5) == 2
    weight = guidance.autoguidance(
        conditional, unconditional, scale=guidance.from_weight(2)
    )
    np.testing.assert_array_equal(weight(z, t).x, guided.x)


@pytest.mark.pinned
@pytest.mark.parametrize(
    "kind", ["x", "eps", "v", "score", predictions.edm_f(0.5)], ids=str
)
def test_mixing_in_every_kind(kind):
    """Mixing the predictions of any kind equals mixing x and eps."""
    with jax.enable_x64(True):
        t = np.float64(0.4)
        conditional, unconditional = pair()
        guided = guidance.classifier_free(conditional, unconditional, scale=2.5)(Z, t)
        values = [
            predictions.from_denoised(fn(Z, t), kind=kind, t=t, schedule=SCHEDULE)
            for fn in (conditional, unconditional)
        ]
        mixed = values[1] + 2.5 * (values[0] - values[1])
        implied = predictions.to_denoised(mixed, kind=kind, z=Z, t=t, schedule=SCHEDULE)
        np.testing.assert_allclose(guided.x, implied.x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(guided.eps, implied.eps, rtol=1e-9, atol=1e-12)


@pytest.mark.ci
@pytest.mark.pinned
@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_network_predicts(name):
    """Networks with the same model and another output give the same result."""
    with jax.enable_x64(True), jax.disable_jit():
        for t in (0.05, 0.5, 0.95):
            found = [
                combinations(*pair(kind))[name](Z, np.float64(t))
                for kind in NETWORK_KINDS
            ]
            for denoised in found[1:]:
                np.testing.assert_allclose(denoised.x, found[0].x, atol=1e-9)
                np.testing.assert_allclose(denoised.eps, found[0].eps, atol=1e-9)


@pytest.mark.pinned
@pytest.mark.parametrize("name", NAMES)
def test_x_and_eps_stay_a_pair(name):
    with jax.enable_x64(True), jax.disable_jit():
        for t in (0.05, 0.5, 0.97):
            denoised = combinations(*pair())[name](Z, np.float64(t))
            alpha, sigma = SCHEDULE.alpha(np.float64(t)), SCHEDULE.sigma(np.float64(t))
            z = alpha * denoised.x + sigma * denoised.eps
            np.testing.assert_allclose(z, Z, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_finite_with_finite_gradients_at_the_ends(name):
    denoise_fn = combinations(*pair())[name]
    value = lambda z, t: jax.tree.reduce(
        jnp.add, jax.tree.map(jnp.sum, denoise_fn(z, t))
    )
    step = jax.jit(jax.value_and_grad(value))
    for t in (0.0, 1e-7, 0.5, 1 - 1e-7, 1.0):
        if "rescaled limited" in name and t == 0:
            continue  # rescaled as x, which does not determine eps there
        for z in (Z.astype(np.float32), np.zeros((5, 3), np.float32)):
            found = step(z, np.float32(t))
            assert all(np.isfinite(part).all() for part in found), (t, found)


@pytest.mark.ci
@pytest.mark.parametrize("name", NAMES)
def test_calls_are_counted(name):
    """By the networks themselves, in every step and stage of a compiled run."""
    calls = []

    def predict_fn(z, t):
        jax.debug.callback(lambda: calls.append(None))
        return jnp.sin(z)

    network_fn = predictions.denoiser(predict_fn, kind="u", schedule=SCHEDULE)
    denoise_fn = combinations(network_fn, network_fn)[name]
    times, key = grids.uniform(9, t_min=0.01), jax.random.key(0)
    sampler, z = samplers.Heun("u"), Z.astype(np.float32)
    settings = dict(sampler=sampler, schedule=SCHEDULE)
    sample = lambda z: samplers.sample(key, denoise_fn, z, times, **settings)
    result = jax.block_until_ready(jax.jit(sample)(z))
    jax.effects_barrier()
    assert result.nfe == len(calls)
    limited = "limited" in name or name in ("static", "dynamic", "weighted bands")
    assert (len(calls) < 2 * 19) == limited


def test_calls_are_a_python_number_outside_jit():
    for name in ("classifier-free", "limited"):
        result = samplers.sample(
            jax.random.key(0),
            combinations(*pair())[name],
            Z.astype(np.float32),
            grids.uniform(4),
            sampler=samplers.ddim(),
            schedule=SCHEDULE,
        )
        assert isinstance(result.nfe, int)


@pytest.mark.parametrize("name", ["FM", "vp_lin", "ve_geo"])
def test_an_interval_is_the_same_on_every_schedule(name):
    """Inside it both networks, outside exactly the positive one."""
    schedule = SCHEDULES[name]
    conditional, unconditional = pair(schedule=schedule)
    plain = guidance.classifier_free(conditional, unconditional, scale=3.0)
    interval = guidance.limited(
        plain, schedule=schedule, logsnr_min=-1.0, logsnr_max=1.5
    )
    for logsnr, inside in ((-1.01, 0), (-0.99, 1), (1.49, 1), (1.51, 0)):
        t = schedule.inverse_logsnr(np.float32(logsnr))
        z = Z.astype(np.float32)
        expected, found = (plain if inside else conditional)(z, t), interval(z, t)
        for ours, theirs in zip(found, expected, strict=True):
            if inside:  # a compiled branch, which rounds differently
                np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
            else:
                np.testing.assert_array_equal(ours, theirs)
        assert interval.num_network_calls(t) == 1 + inside


@pytest.mark.ci
def test_an_interval_with_a_time_per_example():
    conditional, unconditional = pair()
    plain = guidance.classifier_free(conditional, unconditional, scale=3.0)
    interval = guidance.limited(
        plain, schedule=SCHEDULE, logsnr_min=-1.0, logsnr_max=1.0
    )
    t, z = np.array([0.1, 0.4, 0.5, 0.6, 0.9], np.float32), Z.astype(np.float32)
    found, inside = interval(z, t).x, np.array([0, 1, 1, 1, 0], bool)
    np.testing.assert_allclose(found[inside], plain(z, t).x[inside], atol=1e-5)
    np.testing.assert_array_equal(found[~inside], conditional(z, t).x[~inside])
    assert (
        interval.num_network_calls(t) == 2
        and interval.num_network_calls(t[~inside]) == 1
    )
    each = jax.vmap(interval)(z, t)
    np.testing.assert_allclose(each.x, found, atol=1e-5)


def test_without_bounds_an_interval_is_everything():
    plain = guidance.classifier_free(*pair(), scale=3.0)
    everywhere = guidance.limited(plain, schedule=SCHEDULE)
    for t in (0.0, 0.5, 1.0):
        z, t = Z.astype(np.float32), np.float32(t)
        expected = plain(z, t).x if t else pair()[0](z, t).x  # logsnr = inf is outside
        np.testing.assert_allclose(everywhere(z, t).x, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["v", "x", "eps", "u"])
def test_rescaled_to_the_spread_of_the_conditional_prediction(kind):
    settings = dict(kind=kind, schedule=SCHEDULE, batch_ndim=1)
    plain = guidance.classifier_free(*pair(), scale=4.0)
    with jax.enable_x64(True):
        t = np.float64(0.6)
        values = [
            predictions.from_denoised(fn(Z, t), kind=kind, t=t, schedule=SCHEDULE)
            for fn in (
                plain,
                pair()[0],
                guidance.rescale(plain, strength=1.0, **settings),
                guidance.rescale(plain, strength=0.7, **settings),
                guidance.rescale(plain, strength=0.0, **settings),
            )
        ]
        guided, positive, full, part, none = (np.asarray(value) for value in values)
    std = lambda value: value.std(axis=1, keepdims=True)
    np.testing.assert_allclose(std(full), std(positive), rtol=1e-9)
    np.testing.assert_allclose(full, guided * std(positive) / std(guided), rtol=1e-8)
    np.testing.assert_allclose(part, 0.7 * full + 0.3 * guided, rtol=1e-8)
    np.testing.assert_array_equal(none, guided)
    assert np.abs(std(guided) / std(positive) - 1).max() > 0.05


def test_where_nothing_is_guided_nothing_is_rescaled():
    conditional, unconditional = pair()
    plain = guidance.classifier_free(conditional, unconditional, scale=3.0)
    interval = guidance.limited(
        plain, schedule=SCHEDULE, logsnr_min=0.0, logsnr_max=1.0
    )
    rescaled = guidance.rescale(interval, kind="v", schedule=SCHEDULE, batch_ndim=1)
    z, t = Z.astype(np.float32), np.float32(0.8)
    np.testing.assert_array_equal(rescaled(z, t).x, conditional(z, t).x)
    np.testing.assert_array_equal(rescaled(z, t).eps, conditional(z, t).eps)


def test_thresholds():
    z, t = Z.astype(np.float32), np.float32(0.3)
    plain = guidance.classifier_free(*pair(), scale=4.0)
    free = np.asarray(plain(z, t).x)
    clipped = guidance.static_threshold(plain, schedule=SCHEDULE, low=-0.5, high=1.0)
    np.testing.assert_array_equal(clipped(z, t).x, np.clip(free, -0.5, 1.0))
    wide = guidance.static_threshold(plain, schedule=SCHEDULE, low=-50.0, high=50.0)
    np.testing.assert_array_equal(wide(z, t).eps, plain(z, t).eps)
    settings = dict(schedule=SCHEDULE, batch_ndim=1)
    sizes = np.quantile(np.abs(free), 0.6, axis=1, keepdims=True)
    limit = float(np.median(sizes))  # larger than some, smaller than others
    dynamic = guidance.dynamic_threshold(plain, quantile=0.6, limit=limit, **settings)
    bound = np.maximum(sizes, limit)
    expected = np.clip(free, -bound, bound) * limit / bound
    np.testing.assert_allclose(dynamic(z, t).x, expected, rtol=1e-5, atol=1e-6)
    assert (sizes > limit).any() and (sizes < limit).any()
    same = guidance.dynamic_threshold(plain, quantile=1.0, limit=50.0, **settings)
    np.testing.assert_array_equal(same(z, t).x, free)


def test_no_compilation_for_another_number():
    traces = []

    def predict_fn(z, t):
        traces.append(None)
        return jnp.sin(z)

    network_fn = predictions.denoiser(predict_fn, kind="u", schedule=SCHEDULE)
    step = jax.jit(lambda denoise_fn, z, t: denoise_fn(z, t))
    z = Z.astype(np.float32)
    for number in (1.5, 2.5, 3.5):
        plain = guidance.classifier_free(network_fn, network_fn, scale=number)
        interval = guidance.limited(
            plain, schedule=SCHEDULE, logsnr_min=-number, logsnr_max=number
        )
        shape = dict(schedule=SCHEDULE, batch_ndim=1)
        rescaled = guidance.rescale(interval, kind="v", strength=number / 4, **shape)
        dynamic = guidance.dynamic_threshold(
            rescaled, quantile=number / 4, limit=number, **shape
        )
        static = guidance.static_threshold(
            dynamic, schedule=SCHEDULE, low=-number, high=number
        )
        known = np.full(3, number, np.float32)
        mask = np.array([True, False, number > 2])
        step(guidance.inpaint(static, known, mask, schedule=SCHEDULE), z, number / 4)
    assert len(traces) == 2  # one for each network


def test_a_rescheduled_guided_denoiser_is_counted_too():
    flow = schedules.FlowMatching()
    interval = combinations(*pair())["limited"]
    moved = predictions.reschedule(interval, source=SCHEDULE, target=flow)
    for logsnr in (-3.0, 0.0, 3.0):
        t = flow.inverse_logsnr(np.float32(logsnr))
        assert moved.num_network_calls(t) == (2 if logsnr == 0 else 1)


def test_refusals():
    conditional, unconditional = pair()
    plain = guidance.classifier_free(conditional, unconditional, scale=2.0)
    shape = dict(schedule=SCHEDULE, batch_ndim=1)
    for build, words in (
        (
            lambda: guidance.limited(
                plain, schedule=SCHEDULE, logsnr_min=1.0, logsnr_max=0.5
            ),
            "logsnr_min=1.0: must be below logsnr_max=0.5",
        ),
        (
            lambda: guidance.limited(conditional, schedule=SCHEDULE),
            "limited takes guidance by two denoisers, such as classifier_free",
        ),
        (
            lambda: guidance.rescale(conditional, kind="v", **shape),
            "rescale takes what classifier_free, autoguidance and limited return",
        ),
        (lambda: guidance.rescale(plain, kind="velocity", **shape), "velocity"),
        (
            lambda: guidance.rescale(plain, kind="v", schedule=SCHEDULE, batch_ndim=3)(
                Z, 0.5
            ),
            r"batch_ndim=3: must be below 2",
        ),
        (
            lambda: guidance.static_threshold(
                plain, schedule=SCHEDULE, low=1.0, high=1.0
            ),
            "low=1.0: must be below high=1.0",
        ),
        (
            lambda: guidance.dynamic_threshold(plain, quantile=99.5, **shape),
            r"quantile=99.5: must be in \[0, 1\]",
        ),
        (
            lambda: guidance.inpaint(plain, Z, np.ones(3), schedule=SCHEDULE),
            "mask has dtype float.*must be bool",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            build()


@pytest.mark.parametrize("name", NAMES)
def test_what_one_network_refuses_the_wrappers_refuse(name):
    guided = combinations(*pair("eps"))[name]
    with pytest.raises(ValueError, match="eps does not determine"):
        guided.check_times(np.array([1.0, 0.5]))
    guided.check_times(np.array([0.9, 0.5]))


@pytest.mark.ci
def test_limited_guidance_leaks_no_tracer():
    schedule, z = schedules.FlowMatching(), jnp.ones((2, 3))
    denoise_fn = predictions.denoiser(lambda z, t: z, kind="x", schedule=schedule)
    guided = guidance.limited(
        guidance.classifier_free(denoise_fn, denoise_fn, scale=2.0),
        schedule=schedule,
        logsnr_min=-2.0,
        logsnr_max=2.0,
    )
    run = lambda z: samplers.sample(
        jax.random.key(0),
        guided,
        z,
        grids.uniform(3),
        sampler=samplers.ddim(),
        schedule=schedule,
    )
    with jax.checking_leaks():
        assert jax.jit(lambda z: run(z).x)(z).shape == (2, 3)
