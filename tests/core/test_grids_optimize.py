"""`grids.optimize`: what it finds is the best grid, measured on noise of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, guidance, predictions, samplers, schedules
from diffusionflow.grids import refinement
from diffusionflow.grids.end_points import EndPoints
from tests.helpers.programs import counted

FLOW = schedules.FlowMatching()
EDM = schedules.EDM(0.002, 80.0, 7.0)
UNEQUAL = analytic.Mixture(  # three modes of different width
    np.array([0.3, 0.5, 0.2]), np.array([-2.0, 0.5, 3.0]), np.array([0.04, 0.25, 0.01])
)
VARIANCE = 0.04
NARROW = analytic.Mixture(np.ones(1), np.zeros((1, 2)), np.full((1, 2), VARIANCE))
QUICK = dict(reference_steps=16, max_evaluations=2)  # no search


def starts(seed=0, shape=(256,), schedule=FLOW, t=1.0):
    return samplers.prior(jax.random.key(seed), shape, schedule=schedule, t=t)


def test_one_free_time_is_that_of_brute_force():
    """DDIM of a Gaussian multiplies z: from 1 over t to 0, and the ODE by its std."""
    found = grids.optimize(
        NARROW.denoise_fn(schedule=FLOW),
        starts(shape=(64, 2)),
        2,
        sampler=samplers.ddim(),
        schedule=FLOW,
    )
    factor = lambda t: t / ((1 - t) ** 2 * VARIANCE + t**2) * (1 - t) * VARIANCE
    error = lambda t: np.abs(factor(t) - np.sqrt(VARIANCE))
    t = np.linspace(0.001, 0.999, 9_999)
    assert found.chosen == "optimized" and found.times[[0, 2]].tolist() == [1, 0]
    assert abs(found.times[1] - t[np.argmin(error(t))]) < 0.01
    optimized, uniform = found.measured[:2]
    ratio = error(t).min() / error(0.5)  # on the same noise
    assert optimized.error / uniform.error == pytest.approx(ratio, rel=0.01)


def test_distances_from_a_later_start_and_with_a_step_to_the_data():
    """A start at t has t times the noise, and DDIM multiplies it at every step."""
    z = starts(shape=(32, 2))
    ends = EndPoints(
        NARROW.denoise_fn(schedule=FLOW), z, schedule=FLOW, t_max=1.0,
        reference_steps=64,
    )  # fmt: skip
    exact = np.sqrt(VARIANCE) * np.asarray(z)
    np.testing.assert_allclose(ends.reference, exact, atol=2e-4)
    step = lambda t, s: (
        ((1 - t) * (1 - s) * VARIANCE + t * s) / ((1 - t) ** 2 * VARIANCE + t**2)
    )
    factor = 0.5 * step(0.5, 0.25) * step(0.25, 0.0)
    size = np.sqrt(np.mean(np.asarray(z) ** 2, axis=1))
    wanted = np.abs(factor - np.sqrt(VARIANCE)) * size
    for times in ([0.5, 0.25, 0.0], [0.5, 0.25]):
        found = ends.distances(samplers.ddim(), np.array(times))
        np.testing.assert_allclose(found, wanted, atol=4e-4)
        assert ends.evaluations(samplers.ddim(), np.array(times)) == 2


@pytest.mark.ci
def test_the_grid_is_better_on_other_noise_by_another_reference():
    denoise_fn, z = UNEQUAL.denoise_fn(schedule=FLOW), starts(seed=7)
    found = grids.optimize(
        denoise_fn, starts(), 5, sampler=samplers.UniPC(2), schedule=FLOW
    )
    draw = lambda times, sampler: (
        samplers.sample(None, denoise_fn, z, times, sampler=sampler, schedule=FLOW).x
    )
    exact = draw(grids.uniform(400), samplers.RK4("dz_dt"))
    error = lambda times: float(
        jnp.mean(jnp.abs(draw(times, samplers.UniPC(2)) - exact))
    )
    fixed = {each.name: each for each in found.measured}
    assert found.chosen == "optimized" and len(fixed) == 11
    assert error(found.times) < 0.75 * error(fixed[found.best_fixed].times)
    assert error(found.times) < 0.5 * error(grids.uniform(5))
    assert fixed["optimized"].error < fixed[found.best_fixed].error
    assert found.reference_error < 0.01 * fixed["optimized"].error


@pytest.mark.parametrize("schedule", [FLOW, EDM], ids=["flow", "edm"])
def test_fixed_grids_take_equally_many_calls(schedule):
    denoise_fn, calls = UNEQUAL.denoise_fn(schedule=schedule), []
    found = grids.candidates(4, schedule=schedule)
    for times in found.values():
        draw = lambda z, times=times: calls.append(
            samplers.sample(
                None, denoise_fn, z, times, sampler=samplers.UniPC(2), schedule=schedule
            ).nfe
        )
        jax.eval_shape(draw, jnp.zeros(3))
    assert len(found) == 10 and calls == [4] * 10


def test_the_last_time_above_zero_noise_is_free():
    found = grids.optimize(
        UNEQUAL.denoise_fn(schedule=EDM),
        starts(schedule=EDM),
        4,
        sampler=samplers.DPMSolver(2),
        schedule=EDM,
        candidates={"uniform": grids.uniform(3)},
    )
    assert found.chosen == "optimized" and found.times.shape == (4,)
    assert found.times[0] == 1 and found.times[-1] > 0.01
    optimized, uniform = found.measured
    assert optimized.evaluations == uniform.evaluations == 4
    assert optimized.error < 0.5 * uniform.error


def test_a_search_never_ends_above_where_it_began():
    ends = EndPoints(
        UNEQUAL.denoise_fn(schedule=FLOW),
        starts(shape=(64,)),
        schedule=FLOW,
        t_max=1.0,
        reference_steps=32,
    )
    sampler = samplers.AdamsBashforth(2, "u")
    halves = lambda times: ends.distances(sampler, times).reshape(2, -1).mean(axis=1)
    for times in list(grids.candidates(4, schedule=FLOW).values())[::3]:
        found = refinement.refined(
            lambda times: tuple(halves(times)),
            times,
            ends_noisy=ends.ends_noisy(times),
            num_parameters=2,
            max_evaluations=12,
        )
        assert len(found) == len(times) and (halves(found) <= halves(times)).all()


def test_held_out_noise_selects_along_a_search():
    """The way to the least error at 0.2 passes that of the held-out noise at 0.4."""
    settings = dict(ends_noisy=False, num_parameters=1, max_evaluations=40)
    error_fn = lambda times: (abs(times[1] - 0.2), abs(times[1] - 0.4))
    stopped = refinement.refined(error_fn, grids.uniform(2), **settings)[1]
    assert abs(stopped - 0.4) < 0.1
    alone_fn = lambda times: (abs(times[1] - 0.2), abs(times[1] - 0.2))
    found = refinement.refined(alone_fn, grids.uniform(2), **settings)[1]
    assert abs(found - 0.2) < 0.01


@pytest.mark.parametrize("ends_noisy", [False, True])
def test_as_many_parameters_as_free_times_reach_every_grid(ends_noisy):
    start, wanted = np.linspace(1, 0.1 * ends_noisy, 6), np.linspace(1, 0, 6) ** 3
    wanted[-1] = 0.002 * ends_noisy
    steps = lambda times: -np.diff(np.append(times, 0.0) if ends_noisy else times)
    times_fn, count = refinement.moves(start, ends_noisy, 99)
    assert count == 4 + ends_noisy
    unit = np.eye(count)
    moved = [np.log(steps(times_fn(each)) / steps(times_fn(0 * each))) for each in unit]
    free = np.stack([*moved, np.ones(len(moved[0]))], axis=1)  # steps keep their sum
    change = np.linalg.solve(free, np.log(steps(wanted) / steps(start)))[:-1]
    np.testing.assert_allclose(times_fn(change), wanted, rtol=1e-9, atol=1e-12)


def test_more_calls_are_never_chosen_and_the_best_fixed_grid_is_kept():
    given = {"four": grids.uniform(4), "three": grids.uniform(3), "9": grids.uniform(9)}
    found = grids.optimize(
        UNEQUAL.denoise_fn(schedule=FLOW),
        starts(shape=(64,)),
        4,
        sampler=samplers.ddim(),
        schedule=FLOW,
        candidates=given,
        **QUICK,
    )
    errors = {each.name: each.error for each in found.measured}
    assert found.chosen == found.best_fixed == "four" and found.difference == 0
    assert errors["9"] < errors["four"] < errors["three"]


@pytest.mark.ci
def test_more_tries_compile_no_more_and_the_same_call_finds_the_same_grid():
    found, programs = [], []
    for tries in (12, 40, 40):
        with counted() as made:
            each = grids.optimize(
                UNEQUAL.denoise_fn(schedule=FLOW),
                starts(shape=(32,)),
                4,
                sampler=samplers.ddim(),
                schedule=FLOW,
                max_evaluations=tries,
                reference_steps=16,
            )
        found.append(each.measured[0])
        programs.append(made.compiled)
    _, one, again = found
    assert max(programs[1:]) <= programs[0]
    np.testing.assert_array_equal(one.times, again.times)
    assert one.error == again.error


def test_a_guided_function_whose_labels_belong_to_the_rows_of_z():
    labels = (jnp.arange(32) % 2).astype(jnp.float32)
    denoise = lambda z, t, label: analytic.Mixture(
        jnp.ones(1), jnp.zeros((1, 2)), jnp.full((1, 2), 0.25)
    ).denoised(z - label[:, None] * (1 - t), 1 - t, t)
    own = predictions.as_denoiser(lambda z, t: denoise(z, t, labels))
    null = predictions.as_denoiser(lambda z, t: denoise(z, t, 0.0 * labels))
    found = grids.optimize(
        guidance.classifier_free(own, null, scale=1.5),
        starts(shape=(32, 2)),
        3,
        sampler=samplers.AdamsBashforth(2, "u"),
        schedule=FLOW,
        **QUICK,
    )
    assert found.measured[0].evaluations == 3 and len(found.measured) == 11


PUBLISHED = {  # Sabour et al. 2024, arXiv 2404.14507, table 3
    "stable_diffusion": "14.615 6.475 3.861 2.697 1.886 1.396 .963 .652 .399 .152 .029",
    "sdxl": "14.615 6.315 3.771 2.181 1.342 .862 .555 .380 .234 .113 .029",
}


@pytest.mark.parametrize("table", grids.TABLES)
def test_align_your_steps_has_the_published_levels(table):
    times = grids.align_your_steps(10, schedule=FLOW, table=table)
    published = [float(level) for level in PUBLISHED[table].split()]
    np.testing.assert_allclose(times / (1 - times), published, rtol=1e-12)
    middle = grids.align_your_steps(20, schedule=FLOW, table=table)
    np.testing.assert_allclose(middle[::2], times, rtol=1e-12)
    ratio = middle / (1 - middle)
    np.testing.assert_allclose(ratio[1:-1:2] ** 2, ratio[:-2:2] * ratio[2::2])


EPS = predictions.denoiser(lambda z, t: z, kind="eps", schedule=FLOW)
REFUSED = {
    "steps": (dict(num_steps=1), "num_steps=1: must be at least 2; one step has no"),
    "noise": (dict(sampler=samplers.ddpm()), "must be deterministic, because"),
    "starts": (dict(z=jnp.zeros((8, 2))), r"len\(z\)=8: must be at least 32; pass"),
    "t_max": (dict(t_max=0.0), r"t_max=0.0: must be in \(0, 1\]"),
    "singular": (dict(denoise_fn=EPS), "alpha"),
    "schedule": (dict(schedule=schedules.Cosine()), "schedule"),
    "grids": (dict(candidates={}), "candidates=0: must be at least one grid"),
    "grid": (dict(candidates={"up": np.array([0.0, 1.0])}), "each time must be below"),
    "sampler": (dict(sampler="ddim"), "sampler='ddim': must be a value such as"),
    "tries": (dict(max_evaluations=0), "max_evaluations=0: must be at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    changed, message = REFUSED[name]
    given = dict(
        denoise_fn=NARROW.denoise_fn(schedule=FLOW),
        z=starts(shape=(32, 2)),
        num_steps=3,
        sampler=samplers.ddim(),
        schedule=FLOW,
    )
    with pytest.raises(ValueError, match=message):
        grids.optimize(**given | QUICK | changed)
