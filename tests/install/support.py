"""What the tests of an installed tenon share: running, checking, building against a prefix."""
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD, LIBTORCH, CMAKE, COMPILER = sys.argv[1:5]


def run(*command, expect: int = 0, cwd: pathlib.Path | None = None, **variables: str) -> subprocess.CompletedProcess:
    """Without what would make the host look elsewhere for plugins."""
    env = {key: value for key, value in os.environ.items() if key not in ("TENON_PLUGIN_PATH", "LD_LIBRARY_PATH")} | variables
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env, cwd=cwd)
    if result.returncode != expect:
        sys.exit(f"{' '.join(map(str, command))}\nended with {result.returncode}, expected {expect}\n{result.stdout}\n{result.stderr}")
    return result


def check(claim: bool, text: str) -> None:
    if not claim:
        sys.exit(f"FAILED: {text}")
    print(f"ok: {text}", flush=True)


def install(prefix: pathlib.Path) -> pathlib.Path:
    """-> the installed host."""
    run(CMAKE, "--install", BUILD, "--prefix", prefix)
    return prefix / "bin/host"


def configure_and_build(source: pathlib.Path, build: pathlib.Path, prefix: pathlib.Path) -> float:
    """-> seconds that the compiler and linker took."""
    run(CMAKE, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DTENON_LIBTORCH={LIBTORCH}",
        f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DCMAKE_BUILD_TYPE=Release")
    start = time.monotonic()
    run(CMAKE, "--build", build)
    return time.monotonic() - start


def build_copy(source: pathlib.Path, prefix: pathlib.Path, folder: pathlib.Path, *more: pathlib.Path) -> pathlib.Path:
    """Builds a copy outside the repository, as a third party's would lie -> the build folder."""
    shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("build", "runs"))
    for file in more:
        shutil.copy(file, folder / "source")
    configure_and_build(folder / "source", folder / "build", prefix)
    return folder / "build"
