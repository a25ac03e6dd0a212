"""Recipes: JSON of what was computed, and a refusal where two differ."""

import json

import jax
import numpy as np
import pytest

from diffusionflow import analytic, metrics

KEY = jax.random.key(7)
X = np.random.RandomState(0).standard_normal((10, 2))


def recipe(metric, *sets, key=KEY, features="pixels", num_resamples=39):
    return metrics.measure(
        key,
        metric,
        *(sets or (X, X + 1)),
        features=features,
        reference="digits, test",
        num_resamples=num_resamples,
    ).recipe


def test_what_it_records():
    found = recipe(metrics.kid())
    assert found == json.loads(json.dumps(found))
    assert found["metric"] == {
        "name": "SquaredMMD",
        "kernel": {"name": "Polynomial", "degree": 3, "scale": None, "offset": 1.0},
        "unbiased": True,
    }
    assert found["features"] == "pixels" and found["num_features"] == 2
    assert found["reference"] == "digits, test" and found["counts"] == [10, 10]
    assert found["bootstrap"] == {"key": [0, 7], "num_resamples": 39, "level": 0.95}


CHANGES = {
    "metric.kernel.degree": dict(metric=metrics.SquaredMMD(metrics.Polynomial(2))),
    "metric.unbiased": dict(metric=metrics.SquaredMMD(metrics.Polynomial(), False)),
    "features": dict(features="classifier"),
    "bootstrap.num_resamples": dict(num_resamples=40),
    "bootstrap.key": dict(key=jax.random.key(8)),
    "counts": dict(sets=(X[:9], X + 1)),
}


@pytest.mark.parametrize("path", CHANGES)
def test_what_differs_is_named_and_refused(path):
    change = dict(CHANGES[path])
    sets, metric = change.pop("sets", ()), change.pop("metric", metrics.kid())
    a, b = recipe(metrics.kid()), recipe(metric, *sets, **change)
    assert list(metrics.same_recipe(a, b)) == [path]
    with pytest.raises(ValueError, match=f"recipes differ in {path}"):
        metrics.check_same_recipe(a, json.loads(json.dumps(b)))
    assert not metrics.same_recipe(a, b, ignore=[path.split(".")[0]])
    metrics.check_same_recipe(a, a)


def test_an_entry_that_one_has_not_is_named():
    a, b = recipe(metrics.kid()), recipe(metrics.Wasserstein2())
    found = metrics.same_recipe(a, b)
    assert found["metric.name"] == ("SquaredMMD", "Wasserstein2")
    assert found["metric.kernel.degree"] == (3, "(none)")


def test_keys_of_metrics_and_laws_are_recorded():
    sliced = lambda seed: metrics.SlicedWasserstein2(jax.random.key(seed), 4)
    assert list(metrics.same_recipe(recipe(sliced(0)), recipe(sliced(1)))) == [
        "metric.key"
    ]
    law = analytic.gaussian(np.zeros(1), 1.0)
    one = metrics.Kolmogorov(metrics.LawCDF(law))
    found = recipe(one, X[:, 0])["metric"]["cdf_fn"]
    assert found["law"]["variances"] == [[1.0]]


def test_large_arrays_have_a_digest_and_functions_a_name():
    covariance = np.eye(5)
    found = metrics.describe(metrics.CovarianceError(covariance))["covariance"]
    assert found["shape"] == [5, 5] and len(found["sha256"]) == 16
    covariance[0, 1] += 1e-12
    other = metrics.describe(metrics.CovarianceError(covariance))["covariance"]
    assert other["sha256"] != found["sha256"]
    from sklearn.metrics.pairwise import laplacian_kernel

    named = metrics.describe(metrics.SquaredMMD(laplacian_kernel))["kernel"]
    assert named == "sklearn.metrics.pairwise.laplacian_kernel"
