"""Running sums of losses by bins of log-SNR: `training/running_metrics.py`."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import losses
from experiments.training import running_metrics


def test_bins_cover_everything_once():
    bins = running_metrics.Bins(low=-10.0, high=10.0, count=5)
    logsnr = jnp.array([-jnp.inf, -10.0, -6.01, -6.0, 0.0, 5.99, 6.0, 10.0, jnp.inf])
    member = np.asarray(bins.one_hot(logsnr))
    assert member.sum(1).tolist() == [1] * 9
    assert member.argmax(1).tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 4]


def test_sums_are_sums():
    bins = running_metrics.Bins(low=-1.0, high=1.0, count=2)
    logsnr = jnp.array([-5.0, 0.5, 5.0])
    loss, eps_mse = jnp.array([1.0, 2.0, 4.0]), jnp.array([10.0, 20.0, 30.0])
    importance = jnp.array([1.0, 0.5, 2.0])  # of which the losses are multiples
    terms = losses.Terms(loss, None, logsnr, eps_mse, importance)
    total = running_metrics.RunningMetrics.zeros(2)
    for _ in range(2):
        total = total.add(loss.mean(), jnp.array(3.0), terms, bins)
    row = running_metrics.averages(total)
    assert row["loss"] == pytest.approx(7 / 3)
    assert row["grad_norm"] == pytest.approx(3)
    assert row["loss_by_logsnr"] == pytest.approx([1, 6 / 2.5])
    assert row["eps_mse_by_logsnr"] == pytest.approx([10, (10 + 60) / 2.5])
    assert row["examples_by_logsnr"] == [2, 4]


def test_empty_bins_are_nan_and_poison_nothing():
    bins = running_metrics.Bins(low=-1.0, high=1.0, count=2)
    terms = losses.Terms(
        jnp.ones(1), None, jnp.array([5.0]), jnp.array([jnp.inf]), jnp.ones(1)
    )
    row = running_metrics.averages(
        running_metrics.RunningMetrics.zeros(2).add(*jnp.ones(2), terms, bins)
    )
    assert np.isnan(row["loss_by_logsnr"][0])
    assert row["loss_by_logsnr"][1] == 1
