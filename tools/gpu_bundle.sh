#!/usr/bin/env bash
# gpu_bundle.sh BUILD FOLDER: what a machine with a GPU needs to run our GPU tests and benchmarks, and no more. LibTorch is
# not in it: run-gpu.sh finds the one of that machine's python3. Laid out as the source tree, so that tests find their files.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$1 bundle=$2
readonly kMaxBytes=$((60 * 1000 * 1000))

rm -rf "$bundle"
mkdir -p "$bundle/build/bin" "$bundle/build/lib/tenon/plugins" "$bundle/build/tests"
cp "$build/bin/host" "$build/bin/bench_gpu" "$bundle/build/bin/"
cp "$build"/lib/libtenon.so "$bundle/build/lib/"
cp "$build"/lib/tenon/plugins/*.so "$bundle/build/lib/tenon/plugins/"
# Not what tests texts, plugin files and the build's own folders: no device has to do with them, and they want files that are not carried.
find "$build/tests" -maxdepth 1 -type f -perm -u+x ! -name test_text_hf ! -name test_plugins ! -name test_bad_plugins ! -name test_cli ! -name '*abi*' \
  -exec cp {} "$bundle/build/tests/" \;
# Symbols are most of the size; the manifests stay, they lie in sections of their own.
find "$bundle/build" -type f -exec strip --strip-unneeded {} +

for path in tests/recipes tests/gpu tests/data examples bench; do
  # Tracked files only: no checkpoint of a benchmark, no run of an example.
  (cd "$root" && git ls-files -co --exclude-standard "$path") | while read -r file; do
    [[ $file == *.cpp || ! -f $root/$file ]] || install -D -m "$(stat -c %a "$root/$file")" "$root/$file" "$bundle/$file"
  done
done
# Real inputs, where they are here: two small models and a little text.
shared=${TENON_SHARED:-$root/../shared}
for path in data/models/stories260K data/models/babyllama-105 data/models/reference.json data/sft/alpaca_tiny.json data/sft/alpaca_en_demo.json \
  data/text/tinystories.txt; do
  [[ ! -e $shared/$path ]] || { mkdir -p "$bundle/shared/${path%/*}" && cp -rL "$shared/$path" "$bundle/shared/$path"; }
done
cp "$root/tools/run_gpu.sh" "$bundle/run-gpu.sh"
cp "$root/tools/run_tests.py" "$bundle/"

# What the target must offer, read from the binaries rather than promised.
needs() { find "$bundle/build" -type f -exec objdump -T {} + | grep -oE "\b$1_[0-9]+(\.[0-9]+)+" | sort -uV | tail -1; }
torch_version() {
  local torch
  torch=$(sed -n 's/^TENON_LIBTORCH:[A-Z]*=//p' "$build/CMakeCache.txt")
  sed -nE 's/^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+)$/\2/p' "$torch/include/torch/headeronly/version.h" | paste -sd.
}
{
  echo "tenon $(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)"
  echo "LibTorch $(torch_version)"
  echo "needs $(needs GLIBC), $(needs GLIBCXX), $(needs CXXABI)"
} >"$bundle/ABOUT"

bytes=$(du -sb "$bundle" | cut -f1)
printf 'gpu-bundle: %s, %s bytes; there: bash run-gpu.sh\n' "$bundle" "$bytes"
sed 's/^/  /' "$bundle/ABOUT"
if ((bytes > kMaxBytes)); then
  echo "gpu-bundle: larger than $kMaxBytes bytes; the largest files:" >&2
  find "$bundle" -type f -printf '%s %P\n' | sort -rn | head -5 >&2
  exit 1
fi
