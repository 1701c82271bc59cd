"""GPTQ checkpoints as GPTQModel lays them out, packed here by its rules: sizes that do not fill a word, experts, settings by module, packed heads; and files whose parts
contradict each other."""

import json
import math
import re
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptq_reference
import tiny

# float32 on both sides; what differs is the order of sums (design, section 8).
TOLERANCE = 1e-4
IDS = torch.arange(3, 27).view(2, 12)
# No size of a packed weight is a multiple of 32, and the widest is odd: its last word and its last group are not full.
ODD = {"vocab_size": 300, "hidden_size": 88, "intermediate_size": 173, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
       "tie_word_embeddings": False, "pad_token_id": None, "max_position_embeddings": 64}
WHOLE = ODD | {"hidden_size": 128, "intermediate_size": 160}
MIXTURES = {
    "mixtral": ODD | {"num_local_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 44, "num_key_value_heads": 4},
    "qwen3_moe": ODD | {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 44, "head_dim": 22, "num_key_value_heads": 4,
                        "decoder_sparse_step": 1, "mlp_only_layers": []},
}


def pack_rows(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """codes [n, m] -> int32 [ceil(n * bits / 32), m], as pack_original of GPTQModel 7.7: the last word takes what is left, and 3 bits come in runs of 32."""
    n, m = codes.shape
    codes = codes.to(torch.int64)
    words = torch.zeros(math.ceil(n * bits / 32), m, dtype=torch.int64)
    if bits == 3:
        for block in range(n // 32):
            v, row = codes[32 * block : 32 * block + 32], 3 * block
            for j in range(10):
                words[row] |= v[j] << 3 * j
                words[row + 1] |= v[11 + j] << 3 * j + 1
                words[row + 2] |= v[22 + j] << 3 * j + 2
            words[row] |= (v[10] & 3) << 30
            words[row + 1] |= v[10] >> 2 | (v[21] & 1) << 31
            words[row + 2] |= v[21] >> 1
    else:
        each = 32 // bits
        for row in range(words.shape[0]):
            for j in range(min(each, n - row * each)):
                words[row] |= codes[row * each + j] << bits * j
    return to_int32(words)


def to_int32(words: torch.Tensor) -> torch.Tensor:
    words = words & 0xFFFFFFFF
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def pack_module(weight: torch.Tensor, name: str, bits: int = 4, group: int = 32, desc_act: bool = False, sym: bool = True, version: int = 1, seed: int = 0):
    """The file tensors of a weight [out, in], rounded to nearest, and the weight that they mean."""
    weight, (out, columns) = weight.double(), weight.shape
    size = group if group > 0 else columns
    groups = math.ceil(columns / size)
    g_idx = torch.arange(columns) // size
    if desc_act:
        g_idx = g_idx[torch.randperm(columns, generator=torch.Generator().manual_seed(seed))]
    scales, zeros = torch.zeros(groups, out, dtype=torch.float64), torch.zeros(groups, out, dtype=torch.int64)
    for k in range(groups):
        scale, zero = gptq_reference.scale_of(weight[:, g_idx == k], bits, sym)
        scales[k], zeros[k] = scale.half().double(), zero.long()
    if version == 1:
        zeros = zeros.clamp(min=1)  # 0 less one has no code
    codes = ((weight / scales[g_idx].T).round() + zeros[g_idx].T).clamp(0, (1 << bits) - 1)
    meant = (codes - zeros[g_idx].T) * scales[g_idx].T
    if bits == 3 or version == 2:
        qzeros = pack_rows((zeros - int(version == 1)).T.contiguous(), bits).T.contiguous()
    else:  # whole words are counted down, with what no code fills
        ones = sum(1 << at for at in range(0, 32, bits))
        qzeros = to_int32(pack_rows(zeros.T.contiguous(), bits).T.long() - ones).contiguous()
    return {f"{name}.qweight": pack_rows(codes.T.contiguous(), bits), f"{name}.qzeros": qzeros, f"{name}.scales": scales.half(), f"{name}.g_idx": g_idx.to(torch.int32)}, meant.float()


def quantization_config(bits=4, group=32, desc_act=False, sym=True, version=1, **more):
    return {"bits": bits, "group_size": group, "desc_act": desc_act, "sym": sym, "lm_head": False, "quant_method": "gptq", "pack_dtype": "int32",
            "checkpoint_format": "gptq" if version == 1 else "gptq_v2", **more}


def packed_checkpoint(folder, model_type, config, packs=r".*\.layers\..*_proj$|.*experts\.\d+\.\w+$", names=None, options_of=lambda name: {}, stored=None, **options):
    """A folder in which the modules that `packs` matches are packed, under the name that names(module) gives; returns transformers' logits of the weights that it means."""
    tiny.save_checkpoint(folder, tiny.make_model(model_type, config, 7), save_original_format=True)
    tensors, meant = {}, {}
    for seed, (key, value) in enumerate(load_file(folder / "model.safetensors").items()):
        module = key.removesuffix(".weight")
        if key == module or not re.fullmatch(packs, module):
            tensors[names(key) if names else key] = meant[key] = value
            continue
        packed, meant[key] = pack_module(value, names(module) if names else module, seed=seed, **(options | options_of(module)))
        tensors |= packed
    save_file(meant, folder / "model.safetensors", {"format": "pt"})
    logits = tiny.reference_logits(folder, IDS)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_config(folder, stored or quantization_config(**options))
    return logits


def write_config(folder, quantization):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": quantization}))


def read_recipe(folder, tmp_path, **tables):
    return tiny.write_recipe(tmp_path / "recipe.toml", model={"path": folder, "dtype": "float32"}, **tables)


def plan_of(recipe):
    return json.loads(tiny.run_host("plan", recipe, "--json").stdout)


def calibration(tmp_path, config):
    """Of random tokens."""
    rows = torch.randint(0, config["vocab_size"], (4, 64), generator=torch.Generator().manual_seed(5)).tolist()
    (tmp_path / "tokens.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    return {"files": [tmp_path / "tokens.jsonl"], "samples": 4, "length": 64}


def with_packed(model, tensors, bits):
    """transformers' model with every packed module of the file unpacked into it."""
    for name in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        model.get_submodule(name).weight.data = gptq_reference.file_weight(tensors, name, bits, 1).float()
    return model


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("group", [-1, 16, 32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_sizes_that_do_not_fill_a_word(bits, group, desc_act, tmp_path):
    """Written by GPTQModel's own rule; the plan counts the bytes that are held."""
    version, sym = 1 + (group == 32), group != 16
    expected = packed_checkpoint(tmp_path / "model", "llama", ODD, bits=bits, group=group, desc_act=desc_act, version=version, sym=sym)
    recipe = read_recipe(tmp_path / "model", tmp_path)
    assert tiny.relative_error(tiny.host_logits(recipe, IDS), expected) <= TOLERANCE
    modules = {module["path"]: module for module in plan_of(recipe)["modules"]}
    for name, out, columns in (("self_attn.k_proj", 44, 88), ("mlp.down_proj", 88, 173), ("mlp.up_proj", 173, 88)):
        held = math.ceil(columns / 32) * 32  # whole 32 columns
        groups = 1 if group >= columns or group == -1 else math.ceil(held / group)
        order = 4 * held if desc_act and group > 0 else 0  # of all modules, once any of them is reordered
        assert modules[f"model.layers.1.{name}"]["bytes"] == out * (held * bits // 8 + 3 * groups) + order, name


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_whole_words_with_a_short_last_group(bits, tmp_path):
    """160 columns in groups of 128."""
    expected = packed_checkpoint(tmp_path / "model", "llama", WHOLE, bits=bits, group=128)
    assert tiny.relative_error(tiny.host_logits(read_recipe(tmp_path / "model", tmp_path), IDS), expected) <= TOLERANCE


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantized_on_load_and_written(bits, desc_act, tmp_path):
    """The buffers have the shapes that GPTQModel's TorchLinear registers, and what they mean is what the host computes with."""
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model("llama", ODD, 7))
    recipe = read_recipe(tmp_path / "model", tmp_path, quantizer={"type": "gptq", "bits": bits, "group_size": 64, "desc_act": desc_act}, calibration=calibration(tmp_path, ODD))
    tiny.run_host("export", recipe, "--to", tmp_path / "packed", "--format", "gptq")
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    assert not json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"].get("dynamic")  # nothing of the blocks stayed dense
    for name, out, columns in (("self_attn.k_proj", 44, 88), ("mlp.down_proj", 88, 173), ("mlp.up_proj", 173, 88)):
        base = f"model.layers.1.{name}"
        assert tensors[f"{base}.qweight"].shape == (math.ceil(columns * bits / 32), out)
        assert tensors[f"{base}.qzeros"].shape == (math.ceil(columns / 64), math.ceil(out * bits / 32))
        assert tensors[f"{base}.scales"].shape == (math.ceil(columns / 64), out)
        assert tensors[f"{base}.g_idx"].shape == (columns,)
    with torch.no_grad():
        expected = with_packed(tiny.load_reference(tmp_path / "model").eval(), tensors, bits)(IDS, use_cache=False).logits
    assert tiny.relative_error(tiny.host_logits(read_recipe(tmp_path / "packed", tmp_path), IDS), expected) <= TOLERANCE


def test_three_bits_that_others_could_not_read_stay_dense(tmp_path):
    """GPTQModel and transformers take 3-bit codes 32 at a time: the plan says so before anything is read, and the file names what stayed dense."""
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model("llama", ODD | {"intermediate_size": 160, "hidden_size": 96, "num_key_value_heads": 1}, 7))
    recipe = read_recipe(tmp_path / "model", tmp_path, quantizer={"type": "gptq", "bits": 3, "group_size": 32}, calibration=calibration(tmp_path, ODD))
    modules = {module["path"]: module for module in plan_of(recipe)["modules"]}
    assert "multiples of 32 rows and columns, the weight is 24 x 96" in modules["model.layers.0.self_attn.k_proj"]["reason"]
    assert modules["model.layers.0.self_attn.q_proj"]["filler"] == "gptq"
    tiny.run_host("export", recipe, "--to", tmp_path / "packed", "--format", "gptq")
    dynamic = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]["dynamic"]
    assert {rf"-:model\.layers\.{i}\.self_attn\.{x}_proj$" for i in (0, 1) for x in "kv"} == set(dynamic)
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    with torch.no_grad():
        expected = with_packed(tiny.load_reference(tmp_path / "model").eval(), tensors, 3)(IDS, use_cache=False).logits
    assert tiny.relative_error(tiny.host_logits(read_recipe(tmp_path / "packed", tmp_path), IDS), expected) <= TOLERANCE


def taken_apart(name: str) -> str:
    """Mixtral's published names as GPTQModel 7 calls the modules, which transformers 5 holds together."""
    name = name.replace("block_sparse_moe", "mlp")
    return re.sub(r"(experts\.\d+)\.w([123])", lambda m: f"{m[1]}.{('gate', 'down', 'up')[int(m[2]) - 1]}_proj", name)


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("layout", ["mixtral", "mixtral, taken apart", "qwen3_moe"])
def test_packed_experts(layout, desc_act, tmp_path):
    """One module for each expert's projection, as GPTQModel writes them; written again they mean the same."""
    model_type = layout.split(",")[0]
    expected = packed_checkpoint(tmp_path / "model", model_type, MIXTURES[model_type], names=taken_apart if "apart" in layout else None, desc_act=desc_act)
    recipe = read_recipe(tmp_path / "model", tmp_path)
    assert tiny.relative_error(tiny.host_logits(recipe, IDS), expected) <= TOLERANCE
    one = IDS[:1, :3]  # few tokens for each expert: fused products
    assert tiny.relative_error(tiny.host_logits(recipe, one), expected[:1, :3]) <= TOLERANCE
    plan = plan_of(recipe)
    names = [module["path"] for module in plan["modules"] if module["filler"] == "gptq"]
    assert "model.layers.1.mlp.experts.gate_up_proj" in names and "model.layers.1.mlp.experts.down_proj" in names
    assert plan["parameters"]["quantized"] == 2 * (4 * 88 * 88 + 3 * 3 * 44 * 88)  # attention, and three projections of three experts
    tiny.run_host("export", recipe, "--to", tmp_path / "again", "--format", "gptq")
    before, after = load_file(tmp_path / "model" / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    # Under the published names, whichever they were read under.
    renamed = {taken_apart(name): value for name, value in after.items()} if "apart" in layout else after
    assert set(renamed) == set(before)
    assert all(torch.equal(renamed[name], before[name]) for name in before if name.endswith((".qweight", ".qzeros", ".g_idx", ".scales")))
    assert tiny.relative_error(tiny.host_logits(read_recipe(tmp_path / "again", tmp_path), IDS), expected) <= TOLERANCE


@pytest.mark.parametrize("model_type", tiny.EXPERT_TYPES)
def test_experts_on_load_stay_dense_by_name(model_type, tmp_path):
    """Calibration does not look at single experts: the plan says so for each of them and counts the share, and the file that is written opens."""
    tiny.save_checkpoint(tmp_path / "model", tiny.make_model(model_type, MIXTURES[model_type], 7), save_original_format=True)
    recipe = read_recipe(tmp_path / "model", tmp_path, quantizer={"type": "gptq", "group_size": 32}, calibration=calibration(tmp_path, ODD))
    plan = plan_of(recipe)
    reasons = {module["path"]: module["reason"] for module in plan["modules"] if ".experts." in module["path"]}
    assert len(reasons) == 4 and all("experts" in reason and "stay dense" in reason for reason in reasons.values()), reasons
    assert plan["parameters"]["quantized"] == 2 * 4 * 88 * 88
    tiny.run_host("export", recipe, "--to", tmp_path / "packed", "--format", "gptq")
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    assert sum(name.endswith(".qweight") for name in tensors) == 8
    # GPTQModel packs every linear module that `dynamic` does not exclude, by re.match, and an expert's projections are such modules there.
    excluded = [pattern[2:] for pattern in json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]["dynamic"] if pattern.startswith("-:")]
    for name in tensors:
        module = name.rsplit(".", 1)[0]
        for spelling in {module, module.replace("block_sparse_moe", "mlp")}:
            assert any(re.match(pattern, spelling) for pattern in excluded) == (".experts." in module), spelling
    with torch.no_grad():
        expected = with_packed(tiny.load_reference(tmp_path / "model").eval(), tensors, 4)(IDS, use_cache=False).logits
    assert tiny.relative_error(tiny.host_logits(read_recipe(tmp_path / "packed", tmp_path), IDS), expected) <= TOLERANCE


def test_settings_by_module(tmp_path):
    """`dynamic`: one projection of 8 bits in other groups, another one dense, the rest as the config says."""
    dynamic = {r"-:.*down_proj": {}, r"+:.*\.up_proj": {"bits": 8, "group_size": 64, "desc_act": False}, r".*layers\.1\..*": {"sym": False}}

    def options_of(name):
        return {"bits": 8, "group": 64} if name.endswith("up_proj") else {"sym": False} if "layers.1." in name else {}

    expected = packed_checkpoint(tmp_path / "model", "llama", ODD, packs=r".*\.layers\..*(?<!down)_proj", options_of=options_of, stored=quantization_config(dynamic=dynamic))
    recipe = read_recipe(tmp_path / "model", tmp_path)
    assert tiny.relative_error(tiny.host_logits(recipe, IDS), expected) <= TOLERANCE
    reasons = {module["path"]: module["reason"] for module in plan_of(recipe)["modules"]}
    assert reasons["model.layers.0.mlp.down_proj"] == "stored dense in the checkpoint"


@pytest.mark.parametrize("desc_act", [False, True])
def test_plain_order_needs_no_g_idx(desc_act, tmp_path):
    """Static groups keep the columns where they are, whatever order they were quantized in."""
    folder = tmp_path / "model"
    expected = packed_checkpoint(folder, "llama", ODD, stored=quantization_config(desc_act=desc_act, static_groups=desc_act))
    assert tiny.relative_error(tiny.host_logits(read_recipe(folder, tmp_path), IDS), expected) <= TOLERANCE
    save_file({name: value for name, value in load_file(folder / "model.safetensors").items() if not name.endswith(".g_idx")}, folder / "model.safetensors", {"format": "pt"})
    assert tiny.relative_error(tiny.host_logits(read_recipe(folder, tmp_path), IDS), expected) <= TOLERANCE


def test_packed_output_head(tmp_path):
    """Read where a file has it; written with embeddings = true, and the config says so."""
    expected = packed_checkpoint(tmp_path / "model", "llama", ODD | {"vocab_size": 301}, packs=r".*\.layers\..*_proj|lm_head", stored=quantization_config(lm_head=True))
    recipe = read_recipe(tmp_path / "model", tmp_path)
    assert tiny.relative_error(tiny.host_logits(recipe, IDS), expected) <= TOLERANCE
    tiny.run_host("export", recipe, "--to", tmp_path / "again", "--format", "gptq")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]["lm_head"] is True
    assert tiny.relative_error(tiny.host_logits(read_recipe(tmp_path / "again", tmp_path), IDS), expected) <= TOLERANCE


# What is changed in a file, and what the error says. The name of the damaged module is in each.
UP, GATE = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.gate_proj"


def change(suffix, make):
    return lambda tensors, config: tensors.update({f"{UP}.{suffix}": make(tensors[f"{UP}.{suffix}"])})


def set_config(**values):
    return lambda tensors, config: config.update(values)


CONTRADICTIONS = {
    "bits": (set_config(bits=8), r"\.qweight' is Int \[\d+, \d+\], expected Int \[\d+, \d+\] for bits = 8"),
    "group_size": (set_config(group_size=64), r"\.q?(zeros|scales)' is .* for bits = 4 and group_size = 64"),
    "group_size that no reader knows": (set_config(group_size=48), "group_size: 48 is none of its choices"),
    "bits that no reader knows": (set_config(bits=5), "bits: 5 is none of its choices"),
    "bits in words": (set_config(bits="4"), "bits: expected"),
    "sym": (lambda tensors, config: tensors.update({f"{UP}.qzeros": tensors[f"{UP}.qzeros"] ^ 0x30}), "sym = true: expected 7 everywhere .* or 8"),
    "order without g_idx": (lambda tensors, config: (tensors.pop(f"{UP}.g_idx"), config.update(desc_act=True)), r"up_proj\.g_idx' is missing: where columns are ordered"),
    "one g_idx too few": (lambda tensors, config: (tensors.pop(f"{UP}.g_idx"), tensors.update({f"{GATE}.g_idx": tensors[f"{GATE}.g_idx"].roll(1)})), r"up_proj\.g_idx' is missing"),
    "g_idx of another length": (change("g_idx", lambda t: t[:-1].contiguous()), r"up_proj\.g_idx' is Int \[87\], expected Int \[88\]"),
    "g_idx of another dtype": (change("g_idx", lambda t: t.long()), r"up_proj\.g_idx' is Long"),
    "words of another width": (set_config(pack_dtype="int16"), 'pack_dtype is "int16", expected "int32"'),
    "another order of the codes": (set_config(checkpoint_format="marlin"), "marlin"),
    "planar codes": (set_config(checkpoint_format="gptq_p"), "gptq_p"),
    "packed, dense by dynamic": (set_config(dynamic={"-:.*up_proj": {}}), "up_proj' is packed, but dynamic in the quantization config leaves it dense"),
    "other bits by dynamic": (set_config(dynamic={".*up_proj": {"bits": 2}}), r"up_proj\.qweight' is .* for bits = 2"),
    "dynamic that is no pattern": (set_config(dynamic={"(": {}}), "dynamic: .* no regular expression"),
    "scales that float16 cannot hold": (change("scales", lambda t: t.float() * 1e9), r"up_proj\.scales' holds values over what float16 can"),
    "a packed embedding": (lambda tensors, config: tensors.update(pack_module(tensors.pop("model.embed_tokens.weight"), "model.embed_tokens")[0]), "packed embedding"),
}


def refusal(folder, tmp_path):
    (tmp_path / "ids.json").write_text("[[1, 2]]")
    done = subprocess.run([tiny.HOST, "logits", read_recipe(folder, tmp_path), "--tokens", tmp_path / "ids.json", "--out", tmp_path / "out.safetensors"], capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    return done.stderr


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_parts_that_contradict_each_other_are_refused(case, tmp_path):
    folder, config = tmp_path / "model", quantization_config()
    packed_checkpoint(folder, "llama", ODD)
    tensors = load_file(folder / "model.safetensors")
    damage, expected = CONTRADICTIONS[case]
    damage(tensors, config)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_config(folder, config)
    assert re.search(expected, text := refusal(folder, tmp_path)), text


EXPERT = "model.layers.0.block_sparse_moe.experts.1.w3"
EXPERT_DAMAGES = {
    "one expert dense": (lambda tensors, config: tensors.update({f"{EXPERT}.weight": torch.zeros(44, 88), **{f"{EXPERT}.{end}": None for end in ("qweight", "qzeros", "scales", "g_idx")}}),
                         r"missing(.|\n)*w3\.qweight(.|\n)*surplus(.|\n)*w3\.weight"),
    "one expert with bits of its own": (set_config(dynamic={r".*experts\.1\.w3": {"bits": 8}}), r"experts\.1\.w3' other bits"),
    "one expert's scales not finite": (lambda tensors, config: tensors[f"{EXPERT}.scales"].fill_(float("nan")), r"experts\.1\.w3\.scales' holds values that are not finite"),
}


@pytest.mark.parametrize("case", EXPERT_DAMAGES)
def test_damaged_experts_are_refused(case, tmp_path):
    folder, config = tmp_path / "model", quantization_config()
    packed_checkpoint(folder, "mixtral", MIXTURES["mixtral"])
    tensors = load_file(folder / "model.safetensors")
    damage, expected = EXPERT_DAMAGES[case]
    damage(tensors, config)
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / "model.safetensors", {"format": "pt"})
    write_config(folder, config)
    assert re.search(expected, text := refusal(folder, tmp_path)), text
