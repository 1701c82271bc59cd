#!/usr/bin/env python3
"""Seeds for fuzz_safetensors: small good files, and one of each kind of damage. Usage: make_safetensors_corpus.py corpus/fuzz_safetensors"""
import json
import pathlib
import struct
import sys


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
          "U16": 2, "U32": 4, "U64": 8, "C64": 8}


def seeds():
    yield "empty_object", file({})
    yield "one", file({"a": entry("F32", [2], 0, 8)}, bytes(8))
    position, header = 0, {"__metadata__": {"format": "pt"}}
    for name, size in DTYPES.items():
        header["t." + name] = entry(name, [3], position, position + 3 * size)
        position += 3 * size
    yield "all_dtypes", file(header, bytes(position))
    yield "scalar_and_empty", file({"s": entry("I64", [], 0, 8), "e": entry("F32", [0, 3], 8, 8)}, bytes(8))
    yield "padded", file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}      ', b"x")
    yield "layers", file({f"model.layers.{i}.w": entry("BF16", [2, 2], 8 * i, 8 * i + 8) for i in range(6)}, bytes(48))
    yield "overlap", file({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, bytes(6))
    yield "gap", file({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12))
    yield "beyond", file({"a": entry("F32", [1], 4, 8)}, bytes(4))
    yield "huge_shape", file({"a": entry("F32", [4611686018427387904, 4], 0, 0)})
    yield "zero_times_huge", file({"a": entry("U8", [0, 4611686018427387904, 4], 0, 0)})
    yield "negative", file({"a": entry("F32", [-1], -4, 0)})
    yield "big_numbers", file(b'{"a":{"dtype":"F32","shape":[1e400,18446744073709551615],"data_offsets":[0,18446744073709551615]}}')
    yield "twice", file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
    yield "deep", file(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}")
    yield "unknown_dtype", file({"a": entry("F4", [2], 0, 1)}, b"x")
    yield "escapes", file(b'{"\\u0000\\ud83d\\ude00\\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
    yield "bad_utf8", file(b'{"\xff\xfe":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
    yield "length_zero", file(b"", b"x", 0)
    yield "length_beyond", file({}, b"", 1000)
    yield "length_huge", file({}, b"", 2**64 - 1)
    yield "length_over_limit", file({}, b"", 100_000_001)
    yield "lfs_pointer", b"version https://git-lfs.github.com/spec/v1\n"


folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for seed, contents in seeds():
    (folder / seed).write_bytes(contents)
