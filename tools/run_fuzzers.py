#!/usr/bin/env python3
"""Run every fuzzer of a build: run_fuzzers.py BUILD [SECONDS] [NAME]. The last line counts them."""
import concurrent.futures
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(program: pathlib.Path, seconds: str) -> bool:
    corpus = ROOT / "tests" / "fuzz" / "corpus" / program.name
    command = [str(program), f"-max_total_time={seconds}"] + ([str(corpus)] if corpus.is_dir() else [])
    # An allocation of gigabytes for a file of a few bytes is a find. The sources with coverage are in libtenon.so as well,
    # which is no violation of the one-definition rule that would matter here.
    env = os.environ | {"ASAN_OPTIONS": "max_allocation_size_mb=1024:detect_leaks=1:detect_odr_violation=0"}
    env["LSAN_OPTIONS"] = f"suppressions={ROOT / 'tools' / 'lsan.supp'}:print_suppressions=0"
    result = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace")
    print(f"== {program.name}\n{result.stdout}", end="")
    if result.returncode != 0:
        find = program.with_name(program.name + ".find")
        program.with_name(program.name + ".input").replace(find)
        print(f"{result.stderr[-6000:]}\nthe input is kept; again: {program} {find}")
    sys.stdout.flush()
    return result.returncode == 0


def main() -> None:
    build = pathlib.Path(sys.argv[1])
    seconds = sys.argv[2] if len(sys.argv) > 2 else "60"
    wanted = sys.argv[3] if len(sys.argv) > 3 else ""
    programs = sorted(path for path in (build / "fuzz").glob("*") if os.access(path, os.X_OK) and path.is_file() and wanted in path.name)
    if not programs:
        sys.exit("run_fuzzers: this build has no such fuzzer")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        good = list(pool.map(lambda program: run(program, seconds), programs))
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed, 0 skipped")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
