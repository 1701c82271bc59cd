"""The plan against transformers' own models: parameter counts of real configs, bytes of what is loaded, and the estimate of activations."""

import json
import pathlib
import shutil

import pytest
import torch
import transformers

import tiny

CONFIGS = ["llama2_7b", "llama3", "llama3_1", "llama3_2_1b", "mistral", "qwen2_7b", "qwen2.5_0.5b"]
# Activations are counted from what autograd keeps and a fixed amount for LibTorch itself; the allocator's slack is not. Measured: 20 % off at most.
PEAK_ERROR = 0.3


def plan(recipe: pathlib.Path, *arguments) -> dict:
    return json.loads(tiny.run_host("plan", recipe, "--json", *arguments).stdout)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_real_configs(name, tmp_path):
    source = tiny.SHARED / "data" / "configs" / f"{name}.json"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    shutil.copy(source, tmp_path / "config.json")
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path, "dtype": "bfloat16"})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path), dtype=torch.bfloat16)
    got = plan(recipe, "--assume-devices", "cuda:0=80GiB,cuda:1=80GiB,cpu=256GiB")
    parameters = dict(model.named_parameters())
    assert got["parameters"]["total"] == sum(p.numel() for p in parameters.values())
    assert got["totals"]["weights"] == sum(p.numel() * p.element_size() for p in parameters.values())
    paths = {m["path"].removesuffix(".weight") for m in got["modules"]}
    assert {p.removesuffix(".weight").removesuffix(".bias") for p in parameters} <= paths


def test_sizes_beyond_one_device(tmp_path):
    """A 13 B model in bfloat16 (26 GB) does not fit 24 GiB: it is spread over two devices, or refused on one with what would help."""
    config = transformers.LlamaConfig(hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, intermediate_size=13824, vocab_size=32000)
    config.save_pretrained(tmp_path)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path, "dtype": "bfloat16"})
    both = plan(recipe, "--assume-devices", "cuda:0=24GiB,cuda:1=24GiB,cpu=64GiB")
    assert both["parameters"]["total"] == 13_015_864_320
    assert both["fits"] and all(d["weights"] > 0 for d in both["devices"] if d["name"].startswith("cuda"))
    single = tiny.write_recipe(tmp_path / "single.toml", model={"path": tmp_path, "dtype": "bfloat16", "device_map": "cuda:0"})
    one = plan(single, "--assume-devices", "cuda:0=24GiB,cpu=64GiB")
    assert not one["fits"] and "quantizer" in one["advice"]


QUANTIZERS = [{"type": "nf4", "double_quant": True}, {"type": "fp4"}, {"type": "int8"}, {"type": "gptq", "bits": 4}, {"type": "gptq", "bits": 3, "desc_act": True}]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: " ".join(map(str, q.values())))
@pytest.mark.parametrize("device_map", ["auto", "cuda:0"])
def test_quantizers_go_to_cuda(quantizer, device_map, tmp_path):
    """Every bundled quantizer has CUDA kernels in a build with nvcc: a 7 B model fits 24 GiB and is put there whole."""
    if "no-cuda" in str(tiny.HOST):
        pytest.skip("a build of ./dev --no-cuda has no kernels for it")
    transformers.LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32000).save_pretrained(tmp_path)
    tables = {"model": {"path": tmp_path, "dtype": "bfloat16", "device_map": device_map}, "quantizer": quantizer}
    if quantizer["type"] == "gptq":
        text = tmp_path / "text.txt"
        text.write_text("some words\n" * 100)
        tables["calibration"] = {"files": [str(text)]}
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", **tables)
    got = plan(recipe, "--assume-devices", "cuda:0=24GiB,cpu=64GiB")
    assert got["fits"] and {m["device"] for m in got["modules"]} == {"cuda:0"}
    assert got["parameters"]["quantized"] > 6e9


@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_of_training(checkpointing, tmp_path):
    """The planned peak of the host's memory is near the measured one, on a model whose activations dominate."""
    transformers.LlamaConfig(hidden_size=512, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1376, vocab_size=2000,
                             max_position_embeddings=1024).save_pretrained(tmp_path)
    data = tmp_path / "data.jsonl"
    row = list(range(3, 1003))
    data.write_text("".join(json.dumps({"input_ids": row, "labels": row}) + "\n" for _ in range(8)))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path, "dtype": "bfloat16", "init": "random"}, adapter={"type": "lora", "target_modules": "all-linear"},
                               data={"train": [data], "format": "tokenized", "max_length": 1000},
                               train={"max_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": checkpointing}, output={"dir": tmp_path / "out"})
    tiny.run_host("run", recipe)
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    planned, measured = report["planned"]["host_peak"], report["measured"]["host_peak"]
    assert abs(measured - planned) <= PEAK_ERROR * measured, f"planned {planned / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB"
