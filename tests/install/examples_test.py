#!/usr/bin/env python3
"""The plugins in examples/plugins/ as a stranger would ship them: each built out of tree against an installed tenon, its own tests run.

    examples_test.py BUILD LIBTORCH CMAKE COMPILER [EXAMPLE ...]
"""
import shutil
import sys

from support import ROOT, build_copy, check, installed, own_tests, run


def main() -> None:
    with installed() as (work, host):
        prefix = work / "prefix"
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


if __name__ == "__main__":
    main()
