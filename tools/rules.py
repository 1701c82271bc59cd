#!/usr/bin/env python3
"""The rules of the house that a compiler does not know: rules.py [--fix-format] [--headers BUILD]

Each rule is one case; the last line counts them. --headers also compiles each header alone, with BUILD's flags, and compares the recipe
reference with what BUILD's host says.
"""
import argparse
import concurrent.futures
import difflib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)


def tracked() -> list[pathlib.Path]:
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for path in map(pathlib.Path, listing.stdout.splitlines()) if (ROOT / path).is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix in (".cpp", ".h", ".cu", ".cuh")]
TEXTS = [path for path in FILES if path.suffix in (".cpp", ".h", ".cu", ".cuh", ".rs", ".py", ".sh", ".cmake", ".md", ".toml", ".txt", ".json")
         or path.name in ("dev", "run", ".clang-format")]


def text(path: pathlib.Path) -> str:
    return (ROOT / path).read_text(errors="replace")


def under(*rooms: str) -> list[pathlib.Path]:
    return [path for path in SOURCES if path.parts[0] in rooms]


# Each rule returns what breaks it, one line per find.

def the_host_names_no_plugin() -> list[str]:
    """A quantizer, architecture or objective known to the host by name could not be replaced by a third party's."""
    result = subprocess.run(["grep", "-rnwiE", "nf4|llama|lora|sft", "framework/"], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.splitlines()


def plugins_include_only_the_sdk() -> list[str]:
    """Our plugins are built as third parties' are; framework/ is not installed."""
    finds = []
    for path in under("plugins"):
        for name in INCLUDE.findall(text(path)):
            local = (ROOT / path.parent / name).exists()
            if not local and ((ROOT / "framework" / name).exists() or (ROOT / "plugins" / name).exists() or ".." in name):
                finds.append(f"{path}: includes {name}")
    return finds


def sdk_headers_include_std_and_torch() -> list[str]:
    """Another version of fmt, toml++ or Boost in a plugin must not meet ours."""
    banned = re.compile(r"^(fmt|toml\+\+|boost|nlohmann|doctest)/|^torch/torch\.h$|^torch/all\.h$")
    return [f"{path}: includes {name}" for path in under("sdk") if "include" in path.parts
            for name in INCLUDE.findall(text(path)) if banned.match(name)]


def json_has_one_door() -> list[str]:
    """nlohmann's templates cost 2 s per file that sees them, and its exceptions need one place that converts them."""
    return [f"{path}: includes {name}" for path in under("framework", "sdk", "plugins")
            for name in INCLUDE.findall(text(path)) if name.startswith("nlohmann/") and path != pathlib.Path("framework/base/json.cpp")]


def sources_are_ascii() -> list[str]:
    return [f"{path}:{number}: {line.strip()[:80]}" for path in SOURCES
            for number, line in enumerate(text(path).splitlines(), 1) if not line.isascii()]


def no_path_of_one_machine() -> list[str]:
    """A path that exists on the author's machine only."""
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/\w")
    return [f"{path}:{number}: {line.strip()[:100]}" for path in TEXTS if path != pathlib.Path("tools/rules.py")
            for number, line in enumerate(text(path).splitlines(), 1) if pattern.search(line)]


def headers_have_pragma_once() -> list[str]:
    return [str(path) for path in SOURCES if path.suffix == ".h" and "#pragma once" not in text(path)]


def a_file_answers_one_question() -> list[str]:
    """700 lines is where a file has two."""
    return [f"{path}: {lines} lines" for path in SOURCES for lines in [text(path).count("\n")] if lines > 700]


def shell_scripts_parse() -> list[str]:
    scripts = [path for path in FILES if path.suffix == ".sh" or str(path) in ("dev", ".ci/run")]
    results = [subprocess.run(["bash", "-n", str(path)], cwd=ROOT, capture_output=True, text=True) for path in scripts]
    return [result.stderr for result in results if result.returncode]


def sources_are_formatted() -> list[str]:
    command = ["clang-format", "--dry-run", "--Werror", *map(str, SOURCES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = {line.split(":")[0] for line in result.stderr.splitlines() if re.match(r"\S+:\d+:\d+: error:", line)}
    return [f"{path}: run ./dev fmt" for path in sorted(lines)]


def listings_are_the_files() -> list[str]:
    """A listing under <!-- file: PATH --> is that file, which a test compiles."""
    listing = re.compile(r"^<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.M | re.S)
    return [f"{path}: the listing of {name} is not the file" for path in FILES if path.suffix == ".md"
            for name, shown in listing.findall(text(path)) if shown != text(pathlib.Path(name))]


def partial_listings_are_in_the_files() -> list[str]:
    """A listing under <!-- part: PATH --> stands in that file word for word."""
    listing = re.compile(r"^<!-- part: (\S+) -->\n```\w*\n(.*?)^```$", re.M | re.S)
    return [f"{path}: the listing is no part of {name}" for path in FILES if path.suffix == ".md"
            for name, shown in listing.findall(text(path)) if shown not in text(pathlib.Path(name))]


def links_lead_somewhere() -> list[str]:
    link = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
    return [f"{path}: {target}" for path in FILES if path.suffix == ".md" for target in link.findall(text(path))
            if not (ROOT / path.parent / target).exists()]


RULES = [the_host_names_no_plugin, plugins_include_only_the_sdk, sdk_headers_include_std_and_torch, json_has_one_door,
         sources_are_ascii, no_path_of_one_machine, headers_have_pragma_once,
         a_file_answers_one_question, shell_scripts_parse, listings_are_the_files, partial_listings_are_in_the_files, links_lead_somewhere, sources_are_formatted]


def flags_for(commands: list[dict], path: pathlib.Path) -> list[str] | None:
    """The flags of a source in the header's folder, else in its room; its outputs and inputs left out."""
    def nearness(entry: dict) -> tuple:
        folder = pathlib.Path(entry["file"]).relative_to(ROOT).parts[:-1]
        return (folder == path.parts[:-1], folder[:2] == path.parts[:2], folder[:1] == path.parts[:1], len(entry["command"]))
    ours = [entry for entry in commands if entry["file"].startswith(str(ROOT)) and entry["file"].endswith(".cpp")]
    if not ours:
        return None
    words = shlex.split(max(ours, key=nearness)["command"])
    kept = [word for word in words if word.startswith(("-I", "-D", "-std=", "-m", "-fPIC"))]
    kept += [piece for index, word in enumerate(words) if word == "-isystem" for piece in (word, words[index + 1])]
    return [next(word for word in words if not word.endswith("ccache")), *kept]


def headers_compile_alone(build: pathlib.Path) -> list[str]:
    """Each header includes what it uses."""
    commands = json.loads((build / "compile_commands.json").read_text())

    def check(path: pathlib.Path) -> str:
        flags = flags_for(commands, path) or ["c++"]
        # The conformance kit is included from sdk/; what the stable tier needs, its plugins get from CMake.
        flags = [*flags, f"-I{ROOT / 'sdk'}"]
        of_the_tier = path.parts[0] != "framework" and ("stable" in path.parts or "tenon/stable/" in text(path))
        if of_the_tier and not any("TORCH_TARGET_VERSION" in flag for flag in flags):
            flags.append("-DTORCH_TARGET_VERSION=0x020b000000000000")
        command = [*flags, "-fsyntax-only", "-x", "c++", str(ROOT / path)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=build)
        return "" if result.returncode == 0 else f"{path}: {result.stderr[:600]}"

    headers = [path for path in under("sdk", "framework", "plugins") if path.suffix == ".h" and "templates" not in path.parts
               and not path.name.endswith("_body.h")]  # a body is made whole by the file that includes it
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("TENON_JOBS", os.cpu_count() or 1))) as pool:
        return [find for find in pool.map(check, headers) if find]


def the_recipe_reference_is_current(build: pathlib.Path) -> list[str]:
    """docs/recipe.md is made from the tables that the host checks recipes with: build/bin/host __docs recipe >docs/recipe.md"""
    made = subprocess.run([str(build / "bin/host"), "__docs", "recipe"], capture_output=True, text=True)
    if made.returncode:
        return [made.stderr]
    ours = text(pathlib.Path("docs/recipe.md")).splitlines()
    return [line for line in difflib.unified_diff(ours, made.stdout.splitlines(), "docs/recipe.md", "host __docs recipe", lineterm="", n=0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix-format", action="store_true")
    parser.add_argument("--headers", metavar="BUILD", type=pathlib.Path)
    options = parser.parse_args()
    if options.fix_format:
        sys.exit(subprocess.run(["clang-format", "-i", *map(str, SOURCES)], cwd=ROOT).returncode)
    total = {"passed": 0, "failed": 0, "skipped": 0}
    rules = [(rule, rule) for rule in RULES]
    if options.headers:
        rules.append((the_recipe_reference_is_current, lambda: the_recipe_reference_is_current(options.headers.resolve())))
        rules.append((headers_compile_alone, lambda: headers_compile_alone(options.headers.resolve())))
    for rule, run in rules:
        name = rule.__name__.replace("_", " ")
        if rule is sources_are_formatted and not shutil.which("clang-format"):
            print(f"SKIP {name}: no clang-format")
            total["skipped"] += 1
            continue
        finds = run()
        total["failed" if finds else "passed"] += 1
        print(f"{'FAILED' if finds else 'ok'}  {name}" + (f": {rule.__doc__}" if finds and rule.__doc__ else ""))
        for find in finds[:20]:
            print(f"    {find}")
        if len(finds) > 20:
            print(f"    and {len(finds) - 20} more")
    print(", ".join(f"{number} {word}" for word, number in total.items()))
    sys.exit(1 if total["failed"] else 0)


if __name__ == "__main__":
    main()
