#!/usr/bin/env bash
# Everything that is to be measured on a machine with a CUDA GPU; so far nothing of it has been.
#
#   benchmarks/gpu.sh                  all parts; results in benchmarks/results/*-cuda*.json, device named inside
#   benchmarks/gpu.sh train            one part: parity, train, infer, data, growth, start
#   QUICK=1 benchmarks/gpu.sh          tiny, to see that it works
#
# parity: 200 steps of every network, recorded and in chunks, have the losses of the plainest loop on the same GPU.
# train fails unless train.py's steps are replayed CUDA graphs, and unless torch.compile compiled something.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
failed=()

bench() {
  "$PYTHON" -m vitbn.cli bench "$@" --device cuda ${QUICK:+--quick}
}

measure() {
  case $1 in
    parity) "$PYTHON" -m pytest tests/training/test_fast_path.py tests/training/test_capture.py ;;
    train) bench train --compile ;;
    infer) bench infer --compile ;;
    data | growth | start) bench "$1" ;;
    *) echo "unknown part $1; choose from parity, train, infer, data, growth, start" >&2 && return 2 ;;
  esac
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
for part in "${@:-parity train infer data growth start}"; do
  for each in $part; do
    measure "$each" || failed+=("$each")
  done
done
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
