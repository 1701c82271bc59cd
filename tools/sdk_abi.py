#!/usr/bin/env python3
"""The C border of the stable tier against the golden file of each release: sdk_abi.py [--write] [--self-test]

A plugin in the field reads these structs at the offsets that it was compiled with. A member that moves, changes its type or its size makes it call
a wrong function or write into foreign memory: no error, a crash or wrong numbers. So every member of every struct that a release had must be where it was;
structs that begin with `size` may grow at their end, all others not at all; constants keep their values.

--write writes the golden file of the SDK's present version. --self-test breaks copies of the header and expects each to be found.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "sdk/include"
GOLDEN = ROOT / "tests/abi/golden"
# Header, and the structs in it that cross the border ("": all).
HEADERS = [("tenon/stable/abi.h", ""), ("tenon/manifest.h", "Manifest|CxxAbi")]


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def declarators(declaration: str) -> list[tuple[str, str]]:
    """(name, type) of each member that one declaration declares."""
    declaration = re.sub(r"\s*=\s*[^,;]+", "", " ".join(declaration.split()))
    function = re.match(r"^(.*)\(\*(\w+)\)(\(.*\))$", declaration)
    if function:
        # Names of parameters are no part of the type.
        parameters = [re.sub(r"\b(\w+)$", "", p).strip() if len(re.findall(r"\w+", p)) > 1 and not p.endswith("*") else p.strip()
                      for p in re.split(r",(?![^(]*\))", function[3][1:-1])]
        return [(function[2], f"{function[1].strip()}(*)({', '.join(parameters)})")]
    kind, rest = re.match(r"^((?:const |struct |enum )*[\w:]+(?:\s*\*+\s*(?:const\s*\*?)?)?)\s*(.*)$", declaration).groups()
    return [(re.match(r"\w+", part.strip())[0], kind.strip() + "".join(re.findall(r"\[.*\]", part))) for part in rest.split(",")]


def structs_of(text: str, wanted: str) -> dict[str, list[tuple[str, str]]]:
    found = {}
    for match in re.finditer(r"\bstruct (\w+) \{(.*?)^\}", text, re.S | re.M):
        name, body = match.groups()
        if wanted and not re.fullmatch(wanted, name):
            continue
        body = re.sub(r"union \{(.*?)\} (\w+);", lambda u: f"union_{u[2]} {u[2]};", body, flags=re.S)
        members = [member for declaration in body.split(";") if declaration.strip() for member in declarators(declaration)]
        found[name] = members
        for union in re.finditer(r"union \{(.*?)\} (\w+);", match[2], re.S):
            for declaration in union[1].split(";"):
                if declaration.strip():
                    found[name] += [(f"{union[2]}.{member}", kind) for member, kind in declarators(declaration)]
    return found


def constants_of(text: str) -> list[str]:
    return re.findall(r"\b(TENON_[A-Z_]+)\b(?=\s*[,=}])", text)


def measure(include: pathlib.Path) -> dict:
    """What the compiler says about the headers under `include`."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    structs, constants, prints = {}, [], []
    for header, wanted in HEADERS:
        text = without_comments((include / header).read_text())
        structs |= structs_of(text, wanted)
        if not wanted:
            constants += constants_of(text)
    for name, members in structs.items():
        prints.append(f'std::printf("struct %s %zu\\n", "{name}", sizeof({name}));')
        for member, kind in members:
            prints.append(f'std::printf("member %s %zu %zu\\n", "{member}", offsetof({name}, {member}), sizeof((({name}*)nullptr)->{member}));')
    prints += [f'std::printf("constant {name} %d\\n", static_cast<int>({name}));' for name in constants]
    source = "".join(f'#include "{header}"\n' for header, _ in HEADERS)
    source += "#include <cstddef>\n#include <cstdio>\nusing namespace tenon;\nint main() {\n" + "\n".join(prints) + "\n}\n"
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder, "measure")
        pathlib.Path(folder, "measure.cpp").write_text(source)
        subprocess.run([*compiler, "-std=c++20", "-Wno-invalid-offsetof", f"-I{include}", f"{program}.cpp", "-o", str(program)], check=True)
        lines = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()
    layout = {"structs": {}, "constants": {}}
    kinds = iter([])
    for line in lines:
        what, name, *numbers = line.split()
        if what == "struct":
            current = layout["structs"][name] = {"size": int(numbers[0]), "members": []}
            kinds = iter(structs[name])
        elif what == "member":
            current["members"].append([name, next(kinds)[1], *map(int, numbers)])
        else:
            layout["constants"][name] = int(numbers[0])
    return layout


def drift(golden: dict, now: dict) -> list[str]:
    """What of an earlier release's promise does not hold any more."""
    finds = []
    for name, old in golden["structs"].items():
        new = now["structs"].get(name)
        if new is None:
            finds.append(f"struct {name} is gone")
            continue
        may_grow = old["members"][0][0] == "size" and name != "Manifest"
        if new["size"] < old["size"] or (new["size"] != old["size"] and not may_grow):
            finds.append(f"struct {name} has {new['size']} bytes, it had {old['size']}" + ("" if may_grow else " and is frozen"))
        for index, member in enumerate(old["members"]):
            is_there = new["members"][index] if index < len(new["members"]) else None
            if is_there != member:
                finds.append(f"struct {name}: member {index} was {describe(member)}, now it is {describe(is_there)}")
                break
        else:
            if not may_grow and len(new["members"]) > len(old["members"]):
                finds.append(f"struct {name} is frozen and has new members")
    for name, value in golden["constants"].items():
        if now["constants"].get(name) != value:
            finds.append(f"constant {name} was {value}, now it is {now['constants'].get(name)}")
    return finds


def describe(member: list | None) -> str:
    return f"'{member[0]}' ({member[1]}) at {member[2]}, {member[3]} bytes" if member else "nothing"


def version() -> str:
    text = (INCLUDE / "tenon/version.h").read_text()
    return ".".join(re.search(rf"TENON_SDK_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR"))


def self_test() -> None:
    """Each of these has happened to somebody."""
    breaks = [("a member between others", "  int32_t (*format)(", "  void* sneaked_in;\n  int32_t (*format)("),
              ("two members swapped", "  double min, max;", "  double max, min;"),
              ("a member gone", "  int32_t (*file_has)(tenon_file* file, const char* name);\n", ""),
              ("a narrower member", "  int64_t block;", "  int32_t block;"),
              ("another parameter", "(*cuda_stream)(tenon_call* call, int32_t device_index,", "(*cuda_stream)(tenon_call* call, int64_t device_index,"),
              ("a frozen struct that grows", "  int64_t start, length;\n", "  int64_t start, length, stride;\n"),
              ("another constant", "TENON_USE_DEFAULT = 1", "TENON_USE_DEFAULT = 2")]
    golden = measure(INCLUDE)
    grown = ("  int64_t quantizer_count;\n", "  int64_t quantizer_count;\n  void* later;\n")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cp", "-r", str(INCLUDE / "tenon"), folder], check=True)
        header = pathlib.Path(folder, "tenon/stable/abi.h")
        whole = header.read_text()
        for what, old, new in breaks:
            if old not in whole:
                sys.exit(f"self-test: the header has no '{old.strip()}' to break")
            header.write_text(whole.replace(old, new))
            finds = drift(golden, measure(pathlib.Path(folder)))
            if not finds:
                sys.exit(f"self-test: {what} was not found")
            print(f"ok: {what}: {finds[0]}")
        header.write_text(whole.replace(*grown))
        if drift(golden, measure(pathlib.Path(folder))):
            sys.exit("self-test: growth at the end was refused")
        print("ok: growth at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    now, present = measure(INCLUDE), GOLDEN / f"{version()}.json"
    earlier = [path for path in sorted(GOLDEN.glob("*.json")) if not (args.write and path == present)]
    finds = [f"{path.name}: {find}" for path in earlier for find in drift(json.loads(path.read_text()), now)]
    if args.write and not finds:
        text = json.dumps(now, indent=1)
        present.write_text(re.sub(r"\[\s+([^\[\]]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n")
        print(f"{present.relative_to(ROOT)} written")
    elif not finds and (not present.exists() or json.loads(present.read_text()) != now):
        finds.append(f"the border has grown since {present.name} was written: tools/sdk_abi.py --write, and raise TENON_SDK_MINOR if {version()} is out")
    if finds:
        sys.exit("\n".join(["the C border of the stable tier has drifted (sdk/include/tenon/stable/abi.h):", *finds]))
    members = sum(len(struct["members"]) for struct in now["structs"].values())
    print(f"{len(now['structs'])} structs, {members} members, {len(now['constants'])} constants: as in {', '.join(path.stem for path in sorted(GOLDEN.glob('*.json')))}")


if __name__ == "__main__":
    main()
