#!/usr/bin/env python3
"""One plugin binary, hosts of two LibTorch releases, two compilers: abi_proof.py HOST_A HOST_B CLANG [--keep]

HOST_A and HOST_B are build folders, of LibTorch 2.11 and a newer release; CLANG is a clang++. Every plugin below is loaded into both hosts, as it is, and
the steps of tests/abi/probe.cpp (facts, options, quantize, dequantize, products, gradients, files, errors) must give the same bits in both.

    built in HOST_A, by its g++           quant_nf4, stable_rtn, stable_odd
    built by clang++ from HOST_A's LibTorch, as C++17      stable_odd, stable_rtn
    built in HOST_B, from the newer LibTorch's headers     stable_rtn, stable_odd

Binaries of one source must agree with each other, too. Only "host ..." steps, in which LibTorch itself multiplies inexact numbers, may differ between two
releases of LibTorch; they are counted apart. --keep adds HOST_A's stable_odd to tests/abi/ as the binary of this SDK release.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = [("quant_nf4", "nf4", {"double_quant": True}), ("quant_nf4", "fp4", {"block_size": 128, "compute_dtype": "float32"}),
         ("stable_rtn", "stable_rtn", {"clip": 0.75}), ("stable_odd", "odd", {"number": 3, "words": ["x", ""]}),
         ("stable_odd", "odd_too", {"fails": "quantize"})]
failures: list[str] = []


def probe(host: pathlib.Path, plugin: pathlib.Path, quantizer: str, options: dict) -> dict:
    program = next(file for file in (host / "tests/abi_probe", host / "tests/abi_probe_alone") if file.exists())
    result = subprocess.run([program, plugin, quantizer, json.dumps(options)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{plugin} in {host.name}: ended with {result.returncode}: {result.stderr[-300:]}")
    return json.loads(result.stdout)


def compare(what: str, a: dict, b: dict) -> None:
    differ = [step for step in a if a[step] != b.get(step)] + [step for step in b if step not in a]
    foreign = [step for step in differ if step.startswith("host ")]
    ours = [step for step in differ if step not in foreign]
    note = f", {len(foreign)} of LibTorch's own products differ" if foreign else ""
    print(f"{'FAILED' if ours else 'ok'}: {what}: {len(a)} steps, {len(ours)} differ{note}")
    for step in ours:
        failures.append(f"{what}: {step}: {a[step]} against {b.get(step)}")


def torch_of(build: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(re.search(r"^TENON_LIBTORCH:PATH=(.*)$", (build / "CMakeCache.txt").read_text(), re.M)[1]).resolve()


def built_by_clang(clang: str, build: pathlib.Path, name: str) -> pathlib.Path:
    folder = build / "abi-clang"
    folder.mkdir(exist_ok=True)
    library = folder / f"lib{name}.so"
    # C++17 has no names in initializers.
    subprocess.run([clang, "-std=c++17" if name == "stable_odd" else "-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden",
                    f"-I{ROOT}/sdk/include", "-isystem", f"{torch_of(build)}/include", "-DTORCH_TARGET_VERSION=0x020b000000000000ULL",
                    f"{ROOT}/tests/stable/{name.removeprefix('stable_')}.cpp", f"-Wl,--version-script={ROOT}/cmake/exports.map", "-o", library], check=True)
    return library


def keep(host: pathlib.Path, plugin: pathlib.Path) -> None:
    text = (ROOT / "sdk/include/tenon/version.h").read_text()
    release = ".".join(re.search(rf"TENON_SDK_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR"))
    target = ROOT / f"tests/abi/odd-{release}.so"
    if target.exists():
        sys.exit(f"{target} is there: a released binary is never rebuilt")
    # As small as it gets: the same source, the same flags but for the optimisation.
    subprocess.run([os.environ.get("CXX", "c++"), "-std=c++20", "-Os", "-flto=2", "-s", "-fPIC", "-shared", "-fvisibility=hidden", "-fvisibility-inlines-hidden",
                    "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,--hash-style=gnu", "-Wl,-z,noseparate-code",
                    f"-ffile-prefix-map={ROOT}=tenon", f"-ffile-prefix-map={torch_of(host)}=torch",
                    f"-I{ROOT}/sdk/include", "-isystem", f"{torch_of(host)}/include", "-DTORCH_TARGET_VERSION=0x020b000000000000ULL",
                    ROOT / "tests/stable/odd.cpp", f"-Wl,--version-script={ROOT}/cmake/exports.map", "-o", target], check=True)
    golden = {}
    for _, quantizer, options in (case for case in CASES if case[0] == "stable_odd"):
        gave = probe(host, target, quantizer, options)
        compare(f"{target.name} and {plugin.name}", gave, probe(host, plugin, quantizer, options))
        golden[quantizer] = {"with": options, "gave": gave}
    target.with_suffix(".json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"kept: {target.relative_to(ROOT)}, {target.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hosts", nargs=2, type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("clang")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    a, b = args.hosts

    def made_by_cmake(build: pathlib.Path, name: str) -> pathlib.Path:
        return build / ("lib/tenon/plugins" if name == "quant_nf4" else "tests/stable") / f"lib{name}.so"

    if args.keep:
        return keep(a, made_by_cmake(a, "stable_odd"))
    in_a, in_b = (f"a host of {torch_of(build).parent.name}" for build in (a, b))
    for name, quantizer, options in CASES:
        plugin = made_by_cmake(a, name)
        first = probe(a, plugin, quantizer, options)
        compare(f"{quantizer}: g++, the older headers, in {in_a} and {in_b}", first, probe(b, plugin, quantizer, options))
        if name == "quant_nf4":
            continue
        clang = built_by_clang(args.clang, a, name)
        compare(f"{quantizer}: clang++ and g++, both in {in_a}", first, probe(a, clang, quantizer, options))
        compare(f"{quantizer}: clang++, in {in_a} and {in_b}", first, probe(b, clang, quantizer, options))
        newer = made_by_cmake(b, name)
        compare(f"{quantizer}: g++, the newer headers, in {in_a}", first, probe(a, newer, quantizer, options))
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
