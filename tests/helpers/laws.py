"""Laws of stochastic samplers on Gaussian data: recursions in NumPy float64.

They are written from the formulas of the sources and from nothing of ours.
"""

import collections
import itertools
from typing import NamedTuple

import numpy as np


class Path(NamedTuple):
    """A grid on a schedule: `name` of the schedule, times and levels `[num_steps + 1]`.

    The names are those of `all_samplers.SCHEDULES`.
    """

    name: str
    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray

    def steps(self):
        """`(t, alpha, sigma)` at the start and at the end of each step."""
        rows = list(zip(self.t, self.alpha, self.sigma, strict=True))
        return itertools.pairwise(rows)


def slopes(name, t):
    """`(alpha', sigma')` of a schedule, from its closed form."""
    match name:
        case "flow":
            return -1.0, 1.0
        case "cosine":
            return -np.pi / 2 * np.sin(np.pi / 2 * t), np.pi / 2 * np.cos(np.pi / 2 * t)
        case "truncated":
            low, high = np.arctan(np.exp(-7.5)), np.arctan(np.exp(7.5))
            angle, turn = low + (high - low) * t, high - low
            return -turn * np.sin(angle), turn * np.cos(angle)
        case "linear_beta":
            rate, total = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
            alpha, sigma = np.exp(-total / 2), np.sqrt(-np.expm1(-total))
            return -rate / 2 * alpha, rate / 2 * alpha**2 / sigma
    raise ValueError(name)


def _kept(levels_t, levels_s, churn):
    (_, alpha_t, sigma_t), (_, alpha_s, sigma_s) = levels_t, levels_s
    return ((alpha_t * sigma_s) / (alpha_s * sigma_t)) ** (churn / (1 - churn))


def _recursion(path, variance, step):
    """Variance after each step, from `step(start, end) -> (factor, added variance)`."""
    del variance
    law = [float(path.sigma[0] ** 2)]
    for start, end in path.steps():
        factor, added = step(start, end)
        law.append(law[-1] * factor**2 + added)
    return np.array(law)


def _one_step(path, variance, kept_and_noise):
    """The law of `z_s = alpha_s x_hat + sigma_s k eps_hat + noise`."""

    def step(start, end):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        kept, noise = kept_and_noise(start, end)
        total = alpha**2 * variance + sigma**2
        factor = (alpha_s * alpha * variance + sigma_s * kept * sigma) / total
        return factor, noise

    return _recursion(path, variance, step)


def churn_law(path, churn, variance):
    """Variance after each step of the churn family on N(0, variance) data.

    Exact: the denoiser is linear, so each step multiplies the variance and adds that of
    its noise.
    """

    def step(start, end):
        kept = _kept(start, end, churn)
        return kept, end[2] ** 2 * (1 - kept**2)

    return _one_step(path, variance, step)


def overshoot_law(path, beyond, variance):
    """The same for DDIM to the levels `beyond`, `(alpha, sigma)`, and noise back."""
    ends = iter(zip(*beyond, strict=True))

    def step(start, end):
        alpha_r, sigma_r = next(ends)
        kept = sigma_r * end[1] / (alpha_r * end[2]) if end[2] > 0 else 0.0
        return kept, end[2] ** 2 * (1 - kept**2)

    return _one_step(path, variance, step)


def ddim_eta_law(path, eta, variance):
    """The same for DDIM with noise `eta sqrt(c) sigma_s`, `c = 1 - exp(-step)`."""

    def step(start, end):
        fresh = eta**2 * (1 - _kept(start, end, 0.5) ** 2)
        return np.sqrt(1 - fresh), end[2] ** 2 * fresh

    return _one_step(path, variance, step)


def ddim_scale_law(path, eta, variance):
    """The same for DDIM's factor of eps_hat, 1, and DDPM's, mixed by eta."""

    def step(start, end):
        kept = 1 - eta + eta * _kept(start, end, 0.5)
        return kept, end[2] ** 2 * (1 - kept**2)

    return _one_step(path, variance, step)


def refresh_law(path, norm, variance):
    """The same where `norm h sigma` of the noise is replaced before DDIM's step."""

    def step(start, end):
        kept = 1 - min(norm * (start[0] - end[0]) / start[2], 1)
        return kept, end[2] ** 2 * (1 - kept**2)

    return _one_step(path, variance, step)


def reverse_diffusion_law(path, variance):
    """The same for `z_s = (2 - a) z + b^2 score + b xi`, `a, b` of the step forward."""

    def step(start, end):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        if alpha == 0:
            return 0.0, sigma_s**2
        a = alpha / alpha_s
        b2 = sigma**2 - (a * sigma_s) ** 2
        factor = 2 - a - b2 / (alpha**2 * variance + sigma**2)
        return factor, b2 if sigma_s > 0 else 0.0

    return _recursion(path, variance, step)


def ddpm_forward_law(path, variance):
    """The same for the mean of DDPM and variance `sigma_t^2 - (a_t/a_s sigma_s)^2`."""

    def step(start, end):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        noise = sigma**2 - (alpha / alpha_s * sigma_s) ** 2
        return _kept(start, end, 0.5), noise if sigma_s > 0 else 0.0

    return _one_step(path, variance, step)


def edm_law(path, s_churn, variance, top, midpoint=False):
    """The same for EDM's stochastic Heun; `top` is the highest sigma / alpha.

    With `midpoint` for DPM-Solver-2 in its place.
    """
    count = len(path.t) - 1

    def step(start, end):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        if alpha == 0:
            return sigma_s / sigma, 0.0
        rho, rho_s = sigma / alpha, sigma_s / alpha_s
        raised = min(rho * (1 + min(s_churn / count, np.sqrt(2) - 1)), top)
        slope = lambda rho: rho / (variance + rho**2)
        euler = 1 + (rho_s - raised) * slope(raised)
        heun = 1 + (rho_s - raised) * (slope(raised) + slope(rho_s) * euler) / 2
        if midpoint:
            middle = np.sqrt(raised * rho_s)
            to_middle = 1 + (middle - raised) * slope(raised)
            heun = 1 + (rho_s - raised) * slope(middle) * to_middle
        factor = (heun if sigma_s > 0 else euler) * alpha_s
        return factor / alpha, (raised**2 - rho**2) * factor**2

    return _recursion(path, variance, step)


def ancestral(rho, rho_s, eta):
    """k-diffusion's `(sigma_down, sigma_up)`."""
    up = eta * rho_s * np.sqrt(1 - (rho_s / rho) ** 2)
    return np.sqrt(rho_s**2 - up**2), up


def first_or_last(start, end, eta, variance):
    """From alpha = 0 and to sigma = 0: one stage, `(factor, added variance)`."""
    (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
    if alpha == 0:
        return sigma_s * np.sqrt(1 - eta**2) / sigma, (sigma_s * eta) ** 2
    return alpha_s * alpha * variance / (alpha**2 * variance + sigma**2), 0.0


def ancestral_law(path, variable, eta, variance):
    """The same for a step of DPM-Solver-2 in y = z / alpha, then noise."""

    def step(start, end):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        if alpha == 0 or sigma_s == 0:
            return first_or_last(start, end, eta, variance)
        rho = sigma / alpha
        down, up = ancestral(rho, sigma_s / alpha_s, eta)
        middle = np.sqrt(rho * down)
        x = lambda y, rho: y * variance / (variance + rho**2)
        eps = lambda y, rho: y * rho / (variance + rho**2)
        if variable == "eps":
            y = 1 + (middle - rho) * eps(1, rho)
            y = 1 + (down - rho) * eps(y, middle)
        else:
            y = middle / rho + (1 - middle / rho) * x(1, rho)
            y = down / rho + (1 - down / rho) * x(y, middle)
        return y * alpha_s / alpha, (alpha_s * up) ** 2

    return _recursion(path, variance, step)


def sde_two_stages_law(path, eta, variance):
    """The same for DPM++ SDE with r = 1/2, whose two noises are independent."""

    def step(start, end):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        if alpha == 0 or sigma_s == 0:
            return first_or_last(start, end, eta, variance)
        rho, rho_s = sigma / alpha, sigma_s / alpha_s
        x = lambda y, rho: y * variance / (variance + rho**2)
        middle = np.sqrt(rho * rho_s)
        down, noise = ancestral(rho, middle, eta)
        y = down / rho + (1 - down / rho) * x(1, rho)
        down, up = ancestral(rho, rho_s, eta)
        share = 1 - down / rho
        y = down / rho + share * x(y, middle)
        noise = share * x(noise, middle)
        return y * alpha_s / alpha, alpha_s**2 * (up**2 + noise**2)

    return _recursion(path, variance, step)


def sde_dpm_law(path, order, eta, variance, midpoint):
    """The same for SDE-DPM-Solver++: z as weights of the start and of each noise."""
    count = len(path.t) - 1
    z = np.zeros(count + 1)
    z[0] = path.sigma[0]
    law, means, widths = [z @ z], [], []
    with np.errstate(divide="ignore"):
        half = np.log(path.alpha / path.sigma)
    for i, ((_, alpha, sigma), (_, alpha_s, sigma_s)) in enumerate(path.steps()):
        h = half[i + 1] - half[i]
        means.insert(0, alpha * variance / (alpha**2 * variance + sigma**2) * z)
        finite = [np.isfinite(width) for width in [h, *widths]]
        usable = 1 + (order > 1 and i > 0 and all(finite[:2]))
        usable += order > 2 and i > 1 and all(finite[:3])
        growth = (1 + eta) * h
        z = sigma_s / sigma * np.exp(-eta * h) * z if eta else sigma_s / sigma * z
        z = z + alpha_s * (1 - np.exp(-growth)) * means[0]
        if usable > 1:
            p = (np.exp(-growth) - 1) / growth + 1
            first = (means[0] - means[1]) * h / widths[0]
        if usable == 2:
            z = z + alpha_s * first * (
                (1 - np.exp(-growth)) / 2 if midpoint and order == 2 else p
            )
        if usable == 3:  # Newton's divided differences of x_hat in half log-SNR
            near = (means[0] - means[1]) / widths[0]
            far = (means[1] - means[2]) / widths[1]
            second = (near - far) / (widths[0] + widths[1])
            slope = near + second * widths[0]
            z = z + alpha_s * p * h * slope
            z = z - alpha_s * (p / growth - 0.5) * h**2 * 2 * second
        z[i + 1] += sigma_s * np.sqrt(1 - np.exp(-2 * eta * h))
        widths.insert(0, h)
        law.append(z @ z)
    return np.array(law)


def adams_law(path, variance, variable, order, corrector, tau, lower=True):
    """The same for SA-Solver: z as weights of the start and of each noise.

    Integrals of Lagrange's polynomials in half log-SNR by quadrature. `corrector` is
    the number of its nodes, `lower` whether the orders fall in the last steps.
    """
    count, z = len(path.t) - 1, np.zeros(len(path.t))
    z[0] = path.sigma[0]
    with np.errstate(divide="ignore"):
        half = np.log(path.alpha / path.sigma)
    first, means, law, before = int(path.alpha[0] == 0), [], [z @ z], None

    def step(z, noise, i, nodes, values):
        """From time i to the next, P through `values` at the half log-SNR `nodes`."""
        (_, alpha, sigma), (_, alpha_s, sigma_s) = list(path.steps())[i]
        h, rate = half[i + 1] - half[i], 1 + tau**2
        place, share = np.polynomial.legendre.leggauss(40)
        u = half[i] + h * (1 + place) / 2
        kernel = np.exp(
            rate * (u - half[i + 1]) if variable == "x" else half[i + 1] - u
        )
        integral = lambda f: rate * h / 2 * np.sum(share * kernel * f)
        total = 0
        for j, value in enumerate(values):
            others = [node for k, node in enumerate(nodes) if k != j]
            lagrange = np.prod([(u - o) / (nodes[j] - o) for o in others], axis=0)
            total = total + integral(lagrange * np.ones_like(u)) * value
        if len(nodes) == 2 and variable == "x":  # half of the weight of small steps
            slope = (values[0] - values[1]) / (nodes[0] - nodes[1])
            total = total + (rate * h**2 / 2 - integral(u - half[i])) * slope
        if variable == "x":
            kept = np.exp(-(tau**2) * h)
            z, width = sigma_s / sigma * kept * z, np.sqrt(1 - kept**2)
            return z + alpha_s * total + sigma_s * width * noise
        width = tau * np.sqrt(np.expm1(2 * h))
        return alpha_s / alpha * z - sigma_s * total + sigma_s * width * noise

    for i, ((_, alpha, sigma), (_, alpha_s, sigma_s)) in enumerate(path.steps()):
        total = alpha**2 * variance + sigma**2
        x, eps = alpha * variance / total * z, sigma / total * z
        means.insert(0, x if variable == "x" else eps)
        if before is not None and corrector:
            most = min(corrector, i - first + 1, count - i + 2 if lower else 9)
            nodes = [half[i - k] for k in range(most)]
            z = step(*before, i - 1, nodes, means[:most])
        noise = np.eye(count + 1)[i + 1]
        if alpha == 0 or sigma_s == 0:
            kept = float(tau == 0)
            before, z = None, alpha_s * x + sigma_s * (kept * eps + (1 - kept) * noise)
        else:
            most = min(order, i - first + 1, count - i if lower else 9)
            nodes = [half[i - k] for k in range(most)]
            before, z = (z, noise), step(z, noise, i, nodes, means[:most])
        law.append(z @ z)
    return np.array(law)


def restart_law(path, intervals, variance):
    """Variance at the end for Restart: Heun in rho = sigma / alpha, and its rounds.

    `intervals` are `(rho_min, rho_max, num_steps, repeats)`, in the order of the run.
    """
    slope = lambda rho: rho / (variance + rho**2)

    def heun(rho, rho_s):
        euler = 1 + (rho_s - rho) * slope(rho)
        if rho_s == 0:
            return euler
        return 1 + (rho_s - rho) * (slope(rho) + slope(rho_s) * euler) / 2

    with np.errstate(divide="ignore"):
        rho = path.sigma / path.alpha
    rounds = collections.defaultdict(list)
    for rho_min, rho_max, num_steps, repeats in intervals:
        below = np.where(rho[1:] < rho_max, abs(rho[1:] - rho_min), np.inf)
        where = np.argmin(below) + 1
        ends = rho_max ** (1 / 7), rho[where] ** (1 / 7)
        levels = np.linspace(*ends, num_steps + 1) ** 7
        rounds[where] += [(rho_max, levels)] * repeats
    if np.isinf(rho[0]):  # y = z / alpha after DDIM's step
        law, start = rho[1] ** 2, 1
    else:
        law, start = rho[0] ** 2, 0
    for i in range(start, len(rho)):
        if i > start:
            law *= heun(rho[i - 1], rho[i]) ** 2
        for rho_max, levels in rounds[i]:
            law += rho_max**2 - rho[i] ** 2
            for pair in itertools.pairwise(levels):
                law *= heun(*pair) ** 2
    return np.array([law * path.alpha[-1] ** 2])


def langevin_law(path, snr, steps, churn, variance):
    """The same for Langevin steps of `snr` before those of the churn family."""

    def step(start, end):
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        total, kept = alpha**2 * variance + sigma**2, _kept(start, end, churn)
        shrink, added = 1 - 2 * snr**2 * sigma**2 / total, (2 * snr * sigma) ** 2
        factor = (alpha_s * alpha * variance + sigma_s * kept * sigma) / total
        noise = sigma_s**2 * (1 - kept**2)
        for k in range(steps):
            noise += factor**2 * shrink ** (2 * k) * added
        return factor * shrink**steps, noise

    return _recursion(path, variance, step)


def sde_law(path, variance, heun):
    """The same for Euler-Maruyama and stochastic Heun of the reversed forward SDE.

    The noise comes after Euler's step and before Heun's; to sigma = 0 there is none.
    """

    def rate(level):
        """The drift over z: `f - g^2 score / z` at eta = 1, and g^2."""
        t, alpha, sigma = level
        alpha_slope, sigma_slope = slopes(path.name, t)
        f = alpha_slope / alpha
        g2 = 2 * sigma * (sigma_slope - f * sigma)
        return f + g2 / (alpha**2 * variance + sigma**2), g2

    def step(start, end):
        if start[1] == 0:
            return 0.0, end[2] ** 2
        length = start[0] - end[0]
        drift, g2 = rate(start)
        factor, added = 1 - length * drift, g2 * length
        if end[2] == 0:
            return factor, 0.0
        if heun:
            factor = 1 - length / 2 * (drift + rate(end)[0] * factor)
            added *= factor**2
        return factor, added

    return _recursion(path, variance, step)
