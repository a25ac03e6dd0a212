"""Formats the results of an evaluation: rows of a table, and lines of text."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.evaluation import likelihoods, sample_quality
from experiments.evaluation.results import solver_bound


def rows(workdir: pathlib.Path, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists every number with its error, in the columns of `results.csv`.

    Likelihoods and eps-MSE have intervals of two standard errors, metrics those of the
    bootstrap.
    """
    listed = [*_likelihood_rows(results["likelihood"]), *_eps_mse_rows(results)]
    baseline = {
        "sampler": None,
        "nfe": None,
        "metrics": results["held_out_baseline"],
    }
    for each in [baseline, *results["samples"]]:
        sampler = "held-out examples"
        if each["sampler"] is not None:
            sampler = sample_quality.sampler_text(each["sampler"])
        listed += [
            {
                "quantity": one["metric"],
                "features": one["recipe"]["features"],
                "sampler": sampler,
                "nfe": each["nfe"],
                **{key: one[key] for key in ("value", "standard_error", "low", "high")},
            }
            for one in each["metrics"]
        ]
    return [{"run": str(workdir), **row} for row in listed]


def _likelihood_rows(likelihood: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if likelihood is None:
        return []
    return [
        _row(f"{name} ({likelihood['unit']})", **likelihood[name])
        for name in likelihoods.NAMES
        if name in likelihood
    ]


def _eps_mse_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists the eps-MSE of raw and averaged weights at each log-SNR reached."""
    eps_mse = results["eps_mse"]
    if eps_mse is None:
        return []
    return [
        _row(f"eps-MSE ({weights}) at log-SNR {logsnr:g}", mean=mean, stderr=stderr)
        for weights in ("raw", "ema")
        for logsnr, mean, stderr in zip(
            eps_mse["logsnr"],
            eps_mse[weights]["mean"],
            eps_mse[weights]["stderr"],
            strict=True,
        )
        if mean is not None
    ]


def _row(quantity: str, *, mean: float, stderr: float, **unused: Any) -> dict[str, Any]:
    """Makes a row with an interval of two standard errors."""
    return {
        "quantity": quantity,
        "value": mean,
        "standard_error": stderr,
        "low": mean - 2 * stderr,
        "high": mean + 2 * stderr,
    }


def text(results: Mapping[str, Any]) -> str:
    """Formats the results in a few lines."""
    lines = [f"{name}: left out" for name in results["left_out"]]
    lines += _likelihood_lines(results["likelihood"])
    eps_mse = results["eps_mse"]
    shown = results["left_out"] and eps_mse is not None
    for weights in ("raw", "ema") if shown else ():
        means = ", ".join(
            f"{mean:.4g} at {logsnr:g}"
            for logsnr, mean in zip(
                eps_mse["logsnr"], eps_mse[weights]["mean"], strict=True
            )
            if mean is not None
        )
        lines.append(f"eps-MSE by log-SNR, {weights} weights: {means}")
    return "\n".join(lines + _sample_lines(results))


def _sample_lines(results: Mapping[str, Any]) -> list[str]:
    """Lists metrics of all samples, and those of equal counts, which compare."""
    lines, equal = [], _metric_lines("held-out examples", results["held_out_baseline"])
    for row in results["samples"]:
        who = f"{sample_quality.sampler_text(row['sampler'])}, NFE {row['nfe']}"
        equal += _metric_lines(who, row["metrics_at_baseline_size"])
        if row["metrics"] != row["metrics_at_baseline_size"]:
            lines += _metric_lines(who, row["metrics"])
    if not equal:
        return lines
    title = "held-out examples and samples, at equal counts:"
    return [*lines, title, *equal]


def _metric_lines(who: str, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats metrics with the counts of both sets."""
    lines, frechet = [], {one["recipe"]["features"] for one in measured}
    for one in measured:
        recipe = one["recipe"]
        features = recipe["features"].partition("(")[0].strip()
        count, reference = recipe["counts"]
        of = f"{count:,} and {reference:,} training examples"
        if one["metric"] == "frechet" or recipe["num_features"] < min(count, reference):
            frechet.discard(recipe["features"])
        lines.append(
            f"{who}: {one['metric']} of {features} {one['value']:.4g} +- "
            f"{one['standard_error']:.2g}, {of}"
        )
        if recipe["features"] in frechet:
            frechet.discard(recipe["features"])
            lines.append(
                f"{who}: no frechet of {features}, {of}: with "
                f"{recipe['num_features']:,} features it needs more of each"
            )
    return lines


def _likelihood_lines(likelihood: Mapping[str, Any] | None) -> list[str]:
    if likelihood is None:
        return []
    lines = [
        f"{name}: {likelihood[name]['mean']:.4f} +- {likelihood[name]['stderr']:.4f} "
        f"{likelihood['unit']}, {likelihood['count']} held-out examples"
        for name in likelihoods.NAMES
        if name in likelihood
    ]
    if (error := likelihood["solver_error"]) is not None:
        bound = solver_bound(error)
        lines.append(
            f"ode: the solver's error is within {bound:.2g}, by "
            f"{error['steps']} steps for {error['count']} of the examples"
        )
    return lines
