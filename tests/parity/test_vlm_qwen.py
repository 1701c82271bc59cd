"""Qwen2-VL and Qwen2.5-VL, against transformers on the same files: logits, positions, generation, processors."""

import json
import random

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

import test_vlm as vlm
import tiny

TOLERANCE = vlm.TOLERANCE
CONFIGS = 12
FAMILIES = {
    "qwen2_vl": (transformers.Qwen2VLForConditionalGeneration, transformers.Qwen2VLConfig),
    "qwen2_5_vl": (transformers.Qwen2_5_VLForConditionalGeneration, transformers.Qwen2_5_VLConfig),
}
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
MEDIA = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *vlm.WORDS, *MEDIA])}
IMAGE, VIDEO = VOCABULARY["<|image_pad|>"], VOCABULARY["<|video_pad|>"]
TEMPLATE = vlm.TEMPLATE.replace("{{ '<image> ' }}", "{{ '<|vision_start|> <|image_pad|> <|vision_end|> ' }}{% elif part['type'] == 'video' %}{{ '<|vision_start|> <|video_pad|> <|vision_end|> ' }}")


def qwen_config(family, seed):
    """Odd heads, sections and rope types; window and merge sizes of all kinds."""
    draw = random.Random(f"{family} {seed}")
    text = {**tiny.random_config("qwen2", seed), "vocab_size": len(VOCABULARY) + 5, "max_position_embeddings": 512}
    text.pop("head_dim", None)
    head_dim = 2 * draw.randint(3, 9)
    text["hidden_size"] = head_dim * text["num_attention_heads"]
    first, second = sorted(draw.sample(range(1, head_dim // 2), 2))
    rope = draw.choice([{"rope_type": "default"}, {"rope_type": "default"}, {"rope_type": "linear", "factor": 2.5}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}])
    text["rope_parameters"] = {**rope, "rope_theta": draw.choice([1e4, 1e6, 100.0]), "mrope_section": [first, second - first, head_dim // 2 - second]}
    tied = text.pop("tie_word_embeddings")
    heads = draw.choice([1, 2, 3])
    vision = {"depth": draw.randint(1, 4), "num_heads": heads, "patch_size": draw.choice([2, 4]), "spatial_merge_size": draw.choice([1, 2, 2, 3]), "temporal_patch_size": draw.choice([1, 2, 2])}
    width = heads * 4 * draw.randint(1, 4)
    if family == "qwen2_vl":
        vision |= {"embed_dim": width, "hidden_size": text["hidden_size"], "mlp_ratio": draw.choice([1, 2, 4]), "hidden_act": draw.choice(["quick_gelu", "gelu"])}
    else:
        edge = vision["patch_size"] * vision["spatial_merge_size"]
        vision |= {"hidden_size": width, "out_hidden_size": text["hidden_size"], "intermediate_size": draw.randrange(9, 70), "hidden_act": draw.choice(["silu", "gelu"]),
                   "window_size": edge * draw.choice([1, 2, 3]) + draw.choice([0, 1]), "fullatt_block_indexes": draw.choice([[0], [1], [0, 3], []]), "tokens_per_second": draw.choice([2, 4, 25])}
    return {"text_config": text, "vision_config": vision, "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": VOCABULARY["<|vision_start|>"],
            "vision_end_token_id": VOCABULARY["<|vision_end|>"], "tie_word_embeddings": tied}


def make_qwen(family, config, seed):
    torch.manual_seed(seed)
    model_class, config_class = FAMILIES[family]
    model = model_class(config_class(**json.loads(json.dumps(config)))).float().eval()
    vlm.randomize(model)
    return model


def flat(config):
    """config.json as the first releases had it: the text model's keys outside, rope_scaling of type mrope."""
    config = json.loads(json.dumps(config))
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    text["rope_scaling"] = {"type": "mrope" if kind == "default" else kind, **rope}
    for key in ("model_type", "layer_types"):
        text.pop(key, None)
    config["vision_config"].pop("model_type", None)
    return {**text, **config}


def save_qwen(folder, model, layout="save_pretrained"):
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if layout == "modules":
        named = dict(model.named_parameters())
        save_file({name: named[name].detach().clone() for name in named}, folder / "model.safetensors", metadata={"format": "pt"})
    if layout == "flat":
        file = folder / "config.json"
        file.write_text(json.dumps(flat(json.loads(file.read_text()))))


def grids_of(model, counts, seed, frames=1):
    """For each row so many random grids."""
    draw = random.Random(f"grids {seed}")
    merge = model.config.vision_config.spatial_merge_size
    return [[(draw.choice([1, 2, 3]) if frames > 1 else 1, merge * draw.randint(1, 7), merge * draw.randint(1, 7)) for _ in range(count)] for count in counts]


def rows_with_media(model, grids, token, seed):
    """Words around media."""
    draw = random.Random(f"rows {seed}")
    merge = model.config.vision_config.spatial_merge_size
    rows = []
    for own in grids:
        row = [draw.randrange(4, 4 + len(vlm.WORDS)) for _ in range(draw.randint(1, 4))]
        for t, h, w in own:
            row += [token] * (t * h * w // merge**2) + [draw.randrange(4, 4 + len(vlm.WORDS)) for _ in range(draw.randint(1, 3))]
        rows.append(row)
    width = max(len(row) for row in rows)
    # Equally long, as the host's --tokens takes them.
    return torch.tensor([row + [draw.randrange(4, 4 + len(vlm.WORDS)) for _ in range(width - len(row))] for row in rows])


def patches_of(model, grids, seed):
    vision = model.config.vision_config
    count = sum(t * h * w for own in grids for t, h, w in own)
    return torch.randn(count, 3 * vision.temporal_patch_size * vision.patch_size**2, generator=torch.Generator().manual_seed(seed))


def thw(grids):
    return torch.tensor([grid for own in grids for grid in own], dtype=torch.long).view(-1, 3)


def types_of(ids):
    return (ids == IMAGE).int() + 2 * (ids == VIDEO).int()


def host_logits(recipe, ids, media):
    tokens, out, file = (recipe.parent / name for name in ("ids.json", "logits.safetensors", "media.safetensors"))
    tokens.write_text(json.dumps(ids.tolist()))
    if media:
        save_file(media, file)
    tiny.run_host("logits", recipe, "--tokens", tokens, "--out", out, *(["--media", file] if media else []))
    return load_file(out)["logits"]


@pytest.mark.parametrize("seed", range(CONFIGS))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family, seed, tmp_path, record_property):
    model = make_qwen(family, qwen_config(family, seed), seed)
    save_qwen(tmp_path / "model", model, ("save_pretrained", "modules", "flat")[seed % 3])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    for counts in ((1,), (0, 2, 1), (0,)):
        grids = grids_of(model, counts, seed)
        ids = rows_with_media(model, grids, IMAGE, seed)
        media = {"pixel_values": patches_of(model, grids, seed), "image_grid_thw": thw(grids)} if sum(counts) else {}
        with torch.no_grad():
            expected = model(input_ids=ids, **media, **({"mm_token_type_ids": types_of(ids)} if media else {})).logits
        error = tiny.relative_error(host_logits(recipe, ids, media), expected)
        record_property("relative_error", error)
        assert error <= TOLERANCE, f"{error:.2e} with {counts} pictures and {model.config}"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("family", FAMILIES)
def test_video_tensors(family, seed, tmp_path):
    """Frames as tensors, beside a picture: positions in time, seconds between frames for the family that has them."""
    model = make_qwen(family, qwen_config(family, seed), seed)
    save_qwen(tmp_path / "model", model)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    pictures, videos = grids_of(model, (1, 0), seed), grids_of(model, (0, 2), seed + 100, frames=3)
    ids = torch.cat([rows_with_media(model, [own], token, seed) for own, token in ((pictures[0], IMAGE), (videos[1], VIDEO))], 1)
    media = {"pixel_values": patches_of(model, pictures, seed), "image_grid_thw": thw(pictures), "pixel_values_videos": patches_of(model, videos, seed + 1), "video_grid_thw": thw(videos)}
    if family == "qwen2_5_vl" and seed % 2:
        media["second_per_grid_ts"] = torch.tensor([0.35, 1.6])
    with torch.no_grad():
        expected = model(input_ids=ids, **media, mm_token_type_ids=types_of(ids)).logits
    assert tiny.relative_error(host_logits(recipe, ids, media), expected) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_left_out_take_class_defaults(family, tmp_path):
    """The count of parameters and of the context shows what a silent config.json means."""
    model_class, config_class = FAMILIES[family]
    out = "hidden_size" if family == "qwen2_vl" else "out_hidden_size"
    for name, config in {
        "all but the width": {"model_type": family, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "vision_config": {out: 3584}},
        "nested": {"model_type": family, "text_config": {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True}, "vision_config": {out: 1536, "depth": 3}},
        "text alone": {"model_type": family, "vision_config": {out: 8192}},
    }.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with torch.device("meta"):
            model = model_class(config_class.from_dict(json.loads(json.dumps(config))))
        model.tie_weights()
        plan = json.loads(tiny.run_host("plan", tiny.write_recipe(folder / "r.toml", model={"path": folder, "dtype": "bfloat16"}), "--json", "--assume-devices", "cpu=400GiB").stdout)
        assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()), name


def test_plan_of_the_real_config(tmp_path):
    source = tiny.SHARED / "data" / "configs" / "qwen2_vl_2b.json"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    (tmp_path / "config.json").write_text(source.read_text())
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path, "dtype": "bfloat16"}, quantizer={"type": "nf4", "double_quant": True})
    plan = json.loads(tiny.run_host("plan", recipe, "--json", "--assume-devices", "cuda:0=24GiB,cpu=64GiB").stdout)
    with torch.device("meta"):
        model = transformers.Qwen2VLForConditionalGeneration(transformers.Qwen2VLConfig.from_dict(json.loads(source.read_text())))
    model.tie_weights()
    assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()) == 2_208_985_600
    assert plan["fits"]


def save_processor(folder, model, video=None, **settings):
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(["<s>", "</s>", "<pad>", *MEDIA])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                                     extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"})
    vision = model.config.vision_config
    shape = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size, "temporal_patch_size": vision.temporal_patch_size}
    images = transformers.Qwen2VLImageProcessor(**shape, **settings)
    processor_class = transformers.Qwen2VLProcessor if model.config.model_type == "qwen2_vl" else transformers.Qwen2_5_VLProcessor
    processor = processor_class(image_processor=images, tokenizer=tokenizer, video_processor=transformers.Qwen2VLVideoProcessor(**shape, **(video or {})), chat_template=TEMPLATE)
    processor.save_pretrained(folder)
    return processor


PROCESSORS = {
    "small": {"min_pixels": 4 * 28 * 28, "max_pixels": 64 * 28 * 28},
    "class defaults": {},
    "sizes in the table": {"size": {"shortest_edge": 900, "longest_edge": 40000}, "resample": 2},
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_equal_the_reference(kind, tmp_path):
    config = qwen_config("qwen2_vl", 0)
    config["vision_config"] |= {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    model = make_qwen("qwen2_vl", config, 0)
    save_qwen(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model, **PROCESSORS[kind])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    files = [*vlm.shared_images(), *vlm.odd_images(tmp_path)]
    got = vlm.media_of_host(recipe, files)
    begin = 0
    for file, grid in zip(files, got["image_grid_thw"], strict=True):
        theirs = processor.image_processor(str(file), return_tensors="pt")
        assert grid.tolist() == theirs["image_grid_thw"][0].tolist(), file.name
        count = int(grid.prod())
        limit = 1e-5 if file.suffix == ".png" else vlm.STEP
        difference = (got["pixel_values"][begin : begin + count] - theirs["pixel_values"]).abs().max()
        assert difference <= limit, f"{file.name}: {difference:.2e}"
        begin += count
    assert begin == len(got["pixel_values"])


def test_areas_of_the_recipe(tmp_path):
    config = qwen_config("qwen2_vl", 0)
    config["vision_config"] |= {"patch_size": 14, "spatial_merge_size": 2}
    model = make_qwen("qwen2_vl", config, 0)
    save_qwen(tmp_path / "model", model)
    save_processor(tmp_path / "model", model)
    file = next(file for file in vlm.shared_images() if file.name == "chelsea.png")
    areas = {"min_pixels": 100 * 28 * 28, "max_pixels": 110 * 28 * 28}
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, media=areas)
    expected = transformers.Qwen2VLImageProcessor(**areas)(str(file), return_tensors="pt")["image_grid_thw"]
    assert vlm.media_of_host(recipe, [file])["image_grid_thw"].tolist() == expected.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_messages_with_pictures(family, seed, tmp_path):
    """Conversations with one picture, none and two in one batch, padded on the left; then continued greedily over a cache."""
    vlm.shared_images()
    config = qwen_config(family, seed)
    model = make_qwen(family, config, seed)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    save_qwen(tmp_path / "model", model)
    edge = config["vision_config"]["patch_size"] * config["vision_config"]["spatial_merge_size"]
    processor = save_processor(tmp_path / "model", model, min_pixels=4 * edge**2, max_pixels=30 * edge**2)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    messages, out = tmp_path / "messages.json", tmp_path / "logits.safetensors"
    messages.write_text(json.dumps(vlm.conversations()))
    tiny.run_host("logits", recipe, "--messages", messages, "--out", out)
    got = load_file(out)
    continued = json.loads(tiny.run_host("generate", recipe, "--messages", messages, "--json", "--max-new-tokens", 12, "--set", "generate.stop=[]").stdout)
    for row, conversation in enumerate(vlm.conversations()):
        inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        assert got["ids"][row, :length].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            expected = model(**inputs).logits
        # A step of 255 in a decoded pixel counts too, see STEP; it is far below what a wrong picture does.
        tolerance = TOLERANCE if row != 2 else 50 * TOLERANCE
        assert tiny.relative_error(got["logits"][row : row + 1, :length], expected) <= tolerance
        prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        # transformers' own cache and rope_deltas.
        theirs, scores = tiny.greedy(model, prompt, 12)
        tiny.check_greedy(continued[row]["ids"], theirs, scores, tolerance)
