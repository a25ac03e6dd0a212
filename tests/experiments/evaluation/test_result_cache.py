"""What is finished is used again, of these weights alone: `result_cache.py`."""

import json
import shutil
import signal

import pytest

from experiments.evaluation import result_cache
from experiments.evaluation.evaluate import evaluate_run
from experiments.runtime.signals import Stopped
from tests.helpers.tiny_evaluation import REQUEST, SAMPLES, copied, reproducible


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_to_the_same_numbers(
    workdir, evaluated, tmp_path, monkeypatch
):
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    get, names = result_cache.Chunks.get, []

    def stopping(self, name, compute):
        names.append(name)
        if len(names) == 2:
            raise Stopped(signal.SIGTERM)
        return get(self, name, compute)

    monkeypatch.setattr(result_cache.Chunks, "get", stopping)
    with pytest.raises(Stopped) as stopped:
        evaluate_run(tmp_path, REQUEST)
    assert "the same command goes on" in stopped.value.kept
    assert not (tmp_path / "eval.json").exists()
    again = json.loads(evaluate_run(tmp_path, REQUEST).read_text())
    assert again | {"environment": None} == evaluated | {"environment": None}


@pytest.mark.slow
def test_cached_results_and_samples_of_other_weights_are_not_used(
    workdir, evaluated, retrained, tmp_path, capsys
):
    copied(workdir, tmp_path, "evaluation", "samples")
    copied(retrained, tmp_path, "checkpoints")
    before = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    found = json.loads(evaluate_run(tmp_path, REQUEST).read_text())
    text = capsys.readouterr().out
    for weights in ("raw", "ema"):
        own = f", of the {weights} weights of step 10, computed before the run was "
        (line,) = [one for one in text.splitlines() if own in one]
        assert line.startswith(f"not used, in {tmp_path / 'evaluation'}: ")
    assert text.count("quarantined as") == 2
    assert found["likelihood"]["ode"]["mean"] != evaluated["likelihood"]["ode"]["mean"]
    fresh = copied(retrained, tmp_path / "fresh", "checkpoints")
    straight = json.loads(evaluate_run(fresh, REQUEST).read_text())
    assert reproducible(found) == reproducible(straight)
    assert "quarantined" not in capsys.readouterr().out
    old = evaluated["settings"]["parameters"]
    after = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    for name, content in before.items():  # nothing is lost
        stem, _, suffix = name.rpartition(".")
        assert after[f"{stem}_parameters_{old}_1.{suffix}"] == content


@pytest.mark.ci
def test_cached_results_of_another_version_are_not_used(evaluated, tmp_path):
    old = tmp_path / "evaluation" / "0123456789ab"
    old.mkdir(parents=True)
    (old / "settings.json").write_text(json.dumps(evaluated["settings"]))
    cache = result_cache.ResultCache(tmp_path / "evaluation")
    names = (evaluated["settings"][name] for name in ("weights", "step", "parameters"))
    assert cache.unused(*names) == {old.name: "by another version"}


@pytest.mark.ci
def test_another_sampler_leaves_all_that_was_computed(workdir, evaluated, monkeypatch):
    computed = []
    get = result_cache.Chunks.get

    def counting(self, name, compute):
        def counted():
            computed.append(name)
            return compute()

        return get(self, name, counted)

    monkeypatch.setattr(result_cache.Chunks, "get", counting)
    more = REQUEST._replace(
        samples=SAMPLES._replace(samplers=(*SAMPLES.samplers, "ddim@3")),
        out=str(workdir / "more.json"),
    )
    found = json.loads(evaluate_run(workdir, more).read_text())
    assert computed == []
    assert found["likelihood"] == evaluated["likelihood"]
    assert found["samples"][:2] == evaluated["samples"]
