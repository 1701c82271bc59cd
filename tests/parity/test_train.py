"""Training against a plain torch loop over transformers and PEFT: the same rows in the same order, every loss compared."""

import json
import math

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny

# Issue, "Done when": five optimizer steps with losses within 1e-4 relative in float32. Five steps of AdamW divide by small second moments, which
# enlarges the differences in the order of sums.
TOLERANCE = 1e-4
CHANGE_TOLERANCE = 0.05  # see compare_changes; key biases, whose gradients nearly cancel in the softmax, differ by 0.02
ROWS = 24


def write_data(file, vocab, seed, equal_lengths):
    """Labelled tokens of several lengths; about a third of each row is not trained."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(ROWS):
        length = 12 if equal_lengths else int(torch.randint(4, 20, (1,), generator=draw))
        ids = torch.randint(0, vocab, (length,), generator=draw).tolist()
        labels = [-100] * (length // 3) + ids[length // 3 :]
        rows.append({"input_ids": ids, "labels": labels})
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return rows


def padded(rows):
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows])
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return ids, labels, mask


def torch_losses(model, rows, options, autocast=False):
    """Trainer's loop by hand: loss normalised by the trained tokens of the whole step, clipping, AdamW, schedule."""
    decayed = transformers.Trainer.get_decay_parameter_names(None, model)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": options["weight_decay"]},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"], betas=(0.9, options["adam_beta2"]), eps=1e-8)
    batch, accumulation, steps = options["per_device_train_batch_size"], options["gradient_accumulation_steps"], options["max_steps"]
    warmup = math.ceil(steps * options["warmup_ratio"])
    schedule = transformers.get_scheduler(options["lr_scheduler_type"], optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    losses, norms, rates, position = [], [], [], 0
    for _ in range(steps):
        if position >= len(rows):
            position = 0
        part = rows[position : position + batch * accumulation]
        position += batch * accumulation
        trained = sum(sum(label != -100 for label in row["labels"][1:]) for row in part)
        total = 0.0
        for first in range(0, len(part), batch):
            ids, labels, mask = padded(part[first : first + batch])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                logits = model(ids, attention_mask=mask, use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / trained
            if getattr(model.config, "output_router_logits", False):
                # What the model adds to the mean loss of a batch, which counts by its trained tokens.
                balance = model(ids, attention_mask=mask, use_cache=False).aux_loss * model.config.router_aux_loss_coef
                loss = loss + balance * int((labels[:, 1:] != -100).sum()) / trained
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in named], options["max_grad_norm"]).item())
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, norms, rates


def host_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compare(host, reference):
    losses, norms, rates = reference
    lines = [line for line in host if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(losses) + 1))
    for line, loss, norm, rate in zip(lines, losses, norms, rates):
        assert line["loss"] == pytest.approx(loss, rel=TOLERANCE)
        assert line["grad_norm"] == pytest.approx(norm, rel=10 * TOLERANCE)  # a sum of squares of many small numbers
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-6)
    assert losses[-1] != pytest.approx(losses[0], rel=0.01), "the steps must matter"


def compare_changes(ours, theirs, start):
    """What training added to each tensor. AdamW divides by the gradient's size, so elements with hardly any gradient move by what rounding left
    of it: the change is compared as a whole."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        change = (theirs[name] - start[name]).norm()
        assert (ours[name] - theirs[name]).norm() <= CHANGE_TOLERANCE * change, f"{name}: {(ours[name] - theirs[name]).norm() / change:.1e}"


OPTIONS = {
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "max_grad_norm": 0.7,
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 2,
    "max_steps": 5,
    "warmup_ratio": 0.3,
    "lr_scheduler_type": "cosine",
}


def recipe(tmp_path, options, adapter=None, data=None, tables=None, **model):
    return tiny.write_recipe(
        tmp_path / "train.toml",
        model={"path": tmp_path / "model", "dtype": "float32", **model},
        **({"adapter": {"type": "lora", **adapter}} if adapter else {}),
        **(tables or {}),
        data={"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 32, "shuffle": False, **(data or {})},
        train={"objective": "sft", **options},
        output={"dir": tmp_path / "out"},
    )


def checkpoint(tmp_path, model_type, seed):
    config = {**tiny.random_config(model_type, seed), "num_hidden_layers": 3, "tie_word_embeddings": False}
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model(model_type, config, seed))
    return config, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model_type,seed,schedule", [("llama", 21, "cosine"), ("mistral", 22, "linear"), ("qwen3", 23, "constant_with_warmup")])
def test_adapter_steps(model_type, seed, schedule, checkpointing, tmp_path):
    config, base = checkpoint(tmp_path, model_type, seed)
    rows = write_data(tmp_path / "data.jsonl", config["vocab_size"], seed, equal_lengths=False)
    options = {**OPTIONS, "lr_scheduler_type": schedule}
    # Both start from the same adapter: PEFT's.
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    model.train()
    reference = torch_losses(model, rows, options)
    tiny.run_host("run", recipe(tmp_path, {**options, "gradient_checkpointing": checkpointing}, {"path": tmp_path / "adapter"}))
    compare(host_lines(tmp_path / "out"), reference)
    compare_changes(load_file(tmp_path / "out" / "adapter_model.safetensors"), peft.get_peft_model_state_dict(model), load_file(tmp_path / "adapter" / "adapter_model.safetensors"))


def test_packed_rows_train_like_separate_ones(tmp_path):
    config, base = checkpoint(tmp_path, "llama", 31)
    rows = write_data(tmp_path / "data.jsonl", config["vocab_size"], 31, equal_lengths=False)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    # One step over all rows, so that only their being neighbours in a row differs.
    options = {**OPTIONS, "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1}
    reference = torch_losses(model.train(), rows, options)
    tiny.run_host("run", recipe(tmp_path, options, {"path": tmp_path / "adapter"}, {"packing": True}))
    compare(host_lines(tmp_path / "out"), reference)


@pytest.mark.parametrize("model_type,seed", [("llama", 41), ("qwen2", 42)])
def test_full_training_steps(model_type, seed, tmp_path):
    config, model = checkpoint(tmp_path, model_type, seed)
    rows = write_data(tmp_path / "data.jsonl", config["vocab_size"], seed, equal_lengths=False)
    options = {**OPTIONS, "learning_rate": 2e-3}
    reference = torch_losses(model.train(), rows, options)
    tiny.run_host("run", recipe(tmp_path, options))
    compare(host_lines(tmp_path / "out"), reference)
    # The saved folder is a model for transformers, with the trained weights.
    saved, start = (transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32) for name in ("out", "model"))
    compare_changes(dict(saved.named_parameters()), dict(model.named_parameters()), dict(start.named_parameters()))


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("model_type,seed", [("mixtral", 43), ("qwen3_moe", 44)])
def test_expert_steps(model_type, seed, adapter, tmp_path):
    """With the load balance loss, whose gradients reach back through every router; experts are trained, or frozen below adapters."""
    extra = {"output_router_logits": True, "router_aux_loss_coef": 0.5, "num_local_experts" if model_type == "mixtral" else "num_experts": 5, "num_experts_per_tok": 2}
    config = {**tiny.random_config(model_type, seed), "num_hidden_layers": 3, "tie_word_embeddings": False, **extra}
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model(model_type, config, seed))
    model = tiny.load_reference(tmp_path / "model")
    rows = write_data(tmp_path / "data.jsonl", config["vocab_size"], seed, equal_lengths=False)
    options = {**OPTIONS, "learning_rate": 0.03 if adapter else 2e-3}
    if adapter:
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets))
        model.save_pretrained(tmp_path / "adapter")
    reference = torch_losses(model.train(), rows, options)
    tiny.run_host("run", recipe(tmp_path, {**options, "gradient_checkpointing": seed == 44}, {"path": tmp_path / "adapter"} if adapter else None))
    compare(host_lines(tmp_path / "out"), reference)


def test_training_from_random_weights_learns(tmp_path):
    config = {**tiny.random_config("llama", 51), "num_hidden_layers": 2}
    transformers.AutoConfig.for_model("llama", **config).save_pretrained(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps({"input_ids": [5, 6, 7, 8, 9] * 4}) for _ in range(16)))
    options = {"learning_rate": 0.01, "per_device_train_batch_size": 4, "max_steps": 20}
    tiny.run_host("run", recipe(tmp_path, options, init="random"))
    losses = [line["loss"] for line in host_lines(tmp_path / "out")]
    # Random weights know nothing: ln(vocabulary), give or take the spread of small random logits.
    assert losses[0] == pytest.approx(math.log(config["vocab_size"]), rel=0.1)
    assert losses[-1] < 0.2 * losses[0]


def test_evaluation_is_the_mean_over_tokens(tmp_path):
    config, model = checkpoint(tmp_path, "llama", 61)
    rows = write_data(tmp_path / "data.jsonl", config["vocab_size"], 61, equal_lengths=False)
    total, count = 0.0, 0
    for row in rows:
        ids, labels, _ = padded([row])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits
        total += torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum").item()
        count += int((labels[0, 1:] != -100).sum())
    file = tiny.write_recipe(
        tmp_path / "eval.toml",
        model={"path": tmp_path / "model", "dtype": "float32"},
        data={"eval": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 32},
    )
    got = json.loads(tiny.run_host("eval", file, "--json").stdout)
    assert got["tokens"] == count
    assert got["loss"] == pytest.approx(total / count, rel=1e-5)
    assert got["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


# Products in bfloat16 (8 bits) on both sides, rounded in other places: attention's and the activation's intermediate values. The loss is a mean over
# hundreds of tokens, so that the single roundings of 0.4 % average out; ten times less than what five steps change.
BFLOAT16_TOLERANCE = 5e-3


def bfloat16_reference(folder, quantized):
    """The dtype policy of QLoRA in transformers and PEFT: what is not quantized is float32 (its values are bfloat16's), products run under autocast."""
    if not quantized:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config, device_map="cpu")
    return peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_adapter_steps_in_bfloat16(model_type, quantized, tmp_path):
    # Rows of whole blocks: bitsandbytes' AVX-512 path takes wrong absmax values where rows straddle them.
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 3, "tie_word_embeddings": False}
    config = {**tiny.random_config(model_type, 71), **sizes, "use_sliding_window": False, "max_position_embeddings": 64}
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model(model_type, config, 71), torch.bfloat16)
    rows = write_data(tmp_path / "data.jsonl", config["vocab_size"], 71, equal_lengths=False)
    # Every step sees all rows, so that the loss falls from step to step.
    options = {**OPTIONS, "per_device_train_batch_size": ROWS // 2, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    model = peft.get_peft_model(bfloat16_reference(tmp_path / "model", quantized), peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    losses, norms, _ = torch_losses(model.train(), rows, options, autocast=True)
    tables = {"quantizer": {"type": "nf4", "compute_dtype": "bfloat16"}} if quantized else {}
    tiny.run_host("run", recipe(tmp_path, options, {"path": tmp_path / "adapter"}, dtype="bfloat16", tables=tables))
    lines = [line for line in host_lines(tmp_path / "out") if "loss" in line]
    # Each step must show in the next loss: adapter weights that move while the products go on with old copies of them would not.
    for before, after in zip(losses, losses[1:]):
        assert after < before * (1 - 2 * BFLOAT16_TOLERANCE), f"{losses}: every step must matter"
    for line, loss, norm in zip(lines, losses, norms, strict=True):
        assert line["loss"] == pytest.approx(loss, rel=BFLOAT16_TOLERANCE)
        assert line["grad_norm"] == pytest.approx(norm, rel=0.05)
