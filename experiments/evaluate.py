r"""Evaluates a run: likelihoods, eps-MSE at fixed log-SNRs, samples against NFE.

    diffusionflow evaluate --workdir=runs/digits --sampler=ddim@10 \
        --sampler=ddim@50 --sampler="heun(variable='u')@25"

Writes `eval.json` with errors and recipes. Stopped or killed, the same command resumes
where it was.
"""

from typing import Any

from absl import flags

from experiments import cli
from experiments.evaluation import fid_flags
from experiments.runtime import progress
from experiments.runtime.errors import reporting_path_errors

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged or raw weights.")
cli.define_count(
    "step", None, "Step of the checkpoint; by default the newest.", 10**9, least=0
)
cli.define_count(
    "num_examples",
    None,
    "Held-out examples of the likelihoods; by default all, on a CPU 16 of large ones.",
    10**9,
)
cli.define_count("batch_size", 128, "Batch size of the likelihoods.", 2**16)
cli.define_number("guidance", None, "Guidance of the samples; else the config's.")
flags.DEFINE_string("out", None, "Path of the result; by default in the workdir.")
cli.define_count("num_times", 32, "Times per draw of the bound.", 100_000)
cli.define_count("num_draws", 2, "Independent draws of the bound.", 1_000)
cli.define_number("logsnr_min", -10.0, "Log-SNR where the bound begins.")
cli.define_number("logsnr_max", None, "Log-SNR where it ends; else chosen for data.")
cli.define_count("ode_steps", 50, "Fourth-order steps of the ODE solver.", 100_000)
cli.define_count("num_probes", 2, "Probes of the ODE's divergence.", 1_000)
flags.DEFINE_multi_string(
    "sampler", [], "Such as ddim@25 (steps) or ddim@25@cosine; can be repeated."
)
cli.define_count("num_samples", 2_000, "Samples of each sampler.", 10**7, least=2)
cli.define_file("inception", "", "Local file of Inception's weights, for FID.")
flags.DEFINE_multi_string("features", [], "Own features, module:function; repeatable.")
cli.define_count(
    "num_reference",
    10_000,
    "Training examples, at most, that samples are compared with.",
    10**7,
    least=2,
)
flags.DEFINE_multi_enum(
    "leave_out",
    [],
    [
        *("eps-MSE", "bound", "ode", "sample quality", "pixels"),
        *("classifier", "frechet", "mmd", "energy"),
    ],
    "A part, kind of features or metric that is not computed; can be repeated.",
)
cli.define_count("num_resamples", 100, "Resamples of the bootstrap.", 100_000, least=39)
cli.define_count("seed", 0, "Seed of all random numbers.", 2**32 - 1, least=0)
fid_flags.define_flags()
flags.adopt_module_key_flags(fid_flags)  # for --help


def main() -> None:
    values = flags.FLAGS.flag_values_dict()
    if values["protocol"]:
        fid_flags.evaluate(WORKDIR.value, values)
        return
    fid_flags.check_alone(values)
    print(f"diffusionflow: evaluating {WORKDIR.value}", flush=True)
    with progress.announced("importing"):
        from experiments.evaluation import evaluate, likelihoods, sample_quality

    def from_flags(settings: Any, **known: Any) -> Any:
        return settings(
            **{k: values[k] for k in settings._fields if k in values} | known
        )

    samplers = tuple(values["sampler"])
    request = from_flags(
        evaluate.Request,
        likelihood=from_flags(likelihoods.Settings),
        samples=from_flags(
            sample_quality.Settings,
            samplers=samplers,
            features=tuple(values["features"]),
        ),
        leave_out=tuple(values["leave_out"]),
    )
    with reporting_path_errors("workdir", WORKDIR.value):
        evaluate.evaluate_run(WORKDIR.value, request)


if __name__ == "__main__":
    cli.run(main)
