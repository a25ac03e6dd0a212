"""Monte Carlo estimates of variational bounds: their times, noise and averages."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions, random
from diffusionflow._dataclass import check_batch_ndim, check_count, check_name
from diffusionflow._numeric import in_float64
from diffusionflow.likelihood import priors
from diffusionflow.likelihood.quantized import QuantizedLevels, gaussian_nats
from diffusionflow.likelihood.summary import standard_error
from diffusionflow.schedules import Schedule
from diffusionflow.times import Stratified


class Bound(NamedTuple):
    """Terms of a variational bound (VLB), nats per example, `[*batch]` each.

    Their sum is above `-log p(x)` in expectation.

    Fields:
      recon: `E[-log p(x | z_0)]`: of a density for continuous data (then it may be
        negative), of a probability for levels.
      diffusion: the term that depends on the network.
      prior: `KL(q(z_1 | x) || p(z_1))`.
      total: their sum.
      stderr: standard error of `total` across the draws; NaN for one draw.
    """

    recon: Array
    diffusion: Array
    prior: Array
    total: Array
    stderr: Array


class BoundEstimator:
    """Estimates a variational bound: its times, its noise and its averages."""

    def __init__(
        self,
        key: Array | None,
        x: Array,
        batch_ndim: int,
        num_draws: int,
        num_times: int | None,
        noise: Any,
        levels: QuantizedLevels | None,
        prior: str,
    ) -> None:
        check_count("num_draws", num_draws)
        if num_times is not None:
            check_count("num_times", num_times)
        if key is None and noise is None:
            raise ValueError(
                "key=None: must be a random key, as a bound draws noise; pass one such "
                "as jax.random.key(0)"
            )
        check_name("prior", prior, priors.PRIORS)
        self.levels, self.prior = levels, prior
        self.x, self.batch_ndim = predictions.as_data(x, "x"), batch_ndim
        check_batch_ndim(batch_ndim, self.x.ndim)
        self.batch = self.x.shape[:batch_ndim]
        self.dim = math.prod(self.x.shape[batch_ndim:])
        self.num_draws, self.num_times = num_draws, num_times
        if levels is not None:
            levels.numbers(self.x)  # refused here, where the values are concrete
        self.source: Any = random.Independent() if noise is None else noise
        keys: Any = (None,) * 3 if key is None else random.split(key, 3)
        self.time_key, self.noise_key, self.recon_key = keys

    def uniform(self, density: Any, schedule: Schedule) -> Array:
        """Samples times `[num_draws, num_times, *batch]`, stratified per example."""
        if self.time_key is None:
            raise ValueError(
                "key=None: must be a random key, as times are sampled; pass one such "
                "as jax.random.key(0)"
            )

        shape: Any = (self.num_times,)

        def times(key: Array) -> Array:
            return Stratified(density).sample(key, shape, schedule=schedule)

        draws = [random.fold_in(self.time_key, i) for i in range(self.num_draws)]
        keys = jnp.stack(draws)
        if not self.time_key.ndim:
            keys = jax.vmap(lambda key: jax.random.split(key, self.batch))(keys)
        t = jax.vmap(times)(keys.reshape(-1)).reshape(*keys.shape, self.num_times)
        return jnp.moveaxis(t, -1, 1).astype(self.x.dtype)

    def bound(
        self,
        term_fn: Callable[[Any, Array], Array],
        places: Array,
        schedule: Schedule,
        ends: tuple[ArrayLike, ArrayLike],
    ) -> Bound:
        """Averages `term_fn(place, eps)` over the times of each draw; adds other terms.

        Args:
          term_fn: an unbiased estimate of the diffusion term, `[*batch]`.
          places: what it is called with, `[num_draws, num_times, *batch]`.
          schedule: any.
          ends: times of the least and of the most noise.
        """

        def one(numbered: tuple[Array, Array]) -> Array:
            number, place = numbered
            eps = self.source.draw(self.noise_key, number, 1, self.x)[0]
            return term_fn(place, eps)

        flat = places.reshape(-1, *self.batch)
        random.check_steps(self.source, flat.shape[0])
        terms = jax.lax.map(one, (jnp.arange(flat.shape[0]), flat))
        terms = terms.reshape(places.shape[:2] + self.batch)
        diffusion = jnp.mean(terms, axis=1)
        recon = self._recon(schedule, ends[0])
        stderr = standard_error(recon + diffusion)
        recon, diffusion = jnp.mean(recon, axis=0), jnp.mean(diffusion, axis=0)
        kl = priors.divergence(self.prior, self.x, schedule, ends[1], self.batch_ndim)
        return Bound(recon, diffusion, kl, recon + diffusion + kl, stderr)

    def _recon(self, schedule: Schedule, t: ArrayLike) -> Array:
        """Computes the reconstruction term, `[num_draws, *batch]`."""
        logsnr = in_float64(lambda schedule, t: schedule.logsnr(t), schedule, t)
        levels = self.levels
        if levels is None:
            nats = jnp.asarray(in_float64(gaussian_nats, logsnr, self.dim))
            shape = (self.num_draws, *self.batch)
            return jnp.broadcast_to(nats.astype(self.x.dtype), shape)

        def one(number: Array) -> Array:
            eps = self.source.draw(self.recon_key, number, 1, self.x)[0]
            return levels.nats(self.x, eps, logsnr, self.batch_ndim)

        return jax.lax.map(one, jnp.arange(self.num_draws))
