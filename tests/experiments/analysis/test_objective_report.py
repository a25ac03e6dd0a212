"""`python -m experiments.explain` and what it is made of."""

import re

import ml_collections
import numpy as np
import pytest
from PIL import Image

from diffusionflow import objectives, schedules, times, weightings
from experiments.analysis import objective_report
from experiments.analysis.objective_report import Named
from experiments.config import overrides
from experiments.runtime.errors import UsageError
from experiments.visualization import objective_plot
from tests.helpers import commands, in_process, tiny

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
EPS_COSINE = objectives.Objective(COSINE, "eps", weightings.Mse("eps"), times.Uniform())


def test_equal_objectives_are_equal_on_all_of_the_common_range():
    found = objective_report.stretch(objectives.flow_matching(), objectives.v_cosine())
    assert (found.low, found.high) == (-10, 10)
    np.testing.assert_allclose(found.constant, np.pi / 2, rtol=1e-9)
    found = objective_report.stretch(objectives.vdm(), objectives.score_sde_ve())
    assert found.low == -5 and abs(found.high - 2 * np.log(100)) < 0.01  # t = 1e-5
    np.testing.assert_allclose(found.constant, 2 * np.log(5000) * (1 - 1e-5), rtol=1e-9)


def test_the_range_ends_where_the_objectives_part():
    """min-SNR leaves the eps error alone up to log-SNR log(gamma)."""
    found = objective_report.stretch(EPS_COSINE, objectives.min_snr(gamma=5.0))
    assert found.low == -10 and abs(found.high - np.log(5)) < 0.011
    np.testing.assert_allclose(found.constant, 1, rtol=1e-9)


@pytest.mark.parametrize(
    "other", [objectives.iddpm(), objectives.edm(), objectives.sd3()], ids=str
)
def test_what_is_only_alike_is_not_equal(other):
    assert objective_report.stretch(EPS_COSINE, other) is None


def test_the_text_says_what_is_equal_and_what_is_not():
    own = Named("mine", objectives.sit("gvp"))
    text = objective_report.text(own, Named("theirs", objectives.sd3()))
    assert "log-SNR -inf to inf" in text
    assert "output     dz_dt" in text
    assert re.search(r"flow_matching +on log-SNR -10 to 10: 1.5708 times its W", text)
    assert re.search(r"v_cosine +on log-SNR -10 to 10: 2.4674 times its W", text)
    assert " edm " not in text
    assert "against theirs: a different objective on log-SNR -10 to 10" in text
    rows = [line.split() for line in text.splitlines() if re.match(r"^ +-?\d", line)]
    table = np.array(rows, float)
    assert table.shape == (11, 5)
    logsnr, t, density, weight, share = table.T
    np.testing.assert_allclose(t, 2 / np.pi * np.arctan(np.exp(-logsnr / 2)), atol=1e-6)
    exact = 1 / np.cosh(logsnr / 2) / (2 * np.pi)
    np.testing.assert_allclose(density, exact, rtol=1e-4)
    np.testing.assert_allclose(weight, np.pi / 4 * np.exp(-logsnr / 2), rtol=1e-4)
    np.testing.assert_allclose(share, np.exp(-(logsnr + 10) / 2), atol=1e-4)
    equal = objective_report.text(own, Named("theirs", objectives.v_cosine()))
    assert "against theirs: the same objective" in equal
    alone = Named(
        "mine", objectives.Objective(FLOW, "u", weightings.Mse("x"), times.Mode(0.3))
    )
    assert "equals none of the named recipes" in objective_report.text(alone)


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ("digits_edm", "edm(sigma_data=0.85)"),
        ("digits_sd3", "sd3"),
        ("digits_vdm", "vdm"),
    ],
)
def test_shipped_configs_are_recognised_by_name(config, recipe):
    """With the config's own values, such as the sigma_data of the digits."""
    named = objective_report.from_config(config, overrides.load_config(config))
    line = rf"{re.escape(recipe)} +on log-SNR .*: 1 times its W"
    assert re.search(line, objective_report.text(named))


def test_values_that_a_recipe_does_not_take_are_no_recipe():
    """The scale of the schedule is beyond those of `times.Mode`."""
    own = objectives.Objective(
        schedules.Laplace(scale=5.0), "eps", weightings.ELBO(), times.Uniform()
    )
    assert "sd3_mode(" not in objective_report.text(Named("mine", own))


def test_a_coupling_is_said_to_change_the_optimum():
    config = tiny.config(objective__coupling="assignment(group=4)")
    text = objective_report.text(objective_report.from_config("mine", config))
    assert "paired by assignment(group=4): the optimum is another" in text
    one, other = (
        objective_report.from_config(name, tiny.config(objective__coupling=name))
        for name in ("", "sinkhorn(group=4)")
    )
    text = objective_report.comparison(one, other)
    assert "paired with data independently here and by sinkhorn(group=4) there" in text
    pairs = tiny.config()
    pairs.data = dict(name="pairs", path="a.npz")
    pairs = objective_report.from_config("pairs", pairs)
    assert "as in a file of pairs" in objective_report.text(pairs)
    assert "another objective: noise" in objective_report.comparison(pairs, one)
    alone = tiny.config(objective__coupling="independent")
    alone = objective_report.from_config("alone", alone)
    assert "the same objective" in objective_report.comparison(alone, one)
    config.objective.coupling = "assignmnt"
    with pytest.raises(UsageError, match="did you mean 'assignment'"):
        objective_report.from_config("mine", config)


def test_schedules_that_share_no_noise_level_are_refused():
    far = objectives.Objective(
        schedules.VE(200.0, 300.0), "eps", weightings.ELBO(), times.Uniform()
    )
    with pytest.raises(UsageError, match=r"no log-SNR in \(-10.0, 10.0\).*VE"):
        objective_report.text(Named("far", far))


def test_the_picture_shows_the_weights(tmp_path):
    """A white border of axes, colours inside."""
    path = tmp_path / "weights.png"
    objective_plot.draw(path, Named("mine", objectives.edm()))
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert image.shape[0] > 300 and image.shape[1] > 500
    assert (image.sum(-1) < 60).sum() > 2_000  # the black line, axes and words
    assert (np.ptp(image, axis=-1) > 60).sum() > 2_000  # the coloured lines


def test_recipes_by_name():
    named = objective_report.from_recipe("sd3(shift=3.0)")
    assert named.objective == objectives.sd3(shift=3.0)
    with pytest.raises(UsageError, match="--against: unknown name 'edn'; did you mean"):
        objective_report.from_recipe("edn")
    with pytest.raises(UsageError, match="'sit': unknown name 'pth'; did you mean"):
        objective_report.from_recipe("sit(pth='gvp')")
    with pytest.raises(UsageError, match="--against.*unknown path 'gpv'"):
        objective_report.from_recipe("sit(path='gpv')")
    with pytest.raises(UsageError, match="--against"):
        objective_report.from_recipe("min_snr(gamma='five')")


def test_a_config_without_an_entry_is_refused():
    config = ml_collections.ConfigDict(tiny.config())
    del config.objective["kind"]
    with pytest.raises(UsageError, match="config.objective: no entry 'kind'"):
        objective_report.from_config("config", config)


CONFIG = "--config=configs/digits.py"
MISTAKES = {
    "unknown recipe": ([CONFIG, "--against=edn"], "--against: unknown name 'edn'"),
    "missing file": (
        [CONFIG, "--against=configs/digit.py"],
        "--against: no file 'configs/digit.py'; did you mean 'configs/digits.py'?",
    ),
    "unknown schedule": (
        [CONFIG, "--config.objective.schedule=cosin"],
        "objective.schedule: unknown name 'cosin'; did you mean 'cosine'?",
    ),
    "no config": ([], "--config must have a value"),
}


@pytest.mark.ci
def test_the_command_explains_and_draws(tmp_path):
    path = tmp_path / "weights.png"
    code, output, error = commands.run(
        "experiments.explain", CONFIG, "--against=configs/toy2d.py", f"--out={path}"
    )
    assert (code, error) == (0, "")
    assert "Stratified(base=Uniform" in output
    assert "against configs/toy2d.py: the same objective" in output
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_line_and_exit_code_2(name, tmp_path):
    arguments, message = MISTAKES[name]
    path = tmp_path / "weights.png"
    code, output, error = in_process.run(
        "experiments.explain", *arguments, f"--out={path}"
    )
    assert (code, output) == (2, "")
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert message in error
    assert not path.exists()
