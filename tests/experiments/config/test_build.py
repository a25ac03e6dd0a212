"""From config values to objects: `config/build.py`, `parsing.py`, `errors.py`."""

import numpy as np
import pytest

from diffusionflow import predictions, samplers, schedules, times, weightings
from experiments.config import build, parsing, registry
from experiments.runtime.errors import UsageError

OBJECTIVE = dict(
    schedule="flow_matching",
    kind="u",
    weighting="mse(kind='u')",
    times="uniform",
    proposal="",
)


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("flow_matching", registry.SCHEDULES, schedules.FlowMatching()),
        ("flow_matching()", registry.SCHEDULES, schedules.FlowMatching()),
        (" cosine ", registry.SCHEDULES, schedules.Cosine()),
        (
            "cosine(logsnr_min=-15, logsnr_max=1.5e1)",
            registry.SCHEDULES,
            schedules.Cosine(-15, 15.0),
        ),
        ("mse(kind='eps')", registry.WEIGHTINGS, weightings.Mse("eps")),
        (
            "stratified(logit_normal(std=2.0))",
            registry.TIMES,
            times.Stratified(times.LogitNormal(std=2.0)),
        ),
        ("stratified(base=uniform)", registry.TIMES, times.Stratified(times.Uniform())),
        (
            "stratified(adaptive(logit_normal, num_bins=8, base_fraction=0.5))",
            registry.TIMES,
            times.Stratified(
                times.AdaptiveTimes(times.LogitNormal(), num_bins=8, base_fraction=0.5)
            ),
        ),
        ("min_snr(gamma=4.0)", registry.WEIGHTINGS, weightings.MinSNR(4.0)),
        ("ddpm", registry.SAMPLERS, samplers.ddpm()),
        ("churn(0.25)", registry.SAMPLERS, samplers.Churn(0.25)),
        ("heun(variable='v')", registry.SAMPLERS, samplers.Heun("v")),
        ("v", registry.KINDS, predictions.Kind("v")),
        ("edm_f(sigma_data=0.7)", registry.KINDS, predictions.edm_f(0.7)),
    ],
)
def test_call_strings(text, known, expected):
    assert parsing.parse("here", text, known) == expected


@pytest.mark.parametrize(
    "known", [registry.SCHEDULES, registry.SAMPLERS, registry.KINDS]
)
def test_every_registered_name_builds(known):
    of_another = {"shifted": "shifted(flow_matching, k=3.0)"}
    for name in known:
        text = of_another.get(name, name)
        assert parsing.parse("here", text, known) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", "here: unknown name 'cosin'; did you mean 'cosine'"),
        ("zzz", "here: unknown name 'zzz'; known: flow_matching, cosine"),
        ("cosine(logsnr_mn=1)", "'cosine': unknown name 'logsnr_mn'; did you mean 'lo"),
        ("flow_matching(a=1)", "unknown name 'a'; known: sigma_min"),
        ("flow_matching(0, 1)", "here: flow_matching: .*positional"),
        ("cosine(logsnr_min=2.0, logsnr_max=1.0)", "here: cosine: logsnr_min=2.0"),
        ("", "here='': must be a name"),
        ("cosine(", r"here='cosine\(': must be a name"),
        ("3.0", "here='3.0': must be a name"),
        ("cosine(logsnr_min=1+x)", "'1 [+] x' is no number"),
        ("cosine(logsnr_min=open('f'))", "here: unknown name 'open'"),
        ("__import__('os').system('true')", "here: unknown name"),
        ("cosine(**{'logsnr_min': 1})", "arguments without [*][*]"),
    ],
)
def test_bad_call_strings_are_refused_and_never_run(text, message):
    with pytest.raises(UsageError, match=message):
        parsing.parse("here", text, registry.SCHEDULES)


def test_an_objective_from_its_section():
    objective = build.objective(OBJECTIVE)
    assert objective.proposal is None
    assert str(objective.kind) == "u"
    proposed = build.objective(OBJECTIVE | {"proposal": "stratified(uniform)"})
    assert proposed.proposal == times.Stratified(times.Uniform())


def test_weightings_and_densities_take_kinds_densities_and_schedules():
    density = "truncated(uniform_on(cosine), logsnr_max=8.0)"
    section = OBJECTIVE | {
        "weighting": f"monotone(mse(edm_f(sigma_data=0.7)), {density})",
        "times": density,
    }
    objective = build.objective(section)
    cut = times.Truncated(times.UniformOn(schedules.Cosine()), logsnr_max=8.0)
    f = weightings.Mse(predictions.edm_f(0.7))
    assert objective.weighting == weightings.Monotone(f, cut)
    assert objective.times == cut


@pytest.mark.parametrize(
    ("text", "base", "other"),
    [
        (
            "monotone(mse(kind='u'), uniform_on(cosine))",
            weightings.Mse("u"),
            schedules.Cosine(),
        ),
        (
            "monotone(times=uniform_on(other=sigmoid), base=sigmoid(bias=1.0))",
            weightings.Sigmoid(1.0),
            schedules.Sigmoid(),
        ),
        ("monotone(edm, uniform_on(edm))", weightings.EDM(), schedules.EDM()),
    ],
)
def test_a_name_is_looked_up_where_its_parameter_says(text, base, other):
    """Weightings and schedules share names."""
    found = parsing.parse("here", text, registry.WEIGHTINGS, parts=registry.PARTS)
    assert found == weightings.Monotone(base, times.UniformOn(other))


def test_a_name_of_another_registry_is_no_argument():
    for text in ("monotone(uniform, uniform)", "mse(uniform)", "monotone(elbo, elbo)"):
        with pytest.raises(UsageError, match="here: unknown name '(uniform|elbo)'"):
            parsing.parse("here", text, registry.WEIGHTINGS, parts=registry.PARTS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"times": "stratified(adaptive(uniform))"},
            r"objective: times=Stratified.*belongs in proposal",
        ),
        (
            {"schedule": "ve", "times": "uniform_logsnr(-20.0, 0.0)"},
            r"objective.times: log-SNR in \[-20, 0\]: VE.* reaches",
        ),
        ({"times": "cosine"}, "objective.times: unknown name 'cosine'; did you mean"),
        (
            {"proposal": "adaptive(uniform, base_fraction=2)"},
            "proposal: adaptive: base_fraction=2",
        ),
        (
            {"proposal": "uniform(0.1)"},
            "proposal: proposal .* never draws t=",
        ),
        (
            {"weighting": "monotone(elbo, logit_normal)"},
            r"objective: times=Uniform.*Monotone is made for times=LogitNormal",
        ),
        ({"weighting": "uniform"}, "objective.weighting: unknown name 'uniform'"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(changed, message):
    with pytest.raises(UsageError, match=message):
        build.objective(OBJECTIVE | changed)


def test_ambiguous_kinds_are_refused_with_their_key():
    with pytest.raises(UsageError, match="objective.kind: .*'velocity'.*\"u\""):
        build.objective(OBJECTIVE | {"kind": "velocity"})


def test_grids_know_the_schedule():
    section = {"name": "ddim", "num_steps": 4, "grid": "uniform"}
    schedule = schedules.FlowMatching()
    np.testing.assert_allclose(build.grid(section, schedule), [1, 0.75, 0.5, 0.25, 0])
    grid = build.grid(section | {"grid": "logsnr_uniform(logsnr_min=-4)"}, schedule)
    np.testing.assert_allclose(schedule.logsnr(grid)[0], -4, rtol=1e-5)


def test_sections_report_unknown_names_and_arguments():
    with pytest.raises(UsageError, match=r"data.name: unknown name 'digit'; did you"):
        build.dataset({"name": "digit"})
    with pytest.raises(UsageError, match=r"argument of data 'moons': .*mean 'noise'"):
        build.dataset({"name": "moons", "nois": 1.0})
    with pytest.raises(UsageError, match=r"data: moons: size=3"):
        build.dataset({"name": "moons", "size": 3})
    with pytest.raises(UsageError, match=r"argument of network 'unet': .*'channels'"):
        build.network({"name": "unet", "chanels": 3}, num_classes=10)


def test_a_parameter_that_an_entry_of_that_name_would_not_reach_is_refused(monkeypatch):
    reader = lambda workers=1: np.zeros((18, 2), np.float32)
    monkeypatch.setitem(registry.DATASETS, "reader", reader)
    for section in ({"name": "reader", "workers": 4}, {"name": "reader(workers=4)"}):
        with pytest.raises(UsageError, match="data.name: reader.* parameter 'workers'"):
            build.dataset(section)


def test_a_dit_from_its_section():
    section = {"name": "dit", "features": 32, "num_heads": 2, "positions": "rotary"}
    assert build.network(section, num_classes=3).num_classes == 3
    with pytest.raises(UsageError, match="network: dit: positions='rotatory'"):
        build.network(section | {"positions": "rotatory"}, num_classes=3)


def test_a_top_frequency_of_the_time_is_judged():
    section = {"name": "residual_mlp", "features": 8, "max_frequency": 16}
    built = build.network(section, 3)
    assert (built.max_frequency, built.two_times) == (16, False)
    assert isinstance(built.max_frequency, float)
    for value in 0, -1.0, float("inf"):
        said = "network: residual_mlp: max_frequency=.* must be positive and finite"
        with pytest.raises(UsageError, match=said):
            build.network(section | {"max_frequency": value}, 3)


def test_a_network_has_the_vectors_of_the_data():
    section = {"name": "residual_mlp", "features": 8}
    assert build.network(section, 3).vector_features == 0
    assert build.network(section, 3, vector_features=5).vector_features == 5
    given = section | {"vector_features": 5}
    assert build.network(given, 3, vector_features=5).vector_features == 5
    for there in (0, 4):
        said = rf"network.vector_features=5: must be {there}, the number of features"
        with pytest.raises(UsageError, match=said):
            build.network(given, 3, vector_features=there)


def test_lists_from_json_become_tuples():
    section = {"name": "unet", "multipliers": [1, 2]}
    assert build.network(section, num_classes=3).multipliers == (1, 2)
