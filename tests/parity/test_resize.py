"""New tokens against transformers and PEFT: resized models, exported tokenizers, rows trained under an adapter."""

import json
import shutil

import peft
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

import test_vlm as vlm
import tiny

TOLERANCE = 1e-4
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "saw", "it"]
NEW = ["<tool>", "</tool>", "<think>"]


def checkpoint(folder, seed, tie, spare=0, model_type="llama"):
    """A small model with a tokenizer of words; `spare`: rows that no token uses."""
    config = {**tiny.random_config(model_type, seed), "num_hidden_layers": 2, "tie_word_embeddings": tie, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    filler = [f"w{i}" for i in range(config["vocab_size"] - spare - 3 - len(WORDS))]
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS, *filler])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, seed))
    fast.save_pretrained(folder)
    return config


def recipe(tmp_path, name="recipe.toml", **tables):
    base = {"model": {"path": tmp_path / "model", "dtype": "float32"}, "text": {"add_tokens": NEW}}
    return tiny.write_recipe(tmp_path / name, **{**base, **tables})


def resized(folder, multiple=None):
    """transformers' own way; the new rows are draws of its own."""
    model = tiny.load_reference(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.add_tokens(NEW) == len(NEW)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=multiple)
    return model, tokenizer


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("multiple", [None, 64])
def test_a_resized_model_is_transformers_own(tie, multiple, tmp_path):
    config = checkpoint(tmp_path / "model", 3, tie)
    patch = {"patch": [{"type": "resize_embeddings", "pad_to_multiple_of": multiple}]} if multiple else {}
    file = recipe(tmp_path, **patch)
    tiny.run_host("export", file, "--to", tmp_path / "out", "--verify")
    theirs, tokenizer = resized(tmp_path / "model", multiple)
    ours = tiny.load_reference(tmp_path / "out").eval()
    assert ours.config.vocab_size == theirs.config.vocab_size >= config["vocab_size"] + len(NEW)
    assert ours.config.tie_word_embeddings == tie and (ours.lm_head.weight.data_ptr() == ours.model.embed_tokens.weight.data_ptr()) == tie
    old = config["vocab_size"]
    for a, b in ((ours.model.embed_tokens.weight, theirs.model.embed_tokens.weight), (ours.lm_head.weight, theirs.lm_head.weight)):
        assert a.shape == b.shape and torch.equal(a[:old], b[:old])
        # Both are draws around one mean with 1e-9 of the rows' covariance: deviations of 3e-5 of theirs; ten of them for the largest of some thousand.
        mean, deviation = a[:old].mean(0), a[:old].std(0)
        assert ((a[old:] - mean).abs() <= 3.2e-4 * deviation + 1e-6).all() and ((b[old:] - mean).abs() <= 3.2e-4 * deviation + 1e-6).all()
    # The same model as transformers reads it, in our logits.
    ids = torch.randint(0, old + len(NEW), (2, 11), generator=torch.Generator().manual_seed(1))
    got = tiny.host_logits(file, ids)
    assert tiny.relative_error(got, logits_of(ours, ids)) <= TOLERANCE
    # And as transformers resizes it, up to the draws.
    assert tiny.relative_error(got, logits_of(theirs, ids)) <= 3e-3
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the cat<tool>sat on</tool> a mat <think> it"
    assert exported(text)["input_ids"] == tokenizer(text)["input_ids"] and len(exported) == len(tokenizer)
    answer = json.loads(tiny.run_host("tokenize", file, "--text", text, "--json").stdout)
    assert answer["ids"] == tokenizer(text)["input_ids"]


def test_unused_rows_are_taken_and_the_patch_says_that_it_does_nothing(tmp_path):
    config = checkpoint(tmp_path / "model", 4, False, spare=9)
    file = recipe(tmp_path)
    ids = torch.randint(0, config["vocab_size"], (1, 9), generator=torch.Generator().manual_seed(2))
    assert tiny.relative_error(tiny.host_logits(file, ids), tiny.reference_logits(tmp_path / "model", ids)) <= TOLERANCE
    explicit = recipe(tmp_path, "explicit.toml", patch=[{"type": "resize_embeddings"}])
    (tmp_path / "ids.json").write_text("[[1, 2, 3]]")
    out = tiny.run_host("logits", explicit, "--tokens", tmp_path / "ids.json", "--out", tmp_path / "l.safetensors")
    assert "patch 'resize_embeddings' changes nothing in this model" in out.stderr
    out = tiny.run_host("logits", file, "--tokens", tmp_path / "ids.json", "--out", tmp_path / "l.safetensors")
    assert "changes nothing" not in out.stderr


def train_tables(tmp_path, vocabulary, **train):
    """Rows in which the new tokens stand, to be trained in both places."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(8):
        ids = torch.randint(3, vocabulary, (9,), generator=draw).tolist()
        ids[2], ids[5] = vocabulary - 1, vocabulary - 3
        rows.append(json.dumps({"input_ids": ids}))
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    return {
        "data": {"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 16},
        "train": {"learning_rate": 0.05, "per_device_train_batch_size": 4, "max_steps": 2, **train},
        "output": {"dir": tmp_path / "out"},
    }


@pytest.mark.parametrize("quantizer", [{}, {"type": "nf4"}])
@pytest.mark.parametrize("tie", [False, True])
def test_an_adapter_trains_new_rows_and_opens_in_peft(tie, quantizer, tmp_path):
    config = checkpoint(tmp_path / "model", 5, tie)
    total = config["vocab_size"] + len(NEW)
    quantized = {"quantizer": quantizer} if quantizer else {}
    tiny.run_host("run", recipe(tmp_path, **quantized, adapter={"type": "lora", "target_modules": ["q_proj", "v_proj"]}, **train_tables(tmp_path, total)))
    saved = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    new_ids = list(range(config["vocab_size"], total))
    assert saved["trainable_token_indices"] == ({"embed_tokens": new_ids} if tie else {"embed_tokens": new_ids, "lm_head": new_ids})
    if quantizer:
        return  # that it trains on a quantized base; equal logits are the dense run's
    file = recipe(tmp_path, "use.toml", adapter={"type": "lora", "path": tmp_path / "out"})
    ids = torch.randint(0, total, (2, 11), generator=torch.Generator().manual_seed(1))
    got = tiny.host_logits(file, ids)
    base, _ = resized(tmp_path / "model")
    fresh = logits_of(base, ids)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert tiny.relative_error(got, logits_of(model, ids)) <= TOLERANCE
    # The new rows were trained, not only the layers between.
    delta = load_file(tmp_path / "out" / "adapter_model.safetensors")["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
    assert (delta[-1] - base.get_input_embeddings().weight[: config["vocab_size"]].mean(0)).abs().max() > 0.01
    assert tiny.relative_error(got[..., -1], fresh[..., -1]) > 0.01
    # The tokenizer lies beside them, and the merged model is one of its own, tied as before.
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("<think>")["input_ids"] == [total - 1]
    tiny.run_host("export", file, "--to", tmp_path / "merged", "--merge", "--verify")
    merged = tiny.load_reference(tmp_path / "merged").eval()
    assert merged.config.tie_word_embeddings == tie
    assert tiny.relative_error(logits_of(merged, ids), got) <= TOLERANCE


@pytest.mark.parametrize("tie", [False, True])
def test_adapters_with_trained_rows_from_peft(tie, tmp_path):
    checkpoint(tmp_path / "model", 6, tie)
    base, tokenizer = resized(tmp_path / "model")
    indices = tokenizer.convert_tokens_to_ids(NEW) + [4]
    options = indices if tie else {"embed_tokens": indices, "lm_head": indices[:2]}
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=options)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                parameter.normal_(0.0, 0.3)
    # Rows that nothing trains are draws of transformers' own: the ids avoid them.
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ids = torch.tensor([[*indices[:3], 4, 5, 6, 7, 8, indices[0], 9]])
    got, expected = tiny.host_logits(recipe(tmp_path, adapter={"type": "lora", "path": tmp_path / "adapter"}), ids), logits_of(model, ids)
    if not tie:
        got, expected = got[..., :-1], expected[..., :-1]  # the head's third new row
    assert tiny.relative_error(got, expected) <= TOLERANCE


def test_full_training_keeps_the_new_rows(tmp_path):
    config = checkpoint(tmp_path / "model", 7, True)
    total = config["vocab_size"] + len(NEW)
    tiny.run_host("run", recipe(tmp_path, **train_tables(tmp_path, total, learning_rate=1e-3)))
    model = tiny.load_reference(tmp_path / "out").eval()
    assert model.config.vocab_size == total
    ids = torch.randint(0, total, (2, 11), generator=torch.Generator().manual_seed(1))
    got = tiny.host_logits(tiny.write_recipe(tmp_path / "again.toml", model={"path": tmp_path / "out", "dtype": "float32"}), ids)
    assert tiny.relative_error(got, logits_of(model, ids)) <= TOLERANCE
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("<tool>")["input_ids"] == [config["vocab_size"]]


def test_a_quantized_embedding_grows(tmp_path):
    config = checkpoint(tmp_path / "model", 8, False)
    file = recipe(tmp_path, quantizer={"type": "nf4", "embeddings": True, "block_size": 32})
    ids = torch.randint(0, config["vocab_size"] + len(NEW), (1, 9), generator=torch.Generator().manual_seed(1))
    got = tiny.host_logits(file, ids)
    tiny.run_host("export", file, "--to", tmp_path / "out", "--format", "hf")
    assert tiny.relative_error(got, tiny.reference_logits(tmp_path / "out", ids)) <= TOLERANCE


@pytest.mark.skipif(not (tiny.SHARED / "data").exists(), reason=f"{tiny.SHARED / 'data'} is not there")
@pytest.mark.parametrize("name", ["tokenizers/llama", "tokenizers/llama3", "tokenizers/qwen2", "models/babyllama-105"])
def test_real_tokenizers_take_new_tokens_as_in_transformers(name, tmp_path):
    """Of every class that transformers builds anew or takes as it stands: exported, the files say what add_tokens said."""
    (tmp_path / "model").mkdir()
    for file in (tiny.SHARED / "data" / name).glob("*.json"):
        if "token" in file.name:
            shutil.copy(file, tmp_path / "model")
    model_type = "qwen2" if "qwen2" in name else "llama"
    small = {"model_type": model_type, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": True}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**small, "vocab_size": 64}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({**small, "vocab_size": len(theirs)}))
    assert theirs.add_tokens(NEW) == len(NEW)
    file = recipe(tmp_path, model={"path": tmp_path / "model", "init": "random", "dtype": "float32"})
    tiny.run_host("export", file, "--to", tmp_path / "out")
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(ours) == len(theirs) == json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"]
    for text in ("the cat<tool>sat on</tool> a mat <think> it", "<tool><think>", "on <tool> \n</tool>."):  # none begins with a space: plugins/text_hf/README.md
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        for source in (file, tiny.write_recipe(tmp_path / "again.toml", model={"path": tmp_path / "out"})):
            assert json.loads(tiny.run_host("tokenize", source, "--text", text, "--json").stdout)["ids"] == theirs(text)["input_ids"]


def test_a_model_that_sees_grows(tmp_path):
    config = vlm.llava_config(1)
    model = vlm.make_llava(config, 1)
    vlm.save_llava(tmp_path / "model", model)
    vlm.save_processor(tmp_path / "model", model)
    old, edge = config["text_config"]["vocab_size"], config["vision_config"]["image_size"]
    file = recipe(tmp_path, patch=[{"type": "resize_embeddings", "new_num_tokens": old + 5}])
    tiny.run_host("export", file, "--to", tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported["text_config"]["vocab_size"] == old + 5
    ours = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = vlm.ids_with_pictures(model, (1,), 1)
    ids[0, -1] = old + 4
    pixels = torch.randn(1, 3, edge, edge, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = ours(input_ids=ids, pixel_values=pixels).logits
    assert expected.shape[-1] == old + 5
    assert tiny.relative_error(vlm.host_logits(file, ids, pixels), expected) <= TOLERANCE
