"""Comparisons between recipes: `comparison/paired.py`, `quantities.py`."""

import numpy as np
import pytest

from diffusionflow import metrics
from experiments.comparison import grouping, quantities, report, tables
from tests.helpers import made


def gathered(root, *, count=1, **other):
    """Groups `a` and `b`, of which `b` has `other` arguments."""
    shift = other.pop("shift", 0.0)
    arguments = []
    for seed in range(count):
        arguments += [
            f"a={made.run(root / f'a{seed}', seed=seed)}",
            f"b={made.run(root / f'b{seed}', seed=seed, shift=shift, **other)}",
        ]
    return grouping.gather(arguments)


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    root = tmp_path_factory.mktemp("worse")
    return gathered(root, shift=0.3, batch_size=32)


@pytest.fixture(scope="module")
def found(worse):
    return quantities.collect(worse, 0)


@pytest.mark.ci
def test_a_shift_is_significant_with_its_size_and_sign(found):
    """0.3 nats, of pairs that scatter by 0.1 each, where examples scatter by 1."""
    for one in found.likelihoods:
        each = one.differences["b"]
        assert one.reference == "a" and one.unit == "nats per dimension"
        assert abs(each.value - 0.3) < 4 * each.standard_error
        assert each.standard_error == pytest.approx(0.1 * np.sqrt(2 / 200), rel=0.2)
        assert each.low > 0.25 and each.high < 0.35
        assert one.values["a"].standard_error > 0.05  # alone
    mean, *by_level = found.eps
    assert mean.differences["b"].value == pytest.approx(0.03, abs=1e-4)
    assert len(by_level) == 6
    sentence = found.likelihoods[0].sentence("b")
    assert sentence.startswith("variational bound on -log p: a is better than b by 0.")
    assert sentence.endswith("] nats per dimension, n = 200 examples")


def test_of_samples_it_is_the_paired_difference(worse, found):
    """Computed from the files of samples, which the finding does not read."""
    assert [(one.metric, one.calls["b"]) for one in found.samples] == [
        ("energy", 2),
        ("energy", 8),
        ("frechet", 2),
        ("frechet", 8),
    ]
    x, y = (
        np.load(group.first.workdir / "samples/samples_0.npz")["samples"]
        for group in worse
    )
    common = np.random.RandomState(0)
    common.standard_normal(made.COUNT + made.COUNT * made.LEVELS)
    data = common.standard_normal((80, 2))
    one = found.samples[0].comparison
    direct = metrics.difference(
        made.jax.random.key(0),
        metrics.energy(),
        y,
        x,
        data,
        features="pixels",
        reference="made",
        num_resamples=39,
    )
    assert one.differences["b"][:4] == pytest.approx(direct[:4], rel=1e-4)
    assert one.of == "samples" and one.count == 60
    assert found.samples[0].baseline["value"] < 0.1


@pytest.mark.ci
def test_equal_recipes_do_not_differ_significantly(tmp_path):
    (one, _) = quantities.collect(gathered(tmp_path, batch_size=32), 0).likelihoods
    assert list(one.differences) == ["b"]
    assert "no significant difference between b and a" in one.sentence("b")


@pytest.mark.ci
def test_seeds_widen_the_interval_and_are_named(tmp_path, found):
    seeds = gathered(tmp_path, count=3, shift=0.3, batch_size=32)
    one = quantities.collect(seeds, 0).likelihoods[0]
    each = one.differences["b"]
    assert each.recipe["repetitions_in_error"] and one.seeds == {"a": 3, "b": 3}
    assert "n = 200 examples, 3 and 3 training seeds" in one.sentence("b")
    assert abs(each.value - 0.3) < 0.05
    notes = report.notes(seeds, quantities.collect(seeds, 0)).lines
    assert not any("one training seed" in line for line in notes)


DIFFERENT = {
    "steps of the ODE": (
        {"settings": {"likelihood.ode_steps": 9}},
        "b is not compared with a: the recipes differ in likelihood.ode_steps 4 and 9",
        {"likelihoods"},
    ),
    "weights": (
        {"settings": {"weights": "raw"}},
        "the recipes differ in weights 'ema' and 'raw'",
        {"likelihoods", "eps", "samples"},
    ),
    "examples": (
        {"data__size": 660},
        "the recipes differ in examples.num_test 36 and 72",
        {"likelihoods", "eps", "samples"},
    ),
    "made by another seed": (
        {"data__seed": 5},
        "the recipes differ in examples.seed",
        {"likelihoods", "eps", "samples"},
    ),
    "seed of the samples": (
        {"settings": {"samples.seed": 1}},
        r"the recipes differ in bootstrap.key",
        {"samples"},
    ),
    "levels": (
        {"levels": 5},
        "b is left out: not all its numbers are finite",
        {"eps"},
    ),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", DIFFERENT)
def test_evaluations_of_different_settings_are_refused_with_the_reason(name, tmp_path):
    other, words, where = DIFFERENT[name]
    some = quantities.collect(_with_raw(gathered(tmp_path, batch_size=32, **other)), 0)
    every = {
        "likelihoods": some.likelihoods,
        "eps": some.eps[:1],
        "samples": [one.comparison for one in some.samples],
    }
    for section, each in every.items():
        for one in each:
            refused = [line for line in one.refusals if words in line]
            assert bool(refused) == (section in where), (section, one.refusals)
            assert ("b" in one.differences) == (section not in where)
            assert ("b" in one.values) == (section not in where)
    lines = report.exclusions(some).lines
    assert any(words in line for line in lines)
    assert all("\n" not in line for line in lines)


def _with_raw(some):
    """Evaluations of raw weights have errors of raw weights too."""
    for group in some:
        for run in group.runs:
            run.arrays["eps_mse_raw"] = run.arrays["eps_mse_ema"]
    return some


@pytest.mark.ci
def test_samplers_that_only_one_run_has_are_reported(tmp_path, monkeypatch):
    some = gathered(tmp_path, batch_size=32)
    for row in some[1].first.evaluation["samples"]:
        row["nfe"] += 1  # of a schedule that ends with a step to the data
    one = quantities.collect(some, 0).samples[0]
    assert one.calls == {"a": 2, "b": 3} and "b" in one.comparison.differences
    assert "2 steps, grid uniform, NFE 2 or 3" in one.comparison.title
    for row in some[1].first.evaluation["samples"]:
        row["sampler"] = row["sampler"] | {"grid": "cosine"}
    found = quantities.collect(some, 0)
    assert not any(one.comparison.differences for one in found.samples)
    (line,) = (line for line in report.notes(some, found).lines if "alone" in line)
    assert "ddim, 2 steps, grid uniform, NFE 2 (a); " in line
    assert "ddim, 2 steps, grid cosine, NFE 3 (b); " in line
    assert "same --sampler flags" in line


@pytest.mark.ci
def test_where_the_ode_was_cut_off_is_part_of_its_recipe(tmp_path):
    some = gathered(tmp_path, batch_size=32)
    run = some[1].first
    likelihood = run.evaluation["likelihood"] | {
        "ode_ends": {"data": 8.05, "noise": None}
    }
    changed = run._replace(evaluation=run.evaluation | {"likelihood": likelihood})
    groups = [some[0], some[1]._replace(runs=(changed,))]
    found = quantities.collect(groups, 0)
    bound, ode = found.likelihoods
    assert "b" in bound.differences and "b" not in ode.values
    (refusal,) = ode.refusals
    assert (
        "b is not compared with a: the recipes differ in end_of_the_ode.data 'that of "
        "the schedule' and 'log-SNR 8.05'" in refusal
    )
    rows = {row[0]: row[1:] for row in tables.summary(groups, found).rows}
    ends = ["that of the schedule", "log-SNR 8.05"]
    assert rows["end of the ODE at the data"] == ends
    assert "end of the ODE at the noise" not in rows


@pytest.mark.ci
def test_seeds_of_the_first_recipe_that_were_evaluated_differently_are_refused(
    tmp_path,
):
    """It is no reference then; the next recipe is."""
    steps = {"settings": {"likelihood.ode_steps": 9}}
    arguments = [
        f"a={made.run(tmp_path / 'a0', seed=0, **steps)}",
        f"a={made.run(tmp_path / 'a1', seed=1)}",
        f"b={made.run(tmp_path / 'b0', batch_size=32)}",
        f"c={made.run(tmp_path / 'c0', batch_size=8)}",
    ]
    (one, _) = quantities.collect(grouping.gather(arguments), 0).likelihoods
    (refusal,) = one.refusals
    assert refusal.startswith(
        "a is left out: its seeds were evaluated differently: the"
    )
    assert "likelihood.ode_steps 9 and 4" in refusal
    assert one.reference == "b" and list(one.differences) == ["c"]
