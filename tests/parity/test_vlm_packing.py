"""Samples with pictures and sounds packed into one row train as they do row by row, with every attention."""

import json

import pytest
from safetensors.torch import load_file

import test_freeze
import test_vlm as vlm
import test_vlm_lfm2 as lfm2
import test_vlm_mllama as mllama
import test_vlm_next as llava_next
import test_vlm_qlora as qlora
import test_vlm_qwen as qwen
import test_voxtral as voxtral
import tiny

STEPS = 2


def save_qwen(family, folder):
    model = qlora.qwen(family)
    qwen.save_qwen(folder, model)
    qwen.save_processor(folder, model, min_pixels=4 * 28**2, max_pixels=9 * 28**2)


def save_next(family, folder):
    model = qlora.llava_next()
    llava_next.save_next(folder, model)
    llava_next.save_processor(folder, model)


def save_lfm2(family, folder):
    config = lfm2.vl_config(2)
    config["vision_config"]["patch_size"], config["downsample_factor"] = 16, 2
    config["text_config"] |= {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 4}
    config["text_config"].pop("full_attn_idxs", None)
    model = lfm2.make_vl(config, 2)
    lfm2.save_vl(folder, model)
    lfm2.save_processor(folder, model, tile_size=64, min_image_tokens=4, max_image_tokens=16, max_tiles=2)


def save_mllama(family, folder):
    model = mllama.make_mllama(mllama.mllama_config(2), 2)
    mllama.save_mllama(folder, model)
    mllama.save_processor(folder, model)


def save_voxtral(family, folder):
    model, _ = voxtral.small_model(folder)
    voxtral.save_voxtral(folder, model)
    voxtral.save_processor(folder, model)


FAMILIES = {"llava": test_freeze.save, "llava_next": save_next, "qwen2_vl": save_qwen, "qwen2_5_vl": save_qwen, "lfm2_vl": save_lfm2, "mllama": save_mllama, "voxtral": save_voxtral}


def records(family, folder):
    """With one, none, two, none and one again: what is packed behind a medium must not count it."""
    if family == "voxtral":
        files = [voxtral.write_wav(folder / f"{i}.wav", voxtral.made_sound(0.2 + 0.2 * i, seed=i)) for i in range(4)]
        kind, words = "audio", ["ask not .", "she sings and so .", "your country can .", "yes", "no he asks"]
    else:
        files = [vlm.IMAGES / name for name in ("chelsea.png", "coffee.png", "coins.png", "rocket.jpg")]
        kind, words = "image", ["a cat .", "a cup and that .", "two of them .", "yes", "no picture"]
    text = {"type": "text", "text": "what does he say ?" if kind == "audio" else "what is this ?"}
    part = lambda i: {"type": kind, "path": str(files[i])}
    contents = [[part(0), text], [text], [part(1), text, part(2)], [text], [text, part(3)]]
    return [{"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]} for content, answer in zip(contents, words)]


@pytest.fixture(scope="module", params=FAMILIES)
def unpacked(request, tmp_path_factory):
    """-> the family's folder, and what it trains without packing."""
    vlm.shared_images()
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](request.param, folder / "model")
    rows = records(request.param, folder)
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny.run_host("run", recipe(folder, "start", {"type": "lora", "r": 4, "target_modules": "all-linear", "scope": "all", "init_lora_weights": False}, 1, False, max_steps=1, learning_rate=1e-9))
    return folder, trained(folder, "plain", "eager", len(rows), False)


def recipe(folder, name, adapter, batch, packing, patch=None, **train):
    return tiny.write_recipe(folder / f"{name}.toml", model={"path": folder / "model", "dtype": "float32"}, adapter=adapter, **({"patch": patch} if patch else {}),
                             data={"train": [folder / "data.jsonl"], "max_length": 400, "packing": packing, "shuffle": False},
                             train={"per_device_train_batch_size": batch, "lr_scheduler_type": "constant", **train}, output={"dir": folder / name})


def trained(folder, name, kind, batch, packing):
    tiny.run_host("run", recipe(folder, name, {"type": "lora", "path": folder / "start"}, batch, packing, patch=[{"type": "attention", "implementation": kind}], max_steps=STEPS, learning_rate=1e-3))
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["loss"], line["grad_norm"]) for line in lines if "loss" in line]
    assert len(steps) == STEPS
    return steps, load_file(folder / name / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", ("eager", "sdpa", "flash"))
def test_packed_training_is_unpacked_training(unpacked, kind):
    folder, plain = unpacked
    packed = trained(folder, f"packed_{kind}", kind, 1, True)
    # One row has all of them: sums of the same numbers in float32, in another order.
    assert packed[0][0][0] == pytest.approx(plain[0][0][0], rel=1e-5) and packed[0][0][1] == pytest.approx(plain[0][0][1], rel=1e-4)
    assert packed[0][1][0] == pytest.approx(plain[0][1][0], rel=1e-3)
    for name, tensor in plain[1].items():
        assert (packed[1][name] - tensor).abs().max() <= 3e-4, name
