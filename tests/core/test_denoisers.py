"""Everything that a user may hand over as a denoiser, in everything that takes one."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusionflow
from diffusionflow import grids, guidance, likelihood, predictions, samplers, schedules
from tests.helpers.denoisers import (
    ENTRIES,
    FLOW,
    Z,
    check_entries,
    network,
    records_calls,
)
from tests.helpers.parametrize import in_turn

COSINE = schedules.Cosine(-5.0, 5.0)
KNOWN, MASK = np.float32([0.25, 0.0]), np.array([True, False])


class Holder:
    """What a user's own class may look like."""

    def __init__(self, denoise_fn):
        self.denoise_fn = denoise_fn

    def __call__(self, z, t):
        return self.denoise_fn(z, t)


def called_before(fn):
    """`fn`, traced for the shapes that it is going to be called with."""
    for z in (Z, Z[0]):
        jax.block_until_ready(fn(z, jnp.float32(0.5)))
    return fn


def guided(positive, negative=None):
    negative = positive if negative is None else negative
    return guidance.classifier_free(positive, negative, scale=1.5)


def limited(fn):
    return guidance.limited(
        guided(fn), schedule=fn.schedule, logsnr_min=-1.0, logsnr_max=1.0
    )


def mixture(fn):
    def mixed(z, t):
        both = fn(z, t), fn(z, t)
        return jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, *both)

    return mixed


def chosen(fn):
    """Of two denoisers, the one for the time."""
    return lambda z, t: jax.lax.cond(t > 0.5, fn, lambda z, t: fn(z, t), z, t)


around = lambda fn: lambda z, t: fn(z, t)


class Case(NamedTuple):
    """A way to hand over a denoiser.

    Fields:
      wrap: of the denoiser.
      counted: whether the calls are known.
      varies: whether they depend on the time.
      known: whether it is known that the denoiser is called at the same z and t.
    """

    wrap: Callable
    counted: bool = True
    varies: bool = False
    known: bool = True


CASES = {
    "a denoiser": Case(lambda fn: fn),
    "jit": Case(jax.jit),
    "jit called before": Case(lambda fn: called_before(jax.jit(fn))),
    "lambda": Case(around),
    "lambda of lambda": Case(lambda fn: around(around(fn))),
    "lambda of jit": Case(lambda fn: around(jax.jit(fn))),
    "lambda of jit called before": Case(
        lambda fn: around(called_before(jax.jit(around(fn))))
    ),
    "functools.partial": Case(
        lambda fn: functools.partial(lambda fn, z, t: fn(z, t), fn)
    ),
    "tree_util.Partial": Case(
        lambda fn: jax.tree_util.Partial(lambda fn, z, t: fn(z, t), fn)
    ),
    "class": Case(Holder),
    "method": Case(lambda fn: Holder(fn).__call__),
    "guidance 1 deep": Case(guided),
    "guidance 2 deep": Case(lambda fn: guided(guided(fn), fn)),
    "guidance 3 deep": Case(lambda fn: guided(fn, guided(guided(fn), fn))),
    "guidance of wrapped ones": Case(
        lambda fn: guided(called_before(jax.jit(fn)), around(fn))
    ),
    "lambda of guidance": Case(lambda fn: around(guided(fn))),
    "lambda of guidance of wrapped ones": Case(
        lambda fn: around(guided(around(fn), called_before(jax.jit(fn))))
    ),
    "guidance in an interval": Case(limited, varies=True),
    "jit of guidance in an interval": Case(
        lambda fn: called_before(jax.jit(limited(fn))), varies=True
    ),
    "mixture": Case(mixture, counted=False),
    "jit of a mixture": Case(lambda fn: jax.jit(mixture(fn)), counted=False),
    "guidance of a mixture": Case(lambda fn: guided(mixture(fn), fn), counted=False),
    "one for each time": Case(chosen, counted=False, known=False),
    "bare": Case(
        lambda fn: (
            lambda z, t: predictions.to_denoised(
                fn.predict_fn(z, t), kind=fn.kind, z=z, t=t, schedule=fn.schedule
            )
        ),
        counted=False,
        known=False,
    ),
}
every = pytest.mark.parametrize("name", CASES)
KNOWN_CASES = [name for name, case in CASES.items() if case.known]
every_known = pytest.mark.parametrize("name", KNOWN_CASES)


@pytest.mark.ci
@in_turn(name=tuple(CASES), entry=ENTRIES)
def test_calls_are_counted_right_or_not_at_all(name, entry):
    case = CASES[name]
    with records_calls() as (fn, calls):
        settings = dict(counted=case.counted, varies=case.varies)
        check_entries(case.wrap(fn), calls, entries=[entry], **settings)


@pytest.mark.parametrize(
    "name",
    [
        "jit called before",
        pytest.param("lambda of guidance of wrapped ones", marks=pytest.mark.slow),
        "guidance in an interval",
        pytest.param("mixture", marks=pytest.mark.slow),
    ],
)
def test_every_entry_counts_right_or_not_at_all(name):
    case = CASES[name]
    with records_calls() as (fn, calls):
        settings = dict(counted=case.counted, varies=case.varies)
        check_entries(case.wrap(fn), calls, **settings)


@pytest.mark.ci
def test_calls_that_are_given_are_taken():
    with records_calls() as (fn, calls):
        bare = predictions.as_denoiser(CASES["bare"].wrap(fn), num_network_calls=1)
        check_entries(bare, calls, counted=True)


def entries(fn, schedule):
    """Everything that checks what it is given, at a time of pure noise."""
    settings = dict(schedule=schedule)
    times = grids.uniform(2)
    return {
        "sample": lambda: samplers.sample(
            None, fn, Z, times, sampler=samplers.Euler("x"), **settings
        ),
        "invert": lambda: samplers.invert(
            fn, Z, times[::-1], sampler=samplers.Heun("v"), **settings
        ),
        "solve": lambda: samplers.solve(fn, Z, 1.0, 0.0, **settings),
        "encode": lambda: likelihood.encode(
            None, fn, Z, solver=likelihood.Fixed(1), **settings
        ),
    }


@every_known
def test_a_network_that_is_singular_at_t_1_is_refused(name):
    fn = CASES[name].wrap(network("eps"))
    for refused in entries(fn, FLOW).values():
        with pytest.raises(ValueError, match=r"eps does not determine.* at t=1\.0"):
            refused()
    found = predictions.as_denoiser(fn, like=Z)
    found.check_times(np.array([0.5, 0.9]))
    for call in (lambda: found(Z, 1.0), lambda: found.check_times(np.array([0.5, 1]))):
        with pytest.raises(ValueError, match=r"eps does not determine.* at t=1\.0"):
            call()


@every
def test_times_are_checked(name):
    found = predictions.as_denoiser(CASES[name].wrap(network("u")), like=Z)
    assert np.isfinite(found(Z, 0.5).x).all()
    for t in (1.5, -0.5, np.float32(2.0)):
        with pytest.raises(ValueError, match=r"t=.*must be in \[0, 1\]"):
            found(Z, t)
    with pytest.raises(ValueError, match="t of dtype int.*level i of T is t = i / T"):
        found(Z, 1)
    traced = jax.jit(lambda t: found(Z, t).x)
    assert np.isnan(traced(1.5)).all() and np.isfinite(traced(0.5)).all()


@pytest.mark.ci
@in_turn(
    name=tuple(name for name in CASES if name != "bare"),
    entry=("one call", "two calls", "solve"),
)
def test_what_is_known_is_put_into_the_samples(name, entry):
    plain = network("u")
    fn = CASES[name].wrap(guidance.inpaint(plain, KNOWN, MASK, schedule=FLOW))
    settings = dict(schedule=FLOW)
    if entry == "solve":
        result = samplers.solve(fn, Z, 1.0, 0.0, **settings)
    else:
        sampler = samplers.ddpm() if entry == "one call" else samplers.Heun("u")
        result = samplers.sample(
            jax.random.key(0), fn, Z, grids.uniform(2), sampler=sampler, **settings
        )
    np.testing.assert_array_equal(result.x[:, 0], KNOWN[0])
    assert (result.x[:, 1] != KNOWN[1]).all()


@every_known
def test_another_schedule_than_the_denoisers_is_refused(name):
    fn = CASES[name].wrap(network("u"))
    for refused in entries(fn, COSINE).values():
        with pytest.raises(ValueError, match="denoise_fn belongs to.*reschedule"):
            refused()


@in_turn(name=KNOWN_CASES, entry=("sample", "invert", "solve", "encode"))
def test_a_schedule_that_is_traced_passes(name, entry):
    fn = CASES[name].wrap(network("u", COSINE))
    traced = lambda end: entries(fn, schedules.Cosine(-5.0, end))[entry]().x
    assert jax.eval_shape(traced, 5.0).shape == Z.shape


def test_a_constraint_is_enforced_once():
    """Two denoisers that share one, or a function that calls it twice."""

    @diffusionflow.register
    class Added(predictions.Denoiser):
        inner: predictions.Denoiser

        def denoise(self, z, t):
            return self.inner(z, t)

        def finalize(self, x):
            return x + 100

    added = Added(network("u"))
    flipped = lambda z, t: jax.tree.map(
        lambda a, b: (a + b) / 2, added(z, t), added(z[:, ::-1], t)
    )
    for fn in (guided(added), guided(around(added)), flipped):
        found = predictions.as_denoiser(fn, like=Z)
        np.testing.assert_array_equal(found.finalize(Z), Z + 100)


def test_a_constraint_of_another_shape_is_not_put_into_the_samples():
    low = guidance.inpaint(network("u"), 7.0, np.array([True]), schedule=FLOW)

    def fn(z, t):
        coarse = low(z[:, :1], t)
        return predictions.Denoised(*(jnp.tile(part, 2) for part in coarse))

    found = predictions.as_denoiser(fn, like=Z)
    np.testing.assert_array_equal(found.finalize(Z), Z)


def test_all_parts_belong_to_the_schedule():
    flow, cosine = network("u"), network("u", COSINE)
    bare = lambda z, t: predictions.Denoised(z, z)
    for fn in (
        guided(flow, cosine),
        guidance.static_threshold(bare, schedule=COSINE, low=-1.0, high=1.0),
    ):
        with pytest.raises(ValueError, match="reschedule"):
            samplers.sample(
                None, fn, Z, grids.uniform(2), sampler=samplers.Euler(), schedule=FLOW
            )


def test_denoisers_in_a_tuple_are_parts():
    @diffusionflow.register
    class Ensemble(predictions.Denoiser):
        members: tuple

        def denoise(self, z, t):
            every = [member(z, t) for member in self.members]
            return jax.tree.map(lambda *parts: sum(parts) / len(parts), *every)

    with pytest.raises(ValueError, match="does not determine"):
        Ensemble((network("u"), network("eps")))(Z, 1.0)


def test_a_step_of_several_evaluations_needs_a_column():
    """Some of them may be skipped, so without a column NFE are not known."""

    class Twice(samplers.Euler):
        def plan(self, t, s, schedule):
            return samplers.Euler.plan(samplers.Euler("u"), t, s, schedule)

        def step(self, z, row, noise, denoise_fn):
            denoise_fn(z, row["t"])
            return super().step(z, row, noise, denoise_fn)

    result = samplers.sample(
        None, network("u"), Z, grids.uniform(3), sampler=Twice("u"), schedule=FLOW
    )
    assert result.nfe is None


def test_counts_that_are_given_are_checked():
    bare = lambda z, t: predictions.Denoised(z, z)
    with pytest.raises(ValueError, match="num_network_calls=0.*at least 1"):
        predictions.as_denoiser(bare, num_network_calls=0)
    with pytest.raises(ValueError, match="num_network_calls=7.*override"):
        predictions.as_denoiser(network("u"), num_network_calls=7)
