"""How a run begins: `training/resume.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpointing import exporting, metadata
from experiments.checkpointing.manager import Checkpoints
from experiments.runtime import pytrees
from experiments.runtime.errors import UsageError
from experiments.training.initial_weights import Source
from experiments.training.resume import begin
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer
from tests.helpers import tiny

pytestmark = pytest.mark.usefixtures("standard_promotion")

TWO = dict(network__two_times=True)


def same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def trainer():
    with jax.numpy_dtype_promotion("standard"):
        return Trainer(tiny.config())


@pytest.fixture(scope="module")
def state(trainer):
    """A state in which every leaf says whose it is."""
    fill = lambda value, tree: jax.tree.map(
        lambda leaf: jnp.full_like(leaf, value), tree
    )
    state = trainer.init()
    return TrainState(*map(fill, range(1, 1 + len(state)), state))._replace(
        step=state.step + 6
    )


@pytest.fixture(scope="module")
def source(trainer, state, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("source")
    with Checkpoints(workdir) as saved:
        saved.save(6, state.checkpoint_items(), trainer.identity)
    return workdir


@pytest.mark.ci
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_new_run_has_the_weights_and_nothing_else(
    trainer, state, source, tmp_path, weights
):
    with Checkpoints(tmp_path) as saved:
        begun, meaning = begin(trainer, saved, Source(source, weights))
    fresh = trainer.init()
    expected = {"ema": state.ema, "raw": state.params}[weights]
    same(begun.params, expected)
    same(begun.ema, expected)
    same(begun.opt_state, trainer.recipe.optimizer.init(expected))
    same((begun.step, begun.sums), (fresh.step, fresh.sums))
    assert jax.tree.structure(begun) == jax.tree.structure(fresh)
    before = [leaf.sharding for leaf in jax.tree.leaves(fresh)]
    assert [leaf.sharding for leaf in jax.tree.leaves(begun)] == before
    recorded = {"workdir": str(source), "weights": weights, "step": 6}
    recorded["digest"] = pytrees.digest(expected)
    assert meaning == trainer.identity | {"init_from": recorded}


@pytest.mark.ci
def test_a_run_begins_from_a_checkpoint_or_an_export(trainer, state, source, tmp_path):
    """Of raw weights; a step that is not there is refused with those that are."""
    folder = exporting.Settings(str(tmp_path / "out"), weights="raw")
    sources = {
        "checkpoint": Source(source / "checkpoints" / "6", "raw"),
        "export": Source(exporting.export(source, folder)),
    }
    for name, each in sources.items():
        with Checkpoints(tmp_path / name) as saved:
            begun, meaning = begin(trainer, saved, each)
        same(begun.params, state.params)
        same(begun.ema, state.params)
        assert meaning["init_from"]["digest"] == pytrees.digest(state.params)
    other = Source(source / "checkpoints" / "5")
    with (
        Checkpoints(tmp_path / "no") as saved,
        pytest.raises(UsageError, match=r"holds the steps \[6\]"),
    ):
        begin(trainer, saved, other)


def test_weights_and_average_share_no_memory(trainer, source, tmp_path):
    """The step donates the state: a leaf that is there twice could not be."""
    with Checkpoints(tmp_path) as saved:
        begun, _ = begin(trainer, saved, Source(source))
    overwrite = jax.jit(
        lambda state: state._replace(step=state.step + 1), donate_argnums=0
    )
    assert overwrite(begun).step == 1


@pytest.mark.ci
def test_a_run_remembers_its_source_and_refuses_another(
    trainer, source, tmp_path, capsys
):
    with Checkpoints(tmp_path) as saved:
        begun, meaning = begin(trainer, saved, Source(source, "raw"))
        saved.save(1, begun.checkpoint_items(), meaning)
        saved.wait()
        for given in (None, Source(source, "raw")):
            resumed, again = begin(trainer, saved, given)
            same(resumed, begun)
            assert again == meaning
        for given in (Source(source, "ema"), Source(tmp_path / "else", "raw")):
            with pytest.raises(UsageError, match="leave --init_from out") as error:
                begin(trainer, saved, given)
            assert len(str(error.value).splitlines()) == 1
        assert metadata.diff(meaning, trainer.identity) == []


def test_a_run_that_began_afresh_refuses_a_source(trainer, source, tmp_path):
    with (
        Checkpoints(source, read_only=True) as saved,
        pytest.raises(UsageError, match="started from fresh weights, not from"),
    ):
        begin(trainer, saved, Source(tmp_path))


@pytest.mark.ci
def test_weights_of_another_shape_are_refused_in_one_line(source, tmp_path):
    other = Trainer(tiny.config(network__features=8))
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(
            UsageError, match=r"another shape: .*\(16, 16\), must be"
        ) as error,
    ):
        begin(other, saved, Source(source))
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture(scope="module")
def of_two():
    with jax.numpy_dtype_promotion("standard"):
        return Trainer(tiny.config(**TWO))


@pytest.mark.ci
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_weights_of_one_time_begin_a_run_of_two(
    of_two, state, source, tmp_path, weights, capsys
):
    """The map of the interval is fresh, and that is said; all else is as it was."""
    with Checkpoints(tmp_path) as saved:
        begun, _ = begin(of_two, saved, Source(source, weights))
    params = {name: dict(leaves) for name, leaves in begun.params.items()}
    interval = params["Conditioning_0"].pop("interval")
    same(params, {"ema": state.ema, "raw": state.params}[weights])
    fresh = of_two.init()
    same(interval, fresh.params["Conditioning_0"]["interval"])
    same(begun.ema, begun.params)
    same(begun.opt_state, of_two.recipe.optimizer.init(begun.params))
    assert jax.tree.structure(begun) == jax.tree.structure(fresh)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: the weights of ")
    assert [line.strip() for line in lines[1:]] == [
        "network.two_times: False in the checkpoint, True now",
        "no Conditioning_0/interval/kernel, which keeps its fresh value",
    ]


@pytest.mark.ci
def test_weights_of_two_times_begin_a_run_of_two_with_their_map(
    of_two, tmp_path, capsys
):
    fill = lambda leaf: jnp.full_like(leaf, 0.5)
    state = of_two.init()
    state = state._replace(params=jax.tree.map(fill, state.params))
    with Checkpoints(tmp_path / "source") as saved:
        saved.save(6, state.checkpoint_items(), of_two.identity)
    with Checkpoints(tmp_path / "run") as saved:
        begun, _ = begin(of_two, saved, Source(tmp_path / "source", "raw"))
    same(begun.params, state.params)
    assert capsys.readouterr().out == ""
    one = Trainer(tiny.config())
    with (
        Checkpoints(tmp_path / "one") as saved,
        pytest.raises(UsageError, match="not of this network: .*interval") as error,
    ):
        begin(one, saved, Source(tmp_path / "source", "raw"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.ci
def test_another_leaf_that_is_lacking_is_refused_with_two_times_too(source, tmp_path):
    other = Trainer(tiny.config(network__num_blocks=2, **TWO))
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(UsageError, match="missing: block_1_film/bias, ") as error,
    ):
        begin(other, saved, Source(source))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.ci
def test_a_run_goes_on_with_another_batch_and_log(trainer, state, source, capsys):
    """Weights, optimizer and counts stay; what is of the size of a batch is cleared."""
    other = Trainer(tiny.config(batch_size=32, log__every=5))
    with Checkpoints(source, read_only=True) as saved:
        with pytest.raises(UsageError, match="with --accept_change=batch_size"):
            begin(other, saved)
        begun, meaning = begin(other, saved, accepted=["batch_size"])
        kept, _ = begin(Trainer(tiny.config(log__every=3)), saved)
    same(begun[:5], state[:5])
    assert begun.faults.count == state.faults.count
    assert begun.faults.t.shape == begun.faults.examples.shape == (32,)
    assert int(begun.faults.recent) == 0
    assert meaning["history"] == [
        dict(step=6, entry="config.batch_size", old=16, new=32),
        dict(step=6, entry="config.log.every", old=4, new=5),
    ]
    said = "note: accepted after step 6: config.batch_size: 16 in the checkpoint, 32"
    assert said in capsys.readouterr().out
    same(kept, state)  # step 6 is none of the old log, so its sums go into the next row


@pytest.mark.ci
def test_a_row_of_the_log_counts_no_step_twice(trainer, state, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(8, state.checkpoint_items(), trainer.identity)
        saved.wait()
        begun, _ = begin(Trainer(tiny.config(log__every=5)), saved)
        same(begun.sums, jax.tree.map(jnp.zeros_like, state.sums))
        begun, _ = begin(Trainer(tiny.config(log__every=2)), saved)
        same(begun.sums, state.sums)  # cleared by the next step


def test_a_source_without_checkpoints_is_refused(trainer, tmp_path):
    with Checkpoints(tmp_path / "run") as saved:
        with pytest.raises(UsageError, match="no checkpoints in .*nowhere"):
            begin(trainer, saved, Source(tmp_path / "nowhere"))
        (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
        with pytest.raises(UsageError, match="holds no checkpoint yet"):
            begin(trainer, saved, Source(tmp_path / "empty"))
