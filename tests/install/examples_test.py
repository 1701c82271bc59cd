#!/usr/bin/env python3
"""The plugins in examples/plugins/ as a stranger would ship them: each built out of tree against an installed tenon, its own tests run.

    examples_test.py BUILD LIBTORCH CMAKE COMPILER [EXAMPLE ...]
"""
import os
import pathlib
import shutil
import sys
import tempfile

from support import ROOT, build_copy, check, install, own_tests, run


def main() -> None:
    os.umask(0o022)
    work = pathlib.Path(tempfile.mkdtemp(prefix="tenon-examples-"))
    try:
        prefix = work / "prefix"
        host = install(prefix)
        # Their recipes name the quickstart's model by its place beside them.
        shutil.copytree(ROOT / "examples/quickstart", work / "plugins/quickstart")
        all_there = sorted(file.parent for file in (ROOT / "examples/plugins").glob("*/CMakeLists.txt"))
        wanted = [path for path in all_there if not sys.argv[5:] or path.name in sys.argv[5:]]
        check(len(wanted) == (len(sys.argv[5:]) or len(all_there)) > 0, f"the examples are there: {[path.name for path in wanted]}")
        for example in wanted:
            build = build_copy(example, prefix, work / "plugins" / example.name)
            own_tests(build, f"{example.name}, built against the prefix alone")
            for plugin in sorted(build.glob("lib*.so")):
                check("it is sound" in run(host, "plugins", "why", plugin).stdout, f"{example.name}: nothing is wrong with {plugin.name}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
