"""gpu.py FIGURES: measures the peers on the same GPU, adds what it finds to the lines of bench_gpu, and prints the table.

The same work on both sides: bfloat16 activations (bitsandbytes' int8 takes float16), the same shapes, copies of the weight that take turns so that none stays in the
second cache, wall clock over many queued calls. A peer that is not installed, or whose kernel does not run here, is named with the reason.
"""

import json
import pathlib
import sys
import time

import torch

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336)]
ROWS = [1, 4, 16, 64, 512, 2048]
LEAST_SECONDS = 0.3
COLD_BYTES = 256 << 20


def seconds_of(call) -> float:
    calls, i = 4, 0
    while True:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call(i)
            i += 1
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        if seconds >= LEAST_SECONDS:
            return seconds / calls
        calls *= 2


def copies(make, first_bytes) -> list:
    """Enough of them that none is in a cache when its turn comes."""
    return [make() for _ in range(max(1, -(-COLD_BYTES // first_bytes)))]


def bitsandbytes_kernels():
    import bitsandbytes as bnb
    import bitsandbytes.functional as F

    def four_bit(quant_type, nested):
        def make(out, inp):
            weight = torch.randn(out, inp, dtype=torch.bfloat16, device="cuda") * 0.02
            codes, state = F.quantize_4bit(weight, quant_type=quant_type, compress_statistics=nested)
            items = copies(lambda: codes.clone(), codes.numel())
            return {"quantize": lambda i: F.quantize_4bit(weight, quant_type=quant_type, compress_statistics=nested),
                    "dequantize": lambda i: F.dequantize_4bit(items[i % len(items)], state),
                    "linear": lambda x, i: bnb.matmul_4bit(x, items[i % len(items)].t(), quant_state=state)}, torch.bfloat16
        return make

    def int8(out, inp):
        def layer():
            made = bnb.nn.Linear8bitLt(inp, out, bias=False, has_fp16_weights=False, threshold=6.0)
            made.weight = bnb.nn.Int8Params(torch.randn(out, inp, dtype=torch.float16) * 0.02, has_fp16_weights=False)
            made = made.cuda().eval()
            made(torch.randn(1, inp, dtype=torch.float16, device="cuda"))  # takes its state over
            return made
        items = copies(layer, out * inp)
        weight = torch.randn(out, inp, dtype=torch.float16, device="cuda") * 0.02
        return {"quantize": lambda i: F.int8_vectorwise_quant(weight), "linear": lambda x, i: items[i % len(items)](x)}, torch.float16

    yield "bitsandbytes " + bnb.__version__, "nf4", four_bit("nf4", False)
    yield "bitsandbytes " + bnb.__version__, "nf4 double", four_bit("nf4", True)
    yield "bitsandbytes " + bnb.__version__, "fp4", four_bit("fp4", False)
    yield "bitsandbytes " + bnb.__version__, "int8", int8


def gptqmodel_kernels():
    import importlib

    import gptqmodel

    version = getattr(gptqmodel, "__version__", "")
    for module, names in (("marlin", ("MarlinLinear", "MarlinQuantLinear")), ("exllamav2", ("ExllamaV2Linear", "ExllamaV2QuantLinear")),
                          ("tritonv2", ("TritonV2Linear", "TritonV2QuantLinear")), ("torch", ("TorchLinear", "TorchQuantLinear"))):
        for label, bits, desc_act in (("gptq 4", 4, False), ("gptq 4 act-order", 4, True), ("gptq 2", 2, False), ("gptq 3", 3, False), ("gptq 8", 8, False)):

            def make(out, inp, module=module, names=names, bits=bits, desc_act=desc_act):
                found = importlib.import_module(f"gptqmodel.nn_modules.qlinear.{module}")
                kind = next(getattr(found, name) for name in names if hasattr(found, name))
                groups = torch.arange(inp, dtype=torch.int32) // 128
                if desc_act:
                    groups = groups[torch.randperm(inp)]

                def layer():
                    made = kind(bits=bits, group_size=128, desc_act=desc_act, sym=True, in_features=inp, out_features=out, bias=False, pack_dtype=torch.int32,
                                register_buffers=True, dtype=torch.bfloat16)
                    made.qweight.data.random_(-(2**31), 2**31 - 1)
                    made.scales.data.uniform_(0.001, 0.01)
                    made.g_idx.data.copy_(groups)
                    made = made.cuda().eval()
                    made.post_init()
                    return made
                items = copies(layer, out * inp * bits // 8)
                return {"linear": lambda x, i: items[i % len(items)](x)}, torch.bfloat16

            yield f"GPTQModel {version} {module}", label, make


def measure_peers() -> list:
    rows = []
    for library, kernels in (("bitsandbytes", bitsandbytes_kernels), ("gptqmodel", gptqmodel_kernels)):
        try:
            found = list(kernels())
        except Exception as error:  # not installed, or broken: said, not hidden
            print(f"{library}: {type(error).__name__}: {error}", flush=True)
            continue
        for side, label, make in found:
            for out, inp in SHAPES:
                try:
                    with torch.no_grad():
                        work, dtype = make(out, inp)
                        for name in ("quantize", "dequantize"):
                            if name in work:
                                rows.append(dict(side=side, quantizer=label, work=name, out=out, m=0, seconds=seconds_of(work[name]), **{"in": inp}))
                        for m in ROWS:
                            x = torch.randn(m, inp, dtype=dtype, device="cuda")
                            rows.append(dict(side=side, quantizer=label, work="linear", out=out, m=m, seconds=seconds_of(lambda i: work["linear"](x, i)), **{"in": inp}))
                except Exception as error:
                    print(f"{side}, {label}, {out} x {inp}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", flush=True)
                    break
                finally:
                    work = x = None
                    torch.cuda.empty_cache()
    return rows


def table(rows: list) -> str:
    copy = next(r for r in rows if r["work"] == "copy")
    bandwidth = copy["bytes"] / copy["seconds"]
    lines = [f"{torch.cuda.get_device_name(0)}, a copy moves {bandwidth / 1e9:.0f} GB/s; torch {torch.__version__}. Times in microseconds; share: of that speed, "
             "counting the bytes that the work must move; ratio: the fastest peer's time to the host's.", "",
             "| quantizer | work | out x in | rows | host | share | fastest peer | ratio |", "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        if r["side"] != "host" or r["work"] == "copy":
            continue
        same = [p for p in rows if p["side"] != "host" and all(p[k] == r[k] for k in ("quantizer", "work", "out", "in", "m"))]
        best = min(same, key=lambda p: p["seconds"], default=None)
        peer = f"{best['seconds'] * 1e6:.1f} ({best['side']}) | {best['seconds'] / r['seconds']:.2f}x" if best else "- | -"
        lines.append(f"| {r['quantizer']} | {r['work']} | {r['out']} x {r['in']} | {r['m'] or '-'} | {r['seconds'] * 1e6:.1f} | "
                     f"{r['bytes'] / r['seconds'] / bandwidth:.0%} | {peer} |")
    return "\n".join(lines)


def main():
    file = pathlib.Path(sys.argv[1])
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]
    if torch.cuda.is_available():
        peers = measure_peers()
        with file.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in peers)
        rows += peers
        print(table(rows))
    else:
        print("SKIP: this Python's torch sees no GPU")


if __name__ == "__main__":
    main()
