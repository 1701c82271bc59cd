"""Greedy continuations of the host against those of transformers, alone and in a batch of different lengths."""

import json
import random

import pytest
import torch

import tiny

TOLERANCE = 1e-4  # design, section 8
NEW_TOKENS = 24


@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_greedy(name, tmp_path):
    folder = tiny.SHARED / "data" / "models" / name
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    reference = json.loads((folder.parent / "reference.json").read_text())[name]["prompts"]
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"})
    length = len(reference[0]["greedy"])
    prompts = [argument for p in reference for argument in ("--prompt", p["prompt"])]
    outputs = json.loads(tiny.run_host("generate", recipe, "--json", "--max-new-tokens", length, *prompts).stdout)
    for expected, got in zip(reference, outputs, strict=True):
        # A model that ends its story stops there; the record goes on to the full length.
        assert got["ids"] == expected["greedy"][: len(got["ids"])] and (len(got["ids"]) == length or got["finish_reason"] == "stop"), expected["prompt"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES + tiny.EXPERT_TYPES)
def test_every_family(model_type, seed, tmp_path):
    """Prompts shorter and longer than windows in one batch, padded in front, over a cache; transformers takes them one by one over its own."""
    config = tiny.random_config(model_type, 300 + seed)
    is_long = config["rope_parameters"]["rope_type"] == "longrope"
    if is_long:
        config["original_max_position_embeddings"] = 16  # each prompt grows beyond it
    folder, draw = tmp_path / "model", random.Random(seed)
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed))
    tiny.save_word_tokenizer(folder, config["vocab_size"])
    prompts = [[draw.randrange(3, config["vocab_size"]) for _ in range(length)] for length in (1, 6, 15)]
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"})
    got = []
    # In a batch the longest text decides how all of them turn, in transformers too.
    for batch in [[prompt] for prompt in prompts] if is_long else [prompts]:
        arguments = [argument for prompt in batch for argument in ("--prompt", " ".join(f"w{i}" for i in prompt))]
        got += json.loads(tiny.run_host("generate", recipe, "--json", "--max-new-tokens", NEW_TOKENS, *arguments).stdout)
    model = tiny.load_reference(folder).eval()
    for prompt, output in zip(prompts, got, strict=True):
        theirs, scores = tiny.greedy(model, {"input_ids": torch.tensor([prompt])}, NEW_TOKENS)
        tiny.check_greedy(output["ids"], theirs, scores, TOLERANCE)
