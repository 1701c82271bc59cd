"""4-bit weights against bitsandbytes: packed bytes, absmax and nested state bit for bit; logits; files in both directions."""

import json
import random

import bitsandbytes.functional as bnb
import pytest
import torch
import transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import load_file

import tiny

# Design, section 8: float32 on both sides, what differs is the order of sums.
TOLERANCE = 1e-4
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """bitsandbytes' nested offset is a mean whose order of sums follows the thread count; ours is that of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def is_quantized(name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in LINEAR


def reference_state(weight: torch.Tensor, kind: str, block: int, nested: bool):
    return bnb.quantize_4bit(weight, blocksize=block, quant_type=kind, compress_statistics=nested)


def dequantized(packed: torch.Tensor, state) -> torch.Tensor:
    """bitsandbytes' generic path in float32. (Its AVX-512 one takes wrong absmax values where rows straddle blocks.)"""
    absmax = state.absmax
    if state.nested:
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return _dequantize_4bit_compute(packed.view(-1), absmax.float(), state.code, state.blocksize, state.shape, torch.float32)


def draw_case(seed: int):
    draw = random.Random(f"nf4 {seed}")
    model_type = tiny.MODEL_TYPES[seed % len(tiny.MODEL_TYPES)]
    options = {"type": draw.choice(["nf4", "nf4", "fp4"]), "block_size": draw.choice([32, 64, 64, 128, 256]), "double_quant": draw.random() < 0.5}
    return model_type, tiny.random_config(model_type, 1000 + seed), options, draw.choice(list(DTYPES)), draw.choice(list(DTYPES))


@pytest.mark.parametrize("seed", range(24))
def test_packed_state(seed, tmp_path):
    """Every quantized tensor of a random model, as `host export --format bnb` writes it, equals bitsandbytes' own."""
    model_type, config, options, stored, dtype = draw_case(seed)
    folder = tmp_path / "model"
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed), DTYPES[stored])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": dtype}, quantizer=options)
    tiny.run_host("export", recipe, "--to", tmp_path / "bnb", "--format", "bnb")
    dense, packed = load_file(folder / "model.safetensors"), load_file(tmp_path / "bnb" / "model.safetensors")
    compared = 0
    for name, weight in dense.items():
        if not is_quantized(name):
            continue
        codes, state = reference_state(weight.to(DTYPES[dtype]), options["type"], options["block_size"], options["double_quant"])
        assert torch.equal(packed[name], codes), f"{name}: codes"
        assert torch.equal(packed[f"{name}.absmax"], state.absmax), f"{name}: absmax"
        assert torch.equal(packed[f"{name}.quant_map"], state.code), f"{name}: quant_map"
        header = json.loads(bytes(packed[f"{name}.quant_state.bitsandbytes__{options['type']}"].tolist()))
        expected = {"quant_type": options["type"], "blocksize": options["block_size"], "dtype": dtype, "shape": list(weight.shape)}
        if options["double_quant"]:
            assert torch.equal(packed[f"{name}.nested_absmax"], state.state2.absmax), f"{name}: nested_absmax"
            assert torch.equal(packed[f"{name}.nested_quant_map"], state.state2.code), f"{name}: nested_quant_map"
            expected |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": state.offset.item()}
        assert header == expected
        compared += 1
    assert compared == (4 if model_type == "phi3" else 7) * config["num_hidden_layers"]


@pytest.mark.parametrize("seed", range(24))
def test_logits(seed, tmp_path, record_property):
    """Float32 logits of the quantized model equal those of transformers with bitsandbytes' dequantized weights in place."""
    model_type, config, options, stored, _ = draw_case(100 + seed)
    folder = tmp_path / "model"
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed), DTYPES[stored])
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, parameter in reference.named_parameters():
        if is_quantized(name):
            parameter.data = dequantized(*reference_state(parameter.data, options["type"], options["block_size"], options["double_quant"]))
    draw = random.Random(seed)
    ids = torch.randint(0, config["vocab_size"], (draw.randint(1, 3), draw.randint(1, 40)), generator=torch.Generator().manual_seed(seed))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}, quantizer=options)
    with torch.no_grad():
        error = tiny.relative_error(tiny.host_logits(recipe, ids), reference(ids).logits)
    record_property("relative_error", error)
    assert error <= TOLERANCE, f"{error:.2e} with {config} {options}"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_files_both_ways(kind, nested, tmp_path):
    """transformers opens what the host exports, the host opens what transformers saves, and all give the same logits."""
    config = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "tie_word_embeddings": False, "pad_token_id": None}
    folder = tmp_path / "model"
    tiny.save_checkpoint(folder, tiny.make_model("llama", config, 7))
    ids = torch.arange(3, 27).view(2, 12)
    quantizer = {"type": kind, "double_quant": nested}
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}, quantizer=quantizer)
    tiny.run_host("export", recipe, "--to", tmp_path / "ours", "--format", "bnb", "--verify")
    ours = tiny.host_logits(recipe, ids)

    def transformers_logits(path, **arguments):
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu", **arguments)
        model.train()  # bitsandbytes' unfused path; the model has no dropout
        with torch.no_grad():
            return model, model(ids).logits

    _, theirs = transformers_logits(tmp_path / "ours")
    assert tiny.relative_error(ours, theirs) <= TOLERANCE
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested, bnb_4bit_compute_dtype=torch.float32)
    model, theirs = transformers_logits(folder, quantization_config=settings)
    model.save_pretrained(tmp_path / "theirs")
    again = tiny.host_logits(tiny.write_recipe(tmp_path / "again.toml", model={"path": tmp_path / "theirs", "dtype": "float32"}), ids)
    assert tiny.relative_error(again, theirs) <= TOLERANCE
