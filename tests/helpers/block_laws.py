"""Laws of samplers whose steps are blocks of stages in the grid, as in `laws`."""

import numpy as np

from tests.helpers.laws import ancestral, first_or_last


def _blocks(path):
    """Blocks `(start, middle, end)` of two steps; of one to an end, middle is None."""
    levels = list(zip(path.t, path.alpha, path.sigma, strict=True))
    found, place = [], 0
    while place < len(levels) - 1:
        start, middle = levels[place : place + 2]
        alone = start[1] == 0 or place + 3 > len(levels) or levels[place + 2][2] == 0
        found.append(
            (start, None, middle) if alone else (start, *levels[place + 1 : place + 3])
        )
        place += 1 if alone else 2
    return found


def singlestep_law(path, variance, one, two):
    """Variance at the end of blocks of two stages, the last lowered.

    `one(start, end)` and `two(start, middle, end)` are the factor of z and the added
    variance.
    """
    blocks, law = _blocks(path), path.sigma[0] ** 2
    if path.sigma[-1] > 0:  # the last block is lowered
        start, middle, end = blocks.pop()
        blocks += [(start, None, middle), (middle, None, end)]
    for start, middle, end in blocks:
        parts = one(start, end) if middle is None else two(start, middle, end)
        law = law * parts[0] ** 2 + parts[1]
    return np.array([law])


def sde_singlestep_law(path, eta, variance):
    """The same for SDE-DPM-Solver++ of order 2, with noise of its own in the stage."""

    def factors(start, end):
        """Of z, x_hat and xi, from start to end."""
        (_, alpha, sigma), (_, alpha_s, sigma_s) = start, end
        q = alpha * sigma_s / (alpha_s * sigma)
        share = 1 - q ** (1 + eta)
        noise = sigma_s * np.sqrt(1 - q ** (2 * eta))
        return sigma_s / sigma * q**eta, alpha_s * share, noise

    def x(level):
        return level[1] * variance / (level[1] ** 2 * variance + level[2] ** 2)

    def one(start, end):
        z, share, noise = factors(start, end)
        return z + share * x(start), noise**2

    def two(start, middle, end):
        z, share, noise = factors(start, middle)
        stage = z + share * x(start)
        z, share, last = factors(start, end)
        half = lambda level: np.log(level[1] / level[2])
        weight = (half(end) - half(start)) / (half(middle) - half(start)) / 2
        factor = z + share * (x(start) + weight * (x(middle) * stage - x(start)))
        return factor, last**2 + (share * weight * x(middle) * noise) ** 2

    return singlestep_law(path, variance, one, two)


def ancestral_singlestep_law(path, eta, variance):
    """The same for DPM-Solver-2 in y = z / alpha to a level below, then noise."""

    def eps(rho):
        return rho / (variance + rho**2)

    def levels(start, end):
        rho, rho_s = start[2] / start[1], end[2] / end[1]
        return rho, *ancestral(rho, rho_s, eta)

    def one(start, end):
        if start[1] == 0 or end[2] == 0:
            return first_or_last(start, end, eta, variance)
        rho, down, up = levels(start, end)
        scale = end[1] / start[1]
        return scale * (1 + (down - rho) * eps(rho)), (end[1] * up) ** 2

    def two(start, middle, end):
        rho, down, up = levels(start, end)
        between = middle[2] / middle[1]
        stage = 1 + (between - rho) * eps(rho)
        weight = np.log(rho / down) / np.log(rho / between) / 2
        slope = eps(rho) + weight * (eps(between) * stage - eps(rho))
        return (1 + (down - rho) * slope) * end[1] / start[1], (end[1] * up) ** 2

    return singlestep_law(path, variance, one, two)
