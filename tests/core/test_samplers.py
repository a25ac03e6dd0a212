"""What holds for every sampler. One list: a new sampler joins it and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    grids,
    guidance,
    predictions,
    random,
    samplers,
    schedules,
)
from tests.helpers.all_samplers import (
    SAMPLERS,
    SCHEDULES,
    STEEP,
    first_of_each_class,
    pairs,
    steps,
)

EVERY = {name: entry.sampler for name, entry in SAMPLERS.items()}
DATA = analytic.gaussian(np.array([0.5, -1.0]), 0.25)


def steps_are_finite(on, name, counts):
    sampler, schedule = EVERY[name], (SCHEDULES | STEEP)[on]
    z = samplers.prior(jax.random.key(0), (3, 2), schedule=schedule)
    for count in counts:
        rows = samplers.plan(sampler, grids.uniform(count), schedule=schedule)
        total = len(jax.tree.leaves(rows)[0])
        noise = np.random.default_rng(count).normal(
            size=(total, sampler.num_noises, 3, 2)
        )
        found = steps(sampler, rows, z, DATA.denoise_fn(schedule=schedule), noise)
        assert found.dtype == z.dtype and found.shape == (total + 1, 3, 2)
        assert np.isfinite(found).all()


@pairs(SAMPLERS, (*SCHEDULES, *STEEP))
def test_any_number_of_steps_from_pure_noise(on, name):
    steps_are_finite(on, name, (1, 2, 5, 14))


@pytest.mark.nightly
@pytest.mark.parametrize("on", [*SCHEDULES, *STEEP])
@pytest.mark.parametrize("name", SAMPLERS)
def test_more_numbers_of_steps_from_pure_noise(on, name):
    steps_are_finite(on, name, (3, 11, 50))


@pytest.mark.parametrize("name", first_of_each_class(SAMPLERS))
def test_sample_is_plan_and_run_and_the_step_to_the_data(name):
    sampler = EVERY[name]
    schedule, times = SCHEDULES["truncated"], grids.uniform(5)
    z = samplers.prior(jax.random.key(0), (3, 2), schedule=schedule)
    denoise_fn, source = DATA.denoise_fn(schedule=schedule), random.Independent()
    result = samplers.sample(
        jax.random.key(1),
        denoise_fn,
        z,
        times,
        sampler=sampler,
        schedule=schedule,
        trajectory=True,
    )
    rows = samplers.plan(sampler, times, schedule=schedule)
    noise = [
        source.draw(jax.random.key(1), i, sampler.num_noises, z)
        if sampler.num_noises
        else np.zeros((0, 3, 2))
        for i in range(len(jax.tree.leaves(rows)[0]))
    ]
    found = steps(sampler, rows, z, denoise_fn, np.stack(noise))
    np.testing.assert_allclose(result.trajectory[:-1], found, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(result.trajectory[0], z)
    np.testing.assert_array_equal(result.trajectory[-1], result.x)
    np.testing.assert_allclose(result.x, denoise_fn(found[-1], 0.0).x, atol=1e-5)
    assert result.x.shape == z.shape and result.x.dtype == z.dtype


@pairs(SAMPLERS)
def test_a_point_mass_comes_back(on, name):
    """Exactly, where one Euler step is exact for constant x and eps."""
    sampler, schedule = EVERY[name], SCHEDULES[on]
    point = np.array([0.7, -1.3], np.float32)
    data = analytic.Mixture(np.ones(1), point[None], 0.0)
    z = samplers.prior(jax.random.key(1), (4, 2), schedule=schedule)
    errors = []
    for count in (2, 20):
        rows = samplers.plan(sampler, grids.uniform(count), schedule=schedule)
        noise = np.random.default_rng(count).normal(
            size=(len(jax.tree.leaves(rows)[0]), sampler.num_noises, 4, 2)
        )
        x = steps(sampler, rows, z, data.denoise_fn(schedule=schedule), noise)[-1]
        if schedule == SCHEDULES["truncated"]:  # short of the data
            x = data.denoise_fn(schedule=schedule)(x, 0.0).x
        errors.append(np.abs(np.asarray(x) - point).max())
    not_exact = (
        samplers.EulerMaruyama,
        samplers.StochasticHeun,
        samplers.ReverseDiffusion,
    )
    variable = (
        "sde" if isinstance(sampler, not_exact) else getattr(sampler, "variable", "x")
    )
    exact = (
        variable not in ("v", "dz_dt", "sde")
        or (variable == "dz_dt" and schedule == SCHEDULES["flow"])
        or schedule == SCHEDULES["truncated"]
    )
    if not exact:
        assert errors[1] < errors[0] / 3
    else:
        assert max(errors) < 2e-5  # rounding of eps over alpha_1 = 1 / 150


@pairs(SAMPLERS, ("flow", "truncated"), one_of_a_class=True)
def test_calls_are_counted(on, name):
    sampler, schedule, calls = EVERY[name], SCHEDULES[on], []

    def predict_fn(z, t):
        calls.append(float(t))
        return 0.5 * z

    denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
    guided = guidance.classifier_free(denoise_fn, denoise_fn, scale=2.0)
    for fn in (denoise_fn, guided):
        calls.clear()
        with jax.disable_jit():
            result = samplers.sample(
                jax.random.key(0),
                fn,
                np.ones((2, 2), np.float32),
                grids.uniform(5),
                sampler=sampler,
                schedule=schedule,
            )
        assert result.nfe == len(calls)
        raises = isinstance(sampler, samplers.EDM | samplers.Restart)
        assert raises or all(np.diff(calls) <= 0)


@pytest.mark.ci
@pytest.mark.parametrize("name", first_of_each_class(SAMPLERS, fast_every=2))
def test_a_sample_is_the_same_in_every_batch(name):
    sampler, schedule = EVERY[name], SCHEDULES["flow"]

    def draw(index):
        prior_key, run_key = random.split(random.example_keys(3, index))
        z = samplers.prior(prior_key, (len(index), 2), schedule=schedule)
        return samplers.sample(
            run_key,
            DATA.denoise_fn(schedule=schedule),
            z,
            grids.uniform(6),
            sampler=sampler,
            schedule=schedule,
        ).x

    whole = draw(np.arange(64))
    np.testing.assert_allclose(whole[5:12], draw(np.arange(5, 12)), atol=1e-5)
    np.testing.assert_allclose(whole[41:42], draw(np.array([41])), atol=1e-5)


@pairs(SAMPLERS, ("truncated", "linear_beta"), one_of_a_class=True)
def test_host_and_traced_plans_agree(on, name):
    """Concrete: float64 on the host. Traced: the same code in float32."""
    sampler, schedule, times = EVERY[name], SCHEDULES[on], grids.uniform(10)
    host = samplers.plan(sampler, times, schedule=schedule)
    traced = jax.jit(samplers.plan)(
        sampler, times.astype(np.float32), schedule=schedule
    )
    assert jax.tree.structure(traced) == jax.tree.structure(host)
    columns = zip(jax.tree.leaves(traced), jax.tree.leaves(host), strict=True)
    for ours, column in columns:
        assert isinstance(column, np.ndarray)
        np.testing.assert_allclose(ours, column, rtol=2e-3, atol=2e-5)


def test_one_compilation_for_every_number():
    traces = []

    def predict_fn(scale, z, t):
        traces.append(None)
        return scale * z

    run = jax.jit(samplers.run)
    for number, schedule in enumerate(SCHEDULES.values()):
        fn = jax.tree_util.Partial(predict_fn, jnp.float32(number))
        sampler = samplers.Churn(0.1 * number)
        rows = samplers.plan(
            sampler, grids.uniform(4, t_max=0.9 + 0.01 * number), schedule=schedule
        )
        flow = SCHEDULES["flow"]
        denoise_fn = guidance.classifier_free(
            predictions.denoiser(fn, kind="u", schedule=flow),
            predictions.denoiser(fn, kind="u", schedule=flow),
            scale=float(number),
        )
        run(
            jax.random.key(number),
            denoise_fn,
            np.ones((2, 2), np.float32),
            rows,
            sampler=sampler,
        )
    assert len(traces) == 2  # once for each of the two networks


@pytest.mark.parametrize(
    "build",
    [
        samplers.DDIMEta,
        lambda number: samplers.EDM(10 * number, 0.1 * number, 9 * number, number),
        lambda number: samplers.SDEDPMSolver(2, number),
        lambda number: samplers.EulerMaruyama(samplers.diffusions.Sigma(number)),
        lambda number: samplers.StochasticHeun(samplers.diffusions.Eta(number)),
        lambda number: samplers.DPMSolver2S(r=number / 2),
    ],
    ids=["ddim_eta", "edm", "sde_dpm", "euler_maruyama", "stochastic_heun", "dpm_2s"],
)
def test_one_compilation_for_every_number_of_a_sampler(build):
    traces = []

    def denoise_fn(z, t):
        traces.append(None)
        return DATA.denoise_fn(schedule=SCHEDULES["flow"])(z, t)

    run = jax.jit(samplers.run, static_argnums=1)
    z, found = np.ones((2, 2), np.float32), []
    for number in (0.5, 0.75, 0.9):
        rows = samplers.plan(
            build(number), grids.uniform(4), schedule=SCHEDULES["flow"]
        )
        run(jax.random.key(0), denoise_fn, z, rows, sampler=build(number))
        found.append(len(traces))
    assert found[0] == found[-1] > 0


@pytest.mark.ci
def test_vmap_over_the_sampler_and_grad_through_it():
    schedule, times = SCHEDULES["flow"], grids.uniform(5)
    z = samplers.prior(jax.random.key(0), (3, 2), schedule=schedule)
    draw = lambda churn: (
        samplers.sample(
            jax.random.key(1),
            DATA.denoise_fn(schedule=schedule),
            z,
            times,
            sampler=samplers.Churn(churn),
            schedule=schedule,
        ).x
    )
    many = jax.vmap(draw)(jnp.array([0.2, 0.5]))
    np.testing.assert_allclose(many[1], draw(0.5), rtol=1e-4, atol=1e-5)
    assert np.isfinite(jax.grad(lambda churn: draw(churn).sum())(0.3))


@pytest.mark.ci
@pytest.mark.parametrize("name", first_of_each_class(SAMPLERS, fast_every=8))
def test_grad_in_a_learned_schedule(name):
    difference_quotient_agrees(name, "linear_beta")


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [
        "ddim",
        "dpm++2m",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("heun-v", "edm")),
    ],
)
def test_grad_in_a_learned_schedule_that_ends_short_of_the_data(name):
    difference_quotient_agrees(name, "truncated")


@pytest.mark.ci
def test_no_level_is_raised_by_a_rounding_where_the_schedule_ends():
    """At t = 1 there is no room to raise: 0, and so is its derivative, compiled too."""
    sampler, schedule = samplers.EDM(s_churn=40.0), SCHEDULES["truncated"]

    def raised(change):
        changed = jax.tree.map(lambda leaf: leaf * change, schedule)
        rows = samplers.plan(sampler, grids.uniform(6), schedule=changed)
        return rows["raise_noise"][0], rows["raise_z"][0]

    with jax.enable_x64(True):
        for change in (0.9, 1.0, 1.1):
            value, slope = jax.jit(lambda c: jax.jvp(raised, (c,), (1.0,)))(change)
            assert (*value, *slope) == (0.0, 1.0, 0.0, 0.0)


def difference_quotient_agrees(name, on):
    """From pure noise to the data: finite, and a difference quotient agrees."""
    sampler, schedule = SAMPLERS[name].sampler, SCHEDULES[on]
    z = np.linspace(-1.0, 1.0, 4).reshape(2, 2)

    def total(change):
        changed = jax.tree.map(lambda leaf: leaf * change, schedule)
        x = samplers.sample(
            jax.random.key(0),
            DATA.denoise_fn(schedule=changed),
            z,
            grids.uniform(3),
            sampler=sampler,
            schedule=changed,
        ).x
        return x.sum()

    with jax.enable_x64(True), jax.disable_jit():
        slope = jax.grad(total)(1.0)
        quotient = (total(1 + 1e-6) - total(1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, quotient, rtol=1e-4, atol=1e-7)


@pytest.mark.ci
def test_to_data():
    schedule = SCHEDULES["truncated"]
    z = samplers.prior(jax.random.key(0), (3, 2), schedule=schedule)
    settings = dict(sampler=samplers.ddim(), schedule=schedule, trajectory=True)
    denoise_fn, times = DATA.denoise_fn(schedule=schedule), grids.uniform(4)
    short = samplers.sample(
        jax.random.key(0), denoise_fn, z, times, to_data=False, **settings
    )
    full = samplers.sample(jax.random.key(0), denoise_fn, z, times, **settings)
    assert (short.nfe, full.nfe) == (4, 5)
    assert (len(short.trajectory), len(full.trajectory)) == (5, 6)
    np.testing.assert_allclose(full.x, denoise_fn(short.x, 0.0).x, rtol=1e-6)
    traced = jax.jit(
        lambda schedule: samplers.sample(
            jax.random.key(0),
            DATA.denoise_fn(schedule=schedule),
            z,
            times,
            sampler=samplers.ddim(),
            schedule=schedule,
        )
    )(schedule)
    np.testing.assert_allclose(traced.x, full.x, rtol=1e-3, atol=1e-4)
    assert traced.nfe == 5


def test_refusals():
    z, schedule = np.ones((2, 2), np.float32), SCHEDULES["flow"]
    by_eps = predictions.denoiser(lambda z, t: z, kind="eps", schedule=schedule)
    sample = lambda fn, times, sampler=EVERY["ddim"]: samplers.sample(
        jax.random.key(0), fn, z, times, sampler=sampler, schedule=schedule
    )
    with pytest.raises(ValueError, match=r"eps does not determine .* at t=1\.0"):
        sample(by_eps, grids.uniform(3))
    assert np.isfinite(sample(by_eps, grids.uniform(3, t_max=0.99)).x).all()
    with pytest.raises(ValueError, match="each time must be below"):
        sample(by_eps, np.array([0.5, 0.7]))
    near = grids.logsnr_uniform(
        3, schedule=schedule, logsnr_min=-36.0
    )  # below 1 in float64
    with pytest.raises(ValueError, match=r"rounded to float32: .* at t=1\.0"):
        sample(by_eps, near)
    rows = samplers.plan(samplers.ddpm(), grids.uniform(2), schedule=schedule)
    with pytest.raises(ValueError, match="key=None: .* takes a random key"):
        samplers.run(None, by_eps, z, rows, sampler=samplers.ddpm())
    for churn in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"churn={churn}.*\[0, 1\]"):
            samplers.Churn(churn)
    with pytest.raises(ValueError, match="s_tmin=50.0.*s_tmax=0.05"):
        samplers.EDM(10.0, s_tmin=50.0, s_tmax=0.05)  # would never raise a level
    with pytest.raises(ValueError, match="did you mean 'eps'"):
        samplers.Heun("epss")


def test_prior_has_the_noise_level():
    wide = schedules.LinearBeta(beta_max=1.0)
    z = samplers.prior(jax.random.key(0), (50_000,), schedule=wide)
    np.testing.assert_allclose(z.std(), wide.sigma(1.0), rtol=0.02)


@pytest.mark.ci
def test_a_list_is_a_grid():
    settings = dict(sampler=samplers.ddim(), schedule=SCHEDULES["flow"])
    denoise_fn, z = (
        DATA.denoise_fn(schedule=SCHEDULES["flow"]),
        np.ones((3, 2), np.float32),
    )
    draw = lambda times: samplers.sample(
        jax.random.key(0), denoise_fn, z, times, **settings
    )
    expected = draw(np.array([1.0, 0.5, 0.0])).x
    np.testing.assert_array_equal(draw([1.0, 0.5, 0.0]).x, expected)
    np.testing.assert_array_equal(draw((1, 0.5, 0)).x, expected)
    traced = jax.jit(lambda middle: draw([1.0, middle, 0.0]).x)(0.5)
    np.testing.assert_allclose(traced, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="times=1.0: must be a grid"):
        draw(1.0)


@pytest.mark.ci
@pytest.mark.filterwarnings("error")
def test_a_traced_plan_on_a_grid_of_the_library_does_not_warn():
    of = samplers.diffusions
    noises = (of.Eta, of.Sigma, of.Linear, of.Constant, of.Decreasing)
    build = [samplers.Churn, samplers.EDM, lambda eta: samplers.SDEDPMSolver(2, eta)]
    build += [lambda n, fn=fn: samplers.EulerMaruyama(fn(n)) for fn in noises]
    times = grids.uniform(3)
    for sampler in build:
        plan = lambda number, sampler=sampler: samplers.plan(
            sampler(number), times, schedule=SCHEDULES["flow"]
        )
        jax.eval_shape(plan, 0.5)
    rising = lambda end: (
        samplers.invert(
            DATA.denoise_fn(schedule=schedules.Cosine(-end, end)),
            np.ones(2, np.float32),
            times[::-1],
            sampler=samplers.AdamsBashforth(),
            schedule=schedules.Cosine(-end, end),
        ).x
    )
    jax.eval_shape(rising, 12.0)
