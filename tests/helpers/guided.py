"""Mixtures and denoisers that tests of guidance share."""

import numpy as np

from diffusionflow import analytic, predictions, schedules

SCHEDULE = schedules.Cosine()
MEANS = np.array([[1.0, -0.5, 0.3], [-1.2, 0.4, 0.8], [0.2, 1.0, -1.0]])
BOTH = analytic.Mixture(np.array([0.3, 0.3, 0.4]), MEANS, 0.2)


def network(data, kind, schedule=SCHEDULE):
    """The data's exact denoiser, as a network that predicts `kind`."""
    exact = data.denoise_fn(schedule=schedule)
    predict_fn = lambda z, t: predictions.from_denoised(
        exact(z, t), kind=kind, t=t, schedule=schedule
    )
    return predictions.denoiser(predict_fn, kind=kind, schedule=schedule)
