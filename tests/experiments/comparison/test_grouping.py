"""Which runs are seeds of one recipe: `comparison/grouping.py`, `read_run.py`."""

import json
import shutil

import pytest

from experiments.comparison import grouping, read_run
from experiments.runtime.errors import UsageError
from tests.helpers import made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        made.run(root / f"fm_seed{seed}", seed=seed)
        made.run(root / "plain" / str(seed), seed=seed, batch_size=32)
    made.run(root / "other" / "fm_seed0", batch_size=8)
    return root


def names(gathered):
    return {
        group.name: [str(run.config["seed"]) for run in group.runs]
        for group in gathered
    }


def test_seeds_of_a_recipe_are_one_group(runs):
    paths = ["fm_seed0", "plain/0", "fm_seed1", "plain/1"]
    gathered = grouping.gather([str(runs / path) for path in paths])
    assert names(gathered) == {"fm": ["0", "1"], "plain": ["0", "1"]}
    run = gathered[0].first
    assert run.step == 10 and run.machines == ("Test, 0: cpu",) and not run.notes
    assert [row["step"] for row in run.rows] == [5, 10]  # the torn one left out
    assert [row["step"] for row in run.wall_clock] == [4, 5, 10]
    assert len(gathered[0].evaluated) == 2


def test_labels_name_groups_and_names_that_clash_are_paths(runs):
    gathered = grouping.gather([f"a b={runs / 'fm_seed0'}", f"x={runs / 'fm_seed1'}"])
    assert names(gathered) == {"a b": ["0"], "x": ["1"]}
    clash = [str(runs / "fm_seed0"), str(runs / "other" / "fm_seed0")]
    assert list(names(grouping.gather(clash))) == clash


def test_a_directory_may_have_an_equals_sign(runs, tmp_path):
    shutil.copytree(runs / "fm_seed0", tmp_path / "lr=1")
    gathered = grouping.gather([str(tmp_path / "lr=1"), str(runs / "plain" / "0")])
    assert list(names(gathered)) == ["lr=1", "0"]


@pytest.mark.parametrize(
    ("stems", "name"),
    [
        (["digits_s0", "digits_s1"], "digits"),
        (["digits_s10", "digits_s11"], "digits"),
        (["digits0", "digits1"], "digits"),
        (["edm-seed0", "edm-seed1"], "edm"),
        (["seed0", "seed1"], "above"),
        (["0", "1"], "above"),
        (["cifar10_a", "cifar10_b"], "cifar10"),
    ],
)
def test_the_name_is_what_all_begin_with(tmp_path, stems, name):
    assert grouping._common([tmp_path / "above" / stem for stem in stems]) == name


@pytest.mark.ci
def test_more_steps_or_another_start_are_another_recipe(runs, tmp_path):
    """Though a resume may change `num_steps` where the learning rate is constant."""
    constant = {"optimizer__schedule": "constant"}
    made.run(tmp_path / "short", **constant)
    made.run(tmp_path / "long", seed=1, settings={"step": 20}, **constant)
    made.run(tmp_path / "started", seed=2, **constant)
    path = tmp_path / "started" / "eval.json"
    values = json.loads(path.read_text())
    values["identity"]["init_from"] = {"workdir": "elsewhere"}
    path.write_text(json.dumps(values))
    paths = [str(tmp_path / name) for name in ("short", "long", "started")]
    assert len(grouping.gather(paths)) == 3


def refused(words, *arguments):
    with pytest.raises(UsageError, match=words) as error:
        grouping.gather(list(map(str, arguments)))
    assert "\n" not in str(error.value)


def test_what_is_refused(runs, tmp_path):
    first, second = runs / "fm_seed0", runs / "fm_seed1"
    refused("recipes, and the number of those given is 1, seeds aside", first, second)
    refused("is named twice", first, f"x={first}")
    refused("no checkpoints in .*nowhere", first, tmp_path / "nowhere")
    refused(
        "both labelled 'a', but differ in more than their seed: config.batch_size: 16 "
        "and 32",
        f"a={first}",
        f"a={runs / 'plain' / '0'}",
    )
    shutil.copytree(first, tmp_path / "copy")
    refused("not even in the seed; .*label them: a=", first, tmp_path / "copy")
    made_ = [made.run(tmp_path / f"r{n}", batch_size=8 * (n + 1)) for n in range(8)]
    refused("takes 2 to 7 recipes, and the number of those given is 8", *made_)
    (tmp_path / "r0" / "metrics.jsonl").write_text('{"step\n{"step": 2}\n')
    refused("line 1 is no JSON", tmp_path / "r0", first)


def test_a_run_without_a_valid_evaluation_says_how_to_get_one(runs, tmp_path):
    gone = made.run(tmp_path / "gone it", evaluated=False)
    shutil.copytree(runs / "fm_seed0", tmp_path / "old")
    path = tmp_path / "old" / "eval.json"
    path.write_text(path.read_text().replace('"format": 5', '"format": 1'))
    for where, words in ((gone, "is missing"), (tmp_path / "old", "has format 1")):
        with pytest.raises(UsageError, match="no checkpoints"):
            read_run.read(where)
        found = read_run._evaluation(where)
        assert found[0] is None and words in found[2][0]
        assert "evaluate again: diffusionflow evaluate" in found[2][0]
    assert f"'--workdir={gone}'" in read_run._evaluation(gone)[2][0]  # for a shell
