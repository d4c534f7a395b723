#!/usr/bin/env bash
# Everything that is to be measured on a machine with a CUDA GPU; so far `step` has been.
#
#   benchmarks/gpu.sh                  all parts; results in benchmarks/results/*-cuda*.json, device named inside
#   benchmarks/gpu.sh train            one part: train, step, infer, data, growth, start
#   QUICK=1 benchmarks/gpu.sh          tiny, to see that it works
#
# train, step and infer fail unless torch.compile compiled something.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
failed=()

bench() {
  "$PYTHON" benchmarks/bench.py "$@" --device cuda ${QUICK:+--quick}
}

measure() {
  case $1 in
    train | step | infer) bench "$1" --compile ;;
    data | growth | start) bench "$1" ;;
    *) echo "unknown part $1; choose from train, step, infer, data, growth, start" >&2 && return 2 ;;
  esac
}

(($#)) || set -- train step infer data growth start
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
for part in "$@"; do
  measure "$part" || failed+=("$part")
done
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
