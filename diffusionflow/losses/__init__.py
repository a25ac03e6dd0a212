"""Per-example losses on arrays: `[*batch, *event]` in, `[*batch]` out.

Squared errors are means over the event and are not reduced over the batch; terms of the
variational bound (ELBO, VLB) are nats per dimension, means over the event as well. The
batch is the shape of `t`; `t` of shape `()` is one example. `predict_fn` is any
callable `(z, t) -> array`, its conditioning closed over. With a `mask` of bools,
squared errors are means over the values of an event where it is True.
"""

from diffusionflow.losses.kl import kl_terms, kl_weight, prior_kl
from diffusionflow.losses.objective import (
    Terms,
    objective_loss,
    objective_terms,
    uncertainty_loss,
)
from diffusionflow.losses.squared import (
    cfm_loss,
    ddpm_loss,
    dsm_loss,
    fm_loss,
    kind_loss,
)

__all__ = [
    "Terms",
    "cfm_loss",
    "ddpm_loss",
    "dsm_loss",
    "fm_loss",
    "kind_loss",
    "kl_terms",
    "kl_weight",
    "objective_loss",
    "objective_terms",
    "prior_kl",
    "uncertainty_loss",
]
