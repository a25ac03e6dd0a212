"""Runs of few-step methods: stages, teachers, resumes, and what is drawn from them."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpointing.loaded import Request
from experiments.config import distilled, schema
from experiments.data import Examples
from experiments.evaluation import evaluate, likelihoods, sample_quality
from experiments.runtime import rng
from experiments.runtime.errors import UsageError
from experiments.sampling import sample_run
from experiments.training import loop, metrics_log, step
from experiments.training.resume import Source
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer
from tests.helpers import tiny
from tests.helpers.trees import same

pytestmark = pytest.mark.usefixtures("standard_promotion")
NETWORK = dict(name="residual_mlp", features=16, num_blocks=1, max_frequency=8.0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A short run, its config and its state."""
    workdir = tmp_path_factory.mktemp("teacher")
    config = tiny.config(samples__every=0, eval__every=0)
    config.network = NETWORK
    schema.settle(config)
    with jax.numpy_dtype_promotion("standard"):
        return (
            workdir,
            config,
            loop.train_and_evaluate(config.copy_and_resolve_references(), workdir),
        )


def student(teacher, method, **overrides):
    workdir, config, _ = teacher
    made = distilled.student(config, method=method, teacher=str(workdir))
    flat = {key.replace("__", "."): value for key, value in overrides.items()}
    made.update_from_flattened_dict(flat)
    return made


@pytest.fixture(scope="module")
def progressive(teacher, tmp_path_factory):
    """Two stages of five steps, a checkpoint after each step, and all states."""
    workdir = tmp_path_factory.mktemp("progressive")
    seen = {}
    config = student(
        teacher, "progressive(first=4)", checkpoint__every=1, checkpoint__keep=10
    )
    with jax.numpy_dtype_promotion("standard"):
        state = loop.train_and_evaluate(
            config,
            workdir,
            hook=lambda number, batch, state: seen.update(
                {number: jax.device_get(state)}
            ),
        )
    return workdir, config, state, seen


@pytest.mark.ci
def test_each_stage_is_taught_by_the_average_of_the_one_before(teacher, progressive):
    *_, seen = progressive
    assert same(seen[1].teacher, jax.device_get(teacher[2].ema))
    assert same(seen[5].teacher, seen[1].teacher)
    assert same(seen[6].teacher, seen[5].ema)
    assert same(seen[10].teacher, seen[6].teacher)
    assert not same(seen[5].teacher, seen[6].teacher)


@pytest.mark.ci
def test_each_stage_has_an_optimizer_and_a_learning_rate_of_its_own(progressive):
    workdir, _, _, seen = progressive
    counts = {
        int(leaf)
        for leaf in jax.tree.leaves(seen[10].opt_state)
        if np.ndim(leaf) == 0 and np.asarray(leaf).dtype.kind == "i"
    }
    assert counts == {5}
    rows = metrics_log.read(workdir / "metrics.jsonl")
    rates = {row["step"]: row["learning_rate"] for row in rows}
    assert rates[8] > rates[4]  # the third of a stage, and its fourth
    assert not any(name.startswith("test_loss") for row in rows for name in row)


@pytest.mark.ci
@pytest.mark.parametrize(
    "k", [7, *(pytest.param(k, marks=pytest.mark.slow) for k in (3, 5))]
)
def test_a_student_is_resumed_bit_for_bit(progressive, tmp_path, k):
    """Within a stage, and between two, without the teacher's run."""
    source, config, expected, _ = progressive
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(source / "checkpoints" / str(k), tmp_path / "checkpoints" / str(k))
    shutil.copy(source / "metrics.jsonl", tmp_path)
    config = config.copy_and_resolve_references()
    config.distillation.teacher = "moved"
    state = loop.train_and_evaluate(config, tmp_path)
    assert same(state, expected)
    assert jax.tree.structure(state) == jax.tree.structure(expected)


@pytest.mark.ci
def test_a_student_is_sampled_and_evaluated_without_what_it_has_not(
    progressive, capsys
):
    workdir = progressive[0]
    request = evaluate.Request(
        likelihood=likelihoods.Settings(num_times=4, num_draws=1),
        samples=sample_quality.Settings(
            ("flow_map@1", "flow_map@2"), num_samples=40, num_resamples=39
        ),
    )
    evaluate.evaluate_run(workdir, request)
    said = capsys.readouterr().out
    assert "likelihood: left out" in said
    assert "eps-MSE: left out" in said
    assert "flow_map@1@uniform, NFE 1: frechet" in said
    assert "flow_map@2@uniform, NFE 2: energy" in said


@pytest.fixture(scope="module")
def meanflow(teacher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("meanflow")
    config = student(teacher, "meanflow", distillation__teacher="")
    config.eval.every = 5
    config.distillation.guidance = 2.0
    with jax.numpy_dtype_promotion("standard"):
        loop.train_and_evaluate(config, workdir)
    return workdir, config


class OfLabels:
    """A two-time network whose output is a number of its label alone."""

    two_times = True

    def apply(self, variables, z, time, label, *, train, rngs, second_time):
        del time, train, rngs, second_time
        return 0 * z + variables["params"][label][:, None]


@pytest.mark.slow
def test_meanflow_learns_guidance_where_a_label_is_kept(meanflow):
    """Its output does not depend on the times, so the loss is the distance of u."""
    trainer = Trainer(meanflow[1])
    of_label = jnp.array([0.3, -0.2, 0.7])
    model = trainer.model._replace(net=OfLabels())
    recipe = trainer.recipe._replace(model=model, label_dropout=0.5)
    state = TrainState(np.int32(3), of_label, None, None, None, None)
    x, noise = np.random.RandomState(0).standard_normal((2, 200, 2)).astype("f4")
    batch = Examples(x, np.arange(200) % 2, noise=noise)
    (_, terms), _ = step.loss_and_gradients(
        state, batch, rng.stream(0, rng.TRAIN), recipe=recipe
    )
    u, own = noise - x, of_label[batch.labels][:, None]
    kept = ((own - (2 * u - of_label[2])) ** 2).mean(1)
    dropped = ((of_label[2] - u) ** 2).mean(1)
    near = lambda expected: np.isclose(terms.loss, expected, rtol=1e-4)
    assert (near(kept) ^ near(dropped)).all()
    assert 70 < near(kept).sum() < 130


@pytest.mark.ci
def test_a_network_of_two_times_has_held_out_losses(meanflow):
    rows = metrics_log.read(meanflow[0] / "metrics.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert any(np.isfinite(row.get("test_loss_ema", np.nan)) for row in rows)


@pytest.mark.ci
def test_jumps_take_no_guidance_and_the_diagonal_does(meanflow, tmp_path):
    workdir, _ = meanflow
    ask = lambda **settings: Request(
        num_samples=4, out=str(tmp_path / "out"), **settings
    )
    with pytest.raises(UsageError, match="guidance=2.*must be 0 or 1 with flow_map"):
        sample_run.sample_run(workdir, ask(guidance=2.0))
    path = sample_run.sample_run(
        workdir, ask(guidance=2.0, sampler=dict(name="ddim", num_steps=2))
    )
    with np.load(path) as file:
        assert np.isfinite(file["samples"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lagrangian", "shortcut", "consistency"])
def test_every_method_trains(teacher, tmp_path, method):
    state = loop.train_and_evaluate(student(teacher, method), tmp_path)
    assert int(state.faults.count) == 0
    assert int(state.step) == 10


@pytest.mark.ci
def test_a_teacher_of_another_kind_is_refused(teacher, tmp_path):
    config = student(teacher, "progressive(first=4)")
    config.sigma_data = 2.0
    config.network.max_frequency = 16.0
    with pytest.raises(UsageError, match="(?s)of another kind.*max_freq.*sigma_data"):
        loop.train_and_evaluate(config, tmp_path)


@pytest.mark.ci
def test_a_teacher_and_another_start_exclude_one_another(teacher, tmp_path):
    config = student(teacher, "progressive(first=4)")
    with pytest.raises(UsageError, match="--init_from with distillation.teacher"):
        loop.train_and_evaluate(config, tmp_path, source=Source(teacher[0]))


@pytest.mark.ci
def test_methods_of_pairs_need_pairs(teacher, tmp_path):
    config = student(teacher, "meanflow")
    config.distillation.method = "one_step"
    with pytest.raises(UsageError, match="trained on pairs.*experiments.pairs"):
        loop.train_and_evaluate(config, tmp_path)
