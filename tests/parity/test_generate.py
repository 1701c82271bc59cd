"""Greedy continuations of the host against the recorded ones of transformers, alone and in a batch of different lengths."""

import json

import pytest

import tiny


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
