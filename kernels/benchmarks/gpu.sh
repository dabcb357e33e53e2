#!/usr/bin/env bash
# What only a GPU can tell, most valuable first. Needs no network, and no installed project.
#
#   kernels/benchmarks/gpu.sh             # 210 s: ceilings, correctness, attention beside its peers, steps
#   kernels/benchmarks/gpu.sh --tune      # 240 s: the tuning table, and up to where "auto" takes Triton
#   kernels/benchmarks/gpu.sh --rest      # 150 s: the new table, EMA, fp16 and fp32, FlexAttention, memcheck
#   kernels/benchmarks/gpu.sh --dry-run   # all three on a CPU, with tiny shapes and interpreted kernels
#
# OUT      where results go (default docs/benchmarks/results): log.jsonl, a line for each thing found; a file
#          named for device, torch and triton; and after --tune the table, which is written in its place as well
# PYTHON   the interpreter (default python3). torch and triton are enough for all but the steps, which need
#          what jepa-core needs; where that is missing a line says so.
#
# One process does all; results are written after each line, so that a run that is cut short leaves what it has.
# The exit status is 1 where something was found to be wrong, 2 without a GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
export OUT=${OUT:-docs/benchmarks/results}
export PYTHONPATH=".:plugins:kernels${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = "--dry-run" ]; then
  export TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "torch sees no GPU here; kernels/benchmarks/gpu.sh --dry-run tries the script on a CPU"
  exit 2
fi
exec "$PYTHON" -m kernels.benchmarks.gpu "$@"
