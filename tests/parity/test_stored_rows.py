"""PEFT folders that hold whole embeddings and heads beside LoRA (save_embedding_layers): read as the base's rows, and written again."""

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny

TOLERANCE = 1e-4
GROWN = 7


def checkpoint(folder, seed, tied):
    config = {**tiny.random_config("llama", seed), "num_hidden_layers": 2, "tie_word_embeddings": tied}
    tiny.save_checkpoint(folder, tiny.make_model("llama", config, seed))
    return config


def base_of(folder, rows=None):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def trained(model, changes_head=True, **options):
    """An adapter that does something, on a base whose embeddings and head are no longer the checkpoint's."""
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "trainable_tokens_delta" in name:
                parameter.normal_(0, 0.2)
            elif "embed_tokens" in name or ("lm_head" in name and changes_head):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


ATTENTION = ["q_proj", "v_proj"]
CASES = {
    "beside": dict(options={"target_modules": ATTENTION}, save=True),
    "embedding targeted": dict(options={"target_modules": [*ATTENTION, "embed_tokens"]}, save="auto"),
    "both targeted": dict(options={"target_modules": [*ATTENTION, "embed_tokens", "lm_head"]}, save="auto"),
    "grown": dict(options={"target_modules": ATTENTION}, save="auto", grows=True),
    "grown, embedding whole": dict(options={"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]}, save="auto", grows=True),
    "grown, head whole": dict(options={"target_modules": ATTENTION, "modules_to_save": ["lm_head"]}, save="auto", grows=True),
    "grown, both whole": dict(options={"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}, save="auto", grows=True),
    "grown with token rows": dict(options={"target_modules": ATTENTION, "trainable_token_indices": [3, 5]}, save="auto", grows=True),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_rows_of_the_file_are_the_base(case, tied, tmp_path):
    options, save, grows = CASES[case]["options"], CASES[case]["save"], CASES[case].get("grows", False)
    if tied and case == "both targeted":
        pytest.skip("PEFT trains a tied head's low-rank update apart and then cannot merge it: not a folder that is met")
    config = checkpoint(tmp_path / "model", 81, tied)
    vocab = config["vocab_size"] + (GROWN if grows else 0)
    # PEFT saves no head beside an embedding that is a target.
    model = trained(base_of(tmp_path / "model", vocab if grows else None), changes_head=case != "embedding targeted", **options)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=save)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith(("embed_tokens.weight", "base_layer.weight", "original_module.weight")) for name in stored), sorted(stored)
    ids = torch.randint(0, vocab, (2, 11), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(ids).logits
    # What PEFT itself opens is the judge of what the folder means.
    again = peft.PeftModel.from_pretrained(base_of(tmp_path / "model", vocab if grows else None), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert tiny.relative_error(again(ids).logits, expected) <= TOLERANCE
    patches = {"patch": [{"type": "resize_embeddings", "new_num_tokens": vocab}]} if grows else {}
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "lora", "path": tmp_path / "adapter"}, **patches)
    assert tiny.relative_error(tiny.host_logits(recipe, ids), expected) <= TOLERANCE
    # Written again: the same tensors under the same names, and PEFT opens them.
    tiny.run_host("export", recipe, "--to", tmp_path / "out", "--format", "peft")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name in ours:
        assert name in stored and torch.equal(ours[name], stored[name]), name
    with torch.no_grad():
        reopened = peft.PeftModel.from_pretrained(base_of(tmp_path / "model", vocab if grows else None), tmp_path / "out").eval()(ids).logits
    assert tiny.relative_error(reopened, expected) <= TOLERANCE
    # Merged.
    tiny.run_host("export", recipe, "--to", tmp_path / "merged", "--format", "hf", "--merge")
    with torch.no_grad():
        merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()(ids).logits
    assert tiny.relative_error(merged, expected) <= TOLERANCE


def test_another_vocabulary_is_refused_with_the_way_on(tmp_path):
    config = checkpoint(tmp_path / "model", 82, False)
    trained(base_of(tmp_path / "model", config["vocab_size"] + GROWN), target_modules=ATTENTION).save_pretrained(tmp_path / "adapter")
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "lora", "path": tmp_path / "adapter"})
    (tmp_path / "ids.json").write_text("[[1, 2]]")
    done = tiny.subprocess.run([str(tiny.HOST), "logits", str(recipe), "--tokens", str(tmp_path / "ids.json"), "--out", str(tmp_path / "x")], capture_output=True, text=True)
    assert done.returncode == 5 and "saved with another vocabulary, whose tokens text.add_tokens brings" in done.stderr, done.stderr


def test_training_goes_on_beside_them(tmp_path):
    """The rows stay as they are, the updates train, and both are in the new folder."""
    config = checkpoint(tmp_path / "model", 83, False)
    trained(base_of(tmp_path / "model"), target_modules=ATTENTION).save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps({"input_ids": [5, 6, 7, 8, 9] * 3}) for _ in range(4)))
    recipe = tiny.write_recipe(tmp_path / "train.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "lora", "path": tmp_path / "adapter"},
                               data={"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 32}, train={"learning_rate": 0.01, "max_steps": 3}, output={"dir": tmp_path / "out"})
    plan = json.loads(tiny.run_host("plan", recipe, "--json").stdout)
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert plan["parameters"]["trainable"] == sum(t.numel() for name, t in before.items() if "lora_" in name)
    tiny.run_host("run", recipe)
    after = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == ("lora_" not in name), name
    assert config["vocab_size"] == after["base_model.model.lm_head.weight"].shape[0]
