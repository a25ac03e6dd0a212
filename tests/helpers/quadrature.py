"""Means over data, noise and a clock by quadrature, in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import analytic


def in_float64(measure):
    """Runs a measurement with x64 on and gives Python numbers back."""

    def measured():
        with jax.enable_x64(True):
            return {name: float(value) for name, value in measure().items()}

    return measured


def legendre(low, high, count):
    """Nodes and weights of the integral over [low, high]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def hermite(count):
    """Nodes and weights of the mean over N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


class Expectation:
    """The mean over x, eps and the integral over a clock, as one weighted batch.

    x ~ sum_k p_k N(m_k, v_k) in one dimension, eps ~ N(0, 1), both by Gauss-Hermite
    quadrature; the clock by the nodes and weights that are given.
    """

    def __init__(self, data, clock, count):
        probability, mean, variance = (np.asarray(part) for part in data)
        nodes, mass = hermite(count)
        x = mean[:, None] + np.sqrt(variance)[:, None] * nodes
        x_mass = probability[:, None] * mass
        x, x_mass, (clock, clock_mass) = x.ravel(), x_mass.ravel(), clock
        grid = np.meshgrid(clock, x, nodes, indexing="ij")
        self.clock, self.x, self.eps = (axis.ravel() for axis in grid)
        self.x, self.eps = self.x[:, None], self.eps[:, None]
        weights = clock_mass[:, None, None] * x_mass[:, None] * mass
        self.weights = weights.ravel()

    def mean(self, loss):
        return jnp.sum(loss * self.weights)


# Overlapping components: the exact field is smooth, and quadrature converges fast.
MIXTURE = ((0.4, 0.6), (-1.0, 0.8), (0.36, 0.64))
NARROW = ((1.0,), (0.0,), (0.25,))  # N(0, 1/4), the data of the article's witness


def oracle(data, schedule):
    weights, means, variances = (np.asarray(part) for part in data)
    return analytic.Mixture(weights, means[:, None], variances[:, None]).denoise_fn(
        schedule=schedule
    )
