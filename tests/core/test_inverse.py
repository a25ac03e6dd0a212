"""Inverse problems: operators, exact posteriors, and denoisers of the posterior."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, grids, guidance, inverse, samplers, schedules
from diffusionflow.inverse import operators

FLOW, COSINE = schedules.FlowMatching(), schedules.Cosine()
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(2, 3))
Y = np.array([0.7, -0.4])
MEAN, VARIANCES = np.array([0.5, -1.0, 0.2]), np.array([0.4, 1.3, 0.1])
Z = RNG.normal(size=(4, 3)) * 1.3

AT = jax.jit(lambda denoise_fn, z, t: denoise_fn(z, t))


def problem(std=0.3, y=Y):
    return inverse.Measurement(inverse.multiplication(MATRIX, (3,)), y, std)


IMAGE = (4, 6, 2)
OPERATORS = {
    "mask": lambda: inverse.masking(np.arange(48).reshape(IMAGE) % 3 > 0),
    "blur": lambda: inverse.blurring(np.array([[1.0, 2.0, 0.5], [0, 3, 1]]), IMAGE),
    "average": lambda: inverse.averaging(2, IMAGE),
    "matrix": lambda: inverse.multiplication(
        np.random.default_rng(1).normal(size=(5, 48)), IMAGE
    ),
    "own": lambda: inverse.linear(
        lambda x: jnp.diff(x, axis=0),
        IMAGE,
        transpose_fn=lambda y: -jnp.diff(jnp.pad(y, ((1, 1), (0, 0), (0, 0))), axis=0),
    ),
}


def by_definition(name, x):
    """One image, in NumPy."""
    if name == "mask":
        return np.where(np.arange(48).reshape(IMAGE) % 3 > 0, x, 0)
    if name == "average":
        return x.reshape(2, 2, 3, 2, 2).mean(axis=(1, 3))
    if name == "matrix":
        return np.random.default_rng(1).normal(size=(5, 48)) @ x.ravel()
    if name == "own":
        return x[1:] - x[:-1]
    kernel, out = np.array([[1.0, 2.0, 0.5], [0, 3, 1]]), np.zeros(IMAGE)
    for i, j, k, m in np.ndindex(4, 6, 2, 3):  # y_ij = sum_km kernel_km x_(i-k, j+1-m)
        if 0 <= i - k < 4 and 0 <= j + 1 - m < 6:
            out[i, j] += kernel[k, m] * x[i - k, j + 1 - m]
    return out


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_their_transposes(name):
    operator, rng = OPERATORS[name](), np.random.default_rng(2)
    x = rng.normal(size=(2, *IMAGE)).astype(np.float32)
    y = jax.jit(lambda x: operator(x))(x)
    expected = np.stack([by_definition(name, image) for image in x])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    other = rng.normal(size=y.shape).astype(np.float32)
    back = jax.jit(operator.transpose)(jnp.asarray(other))
    np.testing.assert_allclose(np.sum(y * other), np.sum(x * back), rtol=1e-3)
    matrix = jax.jit(operator.matrix)()
    np.testing.assert_allclose(matrix @ x[0].ravel(), y[0].ravel(), atol=1e-4)


def test_conjugate_gradients_are_exact_and_do_not_mix_examples():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 4, 4))
    matrices = root @ root.swapaxes(1, 2) + 0.5 * np.eye(4)
    y = rng.normal(size=(3, 4))
    y[1] = 0
    with jax.enable_x64(True):
        matvec = lambda v: jnp.einsum("bij,bj->bi", matrices, v)
        x = jax.jit(lambda y: operators.solve(matvec, y, 1, 4))(y)
    expected = np.linalg.solve(matrices, y[..., None])[..., 0]
    np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-12)


PLANE = analytic.Mixture(
    np.array([0.3, 0.7]), np.array([[1.0, -0.5], [-0.8, 0.6]]), np.array([[0.3, 0.1]])
)
LINE = inverse.Measurement(
    inverse.multiplication(np.array([[1.0, 0.6]]), (2,)), np.array([0.2]), 0.4
)


@functools.cache
def quadrature():
    """Points of a fine grid, and the posterior density of `PLANE` there."""
    side = np.linspace(-5, 5, 501)
    points = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    variance = np.array([0.3, 0.1])
    offsets = points[:, None] - PLANE.means
    prior = np.exp(-(offsets**2 / variance).sum(-1) / 2) @ PLANE.weights
    misfit = 0.2 - points @ np.array([1.0, 0.6])
    density = prior * np.exp(-(misfit**2) / (2 * 0.4**2))
    return points, density / density.sum()


def test_the_exact_posterior_is_that_of_quadrature():
    law, (points, density) = inverse.posterior(PLANE, LINE), quadrature()
    mean = density @ points
    covariance = ((points - mean).T * density) @ (points - mean)
    np.testing.assert_allclose(law.mean(), mean, atol=1e-6)
    np.testing.assert_allclose(law.covariance(), covariance, atol=1e-6)
    sampled = np.asarray(law.sample(jax.random.key(0), (20_000,)), float)
    np.testing.assert_allclose(sampled.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(sampled.T), covariance, atol=0.03)


def test_the_exact_posterior_denoiser_is_that_of_quadrature():
    (points, density), z, t = quadrature(), np.array([[0.3, -0.2], [1.5, 0.4]]), 0.6
    denoised = inverse.posterior(PLANE, LINE).denoise_fn(schedule=FLOW)
    denoised = AT(denoised, z, t)
    for i in range(2):
        weight = density * np.exp(-((z[i] - 0.4 * points) ** 2).sum(1) / (2 * 0.36))
        x = weight @ points / weight.sum()
        np.testing.assert_allclose(denoised.x[i], x, atol=1e-4)
        np.testing.assert_allclose(denoised.eps[i], (z[i] - 0.4 * x) / 0.6, atol=1e-4)


@pytest.mark.pinned
@pytest.mark.parametrize("schedule", [FLOW, COSINE, schedules.VE(0.1, 30.0)], ids=str)
def test_mmps_is_exact_for_gaussians(schedule):
    """With as many conjugate gradients as measurements; so is PiGDM for N(m, v I)."""
    with jax.enable_x64(True):
        for variances, make in (
            (VARIANCES, functools.partial(inverse.mmps, num_iterations=2)),
            (0.7, functools.partial(inverse.pigdm, data_variance=0.7)),
        ):
            data = analytic.gaussian(MEAN, np.full(3, 1.0) * variances)
            settings = dict(schedule=schedule)
            ours = make(data.denoise_fn(**settings), problem(), **settings)
            law = inverse.posterior(data, problem())
            exact = law.denoise_fn(**settings)
            for t in (0.02, 0.5, 0.99):
                z = Z * float(schedule.sigma(t)) + float(schedule.alpha(t))
                for a, b in zip(AT(ours, z, t), AT(exact, z, t), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_dps_of_gaussians_by_hand():
    """And overconfident by `A C A^T`, which goes to 0 with sigma."""
    data = analytic.gaussian(MEAN, VARIANCES)
    denoise_fn = data.denoise_fn(schedule=FLOW)
    ours = inverse.dps(denoise_fn, problem(), schedule=FLOW, scale=0.8)
    t = 0.3
    total = 0.7**2 * VARIANCES + t**2
    x = MEAN + 0.7 * VARIANCES * (Z - 0.7 * MEAN) / total
    gradient = 0.8 * (0.7 * VARIANCES / total) * ((Y - x @ MATRIX.T) @ MATRIX) / 0.09
    denoised = AT(ours, Z, t)
    np.testing.assert_allclose(denoised.x, x + t**2 / 0.7 * gradient, rtol=1e-4)
    np.testing.assert_allclose(0.7 * denoised.x + t * denoised.eps, Z, atol=1e-4)
    exact = inverse.posterior(data, problem()).denoise_fn(schedule=FLOW)
    full = inverse.dps(denoise_fn, problem(), schedule=FLOW)
    gap = lambda t: np.abs(AT(full, Z, t).eps - AT(exact, Z, t).eps).max()
    assert gap(0.02) / gap(0.04) < 0.2  # eps differs by sigma^3


def test_proximal_is_the_minimum():
    """Also at both ends, where it is the prediction and the nearest exact fit."""
    data = analytic.gaussian(MEAN, VARIANCES).denoise_fn(schedule=FLOW)
    ours = inverse.proximal(data, problem(), schedule=FLOW, weight=2.0)
    for t in (0.0, 0.4, 1.0):
        x = np.asarray(AT(data, Z, t).x, float)
        if t == 1:
            expected = x + (Y - x @ MATRIX.T) @ np.linalg.pinv(MATRIX).T
        else:
            weight = 2 * (1 - t) ** 2 / t**2 if t else np.inf
            left = MATRIX.T @ MATRIX / 0.09 + (weight if t else 0) * np.eye(3)
            right = Y @ MATRIX / 0.09 + (weight * x if t else 0)
            expected = np.linalg.solve(left, right.T).T if t else x
        np.testing.assert_allclose(AT(ours, Z, t).x, expected, rtol=1e-3, atol=1e-4)


def test_proximal_of_exact_pixels_is_inpainting():
    mask = np.array([True, False, True])
    data = analytic.gaussian(MEAN, VARIANCES).denoise_fn(schedule=FLOW)
    known = inverse.Measurement(inverse.masking(mask), np.array([0.3, 9.0, 2.0]), 0.0)
    ours = AT(inverse.proximal(data, known, schedule=FLOW), Z, 0.4)
    theirs = AT(guidance.inpaint(data, known.y, mask, schedule=FLOW), Z, 0.4)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.eps, theirs.eps, rtol=1e-4, atol=1e-4)


METHODS = {
    "dps": (inverse.dps, 2),
    "pigdm": (inverse.pigdm, 2),
    "mmps": (functools.partial(inverse.mmps, num_iterations=3), 5),
    "proximal": (inverse.proximal, 1),
}


@pytest.mark.parametrize("name", METHODS)
def test_without_information_the_posterior_is_the_prior(name):
    """With a huge std; every sampler takes them, under jit, and counts the calls."""
    make, calls = METHODS[name]
    data = analytic.Mixture(np.ones(2) / 2, np.stack([MEAN, -MEAN]), VARIANCES)
    prior = data.denoise_fn(schedule=FLOW)
    ours = make(prior, problem(std=1e6), schedule=FLOW)
    times, z = grids.uniform(4, t_max=0.99), Z.astype(np.float32)

    @jax.jit
    def draw(denoise_fn, z):
        sampler = samplers.Heun("u")
        return samplers.sample(
            None, denoise_fn, z, times, sampler=sampler, schedule=FLOW
        )

    np.testing.assert_allclose(draw(ours, z).x, draw(prior, z).x, rtol=1e-3, atol=1e-4)
    assert draw(ours, z).nfe == calls * draw(prior, z).nfe


def test_each_example_may_have_its_measurement():
    data = analytic.gaussian(MEAN, VARIANCES).denoise_fn(schedule=FLOW)
    y, t = RNG.normal(size=(4, 2)), np.array([0.2, 0.4, 0.6, 0.8])
    ours = AT(inverse.mmps(data, problem(y=y), schedule=FLOW), Z, t)
    for i in range(4):
        alone = inverse.mmps(data, problem(y=y[i]), schedule=FLOW)
        alone = AT(alone, Z[i], t[i])
        np.testing.assert_allclose(ours.x[i], alone.x, rtol=1e-3, atol=1e-4)


def test_refusals():
    data = analytic.gaussian(MEAN, VARIANCES).denoise_fn(schedule=FLOW)
    mmps = inverse.mmps(data, problem(), schedule=FLOW)
    for build, words in (
        (lambda: inverse.Measurement(problem().operator, Y, -1.0), "std=-1.0"),
        (
            lambda: inverse.dps(data, problem(0.0), schedule=FLOW),
            "std=0.0: must be pos",
        ),
        (lambda: inverse.pigdm(data, problem(), schedule=COSINE), "schedule"),
        (
            lambda: inverse.pigdm(data, problem(), schedule=FLOW, data_variance=0.0),
            "data_variance=0.0: must be positive",
        ),
        (
            lambda: inverse.mmps(data, problem(), schedule=FLOW, num_iterations=0),
            "num_iterations=0: must be at least 1",
        ),
        (
            lambda: inverse.proximal(data, problem(), schedule=FLOW, weight=0.0),
            "weight=0.0: must be positive",
        ),
        (lambda: mmps(Z, 1.0), "begin the grid below"),
        (
            lambda: inverse.mmps(data, problem(y=np.ones(3)), schedule=FLOW)(Z, 0.5),
            r"y of shape \(3,\) for A x of shape \(4, 2\)",
        ),
        (lambda: inverse.masking(np.ones(3)), "must be bool"),
        (lambda: inverse.averaging(4, (8, 6, 1)), r"factor=4: must divide .*\(8, 6\)"),
        (lambda: inverse.blurring(np.ones(3), (8, 6, 1)), "an axis for each of the s"),
        (lambda: inverse.multiplication(MATRIX, (4,)), r"must be \[outputs, 4\]"),
    ):
        with pytest.raises(ValueError, match=words):
            build()
