"""The dtype patch through the whole host: what is kept in what, and what that changes in the logits."""

import json

import pytest
import torch
import transformers

import tiny


def plan_dtypes(recipe):
    return {module["path"]: module["dtype"] for module in json.loads(tiny.run_host("plan", recipe, "--json").stdout)["modules"]}


def logits(tmp_path, name, ids, **patch):
    patches = {"patch": [{"type": "dtype", **patch}]} if patch else {}
    return tiny.host_logits(tiny.write_recipe(tmp_path / f"{name}.toml", model={"path": tmp_path / "model", "dtype": "bfloat16"}, **patches), ids)


@pytest.mark.parametrize("tie", [False, True])
def test_a_head_in_float32_rounds_no_logits(tie, tmp_path):
    config = {**tiny.random_config("llama", 5), "tie_word_embeddings": tie, "num_hidden_layers": 2}
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model("llama", config, 1), torch.bfloat16)
    ids = torch.randint(0, config["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(1))
    plain, wide = logits(tmp_path, "plain", ids), logits(tmp_path, "wide", ids, head="float32")
    assert torch.equal(plain.bfloat16().float(), plain) and not torch.equal(wide.bfloat16().float(), wide)
    # The same products of the same bfloat16 numbers; only the last rounding, to 8 bits, is gone.
    assert tiny.relative_error(plain, wide) <= 2**-8
    # transformers' own hidden states through its head in float32: bfloat16 blocks, rounded in other places.
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).eval()
    with torch.no_grad():
        hidden = model.model(ids, use_cache=False).last_hidden_state
        expected = hidden.float() @ model.lm_head.weight.float().T
    assert tiny.relative_error(wide, expected) <= 0.05


def test_each_kind_is_kept_as_asked(tmp_path):
    config = {**tiny.random_config("mixtral", 2), "num_hidden_layers": 1, "tie_word_embeddings": False}
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model("mixtral", config, 1), torch.bfloat16)
    kinds = {"norms": "model.norm.weight", "routers": "model.layers.0.mlp.gate.weight", "embeddings": "model.embed_tokens", "head": "lm_head"}
    for key, path in kinds.items():
        recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "bfloat16"}, patch=[{"type": "dtype", key: "float32"}])
        dtypes = plan_dtypes(recipe)
        assert {other for other in kinds.values() if dtypes[other] == "float32"} == {path}
    ids = torch.randint(0, config["vocab_size"], (1, 9), generator=torch.Generator().manual_seed(1))
    plain, wide = logits(tmp_path, "plain", ids), logits(tmp_path, "wide", ids, **{key: "float32" for key in kinds})
    assert 0 < tiny.relative_error(wide, plain) <= 0.05


def test_norms_of_training_go_back_to_the_models_dtype(tmp_path):
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model("llama", tiny.random_config("llama", 2), 1), torch.bfloat16)
    (tmp_path / "data.jsonl").write_text('{"input_ids": [1, 2, 3]}')
    tables = {
        "model": {"path": tmp_path / "model", "dtype": "bfloat16"},
        "adapter": {"type": "lora"},
        "data": {"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 8},
        "train": {"max_steps": 1},
        "output": {"dir": tmp_path / "out"},
    }
    assert plan_dtypes(tiny.write_recipe(tmp_path / "a.toml", **tables))["model.norm.weight"] == "float32"
    narrow = tiny.write_recipe(tmp_path / "b.toml", **tables, patch=[{"type": "dtype", "norms": "model"}])
    assert plan_dtypes(narrow)["model.norm.weight"] == "bfloat16"
    tiny.run_host("run", narrow)


def test_float32_models_are_told_that_nothing_changes(tmp_path):
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model("llama", tiny.random_config("llama", 2), 1))
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"}, patch=[{"type": "dtype", "head": "float32"}])
    (tmp_path / "ids.json").write_text("[[1, 2]]")
    assert "patch 'dtype' changes nothing in this model" in tiny.run_host("logits", recipe, "--tokens", tmp_path / "ids.json", "--out", tmp_path / "l").stderr
