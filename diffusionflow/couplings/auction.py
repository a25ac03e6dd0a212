"""Nearly optimal assignment on the device, by an auction."""

import jax
import jax.numpy as jnp
from jax import Array

TOGETHER = 16  # rows that bid in a round: few, as late rounds have few free rows
LEAST_STEP = 0.1


def nearly_optimal(value: Array) -> Array:
    """Finds a permutation whose `sum value[i, p(i)]` is nearly the largest.

    Free rows bid for the column that they gain most by at its price, up to their second
    choice and a step above; the highest bid takes the column, and its owner is free
    again. The sum is less than a step per row from the largest, and every round raises
    a price by a step, so that it ends. The step is 0.1, or 1/1000 of the range of the
    values if that is more.

    Args:
      value: `[n, n]`, -inf where a row may not have a column: blocks of labels, that
        is, so that there is a permutation.

    Returns:
      int32 `[n]`, the column of each row.

    Source: Bertsekas 1988, Ann. Oper. Res. 14, the auction algorithm.
    """
    n = len(value)
    number = jnp.arange(n, dtype=jnp.int32)
    finite = jnp.isfinite(value)
    highest, lowest = (
        jnp.max(jnp.where(finite, sign * value, -jnp.inf)) * sign for sign in (1, -1)
    )
    step = jnp.maximum(LEAST_STEP, (highest - lowest) / 1000)

    def bid(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        price, owner, free = state
        _, rows = jax.lax.top_k(free.astype(jnp.int32), min(TOGETHER, n))
        gain = value[rows] - price[None, :]
        choice = _argmax(gain, axis=1)[:, None] == number[None, :]
        best = jnp.max(gain, axis=1)
        second = jnp.max(jnp.where(choice, -jnp.inf, gain), axis=1)
        more = step + jnp.where(jnp.isfinite(second), best - second, 0)
        bids = choice & free[rows][:, None]
        offers = jnp.where(bids, price[None, :] + more[:, None], -jnp.inf)
        offer = jnp.max(offers, axis=0)
        sold = offer > -jnp.inf
        buyer = rows[_argmax(offers, axis=0)].astype(jnp.int32)
        free = _set(free, sold & (owner >= 0), owner, True)
        free = _set(free, sold, buyer, False)
        return jnp.where(sold, offer, price), jnp.where(sold, buyer, owner), free

    # made of `value`, so that it varies over devices as `value` does
    zero = jnp.zeros_like(value[0])
    start = zero, jnp.full_like(zero, -1, jnp.int32), zero == 0
    _, owner, _ = jax.lax.while_loop(lambda state: state[2].any(), bid, start)
    return jnp.zeros_like(owner).at[owner].set(number)


def _argmax(value: Array, axis: int) -> Array:
    return jnp.argmax(value, axis=axis).astype(jnp.int32)


def _set(values: Array, where: Array, place: Array, to: bool) -> Array:
    """Sets `values` to `to` at the places of those entries that `where` chooses."""
    return values.at[jnp.where(where, place, len(values))].set(to, mode="drop")
