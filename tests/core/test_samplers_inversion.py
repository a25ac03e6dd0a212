"""Data to noise and back, and the adaptive solver, on data whose flow is known."""

import jax
import numpy as np
import pytest

from diffusionflow import analytic, grids, guidance, predictions, samplers
from tests.helpers import oracles
from tests.helpers.all_samplers import SCHEDULES, levels

VARIANCE = 0.25
DATA = analytic.gaussian(np.zeros(2), VARIANCE)
Z = np.linspace(-1.0, 1.0, 6).reshape(3, 2)


def exact(schedule, t0, t1):
    """The probability-flow ODE keeps z / sqrt(V)."""
    alpha, sigma = levels(schedule, np.array([t0, t1]))
    spread = np.sqrt(alpha**2 * VARIANCE + sigma**2)
    return Z * spread[1] / spread[0]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (samplers.Euler("x"), 1),
        (samplers.Heun("u"), 2),
        (samplers.DPMSolver(2), 2),
        (samplers.UniPC(2), 3),
    ],
    ids=str,
)
def test_encoding_converges_with_the_order_and_decoding_inverts_it(sampler, order):
    schedule, counts = SCHEDULES["cosine"], (40, 80, 160)
    errors, back = [], []
    settings = dict(sampler=sampler, schedule=schedule)
    with jax.enable_x64(True):
        denoise_fn = DATA.denoise_fn(schedule=schedule)
        for count in counts:
            falling = grids.logsnr_uniform(
                count, schedule=schedule, logsnr_min=-5.0, logsnr_max=5.0
            )
            rising = falling[::-1]
            noise = samplers.invert(denoise_fn, Z, rising, **settings).x
            errors.append(np.abs(noise - exact(schedule, rising[0], rising[-1])).max())
            x = samplers.sample(
                None, denoise_fn, noise, falling, to_data=False, **settings
            ).x
            back.append(np.abs(x - Z).max())
    assert oracles.order(errors, counts) >= order - 0.15
    assert oracles.order(back, counts) >= order - 0.15


def test_inversion_refuses():
    schedule = SCHEDULES["flow"]
    settings = dict(schedule=schedule)
    with pytest.raises(ValueError, match="draws noise"):
        samplers.invert(None, Z, [0.1, 0.9], sampler=samplers.ddim(), **settings)
    with pytest.raises(ValueError, match="each time must be below"):
        samplers.invert(None, Z, [0.9, 0.1], sampler=samplers.Heun(), **settings)
    by_x, by_eps = (
        predictions.denoiser(lambda z, t: z, kind=kind, schedule=schedule)
        for kind in ("x", "eps")
    )
    invert = lambda fn, sampler, times: samplers.invert(
        fn, Z, times, sampler=sampler, **settings
    )
    with pytest.raises(ValueError, match=r"x does not determine .* at t=0\.0"):
        invert(by_x, samplers.Euler("u"), [0.0, 0.5])
    with pytest.raises(ValueError, match=r"eps does not determine .* at t=1\.0"):
        invert(by_eps, samplers.Heun("u"), [0.5, 1.0])  # evaluates at both ends
    assert np.isfinite(invert(by_eps, samplers.Euler("u"), [0.5, 1.0]).x).all()
    late = 1 - 1e-9
    with pytest.raises(ValueError, match=r"rounded to float32: .* at t=1\.0"):
        invert(by_eps, samplers.Euler("u"), [0.5, late, 1.0])


def test_inversion_takes_a_list_and_a_traced_sampler():
    schedule, times = SCHEDULES["flow"], [0.1, 0.5, 0.9]
    invert = lambda r, times: samplers.invert(
        DATA.denoise_fn(schedule=schedule),
        Z.astype(np.float32),
        times,
        sampler=samplers.DPMSolver2S(r=r),
        schedule=schedule,
    )
    plain = invert(0.4, np.array(times)).x
    np.testing.assert_array_equal(invert(0.4, times).x, plain)
    traced = jax.jit(lambda r: invert(r, times).x)(0.4)
    np.testing.assert_allclose(traced, plain, rtol=1e-5)


def test_the_adaptive_solver_refuses():
    schedule = SCHEDULES["flow"]
    by_eps = predictions.denoiser(lambda z, t: z, kind="eps", schedule=schedule)
    solve = lambda *ends: samplers.solve(
        by_eps, Z.astype(np.float32), *ends, schedule=schedule
    )
    with pytest.raises(ValueError, match=r"eps does not determine .* at t=1\.0"):
        solve(1.0, 0.0)
    with pytest.raises(ValueError, match=r"rounded to float32: .* at t=1\.0"):
        solve(0.0, 1 - 1e-9)
    for ends, words in (((1.5, 0.0), r"t0=1\.5"), ((0.5, -0.1), r"t1=-0\.1")):
        with pytest.raises(ValueError, match=words + r".* in \[0, 1\]"):
            solve(*ends)


def test_adaptive_dpm_solver_goes_towards_the_data_alone():
    schedule, z = SCHEDULES["flow"], Z.astype(np.float32)
    for ends, words in (
        ((0.1, 0.9), "t1=0.9: must be below t0=0.1"),
        ((1.0, 0.1), "t0=1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            samplers.solve_dpm(
                DATA.denoise_fn(schedule=schedule), z, *ends, schedule=schedule
            )


@pytest.mark.ci
def test_the_adaptive_solver_puts_known_data_in():
    """Bit for bit at the data, and not where z has noise."""
    schedule, known = SCHEDULES["flow"], np.float32([0.37, 0.0])
    denoise_fn = guidance.inpaint(
        DATA.denoise_fn(schedule=schedule),
        known,
        np.array([True, False]),
        schedule=schedule,
    )
    z = Z.astype(np.float32)
    end = jax.jit(lambda t1: samplers.solve(denoise_fn, z, 1.0, t1, schedule=schedule))
    found = end(0.0)
    assert found.done.all()
    np.testing.assert_array_equal(found.x[:, 0], np.float32(0.37))
    np.testing.assert_allclose(
        found.x[:, 1], exact(schedule, 1.0, 0.0)[:, 1], atol=1e-3
    )
    noised = 0.5 * 0.37 + 0.5 * z[:, 0]
    np.testing.assert_allclose(end(0.5).x[:, 0], noised, atol=1e-3)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["flow", "linear_beta"])
@pytest.mark.parametrize(("t0", "t1"), [(1.0, 0.0), (0.0, 1.0)])
def test_adaptive_solution_is_the_exact_flow(name, t0, t1):
    schedule = SCHEDULES[name]
    with jax.enable_x64(True):
        found = samplers.solve(
            DATA.denoise_fn(schedule=schedule),
            Z,
            t0,
            t1,
            schedule=schedule,
            rtol=1e-9,
            atol=1e-9,
        )
    assert found.done.all()
    np.testing.assert_allclose(found.x, exact(schedule, t0, t1), atol=1e-6)
    np.testing.assert_array_equal(found.nfe, 1 + 6 * found.steps)


@pytest.mark.ci
def test_each_example_has_its_own_steps_and_a_stiff_field_ends():
    schedule = SCHEDULES["flow"]

    def predict_fn(z, t):
        return 1e7 * jax.numpy.sin(1e4 * z) * (z.sum() > 1.5)

    denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
    found = samplers.solve(
        denoise_fn, Z.astype(np.float32), 1.0, 0.0, schedule=schedule, max_steps=50
    )
    np.testing.assert_array_equal(found.done, [True, True, False])
    assert found.steps[2] == 50 and found.steps[1] < 50
    assert np.isfinite(found.x[:2]).all() and np.isinf(found.x[2]).all()
    with pytest.raises(ValueError, match="rtol=0"):
        samplers.solve(denoise_fn, Z, 1.0, 0.0, schedule=schedule, rtol=0)


@pytest.mark.ci
def test_calls_of_the_adaptive_solver_are_those_counted():
    calls, schedule = [], SCHEDULES["flow"]

    def predict_fn(z, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return 8 * jax.numpy.sin(9 * z) + t

    denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
    found = samplers.solve(
        denoise_fn,
        np.float32([0.3, -1.0]),
        1.0,
        0.0,
        schedule=schedule,
        rtol=1e-3,
        batch_ndim=0,
    )
    jax.effects_barrier()
    assert found.steps > 10 and found.nfe == len(calls)


@pytest.mark.ci
def test_a_condition_for_each_example():
    schedule = SCHEDULES["flow"]

    def end(z, label):
        predict_fn = lambda z, t: label * z
        denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=schedule)
        return samplers.solve(denoise_fn, z, 1.0, 0.0, schedule=schedule, batch_ndim=0)

    z, label = np.ones((3, 2), np.float32), np.float32([0.0, 1.0, 2.0])
    found = jax.vmap(end)(z, label)
    assert found.done.all()
    np.testing.assert_allclose(found.x[:, 0], np.exp(-label), rtol=1e-4)
