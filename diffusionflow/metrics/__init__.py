"""Metrics of samples against data, a law or a solution, with error bars.

A metric is a value and is called with sets of samples or features, `[n, *event]`:
`Frechet()(x, y)`. `measure` adds a bootstrap interval and the provenance (`recipe`);
`difference` does so for two samplers whose rows are paired by seed; numbers of
different provenance (`same_recipe`) do not compare.
"""

from diffusionflow.metrics.base import Memo, Metric
from diffusionflow.metrics.bootstrap import (
    Estimate,
    difference,
    halves,
    measure,
    measure_resampled,
)
from diffusionflow.metrics.contrasts import contrast, mean_difference, subtract
from diffusionflow.metrics.discrepancy import SquaredMMD, energy, kid
from diffusionflow.metrics.exact import (
    CovarianceError,
    Kolmogorov,
    LawCDF,
    Mean,
    MeanError,
    RMSError,
    law_moments,
)
from diffusionflow.metrics.extrapolation import ExtrapolatedFrechet, Fit
from diffusionflow.metrics.frechet import (
    FeatureMoments,
    Frechet,
    frechet_distance,
    moments,
)
from diffusionflow.metrics.kernels import RBF, NegativeDistance, Polynomial
from diffusionflow.metrics.paths import curvature, in_flow_coordinates, straightness
from diffusionflow.metrics.provenance import check_same_recipe, describe, same_recipe
from diffusionflow.metrics.wasserstein import SlicedWasserstein2, Wasserstein2

__all__ = [
    "RBF",
    "CovarianceError",
    "Estimate",
    "ExtrapolatedFrechet",
    "FeatureMoments",
    "Fit",
    "Frechet",
    "Kolmogorov",
    "LawCDF",
    "Mean",
    "MeanError",
    "Memo",
    "Metric",
    "NegativeDistance",
    "Polynomial",
    "RMSError",
    "SlicedWasserstein2",
    "SquaredMMD",
    "Wasserstein2",
    "check_same_recipe",
    "contrast",
    "curvature",
    "describe",
    "difference",
    "energy",
    "frechet_distance",
    "halves",
    "in_flow_coordinates",
    "kid",
    "law_moments",
    "mean_difference",
    "measure",
    "measure_resampled",
    "moments",
    "same_recipe",
    "straightness",
    "subtract",
]
