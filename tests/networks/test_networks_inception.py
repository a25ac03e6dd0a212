"""The Inception network against torchvision's, on the same random weights.

`tests/data/inception.npz` is what torch gave (`benchmarks/record_inception.py`).
"""

import pathlib

import jax
import numpy as np
import pytest

from diffusionflow.networks import inception
from tests.helpers import inception_weights

RECORD = np.load(pathlib.Path(__file__).parents[1] / "data" / "inception.npz")
SHAPES = {
    str(name): tuple(int(side) for side in shape)
    for name, shape in zip(RECORD["shape_names"], RECORD["shape_values"], strict=True)
}


@pytest.fixture(scope="module")
def state():
    return inception_weights.random_state(SHAPES)


def close(found, exact, name):
    """To 1e-4 of the largest: float32 through 94 convolutions."""
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found / scale, exact / scale, atol=1e-4, err_msg=name)


@pytest.mark.ci
def test_every_block_and_the_features(state):
    params = inception.inception_params(state)
    run = jax.jit(
        lambda x: inception.Inception().apply(
            {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
        )
    )
    features, captured = run(inception_weights.images())
    captured = captured["intermediates"]
    blocks = [name for name in RECORD if name.startswith("Mixed")]
    assert len(blocks) == 11
    for name in blocks:
        (output,) = captured[name]["__call__"]
        close(output.mean((1, 2)), RECORD[name], name)
    close(features, RECORD["features"], "features")
    # the pooling of torchvision's own network is another: the record can tell
    other = np.abs(features - RECORD["torchvision_features"]).max()
    assert other > 0.01 * np.abs(RECORD["features"]).max()


def test_averages_leave_the_padding_out():
    x = np.arange(6.0, dtype=np.float32).reshape(1, 2, 3, 1)
    found = inception.average(x)[0, ..., 0]
    np.testing.assert_allclose(found, [[2, 2.5, 3], [2, 2.5, 3]])
    np.testing.assert_allclose(inception.largest(x)[0, ..., 0], [[4, 5, 5], [4, 5, 5]])


def test_resizing_is_that_of_torch():
    found = inception.resized(inception_weights.small())[:, ::23, ::23]
    np.testing.assert_allclose(found, RECORD["resized"], atol=1e-6)


def test_what_does_not_fit_is_listed(state):
    bad = dict(state)
    del bad["Mixed_5b.branch1x1.conv.weight"], bad["Mixed_7c.branch_pool.bn.bias"]
    bad["Mixed_5c.branch1x1.conv.weight"] = np.zeros((64, 256, 3, 3))
    bad["Mixed_9z.conv.weight"] = np.zeros(3)
    bad["fc.weight"] = np.zeros((1008, 2048))
    bad["Mixed_5b.branch1x1.bn.num_batches_tracked"] = np.zeros(())
    with pytest.raises(ValueError, match="are not the weights of Inception") as error:
        inception.inception_params(bad)
    missing, others, shapes = str(error.value).split("; ")[1:]
    assert missing == (
        "missing: Mixed_5b.branch1x1.conv.weight, Mixed_7c.branch_pool.bn.bias"
    )
    assert others == "not of this network: Mixed_9z.conv.weight"
    assert "(64, 256, 3, 3), must be (64, 256, 1, 1)" in shapes
