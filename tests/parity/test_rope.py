"""Every type of rotary frequencies, from config.json and from the rope_scaling patch, below, at and beyond the original context."""

import json
import random

import pytest
import torch
import transformers

import test_vlm as vlm
import test_vlm_lfm2 as lfm2
import test_vlm_mllama as mllama
import test_vlm_qwen as qwen
import test_voxtral as voxtral
import tiny

TOLERANCE = 1e-4  # design, section 8
CONTEXT, LENGTHS = 32, (16, 17, 32, 33, 50)


def tables(draw: random.Random, pairs: int):
    """A table of each type with this model's number of pairs; contexts of 16 stretched to 32 where the type knows an original one."""
    factors = lambda low, high: [round(draw.uniform(low, high), 3) for _ in range(pairs)]
    yield {"rope_type": "linear", "factor": draw.choice([2.0, 3.5])}
    yield {"rope_type": "dynamic", "factor": draw.choice([1.0, 2.0, 4.0])}
    yield {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    yield {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
    yield {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": draw.choice([4, 32.0]), "beta_slow": draw.choice([0.5, 2]), "truncate": False}
    yield {"rope_type": "yarn", "factor": 8.0, "mscale": 0.7, "mscale_all_dim": 1.3}
    yield {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.7, "original_max_position_embeddings": 16}
    yield {"rope_type": "longrope", "short_factor": factors(1, 2), "long_factor": factors(2, 8), "original_max_position_embeddings": 16}
    yield {"rope_type": "longrope", "short_factor": factors(1, 2), "long_factor": factors(2, 8), "original_max_position_embeddings": 16, "factor": 2.0, "attention_factor": 1.2}
    yield {"rope_type": "proportional", "factor": 1.5, "partial_rotary_factor": 0.5}


def make(model_type: str, seed: int, rope: dict | None):
    config = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 60, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
              "max_position_embeddings": CONTEXT, "pad_token_id": None, "rope_parameters": {"rope_theta": 100.0, **(rope or {"rope_type": "default"})}}
    return tiny.make_model(model_type, config, seed)


def check(recipe, folder, seed):
    for length in LENGTHS:
        ids = torch.randint(0, 97, (2, length), generator=torch.Generator().manual_seed(seed))
        error = tiny.relative_error(tiny.host_logits(recipe, ids), tiny.reference_logits(folder, ids))
        assert error <= TOLERANCE, f"length {length}: {error:.2e}"


@pytest.mark.parametrize("index", range(10))
# phi3 knows default and longrope only: test_logits has them.
@pytest.mark.parametrize("model_type", [name for name in tiny.MODEL_TYPES if name != "phi3"])
def test_config(model_type, index, tmp_path):
    rope = list(tables(random.Random(f"{model_type} {index}"), 6))[index]
    tiny.save_checkpoint(tmp_path / "model", make(model_type, index, rope), old=index % 2 == 1 and rope["rope_type"] != "proportional")
    check(tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}), tmp_path / "model", index)


@pytest.mark.parametrize("patch", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "yarn", "factor": 2.0},
                                   {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 16, "rope_theta": 50.0},
                                   {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16},
                                   {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5]}])
def test_patch(patch, tmp_path):
    """The patch on a plain checkpoint equals transformers on the same checkpoint with the parameters in its config; what export writes says the same."""
    model = make("llama", 5, None)
    tiny.save_checkpoint(tmp_path / "plain", model)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "plain", "dtype": "float32"}, patch=[{"type": "rope_scaling", **patch}])
    rope = {"rope_theta": 100.0, **patch}
    if patch["rope_type"] in ("yarn", "llama3", "longrope"):
        rope.setdefault("original_max_position_embeddings", CONTEXT)
    if patch["rope_type"] == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model.config.rope_parameters = rope
    tiny.save_checkpoint(tmp_path / "reference", model)
    check(recipe, tmp_path / "reference", 5)
    tiny.run_host("export", recipe, "--to", tmp_path / "exported", "--format", "hf")
    check(recipe, tmp_path / "exported", 5)


# Models whose text model is one part of them.
PARTS = {
    "llava": (vlm.llava_config, vlm.make_llava),
    "qwen2_vl": (lambda seed: qwen.qwen_config("qwen2_vl", seed), lambda config, seed: qwen.make_qwen("qwen2_vl", config, seed)),
    "mllama": (mllama.mllama_config, mllama.make_mllama),
    "lfm2_vl": (lfm2.vl_config, lfm2.make_vl),
    "voxtral": (voxtral.voxtral_config, voxtral.make_voxtral),
}


# Only qwen2_vl has had its text model's keys outside.
@pytest.mark.parametrize("family, spelling", [*((family, spelling) for family in PARTS for spelling in ("new", "old")), ("qwen2_vl", "flat")])
def test_patch_of_a_text_model_inside_another(family, spelling, tmp_path):
    """Whatever stretches its text model already is replaced; its base and the axes of its pairs stay."""
    write, make = PARTS[family]
    config = write(0)
    text = config["text_config"]
    sections = {"mrope_section": text["rope_parameters"]["mrope_section"]} if family == "qwen2_vl" else {}
    text |= {"max_position_embeddings": CONTEXT, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0, **sections}}
    model = make(config, 0)
    model.save_pretrained(tmp_path / "plain")
    file = tmp_path / "plain" / "config.json"
    stored = json.loads(file.read_text())
    if spelling == "flat":
        stored = qwen.flat(stored)
    elif spelling == "old":
        rope = stored["text_config"].pop("rope_parameters")
        stored["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    file.write_text(json.dumps(stored))
    model.config.text_config.rope_parameters = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": CONTEXT, "rope_theta": 100.0, **sections}
    model.config.text_config.max_position_embeddings = 2 * CONTEXT
    model.save_pretrained(tmp_path / "reference")
    reference = type(model).from_pretrained(tmp_path / "reference", dtype=torch.float32).eval()
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "plain", "dtype": "float32"}, patch=[{"type": "rope_scaling", "rope_type": "yarn", "factor": 2.0}])
    tiny.run_host("export", recipe, "--to", tmp_path / "exported", "--format", "hf")
    exported = transformers.AutoConfig.from_pretrained(tmp_path / "exported").get_text_config()
    assert exported.max_position_embeddings == 2 * CONTEXT
    again = type(model).from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()
    for length in LENGTHS:
        ids = torch.randint(4, 20, (2, length), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = reference(input_ids=ids).logits
            assert tiny.relative_error(again(input_ids=ids).logits, expected) <= TOLERANCE
        assert tiny.relative_error(tiny.host_logits(recipe, ids), expected) <= TOLERANCE, length
