#!/usr/bin/env python3
"""The plugins in examples/plugins/ as a stranger would ship them: each built out of tree against an installed tenon, its own tests run.

    examples_test.py BUILD LIBTORCH CMAKE COMPILER
"""
import os
import pathlib
import shutil
import tempfile

from support import CMAKE, ROOT, build_copy, check, install, run


def main() -> None:
    os.umask(0o022)
    work = pathlib.Path(tempfile.mkdtemp(prefix="tenon-examples-"))
    try:
        prefix = work / "prefix"
        host = install(prefix)
        # Their recipes name the quickstart's model by its place beside them.
        shutil.copytree(ROOT / "examples/quickstart", work / "plugins/quickstart")
        for example in sorted(path for path in (ROOT / "examples/plugins").iterdir() if (path / "CMakeLists.txt").exists()):
            build = build_copy(example, prefix, work / "plugins" / example.name)
            tested = run(pathlib.Path(CMAKE).with_name("ctest"), "--test-dir", build, "--output-on-failure").stdout
            check("100% tests passed" in tested, f"{example.name}: built against the prefix alone, its tests pass")
            why = run(host, "plugins", "why", build / f"lib{example.name}.so").stdout
            check("it is sound" in why, f"{example.name}: nothing is wrong with the file")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
