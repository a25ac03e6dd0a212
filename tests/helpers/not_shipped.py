"""Recorded methods that no sampler of ours makes, and why: `docs/samplers.md`."""

SINGLE_3 = "the single-step method of order 3 is not shipped"
OWN_CONTROL = "an adaptive step size of the recorder's own"
DETERMINISTIC = {
    ("diffusers_unipc_deis", "deis (log-rho multistep)"): (
        "DEIS in log sigma / alpha above order 1; Adams-Bashforth in eps is near to it"
    ),
    ("diffusers_dpmsolver", "singlestep dpmsolver++"): SINGLE_3,
    **{
        ("dpm_solver", f"{form} {method} order 3"): SINGLE_3
        for form, method in (
            ("dpmsolver", "singlestep"),
            ("dpmsolver++", "singlestep"),
            ("dpmsolver", "singlestep_fixed"),
        )
    },
    **{
        ("dpm_solver", f"{form} adaptive order {order}"): OWN_CONTROL
        for form in ("dpmsolver", "dpmsolver++")
        for order in (2, 3)
    },
    ("kdiffusion_sampler", "dpm_adaptive"): OWN_CONTROL,
    ("kdiffusion_sampler", "dpm_fast"): SINGLE_3,
    ("edm_sampler", "EDM generalised (ablation) sampler"): (
        "steps in the time of EDM's vp and ve formulations, or stages at 0.6 of a step"
    ),
    **{
        method: "an adaptive solver: `samplers.solve` has its own step control"
        for method in (
            ("flow_matching", "dopri5 on the flow ODE"),
            ("score_sde", "RK45 on the PF-ODE"),
            ("sit", "dopri5 on the PF-ODE, and back"),
        )
    },
    ("flow_matching", "heun3 on the flow ODE"): "Heun's method of order 3",
    ("flow_matching", "rk4 on the flow ODE"): "the 3/8 rule; ours is the classical one",
    (
        "score_sde",
        "predictor reverse_diffusion (probability flow), corrector none",
    ): "the discrete DDPM and SMLD updates without noise, not a solver of the ODE",
    (
        "hackable_diffusion",
        "adjusted ddim AS WRITTEN IN THE PEER",
    ): "a bug: alpha of the wrong time",
}

TWO_STAGES = "a single-step SDE solver with two stages"
LANGEVIN = "Langevin corrector"
CONSTANT = "replaces a share of the noise that does not depend on the step"
# (family, start of the method): why no sampler of ours makes these records
STOCHASTIC = {
    ("diffusers_ddim_ddpm", "plms"): "visits the second time twice",
    ("diffusers_ddim_ddpm", "pndm"): "pseudo Runge-Kutta",
    ("diffusers_dpmsolver", "multistep sde-dpmsolver"): "SDE solver on eps",
    ("diffusers_dpmsolver", "singlestep sde"): TWO_STAGES,
    ("diffusers_sigma", "dpm_2_ancestral"): TWO_STAGES,
    ("diffusers_sigma", "dpmpp_sde"): TWO_STAGES,
    ("diffusers_flow", "x-prediction"): "all noise replaced: churn = 1",
    ("diffusers_unipc_deis", "sa-solver"): "stochastic Adams with a corrector",
    ("edm_sampler", "EDM generalised"): "Heun in another clock after the churn",
    ("kdiffusion_sampler", "dpm_2"): TWO_STAGES,
    ("kdiffusion_sampler", "dpmpp_2s"): TWO_STAGES,
    ("kdiffusion_sampler", "dpmpp_sde"): TWO_STAGES,
    ("kdiffusion_sampler", "dpm_fast"): "single-step orders 3, 3, ..., 2 or 1",
    ("hackable_diffusion", "ddim, interpolated"): "k linear in q: no eta of its module",
    ("rectified_flow", "NoiseRefresh"): CONSTANT,
    ("rectified_flow", "OverShooting"): "noise in proportion to the step in time",
    ("rectified_flow", "SDESampler"): "noise bounded by the level, then an ODE step",
    ("rectified_flow", "StochasticCurvedEulerSampler"): CONSTANT,
    ("score_sde", "predictor reverse_diffusion"): "discretised forward steps",
    ("score_sde", "predictor ancestral_sampling"): "levels by truncated indices",
    ("score_sde", "predictor euler_maruyama, corrector ald"): LANGEVIN,
}
