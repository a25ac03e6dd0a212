import jax
import numpy as np
import pytest
from scipy import stats

from diffusionflow import random, schedules, times

FLOW = schedules.FlowMatching()
DENSITIES = {
    "uniform": (times.Uniform(), stats.uniform(0, 1)),
    "truncated": (times.Uniform(0.2, 0.7), stats.uniform(0.2, 0.5)),
    "logit_normal": (times.LogitNormal(-0.4, 1.1), None),
}


def distribution(name):
    """`(cdf, pdf)` from SciPy."""
    density, law = DENSITIES[name]
    if law is not None:
        return law.cdf, law.pdf
    normal = stats.norm(density.mean, density.std)
    logit = lambda t: np.log(t / (1 - t))
    return lambda t: normal.cdf(
        logit(t)
    ), lambda t: normal.pdf(logit(t)) / (t * (1 - t))


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("stratified", [False, True])
def test_samples_follow_the_density(name, stratified):
    base = DENSITIES[name][0]
    density = times.Stratified(base) if stratified else base
    cdf, pdf = distribution(name)
    t = np.asarray(density.sample(jax.random.key(0), (20_000,), FLOW))
    assert t.dtype == np.float32 and t.min() > 0 and t.max() < 1
    statistic, pvalue = stats.kstest(t, cdf)
    if stratified:  # far closer to the law than chance
        assert statistic < 2 / 20_000
    else:
        assert pvalue > 1e-3
    inside = np.linspace(0.21, 0.69, 25)
    np.testing.assert_allclose(density.density(inside, FLOW), pdf(inside), rtol=1e-5)


def test_density_is_zero_outside():
    density = times.Uniform(0.2, 0.7).density(np.array([0.1, 0.2, 0.7, 0.8]), FLOW)
    np.testing.assert_allclose(density, [0, 2, 2, 0], rtol=1e-6)
    ends = times.LogitNormal().density(np.array([0.0, 1.0]), FLOW)
    np.testing.assert_array_equal(ends, 0)


def test_keys_per_example_fix_the_times():
    keys = random.example_keys(0, np.arange(8))
    whole = times.LogitNormal().sample(keys, (8,), FLOW)
    np.testing.assert_array_equal(
        times.LogitNormal().sample(keys[3:5], (2,), FLOW), whole[3:5]
    )


def test_stratified_fills_every_stratum_once_and_each_time_is_uniform():
    stratified = times.Stratified(times.Uniform())
    for count in (1, 2, 3, 128):
        t = np.sort(stratified.sample(jax.random.key(count), (count,), FLOW))
        np.testing.assert_allclose(np.diff(t), 1 / count, atol=1e-6)
    batches = jax.vmap(lambda key: stratified.sample(key, (3,), FLOW))
    t = np.asarray(batches(jax.random.split(jax.random.key(0), 4000)))
    for place in range(3):
        assert stats.kstest(t[:, place], "uniform").pvalue > 1e-3
    keys = random.example_keys(0, np.arange(6).reshape(2, 3))
    assert stratified.sample(keys, (2, 3), FLOW).shape == (2, 3)


def test_stratified_mean_has_the_variance_of_a_shifted_lattice():
    """For t^2 the mean over n moves by u / n with u uniform, to first order."""
    draw = lambda key: times.Stratified(times.Uniform()).sample(key, (64,), FLOW) ** 2
    means = jax.vmap(lambda key: draw(key).mean())(
        jax.random.split(jax.random.key(0), 2000)
    )
    np.testing.assert_allclose(means.std(), 1 / (64 * np.sqrt(12)), rtol=0.05)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: times.Uniform(t_min=-0.1), r"t_min=-0.1.*\[0, 1\)"),
        (lambda: times.Uniform(0.5, 0.5), r"t_max=0.5.*\(0.5, 1\]"),
        (lambda: times.LogitNormal(std=0.0), "std=0.0.*positive"),
    ],
)
def test_bad_values_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
