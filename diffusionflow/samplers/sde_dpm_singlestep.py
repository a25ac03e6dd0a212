"""Stochastic DPM-Solver of single steps: noise in every stage, or after every block."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_bound,
    check_name,
    check_not_negative,
    register,
    static,
)
from diffusionflow._numeric import root
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers import multistep
from diffusionflow.samplers.churn import power
from diffusionflow.samplers.dpm_singlestep import DPMSolverSinglestep, Goal, State
from diffusionflow.samplers.dpm_solver import gain_and_moments


@register
class SDEDPMSolverSinglestep(DPMSolverSinglestep):
    """Singlestep DPM-Solver of order 1 to 3 with noise; the grid has all stages.

    The blocks are those of `DPMSolverSinglestep`. With `q = e^-h` over the half log-SNR
    h from the start of a block,

    - "sde": every stage, and the end of the block, is a step of the eta-SDE from the
      block's start, as in `SDEDPMSolver`, with noise of its own. The law is of order 1:
      the noise of a stage is not part of that of the step.
    - "ancestral": the block is deterministic and leads to a level below its end,
      `rho_down^2 = rho_s^2 (1 - eta^2 (1 - q^2))` with rho = sigma / alpha; noise
      brings it back. The eta is that of the DDIM paper, in [0, 1].

    eta = 0 is `DPMSolverSinglestep`; with order 1, "sde" is `SDEDPMSolver(1, eta)` and
    "ancestral" is `DDIMEta(eta)`.

    Args:
      order: as in `DPMSolverSinglestep`, and so the four after it.
      variable: "x" or "eps".
      second: "taylor" or "midpoint".
      stage: "taylor" or "midpoint".
      lower_final: whether the end is lowered.
      eta: noise, at least 0; 1 is the reversal of the forward SDE.
      noise: "sde" or "ancestral".

    Raises:
      ValueError: a number is outside or a name unknown.

    Source: Lu et al. 2022, arXiv 2211.01095, whose SDE has eta = 1: the "sde" forms of
    diffusers' `DPMSolverSinglestepScheduler`. "ancestral" on "eps" with
    `second="midpoint"` is `sample_dpm_fast` of k-diffusion with eta, for alpha = 1, but
    that its stages lie inside the step to the lower level and these on the grid.
    """

    eta: float | Array = 1.0
    noise: str = static(default="sde")
    num_noises = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("noise", self.noise, ("sde", "ancestral"))
        check_not_negative("eta", self.eta)
        if self.noise == "ancestral":
            inside = lambda eta: eta <= 1
            check_bound("eta", self.eta, inside, "in [0, 1] with 'ancestral'")

    def _goal(
        self, total: Array, q: Array, last: Array, alpha_s: Array, sigma_s: Array
    ) -> Goal:
        if self.noise == "ancestral":
            return self._below(total, q, last, alpha_s, sigma_s)
        eta = xp.asarray(self.eta, q.dtype)
        kept = power(q, eta)
        columns = dict(
            eps=sigma_s * kept, noise=sigma_s * root((1 - kept) * (1 + kept))
        )
        if self.variable == "x":
            moments = multistep.phi_moments(-(1 + eta) * total, 3)
            return Goal(total, (1 + eta) * alpha_s * total, moments, columns)
        grown, usable = xp.expm1(total), q > 0
        changed = dict(
            eps=sigma_s * (1 - eta * grown),
            noise=sigma_s * root(eta * grown * (grown + 2)),
        )
        columns = {
            name: xp.where(usable, changed[name], column)
            for name, column in columns.items()
        }
        moments = multistep.phi_moments(total, 3)
        return Goal(total, -(1 + eta) * sigma_s * total, moments, columns)

    def _below(
        self, total: Array, q: Array, last: Array, alpha_s: Array, sigma_s: Array
    ) -> Goal:
        """Makes steps without noise; those that end a block go to the level below."""
        eta, fresh = xp.asarray(self.eta, q.dtype), (1 - q) * (1 + q)
        kept = root(q**2 + (1 - eta) * (1 + eta) * fresh)
        kept, up = xp.where(last, kept, 1), xp.where(last, eta * root(fresh), 0)
        some = (q > 0) & (kept > 0)
        length = total - xp.log(xp.where(some, kept, 1))
        columns = dict(eps=sigma_s * kept, noise=sigma_s * up)
        below = columns["eps"]
        gain, moments = gain_and_moments(self.variable, length, alpha_s, below, 3)
        return Goal(length, gain, moments, columns)

    def step(
        self, state: State, row: dict, noise: Array, denoise_fn: DenoiseFn
    ) -> State:
        state = super().step(state, row, noise, denoise_fn)
        return state._replace(z=state.z + row["noise"] * noise[0])
