# Sourced by ./dev: the Python environment of the libraries that we compare with (tools/requirements/parity.txt).
# Its torch is LibTorch's own: a .pth file puts the unpacked wheel on the path, so half a gigabyte is there once.

readonly kParityTorch=2.11.0
readonly kGptqModelTorch=2.15.0  # GPTQModel 7.7 wants 2.14.1 or newer

# environment NAME TORCH IMPORTS LOCK [SOURCES]: makes $deps/NAME, once for each state of its locks; SOURCES is a lock of packages that pip has to build
environment() {
  local name=$1 torch=$2 imports=$3 lock=$root/tools/requirements/$4.txt sources=${5:+$root/tools/requirements/$5.txt}
  local venv=$deps/$name mark=$deps/$name/.$name want pip
  want=$(stamp "$lock" $sources "$root"/tools/requirements/libtorch-$torch*.txt)
  [[ -e $mark && $(<"$mark") == "$want" ]] && return
  local base=
  for base in python3.11 "$deps/tools/bin/python" ''; do
    [[ -n $base ]] && "$base" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && break
  done
  [[ -n $base ]] || fail "$name: the pinned wheels are for Python 3.11 (Debian 12's); it was not found." \
    "Install it (Debian 12: apt-get install python3 python3-venv) and run the command again."
  libtorch_from_wheel
  fetch_cuda_libraries
  step "$name environment: $imports and what they need ..."
  "$base" -m venv --clear "$venv"
  pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes)
  "${pip[@]}" --only-binary=:all: -r "$lock" || fail \
    "$name: the libraries could not be installed. This needs network once; they and their hashes are in ${lock#"$root"/}."
  local site
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf '%s\n' "$deps/libtorch-$torch" >"$site/libtorch.pth"
  [[ -z $sources ]] || PATH=$venv/bin:$PATH "${pip[@]}" --no-build-isolation -r "$sources" || fail \
    "$name: the sources listed in ${sources#"$root"/} could not be built; pip's own message is above."
  (cd "$deps" && "$venv/bin/python" -c "import $imports") >"$deps/$name.log" 2>&1 || fail \
    "$name: the environment does not import; see ${deps#"$root"/}/$name.log, remove ${venv#"$root"/} and run the command again"
  printf '%s' "$want" >"$mark"
  step "$name environment: complete"
}

parity_environment() { environment parity $kParityTorch "torch, transformers, peft, bitsandbytes, trl" parity; }

# GPTQModel takes 3 GB and some minutes, so that nothing but `./dev gptqmodel` makes it; where it is there, parity and the benches compare with it.
gptqmodel_environment() { environment gptqmodel $kGptqModelTorch "torch, transformers, gptqmodel, optimum" gptqmodel gptqmodel-sources; }
use_gptqmodel() {
  if [[ -e $deps/gptqmodel/.gptqmodel ]]; then export TENON_GPTQMODEL=${TENON_GPTQMODEL:-$deps/gptqmodel/bin/python}; fi
}

# parity_tests BUILD [pytest arguments]; the last line counts them
parity_tests() {
  local build=$1 out status=0; shift
  parity_environment
  use_gptqmodel
  mkdir -p "$build/test-results"
  out=$build/test-results/parity.txt
  # One thread in the references: bitsandbytes' nested offset depends on their number (design, section 8).
  OMP_NUM_THREADS=1 TENON_BUILD=$build TENON_HOST=$build/bin/host TENON_SHARED=${TENON_SHARED:-$root/../shared} HF_HUB_OFFLINE=1 \
    "$deps/parity/bin/python" -m pytest -p no:cacheprovider -rs "$root/tests/parity" "$@" 2>&1 | tee "$out" || status=$?
  "$python" "$root/tools/run_tests.py" --count "$out" "$status"
}
