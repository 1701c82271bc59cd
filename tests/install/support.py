"""What the tests of an installed tenon share: running, checking, building against a prefix."""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

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


@contextlib.contextmanager
def installed() -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """-> a folder that vanishes, and the host installed in prefix/ there."""
    os.umask(0o022)
    work = pathlib.Path(tempfile.mkdtemp(prefix="tenon-install-"))
    try:
        run(CMAKE, "--install", BUILD, "--prefix", work / "prefix")
        yield work, work / "prefix/bin/host"
    finally:
        shutil.rmtree(work, ignore_errors=True)


def configure_and_build(source: pathlib.Path, build: pathlib.Path, prefix: pathlib.Path) -> float:
    """-> seconds that the compiler and linker took."""
    # The nvcc that BUILD was made with, where there was one; code for one architecture shows that it compiles.
    found = [re.search(r'CMAKE_CUDA_COMPILER "(.+)"', file.read_text()) for file in pathlib.Path(BUILD).glob("CMakeFiles/*/CMakeCUDACompiler.cmake")]
    cuda = {"CUDACXX": found[0][1], "CUDAARCHS": "80"} if found and found[0] else {}
    run(CMAKE, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DTENON_LIBTORCH={LIBTORCH}",
        f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DCMAKE_BUILD_TYPE=Release", **cuda)
    start = time.monotonic()
    run(CMAKE, "--build", build, "--parallel", os.environ.get("TENON_JOBS", "2"))
    return time.monotonic() - start


def own_tests(build: pathlib.Path, what: str) -> None:
    """Runs a project's tests, of which `host check-plugin` is one."""
    tested = run(pathlib.Path(CMAKE).with_name("ctest"), "--test-dir", build, "--output-on-failure").stdout
    check("100% tests passed" in tested and re.search(r"check\d* \.+ +Passed", tested) is not None, f"{what}: its own tests pass, the conformance kit among them")


def build_copy(source: pathlib.Path, prefix: pathlib.Path, folder: pathlib.Path, *more: pathlib.Path) -> pathlib.Path:
    """Builds a copy outside the repository, as a third party's would lie -> the build folder."""
    shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("build", "runs"))
    for file in more:
        shutil.copy(file, folder / "source")
    configure_and_build(folder / "source", folder / "build", prefix)
    return folder / "build"
