"""A checkpoint that is larger than model.max_host_memory loads within it: measured, and under a limit that the kernel enforces."""

import json
import re
import resource
import subprocess

import torch
from safetensors.torch import save_file

import tiny

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
          "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
          "tie_word_embeddings": True, "dtype": "bfloat16"}
MIB = 1 << 20
LIMIT = 640 * MIB


def large_checkpoint(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    width, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width, width), "self_attn.v_proj": (width, width), "self_attn.o_proj": (width, width),
              "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    drawn = {shape: torch.randn(shape, generator=torch.Generator().manual_seed(1)).mul(0.02).bfloat16() for shape in set(shapes.values())}
    ones = torch.ones(width, dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": torch.full((CONFIG["vocab_size"], width), 0.01, dtype=torch.bfloat16), "model.norm.weight": ones}
    for layer in range(CONFIG["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        tensors |= {f"{base}.{name}.weight": drawn[shape].clone() for name, shape in shapes.items()}
        tensors |= {f"{base}.{name}.weight": ones.clone() for name in ("input_layernorm", "post_attention_layernorm")}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return (folder / "model.safetensors").stat().st_size


def load(tmp_path, limit, data_limit):
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "device_map": "cpu", "max_host_memory": f"{limit // MIB}MiB"},
                               quantizer={"type": "nf4"})
    (tmp_path / "ids.json").write_text("[[1, 2, 3]]")
    # Private memory, whatever it is used for; the mapped file is not the process's own.
    enforce = (lambda: resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))) if data_limit else None
    return subprocess.run([tiny.HOST, "logits", recipe, "--tokens", tmp_path / "ids.json", "--out", tmp_path / "out.safetensors"], capture_output=True, text=True,
                          preexec_fn=enforce)


def test_a_checkpoint_larger_than_max_host_memory(tmp_path, record_property):
    size = large_checkpoint(tmp_path / "model")
    assert size > 1.2 * LIMIT
    done = load(tmp_path, LIMIT, LIMIT)
    assert done.returncode == 0, done.stderr
    peak = float(re.search(r"host peak ([\d.]+) MiB", done.stderr)[1]) * MIB
    record_property("peak_mib", peak / MIB)
    assert peak <= LIMIT, done.stderr
    # Less than the plan needs is refused before a weight is read, and the kernel's limit is one that can be hit.
    done = load(tmp_path, 256 * MIB, 0)
    assert done.returncode == 6 and "max_host_memory allows 256" in done.stderr, done.stderr
    assert load(tmp_path, LIMIT, 128 * MIB).returncode != 0
