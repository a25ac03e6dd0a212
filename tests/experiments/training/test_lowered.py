"""What accelerators are given: `benchmarks/lowered.py` on a small U-Net.

It has the entries of the CIFAR-10 config but for its size.
"""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import budget, lowered, ours, scaling, stablehlo
from benchmarks.cases import CASES
from benchmarks.devices import DEVICES
from diffusionflow.networks.platform import Target
from experiments.runtime import sharding

SMALL = dict(channels=16, multipliers=(2,), num_blocks=1)
ATTENTIONS = 4  # one going down, one in the middle, two going up
CPU_FORMS = DEVICES["h200"]._replace(target=Target("cpu"))


@pytest.fixture(scope="module")
def read():
    """Reads the small step for a device: operations, bytes of the state, donated."""
    network = CASES["cifar10"]["network"] | SMALL
    case = dict(shape=[16, 16, 3], batch_size=8, network=network)
    recipe = ours.make_recipe(case, "bfloat16")._replace(fused_attention=True)

    @functools.cache
    def of_device(device):
        with jax.numpy_dtype_promotion("standard"):
            program, *_ = lowered.lower(recipe, device)
            kept = budget.num_bytes(budget.shapes(recipe)[0])
        return stablehlo.operations(program), kept, stablehlo.donated_bytes(program)

    return of_device


@pytest.mark.ci
@pytest.mark.parametrize("name", ["h200", pytest.param("v5e", marks=pytest.mark.slow)])
def test_accelerators_are_given_no_forms_of_a_cpu(name, read):
    found = lowered.must_be_zero(*read(DEVICES[name]))
    assert {*found.values()} == {0}, found


@pytest.mark.slow
def test_the_forms_of_a_cpu_are_counted(read):
    """A bias and two maps of each norm are products with ones, and more in reverse."""
    found = lowered.must_be_zero(*read(CPU_FORMS))
    assert found["outer products"] > 50 < found["products with ones"]
    assert found["other float32 products"] > 50


@pytest.mark.ci
def test_attention_is_fused_on_a_gpu_alone(read):
    """Forward and backward, each module once."""
    targets = lambda device: Counter(each.target for each in read(device)[0])
    fused = targets(DEVICES["h200"])
    assert fused["__cudnn$fmhaSoftmax"] == ATTENTIONS
    assert fused["__cudnn$fmhaSoftmaxBackward"] == ATTENTIONS
    assert {*targets(DEVICES["v5e"])} == {""}


@pytest.mark.ci
def test_no_step_is_faster_than_its_state_passes_through_memory(read):
    operations, kept, _ = read(DEVICES["v5e"])
    device = DEVICES["v5e"]
    bound = lowered.bound_seconds(operations, kept, device)
    flops = sum(each.count * each.flops for each in operations)
    assert bound > max(2 * kept / device.bandwidth, flops / device.half)


def test_flops_and_calls_are_counted_from_shapes():
    """A product, a convolution, and a function that is called twice."""
    inner = jax.jit(lambda a, b: a @ b)

    def fn(a, b, x, kernel):
        strided = dict(window_strides=(2, 2), padding="SAME")
        layout = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
        out = jax.lax.conv_general_dilated(x, kernel, **strided, **layout)
        return inner(inner(a, b), b), out

    shapes = ((3, 5), (5, 5), (2, 8, 8, 3), (3, 3, 3, 7))
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    read = stablehlo.operations(jax.jit(fn).trace(*given).lower())
    flops = Counter()
    for each in read:
        flops[each.kind] += each.count * each.flops
    assert flops["dot_general"] == 2 * (2 * 3 * 5 * 5)
    assert flops["convolution"] == 2 * (2 * 4 * 4 * 7) * (3 * 3 * 3)


def test_collectives_are_read_from_a_program():
    mesh = sharding.mesh(8)
    cut = NamedSharding(mesh, PartitionSpec(sharding.FSDP))
    x = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=cut)
    whole = jax.jit(lambda x: x + 1, out_shardings=sharding.replicated(mesh))
    found = lowered.read_collectives(whole.lower(x).compile().as_text())
    assert found == {"all-gather": 1, "all-gather bytes": 16 * 5 * 4}


@pytest.mark.ci
def test_a_sharded_step_moves_what_the_page_of_scaling_says(standard_promotion):
    """Parameters that are cut are gathered, all gradients are summed."""
    network = dict(name="residual_mlp", features=128, num_blocks=1)
    recipe = ours.make_recipe(
        dict(shape=[2], batch_size=16, network=network), "float32"
    )
    found = lowered.collectives(recipe, fsdp=8)
    params = budget.shapes(recipe)[0].params
    expected = scaling.traffic(params, scaling.placement(8))
    assert expected.gathered > 100_000  # next to which what an example has is little
    for kind, size in (
        ("all-gather", expected.gathered),
        ("all-reduce", expected.summed),
    ):
        assert size <= found[f"{kind} bytes"] < size + 1_000


def test_shares_of_devices_add_up():
    """Leaves that are cut are shared, the others are on each device."""
    params = {"cut": jnp.zeros((64, 512)), "small": jnp.zeros(512)}
    share = scaling.share_bytes(params, scaling.placement(8))
    assert share == 4 * (64 * 512 / 8 + 512)
    assert math.isclose(scaling.ring_seconds(800, 8, 100.0), 7 / 8 * 800 / 100)
