"""The explorable page's samplers by name, and its inverse problem."""

import numpy as np
import pytest

from diffusionflow import samplers
from diffusionflow.samplers.names_elsewhere import ROWS
from experiments.analysis import inverse_toy, sampler_error
from experiments.visualization.explorables import inverse_problem, sampler_steps
from tests.helpers.explorables import at, check_every_place


@pytest.mark.ci
def test_a_sampler_and_its_steps_are_where_the_sliders_stand(monkeypatch):
    data, two = sampler_error.mixture(), ("DDIM", "Heun, in u")
    known = {name: sampler_error.SAMPLERS[name] for name in two}
    rows = [row for row in ROWS if row.names[0] in ("Euler", "DDIM")]
    monkeypatch.setattr(sampler_steps, "SAMPLERS", known)
    monkeypatch.setattr(sampler_steps, "ROWS", rows)
    monkeypatch.setattr(sampler_steps, "STEPS", (3, 5))
    monkeypatch.setattr(sampler_steps, "IN_TABLE", 1)
    monkeypatch.setattr(sampler_steps, "NUM_STARTS", 500)
    block, table = sampler_steps.section().blocks
    check_every_place(block)
    chosen = {**known, "Euler": samplers.Euler("eps")}
    assert list(block.sliders[0].places) == list(chosen)
    density, errors = block.charts
    for i, sampler in enumerate(chosen.values()):
        for j, count in enumerate((3, 5)):
            (run,) = sampler_error.runs_against_nfe(
                sampler, data, num_steps=(count,), num_starts=500
            )
            if i < 2:
                trace = errors.data[i]
                assert (trace["x"][j], trace["y"][j]) == (run.nfe, run.error)
            assert at(errors.data[-2]["y"], (i, j))[j] == run.error
            assert at(errors.data[-1]["y"], (i, j)) == [run.error]
            assert f"NFE {run.nfe}," in at(block.readout[0], (i, j))
            middle, share = density.data[0]["x"], at(density.data[0]["y"], (i, j))
            outside = (run.x < sampler_steps.EDGES[0]) | (
                run.x > sampler_steps.EDGES[-1]
            )
            width = middle[1] - middle[0]
            assert np.sum(share) * width == pytest.approx(1 - outside.mean())
    more = dict(block.sliders[0].more)
    assert ("sample_euler", 2) in more["k-diffusion"]
    assert ("DDIMScheduler", 0) in more["diffusers"]
    (run,) = sampler_error.runs_against_nfe(
        samplers.Euler("eps"), data, num_steps=(5,), num_starts=500
    )
    assert table.rows[2] == (
        "Euler",
        "5",
        f"{run.error:.3g}",
        "sample_euler, EulerDiscreteScheduler, EDMEulerScheduler",
    )


def test_every_name_of_a_sampler_elsewhere_is_a_choice():
    known = sampler_steps.choices()
    groups = dict(sampler_steps.by_library(known))
    found = {name: place for names in groups.values() for name, place in names}
    for row in ROWS:
        for name in row.names:
            assert known[found[name]].sampler == row.sampler
    assert all(name.startswith("sample_") for name, _ in groups["k-diffusion"])


@pytest.mark.ci
def test_the_posterior_of_the_inverse_problem_is_bayes_rule():
    """By quadrature over the plane; where nothing is measured it is the prior."""
    x = np.linspace(-3, 3, 241)
    plane = np.stack(np.meshgrid(x, x, indexing="ij"), -1)
    data = inverse_toy.prior()
    share = sum(
        w * np.exp(-np.sum((plane - m) ** 2 / v, -1) / 2)
        for w, m, v in zip(data.weights, data.means, data.variances, strict=True)
    )
    for y, std in ((0.4, 0.3), (-0.8, 0.1), (0.0, 1e3)):
        law = share * np.exp(-(((x[:, None] - y) / std) ** 2) / 2)
        law = law.sum(0) / law.sum()
        hidden = inverse_toy.posterior(y, std).hidden
        mean, means = law @ x, np.asarray(hidden.means)
        np.testing.assert_allclose(hidden.weights @ means, mean, atol=1e-4)
        second = hidden.weights @ (means**2 + np.asarray(hidden.variances))
        np.testing.assert_allclose(second, law @ x**2, atol=1e-4)


@pytest.mark.ci
def test_an_inverse_problem_is_where_the_sliders_stand(monkeypatch):
    name = "PiGDM: x given z of one variance"
    monkeypatch.setattr(inverse_problem, "METHODS", {name: inverse_toy.METHODS[name]})
    monkeypatch.setattr(inverse_problem, "MEASURED", np.array([-0.8, 0.4]))
    monkeypatch.setattr(inverse_problem, "STDS", (0.3, 1.0))
    monkeypatch.setattr(inverse_toy, "NUM_SAMPLES", 400)
    monkeypatch.setattr(inverse_toy, "NUM_STEPS", 20)
    (block,) = inverse_problem.section().blocks
    check_every_place(block)
    plane, hidden = block.charts
    for j, y in enumerate((-0.8, 0.4)):
        assert at(plane.data[3]["x"], (0, j, 0)).tolist() == [y, y]
        x = inverse_toy.samples(name, y, 0.3)
        np.testing.assert_array_equal(
            at(plane.data[2]["x"], (0, j, 0)), x[: inverse_problem.SHOWN, 0]
        )
        width = inverse_problem.EDGES[1] - inverse_problem.EDGES[0]
        curve = at(hidden.data[1]["y"], (0, j, 0))
        assert np.sum(curve) * width == pytest.approx(1, abs=0.02)
        assert "NFE 40" in at(block.readout[0], (0, j, 0))


def test_samples_of_many_steps_have_the_quantiles_of_the_data():
    data = sampler_error.mixture()
    (run,) = sampler_error.runs_against_nfe(
        samplers.Heun("dz_dt"), data, num_steps=(80,), num_starts=2001
    )
    assert run.nfe == 159 and np.all(np.diff(run.x) >= 0)
    assert run.error == pytest.approx(np.sqrt(np.mean((run.x - run.exact) ** 2)))
    assert run.error < 2e-3
