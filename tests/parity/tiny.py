"""Random small checkpoints for parity tests, and the host run on them.

Checkpoints are written by transformers itself, so that the reference and the host read the same files.
"""

import json
import os
import pathlib
import random
import subprocess

import tokenizers
import torch
import transformers
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("TENON_SHARED_DIR", ROOT.parent / "shared"))
HOST = pathlib.Path(os.environ.get("TENON_HOST", ROOT / "build" / "bin" / "host"))
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "smollm3")
EXPERT_TYPES = ("mixtral", "qwen3_moe")
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def random_config(model_type: str, seed: int) -> dict:
    """A config of a few thousand parameters: odd widths and vocabularies, grouped heads, tied or not, biases, windows, rope types."""
    draw = random.Random(f"{model_type} {seed}")
    kv_heads = draw.choice([1, 1, 2, 3])
    heads = kv_heads * draw.choice([1, 2, 3, 4])
    head_dim = 2 * draw.randint(2, 12)
    layers = draw.randint(1, 4)
    config = {
        "vocab_size": draw.randrange(89, 700),
        "hidden_size": heads * head_dim,
        "intermediate_size": draw.randrange(17, 210),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": draw.choice([64, 128, 512]),
        "rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-3]),
        "tie_word_embeddings": draw.random() < 0.4,
        "hidden_act": draw.choice(["silu", "silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"]),
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    rope = draw.choice([None, None, {"rope_type": "linear", "factor": 2.5}, LLAMA3_ROPE])
    config["rope_parameters"] = {"rope_theta": draw.choice([10000.0, 500000.0, 100.0]), **(rope or {"rope_type": "default"})}
    if model_type == "qwen3" or draw.random() < 0.3:
        config["head_dim"] = 2 * draw.randint(2, 14)
        # transformers' LlamaConfig wants the width to divide by the heads all the same.
        config["hidden_size"] = draw.randrange(20, 150) if model_type != "llama" else heads * draw.randrange(7, 40)
    if model_type == "llama":
        config["mlp_bias"] = draw.random() < 0.3
    if model_type in ("llama", "qwen3"):
        config["attention_bias"] = draw.random() < 0.4
    if model_type == "mistral":
        config["sliding_window"] = draw.choice([None, 3, 7, 4096])
    if model_type in ("qwen2", "qwen3") and draw.random() < 0.5:
        config["use_sliding_window"] = True
        config["sliding_window"] = draw.choice([2, 5, 9])
        config["max_window_layers"] = draw.randint(0, layers)
    if model_type == "gemma2":
        config["hidden_activation"] = config.pop("hidden_act")
        config["hidden_size"], config["head_dim"] = heads * draw.randrange(7, 30), 2 * draw.randint(2, 14)
        config["query_pre_attn_scalar"] = draw.choice([16, 256, config["head_dim"]])
        config["sliding_window"] = draw.choice([3, 7, 4096])
        config["attn_logit_softcapping"], config["final_logit_softcapping"] = draw.choice([None, 2.0, 50.0]), draw.choice([None, 5.0, 30.0])
        config["attention_bias"] = draw.random() < 0.2
    if model_type == "phi3":
        config["sliding_window"] = draw.choice([None, None, 3, 9])
        config.pop("head_dim", None)
        config["hidden_size"] = heads * head_dim
        partial = draw.choice([1.0, 1.0, 0.5, 0.75])
        turning = int(head_dim * partial)
        partial = partial if turning % 2 == 0 and turning > 0 else 1.0
        pairs = int(head_dim * partial) // 2
        config["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": partial}
        if draw.random() < 0.6:
            config["original_max_position_embeddings"] = draw.choice([8, 16, 64])
            config["rope_parameters"] |= {"rope_type": "longrope", "short_factor": [round(draw.uniform(1, 2), 3) for _ in range(pairs)],
                                          "long_factor": [round(draw.uniform(2, 9), 3) for _ in range(pairs)]}
    if model_type == "smollm3":
        config.pop("head_dim", None)
        config["hidden_size"] = heads * head_dim
        config["no_rope_layer_interval"] = draw.choice([1, 2, 3, 4])
        if draw.random() < 0.3:
            config["no_rope_layers"] = [draw.randint(0, 1) for _ in range(layers)]
        if draw.random() < 0.4:
            config |= {"use_sliding_window": True, "sliding_window": draw.choice([2, 5])}
        config["mlp_bias"], config["attention_bias"] = draw.random() < 0.3, draw.random() < 0.3
    if model_type == "mixtral":
        config["num_local_experts"] = draw.randint(1, 7)
        config["sliding_window"] = draw.choice([None, 3, 9])
    if model_type == "qwen3_moe":
        config["num_experts"] = draw.randint(1, 9)
        config |= {"moe_intermediate_size": draw.randrange(9, 70), "norm_topk_prob": draw.random() < 0.5, "decoder_sparse_step": draw.choice([1, 1, 2])}
        if draw.random() < 0.4:
            config["mlp_only_layers"] = [draw.randrange(layers)]
        if draw.random() < 0.4:
            config |= {"use_sliding_window": True, "sliding_window": draw.choice([2, 5])}
        config["attention_bias"] = draw.random() < 0.3
    if model_type in EXPERT_TYPES:
        config["num_experts_per_tok"] = draw.randint(1, config.get("num_local_experts") or config["num_experts"])
    return config


def make_model(model_type: str, config: dict, seed: int) -> torch.nn.Module:
    """A float32 model whose every parameter is random: norms away from one and biases away from zero, so that leaving one out shows."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **config)).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.3)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            else:
                parameter.normal_(0.0, 1.0 if "embed" in name else 1.2 * parameter.shape[-1] ** -0.5)
    return model


def old_spelling(config: dict) -> dict:
    """config.json as transformers 4 wrote it: rope_theta beside rope_scaling, torch_dtype, no layer_types."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] == "linear":
        rope["type"] = rope.pop("rope_type")  # the oldest spelling
    config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    if "no_rope_layers" not in config:
        config.pop("layer_types", None)
    return config


def save_checkpoint(folder: pathlib.Path, model: torch.nn.Module, dtype: torch.dtype = torch.float32, old: bool = False, shard_size: str = "5GB", **options) -> None:
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size, **options)
    if old:
        file = folder / "config.json"
        file.write_text(json.dumps(old_spelling(json.loads(file.read_text())), indent=2))


def load_reference(folder: pathlib.Path, **options) -> torch.nn.Module:
    """transformers' float32 model. Experts one by one: its grouped products want widths that are multiples of 16 bytes."""
    experts = {"experts_implementation": "eager"} if json.loads((folder / "config.json").read_text())["model_type"] in EXPERT_TYPES else {}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **experts, **options)


def reference_logits(folder: pathlib.Path, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Float32 logits of transformers on the saved files."""
    model = load_reference(folder).eval()
    with torch.no_grad():
        return model(ids, attention_mask=mask, use_cache=False).logits


def toml(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return json.dumps(str(value) if isinstance(value, pathlib.Path) else value)


def write_recipe(file: pathlib.Path, **tables) -> pathlib.Path:
    """write_recipe(file, model={"path": folder, "dtype": "float32"}, quantizer={...})"""
    lines = []
    for name, table in tables.items():
        for row in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {toml(value)}" for key, value in row.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


def run_host(*arguments, timeout: float = 300) -> subprocess.CompletedProcess:
    """Runs the host; the test fails with its stderr when it does."""
    done = subprocess.run([str(HOST), *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"host {' '.join(map(str, arguments))}: exit status {done.returncode}\n{done.stderr}"
    return done


def host_logits(recipe: pathlib.Path, ids: torch.Tensor) -> torch.Tensor:
    tokens, out = recipe.parent / "ids.json", recipe.parent / "logits.safetensors"
    tokens.write_text(json.dumps(ids.tolist()))
    run_host("logits", recipe, "--tokens", tokens, "--out", out)
    return load_file(out)["logits"]


def save_word_tokenizer(folder: pathlib.Path, size: int) -> None:
    """Token i is the word "w<i>", but for the first three: <unk>, <s>, </s>."""
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, size))]
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def greedy(model: torch.nn.Module, inputs: dict, count: int) -> tuple[list, tuple]:
    """transformers' greedy continuation over its cache, and the logits of each step."""
    with torch.no_grad():
        done = model.generate(**inputs, max_new_tokens=count, do_sample=False, output_scores=True, return_dict_in_generate=True)
    return done.sequences[0, inputs["input_ids"].shape[1] :].tolist(), done.scores


def check_greedy(got: list, theirs: list, scores: tuple, tolerance: float, ends: tuple = (2,)) -> None:
    """Token by token, to the first that ends a text or whose logit lies within the tolerance of the best."""
    for step, (their, score) in enumerate(zip(theirs, scores, strict=True)):
        assert step < len(got), f"{got} instead of {theirs}"
        if got[step] != their:
            assert score[0].max() - score[0, got[step]] <= tolerance * score.abs().max(), f"{got} instead of {theirs}"
            return
        if their in ends:
            return


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """max|a-b| / max|b|"""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    assert torch.isfinite(a).all(), "not finite"
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
