"""run.py [--repeat N] [--threads N] [--only start,load,decode,train,gptq,vision] [--quantizers nf4,int8] [--llamacpp PYTHON] [--gptqmodel PYTHON] [--write-docs]: host
beside its peers, in one run.

`./dev bench` calls it with the Python of the parity environment. Both sides get the same files, thread counts and warm page cache, and do the same work
(../shared/bench/peer_hf.py says which; framework/cli/bench.cpp is the host's side). Peaks are VmHWM after clear_refs. The 1.1 B parameter model is made
once, in build/bench. Results: a table on stdout, build/bench/results.json, and with --write-docs the tables of docs/performance.md."""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("TENON_SHARED", ROOT.parent / "shared"))
CACHE = pathlib.Path(os.environ.get("TENON_BENCH_CACHE", ROOT / "build" / "bench"))
HOST = os.environ.get("TENON_HOST", str(ROOT / "build" / "bin" / "host"))
SMALL_SIZES = "768 2048 12 12 12 32000".split()  # 134 M parameters: what GPTQ calibrates
SIZES = "2048 5632 22 32 4 32000".split()  # hidden, intermediate, layers, heads, KV heads, vocabulary: 1.1 B parameters
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

RECIPE = """[model]
path = "{model}"
dtype = "bfloat16"
device_map = "cpu"

[quantizer]
{quantizer}
"""
QUANTIZERS = {"nf4": 'type = "nf4"\ndouble_quant = true\ncompute_dtype = "bfloat16"', "int8": 'type = "int8"'}
TITLES = {"nf4": "NF4, double quant", "int8": "INT8"}
LLAMACPP = {"nf4": "q4_0", "int8": "q8_0"}
# What peer_hf.py trains with; the tokens come from bench.cpp, but a recipe that trains must name data and output.
TRAIN = """
[adapter]
type = "lora"
r = 16
lora_alpha = 16
lora_dropout = 0.05
target_modules = "all-linear"

[data]
train = ["unused.jsonl"]
format = "completion"

[train]
objective = "sft"
learning_rate = 1e-4
max_steps = 4
weight_decay = 0.01

[output]
dir = "unused"
"""


def run(command, env=None, timeout=3600, cwd=None):
    """-> (stdout, seconds). A command that fails ends the bench with what it said."""
    start = time.monotonic()
    done = subprocess.run([str(part) for part in command], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    seconds = time.monotonic() - start
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout, seconds


def note(text):
    print(text, file=sys.stderr, flush=True)


def threads_environment(threads):
    return os.environ | {"OMP_NUM_THREADS": str(threads), "TENON_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                         "TRANSFORMERS_VERBOSITY": "error"}


def make_model(env, name="llama-1b", sizes=SIZES):
    folder = CACHE / name
    if not (folder / "tokenizer.json").exists():  # the last file that is written
        note(f"making {name}, random bfloat16 weights, once ...")
        folder.parent.mkdir(parents=True, exist_ok=True)
        run([sys.executable, SHARED / "bench" / "make_llama.py", folder, *sizes], env)
    return folder


def warm(folder):
    """Puts the weights into the page cache."""
    buffer = bytearray(1 << 24)
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def parse(text):
    """The lines of peer_hf.py and of `host __bench`."""
    found = {}
    if match := re.search(r"imports ([\d.]+) s", text):
        found["imports_s"] = float(match[1])
    if match := re.search(r"load ([\d.]+) s, weights (\d+) MB, peak RSS (\d+) MB", text):
        found |= {"load_s": float(match[1]), "weights_mb": float(match[2]), "load_peak_mb": float(match[3])}
    if match := re.search(r"preprocess ([\d.]+) image/s", text):
        found["preprocess_ips"] = float(match[1])
    if match := re.search(r"prefill ([\d.]+) s, (\d+) tokens", text):
        found |= {"prefill_s": float(match[1]), "prompt_tokens": int(match[2])}
    if match := re.search(r"decode ([\d.]+) token/s", text):
        found["decode_tps"] = float(match[1])
    steps = re.findall(r"step (\d+): ([\d.]+) s, [\d.]+ token/s, peak RSS (\d+) MB", text)
    if steps:
        # The first step makes the optimizer's state and warms up: its peak counts, its time does not.
        found |= {"step_s": statistics.median(float(s) for i, s, _ in steps if i != "0"), "step_peak_mb": max(float(p) for _, _, p in steps)}
    return found


def merge(runs):
    """Medians of times and rates, the highest of peaks."""
    keys = {key for one in runs for key in one}
    pick = lambda key: max if key.endswith("peak_mb") else statistics.median
    return {key: pick(key)([one[key] for one in runs if key in one]) for key in keys}


def measure_start(env, folder, repeat):
    recipe = folder / "start.toml"
    recipe.write_text(RECIPE.format(model=ROOT / "examples" / "quickstart" / "model", quantizer=QUANTIZERS["nf4"]))
    # Fifty more files to judge: the plugins that came with this host, under other names.
    crowd = folder / "crowd"
    crowd.mkdir(mode=0o755)
    bundled = sorted((pathlib.Path(HOST).parent.parent / "lib" / "tenon" / "plugins").glob("*.so"))
    for i in range(50):
        shutil.copy(bundled[i % len(bundled)], crowd / f"p{i}.so")
        (crowd / f"p{i}.so").chmod(0o644)
    commands = {
        "host_help_s": [HOST, "--help"],
        "host_plugins_s": [HOST, "plugins", "list"],
        "host_plugins_50_s": [HOST, "plugins", "list", "--plugin-dir", crowd],
        "host_first_token_s": [HOST, "generate", recipe, "--prompt", "Once", "--max-new-tokens", "1"],
    }
    found = {}
    for name, command in commands.items():
        run(command, env)
        found[name] = statistics.median(run(command, env)[1] for _ in range(max(3, repeat)))
    imports = [sys.executable, "-c", "import torch, transformers, peft, bitsandbytes; from transformers import AutoModelForCausalLM; from peft import get_peft_model"]
    run(imports, env)
    found["peer_imports_s"] = statistics.median(run(imports, env)[1] for _ in range(max(3, repeat)))
    return found


def measure_host(env, folder, model, works, kind):
    text = ""
    light = [work for work in works if work in ("load", "decode")]
    if light:
        recipe = folder / "decode.toml"
        recipe.write_text(RECIPE.format(model=model, quantizer=QUANTIZERS[kind]))
        text += run([HOST, "__bench", recipe, *light], env)[0]
    if "train" in works:
        recipe = folder / "train.toml"
        recipe.write_text(RECIPE.format(model=model, quantizer=QUANTIZERS[kind]) + TRAIN)
        trained = run([HOST, "__bench", recipe, "train"], env)[0]
        text += trained if not light else "\n".join(line for line in trained.splitlines() if line.startswith("step"))
    return parse(text)


def measure_gptq(env, folder, repeat, python):
    """4 bits, groups of 128, 32 x 512 random tokens, as peer_gptq.py does. The host's figure is the whole load: reading, calibrating, quantizing."""
    model = make_model(env, "llama-134m", SMALL_SIZES)
    draw = random.Random(0)
    tokens = folder / "tokens.jsonl"
    tokens.write_text("".join(json.dumps({"input_ids": [draw.randrange(32000) for _ in range(512)]}) + "\n" for _ in range(32)))
    recipe = folder / "gptq.toml"
    recipe.write_text(RECIPE.format(model=model, quantizer='type = "gptq"\nbits = 4\ngroup_size = 128')
                      + f'[calibration]\nfiles = ["{tokens}"]\nsamples = 32\nlength = 512\n')
    host, peer = [], []
    for _ in range(repeat):
        warm(model)
        host.append(parse(run([HOST, "__bench", recipe, "load"], env)[0]))
        if python:
            text, _ = run([python, SHARED / "bench" / "peer_gptq.py", model], env | {"GPTQMODEL_DISABLE_PACK_EXT": "1"}, cwd=folder)  # it writes logs where it stands
            found = re.search(r"quantize ([\d.]+) s, peak RSS (\d+) MB", text)
            peer.append({"load_s": float(found[1]), "load_peak_mb": float(found[2])})
    return {"host": merge(host), "peer": merge(peer)}


def measure_vision(env, folder, repeat, host_only):
    """A LLaVA in bfloat16: pictures from files to tensors, one question about a picture until its first token, and the tokens after it."""
    model = CACHE / "llava-1b"
    if not (model / "processor_config.json").exists():  # the last file that is written
        note("making llava-1b, random bfloat16 weights, once ...")
        run([sys.executable, ROOT / "bench" / "make_llava.py", model], env)
    pictures = sorted((SHARED / "data" / "multimodal" / "images").glob("*.*"))
    for picture in pictures:
        shutil.copy(picture, folder)
    question = lambda picture: [{"role": "user", "content": [{"type": "image", "path": picture.name}, {"type": "text", "text": "What is this?"}]}]
    messages = folder / "messages.json"
    messages.write_text(json.dumps([question(picture) for picture in pictures]))
    recipe = folder / "vision.toml"
    recipe.write_text(RECIPE.split("[quantizer]")[0].format(model=model))
    host, peer = [], []
    for _ in range(repeat):
        warm(model)
        host.append(parse(run([HOST, "__bench", recipe, f"vision={messages}"], env)[0]))
        note(f"  {host[-1]}")
        if not host_only:
            peer.append(parse(run([sys.executable, ROOT / "bench" / "peer_vlm.py", model, messages], env)[0]))
            note(f"  {peer[-1]}")
    return {"host": merge(host), "peer": merge(peer)}


def measure_llamacpp(python, env, model):
    """-> by our name of the quantizer."""
    file = CACHE / "llama-1b.f16.gguf"
    if not file.exists():
        run([python, SHARED / "bench" / "llama_to_gguf.py", model, file], env)
    text, _ = run([python, SHARED / "bench" / "peer_llamacpp.py", file], env)
    found = {}
    for kind, theirs in LLAMACPP.items():
        if match := re.search(theirs + r": quantize ([\d.]+) s, prefill ([\d.]+) token/s, decode ([\d.]+) token/s", text):
            found[kind] = {"load_s": float(match[1]), "decode_tps": float(match[3])}
    return found


def machine(env):
    """What the figures were measured on; no names."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    flags = set(re.search(r"flags\s*: (.*)", info)[1].split()) if re.search(r"flags\s*: (.*)", info) else set()
    model = re.search(r"model name\s*: (.*)", info)
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / 1e6
    probe = "import torch,time\nx=torch.ones(1<<27)\nbest=9e9\nfor _ in range(5):\n t=time.time(); x.sum(); best=min(best,time.time()-t)\nprint(x.nbytes/best/1e9)"
    return {"cpu": model[1].strip() if model else "unknown", "threads": int(env["OMP_NUM_THREADS"]), "memory_gb": round(memory),
            "avx512_bf16": "avx512_bf16" in flags, "avx512f": "avx512f" in flags, "read_gb_s": round(float(run([sys.executable, "-c", probe], env)[0]), 1)}


def versions(env):
    names = "torch transformers peft bitsandbytes".split()
    text, _ = run([sys.executable, "-c", "from importlib.metadata import version as v\nfor n in %r: print(n, v(n))" % names], env)
    return ", ".join(text.split("\n")).strip(", ")


def seconds(value):
    return "-" if value is None else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def ratio(ours, theirs, lower_is_better=True):
    if not ours or not theirs:
        return "-"
    return f"{theirs / ours if lower_is_better else ours / theirs:.1f}x"


def rows_of(kind, host, peer, other):
    title, rows = TITLES[kind], []
    if "load_s" in host or "load_s" in peer:
        peak = lambda side: f"{side['load_peak_mb'] / 1e3:.2f} GB for {side['weights_mb'] / 1e3:.2f} GB" if "load_peak_mb" in side else "-"
        rows.append((f"load and quantize to {title}", seconds(host.get("load_s")), seconds(peer.get("load_s")), ratio(host.get("load_s"), peer.get("load_s")),
                     seconds(other.get("load_s"))))
        rows.append(("- its peak RSS, and the result", peak(host), peak(peer), ratio(host.get("load_peak_mb"), peer.get("load_peak_mb")), "-"))
    if "decode_tps" in host or "decode_tps" in peer:
        rate = lambda side: f"{side['decode_tps']:.1f} token/s" if "decode_tps" in side else "-"
        rows.append((f"decode, batch 1, {title}", rate(host), rate(peer), ratio(host.get("decode_tps"), peer.get("decode_tps"), False), rate(other)))
    if "step_s" in host or "step_s" in peer:
        peak = lambda side: f"{side['step_peak_mb'] / 1e3:.2f} GB" if "step_peak_mb" in side else "-"
        rows.append((f"LoRA step on {title}, 512 tokens, all-linear r16", seconds(host.get("step_s")), seconds(peer.get("step_s")), ratio(host.get("step_s"), peer.get("step_s")), "cannot"))
        rows.append(("- its peak RSS", peak(host), peak(peer), ratio(host.get("step_peak_mb"), peer.get("step_peak_mb")), "-"))
    return rows


def table(results):
    rows = [("work", "host", "transformers + bitsandbytes + PEFT", "ratio", "llama.cpp")]
    if start := results.get("start"):
        rows += [("start: `host --help`", seconds(start["host_help_s"]), "-", "-", "-"),
                 ("start: `host plugins list`", seconds(start["host_plugins_s"]), "-", "-", "-"),
                 ("start: `host plugins list` with 50 more plugin files", f"{1000 * start['host_plugins_50_s']:.0f} ms", "-", "-", "-"),
                 ("start to first token (small model; peer: imports alone)", seconds(start["host_first_token_s"]), seconds(start["peer_imports_s"]),
                  ratio(start["host_first_token_s"], start["peer_imports_s"]), "-")]
    for kind in QUANTIZERS:
        if kind in results:
            rows += rows_of(kind, results[kind]["host"], results[kind]["peer"], results.get("llamacpp", {}).get(kind, {}))
    if gptq := results.get("gptq"):
        host, peer = gptq["host"], gptq["peer"]
        rows.append(("GPTQ, 4 bits, groups of 128: Llama of 134 M, 32 x 512 tokens (peer: GPTQModel)", seconds(host.get("load_s")), seconds(peer.get("load_s")),
                     ratio(host.get("load_s"), peer.get("load_s")), "cannot"))
    if vision := results.get("vision"):
        host, peer = vision["host"], vision["peer"]
        rate = lambda side, key, unit: f"{side[key]:.1f} {unit}" if key in side else "-"
        rows += [("pictures to tensors, one by one (LLaVA: 336 x 336)", rate(host, "preprocess_ips", "image/s"), rate(peer, "preprocess_ips", "image/s"),
                  ratio(host.get("preprocess_ips"), peer.get("preprocess_ips"), False), "-"),
                 (f"LLaVA of 1.4 B, bfloat16: a picture and {host.get('prompt_tokens')} tokens to the first token", seconds(host.get("prefill_s")), seconds(peer.get("prefill_s")),
                  ratio(host.get("prefill_s"), peer.get("prefill_s")), "-"),
                 ("- the tokens after it", rate(host, "decode_tps", "token/s"), rate(peer, "decode_tps", "token/s"), ratio(host.get("decode_tps"), peer.get("decode_tps"), False), "-")]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def describe(results):
    m = results["machine"]
    extensions = "AVX-512 with BF16" if m["avx512_bf16"] else "AVX-512" if m["avx512f"] else "no AVX-512"
    return (f"Measured {results['date']} on {m['cpu']}, {m['threads']} threads, {extensions}, {m['memory_gb']} GB of memory read at {m['read_gb_s']} GB/s; "
            f"peers: {results['versions']}. Medians of {results['repeat']}; ratio: how many times better the host is.")


def write_docs(results):
    page = ROOT / "docs" / "performance.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{describe(results)}\n\n{table(results)}\n{END}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="start,load,decode,train,gptq,vision")
    parser.add_argument("--quantizers", default=",".join(QUANTIZERS))
    parser.add_argument("--host-only", action="store_true", help="do not run the peers")
    parser.add_argument("--llamacpp", help="a Python with llama_cpp and gguf")
    parser.add_argument("--gptqmodel", default=os.environ.get("TENON_GPTQMODEL"), help="a Python with gptqmodel; by default what ./dev gptqmodel made")
    parser.add_argument("--write-docs", action="store_true")
    arguments = parser.parse_args()
    works = arguments.only.split(",")
    if unknown := set(works) - {"start", "load", "decode", "train", "gptq", "vision"}:
        parser.error(f"unknown work {sorted(unknown)}, expected start, load, decode, train, gptq or vision")
    if unknown := set(arguments.quantizers.split(",")) - set(QUANTIZERS):
        parser.error(f"unknown quantizers {sorted(unknown)}, expected {', '.join(QUANTIZERS)}")
    if not (SHARED / "bench" / "peer_hf.py").exists():
        sys.exit(f"SKIP bench: the peers' scripts are not at {SHARED / 'bench'}; set TENON_SHARED")
    if not os.path.exists(HOST):
        sys.exit(f"bench: there is no {HOST}: run ./dev build first, or set TENON_HOST")

    env = threads_environment(arguments.threads)
    results = {"date": time.strftime("%Y-%m-%d"), "repeat": arguments.repeat, "machine": machine(env), "versions": versions(env)}
    heavy = [work for work in works if work not in ("start", "gptq", "vision")]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if "start" in works:
            note("start ...")
            results["start"] = measure_start(env, folder, arguments.repeat)
        if "gptq" in works:
            note("gptq ...")
            results["gptq"] = measure_gptq(env, folder, arguments.repeat, arguments.gptqmodel)
        if "vision" in works:
            note("vision ...")
            results["vision"] = measure_vision(env, folder, arguments.repeat, arguments.host_only)
        if heavy:
            model = make_model(env)
            for kind in arguments.quantizers.split(","):
                host, peer = [], []
                for i in range(arguments.repeat):
                    warm(model)
                    note(f"{kind}, run {i + 1} of {arguments.repeat}: host ...")
                    host.append(measure_host(env, folder, model, heavy, kind))
                    note(f"  {host[-1]}")
                    if not arguments.host_only:
                        note(f"{kind}, run {i + 1} of {arguments.repeat}: transformers + bitsandbytes + PEFT ...")
                        peer.append(parse(run([sys.executable, SHARED / "bench" / "peer_hf.py", model, kind, *heavy], env)[0]))
                        note(f"  {peer[-1]}")
                results[kind] = {"host": merge(host), "peer": merge(peer)}
            if arguments.llamacpp:
                note("llama.cpp ...")
                results["llamacpp"] = measure_llamacpp(arguments.llamacpp, env, model)
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(describe(results) + "\n\n" + table(results))
    if arguments.write_docs:
        write_docs(results)


if __name__ == "__main__":
    main()
