"""quality.py [--gptqmodel PYTHON] [--write-docs]: what each quantizer costs in perplexity, the host beside its peers on the same windows of the same text.

Run it with the Python of the parity environment; PYTHON is one that imports gptqmodel. Models and text are those of ../shared/data: trained ones, small.
Calibration sees the first part of the text, perplexity is measured on the rest. Results: a table on stdout, with --write-docs in docs/quality.md."""
import argparse
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("TENON_SHARED", ROOT.parent / "shared"))
sys.path.insert(0, str(ROOT / "tests" / "parity"))  # its readers of packed weights, its worker in GPTQModel's environment
HOST = os.environ.get("TENON_HOST", str(ROOT / "build" / "bin" / "host"))
MODELS = ("babyllama-105", "stories260K")
SAMPLES, LENGTH, EVAL_ROWS = 128, 256, 240
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"

# label -> the recipe's quantizer, and what the peer needs to do the same.
CASES = {"dense": (None, None), "INT8": ({"type": "int8"}, {"load_in_8bit": True})}
for kind in ("nf4", "fp4"):
    for nested in (False, True):
        CASES[kind.upper() + (", double quant" if nested else "")] = (
            {"type": kind, "double_quant": nested},
            {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested})
for bits in (4, 3, 2):
    for order in ("plain", "act_group_aware", "desc_act"):
        CASES[f"GPTQ {bits} bits, {order}"] = (
            {"type": "gptq", "bits": bits, "group_size": 32, "desc_act": order == "desc_act", "act_group_aware": order == "act_group_aware"}, "gptqmodel")


class Mt19937_64:
    """std::mt19937_64: the windows of [calibration] are drawn with it."""

    def __init__(self, seed):
        self.mt = [seed]
        for i in range(1, 312):
            self.mt.append((6364136223846793005 * (self.mt[-1] ^ self.mt[-1] >> 62) + i) % (1 << 64))
        self.at = 312

    def draw(self):
        if self.at == 312:
            for i in range(312):
                x = self.mt[i] & 0xFFFFFFFF80000000 | self.mt[(i + 1) % 312] & 0x7FFFFFFF
                self.mt[i] = self.mt[(i + 156) % 312] ^ x >> 1 ^ (0xB5026F5AA96619E9 if x & 1 else 0)
            self.at = 0
        x = self.mt[self.at]
        self.at += 1
        x ^= x >> 29 & 0x5555555555555555
        x ^= x << 17 & 0x71D67FFFEDA60000
        x ^= x << 37 & 0xFFF7EEE000000000
        return x ^ x >> 43


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value)


def recipe(file, model, quantizer, rows, calibration, out):
    lines = ["[model]", f"path = {toml(str(model))}", 'dtype = "float32"', 'device_map = "cpu"']
    if quantizer:
        lines += ["[quantizer]"] + [f"{key} = {toml(value)}" for key, value in quantizer.items()]
        if quantizer["type"] == "gptq":
            lines += ["[calibration]", f"files = [{toml(str(calibration))}]", f"samples = {SAMPLES}", f"length = {LENGTH}"]
    lines += ["[data]", f"eval = [{toml(str(rows))}]", 'format = "tokenized"', f"max_length = {LENGTH}", "[output]", f"dir = {toml(str(out))}"]
    file.write_text("\n".join(lines) + "\n")
    return file


def run(command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"quality: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout


def host_perplexity(file):
    return json.loads(run([HOST, "eval", file, "--json"]))["perplexity"]


def peer_perplexity(model, rows):
    """Of a transformers model: mean negative log-likelihood of the predicted tokens of all rows."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(rows), 16):
            ids = torch.tensor(rows[first : first + 16])
            logits = model(ids, use_cache=False).logits[:, :-1].float()
            total += torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum").item()
            count += ids[:, 1:].numel()
    return math.exp(total / count)


def bitsandbytes_model(folder, settings):
    import torch
    import transformers

    if settings:
        settings = transformers.BitsAndBytesConfig(**settings, **({"bnb_4bit_compute_dtype": torch.float32} if "load_in_4bit" in settings else {}))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **({"quantization_config": settings} if settings else {}))
    if settings and settings.load_in_4bit:
        make_dense(model)
    return model.eval()


def make_dense(model):
    """Its 4-bit layers as bitsandbytes' generic path dequantizes them: the one for AVX-512 takes wrong values, or fails, where rows do not end with a block."""
    import torch
    from bitsandbytes.nn import Linear4bit

    import test_nf4

    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            dense = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            dense.weight.data, dense.bias = test_nf4.dequantized(module.weight.data, module.weight.quant_state), module.bias
            model.set_submodule(name, dense)


def gptqmodel_folder(python, folder, model, quantizer, windows):
    """What GPTQModel makes of the model, with tests/parity's worker."""
    options = {key: value for key, value in quantizer.items() if key != "type"} | {"sym": True}
    job = folder / "job.json"
    job.write_text(json.dumps({"make": [{"model": str(model), "out": str(folder / "gptqmodel"), "options": options, "windows": windows}], "open": [], "ids": []}))
    run([python, ROOT / "tests" / "parity" / "gptqmodel_folders.py", job], cwd=folder)  # it writes logs where it stands
    return folder / "gptqmodel"


def dense_from_file(folder, dense):
    """transformers' model with the packed weights of a folder, unpacked by tests/parity's own reader."""
    from safetensors.torch import load_file

    import gptq_reference

    model, tensors = bitsandbytes_model(dense, None), {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    for name in tensors:
        if name.endswith(".qweight"):
            base = name[: -len(".qweight")]
            first = gptq_reference.unpacked(tensors[base + ".qzeros"].T.contiguous(), config["bits"], 1)[0, 0].item()
            offset = 0 if first == 1 << config["bits"] - 1 else 1
            model.get_submodule(base).weight.data = gptq_reference.file_weight(tensors, base, config["bits"], offset).float()
    return model


def measure(model, folder, gptqmodel):
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="MatMul8bitLt")
    source = SHARED / "data" / "models" / model
    text = (SHARED / "data" / "text" / "tinystories.txt").read_text()
    stories = [story.strip() for story in text.split("<|endoftext|>") if story.strip()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    stream = [token for story in stories for token in tokenizer(story)["input_ids"]]
    length, cut = LENGTH, len(stream) // 2
    rows = [stream[cut + i * length : cut + (i + 1) * length] for i in range(min(EVAL_ROWS, (len(stream) - cut) // length))]
    rows_file, calibration = folder / "rows.jsonl", folder / "calibration.jsonl"
    rows_file.write_text("".join(json.dumps({"input_ids": ids, "labels": ids}) + "\n" for ids in rows))
    calibration.write_text(json.dumps({"input_ids": stream[:cut]}) + "\n")
    random = Mt19937_64(0)
    starts = [random.draw() % (cut - length + 1) for _ in range(SAMPLES)]
    windows = [stream[s : s + length] for s in starts]
    found = {}
    config = json.loads((source / "config.json").read_text())
    # Elsewhere the host leaves 3 bits dense, because GPTQModel's packer ends with an IndexError.
    takes_3_bits = config["hidden_size"] % 32 == config["intermediate_size"] % 32 == 0
    for label, (options, peer) in CASES.items():
        if peer == "gptqmodel" and options["bits"] == 3 and not takes_3_bits:
            continue
        case = folder / label.replace(" ", "_").replace(",", "")
        case.mkdir()
        entry = found[label] = {"host": host_perplexity(recipe(case / "recipe.toml", source, options, rows_file, calibration, case / "out"))}
        if peer == "gptqmodel":
            if gptqmodel:
                packed = gptqmodel_folder(gptqmodel, case, source, options, windows)
                entry["peer"] = peer_perplexity(dense_from_file(packed, source), rows)
                entry["host on the peer's files"] = host_perplexity(recipe(case / "theirs.toml", packed, None, rows_file, calibration, case / "out2"))
        else:
            entry["peer"] = peer_perplexity(bitsandbytes_model(source, peer), rows)
        print(f"{model}, {label}: {entry}", file=sys.stderr, flush=True)
    return {"tokens": sum(len(row) - 1 for row in rows), "cases": found}


def table(results):
    lines = []
    for model, found in results.items():
        dense = found["cases"]["dense"]["host"]
        lines += [f"`{model}`, {found['tokens']} predicted tokens:", "", "| weights | host | over dense | peer | host / peer | host, on the peer's files |", "|---|---|---|---|---|---|"]
        for label, entry in found["cases"].items():
            host, peer, theirs = entry["host"], entry.get("peer"), entry.get("host on the peer's files")
            beside = f"{peer:.4f} | {host / peer:.4f}" if peer else "- | -"
            lines.append(f"| {label} | {host:.4f} | {100 * (host / dense - 1):+.2f} % | {beside} | {f'{theirs:.4f}' if theirs else '-'} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def describe(gptqmodel):
    """What the figures were measured with."""
    script = "from importlib.metadata import version as v\nprint(', '.join(n + ' ' + v(n) for n in %r))"
    peers = run([sys.executable, "-c", script % ["torch", "transformers", "bitsandbytes"]]).strip()
    if gptqmodel:
        peers += "; " + run([gptqmodel, "-c", script % ["GPTQModel", "torch", "transformers"]]).strip()
    return f"Measured {time.strftime('%Y-%m-%d')}. Peers: {peers}. GPTQ: groups of 32, calibrated on {SAMPLES} windows of {LENGTH} tokens."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gptqmodel", default=os.environ.get("TENON_GPTQMODEL"), help="a Python that imports gptqmodel; by default what ./dev gptqmodel made")
    parser.add_argument("--cases", default="", help="only those whose name begins with one of these, comma separated; dense is always there")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--write-docs", action="store_true")
    arguments = parser.parse_args()
    if not (SHARED / "data" / "text" / "tinystories.txt").exists():
        sys.exit(f"SKIP quality: there are no models and text at {SHARED / 'data'}; set TENON_SHARED")
    for label in [label for label in CASES if label != "dense" and not label.startswith(tuple(arguments.cases.split(",")))]:
        del CASES[label]
    results = {}
    for model in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results[model] = measure(model, pathlib.Path(folder), arguments.gptqmodel)
    print(table(results))
    if arguments.write_docs:
        page = ROOT / "docs" / "quality.md"
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{describe(arguments.gptqmodel)}\n\n{table(results)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
