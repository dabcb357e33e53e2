#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command of under ten minutes: the compiled kernels' tests, every
# kernel beside its peers, and training steps beside the released code's way. Needs no network.
#
#   kernels/benchmarks/gpu.sh [--dry-run]     # in the repository root
#
# OUT      where results go (default docs/benchmarks): kernels.json, steps.json, tests.log
# PYTHON   the interpreter (default python3). It needs jepa-core itself installed, for plugins are found by
#          entry points, and what that needs; for the tests also pytest, pytest-benchmark, pytest-timeout,
#          hypothesis and scipy. Without pytest the tests are passed over with a line that says so; a peer
#          that is not installed (xformers) becomes a row with that reason.
# --dry-run: the same on a CPU with tiny shapes, to see that it all hangs together.
#
# Each part has a limit of its own; one that fails or runs out leaves what it has, and the others go on. The
# exit status is 1 where a part failed.
set -uo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
OUT=${OUT:-docs/benchmarks}
BATCH=128 DRY="" FAILED=0
if [ "${1:-}" = "--dry-run" ]; then DRY=yes BATCH=2; fi
mkdir -p "$OUT"

say() { printf '\n== %s  (%s s)\n' "$*" "$SECONDS"; }
jepa() { "$PYTHON" -c 'from jepa_core.cli import main; main()' "$@"; }
part() { # seconds, what, command...
  local limit=$1 what=$2
  shift 2
  say "$what"
  export -f jepa
  export PYTHON
  timeout --kill-after=10 "$limit" bash -c '"$@"' _ "$@" || { echo "FAILED ($?): $what"; FAILED=1; }
}

if [ -z "$DRY" ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "torch sees no GPU here; kernels/benchmarks/gpu.sh --dry-run tries the script on a CPU"
  exit 2
fi

if "$PYTHON" -c 'import pytest, pytest_benchmark, pytest_timeout, hypothesis, scipy' 2>"$OUT/tests.log"; then
  tests() { "$PYTHON" -m pytest tests/kernels --ignore=tests/kernels/interpreted -q -x ${DRY:+-k ema} 2>&1 | tee "$OUT/tests.log"; }
  export -f tests
  export OUT DRY
  part 110 "correctness of the kernels" tests
else
  say "correctness: passed over, $(tail -n 1 "$OUT/tests.log")"
fi

SHAPES=() QUICK=()
if [ -n "$DRY" ]; then SHAPES=(--shape CIFAR) QUICK=(--quick); fi
part 180 "kernels beside their peers" jepa bench kernels "${SHAPES[@]}" "${QUICK[@]}" --json "$OUT/kernels.json"

STEPS=$(mktemp -d)
TINY=() GRAPH=(train.cuda_graph=true)
if [ -n "$DRY" ]; then TINY=(encoder.name=official_tiny predictor.depth=1) GRAPH=(); fi
for sized in vitb16:40:30 vitl16:50:35 vith14:70:50; do
  IFS=: read -r size equal exact <<<"$sized"
  size_is=("train.batch_size=$BATCH" "train.micro_batch=$BATCH" "${TINY[@]}")
  part "$equal" "step of $size, equal masks, both ways" \
    jepa bench step "ijepa/official_in1k_$size" "${size_is[@]}" --official "${QUICK[@]}" --json "$STEPS/$size-equal.json"
  part "$exact" "step of $size, exact masks" \
    jepa bench step "ijepa/in1k_$size" "${size_is[@]}" "${GRAPH[@]}" "${QUICK[@]}" --json "$STEPS/$size-exact.json"
done
part 20 "step of a small model, exact masks" \
  jepa bench step ijepa/cifar10 data.workers=0 "${GRAPH[@]}" "${QUICK[@]}" --json "$STEPS/cifar10.json"
"$PYTHON" - "$STEPS" "$OUT/steps.json" <<'END'
import json, pathlib, sys
found = {path.stem: json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json"))}
pathlib.Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")
END

say "done; results are in $OUT"
exit "$FAILED"
