"""8-bit weights against bitsandbytes: codes and scales bit for bit; what the model says; files in both directions."""

import json
import random

import bitsandbytes.functional as bnb
import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def is_quantized(name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in LINEAR


@pytest.mark.parametrize("seed", range(64))
def test_packed_state(seed, tmp_path):
    """Every quantized tensor of a random model, as `host export --format bnb` writes it, equals bitsandbytes' own: 7 shapes a model."""
    draw = random.Random(f"int8 {seed}")
    model_type = tiny.MODEL_TYPES[seed % 4]
    config = tiny.random_config(model_type, 3000 + seed) | {"num_hidden_layers": 1}
    stored, dtype = draw.choice(list(DTYPES)), draw.choice(list(DTYPES))
    folder = tmp_path / "model"
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed), DTYPES[stored])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": dtype}, quantizer={"type": "int8", "threshold": draw.choice([0.0, 6.0])})
    tiny.run_host("export", recipe, "--to", tmp_path / "bnb", "--format", "bnb")
    dense, packed = load_file(folder / "model.safetensors"), load_file(tmp_path / "bnb" / "model.safetensors")
    compared = 0
    for name, weight in dense.items():
        if not is_quantized(name):
            continue
        codes, scales, _ = bnb.int8_vectorwise_quant(weight.to(DTYPES[dtype]).to(torch.float16))
        assert torch.equal(packed[name], codes), f"{name}: codes"
        assert torch.equal(packed[name.replace("weight", "SCB")], scales), f"{name}: SCB"
        assert packed[name.replace("weight", "weight_format")].item() == 0
        compared += 1
    assert compared == 7


def int8_linear(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, threshold: float) -> torch.Tensor:
    """LLM.int8() in float64 sums, as bitsandbytes computes it but for the cast of x to float16."""
    flat = x.reshape(-1, x.shape[-1]).clone()
    outliers = flat.abs() >= threshold if threshold > 0 else torch.zeros_like(flat, dtype=torch.bool)
    columns = outliers.any(0)
    kept = flat.masked_fill(outliers, 0)
    row = kept.abs().amax(1, keepdim=True)
    quantized = torch.round(kept * (127.0 / row)).masked_fill(columns, 0).double()
    y = (quantized @ codes.double().T) * (row.double() * scales.double() / 127**2)
    y += flat[:, columns].double() @ (codes[:, columns].double() * (scales.double() / 127)[:, None]).T
    return y.to(x.dtype).reshape(*x.shape[:-1], -1)


class Int8Linear(torch.nn.Module):
    def __init__(self, linear, threshold):
        super().__init__()
        self.codes, self.scales, _ = bnb.int8_vectorwise_quant(linear.weight.data.to(torch.float16))
        self.bias, self.threshold = linear.bias, threshold

    def forward(self, x):
        y = int8_linear(x, self.codes, self.scales, self.threshold)
        return y if self.bias is None else y + self.bias


@pytest.mark.parametrize("seed", range(20))
def test_logits(seed, tmp_path, record_property):
    """Float32 logits of random models, with and without outliers, equal those of the definition in place of each linear layer."""
    draw = random.Random(f"int8 logits {seed}")
    model_type, threshold = tiny.MODEL_TYPES[seed % 4], draw.choice([0.0, 2.0, 2.5, 6.0])
    config = tiny.random_config(model_type, 4000 + seed)
    folder = tmp_path / "model"
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in list(reference.named_modules()):
        if name.split(".")[-1] in LINEAR:
            reference.set_submodule(name, Int8Linear(module, threshold))
    # One sequence or several: rows of all sequences share their outlier columns.
    ids = torch.randint(0, config["vocab_size"], (draw.randint(1, 3), draw.randint(1, 40)), generator=torch.Generator().manual_seed(seed))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}, quantizer={"type": "int8", "threshold": threshold})
    with torch.no_grad():
        expected = reference(ids).logits
    ours, full = tiny.host_logits(recipe, ids), tiny.reference_logits(folder, ids)
    error = tiny.relative_error(ours, expected)
    record_property("relative_error", error)
    # Where an activation lies in the middle between two codes, the last bit of a sum decides; each such flip is a step of 1/127. So most logits agree to
    # 1e-4 and none is off by as much as quantization itself moves them.
    noise = (expected - full).abs().max().item()
    assert (ours - expected).abs().max().item() <= 0.5 * noise + 1e-4 * expected.abs().max().item()
    assert (ours - expected).norm() <= 0.1 * (expected - full).norm() + 1e-4 * expected.norm(), f"{error:.2e} with {config} {threshold}"


def test_files_both_ways(tmp_path):
    """transformers opens what the host exports, the host opens what transformers saves; equal codes give equal logits on either side."""
    config = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "tie_word_embeddings": False, "pad_token_id": None}
    folder = tmp_path / "model"
    tiny.save_checkpoint(folder, tiny.make_model("llama", config, 7))
    ids = torch.arange(3, 27).view(2, 12)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}, quantizer={"type": "int8"})
    tiny.run_host("export", recipe, "--to", tmp_path / "ours", "--format", "bnb", "--verify")
    settings = transformers.BitsAndBytesConfig(load_in_8bit=True)

    def transformers_logits(path, **arguments):
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu", **arguments).eval()
        with torch.no_grad():
            return model, model(ids).logits

    _, opened = transformers_logits(tmp_path / "ours")
    model, own = transformers_logits(folder, quantization_config=settings)
    assert torch.equal(opened, own)
    model.save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["quantization_config"]["load_in_8bit"]
    again = tiny.host_logits(tiny.write_recipe(tmp_path / "again.toml", model={"path": tmp_path / "theirs", "dtype": "float32"}), ids)
    ours = tiny.host_logits(recipe, ids)
    assert torch.equal(again, ours)
    # bitsandbytes casts activations to float16, 1/2048 in each of a dozen roundings; where that flips a code, the step is 1/127 of a row's largest value.
    # Quantization itself moves these logits by more.
    assert tiny.relative_error(ours, own) <= 5e-2


@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_divergence_of_real_models(name, tmp_path, record_property):
    """KL divergence from the dense model: at most 1.02 times that of bitsandbytes."""
    folder = tiny.SHARED / "data" / "models" / name
    if not folder.exists():
        pytest.skip(f"no {folder}")
    dense_model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vocabulary = dense_model.config.vocab_size
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, vocabulary, (4, 24), generator=generator)
    with torch.no_grad():
        ids = dense_model.generate(ids[:, :2], max_new_tokens=120, do_sample=True, temperature=1.0, min_new_tokens=120, pad_token_id=0)  # text of its own
        dense = dense_model(ids).logits
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu",
                                                                  quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True)).eval()
        theirs = model(ids).logits
    ours = tiny.host_logits(tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}, quantizer={"type": "int8"}), ids)

    def divergence(logits):
        p, q = dense.double().log_softmax(-1), logits.double().log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1).mean().item()

    record_property("kl", (divergence(ours), divergence(theirs)))
    assert 0 < divergence(ours) <= 1.02 * divergence(theirs), (divergence(ours), divergence(theirs))
