import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionflow import grids, schedules
from tests.helpers import golden, golden_schedules
from tests.helpers.all_schedules import SCHEDULES

counts = st.integers(1, 300)
some_counts = st.sampled_from([1, 2, 11])  # JAX compiles for every length
few = settings(max_examples=60, deadline=None)
IN_TIME = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "cosine": grids.cosine,
    "shifted": lambda *args, **kwargs: grids.shifted(*args, k=3.0, **kwargs),
}
INVERTED = ("FM", "cos_shift", "vp_lin", "ve_geo")


def in_float64(fn, *args):
    with jax.enable_x64(True):
        return np.asarray(fn(*args))


def is_grid(grid, num_steps):
    """What every grid is."""
    assert grid.dtype == np.float64 and grid.shape == (num_steps + 1,)
    assert (np.diff(grid) < 0).all() and grid[-1] >= 0 and grid[0] <= 1


@pytest.mark.parametrize("build", IN_TIME.values(), ids=IN_TIME)
@given(
    num_steps=counts,
    ends=st.tuples(st.floats(0, 0.49), st.floats(0.51, 1)),
)
@few
def test_between_any_two_times(build, num_steps, ends):
    low, high = ends
    grid = build(num_steps, t_min=low, t_max=high)
    is_grid(grid, num_steps)
    np.testing.assert_array_equal(grid, build(num_steps, t_min=low, t_max=high))
    if build is not IN_TIME["shifted"]:  # there the ends are those before the shift
        assert (grid[-1], grid[0]) == ends
    whole = build(num_steps)
    assert (whole[-1], whole[0]) == (0, 1)


@given(num_steps=counts)
@few
def test_in_time_from_the_definition(num_steps):
    part = [fractions.Fraction(i, num_steps) for i in range(num_steps, -1, -1)]
    u = np.array([float(p) for p in part])
    exact = lambda values: np.array([float(value) for value in values])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)
    close(grids.uniform(num_steps), u)
    close(grids.quadratic(num_steps), exact(p**2 for p in part))
    close(grids.shifted(num_steps, k=3.0), exact(3 * p / (1 + 2 * p) for p in part))
    # 1 - cos(pi / 2 (1 - u)), as it is where t = 0 is the noise
    close(1 - grids.cosine(num_steps), 1 - np.cos(np.pi / 2 * (1 - u)))


@given(num_steps=some_counts, k=st.floats(0.01, 100))
@few
def test_shifted_is_the_shifted_schedule(num_steps, k):
    """The uniform grid there has the levels of this grid on flow matching."""
    flow = schedules.FlowMatching()
    shifted = schedules.Shifted(flow, k)
    grid, plain = grids.shifted(num_steps, k=k), grids.uniform(num_steps)
    is_grid(grid, num_steps)
    for level in ("alpha", "sigma"):
        ours = in_float64(getattr(flow, level), grid)
        theirs = in_float64(getattr(shifted, level), plain)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@given(
    num_steps=some_counts,
    name=st.sampled_from(INVERTED),
    low=st.floats(0.02, 0.5),
    factor=st.floats(1.5, 50),
    rho=st.floats(0.5, 20),
)
@settings(max_examples=40, deadline=None)
def test_in_levels_of_any_schedule(num_steps, name, low, factor, rho):
    schedule, high = SCHEDULES[name], low * factor
    grid = grids.karras(
        num_steps, schedule=schedule, rho=rho, ratio_min=low, ratio_max=high
    )
    is_grid(grid, num_steps)
    ratio = in_float64(schedule.sigma, grid) / in_float64(schedule.alpha, grid)
    roots = np.linspace(high ** (1 / rho), low ** (1 / rho), num_steps + 1)
    np.testing.assert_allclose(ratio, roots**rho, rtol=1e-9)
    bounds = dict(logsnr_min=-2 * np.log(high), logsnr_max=-2 * np.log(low))
    grid = grids.logsnr_uniform(num_steps, schedule=schedule, **bounds)
    is_grid(grid, num_steps)
    ratio = in_float64(schedule.sigma, grid) / in_float64(schedule.alpha, grid)
    np.testing.assert_allclose(ratio, np.geomspace(high, low, num_steps + 1), rtol=1e-9)


def test_karras_on_edms_own_schedule_is_uniform():
    for num_steps in (1, 2, 17, 100):
        grid = grids.karras(num_steps, schedule=schedules.EDM())
        np.testing.assert_allclose(grid, grids.uniform(num_steps), atol=1e-12)
        assert (grid[0], grid[-1]) == (1, 0)  # not a rounding past them


def test_karras_with_large_rho_is_uniform_in_logsnr():
    flow = schedules.FlowMatching()
    bounds = dict(logsnr_min=-2 * np.log(80.0), logsnr_max=-2 * np.log(0.002))
    expected = grids.logsnr_uniform(20, schedule=flow, **bounds)
    gaps = [
        np.abs(grids.karras(20, schedule=flow, rho=rho) - expected).max()
        for rho in (1e3, 1e4)
    ]
    assert gaps[1] < 1e-3 and abs(gaps[0] / gaps[1] - 10) < 0.1


def test_the_schedules_own_ends_are_met_exactly():
    schedule = schedules.Cosine(-15.0, 15.0)
    for num_steps in (1, 7, 50):
        grid = grids.logsnr_uniform(
            num_steps, schedule=schedule, logsnr_min=-15.0, logsnr_max=15.0
        )
        assert (grid[0], grid[-1]) == (1, 0)


def test_a_learned_schedule_makes_a_grid_with_gradients():
    def times(first):
        schedule = schedules.LinearBeta(beta_min=first)
        return grids.karras(8, schedule=schedule, ratio_max=50.0)

    traced, slope = jax.jvp(jax.jit(times), (jnp.asarray(0.1),), (jnp.asarray(1.0),))
    expected = times(0.1)
    np.testing.assert_allclose(traced, expected, rtol=1e-4, atol=1e-6)
    quotient = (times(0.1 + 1e-6) - times(0.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, quotient, rtol=1e-3, atol=1e-4)


@given(
    num_levels=st.integers(1, 1200),
    data=st.data(),
    spacing=st.sampled_from(grids.SPACINGS),
)
@settings(max_examples=150, deadline=None)
def test_discrete_visits_levels_once(num_levels, data, spacing):
    num_steps = data.draw(st.integers(1, num_levels))
    grid = grids.discrete(num_steps, spacing, num_levels=num_levels)
    is_grid(grid, num_steps)
    levels = grid * num_levels
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
    assert grid[-1] == 0 and round(levels[-2]) >= 1
    step = fractions.Fraction(num_levels, num_steps)
    match spacing:
        case "trailing":
            assert grid[0] == 1
            expected = [round(step * k) for k in range(num_steps, -1, -1)]
            np.testing.assert_allclose(levels, expected, atol=1e-9)
        case "linspace":
            assert grid[0] == 1
            if num_steps > 1:
                assert round(levels[-2]) == 1
        case "leading":
            assert round(levels[-2]) == 1
            np.testing.assert_allclose(np.diff(levels[:-1]), -int(step), atol=1e-9)


# Records of timesteps: grid of ours, and which of its times the recorder leaves out.
DIFFUSERS = {
    ("leading", None): ("leading", 0),
    ("trailing", None): ("trailing", 0),
    ("linspace", None): ("linspace", 0),
    # N + 1 points, of which the one at the first level is dropped
    **{
        (spacing, f"{solver}Scheduler"): (spacing, 1)
        for spacing in ("leading", "linspace")
        for solver in (
            "DPMSolverMultistep",
            "DPMSolverSinglestep",
            "UniPCMultistep",
            "DEISMultistep",
            "SASolver",
        )
    },
}
OWN_TABLES = (
    "sigmas",  # Karras and others on the ends of a table
    "lambdas",
    "interpolation_type",
    "lambda_min_clipped",  # the table is cut
)
DEFAULT_SPACING = {"DDIMScheduler": "leading", "DDPMScheduler": "leading"}


def discrete_cases():
    for family in ("ddim_ddpm", "sigma", "dpmsolver", "unipc_deis"):
        for case in golden.cases("sampler", f"diffusers_{family}"):
            config = case.config
            scheduler = config["scheduler"]
            said = [name for name, value in config.items() if value]
            odd = any(word in name for name in said for word in OWN_TABLES)
            stages = "is_grid" in case.a or scheduler == "PNDMScheduler"
            table = "beta_schedule" in config and "timesteps" in case.a
            if table and not (odd or stages):
                yield f"{family}-{case}", (case, scheduler)


def test_the_levels_that_diffusers_visits():
    """Those that count from sigma do not round in "linspace", and interpolate."""
    golden.check_each(visits_the_levels, dict(discrete_cases()))


def visits_the_levels(case, scheduler):
    config, num_steps = case.config, case.config["num_steps"]
    default = DEFAULT_SPACING.get(scheduler, "linspace")
    spacing = config.get("timestep_spacing", default)
    known = (spacing, scheduler)
    name, dropped = DIFFUSERS[known if known in DIFFUSERS else (spacing, None)]
    offset = config.get("steps_offset", 0) if name == "leading" else 0
    levels = config.get("num_train_timesteps", 1000)
    grid = grids.discrete(num_steps + dropped, name, num_levels=levels, offset=offset)
    visited = np.round(grid[:num_steps] * levels) - 1
    np.testing.assert_array_equal(visited, np.round(case.a["timesteps"]))


@pytest.mark.parametrize("spacing", grids.SPACINGS)
def test_the_levels_are_nodes_of_the_table(spacing):
    """With the table's own alpha and sigma there, as recorded."""
    found = 0
    for case in golden.cases("sampler", "diffusers_ddim_ddpm"):
        config = case.config
        used = config.get("timestep_spacing", "leading")
        if (used, config["scheduler"]) == (spacing, "DDIMScheduler"):
            schedule = golden_schedules.chain(config)
            offset = config.get("steps_offset", 0) if used == "leading" else 0
            levels = schedule.alphas_cumprod.size
            grid = grids.discrete(
                config["num_steps"], spacing, num_levels=levels, offset=offset
            )
            for level in ("alpha", "sigma"):
                ours = in_float64(getattr(schedule, level), grid[:-1])
                recorded = case.a[f"{level}_eval"]
                np.testing.assert_allclose(ours, recorded, rtol=1e-10, atol=1e-15)
            found += 1
    assert found or golden.NAMED


def sigma_cases():
    for family in ("dpmsolver", "unipc_deis"):
        for case in golden.cases("sampler", f"diffusers_{family}"):
            for name in ("karras", "exponential"):
                if case.config.get(f"use_{name}_sigmas"):
                    yield f"{family}-{case}-{name}", (case, name)


def test_the_sigmas_of_diffusers():
    """N levels between the two ends of the table; then 0, or the last one again."""
    golden.check_each(has_the_sigmas, dict(sigma_cases()))


def has_the_sigmas(case, name):
    level = case.a["sigma_eval"] / case.a["alpha_eval"]
    flow = schedules.FlowMatching()
    kept = np.asarray(golden_schedules.chain(case.config).alphas_cumprod)
    kept = np.maximum(kept, 2.0**-24)  # theirs at zero terminal SNR
    low, high = np.sqrt((1 - kept) / kept)[[0, -1]]
    if name == "karras":
        grid = grids.karras(
            len(level) - 1, schedule=flow, ratio_min=low, ratio_max=high
        )
    else:
        grid = grids.logsnr_uniform(
            len(level) - 1,
            schedule=flow,
            logsnr_min=-2 * np.log(high),
            logsnr_max=-2 * np.log(low),
        )
    np.testing.assert_allclose(grid / (1 - grid), level, rtol=1e-9)


def karras_cases():
    for case in golden.cases("grid", "kdiffusion_sampler"):
        yield pytest.param(case, id=str(case))


NOT_SHIPPED = {
    "sigma grid polyexponential": "log-SNRs at powers of i / N: any array is a grid",
}


def kdiffusion(case):
    """The times of our grid on a schedule of ours."""
    config = case.config
    bounds = {end: config.get(f"sigma_{end}") for end in ("min", "max")}
    flow = schedules.FlowMatching()
    match case.method.split()[-1]:
        case "karras":
            settings = {f"ratio_{end}": value for end, value in bounds.items()}
            grid = grids.karras(
                config["n"] - 1, schedule=flow, rho=config["rho"], **settings
            )
            return flow, grid
        case "exponential":
            return flow, grids.logsnr_uniform(
                config["n"] - 1,
                schedule=flow,
                logsnr_min=-2 * np.log(bounds["max"]),
                logsnr_max=-2 * np.log(bounds["min"]),
            )
        case "vp":
            first = config["beta_min"]
            schedule = schedules.LinearBeta(first, first + config["beta_d"])
            return schedule, grids.uniform(config["n"] - 1, t_min=config["eps_s"])
    raise case.unknown("its grid")


@pytest.mark.parametrize("case", list(karras_cases()))
def test_the_sigmas_of_k_diffusion(case):
    """There a last sigma of 0 follows: the step that `samplers.sample` adds."""
    if case.method in NOT_SHIPPED:
        return
    schedule, grid = kdiffusion(case)
    ratio = in_float64(schedule.sigma, grid) / in_float64(schedule.alpha, grid)
    assert case.a["sigmas"][-1] == 0
    np.testing.assert_allclose(ratio, case.a["sigmas"][:-1], rtol=1e-10)


def flow_cases():
    for case in golden.cases("sampler", "diffusers_flow"):
        if case.config["scheduler"] == "FlowMatchEulerDiscreteScheduler":
            yield str(case), (case,)


def test_the_flow_grids_of_diffusers():
    golden.check_each(is_the_flow_grid, dict(flow_cases()))


def is_the_flow_grid(case):
    """Handed sigmas 1..1/N are shifted once; the default's small end is shifted twice.

    (Karras, beta and stretched sigmas there are functions of the ends of this grid.)
    """
    config, num_steps = case.config, case.config["num_steps"]
    own = ("use_karras_sigmas", "use_beta_sigmas", "use_exponential_sigmas")
    if any(config.get(name) for name in (*own, "shift_terminal")):
        return
    k, handed = config.get("shift", 1.0), config.get("set_timesteps_kwargs", {})
    low = 1 / config.get("num_train_timesteps", 1000)
    if config.get("use_dynamic_shifting"):
        kinds = {"exponential": np.exp(handed["mu"]), "linear": handed["mu"]}
        k = case.choose("time_shift_type", kinds, "exponential")
    else:
        low = k * low / (1 + (k - 1) * low)
    if "sigmas" in handed:
        even = np.linspace(1, 1 / num_steps, num_steps)
        if not np.allclose(handed["sigmas"], even, rtol=1e-12):
            return  # any array is a grid
        grid = grids.shifted(num_steps, k=float(k))
    else:
        grid = np.append(grids.shifted(num_steps - 1, k=float(k), t_min=low), 0.0)
    np.testing.assert_allclose(grid[:-1], case.a["sigma_eval"], rtol=1e-10)
    np.testing.assert_allclose(grid[1:], case.a["sigma_to"], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: grids.uniform(0), "num_steps=0.*at least 1"),
        (lambda: grids.uniform(3, t_max=1.5), r"from 1.5 to 0.0.*in \[0, 1\]"),
        (lambda: grids.uniform(3, t_max=0.5, t_min=0.5), "steps 0 and 1"),
        (lambda: grids.quadratic(3, t_min=-0.1), "t_min=-0.1.*at least 0"),
        (lambda: grids.cosine(3, t_min=0.6, t_max=0.5), "each time must be below"),
        (lambda: grids.shifted(3, k=0.0), "k=0.0.*positive"),
        (
            lambda: grids.karras(3, schedule=schedules.EDM(), rho=-1.0),
            "rho=-1.0.*positive",
        ),
        (
            lambda: grids.karras(3, schedule=schedules.EDM(), ratio_max=0.001),
            "ratio_min=0.002.*below ratio_max=0.001",
        ),
        (
            lambda: grids.karras(3, schedule=schedules.EDM(), ratio_max=90.0),
            r"reaches from -8\.76.* to 12\.4.*choose bounds inside",
        ),
        (lambda: grids.discrete(1001), r"num_steps=1001.*in 1\.\.num_levels=1000"),
        (lambda: grids.discrete(3, "leeding"), "did you mean 'leading'"),
        (lambda: grids.discrete(3, offset=1), "offset=1: must be 0 with spacing="),
        (
            lambda: grids.discrete(1000, "leading", offset=1),
            r"levels 1001\.\.2 must be in 1\.\.num_levels=1000",
        ),
        (lambda: grids.check_grid(np.array([1.0, 0.4, 0.4, 0.0])), "steps 1 and 2"),
        (lambda: grids.check_grid(np.array([1.0])), "shape"),
        (
            lambda: grids.logsnr_uniform(
                4, schedule=schedules.Cosine(-5.0, 5.0), logsnr_min=-9.0, logsnr_max=4.0
            ),
            r"log-SNR from -9.0 to 4.0: .* reaches from -5.* in \[0, 1\]",
        ),
    ],
)
def test_what_is_no_grid_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
