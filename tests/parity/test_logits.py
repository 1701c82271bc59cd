"""Float32 logits of the host against transformers on the same checkpoints."""

import json
import random

import pytest
import torch

import tiny

# Design, section 8. Float32 on both sides; what differs is the order of sums.
TOLERANCE = 1e-4
CONFIGS_EACH = 16
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("seed", range(CONFIGS_EACH))
@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_random_config(model_type, seed, tmp_path, record_property):
    config = tiny.random_config(model_type, seed)
    draw = random.Random(seed)
    folder = tmp_path / "model"
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed), DTYPES[seed % 3], old=seed % 2 == 1, shard_size="20KB" if seed % 5 == 0 else "5GB")
    ids = torch.randint(0, config["vocab_size"], (draw.randint(1, 3), draw.randint(1, 40)), generator=torch.Generator().manual_seed(seed))
    expected = tiny.reference_logits(folder, ids)
    got = tiny.host_logits(tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}), ids)
    error = tiny.relative_error(got, expected)
    record_property("relative_error", error)
    assert error <= TOLERANCE, f"{error:.2e} with {config}"


@pytest.mark.parametrize("name", ["llama2_7b", "llama3", "llama3_1", "llama3_2_1b", "mistral", "qwen2_7b", "qwen2.5_0.5b", "gemma_2_2b"])
def test_real_config_made_small(name, tmp_path):
    """As published: all layers and heads, its rotary settings, its spellings. Only its widths are cut down."""
    source = tiny.SHARED / "data" / "configs" / f"{name}.json"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    config = json.loads(source.read_text())
    model_type = config.pop("model_type")
    config |= {"hidden_size": 4 * config["num_attention_heads"], "intermediate_size": 40, "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}
    if "head_dim" in config:
        config["head_dim"] = 16
    folder = tmp_path / "model"
    text = json.dumps({"model_type": model_type, **config})  # transformers completes the tables inside
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, 0))
    (folder / "config.json").write_text(text)
    ids = torch.randint(0, 300, (2, 50), generator=torch.Generator().manual_seed(0))
    got = tiny.host_logits(tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}), ids)
    assert tiny.relative_error(got, tiny.reference_logits(folder, ids)) <= TOLERANCE


@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_trained_model(name, tmp_path):
    folder = tiny.SHARED / "data" / "models" / name
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    reference = json.loads((folder.parent / "reference.json").read_text())[name]
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"})
    for prompt in reference["prompts"]:
        ids = torch.tensor([prompt["ids"] + prompt["greedy"]])
        got = tiny.host_logits(recipe, ids)
        assert tiny.relative_error(got, tiny.reference_logits(folder, ids)) <= TOLERANCE
        last = got[0, len(prompt["ids"]) - 1]
        assert int(last.argmax()) == prompt["last_logits_argmax"]
        # reference.json holds four decimals.
        torch.testing.assert_close(last[:8], torch.tensor(prompt["last_logits_first_8"]), rtol=0, atol=1e-3)
        # The recorded greedy continuation, token by token, except where the two best lie within the tolerance.
        for position, token in enumerate(prompt["greedy"], start=len(prompt["ids"]) - 1):
            best = got[0, position].topk(2).values
            assert int(got[0, position].argmax()) == token or (best[0] - best[1]) <= TOLERANCE * got.abs().max()
