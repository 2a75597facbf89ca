#!/usr/bin/env bash
# What judging costs on a GPU: a Reasoner of 6.5 billion random parameters, judged by a head in its own engine and by a
# text classifier of 0.6 billion in 16 bits, beside raw vLLM's own server; and what stopping half-way is worth.
#
#   bash benchmarks/gpu.sh [OUT] [more options of benchmarks.overhead]
#
# Run it in an environment where `drr serve` works. It takes about ten minutes. Three servers take a quarter of the first
# GPU each, a DM's twentieth beside one of them; they are started side by side and loaded one at a time. The results go
# to OUT (default gpu-results): results.json, which names the GPU, and pictures.
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
exec python -m benchmarks.overhead --size 7b --step-tokens 100 --judge head --judge text --no-stepwise --halfway \
    --out "$out" --load 10:16:3 --load 10:48:2 "$@"
