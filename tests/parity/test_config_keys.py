"""config.json as people write it: keys left out, old and new spellings, keys of other families. transformers reads the same file; where it runs, the host gives its logits."""

import json
import random

import pytest
import torch
import transformers

import test_vlm as vlm
import test_vlm_lfm2 as lfm2
import test_vlm_mllama as mllama
import test_vlm_next as llava_next
import test_vlm_qwen as qwen
import test_voxtral as voxtral
import tiny

TOLERANCE = 1e-4  # design, section 8
CONFIGS = 18
TEXTS = tiny.MODEL_TYPES + tiny.EXPERT_TYPES
# What the classes take where a file does not count the heads of keys; None: as many as of queries.
KV_HEADS = {"mistral": 8, "mixtral": 8, "qwen2": 32, "qwen3": 32, "qwen3_moe": 4, "gemma2": 4, "smollm3": 4}
HEAD_DIM = {"qwen3": 128, "gemma2": 256}
# Each is there or left out, for every family: those that a class does not know say nothing.
OPTIONAL = {
    "rms_norm_eps": [1e-6, 1e-5, 1e-2], "tie_word_embeddings": [True, False], "attention_bias": [True, False], "mlp_bias": [True, False],
    "hidden_act": ["silu", "gelu_pytorch_tanh", "gelu_new", "relu2", "quick_gelu"], "hidden_activation": ["gelu_pytorch_tanh", "silu"],
    "sliding_window": [None, 1, 5, 4096], "use_sliding_window": [True, False], "max_window_layers": [0, 2, 28],
    "query_pre_attn_scalar": [16, 144], "attn_logit_softcapping": [None, 3.0, 50.0], "final_logit_softcapping": [None, 4.0],
    "no_rope_layer_interval": [1, 2, 3], "norm_topk_prob": [True, False], "decoder_sparse_step": [1, 2, 3], "mlp_only_layers": [[], [0], [0, 2], None],
    "output_router_logits": [False], "attention_dropout": [0.0], "pretraining_tp": [1], "use_cache": [True], "bos_token_id": [1], "torch_dtype": ["float32"], "dtype": ["float32"],
}  # fmt: skip


def left_out(draw, config, kept, share=0.35):
    return {key: value for key, value in config.items() if key in kept or draw.random() > share}


def write_rope(draw, model_type, config, pairs):
    """A type of rotary frequencies in one of its spellings: the base inside or beside the table, or nowhere; rope_type, type or both."""
    kind = draw.choice(["default", "longrope", "su", "yarn"] if model_type == "phi3" else ["default", "linear", "dynamic", "yarn", "llama3", "longrope"])
    is_long = kind == "longrope" or (model_type == "phi3" and kind != "default")
    table, sometimes = {}, {}
    if is_long:
        table = {name: [round(draw.uniform(1, most), 2) for _ in range(pairs)] for name, most in (("short_factor", 2), ("long_factor", 6))}
        sometimes = {"factor": [2.0, 4], "attention_factor": [1.1, 1], "original_max_position_embeddings": [8, 16]}
    elif kind == "yarn":
        table = {"factor": draw.choice([2, 4.0])}
        sometimes = {"original_max_position_embeddings": [16, 32], "beta_fast": [4, None], "beta_slow": [0.5], "mscale": [0.7, None], "mscale_all_dim": [1.3, 0], "attention_factor": [1.2, None], "truncate": [False, True]}
    elif kind == "llama3":
        table = {"factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    elif kind != "default":
        table = {"factor": draw.choice([1, 2.5, 8])}
    if model_type == "phi3":
        sometimes = {}
        if is_long:
            table["original_max_position_embeddings"] = config.setdefault("original_max_position_embeddings", 16)
    table |= {key: draw.choice(values) for key, values in sometimes.items() if draw.random() < 0.35}
    base = draw.choice([{}, {"rope_theta": 10000}, {"rope_theta": 100.0}])
    if draw.random() < 0.4:
        config["rope_parameters"] = {**table, **base, "rope_type": kind}
        config |= draw.choice([{}, {}, {"rope_scaling": None}, {"rope_theta": 777.0}])  # the base in the table wins
    else:
        names = draw.choice([("type",), ("rope_type",), ("rope_type", "type")])
        config |= base | {"rope_scaling": draw.choice([None, {}]) if kind == "default" else {**table, **dict.fromkeys(names, kind)}}
    if kind in ("yarn", "longrope", "llama3") and model_type != "phi3" and draw.random() < 0.25:
        config["original_max_position_embeddings"] = 24  # wins over the one in the table


def text_config(model_type, seed):
    draw = random.Random(f"keys of {model_type} {seed}")
    default_kv, layers = KV_HEADS.get(model_type), draw.randint(1, 4)
    if draw.random() < 0.3:
        heads, kv_heads = default_kv or draw.choice([1, 6]), {}
    else:
        count = draw.choice([1, 2, 3])
        heads, kv_heads = count * draw.choice([1, 2, 4]), {"num_key_value_heads": count}
    width = 2 * draw.randint(2, 8)
    config = {"model_type": model_type, "num_attention_heads": heads, **kv_heads, "hidden_size": heads * width, "num_hidden_layers": layers, "vocab_size": draw.choice([97, 331]),
              "intermediate_size": draw.choice([33, 64]), "max_position_embeddings": draw.choice([32, 64]), "pad_token_id": 0}
    head_dim = HEAD_DIM.get(model_type, width)
    if draw.random() < 0.5 or model_type == "mixtral":  # whose own value transformers multiplies before it is settled
        config["head_dim"] = head_dim = width if model_type == "phi3" else 2 * draw.randint(2, 10)
    config |= {key: draw.choice(values) for key, values in OPTIONAL.items() if draw.random() < 0.5}
    if model_type == "gemma2" and config.get("sliding_window", 1) is None:
        config.pop("sliding_window")  # transformers wants one
    if model_type in ("qwen2", "qwen3", "gemma2", "smollm3") and draw.random() < 0.3:
        has_windows = config.get("sliding_window", 1 if model_type != "smollm3" else None) is not None and (model_type == "gemma2" or config.get("use_sliding_window"))
        config["layer_types"] = [draw.choice(["full_attention", "sliding_attention"] if has_windows else ["full_attention"]) for _ in range(layers)]
    if model_type == "smollm3" and draw.random() < 0.3:
        config["no_rope_layers"] = [draw.randint(0, 1) for _ in range(layers + draw.choice([0, 2]))]
    if model_type in tiny.EXPERT_TYPES:
        experts = draw.randint(1, 8)
        config |= {draw.choice(["num_experts", "num_local_experts"]): experts, "num_experts_per_tok": draw.randint(1, experts), "moe_intermediate_size": 24}
    if model_type == "phi3" and draw.random() < 0.4 and head_dim % 4 == 0:
        config["partial_rotary_factor"], head_dim = 0.5, head_dim // 2
    if draw.random() < 0.9:
        write_rope(draw, model_type, config, head_dim // 2)
    return config


def read_model(folder, config, auto, seed, **options):
    """transformers' own reading of the file, with random weights saved beside it."""
    folder.mkdir()
    text = json.dumps(config)
    (folder / "config.json").write_text(text)
    torch.manual_seed(seed)
    model = auto.from_config(transformers.AutoConfig.from_pretrained(folder), dtype=torch.float32, **options).eval()
    vlm.randomize(model)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(text)
    return model


def recipe_of(tmp_path):
    return tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})


@pytest.mark.parametrize("seed", range(CONFIGS))
@pytest.mark.parametrize("model_type", TEXTS)
def test_text(model_type, seed, tmp_path):
    config = text_config(model_type, seed)
    options = {"experts_implementation": "eager"} if model_type in tiny.EXPERT_TYPES else {}
    model = read_model(tmp_path / "model", config, transformers.AutoModelForCausalLM, seed, **options)
    ids = torch.randint(0, config["vocab_size"], (2, (7, 17, 40)[seed % 3]), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    assert tiny.relative_error(tiny.host_logits(recipe_of(tmp_path), ids), expected) <= TOLERANCE, config


def media_text(draw, seed, vocabulary):
    """Any text model of arch_llama inside another; a llama need not be named."""
    model_type = TEXTS[seed % len(TEXTS)]
    config = text_config(model_type, 1000 + seed) | {"vocab_size": vocabulary}
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    if model_type == "llama" and draw.random() < 0.5:
        config.pop("model_type")
    return config


def llava_config(family, seed):
    draw = random.Random(f"keys of {family} {seed}")
    config = vlm.llava_config(seed) if family == "llava" else llava_next.next_config(seed)
    vision = left_out(draw, config["vision_config"], {"model_type", "hidden_size", "num_attention_heads", "image_size", "patch_size", "num_hidden_layers"})
    config = left_out(draw, config, {"image_token_index", "vision_feature_layer", "vision_feature_select_strategy", "image_grid_pinpoints"})
    config |= {"model_type": family, "vision_config": vision, "text_config": media_text(draw, seed, len(vlm.WORDS) + 12)}
    config.pop("tie_word_embeddings", None)
    config |= draw.choice([{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}])
    if draw.random() < 0.3:
        config["image_token_id"] = config.pop("image_token_index")
    if family == "llava" and config["vision_feature_select_strategy"] == "default" and draw.random() < 0.5:
        config.pop("vision_feature_select_strategy")
    return config


def qwen_config(family, seed):
    draw = random.Random(f"keys of {family} {seed}")
    config = qwen.qwen_config(family, seed)
    text, vision = config["text_config"], config["vision_config"]
    for key in ("use_sliding_window", "sliding_window", "max_window_layers"):
        text.pop(key, None)
        if draw.random() < 0.5:
            text[key] = draw.choice({"use_sliding_window": [True, False], "sliding_window": [3, None], "max_window_layers": [0, 1]}[key])
    rope = text.pop("rope_parameters")
    if draw.random() < 0.7:
        kind, base = rope.pop("rope_type"), rope.pop("rope_theta")
        text["rope_scaling"] = {draw.choice(["type", "rope_type"]): draw.choice(["mrope", kind]) if kind == "default" else kind, **rope}
        text |= draw.choice([{}, {"rope_theta": base}])
    else:
        text["rope_parameters"] = rope
    sizes = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "rope_parameters", "rope_scaling", "max_position_embeddings"}
    text = left_out(draw, text, sizes | {"use_sliding_window", "sliding_window", "max_window_layers"})
    vision = left_out(draw, vision, {"depth", "num_heads", "embed_dim", "hidden_size", "out_hidden_size", "patch_size", "spatial_merge_size", "temporal_patch_size", "intermediate_size"})
    config.pop("tie_word_embeddings")
    config |= {"model_type": family, "vision_config": vision} | draw.choice([{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}])
    vision |= draw.choice([{}, {"model_type": family}, {"model_type": f"{family}_vision"}])
    if draw.random() < 0.4:
        config.pop("text_config")
        return text | config
    text |= draw.choice([{}, {"tie_word_embeddings": True}])
    return config | {"text_config": text}


TEXT_SIZES = {"model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size", "block_ff_dim", "layer_types", "full_attn_idxs", "head_dim",
              "cross_attention_layers", "max_position_embeddings", "pad_token_id"}  # fmt: skip


def lfm2_vl_config(family, seed):
    draw = random.Random(f"keys of {family} {seed}")
    # transformers wants a layer that attends.
    config = next(config for config in map(lfm2.vl_config, range(100 * seed, 100 * seed + 100)) if "full_attention" in transformers.Lfm2Config(**config["text_config"]).layer_types)
    vision = left_out(draw, config["vision_config"], {"hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "num_patches", "intermediate_size"})
    text = left_out(draw, config["text_config"], TEXT_SIZES)
    return left_out(draw, config, {"image_token_id"}) | {"model_type": family, "vision_config": vision, "text_config": text} | draw.choice([{}, {"tie_embedding": True}, {"tie_embedding": False}])


def mllama_config(family, seed):
    draw = random.Random(f"keys of {family} {seed}")
    config = mllama.mllama_config(seed)
    kept = {"hidden_size", "attention_heads", "patch_size", "image_size", "intermediate_layers_indices", "vision_output_dim", "num_hidden_layers", "max_num_tiles", "supported_aspect_ratios", "intermediate_size"}
    text = left_out(draw, config["text_config"], TEXT_SIZES) | draw.choice([{}, {"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}])
    if "rope_parameters" in text and draw.random() < 0.5:
        rope = text.pop("rope_parameters")
        text |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    return config | {"model_type": family, "text_config": text, "vision_config": left_out(draw, config["vision_config"], kept)}


def voxtral_config(family, seed):
    draw = random.Random(f"keys of {family} {seed}")
    config = voxtral.voxtral_config(seed)
    audio = left_out(draw, config["audio_config"], {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_mel_bins", "max_source_positions"})
    whisper = {"hidden_size": "d_model", "num_hidden_layers": "encoder_layers", "intermediate_size": "encoder_ffn_dim", "num_attention_heads": "encoder_attention_heads"}
    audio = {whisper[key] if key in whisper and draw.random() < 0.3 else key: value for key, value in audio.items()}
    text = media_text(draw, seed, voxtral.AUDIO + 9)
    # The class fills these in, for whatever text model.
    text.setdefault("num_key_value_heads", text["num_attention_heads"]), text.setdefault("head_dim", 8)
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if any("factor" in key and isinstance(value, list) and len(value) != text["head_dim"] // 2 for key, value in rope.items()):
        text.pop("rope_scaling", None), text.pop("rope_parameters", None)
    return left_out(draw, config, {"audio_token_id"}) | {"model_type": family, "audio_config": audio, "text_config": text} | draw.choice([{}, {"tie_word_embeddings": True}])


def sequences(model, image, lengths_of, counts, seed):
    """Rows of words around so many pictures, equally long."""
    draw = random.Random(seed)
    words = lambda count: [draw.randrange(4, 4 + len(vlm.WORDS)) for _ in range(count)]
    lengths, rows = list(lengths_of), []
    for count in counts:
        rows.append(words(2))
        for _ in range(count):
            rows[-1] += [image] * lengths.pop(0) + words(2)
    width = max(map(len, rows)) + 3
    return torch.tensor([row + words(width - len(row)) for row in rows])


def llava_inputs(model, seed, counts):
    edge = model.config.vision_config.image_size
    pixels = torch.randn(sum(counts), 3, edge, edge, generator=torch.Generator().manual_seed(seed))
    return vlm.ids_with_pictures(model, counts, seed), {"pixel_values": pixels}, {}


def next_inputs(model, seed, counts):
    sizes, edge = llava_next.sizes_for(sum(counts), seed), model.config.vision_config.image_size
    most = max(llava_next.views_of(model, size) for size in sizes)
    media = {"pixel_values": torch.randn(len(sizes), most, 3, edge, edge, generator=torch.Generator().manual_seed(seed)), "image_sizes": torch.tensor(sizes)}
    return sequences(model, model.config.image_token_index, llava_next.tokens_of(model, sizes), counts, seed), media, {}


def qwen_inputs(model, seed, counts):
    grids = qwen.grids_of(model, counts, seed)
    ids = qwen.rows_with_media(model, grids, qwen.IMAGE, seed)
    return ids, {"pixel_values": qwen.patches_of(model, grids, seed), "image_grid_thw": qwen.thw(grids)}, {"mm_token_type_ids": qwen.types_of(ids)}


def lfm2_inputs(model, seed, counts):
    media, lengths = lfm2.views(model, sum(counts), seed)
    return sequences(model, lfm2.IMAGE, lengths, counts, seed), media, {}


def mllama_inputs(model, seed, counts):
    ids = mllama.rows_with_pictures(counts, seed)
    full, _ = mllama.media_for(model, ids, seed)
    return ids, full, {"cross_attention_mask": mllama.cross_mask(model, ids, full["aspect_ratio_mask"])}


def voxtral_inputs(model, seed, counts):
    audio = model.config.audio_config
    features = torch.randn(sum(counts), audio.num_mel_bins, 2 * audio.max_source_positions, generator=torch.Generator().manual_seed(seed))
    return voxtral.ids_with_sounds(model, [[1] * count for count in counts], seed), {"input_features": features}, {}


SEES = transformers.AutoModelForImageTextToText
FAMILIES = {
    "llava": (SEES, llava_config, llava_inputs),
    "llava_next": (SEES, llava_config, next_inputs),
    "qwen2_vl": (SEES, qwen_config, qwen_inputs),
    "qwen2_5_vl": (SEES, qwen_config, qwen_inputs),
    "lfm2_vl": (SEES, lfm2_vl_config, lfm2_inputs),
    "mllama": (SEES, mllama_config, mllama_inputs),
    "voxtral": (transformers.AutoModelForMultimodalLM, voxtral_config, voxtral_inputs),
}


@pytest.mark.parametrize("seed", range(CONFIGS))
@pytest.mark.parametrize("family", FAMILIES)
def test_media(family, seed, tmp_path):
    auto, write, inputs = FAMILIES[family]
    config = write(family, seed)
    options = {"experts_implementation": "eager"} if config.get("text_config", {}).get("model_type") in tiny.EXPERT_TYPES else {}
    model = read_model(tmp_path / "model", config, auto, seed, **options)
    ids, media, told = inputs(model, seed, (0, 2, 1))
    with torch.no_grad():
        expected = model(input_ids=ids, **media, **told).logits
    assert tiny.relative_error(llava_next.host_logits(recipe_of(tmp_path), ids, media), expected) <= TOLERANCE, config


# As published; only widths and vocabularies are cut down. (mllama's, lfm2_vl's and voxtral's: in their own tests.)
REAL = {
    "llava": ("llava_1.5_7b_hf", {"image_token_index": len(vlm.WORDS) + 4}, {"hidden_size": 64, "intermediate_size": 80, "vocab_size": len(vlm.WORDS) + 12}, {"hidden_size": 32, "intermediate_size": 40}),
    "qwen2_vl": ("qwen2_vl_2b", {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 80, "vocab_size": len(qwen.VOCABULARY) + 5, "bos_token_id": 1, "eos_token_id": 2,
                                 "image_token_id": qwen.IMAGE, "video_token_id": qwen.VIDEO, "vision_start_token_id": qwen.VOCABULARY["<|vision_start|>"], "vision_end_token_id": qwen.VOCABULARY["<|vision_end|>"]},
                 {}, {"embed_dim": 64, "hidden_size": 256}),
}  # fmt: skip


@pytest.mark.parametrize("family", REAL)
def test_real_config_made_small(family, tmp_path):
    name, outer, text, vision = REAL[family]
    source = tiny.SHARED / "data" / "configs" / f"{name}.json"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    config = json.loads(source.read_text()) | outer
    config["vision_config"] |= vision
    if text:
        config["text_config"] |= text
    auto, _, inputs = FAMILIES[family]
    model = read_model(tmp_path / "model", config, auto, 0)
    ids, media, told = inputs(model, 0, (0, 2, 1))
    with torch.no_grad():
        expected = model(input_ids=ids, **media, **told).logits
    assert tiny.relative_error(llava_next.host_logits(recipe_of(tmp_path), ids, media), expected) <= TOLERANCE
