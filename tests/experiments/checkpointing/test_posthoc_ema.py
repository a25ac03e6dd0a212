"""Averages of power profiles in a run: `checkpointing/posthoc_ema.py`."""

import shutil

import jax
import numpy as np
import pytest

from diffusionflow import ema
from experiments.checkpointing import posthoc_ema
from experiments.checkpointing.loaded import Request
from experiments.checkpointing.manager import Checkpoints
from experiments.runtime.errors import UsageError
from experiments.sampling import sample_run
from experiments.training import initial_weights, loop
from tests.helpers import oracles, tiny
from tests.helpers.trees import same

pytestmark = pytest.mark.usefixtures("standard_promotion")
WIDTHS = (0.1, 0.2)


def config(**overrides):
    stored = dict(ema__sigma_rel=WIDTHS, ema__store_every=2)
    return tiny.config(**stored | dict(samples__every=0) | overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Ten steps: the workdir, the state, and the parameters after every step."""
    workdir, path = tmp_path_factory.mktemp("averages"), []
    with jax.numpy_dtype_promotion("standard"):
        state = loop.train_and_evaluate(
            config(),
            workdir,
            hook=lambda *step: path.append(jax.device_get(step[-1].params)),
        )
    return workdir, state, path


def average(path, gamma):
    """By its definition, in float64."""
    weights = oracles.shares(len(path), gamma)
    return jax.tree.map(
        lambda *leaves: sum(
            w * leaf.astype(np.float64) for w, leaf in zip(weights, leaves, strict=True)
        ),
        *path,
    )


def distance(one, other):
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    return np.linalg.norm(flat(one).astype(np.float64) - flat(other))


def stored_steps(workdir):
    names = [path.name for path in (workdir / "averages").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


@pytest.mark.ci
def test_the_step_tracks_each_profile(run):
    _, state, path = run
    moved = distance(path[-1], path[0])
    for tracked, width in zip(state.profiles, WIDTHS, strict=True):
        expected = average(path, ema.gamma_of(width))
        assert distance(tracked, expected) < 1e-5 * moved
        assert distance(tracked, path[-1]) > 1e-2 * moved
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.profiles))


def reconstructed(workdir, width, step=10):
    with Checkpoints(workdir, read_only=True) as saved:
        found = saved.identity(10)
    trainer = loop.Trainer(config())
    return posthoc_ema.reconstruct(
        workdir, width, step=step, found=found, target=trainer.abstract_state.params
    )


@pytest.mark.ci
def test_any_width_is_put_together_from_what_is_stored(run):
    workdir, state, path = run
    assert stored_steps(workdir) == [2, 4, 6, 8, 10]
    itself = reconstructed(workdir, WIDTHS[0])
    assert distance(itself.params, state.profiles[0]) < 1e-5 * distance(*path[:2])
    between = reconstructed(workdir, 0.15)
    expected = average(path, ema.gamma_of(0.15))
    wrong = distance(state.profiles[1], expected)
    assert between.error < 0.05
    assert distance(between.params, expected) < 0.1 * wrong
    earlier = reconstructed(workdir, 0.15, step=6)
    expected = average(path[:6], ema.gamma_of(0.15))
    assert distance(earlier.params, expected) < 0.1 * wrong


@pytest.mark.slow
def test_a_resumed_run_stores_the_same_bits(run, tmp_path):
    source, expected, _ = run
    for name, step in (("checkpoints", "5"), ("averages", "2"), ("averages", "6")):
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copytree(source / name / step, tmp_path / name / step)
    written = (tmp_path / "averages" / "6").stat().st_ctime_ns
    state = loop.train_and_evaluate(config(), tmp_path)
    assert same(state, expected)
    assert stored_steps(tmp_path) == [2, 6, 8, 10]
    assert (tmp_path / "averages" / "6").stat().st_ctime_ns == written
    items = tuple(f"sigma_rel_{width}" for width in WIDTHS)
    target = dict.fromkeys(items, loop.Trainer(config()).abstract_state.params)
    both = []
    for workdir in (source, tmp_path):
        with Checkpoints(
            workdir, read_only=True, directory="averages", items=items, keep=None
        ) as saved:
            both.append([saved.restore(step, target) for step in (8, 10)])
    assert same(*both)


@pytest.mark.slow
def test_a_corrupted_average_is_not_used(run, tmp_path, capfd):
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    data = max((tmp_path / "averages" / "10" / "sigma_rel_0.1" / "d").iterdir())
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    with pytest.raises(UsageError, match=r"averages.10 is corrupted: sigma_rel_0.1/d/"):
        reconstructed(tmp_path, 0.15)
    shutil.rmtree(tmp_path / "checkpoints" / "10")
    assert same(loop.train_and_evaluate(config(), tmp_path), run[1])
    assert "quarantined as corrupted-10" in capfd.readouterr().err
    again = reconstructed(tmp_path, 0.15).params
    assert same(again, reconstructed(run[0], 0.15).params)


@pytest.mark.ci
def test_an_older_average_that_is_corrupted_is_skipped(run, tmp_path, capfd):
    """With a warning, and a profile that is further off."""
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "averages" / "4" / "CHECKSUMS.json").unlink()
    without, intact = reconstructed(tmp_path, 0.15), reconstructed(run[0], 0.15)
    assert "averages/4 are corrupted" in capfd.readouterr().err
    assert without.error > intact.error
    expected = average(run[2], ema.gamma_of(0.15))
    assert distance(without.params, expected) < distance(run[2][0], expected)


@pytest.mark.slow
def test_averages_of_another_start_are_not_used(run, tmp_path):
    """Of one that stored some, and died before its first checkpoint."""
    source = initial_weights.Source(str(run[0]), "ema")
    loop.train_and_evaluate(config(), tmp_path, source=source)
    assert stored_steps(tmp_path)[-1] == 10
    shutil.rmtree(tmp_path / "checkpoints")
    words = "averages of step 10 .* start from .*, and this run .* from fresh weights"
    with pytest.raises(UsageError, match=words):
        loop.train_and_evaluate(config(), tmp_path)
    assert stored_steps(tmp_path)[-1] == 10
    loop.train_and_evaluate(config(), tmp_path, source=source)  # the same start


def test_widths_that_are_almost_the_same_have_names_of_their_own():
    names = {posthoc_ema._item(width) for width in (0.1, 0.1000001, 0.10000011)}
    assert len(names) == 3


@pytest.mark.ci
def test_averages_of_another_run_are_neither_added_to_nor_used(run, tmp_path):
    shutil.copytree(run[0] / "averages", tmp_path / "averages")
    with pytest.raises(UsageError, match="step 10 in .* of other settings.*:\n.*seed"):
        loop.train_and_evaluate(config(seed=1), tmp_path)


@pytest.mark.ci
def test_averages_from_before_a_change_are_not_blamed_on_a_flag_that_was_given(
    run, tmp_path
):
    """They are of steps that the resumed run makes again, with another batch."""
    for name in ("averages/8", "checkpoints/5"):
        shutil.copytree(run[0] / name, tmp_path / name)
    with pytest.raises(UsageError, match="move .*averages/8 away, with ") as refused:
        loop.train_and_evaluate(
            config(batch_size=8), tmp_path, accepted=("batch_size",)
        )
    assert "config.batch_size: 16 in the checkpoint, 8 now" in str(refused.value)
    assert "--accept_change" not in str(refused.value)


@pytest.mark.ci
def test_samples_of_any_width(run, tmp_path):
    request = Request(num_samples=4, sigma_rel=0.15, out=str(tmp_path / "out"))
    with np.load(sample_run.sample_run(run[0], request)) as drawn:
        assert drawn["samples"].shape == (4, 2)
        assert "ema0.15 weights of step 10" in str(drawn["recipe"])


@pytest.mark.ci
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (dict(sigma_rel=0.1, step=5), r"step 5: averages were stored at .*2, 4, 6, 8"),
        (dict(sigma_rel=0.5), "sigma_rel: sigma_rel=0.5: must be in"),
        (dict(sigma_rel=0.1, weights="raw"), "weights='raw': must be ema"),
    ],
)
def test_wrong_widths_are_refused(run, changed, words):
    with pytest.raises(UsageError, match=words):
        sample_run.sample_run(run[0], Request(**changed))


def test_a_run_without_averages_says_how_to_have_some(tmp_path):
    found = {"config": {"ema": {"sigma_rel": []}}}
    with pytest.raises(UsageError, match=r"train with --config.ema.sigma_rel"):
        posthoc_ema.reconstruct(tmp_path, 0.1, step=1, found=found, target=None)
