import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusionflow import random


@pytest.mark.ci
def test_an_example_is_the_same_in_every_batch():
    whole = random.normal(random.example_keys(7, np.arange(64)), (64, 3, 2))
    part = random.normal(random.example_keys(7, np.arange(40, 47)), (7, 3, 2))
    alone = random.normal(random.example_keys(7, 41), (3, 2))
    np.testing.assert_array_equal(whole[40:47], part)
    np.testing.assert_array_equal(whole[41], alone)
    grid = random.normal(
        random.example_keys(7, np.arange(64).reshape(8, 8)), (8, 8, 3, 2)
    )
    np.testing.assert_array_equal(grid.reshape(whole.shape), whole)


def test_seeds_and_folded_keys_differ():
    index = np.arange(1000)
    a, b = (random.uniform(random.example_keys(s, index), (1000,)) for s in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    stepped = random.example_keys(jax.random.fold_in(jax.random.key(0), 5), index)
    assert not np.array_equal(random.uniform(stepped, (1000,)), a)


def test_split_and_fold_in_work_per_example():
    keys = random.example_keys(0, np.arange(6).reshape(2, 3))
    first, second = random.split(keys)
    assert first.shape == second.shape == (2, 3)
    flat = [jax.random.fold_in(key, 1) for key in keys.reshape(-1)]
    np.testing.assert_array_equal(
        jax.random.key_data(second).reshape(6, -1),
        np.stack([jax.random.key_data(key) for key in flat]),
    )
    per_key = random.fold_in(keys, np.arange(3))
    np.testing.assert_array_equal(
        jax.random.key_data(per_key[1, 2]),
        jax.random.key_data(jax.random.fold_in(keys[1, 2], 2)),
    )


def test_uniform_is_open_and_uniform():
    ends = random.from_lattice(jnp.array([0, random.LATTICE - 1], jnp.uint32))
    assert 0 < ends[0] < ends[1] < 1
    draws = random.uniform(jax.random.key(3), (20_000,))
    assert stats.kstest(draws, "uniform").pvalue > 1e-3


def test_normal_is_normal():
    draws = random.normal(random.example_keys(1, np.arange(20_000)), (20_000,))
    assert stats.kstest(draws, "norm").pvalue > 1e-3


def test_noise_sources():
    z = jnp.zeros((4, 2))
    keys = random.example_keys(0, np.arange(4))
    source = random.Independent()
    noise = source.draw(keys, 3, 2, z)
    assert noise.shape == (2, 4, 2)
    assert not np.array_equal(noise[0], noise[1])
    assert not np.array_equal(noise, source.draw(keys, 4, 2, z))
    np.testing.assert_array_equal(noise[:, 1:3], source.draw(keys[1:3], 3, 2, z[1:3]))
    values = np.arange(5 * 2 * 8, dtype=np.float32).reshape(5, 2, 4, 2)
    recorded = random.Recorded(values)
    np.testing.assert_array_equal(recorded.draw(None, 3, 2, z), values[3])
    with pytest.raises(ValueError, match=r"recorded noise has shape \(5, 2, 4, 2\)"):
        recorded.draw(None, 3, 1, z)


def brownian(clock, size, keys=None):
    """Draws of every step, `[num_steps, size]`."""
    keys = random.example_keys(5, np.arange(size)) if keys is None else keys
    source, z = random.Brownian(np.asarray(clock)), jnp.zeros(keys.shape)
    draw = jax.jit(lambda step: source.draw(keys, step, 1, z)[0])
    return np.stack([draw(step) for step in range(len(clock) - 1)])


@pytest.mark.ci
def test_brownian_draws_are_standard_normal_and_independent():
    """On a grid of unequal steps, none of them on the lattice of another."""
    clock, size = [1.0, 0.83, 0.8299, 0.5, 0.123, 1e-6, 0.0], 8000
    draws = brownian(clock, size)
    for row in draws:
        assert stats.kstest(row, "norm").pvalue > 1e-3 / len(draws)
    gap = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(gap).max() < 4.5 / size**0.5


@pytest.mark.ci
def test_brownian_increments_add_up_under_refinement():
    coarse, fine = np.array([1.0, 0.7, 0.15, 0.0]), np.linspace(1, 0, 21)
    whole, parts = brownian(coarse, 5), brownian(fine, 5)
    long = np.sqrt(-np.diff(coarse))[:, None] * whole
    short = np.sqrt(-np.diff(fine))[:, None] * parts
    sums = np.stack([short[:6].sum(0), short[6:17].sum(0), short[17:].sum(0)])
    np.testing.assert_allclose(long, sums, atol=1e-6)
    some = brownian(coarse, 2, random.example_keys(5, np.arange(3, 5)))
    np.testing.assert_allclose(some, whole[:, 3:], rtol=1e-6)
    # a tiny step is no difference of large numbers
    tiny = brownian([0.7 + 2**-20, 0.7 + 2**-21, 0.7], 5)
    both = brownian([0.7 + 2**-20, 0.7], 5)
    np.testing.assert_allclose(both[0], tiny.sum(0) / 2**0.5, rtol=0.02, atol=0.02)


@pytest.mark.ci
@pytest.mark.parametrize("jitted", ["source", "draw"])
def test_brownian_keeps_a_fine_clock_in_float32(jitted):
    """Steps that are 0 in float32, as data of `jit` and as its constants."""
    clock = np.array([1.0, 1 - 2.0**-28, 1 - 2.0**-26, 0.5])
    keys = random.example_keys(5, np.arange(4000))
    source, z = random.Brownian(clock), jnp.zeros(keys.shape)
    one = lambda source, step: source.draw(keys, step, 1, z)[0]
    if jitted == "source":
        draw = jax.jit(one)
        draws = np.stack([draw(source, step) for step in range(3)])
    else:
        draw = jax.jit(lambda step: one(source, step))
        draws = np.stack([draw(step) for step in range(3)])
    for row in draws:
        assert stats.kstest(row, "norm").pvalue > 1e-3 / 3
    gap = np.corrcoef(draws) - np.eye(3)
    assert np.abs(gap).max() < 4.5 / 4000**0.5
    # over both short steps it is the path of the clock without the middle
    both = random.Brownian(clock[[0, 2, 3]]).draw(keys, 0, 1, z)[0]
    np.testing.assert_allclose(2 * both, draws[0] + 3**0.5 * draws[1], atol=1e-4)


@pytest.mark.ci
def test_a_clock_in_jit_is_taken_as_it_is():
    """Made inside of `jit` and outside, on cells that float32 holds."""
    key, z, clock = jax.random.key(0), jnp.zeros(3), jnp.array([1.0, 0.75, 0.5])
    draw = lambda clock: random.Brownian(clock).draw(key, 1, 1, z)
    np.testing.assert_allclose(jax.jit(draw)(clock), draw(clock), rtol=1e-6)


def test_sources_know_their_number_of_steps():
    recorded, path = random.Recorded(np.zeros((3, 1, 2))), random.Brownian([1.0, 0.0])
    for source, there in ((recorded, 3), (path, 1)):
        random.check_steps(source, there)
        words = f"{type(source).__name__} has noise for {there} steps: must be 6"
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(lambda source: random.check_steps(source, 6), source)
    random.check_steps(random.Independent(), 6)


def test_brownian_refuses_a_clock_that_leaves_its_path():
    for clock, words in (
        (np.array([2.0, 0.0]), "low and high are the ends"),
        (np.array([0.5, 0.5, 0.0]), "must fall"),
        (np.array([0.1, 0.5]), "must fall"),
    ):
        with pytest.raises(ValueError, match=words):
            random.Brownian(clock)
    wide = random.Brownian(np.array([80.0, 1.0]), 0.0, 100.0)
    assert jax.tree.map(lambda leaf: leaf, wide).high == 100.0


def test_a_seed_that_would_equal_another_is_refused():
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=r"in \[0, 2\*\*32\)"):
            random.example_keys(seed, 0)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        (lambda: jnp.zeros(2, jnp.uint32), (3,), "typed key"),
        (lambda: random.example_keys(0, np.arange(3)), (4, 2), "must begin"),
        (
            lambda: jax.random.split(jax.random.key(0, impl="rbg"), 4),
            (4, 2),
            "threefry",
        ),
    ],
)
def test_bad_keys_are_refused(key, shape, words):
    with pytest.raises(ValueError, match=words):
        random.normal(key(), shape)
