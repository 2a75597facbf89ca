#!/usr/bin/env bash
# What judging costs on a GPU: a Reasoner of 6.5 billion random parameters, a DM of 0.6, beside raw vLLM's own server.
#
#   bash benchmarks/gpu.sh [OUT] [more options of benchmarks.overhead]
#
# Run it in an environment where `drr serve` works. Three servers take a quarter of the first GPU each, a DM's
# twentieth beside two of them, and are loaded one at a time. The results go to OUT (default gpu-results):
# results.json, which names the GPU, and pictures.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-gpu-results}"
shift || true
python - <<'CHECK'
import sys

import torch

if not torch.cuda.is_available():
    sys.exit("gpu.sh: torch sees no GPU here; `python -m benchmarks.overhead` measures without one")
CHECK
exec python -m benchmarks.overhead --size 7b --step-tokens 100 --halfway --out "$out" \
    --load 10:1 --load 10:8 --load 10:16 --load 10:48 --load 100:4:2 "$@"
