"""The example plugin adapter_ia3 against PEFT, both ways. It is built here, against the tree's own SDK, since it does not come with the host."""

import json
import os
import pathlib

import peft
import pytest
import torch

import tiny
from test_lora import NoMissingKeys, checkpoint, logits_of

# Design, section 8. Float32 on both sides; what differs is the order of sums.
TOLERANCE = 1e-4
PLUGIN = pathlib.Path(os.environ.get("TENON_EXAMPLE_PLUGINS", tiny.HOST.parent.parent / "tests" / "example_plugins")) / "libadapter_ia3.so"

CASES = {
    "default": {},
    "list": {"target_modules": ["q_proj", "up_proj", "layers.0.mlp.down_proj"], "feedforward_modules": ["layers.0.mlp.down_proj"]},
    "regex": {"target_modules": r"model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)", "feedforward_modules": r".*\.down_proj"},
    "outputs_only": {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []},
}


def logits(tmp_path, adapter, ids):
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "ia3", "path": adapter})
    tokens, out = tmp_path / "ids.json", tmp_path / "logits.safetensors"
    tokens.write_text(json.dumps(ids.tolist()))
    tiny.run_host("logits", recipe, "--tokens", tokens, "--out", out, "--plugin", PLUGIN)
    return tiny.load_file(out)["logits"]


def test_the_plugin_is_built():
    assert PLUGIN.exists(), f"{PLUGIN} is missing: ./dev build makes it"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_host_computes_what_peft_saved(case, model_type, tmp_path):
    seed = list(CASES).index(case)
    base, ids = checkpoint(tmp_path / "model", model_type, seed)
    plain = logits_of(base, ids)
    model = peft.get_peft_model(base, peft.IA3Config(task_type="CAUSAL_LM", **CASES[case])).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.normal_(1.0, 0.5)
    expected = logits_of(model, ids)
    assert tiny.relative_error(expected, plain) > 0.01, "the adapter must matter"
    model.save_pretrained(tmp_path / "adapter")
    assert tiny.relative_error(logits(tmp_path, tmp_path / "adapter", ids), expected) <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_what_the_host_saved(case, tmp_path):
    base, ids = checkpoint(tmp_path / "model", "llama", 50)
    plain = logits_of(base, ids)
    draw = torch.Generator().manual_seed(0)
    lines = [json.dumps({"input_ids": torch.randint(3, 80, (9,), generator=draw).tolist()}) for _ in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    recipe = tiny.write_recipe(
        tmp_path / "train.toml",
        model={"path": tmp_path / "model", "dtype": "float32"},
        adapter={"type": "ia3", **CASES[case]},
        data={"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 16},
        train={"learning_rate": 0.1, "per_device_train_batch_size": 4, "max_steps": 2},
        output={"dir": tmp_path / "out"},
    )
    tiny.run_host("run", recipe, "--plugin", PLUGIN)
    got = logits(tmp_path, tmp_path / "out", ids)
    assert tiny.relative_error(got, plain) > 0.01, "the adapter must matter"
    with NoMissingKeys():
        model = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert tiny.relative_error(got, logits_of(model, ids)) <= TOLERANCE


def test_merged_it_computes_the_same(tmp_path):
    base, ids = checkpoint(tmp_path / "model", "qwen2", 3)  # which has biases on keys and values
    model = peft.get_peft_model(base, peft.IA3Config(task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.normal_(1.0, 0.5)
    expected = logits_of(model, ids)
    model.save_pretrained(tmp_path / "adapter")
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "ia3", "path": tmp_path / "adapter"})
    tiny.run_host("export", recipe, "--to", tmp_path / "merged", "--merge", "--plugin", PLUGIN)
    assert tiny.relative_error(tiny.reference_logits(tmp_path / "merged", ids), expected) <= TOLERANCE
