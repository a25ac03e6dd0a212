r"""Evaluates a run: likelihoods, eps-MSE at fixed log-SNRs, samples against NFE.

    diffusionflow evaluate --workdir=runs/digits --sampler=ddim@10 \
        --sampler=ddim@50 --sampler="heun(variable='u')@25"

Writes `eval.json` with errors and recipes. Stopped or killed, the same command resumes
where it was.
"""

from absl import flags

from experiments import cli
from experiments.evaluation import fid_flags
from experiments.runtime import startup
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
cli.define_number(
    "guidance", None, "Guidance of the samples; by default that of the config."
)
cli.define_output("out", "Path of the .json; by default eval.json in the workdir.")
cli.define_count(
    "num_times", 32, "Times at which a draw estimates the variational bound.", 100_000
)
cli.define_count("num_draws", 2, "Independent estimates of the bound.", 1_000)
cli.define_number("logsnr_min", -10.0, "Lowest log-SNR of the variational bound.")
cli.define_number(
    "logsnr_max",
    None,
    "Highest log-SNR of the variational bound; by default chosen for the data.",
)
cli.define_count("ode_steps", 25, "Steps of the ODE solver (RK4).", 100_000)
cli.define_count("num_probes", 2, "Random probes of the ODE's divergence.", 1_000)
flags.DEFINE_multi_string(
    "sampler",
    [],
    "Sampler as name@steps or name@steps@grid, such as ddim@25; can be repeated.",
)
cli.define_count("num_samples", 2_000, "Samples of each sampler.", 10**7, least=2)
cli.define_file("inception", "", "Local file of Inception's weights, for FID.")
flags.DEFINE_multi_string(
    "features", [], "Features of your own to compare, module:function; can be repeated."
)
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
    with startup.importing():
        from experiments.evaluation import evaluate, requested
    with (
        reporting_path_errors("workdir", WORKDIR.value),
        reporting_path_errors("out", values["out"]),
    ):
        evaluate.evaluate_run(WORKDIR.value, requested.from_values(values))


if __name__ == "__main__":
    cli.run(main)
