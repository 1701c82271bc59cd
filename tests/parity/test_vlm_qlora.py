"""NF4 QLoRA on pictures: each vision-language family trains with the losses of transformers, bitsandbytes and PEFT, and PEFT opens what was trained."""

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import test_vlm as vlm
import test_vlm_next
import test_vlm_qwen
import tiny

STEPS, RATE = 4, 5e-3
# Rows of whole blocks: bitsandbytes' AVX-512 path takes wrong absmax values where rows straddle them.
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "tie_word_embeddings": False}


def qwen(family):
    config = test_vlm_qwen.qwen_config(family, 0)
    config["text_config"] |= {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    config["text_config"].pop("tie_word_embeddings")
    config |= {"tie_word_embeddings": False}
    vision = {"depth": 2, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if family == "qwen2_vl":
        config["vision_config"] = vision | {"embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}
    else:
        config["vision_config"] = vision | {"hidden_size": 64, "out_hidden_size": 64, "intermediate_size": 128, "window_size": 56, "fullatt_block_indexes": [1]}
    return test_vlm_qwen.make_qwen(family, config, 3)


def llava_next():
    config = test_vlm_next.next_config(0)
    config["vision_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": 28, "patch_size": 14}
    config["text_config"] |= TEXT | {"head_dim": 16}
    config |= {"vision_feature_layer": -1, "tie_word_embeddings": False, "multimodal_projector_bias": True, "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
    return test_vlm_next.make_next(config, 3)


def save(family, folder, layout):
    """-> the model's class, and the processor."""
    if family == "llava_next":
        model = llava_next()
        test_vlm_next.save_next(folder, model, layout)
        return type(model), test_vlm_next.save_processor(folder, model)
    model = qwen(family)
    test_vlm_qwen.save_qwen(folder, model, layout)
    return type(model), test_vlm_qwen.save_processor(folder, model, min_pixels=4 * 28**2, max_pixels=20 * 28**2)


# Layouts of checkpoints, which decide what adapters of llava_next call their modules; those of Qwen have one name.
CASES = [(family, layout, scope) for family in ("qwen2_vl", "qwen2_5_vl", "llava_next")
         for layout, scope in (("version 4" if family == "llava_next" else "flat", "all"), ("save_pretrained", None), ("modules", "vision"))]


@pytest.mark.parametrize("family, layout, scope", CASES)
def test_qlora_steps(family, layout, scope, tmp_path):
    vlm.shared_images()
    model_class, processor = save(family, tmp_path / "model", layout)
    names = ("chelsea.png", "coffee.png", "coins.png")
    records = [{"messages": [{"role": "user", "content": [{"type": "image", "path": str(vlm.IMAGES / name)}, {"type": "text", "text": "what is this ?"}]},
                             {"role": "assistant", "content": answer}]} for name, answer in zip(names, ("a cat .", "a cup and that .", "two of them ."))]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    tables = dict(
        model={"path": tmp_path / "model", "dtype": "float32"},
        quantizer={"type": "nf4", "compute_dtype": "float32"},
        data={"train": [tmp_path / "data.jsonl"], "max_length": 256, "shuffle": False},
        train={"learning_rate": RATE, "per_device_train_batch_size": 3, "max_steps": STEPS, "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
        output={"dir": tmp_path / "out"},
    )
    # The start is ours: B is zero, so A alone decides, and PEFT reads it.
    own = {"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | ({"scope": scope} if scope else {})
    start = tiny.write_recipe(tmp_path / "start.toml", **tables, adapter=own)
    tiny.run_host("run", start, "--set", "train.learning_rate=1e-30", "--set", "train.max_steps=1", "--set", f'output.dir="{tmp_path / "start"}"')

    def opened(folder, trainable):
        base = model_class.from_pretrained(tmp_path / "model", dtype=torch.float32, quantization_config=settings, device_map="cpu")
        # bitsandbytes' unfused path, as in test_nf4; the models have no dropout.
        return peft.PeftModel.from_pretrained(base, folder, is_trainable=trainable).train()

    reference = opened(tmp_path / "start", True)
    stored = load_file(tmp_path / "start" / "adapter_model.safetensors")
    assert len([n for n, p in reference.named_parameters() if p.requires_grad]) == len(stored), "PEFT adapts other modules than the file holds"
    assert any("visual.blocks" in name or "vision_tower" in name for name in stored) == (scope is not None)
    expected = vlm.reference_losses(reference, processor, records, STEPS, RATE)
    recipe = tiny.write_recipe(tmp_path / "train.toml", **tables, adapter={"type": "lora", "path": tmp_path / "start"})
    tiny.run_host("run", recipe)
    got = [line["loss"] for line in map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert expected[-1] < 0.99 * expected[0], "the steps must matter"
    # Four AdamW steps divide by small second moments, which enlarges what the order of sums differs by.
    assert got == pytest.approx(expected, rel=1e-3)
    trained = opened(tmp_path / "out", False)
    inputs = processor.apply_chat_template(records[0]["messages"], tokenize=True, return_dict=True, return_tensors="pt")
    (tmp_path / "messages.json").write_text(json.dumps(records[0]["messages"]))
    use = tiny.write_recipe(tmp_path / "use.toml", model=tables["model"], quantizer=tables["quantizer"], adapter={"type": "lora", "path": tmp_path / "out"})
    tiny.run_host("logits", use, "--messages", tmp_path / "messages.json", "--out", tmp_path / "logits.safetensors")
    with torch.no_grad():
        theirs = trained(**inputs).logits
    assert tiny.relative_error(load_file(tmp_path / "logits.safetensors")["logits"], theirs) <= vlm.TOLERANCE
