#!/usr/bin/env python3
"""Run the tests of a build and count their cases, not only their programs.

    run_tests.py BUILD [-k PATTERN] [CTEST ARGUMENTS]
    run_tests.py --count OUTPUT STATUS      count what a runner other than ctest has printed

ctest runs the programs; the numbers come from what each prints at its end (doctest, cargo test, pytest). The last
line is `N passed, N failed, N skipped`. A case that cannot run here says so in one line that starts with SKIP.
With -k, programs whose name contains the pattern run whole; of the others, the doctest cases whose name does.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

DOCTEST = re.compile(r"^\[doctest\] test cases:\s+(\d+) \|\s+(\d+) passed \|\s+(\d+) failed", re.M)
CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.M)
PYTEST = re.compile(r"^=* ?((?:\d+ [a-z]+,? ?)+)in [\d.]+s", re.M)
SKIP = re.compile(r"^(?:.*: MESSAGE: |\s+)?SKIP\b", re.M)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def count(output: str, ok: bool) -> list[int]:
    """[passed, failed, skipped] from what one program printed."""
    output = COLOUR.sub("", output)
    skipped = len(SKIP.findall(output))
    total = [0, 0, 0]
    for match in DOCTEST.finditer(output):
        total[0] += int(match[2])
        total[1] += int(match[3])
    total[0], total[2] = max(total[0] - skipped, 0), min(skipped, total[0])
    for match in CARGO.finditer(output):
        total = [have + int(more) for have, more in zip(total, match.groups())]
    for match in PYTEST.finditer(output):
        words = dict((kind, int(number)) for number, kind in re.findall(r"(\d+) ([a-z]+)", match[1]))
        total[0] += words.get("passed", 0) + words.get("xfailed", 0)
        total[1] += words.get("failed", 0) + words.get("errors", 0) + words.get("error", 0) + words.get("xpassed", 0)
        total[2] += words.get("skipped", 0)
    if not any(total):  # a program that counts nothing is one case
        total = [0, 0, 1] if ok and skipped else [int(ok), 0, 0]
    if not ok and total[1] == 0:  # it crashed, or ran past its limit, before it could count
        total[1] = 1
    return total


def run_ctest(build: pathlib.Path, arguments: list[str], name: str) -> list[int]:
    report = build.resolve() / "test-results" / f"{name}.xml"
    report.parent.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)
    # Untruncated: the counts stand at the end of the output.
    command = ["ctest", "--test-dir", str(build), "--output-on-failure", "--output-junit", str(report), "--timeout", "1200", "--no-tests=ignore",
               "--test-output-size-passed", "100000000", "--test-output-size-failed", "100000000", *arguments]
    code = subprocess.run(command).returncode
    total = [0, 0, 0]
    if not report.exists():  # nothing matched, or ctest itself failed
        return [0, int(code != 0), 0]
    for case in xml.parse(report).getroot().iter("testcase"):
        if case.get("status") in ("disabled", "notrun") and case.find("failure") is None:
            counts = [0, 0, 1]
        else:
            counts = count(case.findtext("system-out") or "", case.get("status") == "run")
        print(f"  {case.get('name')}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped")
        total = [have + more for have, more in zip(total, counts)]
    if code != 0 and total[1] == 0:
        total[1] = 1
    return total


def run_cases(build: pathlib.Path, pattern: str) -> list[int]:
    """The doctest programs that the pattern does not name: their cases that it does."""
    listing = subprocess.run(["ctest", "--test-dir", str(build), "--show-only=json-v1"], check=True, capture_output=True)
    total = [0, 0, 0]
    for test in json.loads(listing.stdout)["tests"]:
        properties = {entry["name"]: entry["value"] for entry in test.get("properties", [])}
        is_doctest = pathlib.Path(test["command"][0]).name.startswith("test_")
        if pattern in test["name"] or not is_doctest or not {"doctest", "unit"} & set(properties.get("LABELS", [])):
            continue
        command = [*test["command"], f"--test-case=*{pattern}*"]
        env = os.environ | dict(item.split("=", 1) for item in properties.get("ENVIRONMENT", []))
        folder = properties.get("WORKING_DIRECTORY", str(build))
        result = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, errors="replace")
        ran = DOCTEST.search(COLOUR.sub("", result.stdout))
        if result.returncode == 0 and ran and int(ran[2]) == 0:
            continue  # no case of this program has such a name
        counts = count(result.stdout, result.returncode == 0)
        print(result.stdout + result.stderr if counts[1] else f"  {test['name']}: {counts[0]} passed, {counts[2]} skipped")
        total = [have + more for have, more in zip(total, counts)]
    return total


def report(total: list[int]) -> None:
    sys.stdout.flush()
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    sys.exit(1 if total[1] else 0)


def main() -> None:
    if sys.argv[1:2] == ["--count"]:
        report(count(pathlib.Path(sys.argv[2]).read_text(errors="replace"), sys.argv[3] == "0"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("-k", metavar="PATTERN", help="names that contain this")
    options, extra = parser.parse_known_args()
    if options.k:
        total = run_ctest(options.build, ["-R", re.escape(options.k), *extra], "named")
        total = [have + more for have, more in zip(total, run_cases(options.build, options.k))]
        if not any(total):
            print(f"run_tests: no test program and no case has '{options.k}' in its name")
            total = [0, 1, 0]
    else:
        total = run_ctest(options.build, extra, "all")
        if not any(total):
            print("run_tests: the build has no tests")
            total = [0, 1, 0]
    report(total)


if __name__ == "__main__":
    main()
