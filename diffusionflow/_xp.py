"""Array functions that are NumPy's on concrete numbers and JAX's on `jax.Array`s.

The rule of the library about where a number is computed: a function all of whose
arguments are Python numbers and NumPy arrays is NumPy's, in float64, and compiles
nothing; one with a `jax.Array` among its arguments, traced or not, is that of
`jax.numpy`. Formulas are written once, with this module in place of `jnp`:

    from diffusionflow import _xp as xp

    xp.log(alpha) - xp.log(sigma)

In annotations both results are `Array`, `jax.Array`: NumPy's arrays and numbers of
float64 have what the library uses of it.

Results may be infinite by design, so NumPy's warnings about that are off in here; for
the operators of a whole function `quiet` turns them off.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy import special as jax_special

inf, nan, pi = np.inf, np.nan, np.pi

# as a decorator: no warnings about infinite and undefined results
quiet = np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore")


def on_host(*values: Any) -> bool:
    """Returns whether no leaf of `values` is a `jax.Array`."""
    for value in values:
        if isinstance(value, (float, int, np.ndarray, np.generic)):
            continue
        if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
            return False
    return True


def _either(
    host: Callable[..., Any], device: Callable[..., Any]
) -> Callable[..., Array]:
    host = quiet(host)

    def fn(*args: Any, **kwargs: Any) -> Any:
        return (host if on_host(*args) else device)(*args, **kwargs)

    return fn


def _shared(name: str) -> Callable[..., Array]:
    return _either(getattr(np, name), getattr(jnp, name))


abs = _shared("abs")
arctan = _shared("arctan")
arctan2 = _shared("arctan2")
asarray = _shared("asarray")
broadcast_to = _shared("broadcast_to")
clip = _shared("clip")
concatenate = _shared("concatenate")
cos = _shared("cos")
cumsum = _shared("cumsum")
diff = _shared("diff")
exp = _shared("exp")
expm1 = _shared("expm1")
floor = _shared("floor")
full_like = _shared("full_like")
hypot = _shared("hypot")
isfinite = _shared("isfinite")
isinf = _shared("isinf")
isnan = _shared("isnan")
linspace = _shared("linspace")
log = _shared("log")
log1p = _shared("log1p")
log2 = _shared("log2")
logaddexp = _shared("logaddexp")
maximum = _shared("maximum")
minimum = _shared("minimum")
ones_like = _shared("ones_like")
round = _shared("round")
searchsorted = _shared("searchsorted")
sign = _shared("sign")
sin = _shared("sin")
sqrt = _shared("sqrt")
stack = _shared("stack")
sum = _shared("sum")
take = _shared("take")
tensordot = _either(
    np.tensordot,
    functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST),
)
vander = _shared("vander")
where = _shared("where")
zeros_like = _shared("zeros_like")


def _scipy(name: str) -> Callable[..., Any]:
    """Returns a function of `scipy.special`, which takes long to import."""

    def fn(*args: Any, **kwargs: Any) -> Any:
        from scipy import special  # comes with jax

        return getattr(special, name)(*args, **kwargs)

    return fn


log_sigmoid = _either(_scipy("log_expit"), jax.nn.log_sigmoid)
logit = _either(_scipy("logit"), jax_special.logit)
ndtr = _either(_scipy("ndtr"), jax_special.ndtr)
ndtri = _either(_scipy("ndtri"), jax_special.ndtri)
sigmoid = _either(_scipy("expit"), jax.nn.sigmoid)
softmax = _either(_scipy("softmax"), jax.nn.softmax)
softplus = _either(lambda x: np.logaddexp(0.0, x), jax.nn.softplus)
stop_gradient = _either(lambda x: x, jax.lax.stop_gradient)


def _reversed_maximum(x: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(x[::-1])[::-1]


reversed_cummax = _either(
    _reversed_maximum, functools.partial(jax.lax.cummax, reverse=True)
)


def normal_pdf(x: Any, mean: Any, std: Any) -> Array:
    """Computes the density of `N(mean, std^2)` at `x`."""
    return exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * pi))


def repeat(body: Callable[[Any], Any], count: int, state: Any) -> Any:
    """Applies `body` `count` times: by a Python loop, or one `fori_loop`."""
    if not on_host(state):
        return jax.lax.fori_loop(0, count, lambda _, state: body(state), state)
    for _ in range(count):
        state = body(state)
    return state
