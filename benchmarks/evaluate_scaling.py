"""What the metrics of an evaluation cost, and whether they are the direct formula's.

    python benchmarks/evaluate_scaling.py

For several counts of rows and features: seconds of the Frechet distance with the error
of 100 resamples, of KID and of the energy distance, against 2,000 rows of data; peak
memory; and the relative difference of the Frechet distance from the formula of
pytorch-fid and clean-fid, SciPy's square root of the product of two covariances, where
that takes less than minutes.
"""

import argparse
import resource
import time

import jax
import numpy as np
import scipy.linalg

from diffusionflow import metrics

SIZES = ((64, 2304), (300, 64), (500, 500), (500, 512), (2000, 64), (2000, 3072))
MOST_DIRECT = 600  # features; the root of a product costs their cube
METRICS = {
    "frechet": metrics.Frechet(allow_singular=True),
    "kid": metrics.kid(),
    "energy": metrics.energy(),
}


def direct(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the formula, as pytorch-fid and clean-fid have it."""
    a, b = (np.cov(part, rowvar=False) for part in (x, y))
    root = scipy.linalg.sqrtm(a @ b)
    offset = x.mean(0) - y.mean(0)
    return float(offset @ offset + np.trace(a + b - 2 * root.real))


def seconds_of(metric: metrics.Metric, x: np.ndarray, y: np.ndarray) -> float:
    """Measures a metric with its error."""
    begin = time.perf_counter()
    metrics.measure(
        jax.random.key(0), metric, x, y, features="drawn", reference="a law",
        num_resamples=100,
    )  # fmt: skip
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000, help="of the data")
    arguments = parser.parse_args()
    names = "".join(f"{name:>10}" for name in METRICS)
    print(f"{'rows':>6}{'features':>10}{names}  from the formula  peak GiB")
    for count, width in SIZES:
        rng = np.random.RandomState(count + width)
        x = 0.1 + rng.standard_normal((count, width)) * np.geomspace(0.1, 2, width)
        y = rng.standard_normal((arguments.rows, width))
        seconds = [seconds_of(metric, x, y) for metric in METRICS.values()]
        difference = ""
        if width <= MOST_DIRECT:
            difference = f"{METRICS['frechet'](x, y) / direct(x, y) - 1:.1e}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        times = "".join(f"{each:9.2f}s" for each in seconds)
        print(f"{count:6}{width:10}{times}{difference:>18}{peak:10.2f}", flush=True)


if __name__ == "__main__":
    main()
