"""Mixtures of experts against transformers: logits from both file layouts, quantized experts, generation, gradients through packed experts."""

import json
import random

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file

import tiny

# Design, section 8. Float32 on both sides; what differs is the order of sums.
TOLERANCE = 1e-4
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def checkpoint(folder, model_type, seed, apart=True, dtype=torch.float32, extra=None, **options):
    """Experts one by one in the file, as published, or all in one tensor, as transformers 5 holds them."""
    config = {**tiny.random_config(model_type, seed), **(extra or {})}
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed), dtype, save_original_format=apart, **options)
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    if any("experts" in name for name in names):
        assert any(".experts.0." in name for name in names) == apart
    return config


def ids_for(config, seed, longest=40):
    draw = random.Random(seed)
    return torch.randint(0, config["vocab_size"], (draw.randint(1, 3), draw.randint(1, longest)), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("model_type", tiny.EXPERT_TYPES)
def test_logits(model_type, seed, tmp_path):
    folder = tmp_path / "model"
    config = checkpoint(folder, model_type, seed, apart=seed % 2 == 0, dtype=DTYPES[seed % 3], old=seed % 4 == 1, shard_size="20KB" if seed % 5 == 0 else "5GB")
    ids = ids_for(config, seed)
    got = tiny.host_logits(tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}), ids)
    assert tiny.relative_error(got, tiny.reference_logits(folder, ids)) <= TOLERANCE, config


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("model_type", tiny.EXPERT_TYPES)
def test_nf4_experts(model_type, seed, tmp_path):
    """Experts are packed as bitsandbytes packs one tensor of them: the model of its dequantized weights is the reference."""
    folder, draw = tmp_path / "model", random.Random(seed)
    config = checkpoint(folder, model_type, 100 + seed, apart=seed % 2 == 1)
    options = {"type": draw.choice(["nf4", "fp4"]), "block_size": draw.choice([32, 64, 128]), "double_quant": draw.random() < 0.5}
    model = tiny.load_reference(folder).eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # bitsandbytes' nested offset is a mean in the order of one thread
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name and not name.endswith("bias"):
                packed, state = bnb.quantize_4bit(parameter.data.reshape(-1, parameter.shape[-1]), blocksize=options["block_size"], quant_type=options["type"],
                                                  compress_statistics=options["double_quant"])
                absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
                codes = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], 1).view(-1)[: parameter.numel()].long()
                scale = absmax.float().repeat_interleave(options["block_size"])[: parameter.numel()]
                parameter.copy_((state.code.float()[codes] * scale).view(parameter.shape))
    torch.set_num_threads(threads)
    ids = ids_for(config, seed, longest=50)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}, quantizer={**options, "compute_dtype": "float32"})
    assert tiny.relative_error(tiny.host_logits(recipe, ids), expected) <= TOLERANCE, (config, options)
    # Every matrix of the blocks, experts included.
    counts = json.loads(tiny.run_host("plan", recipe, "--json").stdout)["parameters"]
    assert counts["quantized"] == sum(p.numel() for name, p in model.named_parameters() if "proj" in name and not name.endswith("bias"))


@pytest.mark.parametrize("model_type", tiny.EXPERT_TYPES)
def test_export_keeps_the_layout(model_type, tmp_path):
    for apart in (True, False):
        folder, copy = tmp_path / f"model{apart}", tmp_path / f"copy{apart}"
        checkpoint(folder, model_type, 3, apart=apart)
        recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"})
        tiny.run_host("export", recipe, "--to", copy, "--format", "hf")
        before, after = load_file(folder / "model.safetensors"), load_file(next(copy.glob("*.safetensors")))
        assert set(before) == set(after)
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("model_type", tiny.EXPERT_TYPES)
def test_bnb_export_is_refused(model_type, tmp_path):
    checkpoint(tmp_path / "model", model_type, 3, extra={"decoder_sparse_step": 1, "mlp_only_layers": []} if model_type == "qwen3_moe" else None)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, quantizer={"type": "nf4"})
    with pytest.raises(AssertionError, match="experts"):
        tiny.run_host("export", recipe, "--to", tmp_path / "copy", "--format", "bnb")
    assert not (tmp_path / "copy").exists()
