"""The study: `comparison/run_study.py`, and what in it is a theorem."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import study as shipped
from diffusionflow import losses, objectives, predictions
from experiments.comparison import run_study
from experiments.config import build, experiment
from experiments.config.model import Model
from experiments.runtime.errors import UsageError
from tests.helpers import in_process, tiny
from tests.helpers.networks import fast

STUDY = """
import dataclasses, json
from tests.helpers import tiny
from configs import study


def get_study():
    import ml_collections
    found = ml_collections.ConfigDict()
    found.recipes, found.seeds = ("flow_matching", "x"), (3, 4)
    found.likelihood = dict(num_times=4, num_draws=2, ode_steps=4, num_probes=1)
    found.samples = dict(
        samplers=("ddim@2@karras(rho=7.0)",), num_samples=40, num_resamples=39
    )
    return found


def get_config(recipe):
    objective = study.OBJECTIVES[recipe]
    return tiny.config(objective=objective)
"""

OUTPUT = predictions.edm_f(0.85)

# --- what the objectives say of gradients --------------------------------------


@functools.cache
def expected_gradient(recipe, output=None):
    """Of the loss over log-SNRs from -6 to 6, of one network on the same examples.

    By Gauss-Legendre nodes, at which all recipes see the same noise. With `output`,
    the network predicts that instead of what the recipe says.
    """
    objective = objective_of(recipe, output)
    config = tiny.config(network__dropout=0.0)
    model = Model(
        net=build.network(config.network, 2),
        objective=objective,
        transform=None,
        event_shape=(2,),
        num_classes=2,
        sigma_data=0.85,
    )
    params = model.init(jax.random.key(0))
    noise = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    leaves, tree = jax.tree.flatten(params)  # the last layer starts at 0
    leaves = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, noise, strict=True)
    ]
    params = jax.tree.unflatten(tree, leaves)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    count = 16
    logsnr = jnp.repeat(jnp.asarray(6 * nodes, jnp.float32), count)
    weights = jnp.repeat(jnp.asarray(6 * weights / count, jnp.float32), count)
    x_key, eps_key, label_key = jax.random.split(jax.random.key(2), 3)
    shape = (len(logsnr), 2)
    x, eps = jax.random.normal(x_key, shape), jax.random.normal(eps_key, shape)
    labels = jax.random.randint(label_key, shape[:1], 0, 2)
    schedule = objective.schedule
    t = schedule.inverse_logsnr(logsnr)
    density = objective.times.density(t, schedule=schedule) / -schedule.dlogsnr_dt(t)

    def loss_fn(params):
        predict_fn = model.predict_fn(params, labels)
        loss = losses.objective_loss(
            None, predict_fn, x, objective=objective, t=t, eps=eps
        )
        return jnp.sum(weights * density * loss)

    gradient = fast(jax.grad(loss_fn))(params)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def objective_of(recipe, kind=None):
    found = build.objective(shipped.OBJECTIVES[recipe])
    return found if kind is None else dataclasses.replace(found, kind=kind)


def cosine_similarity(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.ci
def test_flow_matching_and_v_cosine_have_one_gradient_with_one_network():
    """The same total weight and the same preconditioned network.

    The constant is that of the total weights. With outputs of their own, u and v, the
    network is another one and the gradients point elsewhere.
    """
    pair = "flow_matching", "v_cosine"
    one, two = (objective_of(name, OUTPUT) for name in pair)
    same = objectives.same_objective(one, two)
    assert same.same and same.constant == pytest.approx(np.pi / 2, rel=1e-6)
    ours, theirs = (expected_gradient(name, OUTPUT) for name in pair)
    error = np.abs(ours - same.constant * theirs).max()
    assert error < 2e-5 * np.abs(ours).max()
    ours, theirs = map(expected_gradient, pair)
    error = np.abs(ours - same.constant * theirs).max()
    assert error > 0.02 * np.abs(ours).max()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["edm", "eps_linear", "sd3", "x"])
def test_the_other_recipes_have_other_gradients_even_with_one_network(recipe):
    pair = "flow_matching", recipe
    one, two = (objective_of(name, OUTPUT) for name in pair)
    assert not objectives.same_objective(one, two, (-6.0, 6.0)).same
    similar = cosine_similarity(*(expected_gradient(name, OUTPUT) for name in pair))
    assert similar < 0.9999


# --- the shipped study ----------------------------------------------------------


@pytest.mark.parametrize("recipe", shipped.get_study().recipes)
def test_a_recipe_differs_from_the_others_in_its_objective_alone(recipe):
    config, first = shipped.get_config(recipe), shipped.get_config()
    for each in (config, first):
        experiment.from_config(each)
    assert config.objective.to_dict() == dict(shipped.OBJECTIVES[recipe])
    with config.unlocked():
        config.objective = first.objective
    assert config.to_dict() == first.to_dict()


def test_the_shipped_study_has_six_recipes_and_five_seeds():
    study = run_study.load("configs/study.py")
    assert len(study.configs) == 6 and len(set(study.seeds)) == 5
    assert study.request.likelihood.num_probes > 1  # or there is no error of the ODE


def test_a_misspelt_recipe_is_one_line_with_the_choices():
    """In Python, on the command line, and in a study."""
    words = "no recipe 'edmm'; there are flow_matching, v_cosine, edm, eps_linear, sd3"
    with pytest.raises(ValueError, match=re.escape(words)):
        shipped.get_config("edmm")
    code, _, error = in_process.run(
        "experiments.train", "--config=configs/study.py:edmm", "--workdir=nowhere"
    )
    assert code == 2 and words in error and len(error.splitlines()) == 1, error


# --- running it -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_a_study_trains_evaluates_and_compares_and_goes_on(tmp_path, capsys):
    file, workdir = tmp_path / "study.py", tmp_path / "runs"
    file.write_text(STUDY)
    path = run_study.run_study(str(file), workdir)
    assert path.is_file()

    def row_of(recipe, seed):
        text = (workdir / recipe / str(seed) / "eval.json").read_text()
        return json.loads(text) | {"environment": None}  # it has the time of day

    runs = [(recipe, seed) for recipe in ("flow_matching", "x") for seed in (3, 4)]
    results = {run: row_of(*run) for run in runs}
    for (recipe, seed), found in results.items():
        config = found["identity"]["config"]
        assert config["seed"] == seed
        assert config["objective"]["kind"] == {"flow_matching": "u", "x": "x"}[recipe]
    # what a kill takes away comes back the same
    (workdir / "x" / "4" / "eval.json").unlink()
    page = path.read_bytes()
    path.unlink()
    capsys.readouterr()
    assert run_study.run_study(str(file), workdir) == path
    assert capsys.readouterr().out.count("evaluated already") == 3
    assert row_of("x", 4) == results["x", 4]
    assert path.read_bytes() == page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no file"),
        ("seeds = 3", "holds no study"),
        (STUDY.replace("num_times=4", "times=4"), "holds no study"),
        (STUDY.replace("(3, 4)", "()"), "names 2 recipes and 0 seeds"),
        (STUDY.replace("(3, 4)", "(3, 3)"), "seeds=(3, 3): one is named twice"),
        (STUDY.replace("(3, 4)", "(3, 0.5)"), "seed=0.5: must be a whole number in"),
        (STUDY.replace(', "x")', ', "y")'), "holds no study: KeyError"),
        (
            STUDY.replace(', "x")', ', "y")').replace(
                "study.OBJECTIVES[recipe]", "study.get_config(recipe).objective"
            ),
            "holds no study: ValueError: no recipe 'y'; there are flow_matching",
        ),
        (STUDY.replace("ddim@2@", "ddym@2@"), "unknown name 'ddym'"),
        (STUDY.replace(', "x")', ",)"), "names 1 recipes and 2 seeds; 2 to 7"),
    ],
)
def test_what_is_no_study_is_one_line(tmp_path, text, message):
    file = tmp_path / "study.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)) as raised:
        run_study.load(str(file))
    assert len(str(raised.value).splitlines()) == 1
