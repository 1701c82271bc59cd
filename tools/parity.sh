# Sourced by ./dev: the Python environment of the libraries that we compare with (tools/requirements/parity.txt).
# Its torch is LibTorch's own: a .pth file puts the unpacked wheel on the path, so half a gigabyte is there once.

readonly kParityTorch=2.11.0

parity_environment() {
  local venv=$deps/parity lock=$root/tools/requirements/parity.txt mark=$deps/parity/.parity want
  want=$(stamp "$lock" "$root"/tools/requirements/libtorch-$kParityTorch*.txt)
  [[ -e $mark && $(<"$mark") == "$want" ]] && return
  local base=
  for base in python3.11 "$deps/tools/bin/python" ''; do
    [[ -n $base ]] && "$base" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && break
  done
  [[ -n $base ]] || fail "parity: the pinned wheels are for Python 3.11 (Debian 12's); it was not found." \
    "Install it (Debian 12: apt-get install python3 python3-venv) and run the command again."
  local torch=$kParityTorch
  libtorch_from_wheel
  fetch_cuda_libraries
  step "parity environment: transformers, PEFT, bitsandbytes and what they need ..."
  "$base" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes -r "$lock" || fail \
    "parity: the libraries could not be installed. This needs network once; they and their hashes are in ${lock#"$root"/}."
  local site
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf '%s\n' "$deps/libtorch-$kParityTorch" >"$site/libtorch.pth"
  "$venv/bin/python" -c 'import torch, transformers, peft, bitsandbytes, trl' >"$deps/parity.log" 2>&1 || fail \
    "parity: the environment does not import; see ${deps#"$root"/}/parity.log, remove ${venv#"$root"/} and run the command again"
  printf '%s' "$want" >"$mark"
  step "parity environment: complete"
}

# parity_tests BUILD [pytest arguments]; the last line counts them
parity_tests() {
  local build=$1 out status=0; shift
  parity_environment
  mkdir -p "$build/test-results"
  out=$build/test-results/parity.txt
  # One thread in the references: bitsandbytes' nested offset depends on their number (design, section 8).
  OMP_NUM_THREADS=1 TENON_BUILD=$build TENON_HOST=$build/bin/host TENON_SHARED=${TENON_SHARED:-$root/../shared} HF_HUB_OFFLINE=1 \
    "$deps/parity/bin/python" -m pytest -p no:cacheprovider -rs "$root/tests/parity" "$@" 2>&1 | tee "$out" || status=$?
  "$python" "$root/tools/run_tests.py" --count "$out" "$status"
}
