"""Likelihoods of held-out examples, per dimension, and their cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import random
from experiments.data import DataTransform, Examples
from experiments.evaluation import bits_per_dim, likelihoods, results
from experiments.evaluation.likelihoods import Settings
from experiments.evaluation.result_cache import Chunks, ResultCache
from experiments.runtime import rng
from tests.helpers import arrays
from tests.helpers.exact_model import STD, Exact, model_of

SIZE = 150
SETTINGS = Settings(num_times=128, num_draws=2, ode_steps=20, num_probes=1)


def examples():
    values = STD * jax.random.normal(jax.random.key(3), (SIZE, 4))
    return Examples(np.asarray(values), np.zeros(SIZE, np.int32))


def kept(path):
    return ResultCache(path).chunks


@pytest.mark.ci
def test_an_example_has_the_likelihood_given_its_vector(tmp_path):
    """A network of kind x that copies the vector is exact where that is x itself.

    The diffusion part of the bound is 0 then, and of any other vector v it is
    (e^high - e^low) |v - x|^2 / 2, of the ends of the log-SNR.
    """
    model = model_of("x")._replace(net=arrays.Copy(), vector_features=4)
    x, vectors = np.random.RandomState(0).standard_normal((2, 6, 4)).astype("f4")
    settings = Settings(-2.0, 2.0, num_times=512, num_draws=1, ode_steps=1)
    for number, given in enumerate((x, vectors)):
        found = likelihoods.per_example(
            model,
            {},
            Examples(x, np.zeros(6, np.int32), given),
            settings,
            kept(tmp_path / f"{number}"),
            batch_size=6,
        )
        snr = np.exp(2.0) - np.exp(-2.0)
        expected = snr * ((given - x) ** 2).sum(1) / 2
        np.testing.assert_allclose(found["diffusion"], expected, rtol=1e-2, atol=1e-3)


def nats(x):
    """-log density of N(0, STD^2 I)."""
    return 4 / 2 * np.log(2 * np.pi * STD**2) + (x**2).sum(1) / 2 / STD**2


@pytest.mark.ci
@pytest.mark.parametrize("name", ["flow_matching", "cosine", "ve", "x", "eps"])
def test_exact_denoisers_have_the_likelihood_of_their_law(name, tmp_path):
    """The Jacobian is a multiple of the identity: one probe of signs has no variance.

    Per example the bound lies above -log p by less than 1e-3 and what its noise adds.
    """
    model, data = model_of(name), examples()
    found = likelihoods.per_example(
        model, {}, data, SETTINGS, kept(tmp_path), batch_size=64
    )
    expected = nats(data.values)
    np.testing.assert_allclose(found["ode"], expected, rtol=0, atol=2e-3)
    terms = found["recon"] + found["diffusion"] + found["prior"]
    np.testing.assert_allclose(found["bound"], terms, rtol=1e-5)
    gap = found["bound"] - expected
    error = np.sqrt(np.square(found["bound_stderr"]).sum()) / SIZE
    assert abs(gap.mean()) < 1e-3 + 4 * error and error < 0.1
    summary = bits_per_dim.summary(found, model, SETTINGS)
    assert summary["unit"] == "nats per dimension" and summary["count"] == SIZE
    assert summary["ode"]["mean"] == pytest.approx(expected.mean() / 4, abs=1e-3)
    spread = expected.std(ddof=1) / np.sqrt(SIZE) / 4
    assert summary["ode"]["stderr"] == pytest.approx(spread, rel=1e-2)
    assert summary["bound"]["stderr_draws"] == pytest.approx(error / 4, rel=1e-5)


@pytest.mark.ci
def test_the_prior_is_that_of_the_schedules_own_noise(tmp_path):
    """Variance exploding ends at sigma = 50, far from N(0, I): its bound holds too."""
    model, data = model_of("ve"), examples()
    found = likelihoods.per_example(
        model, {}, data, SETTINGS, kept(tmp_path), batch_size=64
    )
    low, _ = likelihoods.reach(model, SETTINGS)
    expected = np.exp(low) * (data.values**2).sum(1) / 2
    np.testing.assert_allclose(found["prior"], expected, rtol=1e-3, atol=1e-5)
    gap = found["bound"].mean() - nats(data.values).mean()
    error = np.sqrt(np.square(found["bound_stderr"]).sum()) / SIZE
    assert abs(gap) < 1e-2 + 4 * error and error < 0.1


class Off(Exact):
    """An eps that is off by 0.1, everywhere and for every example."""

    def apply(self, *arguments, **settings):
        return super().apply(*arguments, **settings) + 0.1


@pytest.mark.ci
def test_a_network_that_is_off_has_a_bound_above_by_half_the_integral_of_its_error(
    tmp_path,
):
    """Of four coordinates over log-SNRs -10 to 10: 1/2 * 4 * 0.1^2 * 20 nats."""
    model, data = model_of("eps"), examples()
    off = model._replace(net=Off(model.objective.schedule, "eps"))
    right, wrong = (
        likelihoods.per_example(
            one, {}, data, SETTINGS, kept(tmp_path / name), batch_size=SIZE
        )["bound"]
        for name, one in (("right", model), ("wrong", off))
    )
    difference = wrong - right  # of the same noise
    error = difference.std(ddof=1) / np.sqrt(SIZE)
    assert abs(difference.mean() - 0.4) < 4 * error and error < 0.1
    assert wrong.mean() > nats(data.values).mean() + 0.1


@pytest.mark.ci
def test_levels_are_counted_in_bits(tmp_path):
    """Half of sixteen levels at the lowest, half at the highest; a useless network.

    A Gaussian of deviation STD says the same of both: the ODE's bits are those of its
    density at the dequantised values, less log2 of the width of a cell.
    """
    model = model_of("flow_matching")._replace(transform=DataTransform(levels=16))
    values = np.repeat(np.array([[0], [15]], np.uint8), 4, 1).repeat(40, 0)
    data = Examples(values, np.zeros(len(values), np.int32))
    found = likelihoods.per_example(
        model, {}, data, SETTINGS, kept(tmp_path), batch_size=80
    )
    width, rows = 2 / 15, np.random.default_rng(0)
    uniform = 1 + width * (rows.random((100_000, 4)) - 0.5)
    expected = nats(uniform).mean() / 4 / np.log(2) - np.log2(width)
    summary = bits_per_dim.summary(found, model, SETTINGS)
    assert summary["unit"] == "bits per dimension"
    assert abs(summary["ode"]["mean"] - expected) < 4 * summary["ode"]["stderr"] + 1e-3
    assert summary["ode"]["stderr"] < 0.02
    assert (found["recon"] >= 0).all()  # of a probability


def with_noise(x, variance):
    """-log density of N(0, STD^2 + variance) in four dimensions."""
    total = STD**2 + variance
    return 2 * np.log(2 * np.pi * total) + (x**2).sum(1) / 2 / total


@pytest.mark.ci
@pytest.mark.parametrize("levels", [None, 16])
@pytest.mark.parametrize("schedule", ["flow_matching", "cosine"])
def test_an_ode_that_is_cut_off_has_the_likelihood_of_data_with_that_noise(
    schedule, levels, tmp_path
):
    """An x network at log-SNR 2, where alpha is 0.73 and 0.94: the density is of x."""
    model = model_of(schedule)
    objective = dataclasses.replace(model.objective, kind="x")
    model = model._replace(
        objective=objective,
        net=Exact(objective.schedule, "x"),
        transform=DataTransform(levels),
    )
    settings = SETTINGS._replace(logsnr_max=2.0)
    data = examples()
    if levels is not None:
        stored = np.random.default_rng(0).integers(0, levels, (SIZE, 4), np.uint8)
        data = data._replace(values=stored)
    found = likelihoods.per_example(
        model, {}, data, settings, kept(tmp_path), batch_size=SIZE
    )
    x = np.asarray(model.transform.to_float(data.values))
    if levels is not None:
        key = rng.stream(settings.seed, rng.EVALUATE)
        keys, _ = random.split(random.example_keys(key, jnp.arange(SIZE)))
        x = np.asarray(likelihoods.levels_of(model.transform).dequantise(keys, x))
    expected = with_noise(x, np.exp(-2.0))
    np.testing.assert_allclose(found["ode"], expected, rtol=0, atol=5e-3)
    assert abs(with_noise(x, 0) - expected).max() > 0.2
    alpha = float(objective.schedule.alpha(likelihoods.ode_times(model, settings)[0]))
    expected = {"cosine": 0.9385, "flow_matching": 0.7311}[schedule]
    assert alpha == pytest.approx(expected, abs=1e-4)
    ends = bits_per_dim.summary(found, model, settings)["ode_ends"]
    assert ends == {"data": pytest.approx(2.0, abs=1e-4), "noise": None}


def test_the_ends_of_the_ode_are_reported():
    """A network of eps is singular where there is nothing but noise."""
    ends = {
        name: likelihoods.ode_ends(model_of(name), Settings())
        for name in ("flow_matching", "ve", "x", "eps")
    }
    own = {"data": None, "noise": None}
    assert ends["flow_matching"] == ends["ve"] == own
    assert ends["x"] == {"data": pytest.approx(10, abs=1e-3), "noise": None}
    assert ends["eps"] == {"data": None, "noise": pytest.approx(-10, abs=1e-3)}


@pytest.mark.ci
@pytest.mark.parametrize("levels", [None, 16])
def test_the_error_of_the_solver_is_that_from_the_closed_form(levels, tmp_path):
    """Of fourth order: twice the steps leave a sixteenth. In bits with levels."""
    model = model_of("flow_matching")._replace(transform=DataTransform(levels))
    data, few = examples(), SETTINGS._replace(ode_steps=3, ode_power=1.0)
    if levels is not None:
        data = data._replace(values=np.full((SIZE, 4), 8, np.uint8))
    found, fine = (
        likelihoods.per_example(
            model, {}, data, settings, kept(tmp_path), batch_size=64
        )
        for settings in (few, SETTINGS._replace(ode_steps=50))
    )
    error = (found["ode"] - fine["ode"]) / 4 / (1 if levels is None else np.log(2))
    measured = bits_per_dim.summary(found, model, few)["solver_error"]
    assert measured["count"] == 150 // 8 and measured["steps"] == 6
    assert measured["mean"] == pytest.approx(error[:18].mean() * 15 / 16, rel=0.1)
    assert abs(measured["mean"]) > 2e-5  # or it is rounding
    spread = error[:18].std(ddof=1) / np.sqrt(18) * 15 / 16
    assert measured["stderr"] == pytest.approx(spread, rel=0.2, abs=1e-5)
    bound = abs(measured["mean"]) + 2 * measured["stderr"]
    assert results.solver_bound(measured) == bound
    found["ode"][3] = np.nan  # of a network that has diverged
    assert bits_per_dim.summary(found, model, few)["solver_error"] is None


@pytest.mark.ci
def test_the_error_of_the_solver_costs_a_quarter_of_the_ode_at_most(tmp_path):
    for count in range(2_000):
        again = likelihoods.num_again(count)
        assert 2 * again <= count / 4 and again <= 64 and again != 1
    data = examples().gather(np.arange(15))
    model = model_of("flow_matching")
    found = likelihoods.per_example(
        model, {}, data, SETTINGS, kept(tmp_path), batch_size=64
    )
    assert bits_per_dim.summary(found, model, SETTINGS)["solver_error"] is None


@pytest.mark.slow
def test_a_kind_is_computed_again_only_if_its_own_settings_change(
    tmp_path, monkeypatch
):
    computed = []
    batches_of = likelihoods._compiled

    def counting(fn, model, settings):
        run = batches_of(fn, model, settings)

        def counted(*arguments):
            computed.append(fn.__name__)
            return run(*arguments)

        return counted

    monkeypatch.setattr(likelihoods, "_compiled", counting)

    def evaluate(**changed):
        computed.clear()
        likelihoods.per_example(
            model_of("flow_matching"),
            {},
            examples(),
            Settings(num_times=4, ode_steps=2)._replace(**changed),
            kept(tmp_path),
            batch_size=SIZE,
        )
        return computed

    assert evaluate() == ["_bound", "_ode", "_ode"]
    assert evaluate() == []
    assert evaluate(num_times=5) == ["_bound"]
    assert evaluate(logsnr_min=-9.0) == ["_bound"]  # the ODE is not cut off here
    assert evaluate(ode_steps=3) == ["_ode", "_ode"]
    assert evaluate(seed=1) == ["_bound", "_ode", "_ode"]


def test_the_range_is_that_of_settings_data_and_schedule():
    plain = model_of("flow_matching")
    assert likelihoods.reach(plain, Settings()) == (-10.0, 10.0)
    assert likelihoods.reach(plain, Settings(-2.0, 3.0)) == (-2.0, 3.0)
    low, high = likelihoods.reach(model_of("ve"), Settings(-20.0, 20.0))
    schedule = model_of("ve").objective.schedule
    ends = [float(schedule.logsnr(t)) for t in (1.0, 0.0)]
    assert [low, high] == [max(-20.0, ends[0]), min(20.0, ends[1])]
    bytes_ = plain._replace(transform=DataTransform(levels=256))
    _, high = likelihoods.reach(bytes_, Settings())
    noise = np.exp(-high / 2)
    assert noise * likelihoods.SIGMAS == pytest.approx(1 / 255)  # half a step


def test_chunks_are_computed_once_and_a_corrupted_one_again(tmp_path, capsys):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.float32(len(calls))}

    for _ in range(2):
        found = Chunks(tmp_path, {"seed": 0}).get("first", compute)
        np.testing.assert_array_equal(found["a"], np.arange(3))
        assert found["b"] == 1
    assert len(calls) == 1 and capsys.readouterr().out == ""
    path = tmp_path / "first.npz"
    path.write_bytes(path.read_bytes()[:-30])
    assert Chunks(tmp_path, {}).get("first", compute)["b"] == 2
    assert "computing again what is corrupted" in capsys.readouterr().out


def test_a_part_that_is_stopped_leaves_no_file(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Chunks(tmp_path, {}).get("first", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


class Counted:
    """A network that counts the rows that it is called with, when it runs."""

    def __init__(self, net):
        self.net, self.rows = net, 0

    def apply(self, variables, z, *rest, **settings):
        def count(number):
            self.rows += number

        jax.debug.callback(functools.partial(count, len(z)))
        return self.net.apply(variables, z, *rest, **settings)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["bound", "ode"])
def test_the_network_calls_of_an_example_are_those_of_the_settings(kind, tmp_path):
    """Times x draws of the bound; four a step of the ODE, whatever the probes."""
    settings = Settings(num_times=8, num_draws=3, ode_steps=5, num_probes=2)
    each = {"bound": 8 * 3, "ode": 4 * 5}[kind]
    model = model_of("flow_matching")
    net = Counted(model.net)
    likelihoods.per_example(
        model._replace(net=net),
        {},
        examples().gather(np.arange(15)),
        settings,
        kept(tmp_path),
        batch_size=5,
        left_out={"bound", "ode"} - {kind},
    )
    jax.effects_barrier()
    assert net.rows == 15 * each
