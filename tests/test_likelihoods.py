"""Likelihoods of held-out examples: `experiments/likelihoods.py`, `parts.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import likelihoods
from experiments.data import DataTransform, Examples
from experiments.likelihoods import Settings
from experiments.parts import Parts
from tests.test_evaluation import STD, model_of

SIZE = 150
SETTINGS = Settings(num_times=128, num_draws=2, ode_steps=20, num_probes=1)


def examples():
    values = STD * jax.random.normal(jax.random.key(3), (SIZE, 4))
    return Examples(np.asarray(values), np.zeros(SIZE, np.int32))


def nats(x):
    """-log density of N(0, STD^2 I)."""
    return 4 / 2 * np.log(2 * np.pi * STD**2) + (x**2).sum(1) / 2 / STD**2


@pytest.mark.parametrize("name", ["flow_matching", "cosine", "ve", "x", "eps"])
def test_exact_denoisers_have_the_likelihood_of_their_law(name, tmp_path):
    """The Jacobian is a multiple of the identity: one probe of signs has no variance.

    Per example the bound lies above -log p by less than 1e-3 and what its noise adds.
    """
    model, data = model_of(name), examples()
    found = likelihoods.per_example(
        model, {}, data, SETTINGS, Parts(tmp_path, {}), batch_size=64
    )
    expected = nats(data.values)
    np.testing.assert_allclose(found["ode"], expected, rtol=0, atol=2e-3)
    terms = found["recon"] + found["diffusion"] + found["prior"]
    np.testing.assert_allclose(found["bound"], terms, rtol=1e-5)
    gap = found["bound"] - expected
    error = np.sqrt(np.square(found["bound_stderr"]).sum()) / SIZE
    assert abs(gap.mean()) < 1e-3 + 4 * error and error < 0.1
    summary = likelihoods.summary(found, model, SETTINGS)
    assert summary["unit"] == "nats per dimension" and summary["count"] == SIZE
    assert summary["ode"]["mean"] == pytest.approx(expected.mean() / 4, abs=1e-3)
    spread = expected.std(ddof=1) / np.sqrt(SIZE) / 4
    assert summary["ode"]["stderr"] == pytest.approx(spread, rel=1e-2)
    assert summary["bound"]["stderr_draws"] == pytest.approx(error / 4, rel=1e-5)


def test_the_prior_is_that_of_the_schedules_own_noise(tmp_path):
    """Variance exploding ends at sigma = 50, far from N(0, I): its bound holds too."""
    model, data = model_of("ve"), examples()
    found = likelihoods.per_example(
        model, {}, data, SETTINGS, Parts(tmp_path, {}), batch_size=64
    )
    low, _ = likelihoods.reach(model, SETTINGS)
    expected = np.exp(low) * (data.values**2).sum(1) / 2
    np.testing.assert_allclose(found["prior"], expected, rtol=1e-3, atol=1e-5)
    gap = found["bound"].mean() - nats(data.values).mean()
    error = np.sqrt(np.square(found["bound_stderr"]).sum()) / SIZE
    assert abs(gap) < 1e-2 + 4 * error and error < 0.1


def test_levels_are_counted_in_bits(tmp_path):
    """Half of sixteen levels at the lowest, half at the highest; a useless network.

    A Gaussian of deviation STD says the same of both: the ODE's bits are those of its
    density at the dequantised values, less log2 of the width of a cell.
    """
    model = model_of("flow_matching")._replace(transform=DataTransform(levels=16))
    values = np.repeat(np.array([[0], [15]], np.uint8), 4, 1).repeat(40, 0)
    data = Examples(values, np.zeros(len(values), np.int32))
    found = likelihoods.per_example(
        model, {}, data, SETTINGS, Parts(tmp_path, {}), batch_size=80
    )
    width, rows = 2 / 15, np.random.default_rng(0)
    uniform = 1 + width * (rows.random((100_000, 4)) - 0.5)
    expected = nats(uniform).mean() / 4 / np.log(2) - np.log2(width)
    summary = likelihoods.summary(found, model, SETTINGS)
    assert summary["unit"] == "bits per dimension"
    assert abs(summary["ode"]["mean"] - expected) < 4 * summary["ode"]["stderr"] + 1e-3
    assert summary["ode"]["stderr"] < 0.02
    assert (found["recon"] >= 0).all()  # of a probability


def test_the_range_is_that_of_settings_data_and_schedule():
    plain = model_of("flow_matching")
    assert likelihoods.reach(plain, Settings()) == (-10.0, 10.0)
    assert likelihoods.reach(plain, Settings(-2.0, 3.0)) == (-2.0, 3.0)
    low, high = likelihoods.reach(model_of("ve"), Settings(-20.0, 20.0))
    schedule = model_of("ve").objective.schedule
    ends = [float(schedule.logsnr(jnp.float32(t))) for t in (1, 0)]
    assert [low, high] == [max(-20.0, ends[0]), min(20.0, ends[1])]
    bytes_ = plain._replace(transform=DataTransform(levels=256))
    _, high = likelihoods.reach(bytes_, Settings())
    noise = np.exp(-high / 2)
    assert noise * likelihoods.SIGMAS == pytest.approx(1 / 255)  # half a step


def test_parts_are_computed_once_and_a_damaged_one_again(tmp_path, capsys):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.float32(len(calls))}

    for _ in range(2):
        found = Parts(tmp_path, {"seed": 0}).get("first", compute)
        np.testing.assert_array_equal(found["a"], np.arange(3))
        assert found["b"] == 1
    assert len(calls) == 1 and capsys.readouterr().out == ""
    path = tmp_path / "first.npz"
    path.write_bytes(path.read_bytes()[:-30])
    assert Parts(tmp_path, {}).get("first", compute)["b"] == 2
    assert "computing again what is damaged" in capsys.readouterr().out


def test_a_part_that_is_stopped_leaves_no_file(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parts(tmp_path, {}).get("first", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
