#!/usr/bin/env python3
"""Rewrite tools/requirements/*.txt: resolve the pins below with pip and record the hash of each wheel. `lock.py gptqmodel` writes that part alone.

Run by hand when a pin changes; `./dev setup` only reads the result. Needs pip >= 23.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import wheels

FOLDER = pathlib.Path(__file__).parent / "requirements"
LIBTORCH = ["2.11.0", "2.15.0"]
CUDA = ["nvidia-cuda-nvcc==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-crt==13.0.88",
        "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cccl==13.0.85"]
TOOLS = ["cmake==3.31.10"]
PARITY = ["torch==2.11.0", "transformers==5.23.0", "peft==0.21.2", "bitsandbytes==0.50.2", "trl==1.16.0",
          "accelerate==1.15.0", "datasets==5.2.0", "numpy==2.4.6", "sentencepiece==0.2.3", "tiktoken==0.14.0",
          "gguf==0.19.0", "pytest==9.2.0", "torchvision==0.26.0", "pillow==13.0.0"]
# How transformers reads sounds, and Mistral's tokenizer. Resolved apart, because mistral-common asks for an older numpy than the pin above; it runs with this one.
PARITY_SOUND = ["soundfile==0.14.0", "soxr==1.1.0", "mistral-common==1.13.1", "tiktoken==0.14.0"]
# GPTQModel, for `./dev gptqmodel`: it and some of what it needs come as sources, which want setuptools and an importable torch to be built.
GPTQMODEL = ["torch==2.15.0", "transformers==5.24.0", "accelerate==1.15.0", "datasets==5.2.0", "numpy==2.4.6", "optimum==2.3.0", "torchao==0.18.0", "httpx2==2.16.2",
             "threadpoolctl==3.8.0", "packaging==26.4", "protobuf==7.36.2", "pillow==13.0.0", "pyarrow==26.0.1", "dill==0.4.1", "ninja==1.13.2",
             "maturin==1.16.0", "requests==2.34.2", "setuptools==84.2.1", "wheel"]
GPTQMODEL_SOURCES = ["gptqmodel==7.7.0", "pypcre==0.6.4", "tokenicer==0.0.14", "logbar==0.4.15", "device-smi==0.5.7", "defuser==0.0.28"]
# What libtorch_cpu links; the rest of CUDA is for machines that have a GPU, and for Python's torch.
CPU_LIBRARIES = {"torch", "nvidia-cuda-runtime", "nvidia-cuda-cupti"}
# Compilers for CUDA code and bindings that no CPU run imports.
LEFT_OUT = {"triton", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "nvidia-cuda-cccl"}


def resolve(specs: list[str], *, deps: bool, wheel: bool = True) -> dict[str, str]:
    """Requirement lines by package name, of wheels or of sources."""
    with tempfile.TemporaryDirectory() as scratch:
        report = pathlib.Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--target", scratch, "--report", str(report), *(wheels.TAGS if wheel else ["--no-binary=:all:"]), *specs]
        subprocess.run(command + ([] if deps else ["--no-deps"]), check=True)
        installs = json.loads(report.read_text())["install"]
    lines = {}
    for item in installs:
        name = item["metadata"]["name"].lower().replace("_", "-")
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines[name] = f"{name}=={item['metadata']['version']} --hash=sha256:{digest}"
    return lines


def write(name: str, why: str, lines: list[str]) -> None:
    text = f"# {why}. Written by tools/lock.py.\n" + "".join(line + "\n" for line in sorted(lines))
    (FOLDER / f"{name}.txt").write_text(text)
    print(f"{name}: {len(lines)} packages")


def write_gptqmodel() -> None:
    write("gptqmodel", "What GPTQModel needs; its torch is the LibTorch of that version",
          [line for name, line in resolve(GPTQMODEL, deps=True).items()
           if name != "torch" and name not in LEFT_OUT and not name.startswith("nvidia-")])
    # Their metadata is built without what they ask of a build but setuptools.
    write("gptqmodel-sources", "GPTQModel, and what it needs that has no wheel",
          list(resolve(GPTQMODEL_SOURCES, deps=False, wheel=False).values()))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    if sys.argv[1:] == ["gptqmodel"]:
        return write_gptqmodel()
    write("tools", "Build tools newer than the distribution's", list(resolve(TOOLS, deps=False).values()))
    write("cuda-13.0", "The CUDA toolkit: compiler, headers, static runtime", list(resolve(CUDA, deps=False).values()))
    for version in LIBTORCH:
        found = resolve([f"torch=={version}"], deps=True)
        nvidia = {name: line for name, line in found.items() if name.startswith("nvidia-") and name not in LEFT_OUT}
        write(f"libtorch-{version}", f"LibTorch {version} and the libraries that its CPU half links",
              [line for name, line in found.items() if name in CPU_LIBRARIES])
        write(f"libtorch-{version}-cuda", f"What LibTorch {version} needs besides to run on a GPU, and under Python",
              [line for name, line in nvidia.items() if name not in CPU_LIBRARIES])
    parity = {**resolve(PARITY_SOUND, deps=True), **resolve(PARITY, deps=True)}
    write("parity", "The libraries that tests/parity compares with; their torch is LibTorch's own",
          [line for name, line in parity.items()
           if name != "torch" and name not in LEFT_OUT and not name.startswith("nvidia-")])
    write_gptqmodel()


if __name__ == "__main__":
    main()
