"""Saving and strict restoring: `checkpointing/manager.py`."""

import hashlib
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from absl import logging

from experiments.checkpointing import orbax_log, step_directories
from experiments.checkpointing.manager import Checkpoints, MismatchError
from experiments.checkpointing.retention import Keep
from experiments.runtime import sharding
from experiments.runtime.errors import SaveError

IDENTITY = {"format": 1, "config": {"seed": 3}}
ORBAX = compile("logging.error('of Orbax')", "/x/orbax/checkpoint/a.py", "exec")


def make_items(scale=1.0):
    params = {"dense": {"kernel": scale * jnp.ones((3, 4)), "bias": jnp.zeros(4)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    train = {"step": jnp.int32(7), "opt_state": optimizer.init(params)}
    ema = jax.tree.map(jnp.copy, params)
    items = {"params": params, "ema": ema, "train": train}
    return jax.device_put(items, sharding.replicated(sharding.data_mesh()))


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
        restored = saved.restore(10, sharding.abstract(items))
    assert jax.tree.structure(restored) == jax.tree.structure(items)
    for before, after in zip(
        jax.tree.leaves(items), jax.tree.leaves(restored), strict=True
    ):
        assert after.dtype == before.dtype
        assert after.sharding == before.sharding
        np.testing.assert_array_equal(after, before)


def test_averaged_weights_load_alone(workdir):
    target = sharding.abstract(make_items()["ema"])
    with Checkpoints(workdir, read_only=True) as saved:
        restored = saved.restore(5, {"ema": target})
    assert list(restored) == ["ema"]
    assert restored["ema"]["dense"]["kernel"][0, 0] == 5


def test_digests_of_weights_are_saved_and_read_without_them(workdir, monkeypatch):
    params = make_items(10.0)["params"]
    content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    with Checkpoints(workdir, read_only=True) as saved:
        monkeypatch.setattr(saved, "restore", None)
        found = {item: saved.digest(10, item) for item in ("params", "ema")}
        assert saved.digest(5, "params") != found["params"]
    expected = hashlib.sha256(content).hexdigest()[:16]
    assert found == {"params": expected, "ema": expected}


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    items = make_items(3.0)
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0
    )
    target = sharding.abstract(items)
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
    target = sharding.abstract(make_items()["params"])
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
    target = changed(path, None if leaf is None else sharding.abstract(leaf))
    with (
        Checkpoints(workdir, read_only=True) as saved,
        pytest.raises(MismatchError, match=f"step 10 does .*: params, {message}"),
    ):
        saved.restore(10, {"params": target})


def test_reading_creates_nothing_and_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="no checkpoints in .*name the workdir"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_unfinished_directories_are_known_by_the_name_that_orbax_gives():
    assert step_directories.SUFFIX == ocp.path.atomicity_types.TMP_DIR_SUFFIX


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


@pytest.fixture
def no_filters(monkeypatch):
    """Filters of the log that failed saves have left are forgotten."""
    monkeypatch.setattr(logging.get_absl_logger(), "filters", [])


def test_a_failed_save_is_an_error(tmp_path, monkeypatch, caplog, no_filters):
    """Leaving the context raises it, closes Orbax, and ends the silence of its log."""

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    saved = Checkpoints(tmp_path)
    saved.save(1, make_items(), IDENTITY)
    saved.wait()
    monkeypatch.setattr("os.rename", fail)
    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr("pathlib.Path.rename", fail)
    saved.save(2, make_items(), IDENTITY)
    close, closed = saved._manager.close, []
    monkeypatch.setattr(saved._manager, "close", lambda: closed.append(close()))
    with pytest.raises(SaveError, match=r"no space left.*intact ones: steps \[1\]"):
        saved.__exit__(None)
    exec(ORBAX, {"logging": logging})
    assert closed and caplog.messages == ["of Orbax"]
    monkeypatch.undo()
    with Checkpoints(tmp_path) as saved:
        assert saved.steps() == [1]


def test_a_full_disk_is_an_error_and_costs_no_older_checkpoint(tmp_path):
    """By a limit on the size of files, under which nothing of the arrays is written."""
    items = make_items()
    noise = np.random.default_rng(0).normal(size=(400, 100)).astype(np.float32)
    items["params"]["dense"]["kernel"] = jnp.asarray(noise)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as saved:
        saved.save(1, make_items(), IDENTITY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with (
            pytest.raises(SaveError, match=r"intact ones: steps \[1\]. Free disk"),
            Checkpoints(tmp_path) as saved,
        ):
            saved.save(2, items, IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with Checkpoints(tmp_path) as saved:  # with room again, it goes on
        assert saved.newest() == 1
        saved.save(2, items, IDENTITY)
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.newest() == 2


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def largest(folder):
    return max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


def interrupt_copy(step):
    """Only some of it has arrived, and not the manifest."""
    (step / "CHECKSUMS.json").unlink()
    shutil.rmtree(step / "train")


CORRUPTION = {
    "one bit of the data": lambda step: alter(largest(step / "params" / "d")),
    "one bit of the optimizer": lambda step: alter(largest(step / "train" / "d")),
    "truncated data": lambda step: largest(step / "ema" / "d").write_bytes(b"x" * 40),
    "lost metadata of arrays": lambda step: (step / "params" / "_METADATA").unlink(),
    "garbled metadata": lambda step: (step / "_CHECKPOINT_METADATA").write_text("{"),
    "lost metadata": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "lost index": lambda step: (step / "ema" / "manifest.ocdbt").unlink(),
    "garbled scores": lambda step: (step / "scores" / "metadata").write_text("{"),
    "lost identity": lambda step: shutil.rmtree(step / "identity"),
    "interrupted copy": interrupt_copy,
    "empty directory": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.ci
@pytest.mark.parametrize("name", CORRUPTION)
def test_a_corrupted_checkpoint_is_quarantined_and_the_one_before_used(
    workdir, name, capfd
):
    CORRUPTION[name](workdir / "checkpoints" / "10")
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.newest() == 5
    items = make_items(5.0)
    with Checkpoints(workdir, keep=Keep(newest=3)) as saved:
        assert saved.newest() == 5
        restored = saved.restore(5, sharding.abstract(items))
        jax.tree.map(np.testing.assert_array_equal, restored, items)
        saved.save(10, make_items(11.0), IDENTITY)
    assert capfd.readouterr().err.count("warning: checkpoint") == 2
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.newest() == 10 and saved.steps() == [5, 10]
        restored = saved.restore(10, {"ema": sharding.abstract(items["ema"])})
    assert restored["ema"]["dense"]["kernel"][0, 0] == 11
    assert (workdir / "checkpoints" / "corrupted-10").is_dir()


def test_a_checkpoint_opens_on_fewer_devices(workdir):
    """Saved on eight, restored on one and on four, bit for bit."""
    items = make_items(10.0)
    for count in (1, 4):
        here = jax.device_put(items, sharding.replicated(sharding.data_mesh(count)))
        shape = lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        )
        target = jax.tree.map(shape, here)
        with Checkpoints(workdir, read_only=True) as saved:
            restored = saved.restore(10, target)
        jax.tree.map(np.testing.assert_array_equal, restored, items)
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(restored)} == {count}


def test_an_error_inside_is_not_hidden_by_closing(tmp_path):
    def failing():
        with Checkpoints(tmp_path) as saved:
            saved.save(1, make_items(), IDENTITY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert saved.steps() == [1]


def test_what_a_save_logs_from_its_threads_is_not_seen(tmp_path, caplog, no_filters):
    """Whenever it comes: what failed is raised, and Orbax's own lines are too many."""
    with Checkpoints(tmp_path) as saved:
        saved.save(1, make_items(), IDENTITY)
        exec(ORBAX, {"logging": logging})
        logging.error("of another")
    exec(ORBAX, {"logging": logging})
    assert caplog.messages == ["of another", "of Orbax"]


def test_what_threads_log_after_an_error_is_not_seen(tmp_path, caplog, no_filters):
    """They may outlive the context: a full disk is one line, not theirs as well.

    What Orbax logs elsewhere is seen, and the filter goes when they have ended.
    """
    log = lambda: exec(ORBAX, {"logging": logging})
    left = threading.Event()
    late = threading.Thread(target=lambda: (left.wait(60), log()))
    saved = Checkpoints(tmp_path)
    saved.save(1, make_items(), IDENTITY)
    late.start()
    saved.__exit__(OSError)
    left.set()
    late.join()
    assert caplog.messages == []
    log()
    assert caplog.messages == ["of Orbax"]


def test_a_filter_goes_with_the_last_thread_of_its_save(tmp_path, no_filters):
    """A process that goes on, as a notebook does, hears of Orbax again."""
    left, logger = threading.Event(), logging.get_absl_logger()
    of_failed = orbax_log.Filter()
    late = threading.Thread(target=left.wait, args=(60,))
    late.start()
    of_failed.add()
    of_failed.keep_to_running_threads()
    with Checkpoints(tmp_path):
        assert logger.filters == [of_failed]
    left.set()
    late.join()
    with Checkpoints(tmp_path):
        assert logger.filters == []
