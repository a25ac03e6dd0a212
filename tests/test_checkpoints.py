"""Saving and strict restoring: `experiments/checkpoints.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import checkpoints, devices
from experiments.checkpoints import Checkpoints, MismatchError
from experiments.errors import SaveError
from experiments.retention import Keep

IDENTITY = {"format": 1, "config": {"seed": 3}}


def make_items(scale=1.0):
    params = {"dense": {"kernel": scale * jnp.ones((3, 4)), "bias": jnp.zeros(4)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    train = {"step": jnp.int32(7), "opt_state": optimizer.init(params)}
    ema = jax.tree.map(jnp.copy, params)
    items = {"params": params, "ema": ema, "train": train}
    return jax.device_put(items, devices.replicated(devices.data_mesh()))


@pytest.fixture
def workdir(tmp_path):
    """A run with checkpoints at steps 5 and 10."""
    with Checkpoints(tmp_path, keep=Keep(newest=3)) as saved:
        saved.save(5, make_items(5.0), IDENTITY)
        saved.save(10, make_items(10.0), IDENTITY)
    return tmp_path


def test_what_was_saved_comes_back_with_its_containers(workdir):
    items = make_items(10.0)
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.steps() == [5, 10]
        assert saved.identity(10) == IDENTITY
        restored = saved.restore(10, devices.abstract(items))
    assert jax.tree.structure(restored) == jax.tree.structure(items)
    for before, after in zip(
        jax.tree.leaves(items), jax.tree.leaves(restored), strict=True
    ):
        assert after.dtype == before.dtype
        assert after.sharding == before.sharding
        np.testing.assert_array_equal(after, before)


def test_averaged_weights_load_alone(workdir):
    target = devices.abstract(make_items()["ema"])
    with Checkpoints(workdir, read_only=True) as saved:
        restored = saved.restore(5, {"ema": target})
    assert list(restored) == ["ema"]
    assert restored["ema"]["dense"]["kernel"][0, 0] == 5


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    items = make_items(3.0)
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0
    )
    target = devices.abstract(items)
    with Checkpoints(tmp_path) as saved:
        saved.save(1, items, IDENTITY)
        overwrite(items)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.restore(1, target)["params"]["dense"]["kernel"][2, 3] == 3


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=Keep(newest=2)) as saved:
        for step in (1, 2, 3):
            saved.save(step, make_items(), IDENTITY)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == [2, 3]


def changed(path, leaf):
    """The saved parameters as targets, one leaf replaced, added or removed."""
    target = devices.abstract(make_items()["params"])
    layer, name = path.split("/")
    target.setdefault(layer, {})[name] = leaf
    if leaf is None:
        del target[layer][name]
    return target


@pytest.mark.parametrize(
    ("path", "leaf", "message"),
    [
        ("dense/bias", None, "dense/bias is in the checkpoint but not in this"),
        ("other/bias", jnp.zeros(4), "other/bias is not in the checkpoint"),
        (
            "dense/kernel",
            jnp.zeros((3, 5)),
            r"dense/kernel has shape \(3, 4\) in the checkpoint, \(3, 5\) here",
        ),
        (
            "dense/kernel",
            jnp.zeros((3, 4), jnp.bfloat16),
            "dense/kernel has dtype float32 in the checkpoint, bfloat16 here",
        ),
    ],
)
def test_a_target_that_differs_is_refused(workdir, path, leaf, message):
    target = changed(path, None if leaf is None else devices.abstract(leaf))
    with (
        Checkpoints(workdir, read_only=True) as saved,
        pytest.raises(MismatchError, match=f"step 10, params: {message}"),
    ):
        saved.restore(10, {"params": target})


def test_the_first_difference_is_the_one_named():
    a = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    b = {"a": jnp.zeros(4), "b": jnp.zeros(5)}
    assert checkpoints.first_difference(a, a) is None
    assert checkpoints.first_difference(a, b).startswith("a has shape (2,)")


def test_reading_creates_nothing_and_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="no checkpoints in .*name the workdir"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_reading_leaves_a_save_under_way_alone(workdir):
    unfinished = workdir / "checkpoints" / "15.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.steps() == [5, 10]
    assert unfinished.exists()
    with Checkpoints(workdir) as saved:
        assert saved.steps() == [5, 10]
    assert not unfinished.exists()


def test_an_older_step_is_not_passed_over_in_silence(workdir):
    with (
        pytest.raises(SaveError, match=r"step 7 was not saved.*\[5, 10\]"),
        Checkpoints(workdir, keep=Keep(newest=2)) as saved,
    ):
        saved.save(7, make_items(), IDENTITY)


def test_a_failed_save_is_an_error(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    saved = Checkpoints(tmp_path)
    saved.save(1, make_items(), IDENTITY)
    saved.wait()
    monkeypatch.setattr("os.rename", fail)
    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr("pathlib.Path.rename", fail)
    saved.save(2, make_items(), IDENTITY)
    with pytest.raises(SaveError, match=r"no space left.*whole ones: steps \[1\]"):
        saved.__exit__(None)
    monkeypatch.undo()
    with Checkpoints(tmp_path) as saved:
        assert saved.steps() == [1]


def test_an_error_inside_is_not_hidden_by_closing(tmp_path):
    def failing():
        with Checkpoints(tmp_path) as saved:
            saved.save(1, make_items(), IDENTITY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == [1]
