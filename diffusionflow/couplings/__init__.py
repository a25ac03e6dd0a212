"""Couplings: which noise is paired with which data, `x, labels, eps -> Pairs`.

A loss draws `z_t = alpha x + sigma eps` from a pair. Any joint law of x and eps with
the right marginals gives the same data at the end of the ODE; what it changes are the
paths and the variance of the target. For Gaussian pairs of correlation `cos(th)` per
dimension, data of variance v, on flow matching:

    E (x - eps)^2                   = 1 + v - 2 sqrt(v) cos(th)
    E Var(eps - x | z), over t      = sqrt(v) th sin(th)
    straightness, S                 = sqrt(v) (2 - 2 cos(th) - th sin(th)).

`Independent` pairs have th = pi / 2; at th = 0 paths are straight and one step is
exact. `Assignment` is the optimal pairing inside groups of a batch, `Sinkhorn` a random
one near the entropic optimum, `Semidiscrete` the optimum for a finite data set. All are
called as `coupling(key, x, eps, labels)`, and losses take `pairs.eps` as any noise:

    pairs = couplings.Assignment()(key, x, eps, labels)
    losses.objective_loss(key, net, pairs.x, objective=objective, eps=pairs.eps)

A coupling of your own is any such function that returns `Pairs`. Four traps, each in
published code:

- Pairs that are drawn from a plan with replacement leave some noise out and use some
  twice: 63 % are distinct, and the noise of a batch is no longer normal. Here `eps` is
  a permutation of what was given, so both marginals stay exact for any group; it is
  only the plan that depends on the size of the group, and in high dimension it is far
  from the optimum of the two laws: correlation 0.08 at 784 dimensions and 64 examples.
- `exp(-cost / reg)` with a fixed `reg` is a matrix of zeros where costs are large, as
  they are in high dimension, and the pairs are then independent. Here all is in logs,
  and `reg` is in units of the mean cost.
- It is eps that moves, not x: labels, indices and all else of an example stay put
  (`Semidiscrete` moves x, and says by `index` where to).
- The path that Lipman et al. call conditional optimal transport pairs nothing: its
  pairs are independent. It is `Independent` on `schedules.FlowMatching`.

Give the labels of a conditional model, as the network sees them but before they are
dropped for guidance: noise is then matched inside labels. Without them the noise of a
class is not normal (with x = -1 and 1 as two classes, E[eps | 1] is 0.28 for groups of
2, and 0.80 for large ones), so the model that learns it is wrong for the noise that it
is given in sampling. The same holds for any other condition; leave such pairs
independent.
"""

from diffusionflow.couplings.assignment import Assignment, assign
from diffusionflow.couplings.base import Coupling, Independent, Pairs
from diffusionflow.couplings.semidiscrete import Semidiscrete
from diffusionflow.couplings.sinkhorn import Sinkhorn, sinkhorn_plan

__all__ = [
    "Assignment",
    "Coupling",
    "Independent",
    "Pairs",
    "Semidiscrete",
    "Sinkhorn",
    "assign",
    "sinkhorn_plan",
]
