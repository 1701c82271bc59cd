#!/usr/bin/env python3
"""Unpack pinned PyPI wheels into a folder, without installing them into any Python.

    wheels.py LOCK TARGET [--strip PREFIX] [--skip GLOB]...

LOCK is a pip requirements file with hashes, which pip checks while it downloads. The wheels are always
those for CPython 3.11 on x86-64 Linux, whatever Python runs this, so one hash per package is enough.
"""
import argparse
import fnmatch
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

# glibc 2.31 covers every wheel we pin; Debian 12 has 2.36.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(31, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
TAGS = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
TAGS += [f"--platform={name}" for name in PLATFORMS]


def download(lock: pathlib.Path, folder: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(lock), *TAGS]
    if not sys.stderr.isatty():
        command.append("--quiet")
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        sys.exit(f"wheels: pip could not download the packages of {lock.name} (its own message is above)")


def unpack(wheel: pathlib.Path, target: pathlib.Path, strip: str, skip: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            if member.is_dir() or any(fnmatch.fnmatch(name, pattern) for pattern in skip):
                continue
            path = target / (name.removeprefix(strip) if strip else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            # A fresh inode: a running program may still map the old file.
            path.unlink(missing_ok=True)
            with archive.open(member) as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            mode = member.external_attr >> 16 & 0o777
            path.chmod(0o755 if mode & 0o100 else 0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lock", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--strip", default="", help="leading path to remove, as nvidia/cu13/")
    parser.add_argument("--skip", action="append", default=[], help="members to leave out")
    options = parser.parse_args()
    # Beside the target, not in /tmp: the wheels are larger than many a tmpfs.
    folder = options.target.with_name(f"{options.target.name}.wheels.{os.getpid()}")
    folder.mkdir(parents=True)
    try:
        download(options.lock, folder)
        for wheel in sorted(folder.glob("*.whl")):
            unpack(wheel, options.target, options.strip, options.skip)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
