"""Stochastic samplers: their limits, the maps of their settings, and their law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusionflow import analytic, grids, random, samplers, schedules
from diffusionflow.samplers import diffusions
from tests.helpers.all_samplers import SCHEDULES, STEEP, levels
from tests.helpers.parametrize import in_turn

MIXTURE = analytic.Mixture(
    np.array([0.3, 0.5, 0.2]), np.array([-2.0, 0.5, 3.0]), np.array([0.04, 0.25, 0.01])
)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def draw(sampler, schedule, times, seed=0):
    """The states, with the same noise for every sampler; in float64."""
    rows = samplers.plan(sampler, times, schedule=schedule)
    count = len(jax.tree.leaves(rows)[0])
    noise = np.random.default_rng(seed).normal(size=(count, 2, 7))
    noise = noise[:, : sampler.num_noises]
    with jax.enable_x64(True), jax.disable_jit():
        return np.asarray(
            samplers.run(
                None,
                MIXTURE.denoise_fn(schedule=schedule),
                np.linspace(-2.0, 2.0, 7),
                rows,
                sampler=sampler,
                noise=random.Recorded(noise),
                trajectory=True,
            ).trajectory
        )


@pytest.mark.parametrize("there", [3, 8])
def test_noise_for_another_number_of_steps_is_refused(there):
    """At trace time, where an index beyond the last would give the last."""
    schedule, z = SCHEDULES["flow"], np.zeros(7, np.float32)
    run = lambda sampler, source: jax.eval_shape(
        lambda source: samplers.sample(
            jax.random.key(0),
            MIXTURE.denoise_fn(schedule=schedule),
            z,
            grids.uniform(6),
            sampler=sampler,
            schedule=schedule,
            noise=source,
        ),
        source,
    )
    sources = (
        random.Recorded(np.zeros((there, 1, 7), np.float32)),
        random.Brownian(grids.uniform(there)),
    )
    for source in sources:
        with pytest.raises(ValueError, match=f"for {there} steps: must be 6"):
            run(samplers.ddpm(), source)
        run(samplers.Euler("u"), source)  # draws none


LIMITS = {
    "the DDIM paper's eta = 0 is DDIM": (samplers.DDIMEta(0.0), samplers.ddim()),
    "the DDIM paper's eta = 1 is DDPM": (samplers.DDIMEta(1.0), samplers.ddpm()),
    "SDE-DPM-Solver++ 1 without noise is DDIM": (
        samplers.SDEDPMSolver(1, 0.0),
        samplers.ddim(),
    ),
    "SDE-DPM-Solver++ 1 is DDPM": (samplers.SDEDPMSolver(1, 1.0), samplers.ddpm()),
    "SDE-DPM-Solver++ 1 is churn": (
        samplers.SDEDPMSolver(1, 0.25),
        samplers.Churn(0.2),
    ),
    "stochastic Heun without noise is Heun": (
        samplers.StochasticHeun(diffusions.Eta(0.0), "noise"),
        samplers.Heun("dz_dt"),
    ),
    "Euler-Maruyama without noise is Euler": (
        samplers.EulerMaruyama(diffusions.Constant(0.0)),
        samplers.Euler("dz_dt"),
    ),
    "DPM-2 ancestral without noise is DPM-Solver-2": (
        samplers.Ancestral2S("eps", 0.0),
        samplers.DPMSolver2S("eps"),
    ),
    "DPM++ 2S ancestral without noise is DPM-Solver++(2S)": (
        samplers.Ancestral2S("x", 0.0),
        samplers.DPMSolver2S("x"),
    ),
    "DPM++ SDE without noise is DPM-Solver++(2S)": (
        samplers.SDEDPMSolver2S(0.0, 0.3),
        samplers.DPMSolver2S("x", r=0.3),
    ),
    "SDE-DPM-Solver 2 without noise is DPM-Solver 2": (
        samplers.SDEDPMSolver(2, 0.0, variable="eps"),
        samplers.DPMSolver(2, "eps"),
    ),
    "SA-Solver without noise is UniPC": (
        samplers.SASolver(2, 3, 0.0),
        samplers.UniPC(2, "bh1", lower_final=2),
    ),
    "SA-Solver's predictor with noise is SDE-DPM-Solver++": (
        samplers.SASolver(1, 0, 1.0),
        samplers.SDEDPMSolver(1, 1.0),
    ),
    "Restart without rounds is Heun": (
        samplers.Restart(0.1, repeats=0),
        samplers.Heun("eps"),
    ),
    "Restart in an interval without rounds is that of the other": (
        samplers.Restart((0.5, 0.1), (2.0, 1.0), (5, 3), (0, 2)),
        samplers.Restart(0.1, 1.0, 3, 2),
    ),
    "EDM without churn, in time, is a Runge-Kutta method": (
        samplers.EDM(variable="dz_dt"),
        samplers.Heun("dz_dt"),
    ),
    "overshooting by nothing is DDIM": (samplers.Overshoot(0.0), samplers.ddim()),
    "eta of the scale at 0 is DDIM": (samplers.DDIMEta(0.0, "scale"), samplers.ddim()),
    "eta of the scale at 1 is DDPM": (samplers.DDIMEta(1.0, "scale"), samplers.ddpm()),
    "singlestep SDE without noise is DPM-Solver": (
        samplers.SDEDPMSolverSinglestep(3, "eps", eta=0.0),
        samplers.DPMSolverSinglestep(3, "eps"),
    ),
    "DPM-fast with eta = 0 is DPM-fast": (
        samplers.SDEDPMSolverSinglestep(3, "eps", eta=0.0, noise="ancestral"),
        samplers.DPMSolverSinglestep(3, "eps"),
    ),
    "singlestep SDE of order 1 is SDE-DPM-Solver": (
        samplers.SDEDPMSolverSinglestep(1, "eps", eta=0.4),
        samplers.SDEDPMSolver(1, 0.4, variable="eps"),
    ),
    "ancestral blocks of one step are those of the DDIM paper": (
        samplers.SDEDPMSolverSinglestep(1, eta=0.4, noise="ancestral"),
        samplers.DDIMEta(0.4),
    ),
    "refreshing nothing is DDIM": (
        samplers.Refresh(diffusions.Sigma(0.0)),
        samplers.ddim(),
    ),
    "refreshing all is churn = 1": (
        samplers.Refresh(diffusions.Constant(1e9)),
        samplers.Churn(1.0),
    ),
    "refreshing by Euler's method is Euler-Maruyama": (
        samplers.Refresh(diffusions.Sigma(0.5, 2.0), "euler", "dz_dt"),
        samplers.EulerMaruyama(diffusions.Sigma(0.5, 2.0)),
    ),
    "EDM without churn is Heun": (samplers.EDM(), samplers.Heun("eps")),
    "EDM without churn, one stage, is DDIM": (
        samplers.EDM(stages=1),
        samplers.ddim(),
    ),
}


@in_turn(pair=LIMITS, schedule=SCHEDULES)
def test_limits(pair, schedule):
    (sampler, limit), times = pair, grids.uniform(4)
    ours, expected = draw(sampler, schedule, times), draw(limit, schedule, times)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@each_schedule
def test_churn_1_is_consistency_sampling(schedule):
    """`FlowMap` jumps to the first time t = 0 and keeps what noise there is, q eps.

    z_s = alpha_s x + sigma_s (q eps + sqrt(1 - q^2) noise) with q = rho_0 / rho_s, and
    q = 0 for churn = 1: the same where the schedule ends at the data.
    """
    times = grids.uniform(4)
    churned, jumped = (
        draw(sampler, schedule, times)
        for sampler in (samplers.Churn(1.0), samplers.FlowMap(1.0))
    )
    if schedule.sigma(0.0) == 0:
        np.testing.assert_allclose(churned, jumped, rtol=1e-10, atol=1e-10)
        return
    s = times[1]
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    with jax.enable_x64(True):
        denoised = MIXTURE.denoise_fn(schedule=schedule)(churned[0], times[0])
    x, eps = np.asarray(denoised.x), np.asarray(denoised.eps)
    noise = (churned[1] - alpha * x) / sigma
    q = schedule.sigma(0.0) * alpha / (schedule.alpha(0.0) * sigma)
    expected = alpha * x + sigma * (q * eps + np.sqrt(1 - q**2) * noise)
    np.testing.assert_allclose(jumped[1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", [SCHEDULES["flow"], SCHEDULES["cosine"]], ids=str)
def test_the_etas_of_the_literature(schedule):
    with jax.enable_x64(True):
        t, s = np.array([0.7]), np.array([0.5])
        step = schedule.logsnr(s) - schedule.logsnr(t)
        for churn in (0.0, 0.2, 0.5, 0.8):
            eta = {
                name: samplers.churn_to_eta(churn, convention=name, step=step)
                for name in ("blog", "sde", "ddim")
            }
            np.testing.assert_allclose(eta["blog"] ** 2, eta["sde"], rtol=1e-14)
            for name, value in eta.items():
                if churn == 0.5:
                    np.testing.assert_allclose(value, 1, rtol=1e-14)
                back = samplers.eta_to_churn(value, convention=name, step=step)
                np.testing.assert_allclose(back, churn, rtol=1e-12)
            # the samplers that the etas belong to make the same step
            rows = samplers.Churn(churn).plan(t, s, schedule)
            sde = samplers.SDEDPMSolver(1, float(eta["sde"])).plan(t, s, schedule)
            np.testing.assert_allclose(sde["noise"], rows["noise"], rtol=1e-12)
            if churn <= 0.5:  # the DDIM paper's eta is at most 1
                same = samplers.DDIMEta(eta["ddim"][0]).plan(t, s, schedule)
                for name in ("eps", "noise"):
                    np.testing.assert_allclose(same[name], rows[name], rtol=1e-12)
        small = samplers.churn_to_eta(0.2, convention="ddim", step=1e-6)
        np.testing.assert_allclose(small**2, 0.25, rtol=1e-6)
    with pytest.raises(ValueError, match="step=None"):
        samplers.churn_to_eta(0.2, convention="ddim")


def test_the_ddim_paper_on_alpha_1_is_the_ancestral_sampler():
    """Up and down levels of k-diffusion: z + (down - sigma_t) eps + up xi."""
    schedule, eta = schedules.VE(0.02, 50.0), 0.6
    times = grids.uniform(5)
    with jax.enable_x64(True):
        rows = samplers.plan(samplers.DDIMEta(eta), times, schedule=schedule)
        sigma = np.asarray(schedule.sigma(times))
    up = eta * np.sqrt(sigma[1:] ** 2 * (1 - (sigma[1:] / sigma[:-1]) ** 2))
    np.testing.assert_allclose(rows["noise"], up, rtol=1e-12)
    np.testing.assert_allclose(rows["eps"], np.sqrt(sigma[1:] ** 2 - up**2), rtol=1e-12)


def test_the_two_variances_of_ddpm():
    """Same mean; the forward step has (sigma_t / sigma_s)^2 times the variance."""
    times, schedule = grids.uniform(5), SCHEDULES["cosine"]
    small = samplers.plan(samplers.ddpm(), times, schedule=schedule)
    large = samplers.plan(samplers.ddpm("forward"), times, schedule=schedule)
    sigma = levels(schedule, times)[1]
    np.testing.assert_allclose(large["eps"], small["eps"], rtol=1e-13)
    np.testing.assert_allclose(
        large["noise"][:-1] / small["noise"][:-1],
        sigma[:-2] / sigma[1:-1],
        rtol=1e-12,
    )
    assert large["noise"][-1] == 0


@each_schedule
def test_euler_maruyama_is_ddpm_to_second_order(schedule):
    gaps = []
    for length in (1e-3, 5e-4):
        times = np.array([0.6, 0.6 - length])
        (alpha, _), (sigma, _) = levels(schedule, times)
        euler = samplers.plan(samplers.EulerMaruyama(), times, schedule=schedule)
        ddpm = samplers.plan(samplers.ddpm(), times, schedule=schedule)
        gaps.append(
            [
                alpha * euler["z"] + euler["x"] - ddpm["x"],
                sigma * euler["z"] + euler["eps"] - ddpm["eps"],
                euler["noise"] ** 2 - ddpm["noise"] ** 2,
            ]
        )
    long, short = np.abs(gaps)
    assert (short <= long / 3.5 + 1e-15).all() and long.max() > 1e-7


def test_dpm_solver_2m_is_the_limit_without_noise():
    """Lu et al. 2022, in half log-SNR: the midpoint form."""
    schedule, times = SCHEDULES["flow"], grids.uniform(6, t_min=0.1, t_max=0.9)
    found = draw(samplers.SDEDPMSolver(2, 0.0), schedule, times)
    alpha, sigma = levels(schedule, times)
    half, past = np.log(alpha / sigma), None
    z = found[0]
    with jax.enable_x64(True):
        for i in range(6):
            x = np.asarray(MIXTURE.denoise_fn(schedule=schedule)(z, times[i]).x)
            h = half[i + 1] - half[i]
            ahead = x
            if i:
                ahead = x + (x - past) * h / (half[i] - half[i - 1]) / 2
            z = sigma[i + 1] / sigma[i] * z - alpha[i + 1] * np.expm1(-h) * ahead
            past = x
            np.testing.assert_allclose(found[i + 1], z, rtol=1e-11)


def test_the_corrected_third_order_is_exact_where_the_published_is_not():
    """For x_hat a square of half log-SNR: its integral is known."""
    schedule, eta = SCHEDULES["flow"], 0.5
    times = grids.logsnr_uniform(5, schedule=schedule, logsnr_min=-2.0, logsnr_max=3.0)
    half = np.linspace(-1.0, 1.5, 6)
    alpha = levels(schedule, times)[0]
    growth, h = 1 + eta, 0.5
    # int_a^b growth exp(-growth (b - u)) u^2 du, by the antiderivative
    anti = lambda u: u**2 - 2 * u / growth + 2 / growth**2
    for third, exact in (("corrected", True), ("reference", False)):
        rows = samplers.plan(
            samplers.SDEDPMSolver(3, eta, third=third), times, schedule=schedule
        )
        i = 3
        past = half[[i, i - 1, i - 2]] ** 2
        ours = rows["x"][i] * past[0] + rows["near"][i] * (past[0] - past[1])
        ours = ours + rows["far"][i] * (past[1] - past[2])
        truth = anti(half[i + 1]) - np.exp(-growth * h) * anti(half[i])
        assert (abs(ours / alpha[i + 1] - truth) < 1e-12) == exact


def test_levels_are_raised_to_the_end_of_the_schedule_at_most():
    schedule, times = SCHEDULES["truncated"], np.array([1.0, 0.9999, 0.5, 0.1])
    rows = samplers.plan(samplers.EDM(30.0, s_tmax=1e9), times, schedule=schedule)
    t = rows["euler"]["t"]
    assert t[0] == 1 and rows["raise_noise"][0] == 0
    assert t[1] == 1 and rows["raise_noise"][1] > 0
    assert 0.5 < t[2] < 1
    with jax.enable_x64(True):
        change = schedule.logsnr(t[2]) - schedule.logsnr(times[2])
    np.testing.assert_allclose(change, -np.log(2), rtol=1e-10)  # gamma: sqrt(2) - 1
    below = samplers.plan(samplers.EDM(30.0, s_tmax=0.01), times, schedule=schedule)
    np.testing.assert_array_equal(below["euler"]["t"], times[:-1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: samplers.EDM(-1.0), r"s_churn=-1.0: must be at least 0"),
        (lambda: samplers.Ancestral2S("v"), "unknown variable 'v'"),
        (lambda: samplers.Ancestral2S(eta=2.0), r"eta=2.0: must be in \[0, 1\]"),
        (lambda: samplers.SDEDPMSolver2S(r=1.0), r"r=1.0: must be in \(0, 1\)"),
        (lambda: samplers.EDM(stages=3), "stages=3: must be 1 or 2"),
        (lambda: samplers.SDEDPMSolver(4), "order=4: must be 1, 2 or 3"),
        (lambda: samplers.SDEDPMSolver(second="heum"), "unknown second"),
        (lambda: samplers.SDEDPMSolver(third="fixed"), "unknown third"),
        (lambda: samplers.SDEDPMSolver(eta=-0.5), "eta=-0.5: must be at least 0"),
        (lambda: samplers.DDIMEta(1.5), r"eta=1.5: must be in \[0, 1\]"),
        (lambda: samplers.EulerMaruyama(last="means"), "did you mean 'mean'"),
        (lambda: diffusions.Sigma(-1.0), "norm=-1.0: must be at least 0"),
        (lambda: samplers.ddpm("small"), "unknown variance"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


FAMILIES = {
    "ddpm": samplers.ddpm(),
    "edm": samplers.EDM(60.0),
    "sde_dpm_solver": samplers.SDEDPMSolver(2, 1.0),
    "euler_maruyama": samplers.EulerMaruyama(diffusions.Sigma(1.0)),
    "stochastic_heun": samplers.StochasticHeun(diffusions.IncreasingDecreasing(1.0)),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", FAMILIES)
def test_monte_carlo_law_on_a_mixture(name):
    """Kolmogorov-Smirnov, at a level of 1 % for all families together."""
    schedule, size = SCHEDULES["truncated"], 2000
    prior_key, run_key = random.split(random.example_keys(0, np.arange(size)))
    sampler = FAMILIES[name]
    result = samplers.sample(
        run_key,
        MIXTURE.denoise_fn(schedule=schedule),
        samplers.prior(prior_key, (size,), schedule=schedule),
        grids.uniform(200),
        sampler=sampler,
        schedule=schedule,
    )
    parts = ((0.3, -2.0, 0.04), (0.5, 0.5, 0.25), (0.2, 3.0, 0.01))
    law = lambda x: sum(w * stats.norm.cdf(x, m, v**0.5) for w, m, v in parts)
    assert stats.kstest(np.asarray(result.x), law).pvalue > 0.01 / len(FAMILIES)


@pytest.mark.ci
def test_samples_of_many_steps_are_paired_by_brownian_noise():
    """Strong convergence, which independent noise does not give."""
    schedule, size = SCHEDULES["flow"], 32
    prior_key, run_key = random.split(random.example_keys(1, np.arange(size)))
    z = samplers.prior(prior_key, (size,), schedule=schedule)
    sampler = samplers.EulerMaruyama(diffusions.Sigma(1.0))
    data = analytic.gaussian(np.zeros(()), 0.25)

    def end(count, source):
        times = grids.uniform(count)
        return samplers.sample(
            run_key,
            data.denoise_fn(schedule=schedule),
            z,
            times,
            sampler=sampler,
            schedule=schedule,
            noise=source(times),
        ).x

    def gaps(source):
        few, more, most = (end(count, source) for count in (10, 100, 1000))
        return [float(jnp.abs(x - most).mean()) for x in (few, more)]

    paired, unpaired = gaps(random.Brownian), gaps(lambda times: random.Independent())
    assert paired[1] < paired[0] / 5
    assert unpaired[1] > 5 * paired[1]


DIFFUSIONS = (
    diffusions.Eta(1.0),
    diffusions.Sigma(1.0),
    diffusions.Constant(0.3),
    diffusions.IncreasingDecreasing(1.0),
)


@pytest.mark.parametrize("of", [samplers.EulerMaruyama, samplers.StochasticHeun])
@pytest.mark.parametrize("on", STEEP)
def test_the_first_sde_step_where_the_drift_is_infinite(on, of):
    """It has the exact variance of z_s, and what follows starts at the second time."""
    schedule, times = STEEP[on], grids.uniform(6)
    _, sigma = levels(schedule, times)
    for diffusion_fn in DIFFUSIONS:
        rows = samplers.plan(of(diffusion_fn), times, schedule=schedule)
        noise = rows.get("noise", rows.get("noise_after"))[0]
        assert rows["z"][0] == 0 and noise <= sigma[1]
        np.testing.assert_allclose(rows["eps"][0] ** 2 + noise**2, sigma[1] ** 2)
        later = samplers.plan(of(diffusion_fn), times[1:], schedule=schedule)
        rest = jax.tree.map(lambda column: column[1:], rows)
        jax.tree.map(np.testing.assert_array_equal, rest, later)
    silent = samplers.plan(of(diffusions.Constant(0.0)), times, schedule=schedule)
    np.testing.assert_allclose(silent["eps"][0], sigma[1], rtol=1e-14)


@pytest.mark.parametrize("diffusion_fn", DIFFUSIONS, ids=str)
def test_euler_maruyama_from_an_infinite_drift_has_the_law_of_the_data(diffusion_fn):
    """Exactly for N(0, 1/4), by the recursion of the variance over the rows."""
    schedule, errors = STEEP["sigmoid"], []
    for count in (50, 200):
        times = grids.uniform(count)
        rows = samplers.plan(
            samplers.EulerMaruyama(diffusion_fn), times, schedule=schedule
        )
        alpha, sigma = levels(schedule, times)
        total = alpha**2 / 4 + sigma**2
        found = sigma[0] ** 2
        for i in range(count):
            x_hat, eps_hat = alpha[i] / 4 / total[i], sigma[i] / total[i]
            factor = rows["z"][i] + rows["x"][i] * x_hat + rows["eps"][i] * eps_hat
            found = factor**2 * found + rows["noise"][i] ** 2
        errors.append(abs(found - 0.25))
    assert errors[1] < max(errors[0] / 2.5, 5e-4)
