#!/usr/bin/env python3
"""tenon as others get it: installed, found by find_package, extended by a plugin and embedded in a program.

    install_test.py BUILD LIBTORCH CMAKE COMPILER

Installs BUILD into a fresh prefix, builds examples/embed and tests/install/rtn against it and nothing else, and runs both.
"""
import json
import pathlib
import re

from support import HERE, LIBTORCH, ROOT, build_copy, check, installed, run

PROMPT = "Once"


def model() -> tuple[pathlib.Path, str]:
    """A checkpoint with weights where there is one; else the quickstart's config with random weights."""
    quickstart = ROOT / "examples/quickstart/model"
    for folder in (quickstart, ROOT.parent / "shared/data/models/stories260K"):
        if (folder / "model.safetensors").exists():
            return folder, "pretrained"
    print("no checkpoint with weights is here: random ones serve")
    return quickstart, "random"


def main() -> None:
    with installed() as (work, host):
        prefix = work / "prefix"
        listed = json.loads(run(host, "plugins", "list", "--json", "--no-plugins").stdout)
        check(bool(listed), "the installed host finds its bundled plugins")

        plugin = build_copy(HERE / "rtn", prefix, work / "rtn") / "librtn.so"
        embed = build_copy(ROOT / "examples/embed", prefix, work / "embed") / "embed"
        stable = build_copy(ROOT / "tests/stable/outside", prefix, work / "stable", ROOT / "tests/stable/rtn.cpp") / "libstable_rtn.so"
        symbols = run("nm", "-D", "--defined-only", stable).stdout.split()[2::3]
        check(set(symbols) == {"tenon_plugin_manifest", "tenon_plugin_entry_v1"}, f"the stable plugin likewise: {symbols}")
        needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", stable).stdout)
        check(not any("torch" in name or "c10" in name or "tenon" in name for name in needed), f"and links nothing of LibTorch or tenon: {needed}")
        check("clip" in run(host, "plugins", "describe", "stable_rtn", "--plugin", stable).stdout, "the host describes it")
        symbols = run("nm", "-D", "--defined-only", plugin).stdout.split()[2::3]
        check(set(symbols) == {"tenon_plugin_manifest", "tenon_plugin_register"}, f"the plugin exports its manifest and entry alone: {symbols}")
        for file in (plugin, stable):
            told = [str(place) for place in (work, ROOT, LIBTORCH) if str(place).encode() in file.read_bytes()]
            check(not told, f"{file.name} holds no path of the machine that built it {told}")
        described = run(host, "plugins", "describe", "rtn", "--plugin", plugin).stdout
        check("clip" in described, "the installed host describes the plugin's option")

        folder, init = model()
        (work / "text.jsonl").write_text("".join(json.dumps({"text": f"Once there was a beaver, number {i}."}) + "\n" for i in range(4)))

        def recipe(name: str, extra: str) -> pathlib.Path:
            file = work / f"{name}.toml"
            file.write_text(f'[model]\npath = "{folder}"\ninit = "{init}"\ndtype = "float32"\n\n[generate]\nmax_new_tokens = 8\n\n{extra}')
            return file

        dense, rtn = recipe("dense", ""), recipe("rtn", '[quantizer]\ntype = "rtn"\n')
        plans = [json.loads(run(host, "plan", file, "--json", "--plugin", plugin).stdout) for file in (dense, rtn)]
        fillers = {module["filler"] for module in plans[1]["modules"]}
        check("rtn" in fillers, f"the plan fills slots with rtn: {sorted(fillers)}")
        bytes_of = [plan["totals"]["weights"] for plan in plans]
        check(bytes_of[1] < bytes_of[0], f"the plan counts fewer bytes: {bytes_of[1]} against {bytes_of[0]}")

        unknown = run(host, "plan", recipe("typo", '[quantizer]\ntype = "rtn"\nclipp = 0.9\n'), "--plugin", plugin, expect=3).stderr
        check("did you mean 'clip'" in unknown and "typo.toml:11:" in unknown, "a misspelt option is a recipe error with its line and a suggestion")

        embedded = run(embed, rtn, PROMPT, plugin)
        check("weights: " in embedded.stderr, "the embedding program plans")
        ours = json.loads(run(host, "generate", rtn, "--prompt", PROMPT, "--json", "--plugin", plugin).stdout)[0]["text"]
        check(bool(ours) and embedded.stdout.rstrip("\n") == ours.rstrip("\n"), f"the embedding program and the host say the same: {ours!r}")
        check(run(embed, work / "absent.toml", PROMPT, expect=3).stderr.startswith("error: "), "an error reaches the embedding program as tenon::Error")

        twins = [json.loads(run(host, "generate", recipe(name, f'[quantizer]\ntype = "{name}"\n'), "--prompt", PROMPT, "--json", "--plugin", file).stdout)
                 for name, file in (("rtn", plugin), ("stable_rtn", stable))]
        check(twins[0][0]["text"] == twins[1][0]["text"], "the same quantizer in both tiers says the same")

        # What a quantizer need not bring: the host trains through it.
        trained = recipe("train", '[quantizer]\ntype = "rtn"\n\n[adapter]\ntype = "lora"\nr = 4\ntarget_modules = "all-linear"\n\n'
                         f'[data]\ntrain = ["{work}/text.jsonl"]\nformat = "completion"\nmax_length = 64\n\n'
                         f'[train]\nmax_steps = 12\nlearning_rate = 1e-2\nlr_scheduler_type = "constant"\n\n[output]\ndir = "{work}/out"\n')
        run(host, "run", trained, "--plugin", plugin)
        losses = [json.loads(line)["loss"] for line in (work / "out/metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        check(losses[-1] < losses[0], f"an adapter on it learns: loss {losses[0]:.3f} to {losses[-1]:.3f}")
        check((work / "out/adapter_model.safetensors").exists(), "and is saved")


if __name__ == "__main__":
    main()
