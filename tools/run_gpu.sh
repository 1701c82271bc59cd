#!/usr/bin/env bash
# Runs the tests and benchmarks of this bundle on a machine with a GPU: bash run-gpu.sh [tests | bench | all]
# LibTorch 2.11 is found through python3 (another: PYTHON=/path/to/python3). The last line counts the tests.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
what=${1:-all}
python=${PYTHON:-python3}

libtorch=$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__), torch.__version__)') || {
  echo "run-gpu: $python has no torch; install torch 2.11.0, or set PYTHON to a Python that has it" >&2
  exit 1
}
version=${libtorch##* } libtorch=${libtorch% *}
wanted=$(sed -n 's/^LibTorch //p' "$here/ABOUT")
[[ ${version%%+*} == "$wanted" ]] ||
  echo "run-gpu: $python has torch $version, this bundle was built with $wanted; native plugins will be refused" >&2
sed 's/^/run-gpu: /' "$here/ABOUT"
echo "run-gpu: LibTorch $version in $libtorch"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | sed 's/^/run-gpu: GPU /'

# Also the folder of each CUDA library that torch's wheel keeps beside it.
export LD_LIBRARY_PATH=$libtorch/lib$(printf ':%s' "${libtorch%/*}"/nvidia/*/lib)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export TENON_SOURCE_DIR=$here TENON_BUILD_DIR=$here/build TENON_SHARED_DIR=$here/shared TENON_HOST=$here/build/bin/host
chmod -R go-w "$here"

status=0
if [[ $what == bench || $what == all ]]; then
  "$TENON_HOST" doctor || status=1
  # A fresh copy: the bundle may lie where it cannot be written, and runs are kept apart.
  runs=$(mktemp -d)
  for device in cpu cuda:0; do
    started=$(date +%s.%N)
    "$TENON_HOST" run "$here/examples/quickstart/recipe.toml" --set "model.device_map=$device" --set "output.dir=$runs/$device" \
      >"$runs/$device.log" 2>&1 || { tail -20 "$runs/$device.log"; status=1; }
    printf 'run-gpu: quickstart on %s: %.1f s, %s\n' "$device" "$(echo "$(date +%s.%N) $started" | awk '{print $1 - $2}')" \
      "$(tail -1 "$runs/$device/metrics.jsonl" 2>/dev/null)"
  done
  if [[ -x $here/bench/gpu.sh ]]; then
    "$here/bench/gpu.sh" "$runs" || status=1
  fi
fi
if [[ $what == tests || $what == all ]]; then
  output=$(mktemp)
  # The conformance kit tries each quantizer on the GPU too, where there is one.
  for plugin in "$here"/build/lib/tenon/plugins/*quant_*.so; do
    echo "== check-plugin ${plugin##*/}"
    "$TENON_HOST" check-plugin "$plugin" --only 'quantizer.*' >"$output.kit" 2>&1 || { cat "$output.kit"; echo "run-gpu: check-plugin ${plugin##*/} failed"; }
  done 2>&1 | tee -a "$output"
  for test in "$here"/build/tests/*; do
    [[ $test != */test_recipes ]] || continue
    echo "== ${test##*/}"
    (cd "$here/build" && timeout 900 "$test") || { echo "run-gpu: ${test##*/} failed with $?"; status=1; }
  done 2>&1 | tee -a "$output"
  for recipe in "$here"/tests/recipes/*.toml; do
    echo "== ${recipe##*/}"
    (cd "$here/build" && timeout 900 "$here/build/tests/test_recipes" "$recipe") || echo "run-gpu: ${recipe##*/} failed with $?"
  done 2>&1 | tee -a "$output"
  grep -q '^run-gpu: .* failed' "$output" && status=1
  "$python" "$here/run_tests.py" --count "$output" "$status" || status=1
fi
exit "$status"
