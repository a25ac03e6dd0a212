"""`times.AdaptiveTimes`: unbiased, bounded, and of lower variance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import losses, objectives, schedules, times, weightings

FLOW = schedules.FlowMatching()
UNIFORM, LOGIT = times.Uniform(), times.LogitNormal(0.3, 0.8)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)


def loss_of(t):
    """A loss in closed form that varies a hundredfold with the noise level."""
    return 0.05 + 5 * np.exp(-(((t - 0.25) / 0.08) ** 2))


def exact_moments(adaptive, schedule=FLOW):
    """E[loss^2] in each bin, times of the base, by quadrature; 10 examples each."""
    middle = (np.arange(100_000) + 0.5) / 100_000
    with jax.enable_x64(True):
        t = np.asarray(adaptive.base.quantile(middle, schedule=schedule))
        place = np.asarray(adaptive._bin(schedule.logsnr(t)))
    count = np.bincount(place, minlength=adaptive.num_bins)
    square = np.bincount(place, loss_of(t) ** 2, minlength=adaptive.num_bins)
    mean = square / np.maximum(count, 1)
    return times.LossMoments(
        np.where(count > 0, 10.0, 0), np.where(count > 0, 10 * mean, 0)
    )


def quadrature(adaptive):
    """Points and weights of the mean over u, exact between the kinks of `quantile`."""
    with jax.enable_x64(True):
        ends = np.asarray(adaptive._bins(FLOW)[2])
    return panels(np.concatenate([[0], ends]))


def panels(edges):
    """Points and weights of Gauss-Legendre quadrature between each two edges."""
    half = np.diff(edges)[:, None] / 2
    points = edges[:-1, None] + half * (1 + NODES)
    return points.ravel(), (half * WEIGHTS).ravel()


def exact_means():
    """Of loss and squared loss at uniform times."""
    t, weights = panels(np.linspace(0, 1, 21))
    return loss_of(t) @ weights, loss_of(t) ** 2 @ weights


def moments_of(proposal, objective):
    """Mean and second moment of importance times loss, by quadrature over u."""
    u, weights = quadrature(proposal)
    with jax.enable_x64(True):
        t = np.asarray(jax.jit(lambda u: proposal.quantile(u, schedule=FLOW))(u))
        proposed = dataclasses.replace(objective, proposal=proposal)
        x = jnp.zeros((t.size, 1))
        importance = np.asarray(
            losses.objective_terms(
                None, lambda z, t: z, x, objective=proposed, t=t, eps=x
            ).importance
        )
    value = importance * loss_of(t)
    return value @ weights, value**2 @ weights, importance


@pytest.mark.pinned
@pytest.mark.parametrize(
    ("base", "wanted"),
    [(UNIFORM, UNIFORM), (UNIFORM, LOGIT), (LOGIT, LOGIT)],
    ids=["uniform", "another base", "logit-normal"],
)
def test_the_mean_is_that_of_the_objective_exactly(base, wanted):
    adaptive = times.AdaptiveTimes(base, -6.0, 6.0, 12)
    adaptive = dataclasses.replace(adaptive, moments=exact_moments(adaptive))
    objective = objectives.Objective(FLOW, "u", weightings.Mse("u"), wanted)
    mean, _, _ = moments_of(adaptive, objective)
    t, weights = panels(np.linspace(0, 1, 41))
    with jax.enable_x64(True):
        density = np.asarray(wanted.density(t, schedule=FLOW))
    np.testing.assert_allclose(mean, (loss_of(t) * density) @ weights, rtol=1e-9)


@pytest.mark.ci
def test_variance_falls_to_the_optimum_and_importance_is_bounded():
    """With fine bins and a small share the estimator of a positive loss is exact."""
    objective = objectives.flow_matching()
    mean, square = exact_means()
    plain, seen = square - mean**2, []
    for num_bins, share in ((1, 0.2), (10, 0.2), (40, 0.2), (400, 1e-4)):
        adaptive = times.AdaptiveTimes(times.Uniform(), -10.0, 10.0, num_bins, share)
        adaptive = dataclasses.replace(adaptive, moments=exact_moments(adaptive))
        found, second, importance = moments_of(adaptive, objective)
        np.testing.assert_allclose(found, mean, rtol=1e-9)
        assert np.all(importance <= 1 / share * (1 + 1e-12))
        seen.append((second - found**2) / plain)
    np.testing.assert_allclose(seen[0], 1, rtol=1e-9)  # one bin is the base
    assert 1 > seen[1] > seen[2] > seen[3]
    assert seen[2] < 0.2 and seen[3] < 1e-3


@pytest.mark.parametrize("stratified", [False, True])
def test_it_learns_while_it_is_used(stratified):
    """A run of updates reaches the exact second moments and lowers the variance.

    Examples differ at the same time too, by a factor with mean 1 and variance 1/3. That
    is what remains of the variance where uniform times are stratified, up to 1/n^2.
    """
    adaptive = times.AdaptiveTimes(times.Uniform(), -6.0, 6.0, 12, decay=0.98)
    density = times.Stratified(adaptive) if stratified else adaptive

    @jax.jit
    def step(moments, key):
        proposal = times.with_moments(density, moments)
        time_key, factor_key = jax.random.split(key)
        t = proposal.sample(time_key, (256,), schedule=FLOW)
        importance = 1 / proposal.density(t, schedule=FLOW)
        factor = jax.random.uniform(factor_key, t.shape, t.dtype, maxval=2.0)
        loss = factor * (0.05 + 5 * jnp.exp(-(((t - 0.25) / 0.08) ** 2)))
        terms = losses.Terms(importance * loss, t, FLOW.logsnr(t), loss, importance)
        return times.adaptive_part(density).update(moments, terms, schedule=FLOW), terms

    moments, means = adaptive.init(), []
    for key in jax.random.split(jax.random.key(0), 400):
        moments, terms = step(moments, key)
        means.append(float(terms.loss.mean()))
    exact = exact_moments(adaptive)
    np.testing.assert_allclose(
        moments.square / moments.count, 4 / 3 * exact.square / exact.count, rtol=0.15
    )
    mean, square = exact_means()
    late = np.array(means[100:])
    error = late.std() / np.sqrt(late.size)
    assert abs(late.mean() - mean) < 4 * error  # unbiased, Monte Carlo
    uniform = square / 3 if stratified else 4 / 3 * square - mean**2
    assert late.var() * 256 < 0.4 * uniform


def test_an_update_is_a_decaying_sum_of_what_each_bin_saw():
    adaptive = times.AdaptiveTimes(
        times.Uniform(), -2.0, 2.0, 4, base_fraction=0.5, decay=0.9
    )
    before = times.LossMoments(
        np.array([2.0, 0.0, 1.0, 4.0], np.float32),
        np.array([8.0, 0.0, 9.0, 4.0], np.float32),
    )
    logsnr = np.array([1.5, np.inf, -0.5, -0.2], np.float32)  # bins 0, 0, 2, 2
    loss = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    edge = lambda value: 1 / (1 + np.exp(value / 2))  # time at a log-SNR
    base = np.diff([0, edge(1), edge(0), edge(-1), 1])
    root = np.sqrt([4, 21 / 7, 9, 1])  # the bin that saw nothing has the mean
    ratio = 0.5 + 0.5 * root / (base @ root)
    importance = 1 / ratio[[0, 0, 2, 2]].astype(np.float32)
    terms = losses.Terms(importance * loss, None, logsnr, None, importance)
    after = adaptive.update(before, terms, schedule=FLOW)
    np.testing.assert_allclose(after.count, [0.9 * 2 + 2, 0, 0.9 + 2, 4], rtol=1e-6)
    np.testing.assert_allclose(
        after.square, [0.9 * 8 + 1 + 4, 0, 0.9 * 9 + 9 + 16, 4], rtol=1e-5
    )
    learned = dataclasses.replace(adaptive, moments=before)
    t = np.array([0.1, 0.45, 0.55, 0.9], np.float32)
    np.testing.assert_allclose(learned.density(t, schedule=FLOW), ratio, rtol=1e-5)


def test_before_anything_is_learned_it_is_the_base():
    base = times.LogitNormal()
    t = np.array([0.0, 0.2, 0.9, 1.0], np.float32)
    new = times.AdaptiveTimes(base)
    zero_loss = times.LossMoments(np.full(20, 3, np.float32), np.zeros(20, np.float32))
    for moments in (None, new.init(), zero_loss):
        adaptive = dataclasses.replace(new, moments=moments)
        np.testing.assert_allclose(
            adaptive.density(t, schedule=FLOW),
            base.density(t, schedule=FLOW),
            rtol=1e-6,
        )
        key = jax.random.key(0)
        np.testing.assert_allclose(
            adaptive.sample(key, (64,), schedule=FLOW),
            base.sample(key, (64,), schedule=FLOW),
            rtol=1e-4,
        )


def test_it_works_in_place_of_a_proposal():
    """In `objective_terms`, its moments data under `jit`."""
    adaptive = times.AdaptiveTimes(times.Uniform(), -6.0, 6.0, 12)
    x = np.ones((64, 3), np.float32)
    traces = []

    @jax.jit
    def terms(moments, key):
        traces.append(None)
        proposal = times.with_moments(times.Stratified(adaptive), moments)
        objective = dataclasses.replace(objectives.flow_matching(), proposal=proposal)
        return losses.objective_terms(key, lambda z, t: 0 * z, x, objective=objective)

    known = jax.tree.map(lambda leaf: leaf.astype(np.float32), exact_moments(adaptive))
    for moments in (adaptive.init(), known):
        found = terms(moments, jax.random.key(0))
        assert np.all(np.isfinite(found.loss)) and np.all(found.importance <= 5.001)
    assert len(traces) == 1
    assert np.std(found.importance) > 0.3


def test_the_adaptive_part_of_any_density():
    adaptive = times.AdaptiveTimes(times.Truncated(times.Uniform(), 0.1, 0.9))
    nested = times.Stratified(adaptive)
    assert times.adaptive_part(nested) is adaptive
    assert times.adaptive_part(times.Stratified(times.Uniform())) is None
    assert times.adaptive_part(None) is None
    moments = adaptive.init()
    assert times.with_moments(nested, moments).base.moments is moments
    plain = times.Stratified(times.Uniform())
    assert times.with_moments(plain, None) is plain


@pytest.mark.parametrize("bad", [1e20, np.inf, np.nan])
def test_one_loss_that_is_not_finite_leaves_the_moments(bad):
    adaptive = times.AdaptiveTimes(times.Uniform(), -2.0, 2.0, 4)
    logsnr = np.array([1.5, -0.5, -0.5], np.float32)
    update = lambda loss, logsnr: adaptive.update(
        adaptive.init(), losses.Terms(loss, None, logsnr, None, None), schedule=FLOW
    )
    found = update(np.array([1.0, bad, 3.0], np.float32), logsnr)
    expected = update(np.array([1.0, 3.0], np.float32), logsnr[[0, 2]])
    np.testing.assert_array_equal(found.count, expected.count)
    np.testing.assert_array_equal(found.square, expected.square)
