"""Training whole models with parts frozen (train.freeze), against transformers with requires_grad_(False) on the same parameters."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import test_vlm as vlm
import test_vlm_qlora
import test_vlm_qwen as qwen
import tiny

STEPS, RATE = 3, 2e-3

# What is frozen, and which parameters of transformers these are.
CASES = {
    ("llava", "nothing"): ([], ()),
    ("llava", "tower"): (["vision"], ("model.vision_tower.",)),
    ("llava", "tower by its module"): (["model.vision_tower"], ("model.vision_tower.",)),
    ("llava", "all but the projector"): (["vision", "language"], ("model.vision_tower.", "model.language_model.", "lm_head.")),
    ("llava", "a block and norms"): (["model.language_model.layers.0", r"model\.vision_tower\..*layer_norm\d\..*"], ("model.language_model.layers.0.", "layer_norm")),
    ("qwen2_5_vl", "tower and merger"): (["vision", "projector"], ("model.visual.",)),
    ("qwen2_5_vl", "embeddings"): (["embed_tokens"], ("embed_tokens",)),
    ("qwen2_5_vl", "language"): (["language"], ("model.language_model.", "lm_head.")),
}


def save(family, folder):
    if family != "llava":
        model = test_vlm_qlora.qwen(family)
        qwen.save_qwen(folder, model)
        return qwen.save_processor(folder, model, min_pixels=4 * 28**2, max_pixels=9 * 28**2)
    config = vlm.llava_config(0)
    config["vision_config"] |= {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 28, "patch_size": 14}
    config |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "tie_word_embeddings": False}
    model = vlm.make_llava(config, 3)
    vlm.save_llava(folder, model)
    return vlm.save_processor(folder, model)


@pytest.mark.parametrize("family, case", CASES)
def test_steps(family, case, tmp_path):
    vlm.shared_images()
    names, prefixes = CASES[family, case]
    processor = save(family, tmp_path / "model")
    pictures = ("chelsea.png", "coffee.png")
    records = [{"messages": [{"role": "user", "content": [{"type": "image", "path": str(vlm.IMAGES / name)}, {"type": "text", "text": "what is this ?"}]},
                             {"role": "assistant", "content": answer}]} for name, answer in zip(pictures, ("a cat .", "a cup and that ."))]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    recipe = tiny.write_recipe(
        tmp_path / "train.toml",
        model={"path": tmp_path / "model", "dtype": "float32"},
        data={"train": [tmp_path / "data.jsonl"], "max_length": 256, "shuffle": False},
        train={"learning_rate": RATE, "per_device_train_batch_size": 2, "max_steps": STEPS, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "freeze": names},
        output={"dir": tmp_path / "out"},
    )
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32).train()
    frozen = [name for name, parameter in model.named_parameters() if any(part in name for part in prefixes)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    assert bool(frozen) == bool(names)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = json.loads(tiny.run_host("plan", recipe, "--json").stdout)
    assert plan["parameters"]["trainable"] == trained
    assert plan["totals"]["gradients"] == 4 * trained and plan["totals"]["optimizer"] == 8 * trained
    expected = vlm.reference_losses(model, processor, records, STEPS, RATE)
    tiny.run_host("run", recipe)
    got = [line["loss"] for line in map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert expected[-1] < 0.99 * expected[0], "the steps must matter"
    # Steps of AdamW divide by small second moments, which enlarges what the order of sums differs by.
    assert got == pytest.approx(expected, rel=1e-3)
    start, saved = load_file(tmp_path / "model" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert start.keys() == saved.keys()
    after = dict(transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).named_parameters())
    before = dict(transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32).named_parameters())
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(after[name], before[name]), name
        elif name.endswith("k_proj.bias") and "vision_tower" in name:
            continue  # softmax does not change with it: its gradient is rounding alone
        elif parameter.grad is not None or not torch.equal(parameter, before[name]):
            # As a whole: elements with hardly any gradient move by what rounding left of it.
            change = (parameter - before[name]).norm()
            assert change > 0 and (after[name] - parameter).norm() <= 0.05 * change, name


def test_frozen_weights_keep_their_dtype_and_bytes(tmp_path):
    """In bfloat16: what trains is float32 in memory, what is frozen is not, and is written as it was."""
    config = {**tiny.random_config("llama", 7), "num_hidden_layers": 3, "tie_word_embeddings": True}
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model("llama", config, 7), torch.bfloat16)
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps({"input_ids": [5, 6, 7, 8, 9] * 3}) for _ in range(4)))
    recipe = tiny.write_recipe(
        tmp_path / "train.toml",
        model={"path": tmp_path / "model", "dtype": "bfloat16"},
        data={"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 32},
        train={"learning_rate": 0.01, "max_steps": 3, "freeze": ["lm_head", "model.layers.0"]},
        output={"dir": tmp_path / "out"},
    )
    modules = {module["path"]: module for module in json.loads(tiny.run_host("plan", recipe, "--json").stdout)["modules"]}
    tiny.run_host("run", recipe)
    start, saved = load_file(tmp_path / "model" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert start.keys() == saved.keys()
    for name in start:
        # The head is tied, and so the embeddings are frozen with it.
        is_frozen = name.startswith("model.layers.0.") or "embed_tokens" in name
        assert torch.equal(start[name], saved[name]) == is_frozen, name
        if name.endswith("proj.weight"):
            assert modules[name.removesuffix(".weight")]["filler"] == ("bfloat16" if is_frozen else "float32")


@pytest.mark.parametrize("names, text", [
    (["model.vision_towr"], "nothing in this model is called 'model.vision_towr', did you mean 'model.vision_tower'?"),
    (["visoin", "projectr"], "did you mean 'vision'?"),
    (["visoin", "projectr"], "did you mean 'projector'?"),
    ([".*"], "nothing is left to train"),
    (["(.*"], "neither a module's name nor a regular expression"),
])
def test_names_that_freeze_nothing_or_everything_are_refused(names, text, tmp_path):
    save("llava", tmp_path / "model")
    (tmp_path / "data.jsonl").write_text(json.dumps({"input_ids": [5, 6]}))
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model"}, data={"train": [tmp_path / "data.jsonl"], "format": "tokenized"}, train={"freeze": names}, output={"dir": tmp_path / "out"})
    done = tiny.subprocess.run([str(tiny.HOST), "plan", str(recipe)], capture_output=True, text=True)
    assert done.returncode == 3 and text in done.stderr, done.stderr
