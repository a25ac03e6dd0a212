"""Limits, closed forms and the published figure of the deterministic samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from diffusionflow import analytic, grids, samplers, schedules
from diffusionflow.samplers.adams_bashforth import moments_in_time
from tests.helpers import oracles
from tests.helpers.all_samplers import SCHEDULES, STEEP, levels
from tests.helpers.sampler_runs import draw, order

TIMES = grids.uniform(6, t_max=0.95, t_min=0.05)


@pytest.mark.parametrize(
    ("sampler", "limit"),
    [
        *(
            (samplers.AdamsBashforth(1, variable), samplers.Euler(variable))
            for variable in ("eps", "v", "dz_dt")
        ),
        (samplers.DPMSolver(1), samplers.ddim()),
        (samplers.DPMSolverSinglestep(1), samplers.ddim()),
        (samplers.RungeKutta("midpoint", "v"), samplers.Midpoint("v")),
        (samplers.AdamsBashforth(2, polynomial="time"), samplers.AdamsBashforth(2)),
        (samplers.DPMSolver(3, "eps", lower_final=1), samplers.ddim()),  # one step
        (samplers.UniPC(3, "bh1"), samplers.ddim()),  # one step: predictor alone
    ],
    ids=str,
)
def test_limits(sampler, limit):
    """A first step is of order 1; AB1 and DPM-Solver 1 are so in every step."""
    schedule = SCHEDULES["linear_beta"]
    always = getattr(sampler, "order", 1) == 1 or limit == samplers.AdamsBashforth(2)
    times = TIMES if always else TIMES[:2]
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            draw(sampler, schedule, times), draw(limit, schedule, times), rtol=1e-11
        )


def weights(sampler, kind, times=TIMES):
    return samplers.coefficients(
        sampler, times, schedule=SCHEDULES["linear_beta"], kind=kind
    )


def half_logsnr():
    alpha, sigma = levels(SCHEDULES["linear_beta"], TIMES)
    return alpha, sigma, np.log(alpha / sigma)


@pytest.mark.parametrize("second", ["midpoint", "taylor"])
def test_weights_of_dpm_solver_2m(second):
    """Two steps, against the printed formulas: the second has slope weight m_1."""
    alpha, sigma, ell = half_logsnr()
    h = np.diff(ell)[:2]
    found = weights(samplers.DPMSolver(2, second=second), "x", TIMES[:3])
    phi1 = np.expm1(-h)
    first, newest = -alpha[1:3] * phi1
    slope = (
        newest / 2 if second == "midpoint" else alpha[2] * (phi1[1] / h[1] + 1)
    ) / (h[0] / h[1])
    expected = [first * sigma[2] / sigma[1] - slope, newest + slope]
    np.testing.assert_allclose(found.h[:, 0], expected, rtol=1e-10)
    np.testing.assert_allclose(found.initial, sigma[2] / sigma[0], rtol=1e-10)


@pytest.mark.ci
def test_weights_of_dpm_solver_3m_integrate_a_parabola():
    """The last of three steps, on x_hat quadratic in ell; "reference" halves a term."""
    alpha, sigma, ell = half_logsnr()
    h = np.diff(ell)[:3]
    r0, r1 = h[1] / h[2], h[0] / h[2]
    phi1 = np.expm1(-h[2])
    phi2 = phi1 / h[2] + 1
    phi3 = phi2 / h[2] - 0.5
    for third, factor in (("corrected", 2), ("reference", 1)):
        sampler = samplers.DPMSolver(3, third=third)
        whole = weights(sampler, "x", TIMES[:4]).h[:, 0]
        before = weights(sampler, "x", TIMES[:3]).h[:, 0] * sigma[3] / sigma[2]
        last = whole - np.append(before, 0)
        rest = factor / (r0 + r1) * phi3
        d10 = np.array([0, -1, 1]) / r0
        d11 = np.array([-1, 1, 0]) / r1
        d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
        expected = alpha[3] * (np.array([0, 0, -phi1]) + phi2 * d1 - rest * (d10 - d11))
        np.testing.assert_allclose(last, expected, rtol=1e-9)


def test_the_reference_coefficient_is_of_order_2_alone():
    schedule = SCHEDULES["flow"]
    assert order(samplers.DPMSolver(3, third="reference"), schedule, 3) < 2.3
    assert order(samplers.DPMSolver(3), schedule, 3) > 2.85


def test_lower_final():
    schedule = SCHEDULES["linear_beta"]
    rows = samplers.plan(samplers.DPMSolver(3, lower_final=2), TIMES, schedule=schedule)
    used = (rows["past"] != 0).sum(axis=1) + 1
    np.testing.assert_array_equal(used, [1, 2, 3, 3, 2, 1])
    rows = samplers.plan(
        samplers.DPMSolver(3), grids.uniform(6), schedule=SCHEDULES["flow"]
    )
    used = (rows["past"] != 0).sum(axis=1) + 1
    np.testing.assert_array_equal(used, [1, 1, 2, 3, 3, 1])  # infinite steps are DDIM


@pytest.mark.ci
@pytest.mark.parametrize("frame", [0, 3, 7])
def test_scaling_a_schedule_as_in_the_published_figure(frame):
    """DDIM ends at the same points; Euler in time does not."""
    figure = np.load(oracles.DATA / "scaling.npz")
    part = frame / 7

    def size(t):
        return 1 + part * (1 / jnp.sqrt((1 - t) ** 2 + t**2) - 1)

    schedule = schedules.Interpolated(
        lambda t: (1 - t) * size(t), lambda t: t * size(t)
    )
    data = analytic.gaussian(np.zeros(()), 0.25)
    z = np.linspace(-2.0, 2.0, 6)
    tolerance = 1e-4 if frame == 0 else 1e-5  # frame 0 guards the call at t = 1
    with jax.enable_x64(True):
        for name, sampler in (("ddim", samplers.ddim()), ("euler", samplers.Euler())):
            found = samplers.sample(
                jax.random.key(0),
                data.denoise_fn(schedule=schedule),
                z,
                grids.uniform(5),
                sampler=sampler,
                schedule=schedule,
                trajectory=True,
            ).trajectory
            recorded = figure[f"k{frame}_{name}_z"]
            np.testing.assert_allclose(np.transpose(found), recorded, atol=tolerance)
            same = np.abs(found[-1] - 24 / 65 * z).max() < 1e-3
            assert same == (name == "ddim" or frame == 0)


ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "ralston": 2,
    "heun": 2,
    "heun3": 3,
    "bogacki_shampine": 3,
    "rk4": 4,
    "three_eighths": 4,
    "dormand_prince": 5,
}


def test_the_named_tableaus_meet_the_order_conditions():
    """Of all rooted trees of up to five vertices, and none of one order more."""
    assert ORDERS.keys() == samplers.tableaus.NAMED.keys()
    for name, tableau in samplers.tableaus.NAMED.items():
        b, c = np.array(tableau.b), np.array(tableau.c)
        a = np.zeros((len(b), len(b)))
        for i, row in enumerate(tableau.a):
            a[i, :i] = row
        ac, acc = a @ c, a @ c**2
        trees = [
            (1, b.sum(), 1),
            (2, b @ c, 2),
            *((3, b @ c**2, 3), (3, b @ ac, 6)),
            *((4, b @ c**3, 4), (4, b @ (c * ac), 8), (4, b @ acc, 12)),
            *((4, b @ a @ ac, 24), (5, b @ c**4, 5), (5, b @ (c**2 * ac), 10)),
            *((5, b @ (c * acc), 15), (5, b @ ac**2, 20), (5, b @ a @ c**3, 20)),
            *((5, b @ (c * (a @ ac)), 30), (5, b @ a @ (c * ac), 40)),
            *((5, b @ a @ acc, 60), (5, b @ a @ a @ ac, 120)),
        ]
        errors = {n: [] for n in range(1, 6)}
        for order_of_tree, weight, density in trees:
            errors[order_of_tree].append(abs(weight - 1 / density))
        for n, found in errors.items():
            assert (max(found) < 1e-13) == (n <= ORDERS[name]), (name, n)


@pytest.mark.parametrize("variable", ["eps", "v"])
def test_moments_in_time_are_the_integrals(variable):
    """`int theta^k d clock` against adaptive quadrature, also close to the noise."""
    schedule = SCHEDULES["linear_beta"]
    t, s = np.array([0.999, 0.6, 0.1]), np.array([0.8, 0.4, 0.02])
    found = np.stack(moments_in_time(variable, t, s, 4, schedule))

    def clock(time):
        alpha, sigma = levels(schedule, time)
        return sigma / alpha if variable == "eps" else np.arctan2(sigma, alpha)

    def moment(i, k):
        """By parts."""
        at = lambda part: clock(t[i] + part * (s[i] - t[i]))
        fn = lambda part: k * part ** (k - 1) * at(part)
        rest, _ = integrate.quad(fn, 0, 1, epsabs=1e-12)
        return (at(1.0) - rest) / (at(1.0) - at(0.0))

    expected = [[moment(i, k) for i in range(3)] for k in range(1, 4)]
    np.testing.assert_allclose(found[1:], expected, rtol=1e-9)


def test_weights_by_the_number_of_the_step_are_the_textbook_ones():
    """Adams-Bashforth's (55, -59, 37, -9) / 24 for any steps, after a warm-up."""
    times, schedule = grids.quadratic(8, t_max=0.9, t_min=0.1), SCHEDULES["flow"]
    textbook = np.array([55, -59, 37, -9]) / 24
    for sampler in (samplers.AdamsBashforth(4, "eps", "step"), samplers.PNDM()):
        rows = samplers.plan(sampler, times, schedule=schedule)
        alpha, sigma = levels(schedule, times)
        gain = sigma[1:] - sigma[:-1] * alpha[1:] / alpha[:-1]
        past = rows["past"][3:] / gain[3:, None]
        np.testing.assert_allclose(past, np.tile(textbook[1:], (5, 1)), rtol=1e-11)
    assert rows["calls"].tolist() == [4, 4, 4, 1, 1, 1, 1, 1]
    fifth = np.array([1901, -2774, 2616, -1274, 251]) / 720
    rows = samplers.AdamsBashforth(5, "eps", "step").plan(
        times[:-1], times[1:], schedule
    )
    np.testing.assert_allclose(rows["past"][-1] / gain[-1], fifth[1:], rtol=1e-10)


def test_the_published_orders_of_single_steps():
    """Lu et al. 2022: 3, ..., 3, 2, 1 for a number of calls that 3 divides."""
    starts = {9: [0, 3, 6, 8], 10: [0, 3, 6, 9], 11: [0, 3, 6, 9]}
    for count, expected in starts.items():
        times = grids.uniform(count, t_max=0.9, t_min=0.1)
        sampler = samplers.DPMSolverSinglestep(3)
        rows = samplers.plan(sampler, times, schedule=SCHEDULES["flow"])
        assert np.flatnonzero(rows["first"]).tolist() == expected
        ends = grids.uniform(count)  # infinite steps are blocks of their own
        rows = samplers.plan(sampler, ends, schedule=SCHEDULES["flow"])
        assert (
            rows["first"][[0, 1, -1]].all() and not rows["differences"][[0, -1]].any()
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: samplers.AdamsBashforth(11),
        lambda: samplers.SDEDPMSolverSinglestep(eta=1.1, noise="ancestral"),
        lambda: samplers.Langevin(norms="mean"),
        lambda: samplers.Restart((0.1, 0.5), 2.0),  # not falling
        lambda: samplers.Restart((0.5, 0.1), (1.0, 2.0, 3.0)),
        lambda: samplers.AdamsBashforth(2, "velocity"),
        lambda: samplers.DPMSolver(4),
        lambda: samplers.DPMSolver(third="published"),
        lambda: samplers.DPMSolver(lower_final=-1),
        lambda: samplers.DPMSolver2S(r=1.0),
        lambda: samplers.DPMSolverSinglestep(4),
        lambda: samplers.DPMSolverSinglestep(stage="middle"),
        lambda: samplers.PNDM(1),
        lambda: samplers.PNDM(warm_up="rk"),
        lambda: samplers.RungeKutta("heun4"),
        lambda: samplers.RungeKutta(samplers.tableaus.second_order(1.2)),
        lambda: samplers.RungeKutta(((0, 0.5), ((), (0.4,)), (0, 1))),
        lambda: samplers.UniPC(4),
        lambda: samplers.UniPC(b="bh3"),
    ],
)
def test_refusals(make):
    with pytest.raises(ValueError, match="must be|unknown"):
        make()


IN_TIME = (
    samplers.Euler(),
    samplers.Midpoint(),
    samplers.Heun(),
    samplers.RK4(),
    samplers.AdamsBashforth(3),
)


@pytest.mark.parametrize("sampler", IN_TIME, ids=str)
@pytest.mark.parametrize("on", STEEP)
def test_a_step_in_time_from_an_infinite_slope_is_ddim(on, sampler):
    """What follows is the sampler from the second time on."""
    schedule, times = STEEP[on], grids.uniform(6)
    rows = samplers.plan(sampler, times, schedule=schedule)
    later = samplers.plan(sampler, times[1:], schedule=schedule)
    rest = jax.tree.map(lambda column: column[1:], rows)
    jax.tree.map(np.testing.assert_array_equal, rest, later)
    alpha, sigma = levels(schedule, times)
    first = jax.tree.map(lambda column: column[0], rows)
    assert all(np.isfinite(column).all() for column in jax.tree.leaves(first))
    assert first.get("calls", 1) == 1 and not first.get("full", False)
    euler = first.get("euler", first)
    ddim = dict(t=1, z=0, x=alpha[1], eps=sigma[1])
    for name, value in ddim.items():
        np.testing.assert_allclose(euler[name], value, rtol=1e-14)


@pytest.mark.ci
@pytest.mark.parametrize("sampler", [samplers.Euler(), samplers.Heun()], ids=str)
def test_from_an_infinite_slope_to_the_exact_flow(sampler):
    """On N(0, 1/4), where the flow keeps z / sqrt(V)."""
    schedule, errors = STEEP["sigmoid"], []
    denoise_fn = analytic.gaussian(np.zeros(()), 0.25).denoise_fn(schedule=schedule)
    for count in (20, 80):
        found = samplers.sample(
            None,
            denoise_fn,
            np.float32([-1.5, 1.0]),
            grids.uniform(count),
            sampler=sampler,
            schedule=schedule,
        )
        errors.append(np.abs(found.x - np.array([-0.75, 0.5])).max())
    assert errors[1] < errors[0] / 2.5


@pytest.mark.parametrize("sampler", [samplers.Euler(), samplers.Heun()], ids=str)
def test_rising_steps_to_and_from_an_infinite_slope_are_finite(sampler):
    """sigma' is infinite at t = 0, alpha' at t = 1."""
    with jax.enable_x64(True):
        times = jnp.asarray(grids.uniform(5)[::-1])
        rows = sampler.plan(times[:-1], times[1:], STEEP["laplace"])
    assert all(np.isfinite(column).all() for column in jax.tree.leaves(rows))


@pytest.mark.ci
def test_gradients_of_steps_from_an_infinite_slope_are_finite():
    times = np.float32([1.0, 0.6, 0.3])

    def total(scale, sampler):
        rows = samplers.plan(sampler, times, schedule=schedules.Laplace(scale=scale))
        columns = [c for c in jax.tree.leaves(rows) if c.dtype == jnp.float32]
        return sum(column.sum() for column in columns)

    for sampler in (samplers.Heun(), samplers.AdamsBashforth(2)):
        slope = jax.jit(jax.grad(total), static_argnums=1)(0.5, sampler)
        assert np.isfinite(slope) and slope != 0
