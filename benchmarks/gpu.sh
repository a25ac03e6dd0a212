#!/bin/bash
# Runs what needs one accelerator, in at most eight minutes, and writes one page.
#
#   benchmarks/gpu.sh [PAGE]                  on a GPU, with torch: TORCH_PYTHON=PATH
#   BACKEND=cpu CASES=digits benchmarks/gpu.sh    tries the script itself on a CPU
#
# Parts: parity tests marked `gpu`, training steps (with PyTorch's next to them where
# TORCH_PYTHON names an interpreter) and their share of the peak, 512 samples, and the
# bound of `benchmarks.lowered`. A part that fails or takes longer
# than its share is named on the page, and the others run.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
BACKEND=${BACKEND:-gpu}
DEVICE=${DEVICE:-h200} # of benchmarks/devices.py
CASES=${CASES:-cifar10 dit_b}
PAGE=${1:-runs/gpu/results.md}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$(dirname "$PAGE")"
failed=0

part() { # part SECONDS TITLE COMMAND...
  local limit=$1 title=$2 code start=$SECONDS
  shift 2
  echo "$title" >&2
  timeout "$limit" "$@" >"$WORK/out" 2>"$WORK/err"
  code=$?
  {
    printf '\n## %s\n\n```text\n$ %s\n' "$title" "$*"
    tail -n 60 "$WORK/out"
    if [ "$code" != 0 ]; then tail -n 20 "$WORK/err"; fi
    printf '```\n\nexit code %s, %s s\n' "$code" "$((SECONDS - start))"
  } >>"$PAGE"
  if [ "$code" != 0 ]; then failed=$((failed + 1)); fi
}

peak=$("$PYTHON" -c "from benchmarks.devices import DEVICES as d; print(d['$DEVICE'].half)")
torch=()
if [ -n "${TORCH_PYTHON:-}" ]; then
  torch=(--torch_python="$TORCH_PYTHON" --torch_compile)
fi
run=$WORK/run
short=(--config=configs/digits.py --workdir="$run" --config.num_steps=200
  --config.checkpoint.every=200 --config.samples.every=0 --config.eval.every=0)

{
  printf '# One accelerator\n\n%s, commit %s\n' \
    "$(date -u +%Y-%m-%d)" "$(git rev-parse --short HEAD)"
  "$PYTHON" -c 'import jax; d = jax.devices()
print(f"{len(d)} x {d[0].device_kind}, jax {jax.__version__}")'
} >"$PAGE"

if [ "$BACKEND" = gpu ]; then
  part 90 "Parity" "$PYTHON" -m pytest -q -n 0 -m gpu tests
fi
for case in $CASES; do
  part 100 "Training step: $case" "$PYTHON" -m benchmarks.train_step --cases "$case" \
    --dtype=bfloat16 --peak_flops="$peak" --rounds=3 --steps=5 "${torch[@]}"
done
part 60 "Training 200 steps" "$PYTHON" -m experiments.train "${short[@]}" \
  --require_backend="$BACKEND"
part 40 "512 samples" "$PYTHON" -m experiments.sample --workdir="$run" --num_samples=512
part 40 "Bound" "$PYTHON" -m benchmarks.lowered --cases ${CASES%% *} --devices "$DEVICE"

echo "$PAGE: $failed parts failed" >&2
exit "$((failed > 0))"
