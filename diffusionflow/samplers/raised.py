"""Common code of samplers that add noise to z and then take a step of an ODE solver."""

from typing import Any

from jax import Array

from diffusionflow.predictions import DenoiseFn

Row = dict[str, Array]


class RaisedSteps:
    """Base class; a solver whose state is z takes the steps.

    Columns of a row: those of the solver's step, and `raise_z` and `raise_noise`, the
    factors of z and of the noise before it.
    """

    num_noises = 1

    @property
    def _solver(self) -> Any:
        """The sampler that takes the steps."""
        raise NotImplementedError(f"{type(self).__name__} must define _solver")

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        z = row["raise_z"] * z + row["raise_noise"] * noise[0]
        return self._solver.step(z, row, noise, denoise_fn)

    def output(self, z: Array) -> Array:
        return z
