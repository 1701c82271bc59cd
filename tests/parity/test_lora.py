"""Adapters against PEFT: files that PEFT made computed by the host, files that the host made computed by PEFT."""

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file

import tiny

# Design, section 8. Float32 on both sides; what differs is the order of sums.
TOLERANCE = 1e-4

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# What an adapter can be told, under PEFT's names.
CASES = {
    "default": {},
    "all_linear": {"target_modules": "all-linear", "r": 5, "lora_alpha": 7},
    "list": {"target_modules": ["k_proj", "layers.0.mlp.down_proj"], "lora_alpha": 3},
    "regex": {"target_modules": r"model\.layers\.\d+\.(self_attn\.(q|o)_proj|mlp\.up_proj)"},
    "exclude": {"target_modules": "all-linear", "exclude_modules": ["layers.0.self_attn.q_proj", "up_proj"]},
    "exclude_regex": {"target_modules": LINEAR, "exclude_modules": r".*mlp\..*"},
    "patterns": {
        "target_modules": LINEAR,
        "r": 4,
        "rank_pattern": {r"layers.0.self_attn.q_proj": 2, "q_proj": 6, r".*mlp.*": 3},
        "alpha_pattern": {r"(up|gate)_proj": 9, r"layers\.1\..*": 1},
    },
    "rslora": {"target_modules": LINEAR, "use_rslora": True, "rank_pattern": {"v_proj": 3}},
    "layers": {"target_modules": LINEAR, "layers_to_transform": [1]},
    "layers_pattern": {"target_modules": LINEAR, "layers_to_transform": 0, "layers_pattern": "layers"},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "v_proj"]},
    "embedding_and_head": {"target_modules": ["embed_tokens", "lm_head", "down_proj"], "rank_pattern": {"embed_tokens": 3}},
    "bias_lora_only": {"target_modules": ["q_proj", "down_proj"], "bias": "lora_only"},
    "bias_all": {"target_modules": ["q_proj", "down_proj"], "bias": "all"},
    "bias_dora": {"target_modules": ["q_proj", "v_proj"], "bias": "all", "use_dora": True},
    "whole_head": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    "whole_embedding_and_head": {"target_modules": "all-linear", "modules_to_save": ["embed_tokens", "lm_head"]},
    "whole_blocks": {"target_modules": ["v_proj", "up_proj"], "modules_to_save": ["mlp", "k_proj"], "bias": "all"},
    "dora": {"target_modules": LINEAR, "use_dora": True, "alpha_pattern": {"q_proj": 20}},
}


def checkpoint(folder, model_type, seed, tie=False):
    config = {**tiny.random_config(model_type, seed), "num_hidden_layers": 2, "tie_word_embeddings": tie}
    if model_type == "llama":
        config.update(attention_bias=True, mlp_bias=True)
    model = tiny.make_model(model_type, config, seed)
    tiny.save_checkpoint(folder, model)
    ids = torch.randint(0, config["vocab_size"], (2, 13), generator=torch.Generator().manual_seed(seed))
    return tiny.transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), ids


def randomise(model, seed):
    """PEFT starts at zero; every tensor of an adapter random, so that each one shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
            elif "lora_" in name:
                parameter.normal_(0.0, 0.3)
            elif parameter.requires_grad:  # biases, and modules that are trained whole
                parameter.add_(0.3 * parameter.std() * torch.randn_like(parameter))


class NoMissingKeys:
    """PEFT only warns about adapter keys that it did not find."""

    def __enter__(self):
        self.caught = warnings.catch_warnings(record=True)
        self.list = self.caught.__enter__()
        warnings.simplefilter("always")

    def __exit__(self, *problem):
        self.caught.__exit__(*problem)
        missing = [str(w.message) for w in self.list if "missing" in str(w.message).lower() or "unexpected" in str(w.message).lower()]
        assert not missing, missing


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_host_computes_what_peft_saved(case, model_type, tmp_path):
    seed = list(CASES).index(case)
    base, ids = checkpoint(tmp_path / "model", model_type, seed)
    plain = logits_of(base, ids)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **CASES[case])).eval()
    randomise(model, seed)
    expected = logits_of(model, ids)
    assert tiny.relative_error(expected, plain) > 0.01, "the adapter must matter"
    model.save_pretrained(tmp_path / "adapter")
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "lora", "path": tmp_path / "adapter"})
    assert tiny.relative_error(tiny.host_logits(recipe, ids), expected) <= TOLERANCE


def training_recipe(tmp_path, adapter, **train):
    """Two steps on random tokens: enough to move every tensor that is trained."""
    draw = torch.Generator().manual_seed(0)
    lines = [json.dumps({"input_ids": torch.randint(3, 80, (9,), generator=draw).tolist()}) for _ in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    return tiny.write_recipe(
        tmp_path / "train.toml",
        model={"path": tmp_path / "model", "dtype": "float32"},
        adapter={"type": "lora", **adapter},
        data={"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 16},
        train={"learning_rate": 0.05, "per_device_train_batch_size": 4, "max_steps": 2, **train},
        output={"dir": tmp_path / "out"},
    )


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_what_the_host_saved(case, tmp_path):
    if case == "head":
        pytest.skip("covered by embedding_and_head")
    seed = 50 + list(CASES).index(case)
    base, ids = checkpoint(tmp_path / "model", "llama", seed)
    plain = logits_of(base, ids)
    tiny.run_host("run", training_recipe(tmp_path, CASES[case]))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "lora", "path": tmp_path / "out"})
    got = tiny.host_logits(recipe, ids)
    assert tiny.relative_error(got, plain) > 0.01, "the adapter must matter"
    with NoMissingKeys():
        model = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert tiny.relative_error(got, logits_of(model, ids)) <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_config_is_the_one_peft_writes(case, tmp_path):
    base, _ = checkpoint(tmp_path / "model", "llama", 7)
    base.config._name_or_path = str(tmp_path / "model")
    peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **CASES[case])).save_pretrained(tmp_path / "peft")
    tiny.run_host("run", training_recipe(tmp_path, CASES[case], max_steps=1))
    theirs, ours = (json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "peft", tmp_path / "out"))
    assert list(ours) == list(theirs)
    for key in ("target_modules", "exclude_modules"):  # sets there
        for config in (theirs, ours):
            if isinstance(config[key], list):
                config[key] = sorted(config[key])
    assert ours == theirs
    # The same tensors, but for PEFT's copies of targeted embeddings and heads, which are the base's own, and the further names that bias = "all"
    # gives the biases of modules that are trained whole.
    copies = ("base_layer.weight", ".original_module.", ".modules_to_save.")
    names = [{key for key in load_file(folder / "adapter_model.safetensors") if not any(copy in key for copy in copies)} for folder in (tmp_path / "peft", tmp_path / "out")]
    assert names[0] == names[1]


def test_a_continued_adapter_keeps_its_config_and_weights(tmp_path):
    # PEFT sorts the patterns when it writes them, and the first match counts: these are sorted already.
    base, ids = checkpoint(tmp_path / "model", "llama", 3)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=9, target_modules=LINEAR, rank_pattern={"layers.0.self_attn.q_proj": 2, "q_proj": 3})).eval()
    randomise(model, 3)
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["written_by"] = None  # an unknown key that changes nothing
    file.write_text(json.dumps(config))
    tiny.run_host("run", training_recipe(tmp_path, {"path": tmp_path / "adapter"}, learning_rate=1e-9))
    after = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert list(after) == list(config)
    assert list(after["rank_pattern"].items()) == list(config["rank_pattern"].items()) and after["r"] == 4
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-7)


TIED_CASES = {
    "adapted": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole_head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole_embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "both_whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("case", TIED_CASES)
def test_adapters_of_tied_models(case, tmp_path):
    base, ids = checkpoint(tmp_path / "model", "llama", 11, tie=True)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **TIED_CASES[case])).eval()
    randomise(model, 11)
    model.save_pretrained(tmp_path / "adapter")
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "lora", "path": tmp_path / "adapter"})
    assert tiny.relative_error(tiny.host_logits(recipe, ids), logits_of(model, ids)) <= TOLERANCE


@pytest.mark.parametrize("tie", [False, True])
def test_whole_modules_and_biases_survive_merging(tie, tmp_path):
    base, ids = checkpoint(tmp_path / "model", "qwen2", 12, tie=tie)
    options = {"target_modules": ["q_proj", "up_proj"], "bias": "all", "modules_to_save": ["lm_head"]}
    tiny.run_host("run", training_recipe(tmp_path, options))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, adapter={"type": "lora", "path": tmp_path / "out"})
    tiny.run_host("export", recipe, "--to", tmp_path / "merged", "--merge")
    merged = tiny.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    expected = logits_of(peft.PeftModel.from_pretrained(base, tmp_path / "out").eval(), ids)
    assert tiny.relative_error(logits_of(merged, ids), expected) <= TOLERANCE


def test_whole_modules_are_not_quantized(tmp_path):
    checkpoint(tmp_path / "model", "llama", 13)
    recipe = tiny.write_recipe(
        tmp_path / "recipe.toml",
        model={"path": tmp_path / "model"},
        quantizer={"type": "nf4"},
        adapter={"type": "lora", "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["k_proj"]},
    )
    modules = {module["path"]: module["filler"] for module in json.loads(tiny.run_host("plan", recipe, "--json").stdout)["modules"]}
    assert modules["model.layers.0.self_attn.q_proj"] == "nf4" and modules["model.layers.0.self_attn.k_proj"] == "float32"
