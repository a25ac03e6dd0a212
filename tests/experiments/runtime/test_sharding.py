"""Where arrays live: `runtime/sharding.py`, on parts of the eight forced devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from experiments.checkpointing.manager import Checkpoints
from experiments.runtime import rng, sharding
from experiments.runtime.errors import UsageError
from experiments.training import loop, step
from experiments.training.trainer import Trainer
from tests.helpers import tiny

LEAST = 64


def grid(count, fsdp):
    """The first devices as [count / fsdp, fsdp]."""
    part = np.array(jax.devices()[:count]).reshape(-1, fsdp)
    return Mesh(part, (sharding.DATA, sharding.FSDP), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), ()),
        ((63,), ()),  # too small
        ((64,), ("fsdp",)),
        ((8, 16), (None, "fsdp")),  # the longest axis
        ((16, 8), ("fsdp", None)),
        ((12, 30), ("fsdp", None)),  # the longest that is even
        ((9, 9), ()),
        ((3, 3, 8, 16), (None, None, None, "fsdp")),
    ],
)
def test_a_large_leaf_is_cut_along_its_longest_even_axis(shape, spec):
    placement = sharding.FSDPSharding(sharding.mesh(fsdp=4), LEAST)
    found = placement.sharding(jax.ShapeDtypeStruct(shape, jnp.float32))
    assert found.spec == PartitionSpec(*spec)


def test_the_batch_is_cut_over_all_devices_in_their_order():
    values = np.arange(16, dtype=np.float32)
    placed = sharding.place(sharding.mesh(fsdp=4), values)
    parts = {
        shard.device.id: shard.data.tolist() for shard in placed.addressable_shards
    }
    assert parts == {i: [2 * i, 2 * i + 1] for i in range(8)}


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: sharding.check_batch("b", 12), "b=12: .* multiple of the 8 devices"),
        (
            lambda: sharding.check_batch("b", 8, 2),
            "b=8: .* of the 8 devices times the 2 parts of optimizer.accumulate",
        ),
        (lambda: sharding.check_fsdp("f", 3), "f=3: .* divisor .* of devices, 8"),
        (lambda: sharding.check_fsdp("f", 0), "f=0"),
        (lambda: sharding.check_batch("b", 16, 2) or 1 / 0, None),
    ],
)
def test_what_the_devices_cannot_share_is_refused(check, message):
    with pytest.raises(UsageError if message else ZeroDivisionError, match=message):
        check()


def trained(trainer, mesh, placement):
    """The state after three steps on some devices, and its shardings."""
    recipe = trainer.recipe._replace(placement=placement)
    where = step.shardings(trainer.abstract_state, mesh, placement)
    same = sharding.replicated(mesh)
    train = jax.jit(
        functools.partial(step.train_step, recipe=recipe),
        donate_argnums=0,
        out_shardings=(where, same),
    )
    key = rng.stream(0, rng.INIT)
    init = functools.partial(step.init, recipe=recipe)
    state = jax.jit(init, out_shardings=where)(key)
    key = jax.device_put(rng.stream(0, rng.TRAIN), same)
    for number, batch in zip(range(3), trainer.batches(0), strict=False):
        del number
        state, _ = train(state, sharding.place(mesh, batch), key)
    assert train._cache_size() == 1
    return state, where


@pytest.fixture(scope="module")
def runs():
    """Three steps on one device, on eight, on eight with parameters cut over four."""
    with jax.numpy_dtype_promotion("standard"):
        trainer = Trainer(
            tiny.config(
                objective__proposal="adaptive(uniform)",
                ema__sigma_rel=(0.1,),
                ema__store_every=1,
            )
        )
        placed = sharding.FSDPSharding(grid(8, 4), LEAST)
        return {
            "one": trained(trainer, grid(1, 1), None)[0],
            "eight": trained(trainer, grid(8, 1), None)[0],
            "cut": trained(trainer, placed.mesh, placed),
        }


def assert_close(first, second):
    """To rounding of the largest number of a pytree, integers exactly."""
    first, second = (jax.tree.leaves(jax.device_get(tree)) for tree in (first, second))
    scale = max(np.abs(leaf).max() for leaf in first)
    for one, other in zip(first, second, strict=True):
        exact = not np.issubdtype(one.dtype, np.floating)
        np.testing.assert_allclose(
            other, one, rtol=0, atol=0 if exact else 1e-6 * scale
        )


@pytest.mark.ci
def test_a_few_steps_are_the_same_on_one_and_on_eight_devices(runs):
    assert_close(runs["one"].params, runs["eight"].params)
    assert_close(runs["one"].ema, runs["eight"].ema)


@pytest.mark.ci
def test_and_with_parameters_cut_over_some_of_them(runs):
    cut, _ = runs["cut"]
    assert_close(runs["one"].params, cut.params)
    assert_close(runs["one"].ema, cut.ema)


@pytest.mark.ci
def test_cut_parameters_optimizer_and_average_stay_cut(runs):
    state, where = runs["cut"]
    for leaf, wanted in zip(*map(jax.tree.leaves, (state, where)), strict=True):
        assert leaf.sharding == wanted
    for name in ("params", "ema", "opt_state", "profiles"):
        leaves = jax.tree.leaves(getattr(state, name))
        held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
        assert held < 0.3 * sum(
            leaf.size for leaf in leaves
        )  # a quarter, and small ones


@pytest.mark.slow
def test_checkpoints_move_between_numbers_of_devices(runs, tmp_path):
    """From four of eight to one, and from there to two of four."""
    state, _ = runs["cut"]
    here = state.checkpoint_items()
    for number, mesh in enumerate((grid(1, 1), grid(4, 2), grid(8, 8)), start=1):
        placement = sharding.FSDPSharding(mesh, LEAST)
        where = jax.tree.map(placement.sharding, here)
        with Checkpoints(tmp_path, keep=None) as saved:
            saved.save(number, here, {})
            saved.wait()
            here = saved.restore(number, sharding.abstract(here, where))
        for leaf, wanted, first in zip(
            *map(jax.tree.leaves, (here, where, state.checkpoint_items())), strict=True
        ):
            assert leaf.sharding == wanted
            np.testing.assert_array_equal(leaf, first)


@pytest.mark.slow
def test_a_run_with_cut_parameters_goes_on_without(tmp_path, capsys):
    """The whole road: training, evaluation, pictures, saving, another placement."""
    with jax.numpy_dtype_promotion("standard"):
        config = tiny.config(num_steps=5, optimizer__schedule="constant")
        cut = config.copy_and_resolve_references()
        cut.sharding.fsdp = 8
        loop.train_and_evaluate(cut, tmp_path)
        config.num_steps = 6
        state = loop.train_and_evaluate(config, tmp_path)
    assert "resuming at step 5" in capsys.readouterr().out
    assert int(state.step) == 6
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
