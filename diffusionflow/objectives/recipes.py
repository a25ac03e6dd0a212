"""Published objectives (recipes) by name, in continuous time, t = 1 being noise.

Each formula is the total weight on the eps-MSE as `total_weight` gives it, l the
log-SNR. Any value can be exchanged afterwards with `dataclasses.replace`: another
`kind` or `proposal` leaves the objective what it is, another `schedule` does so for the
recipes whose weight does not mention one.
"""

from jax import Array

from diffusionflow import predictions, schedules, times, weightings
from diffusionflow._dataclass import check_name
from diffusionflow.objectives.base import Objective


def flow_matching() -> Objective:
    """Makes the flow matching objective, `E_t ||u_hat - (eps - x)||^2`, t uniform.

    `W = e^(-l / 2) / 2`.

    Source: Lipman et al. 2022, arXiv 2210.02747, eq. 23 with sigma_min = 0.
    """
    return Objective(
        schedules.FlowMatching(), "u", weightings.Mse("u"), times.Uniform()
    )


def v_cosine() -> Objective:
    """Makes the v-prediction objective, `E_t ||v_hat - v||^2`, on the cosine schedule.

    `W = e^(-l / 2) / pi`: flow matching times 2 / pi.

    Source: Salimans and Ho 2022, arXiv 2202.00512.
    """
    return Objective(schedules.Cosine(), "v", weightings.Mse("v"), times.Uniform())


def ddpm() -> Objective:
    """Makes DDPM's L_simple, `E_t ||eps_hat - eps||^2`, continuous t, linear betas.

    `W = sigmoid(-l) / beta(t(l))`.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14; the discrete times 1..T of the
    paper become t uniform on (0, 1).
    """
    return Objective(
        schedules.LinearBeta(), "eps", weightings.Mse("eps"), times.Uniform()
    )


def iddpm() -> Objective:
    """Makes improved DDPM's L_simple `E_t ||eps_hat - eps||^2`, offset cosine schedule.

    `W = (1 + s) sigmoid(-l) / (pi tan phi)`, `phi = pi/2 (t + s) / (1 + s)`, s = 0.008.
    The paper's learned variances and the variational bound that trains them are left
    out.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672.
    """
    return Objective(
        schedules.IDDPMCosine(), "eps", weightings.Mse("eps"), times.Uniform()
    )


def vdm() -> Objective:
    """Makes VDM's variational bound (ELBO, VLB) in continuous time, `W = 1`.

    The schedule is linear in log-SNR, on the range of the paper's; with these weights
    a schedule changes the variance alone.

    Source: Kingma et al. 2021, arXiv 2107.00630.
    """
    return Objective(
        schedules.LinearLogSNR(logsnr_min=-5.0, logsnr_max=13.3),
        "eps",
        weightings.ELBO(),
        times.Uniform(),
    )


def score_sde_vp(likelihood: bool = False) -> Objective:
    """Makes the objective of score matching weighted by sigma^2, VP SDE: the eps-MSE.

    `W = sigmoid(-l) / beta(t(l))` for t >= 1e-5. Like the paper's network, which is
    divided by sigma to give the score, this one predicts eps up to a sign.

    Args:
      likelihood: weigh by g^2 instead: `W = 1 / (1 - 1e-5)`.

    Source: Song et al. 2021, arXiv 2011.13456; likelihood weighting from Song et al.
    2021, arXiv 2101.09258.
    """
    return _score_sde(schedules.LinearBeta(), likelihood)


def score_sde_subvp(likelihood: bool = False) -> Objective:
    """Makes the objective of score matching by sigma^2, sub-VP: `W = 1 / |dlogsnr/dt|`.

    Args:
      likelihood: weigh by g^2 instead: `W = 1 / (1 - 1e-5)`.

    Source: Song et al. 2021, arXiv 2011.13456.
    """
    return _score_sde(schedules.SubVP(), likelihood)


def score_sde_ve(likelihood: bool = False) -> Objective:
    """Makes the objective of score matching weighted by sigma^2 on the VE SDE.

    On it g^2 is proportional to sigma^2, and
    `W = 1 / (2 log(sigma_max / sigma_min))`: the variational bound (ELBO, VLB), between
    the schedule's ends.

    Args:
      likelihood: weigh by g^2 instead: `W = 1 / (1 - 1e-5)`.

    Source: Song et al. 2021, arXiv 2011.13456.
    """
    return _score_sde(schedules.VE(), likelihood)


def edm(
    sigma_data: float | Array = 0.5,
    mean: float | Array = -1.2,
    std: float | Array = 1.2,
) -> Objective:
    """Makes EDM's objective: MSE of unit-variance output F at log-normal noise levels.

    `W = (1 + e^-l / sigma_data^2) N(l; -2 mean, (2 std)^2)`, divided by the probability
    that a level lies between the schedule's ends, 0.002 and 80 (1 - 1.6e-5): the paper
    trains on the levels beyond as well.

    Args:
      sigma_data: standard deviation of the data.
      mean: P_mean, of the log noise level.
      std: P_std, of the same.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """
    kind = predictions.edm_f(sigma_data)
    density = times.LogNormalSigma(mean, std)
    return Objective(schedules.EDM(), kind, weightings.Mse(kind), density)


def sd3(
    mean: float | Array = 0.0,
    std: float | Array = 1.0,
    shift: float | Array | None = None,
) -> Objective:
    """Makes the objective of Stable Diffusion 3: flow matching at logit-normal times.

    `W = (1 + e^(-l / 2))^2 N(l; -2 mean - 2 log(shift), (2 std)^2)`.

    Args:
      mean: of the logit of t, before the shift.
      std: of the same.
      shift: k of `t -> k t / (1 + (k - 1) t)`, for larger images.

    Source: Esser et al. 2024, arXiv 2403.03206.
    """
    return _sd3(times.LogitNormal(mean, std), shift)


def sd3_mode(
    scale: float | Array = 1.29, shift: float | Array | None = None
) -> Objective:
    """Makes the objective of Stable Diffusion 3 with mode sampling: heavy-tailed times.

    `W = e^(-l / 2) / (2 |1 + s - (pi s / 2) sin(pi u)|)` without a shift, s the scale
    and u the fraction of times below t(l).

    Args:
      scale: see `times.Mode`.
      shift: as in `sd3`.

    Source: Esser et al. 2024, arXiv 2403.03206.
    """
    return _sd3(times.Mode(scale), shift)


def sd3_cosmap(shift: float | Array | None = None) -> Objective:
    """Makes the objective of Stable Diffusion 3 with CosMap: cosine's levels.

    `W = (1 + e^(-l / 2))^2 sech(l / 2) / (2 pi)` without a shift.

    Args:
      shift: as in `sd3`.

    Source: Esser et al. 2024, arXiv 2403.03206.
    """
    return _sd3(times.CosMap(), shift)


def min_snr(gamma: float | Array = 5.0, kind: predictions.AnyKind = "x") -> Objective:
    """Makes the objective of Min-SNR weighting on the cosine schedule.

    `W = min(1, gamma e^-l) sech(l / 2) / (2 pi)`, whatever is predicted.

    Args:
      gamma: largest weight on the x-MSE.
      kind: prediction type of the network.

    Source: Hang et al. 2023, arXiv 2303.09556.
    """
    return Objective(
        schedules.Cosine(), kind, weightings.MinSNR(gamma), times.Uniform()
    )


def p2(k: float | Array = 1.0, gamma: float | Array = 1.0) -> Objective:
    """Makes P2's objective: perception-prioritized weighting of eps-MSE, linear betas.

    `W = (k + e^l)^-gamma sigmoid(-l) / beta(t(l))`.

    Args:
      k: positive.
      gamma: at least 0; 0 is `ddpm`.

    Source: Choi et al. 2022, arXiv 2204.00227.
    """
    return Objective(
        schedules.LinearBeta(), "eps", weightings.P2(k, gamma), times.Uniform()
    )


def sid2(bias: float | Array = 0.0, shift: float | Array | None = None) -> Objective:
    """Makes SiD2's objective: sigmoid weighting, v-prediction, shifted cosine schedule.

    `W = sigmoid(bias - l)`. The paper chooses the bias and the shift by resolution;
    neither default is one of its settings.

    Args:
      bias: see `weightings.Sigmoid`.
      shift: k of `schedules.Shifted`; it moves the noise levels, not the weight.

    Source: Hoogeboom et al. 2024, arXiv 2410.19324.
    """
    schedule = _shifted(schedules.Cosine(), shift)
    return Objective(schedule, "v", weightings.Sigmoid(bias), times.Uniform())


PATHS = {
    "linear": schedules.FlowMatching,
    "gvp": schedules.Cosine,
    "vp": schedules.LinearBeta,
}


def sit(path: str = "linear", kind: str = "dz_dt") -> Objective:
    """Makes SiT's objective: a path, and velocity, score or noise predicted, t uniform.

    "dz_dt", the velocity: `W = g^2 / 4`, which is flow matching on the linear path and
    `(pi / 4) e^(-l / 2)` on "gvp". "score" is weighted by sigma^2 and so, like "eps",
    has the weight of the eps-MSE, `W = 1 / |dlogsnr/dt|`.

    Args:
      path: "linear" (`FlowMatching`), "gvp" (`Cosine`) or "vp" (`LinearBeta`).
      kind: "dz_dt", "score" or "eps".

    Raises:
      ValueError: another path or kind.

    Source: Ma et al. 2024, arXiv 2401.08740.
    """
    check_name("path", path, PATHS)
    check_name("kind", kind, ("dz_dt", "score", "eps"))
    weighted = "dz_dt" if kind == "dz_dt" else "eps"
    return Objective(PATHS[path](), kind, weightings.Mse(weighted), times.Uniform())


RECIPES = (
    flow_matching,
    v_cosine,
    ddpm,
    iddpm,
    vdm,
    score_sde_vp,
    score_sde_subvp,
    score_sde_ve,
    edm,
    sd3,
    sd3_mode,
    sd3_cosmap,
    min_snr,
    p2,
    sid2,
    sit,
)


def _score_sde(schedule: schedules.Schedule, likelihood: bool) -> Objective:
    weighting = weightings.Likelihood() if likelihood else weightings.Mse("eps")
    return Objective(schedule, "eps", weighting, times.Uniform(t_min=1e-5))


def _sd3(
    density: times.LogitNormal | times.Mode | times.CosMap, shift: float | Array | None
) -> Objective:
    schedule = _shifted(schedules.FlowMatching(), shift)
    return Objective(schedule, "u", weightings.Mse("u"), density)


def _shifted(
    schedule: schedules.Schedule, k: float | Array | None
) -> schedules.Schedule:
    return schedule if k is None else schedules.Shifted(schedule, k)
