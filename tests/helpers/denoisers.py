"""A network that counts its calls, and every entry of the library that makes them."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import grids, likelihood, predictions, samplers, schedules

FLOW = schedules.FlowMatching()
Z = jnp.array([[0.4, -1.1]], jnp.float32)  # one example: its calls are all calls


def network(kind, schedule=FLOW):
    return predictions.denoiser(lambda z, t: jnp.sin(z), kind=kind, schedule=schedule)


@contextlib.contextmanager
def records_calls(net=jnp.sin):
    """A denoiser of `net`, and the list of the calls that are really made."""
    calls = []

    def predict_fn(z, t):
        jax.debug.callback(lambda z: calls.append(None), z)
        return net(z)

    yield predictions.denoiser(predict_fn, kind="u", schedule=FLOW), calls


ENTRIES = ("sample", "sample, two calls", "run", "invert", "solve", "encode")


def check_entries(fn, calls, *, counted, varies=False, entries=ENTRIES):
    """The `nfe` of what calls a denoiser is the number of `calls` or None.

    Args:
      fn: what is handed over as a denoiser.
      calls: list that its network appends to.
      counted: whether None is wrong.
      varies: whether the calls depend on the time, which solvers do not look at.
      entries: of `ENTRIES`.
    """
    for name in entries:
        run = runs(fn)[name]
        jax.effects_barrier()
        calls.clear()
        nfe = jax.block_until_ready(run()).nfe
        jax.effects_barrier()
        assert calls, name
        if nfe is None:
            assert not counted or (varies and name in ("solve", "encode")), name
        else:
            assert np.sum(nfe) == len(calls), (name, nfe, len(calls))


def runs(fn):
    """Everything that calls a denoiser and counts: `{name: () -> result}`.

    One-call and two-call samplers, with noise and without.
    """
    key, times, settings = jax.random.key(0), grids.uniform(3), dict(schedule=FLOW)
    rows = samplers.plan(samplers.ddpm(), times, **settings)
    sample = lambda sampler: samplers.sample(
        key, fn, Z, grids.uniform(3, t_min=0.1), sampler=sampler, **settings
    )
    return {
        "sample": lambda: sample(samplers.Euler("x")),
        "sample, two calls": lambda: sample(samplers.StochasticHeun()),
        "run": lambda: samplers.run(key, fn, Z, rows, sampler=samplers.ddpm()),
        "invert": lambda: samplers.invert(
            fn, Z, times[::-1], sampler=samplers.Heun("u"), **settings
        ),
        "solve": lambda: samplers.solve(fn, Z, 1.0, 0.0, rtol=1e-2, **settings),
        "encode": lambda: likelihood.encode(
            None, fn, Z, solver=likelihood.Fixed(2), **settings
        ),
    }
