# Sourced by ./dev: brings the machine to the point where a build can start, and is silent when it is there already.
# Reads: root, deps, torch, cuda (on | off). Sets: python, libtorch.

readonly kMinBoost=108100

step() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf '%s\n' "$@" >&2; exit 1; }

# One row per distribution package: name|probe; a probe is a command or a header. Names are those of Debian 12.
readonly packages=(
  "g++|g++" "ninja-build|ninja" "git|git" "ca-certificates|/etc/ssl/certs/ca-certificates.crt"
  "libboost1.81-dev|boost/dll/library_info.hpp" "libboost-program-options1.81-dev|boost/program_options.hpp"
  "libtomlplusplus-dev|toml++/toml.h" "nlohmann-json3-dev|nlohmann/json.hpp" "doctest-dev|doctest/doctest.h"
  "libjpeg62-turbo-dev|/usr/include/jpeglib.h" "libpng-dev|/usr/include/png.h" "libwebp-dev|webp/decode.h"
  "libsndfile1-dev|/usr/include/sndfile.h" "libsoxr-dev|/usr/include/soxr.h"
)

header() {  # full path of an installed header
  local folder
  for folder in /usr/local/include /usr/include; do
    [[ -e $folder/$1 ]] && { printf -v "$2" %s "$folder/$1"; return; }
  done
  return 1
}

has() {
  local path
  case $1 in
    /*) [[ -e $1 ]] ;;
    boost/*) header "$1" path && header boost/version.hpp path &&
      [[ $(<"$path") =~ define\ BOOST_VERSION\ ([0-9]+) ]] && ((BASH_REMATCH[1] >= kMinBoost)) ;;
    */*) header "$1" path ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# The first Python that can make a virtual environment; parity prefers 3.11, which the wheels are for.
find_python() {
  local candidate
  for candidate in python3.11 python3 /usr/bin/python3; do
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' 2>/dev/null &&
      { command -v "$candidate"; return; }
  done
  return 1
}

# The newest Rust that a crate of ours asks for.
min_rust() { sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$root"/plugins/*/{,*/}Cargo.toml 2>/dev/null | sort -V | tail -1; }

# The first cargo that is new enough. The version is asked where no rustup override of another folder applies.
find_cargo() {
  local candidate version least
  least=$(min_rust)
  for candidate in cargo /usr/bin/cargo; do
    version=$(cd "$root" && "$candidate" --version 2>/dev/null) || continue
    version=${version#cargo }; version=${version%% *}
    [[ $(printf '%s\n' "$least" "$version" | sort -V | head -1) == "$least" ]] &&
      { command -v "$candidate"; return; }
  done
  return 1
}

install_packages() {
  local sudo='' command="apt-get install -y --no-install-recommends $*"
  if ! command -v apt-get >/dev/null; then
    fail "setup: this is not Debian (the proven system is Debian 12), so it cannot install what is missing." \
      "Install what these Debian packages hold, then run the command again:" "  $*"
  fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null && sudo=sudo || fail "setup: distribution packages are missing, and this is not root." \
      "An administrator should run:" "  apt-get update && $command"
  fi
  step "distribution packages: $*"
  local log="$deps/apt.log"
  # stdin is closed so that no package can stop to ask; sudo asks on the terminal itself.
  if ! { $sudo env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update && $command" </dev/null >"$log" 2>&1; }; then
    tail -5 "$log" >&2
    fail "setup: the packages could not be installed (whole log: $log). With network and as root, run:" \
      "  apt-get update && $command"
  fi
}

# stamp FILE... : what these files say, as one word
stamp() { cat "$@" | sha256sum | cut -d' ' -f1; }

# fetch NAME FOLDER LOCK [wheels.py options]: unpack the wheels of LOCK into FOLDER, once
fetch() {
  local name=$1 folder=$2 lock="$root/tools/requirements/$3.txt" mark; mark="$2/.$3"; shift 3
  local want; want=$(stamp "$lock")
  [[ -e $mark && $(<"$mark") == "$want" ]] && return
  local started=$SECONDS
  step "$name: download and unpack into ${folder#"$root"/} ..."
  mkdir -p "$folder"
  "$python" "$root/tools/wheels.py" "$lock" "$folder" "$@" || fail \
    "setup: $name could not be fetched. This needs network once; behind a proxy set HTTPS_PROXY," \
    "with a mirror set PIP_INDEX_URL. The packages and their hashes are in ${lock#"$root"/}."
  printf '%s' "$want" >"$mark"
  step "$name: done in $((SECONDS - started)) s"
}

# A LibTorch of the user's own: TENON_LIBTORCH, or any of CMAKE_PREFIX_PATH, in the forms that cmake/LibTorch.cmake knows.
own_libtorch() {
  local prefix folder
  local IFS=':;'
  for prefix in ${TENON_LIBTORCH:-} ${CMAKE_PREFIX_PATH:-}; do
    for folder in "$prefix" "$prefix/torch" "$prefix/../.."; do
      [[ -e $folder/lib/libtorch_cpu.so ]] && { realpath "$folder"; return; }
    done
  done
  return 1
}

# CUDA's wheels differ from NVIDIA's own layout: lib instead of lib64, and no unversioned names to link by.
mend_cuda() {
  local library
  ln -sfn lib "$deps/cuda-13.0/lib64"
  for library in "$deps"/cuda-13.0/lib/*.so.*; do
    ln -sf "${library##*/}" "${library%%.so.*}.so"
  done
}

fetch_crates() {
  # As cmake/Rust.cmake has it: the rustc beside that cargo, not the first of PATH, which may be a rustup without a toolchain.
  local lock rustc=${TENON_CARGO%/*}/rustc
  [[ -x $rustc ]] || rustc=rustc
  for lock in "$root"/plugins/*/Cargo.lock "$root"/plugins/*/*/Cargo.lock; do
    [[ -e $lock ]] || continue
    step "Rust crates of ${lock#"$root"/} ..."
    RUSTC=$rustc "$TENON_CARGO" fetch --quiet --locked --manifest-path "${lock%.lock}.toml" || fail \
      "setup: cargo could not fetch the crates listed in ${lock#"$root"/}. This needs network once." \
      "With network, run: cargo fetch --locked --manifest-path ${lock%.lock}.toml"
  done
}

# A GPU, or Python's torch, needs all of CUDA's libraries beside LibTorch; the CPU half needs two.
fetch_cuda_libraries() { fetch "CUDA libraries of LibTorch $torch" "$deps/libtorch-$torch" "libtorch-$torch-cuda"; }

setup() {
  local row missing=()
  for row in "${packages[@]}"; do
    has "${row#*|}" || missing+=("${row%%|*}")
  done
  python="$deps/tools/bin/python"
  [[ -x $python ]] || find_python >/dev/null || missing+=(python3 python3-venv)
  libtorch=$(own_libtorch) || libtorch="$deps/libtorch-$torch/torch"
  # Everything that decides what has to be there; when it is all as last time there is nothing to do.
  local ready="$deps/.ready-$torch-$cuda" want
  want=$(shopt -s nullglob && stamp "$root"/tools/setup.sh "$root"/tools/requirements/*.txt "$root"/plugins/*/{,*/}Cargo.lock \
    <(printf '%s\n' "$libtorch" "${HOME:-}"))
  TENON_CARGO=${TENON_CARGO:-}
  if ((${#missing[@]} == 0)) && [[ -r $ready ]]; then
    { read -r done_stamp; read -r TENON_CARGO; } <"$ready"
    [[ $done_stamp == "$want" && -x $TENON_CARGO && -e $libtorch/lib/libtorch_cpu.so ]] && return
  fi
  mkdir -p "$deps"
  TENON_CARGO=$(find_cargo) || missing+=(cargo-web rustc-web)
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
  TENON_CARGO=$(find_cargo) || fail "setup: there is no cargo $(min_rust) or newer, and cargo-web of this system is older" \
    "(Debian 12 has it in bookworm-security). Install Rust from rustup.rs, then run the command again."
  # pip brings its own list of authorities; the system's also holds those that an administrator added.
  export REQUESTS_CA_BUNDLE=${REQUESTS_CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}
  if [[ ! -x $python ]]; then
    step "Python environment for pip (.deps/tools)"
    "$(find_python)" -m venv "$deps/tools" || fail "setup: python3 -m venv failed; install python3-venv"
  fi
  fetch "CMake" "$deps/cmake" tools --strip cmake/data/
  [[ -e $libtorch/lib/libtorch_cpu.so && $libtorch != "$deps"/* ]] && step "LibTorch: yours, $libtorch" ||
    libtorch_from_wheel
  if [[ $cuda == on ]]; then
    fetch "CUDA toolkit 13.0 (no GPU needed to build)" "$deps/cuda-13.0" cuda-13.0 --strip nvidia/cu13/
    mend_cuda
  fi
  fetch_crates
  printf '%s\n' "$want" "$TENON_CARGO" >"$ready"
  step "complete"
}

libtorch_from_wheel() {
  [[ -e $root/tools/requirements/libtorch-$torch.txt ]] || fail "setup: no pinned wheels for LibTorch $torch; there are:" \
    "$(cd "$root/tools/requirements" && ls libtorch-*.txt | sed -n 's/libtorch-\([0-9.]*\)\.txt/  \1/p')" \
    "For another release set TENON_LIBTORCH or CMAKE_PREFIX_PATH to yours, or add it to tools/lock.py."
  fetch "LibTorch $torch (0.5 GB)" "$deps/libtorch-$torch" "libtorch-$torch" \
    --skip 'torch/bin/protoc*' --skip torch/bin/ptxas --skip 'torch/test/*'
  local gpu=${TENON_GPU:-auto}
  if [[ $gpu == on || ($gpu == auto && -e /dev/nvidiactl) ]]; then
    fetch_cuda_libraries
  fi
}
