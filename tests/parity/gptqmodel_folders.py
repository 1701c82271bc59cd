"""gptqmodel_folders.py JOB.json: GPTQModel's side of whole checkpoints, for test_gptq.py and bench/quality.py, run by a Python that has gptqmodel (TENON_GPTQMODEL).

JOB: {"make": [{"model", "out", "options", "windows"}], "open": [{"model", "out", "with", "bits"}], "ids"}. `make` quantizes and saves; `open` loads a packed folder, with GPTQModel or
with transformers' own GPTQ path, and writes float32 `logits` of the ids."""
import json
import os
import sys

os.cpu_count = lambda: 8  # GPTQModel refuses to start on two cores
os.environ |= {"GPTQMODEL_DISABLE_PACK_EXT": "1", "HF_HUB_OFFLINE": "1"}  # the first would be compiled now, for packing alone
import torch
import transformers
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import save_file

job = json.load(open(sys.argv[1]))
for item in job["make"]:
    model = GPTQModel.load(item["model"], QuantizeConfig(**item["options"]), device="cpu", dtype=torch.float32)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in item["windows"]], batch_size=8)
    model.save(item["out"])
ids = torch.tensor(job["ids"])
for item in job["open"]:
    if item["with"] == "transformers":
        config = transformers.GPTQConfig(bits=item["bits"], backend="torch")
        model = transformers.AutoModelForCausalLM.from_pretrained(item["model"], quantization_config=config, device_map="cpu", dtype=torch.float16)
    else:
        model = GPTQModel.load(item["model"], device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    model = torch.nn.Module.float(model)  # they load into halves alone; what the files hold are halves, and all that is computed is float32 from here
    with torch.no_grad():
        save_file({"logits": model.eval()(input_ids=ids, use_cache=False).logits.float().contiguous()}, item["out"])
