"""Mistakes of a first contact: one sentence that names the value and the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    grids,
    guidance,
    likelihood,
    losses,
    objectives,
    predictions,
    processes,
    random,
    samplers,
    schedules,
    times,
    weightings,
)

FLOW = schedules.FlowMatching()
Z = np.ones((2, 3), np.float32)
KEY = jax.random.key(0)


def net(z, t):
    return -z


def network(predict_fn=net, **settings):
    return predictions.denoiser(
        predict_fn, **(dict(kind="u", schedule=FLOW) | settings)
    )


def sample(denoise_fn=None, z=Z, grid=None, sampler=None, schedule=FLOW):
    return samplers.sample(
        KEY,
        network() if denoise_fn is None else denoise_fn,
        z,
        grids.uniform(3) if grid is None else grid,
        sampler=samplers.ddim() if sampler is None else sampler,
        schedule=schedule,
    )


def loss(predict_fn=net, x=Z, t=None):
    t = np.full(2, 0.5, np.float32) if t is None else t
    return losses.kind_loss(predict_fn, x, t, Z, kind="u", schedule=FLOW)


def jitted(fn):
    """Shapes and types are checked while tracing."""
    return jax.eval_shape(fn)


MISTAKES = {
    "a name for a sampler": (lambda: sample(sampler="ddim"), "sampler='ddim'.*ddim()"),
    "a class for a sampler": (
        lambda: sample(sampler=samplers.Heun),
        "sampler=Heun: must be an instance; write Heun",
    ),
    "a function for a sampler": (
        lambda: sample(sampler=samplers.ddim),
        "sampler=ddim.*such as samplers.ddim()",
    ),
    "a number for a sampler": (lambda: sample(sampler=3), "sampler=3: must have"),
    "a name for a schedule": (
        lambda: sample(schedule="cosine"),
        "schedule='cosine'.*schedules.FlowMatching()",
    ),
    "a class for a schedule": (
        lambda: network(schedule=schedules.Cosine),
        "schedule=Cosine.*write Cosine",
    ),
    "a name for a schedule in a bound": (
        lambda: losses.prior_kl(Z, schedule="cosine"),
        "schedule='cosine'",
    ),
    "a name for a schedule in a process": (
        lambda: processes.forward(Z, 0.5, schedule="cosine"),
        "schedule='cosine'",
    ),
    "a name for a schedule in its coefficients": (
        lambda: processes.to_sde(0.5, schedule="cosine"),
        "schedule='cosine'",
    ),
    "numbers of levels as data": (
        lambda: likelihood.QuantizedLevels().dequantise(KEY, np.ones((2, 3), int)),
        r"x of dtype int.*levels.values\(number\)",
    ),
    "a function for a schedule": (lambda: network(schedule=net), "schedule=net"),
    "an object for a schedule": (
        lambda: processes.add_noise(Z, Z, 0.5, schedule=object()),
        "instance of schedules.Schedule; subclass",
    ),
    "a name in an objective": (
        lambda: objectives.Objective(
            "cosine", "u", weightings.Mse("u"), times.Uniform()
        ),
        "schedule='cosine'",
    ),
    "a class in an objective": (
        lambda: objectives.Objective(FLOW, "u", weightings.Mse("u"), times.Uniform),
        "times=Uniform: must be an instance",
    ),
    "a name in a shift": (lambda: schedules.Shifted("cosine", 2.0), "base='cosine'"),
    "a name for a grid": (
        lambda: sample(grid="uniform"),
        "times='uniform'.*uniform[(]50",
    ),
    "a function for a grid": (
        lambda: sample(grid=grids.uniform),
        "times=uniform.*grid",
    ),
    "a number for a grid": (lambda: sample(grid=50), "times=50.*grids.uniform[(]50"),
    "an unknown kind": (lambda: network(kind="vel"), "kind 'vel'.*known: x, eps"),
    "an ambiguous kind": (lambda: network(kind="velocity"), "'velocity'.*write"),
    "a class for a kind": (
        lambda: network(kind=predictions.EdmF),
        "kind=.*EdmF.*one of",
    ),
    "a string for a number": (lambda: samplers.Churn("0.5"), "churn='0.5'.*in .0, 1"),
    "a network for a denoiser": (
        lambda: sample(net),
        "denoise_fn returned an array.*predictions.denoiser",
    ),
    "a name for a denoiser": (lambda: sample("unet"), "denoise_fn='unet'.*denoiser"),
    "a denoiser for a network": (
        lambda: network(network()),
        "predict_fn=.*must be a function",
    ),
    "a denoiser in a loss": (lambda: loss(network()), "denoiser already"),
    "a tuple from a network": (
        lambda: network(lambda z, t: (z, z))(Z, 0.5),
        "predict_fn's result is a tuple.*the prediction alone",
    ),
    "another rank from a network": (
        lambda: jitted(lambda: network(lambda z, t: z[..., None])(Z, 0.5)),
        r"predict_fn's result has shape \(2, 3, 1\): must be \(2, 3\)",
    ),
    "integers from a network": (
        lambda: jitted(lambda: network(lambda z, t: z.astype(int))(Z, 0.5)),
        "predict_fn's result of dtype int32.*floating",
    ),
    "a tuple in a loss": (lambda: loss(lambda z, t: (z, z)), "is a tuple"),
    "another shape in a loss": (
        lambda: jitted(lambda: loss(lambda z, t: z[:1])),
        r"shape \(1, 3\): must be \(2, 3\)",
    ),
    "integer images": (
        lambda: jitted(lambda: loss(x=jnp.ones((2, 3), jnp.uint8))),
        "x of dtype uint8.*images / 127.5 - 1",
    ),
    "integer noise to sample from": (
        lambda: sample(z=np.ones((2, 3), int)),
        "z of dtype int.*floating",
    ),
    "an integer time": (lambda: network()(Z, 1), "t of dtype int32.*i / T"),
    "integer times in a loss": (
        lambda: jitted(lambda: loss(t=jnp.array([3, 7]))),
        "t of dtype int32.*i / T",
    ),
    "a time of 0..1000": (lambda: network()(Z, 500.0), r"t=500.0: must be in \[0, 1\]"),
    "times of 0..1000 in a loss": (lambda: loss(t=np.array([1.0, 999.0])), "t=999.0"),
    "times of 0..1000 in a grid": (
        lambda: sample(grid=np.array([999.0, 0.0])),
        "999.0 to 0.0|from 999.0",
    ),
    "a time of solve": (
        lambda: samplers.solve(network(), Z, 1.5, 0.0, schedule=FLOW),
        "t0=1.5",
    ),
    "times that do not fit": (
        lambda: loss(t=np.full(5, 0.5, np.float32)),
        r"t of shape \(5,\) does not fit",
    ),
    "an old key": (
        lambda: samplers.prior(jax.random.PRNGKey(0), (2,), schedule=FLOW),
        "key has dtype uint32.*jax.random.key",
    ),
    "an old key to split": (
        lambda: random.split(jax.random.PRNGKey(0)),
        "key has dtype uint32.*jax.random.key",
    ),
    "no key": (
        lambda: samplers.sample(
            None, network(), Z, grids.uniform(2), sampler=samplers.ddpm(), schedule=FLOW
        ),
        "key=None.*jax.random.key",
    ),
    "another schedule": (
        lambda: sample(schedule=schedules.Cosine()),
        "schedule=Cosine.*belongs to FlowMatching.*predictions.reschedule",
    ),
    "another schedule in guidance": (
        lambda: guidance.static_threshold(
            network(), schedule=schedules.Cosine(), low=-1.0, high=1.0
        ),
        "predictions.reschedule",
    ),
    "another schedule in a likelihood": (
        lambda: likelihood.encode(None, network(), Z, schedule=schedules.Cosine()),
        "predictions.reschedule",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_it_is_one_line(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and len(text) <= 300, text


def test_traced_times_out_of_range_give_nan():
    found = jax.jit(network())(Z, jnp.float32(1.5))
    assert np.isnan(found.x).all() and np.isnan(found.eps).all()
    found = jax.jit(lambda t: loss(t=t))(jnp.array([0.5, 7.0], jnp.float32))
    assert np.array_equal(np.isnan(found), [False, True])
    noised = jax.jit(lambda t: processes.add_noise(Z, Z, t, schedule=FLOW))
    assert np.isnan(noised(jnp.float32(-0.5))).all()


VALUES = {
    "schedules": [
        FLOW,
        schedules.Discrete.linear_betas(),
        schedules.learned(),
        schedules.Interpolated(lambda t: 1 - t, lambda t: t),
        schedules.Scaled(FLOW, lambda t: 1 + t),
        processes.from_sde(lambda t: -t, lambda t: 1 + 0 * t),
    ],
    "denoisers": [
        network(),
        network(jax.tree_util.Partial(net)),
        guidance.classifier_free(network(), network(), scale=np.ones(8)),
        guidance.inpaint(network(), Z, np.ones((2, 3), bool), schedule=FLOW),
        predictions.as_denoiser(lambda z, t: predictions.Denoised(z, z)),
        predictions.precondition(net, schedule=FLOW),
    ],
    "others": [
        objectives.edm(),
        samplers.EulerMaruyama(),
        times.AdaptiveTimes(times.Uniform(), moments=times.LossMoments(Z, Z)),
        weightings.LogSNR(lambda logsnr: logsnr),
    ],
}


@pytest.mark.parametrize("group", VALUES)
def test_repr_is_one_line(group):
    for value in VALUES[group]:
        assert "\n" not in repr(value) and len(repr(value)) < 500
