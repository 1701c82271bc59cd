#!/usr/bin/env bash
# gpu.sh [FOLDER]: products of the quantizers on the first GPU, beside bitsandbytes' and GPTQModel's where python3 (or PYTHON) has them; the table is printed,
# FOLDER/gpu.jsonl holds every figure. Part of the bundle of ./dev gpu-bundle: run-gpu.sh calls it, with LibTorch's folders in LD_LIBRARY_PATH.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
output=$("${TENON_BENCH_GPU:-$here/build/bin/bench_gpu}" "${BENCH_SECONDS:-0.3}") || exit 1
if [[ $output == SKIP* ]]; then
  echo "$output"
  exit 0
fi
echo "$output" >"$folder/gpu.jsonl"
"${PYTHON:-python3}" "$here/bench/gpu.py" "$folder/gpu.jsonl"
