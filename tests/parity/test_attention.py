"""Every attention kind against transformers, and packed rows against unpacked ones through the whole host."""

import json

import pytest
import torch
from safetensors.torch import load_file

import tiny

TOLERANCE = 1e-4
KINDS = ("eager", "sdpa", "flash")
# mistral and qwen3 with windows, gemma2 with windows and soft caps, smollm3 with layers that do not turn.
SEEDS = {"llama": 2, "mistral": 1, "qwen2": 4, "qwen3": 3, "gemma2": 1, "phi3": 5, "smollm3": 2, "mixtral": 3, "qwen3_moe": 2}


def patched(kind, **more):
    return [{"type": "attention", "implementation": kind, **more}]


@pytest.fixture(scope="module", params=SEEDS)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = {**tiny.random_config(request.param, SEEDS[request.param]), "num_hidden_layers": 2}
    if request.param in ("mistral", "gemma2"):
        config["sliding_window"] = 5
    tiny.save_checkpoint(folder / "model", tiny.make_model(request.param, config, 1))
    return folder, config


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_eager_transformers(kind, model, tmp_path):
    folder, config = model
    reference = tiny.load_reference(folder / "model", attn_implementation="eager").eval()
    ids = torch.randint(0, config["vocab_size"], (2, 19), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(ids, use_cache=False).logits
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder / "model", "dtype": "float32"}, patch=patched(kind))
    assert tiny.relative_error(tiny.host_logits(recipe, ids), expected) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_a_config_with_one(kind, tmp_path):
    """llama with the patch's window computes what mistral, the same weights and a window of its own, computes."""
    config = {**tiny.random_config("mistral", 8), "num_hidden_layers": 2, "sliding_window": 4}
    tiny.save_checkpoint(tmp_path / "windowed", tiny.make_model("mistral", config, 2))
    ids = torch.randint(0, config["vocab_size"], (2, 15), generator=torch.Generator().manual_seed(1))
    wide = {"path": tmp_path / "windowed", "dtype": "float32", "overrides": {"sliding_window": 4096}}
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model=wide, patch=patched(kind, sliding_window=4))
    assert tiny.relative_error(tiny.host_logits(recipe, ids), tiny.reference_logits(tmp_path / "windowed", ids)) <= TOLERANCE


def trained(folder, tmp_path, config, kind, packing, name):
    """Losses and the adapter of some full-batch steps: the order of the samples has no say in either."""
    draw = torch.Generator().manual_seed(3)
    lengths = [5, 12, 3, 7, 9, 4, 11, 6]
    rows = [json.dumps({"input_ids": torch.randint(3, config["vocab_size"], (n,), generator=draw).tolist()}) for n in lengths]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    start = tmp_path / "start"
    common = {"model": {"path": folder / "model", "dtype": "float32"}, "data": {"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 32, "packing": packing}}
    if not start.exists():
        tiny.run_host("run", tiny.write_recipe(tmp_path / "start.toml", **common, adapter={"type": "lora", "target_modules": "all-linear", "init_lora_weights": False},
                                               train={"max_steps": 1, "learning_rate": 1e-9}, output={"dir": start}))
    # Packed, 57 tokens fill two rows of 32.
    batch = 2 if packing else len(lengths)
    out = tmp_path / name
    tiny.run_host("run", tiny.write_recipe(tmp_path / f"{name}.toml", **common, patch=patched(kind), adapter={"type": "lora", "path": start},
                                           train={"max_steps": 3, "learning_rate": 1e-3, "per_device_train_batch_size": batch, "lr_scheduler_type": "constant"}, output={"dir": out}))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], [line["grad_norm"] for line in lines if "grad_norm" in line], load_file(out / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_packed_training_is_unpacked_training(kind, model, tmp_path):
    folder, config = model
    plain = trained(folder, tmp_path, config, "eager", False, "plain")
    packed = trained(folder, tmp_path, config, kind, True, "packed")
    assert len(plain[0]) == len(packed[0]) == 3
    # Sums of the same numbers in float32, in another order; after a step AdamW's division makes more of that of gradients near zero.
    assert packed[0][0] == pytest.approx(plain[0][0], rel=1e-5) and packed[1][0] == pytest.approx(plain[1][0], rel=1e-4)
    for a, b in zip(plain[0], packed[0]):
        assert b == pytest.approx(a, rel=1e-3)
    for name, tensor in plain[2].items():
        assert (packed[2][name] - tensor).abs().max() <= 3e-4, name


def test_the_plan_shows_the_chain_and_a_patch_that_does_nothing_is_told(model, tmp_path):
    folder, _ = model
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder / "model"}, patch=patched("flash", sliding_window=7))
    seams = json.loads(tiny.run_host("plan", recipe, "--json").stdout)["seams"]
    assert seams["attention"] == ["flash", "sliding_window"]
    idle = tiny.write_recipe(tmp_path / "idle.toml", model={"path": folder / "model"}, patch=patched("sdpa"))
    (tmp_path / "ids.json").write_text("[[1, 2, 3]]")
    out = tiny.run_host("logits", idle, "--tokens", tmp_path / "ids.json", "--out", tmp_path / "l.safetensors")
    assert "patch 'attention' changes nothing in this model" in out.stderr
    twice = tiny.write_recipe(tmp_path / "twice.toml", model={"path": folder / "model"}, patch=patched("flash") + patched("eager"))
    import subprocess

    refused = subprocess.run([str(tiny.HOST), "plan", str(twice)], capture_output=True, text=True)
    assert refused.returncode == 3 and "both replace the attention seam" in refused.stderr
