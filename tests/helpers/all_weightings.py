"""Every weighting, with its total weight from the formulas of the sources."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import predictions, times, weightings

UNIFORM = times.Uniform()
sigmoid = lambda x: 1 / (1 + np.exp(-x))

# factor on the eps error that the sources' formulas give, times p(logsnr) or free of it
ON_EPS = {
    "eps": (weightings.Mse("eps"), np.ones_like),
    "x": (weightings.Mse("x"), lambda lam: np.exp(-lam)),
    "edm": (weightings.EDM(0.5), lambda lam: 1 + np.exp(-lam) / 0.25),
    "edm as F": (
        weightings.Mse(predictions.edm_f(0.5)),
        lambda lam: 1 + np.exp(-lam) / 0.25,
    ),
    "p2": (weightings.P2(2.0, 0.5), lambda lam: (2 + np.exp(lam)) ** -0.5),
    "min-snr": (weightings.MinSNR(5.0), lambda lam: np.minimum(1, 5 * np.exp(-lam))),
    "soft": (weightings.SoftMinSNR(4.0), lambda lam: sigmoid(np.log(4) - lam)),
    "truncated": (weightings.TruncatedSNR(), lambda lam: np.maximum(1, np.exp(-lam))),
    "user's factor": (
        weightings.Factor(lambda logsnr: jax.nn.sigmoid(1 - logsnr), "x"),
        lambda lam: sigmoid(1 - lam) * np.exp(-lam),
    ),
}
FREE = {
    "elbo": (weightings.ELBO(), np.ones_like),
    "likelihood": (weightings.Likelihood(), np.ones_like),
    "sigmoid": (weightings.Sigmoid(-1.5), lambda lam: sigmoid(-1.5 - lam)),
    "user's": (
        weightings.LogSNR(lambda logsnr: jnp.exp(-((logsnr / 3) ** 2))),
        lambda lam: np.exp(-((lam / 3) ** 2)),
    ),
}
ALL = {name: weighting for name, (weighting, _) in (ON_EPS | FREE).items()}
ALL["monotone"] = weightings.Monotone(weightings.Mse("eps"), UNIFORM)
ALL["monotone x"] = weightings.Monotone(weightings.Mse("x"), UNIFORM)
