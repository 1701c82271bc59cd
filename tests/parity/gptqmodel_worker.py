"""gptqmodel_worker.py IN.safetensors OUT.safetensors: GPTQModel's own rounding of weights, run by a Python that has gptqmodel (TENON_GPTQMODEL).

IN holds `<case>.weight` [out, in] and `<case>.inputs` [tokens, in]; a case is named "<anything> bits=4 group=32 desc=0 aware=1". OUT holds `<case>` as its files would give it:
scales in float16."""
import os
import sys

os.cpu_count = lambda: 8  # GPTQModel refuses to start on two cores
import torch
from gptqmodel.quantization import QuantizeConfig
from gptqmodel.quantization.gptq import GPTQ
from safetensors.torch import load_file, save_file


def rounded(weight, inputs, options):
    config = QuantizeConfig(bits=options["bits"], group_size=options["group"], desc_act=bool(options["desc"]), act_group_aware=bool(options["aware"]), sym=True)
    module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight.data = weight.clone()
    task = GPTQ(module, config)
    task.quantizer.configure(perchannel=True)
    task.add_batch(inputs.unsqueeze(0), module(inputs).unsqueeze(0))
    result, scale, zero, g_idx = task.quantize()[:4]
    columns = g_idx.long()
    scale, zero = scale[:, columns], zero[:, columns]
    return (torch.round(result / scale)).clamp(-zero, (1 << options["bits"]) - 1 - zero) * scale.half().float()


tensors, results = load_file(sys.argv[1]), {}
with torch.no_grad():
    for name in tensors:
        if name.endswith(".weight"):
            case = name[: -len(".weight")]
            options = {key: int(value) for key, value in (word.split("=") for word in case.split() if "=" in word)}
            results[case] = rounded(tensors[name], tensors[f"{case}.inputs"], options).contiguous()
save_file(results, sys.argv[2])
