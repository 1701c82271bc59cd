"""LFM2 and LFM2-VL, against transformers on the same files: logits, padding, packing, generation, views of pictures, tokens, training."""

import json
import random

import peft
import pytest
import tokenizers
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import test_vlm as vlm
import test_vlm_next
import tiny

TOLERANCE = vlm.TOLERANCE
CONFIGS = 12
MARKS = ["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *(f"<|img_row_{r}_col_{c}|>" for r in range(1, 11) for c in range(1, 11))]
VOCABULARY = ["<unk>", "<s>", "</s>", "<pad>", *vlm.WORDS, *MARKS]
IMAGE = VOCABULARY.index("<image>")


def lfm2_config(seed):
    """Every spelling: which layers attend, the mlp's width, kernels of several lengths, biases, tying."""
    draw = random.Random(f"lfm2 {seed}")
    kv_heads = draw.choice([1, 2, 3])
    heads, head_dim, layers = kv_heads * draw.choice([1, 2, 3]), 2 * draw.randint(2, 10), draw.randint(1, 5)
    config = {
        "vocab_size": len(VOCABULARY) + draw.randrange(70),
        "hidden_size": heads * head_dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "norm_eps": draw.choice([1e-6, 1e-5, 1e-3]),
        draw.choice(["block_ff_dim", "intermediate_size"]): draw.randrange(20, 200),
        "block_auto_adjust_ff_dim": draw.random() < 0.7,
        "block_ffn_dim_multiplier": draw.choice([1.0, 1.3, 2]),
        "block_multiple_of": draw.choice([1, 6, 16]),
        "conv_L_cache": draw.choice([1, 2, 3, 3, 4, 7]),
        "conv_bias": draw.random() < 0.4,
        "rope_parameters": {"rope_type": "default", "rope_theta": draw.choice([1e6, 1e4, 100.0])},
        "tie_word_embeddings": draw.random() < 0.6,
        "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2,
    }
    kinds = [draw.choice(["conv", "full_attention"]) for _ in range(layers)]
    if draw.random() < 0.4:
        config["layer_types"] = kinds
    elif draw.random() < 0.8:
        config["full_attn_idxs"] = [i for i, kind in enumerate(kinds) if kind != "conv"]
    if draw.random() < 0.2:
        config["head_dim"] = 2 * draw.randint(2, 10)
    return config


def make_lfm2(config, seed):
    torch.manual_seed(seed)
    model = transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**json.loads(json.dumps(config)))).float().eval()
    vlm.randomize(model)
    return model


def save_lfm2(folder, model, config=None):
    """With `config`, config.json as the user would have written it, not as transformers completes it."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": "lfm2", **config}))


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_lfm2_logits(seed, tmp_path, record_property):
    config = lfm2_config(seed)
    model = make_lfm2(config, seed)
    save_lfm2(tmp_path / "model", model, config if seed % 2 else None)
    ids = torch.randint(0, config["vocab_size"], (1 + seed % 3, random.Random(seed).randint(1, 40)), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    error = tiny.relative_error(tiny.host_logits(tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}), ids), expected)
    record_property("relative_error", error)
    assert error <= TOLERANCE, f"{error:.2e} with {config}"


def vl_config(seed):
    """Towers with and without a head, projectors with and without a norm, squares of several sizes."""
    draw = random.Random(f"lfm2_vl {seed}")
    heads = draw.choice([1, 2, 4])
    vision = {
        "model_type": "siglip2_vision_model",
        "hidden_size": heads * 2 * draw.randint(2, 8),
        "intermediate_size": draw.randrange(9, 70),
        "num_hidden_layers": draw.randint(1, 4),
        "num_attention_heads": heads,
        "patch_size": draw.choice([2, 4, 8]),
        "num_patches": draw.choice([1, 4, 16, 49]),
        "hidden_act": draw.choice(["gelu", "gelu_pytorch_tanh"]), "layer_norm_eps": draw.choice([1e-6, 1e-3]),
        "vision_use_head": draw.random() < 0.3,
    }
    tied = draw.random() < 0.6
    return {
        "vision_config": vision,
        "text_config": {"model_type": "lfm2", **lfm2_config(seed + 100), "tie_word_embeddings": tied},
        "image_token_id": IMAGE,
        "downsample_factor": draw.choice([1, 2, 2, 3]),
        "projector_hidden_size": draw.randrange(9, 60), "projector_hidden_act": draw.choice(["gelu", "silu"]),
        "projector_bias": draw.random() < 0.7, "projector_use_layernorm": draw.random() < 0.5,
        "tie_word_embeddings": tied,
    }


def make_vl(config, seed):
    torch.manual_seed(seed)
    model = transformers.Lfm2VlForConditionalGeneration(transformers.Lfm2VlConfig(**json.loads(json.dumps(config)))).float().eval()
    vlm.randomize(model)
    return model


def save_vl(folder, model, layout="save_pretrained", spelling="lfm2_vl"):
    """Layouts: what transformers 5 writes, what it calls the modules itself, and the names of version 4."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if layout != "save_pretrained":
        parameters = dict(model.named_parameters())
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items() if name in parameters}
        if layout == "version 4":
            tensors = {name.replace("vision_tower.", "vision_tower.vision_model."): tensor for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": spelling}))


def save_processor(folder, model, **settings):
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(["<s>", "</s>", "<pad>", *MARKS])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens={"image_token": "<image>"})
    images = transformers.Lfm2VlImageProcessor(encoder_patch_size=model.config.vision_config.patch_size, downsample_factor=model.config.downsample_factor, **settings)
    transformers.Lfm2VlProcessor(image_processor=images, tokenizer=tokenizer, chat_template=vlm.TEMPLATE).save_pretrained(folder)
    return transformers.AutoProcessor.from_pretrained(folder)


def views(model, count, seed):
    """-> media of so many views, and the tokens that each takes."""
    draw = random.Random(f"views {seed}")
    factor, patch = model.config.downsample_factor, model.config.vision_config.patch_size
    shapes = [[factor * draw.randint(1, 4), factor * draw.randint(1, 5)] for _ in range(count)]
    most = max(rows * columns for rows, columns in shapes) + draw.choice([0, 3])
    lengths = torch.tensor([rows * columns for rows, columns in shapes])
    media = {
        "pixel_values": torch.randn(count, most, 3 * patch * patch, generator=torch.Generator().manual_seed(seed)),
        "spatial_shapes": torch.tensor(shapes),
        "pixel_attention_mask": (torch.arange(most)[None] < lengths[:, None]).int(),
    }
    return media, (lengths // factor**2).tolist()


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_lfm2_vl_logits(seed, tmp_path, record_property):
    config = vl_config(seed)
    model = make_vl(config, seed)
    save_vl(tmp_path / "model", model, ("save_pretrained", "modules", "version 4")[seed % 3], ("lfm2_vl", "lfm2-vl")[seed % 2])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    draw = random.Random(seed)
    words = lambda count: [draw.randrange(4, 4 + len(vlm.WORDS)) for _ in range(count)]
    for counts in ((1,), (0, 2, 1), (0,)):
        media, lengths = views(model, sum(counts), seed) if sum(counts) else ({}, [])
        rows = []
        for count in counts:
            rows.append(words(2))
            for _ in range(count):
                rows[-1] += [IMAGE] * lengths.pop(0) + words(2)
        width = max(len(row) for row in rows) + 3
        ids = torch.tensor([row + words(width - len(row)) for row in rows])
        with torch.no_grad():
            expected = model(input_ids=ids, **media).logits
        error = tiny.relative_error(test_vlm_next.host_logits(recipe, ids, media), expected)
        record_property("relative_error", error)
        assert error <= TOLERANCE, f"{error:.2e} with {counts} pictures and {config}"


def parameters(model):
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())


def test_keys_left_out_take_class_defaults(tmp_path):
    for name, config in {
        "lfm2": {"model_type": "lfm2"},
        "untied": {"model_type": "lfm2", "tie_embedding": False, "full_attn_idxs": [2, 5], "num_hidden_layers": 7, "block_ff_dim": 5000},
        "bare": {"model_type": "lfm2_vl"},
        "tied": {"model_type": "lfm2-vl", "text_config": {"hidden_size": 512, "tie_word_embeddings": False}, "projector_use_layernorm": False},
        "outer": {"model_type": "lfm2_vl", "tie_embedding": False, "vision_config": {"vision_use_head": False, "model_type": "siglip2_vision_model"}},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with torch.device("meta"):
            if config["model_type"] == "lfm2":
                model = transformers.Lfm2ForCausalLM(transformers.Lfm2Config.from_dict(dict(config)))
            else:
                model = transformers.Lfm2VlForConditionalGeneration(transformers.Lfm2VlConfig.from_dict({**json.loads(json.dumps(config)), "model_type": "lfm2_vl"}))
        recipe = tiny.write_recipe(folder / "r.toml", model={"path": folder, "dtype": "bfloat16"})
        plan = json.loads(tiny.run_host("plan", recipe, "--json", "--assume-devices", "cpu=200GiB").stdout)
        assert plan["parameters"]["total"] == parameters(model), name


def real_config():
    source = tiny.SHARED / "data" / "configs" / "lfm2_vl_450m.json"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    return json.loads(source.read_text())


def test_plan_of_the_real_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(real_config()))
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path, "dtype": "bfloat16"}, quantizer={"type": "nf4", "double_quant": True})
    plan = json.loads(tiny.run_host("plan", recipe, "--json", "--assume-devices", "cuda:0=24GiB,cpu=64GiB").stdout)
    with torch.device("meta"):
        model = transformers.Lfm2VlForConditionalGeneration(transformers.Lfm2VlConfig.from_dict(real_config()))
    assert plan["parameters"]["total"] == parameters(model) and round(plan["parameters"]["total"] / 1e9, 3) == 0.449
    assert plan["fits"]


def test_the_real_config_in_small(tmp_path):
    """All 28 layers, narrow: logits, and the 349 tensors of the real checkpoint written back under their names."""
    config = real_config()
    config["text_config"] |= {"hidden_size": 32, "block_ff_dim": 96, "intermediate_size": 96, "block_multiple_of": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
                              "vocab_size": 500, "max_position_embeddings": 512}
    config["vision_config"] |= {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4, "patch_size": 4}
    config |= {"projector_hidden_size": 40}
    model = make_vl(config, 0)
    save_vl(tmp_path / "model", model, "version 4")
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    media, lengths = views(model, 2, 0)
    ids = torch.tensor([[5, *[396] * lengths[0], 6, 7, *[396] * lengths[1], 8]])
    with torch.no_grad():
        expected = model(input_ids=ids, **media).logits
    assert tiny.relative_error(test_vlm_next.host_logits(recipe, ids, media), expected) <= TOLERANCE
    tiny.run_host("export", recipe, "--to", tmp_path / "written")
    with safe_open(tmp_path / "written" / "model.safetensors", "pt") as written, safe_open(tmp_path / "model" / "model.safetensors", "pt") as read:
        assert len(written.keys()) == 349 and set(written.keys()) == set(read.keys())
    again = transformers.Lfm2VlForConditionalGeneration.from_pretrained(tmp_path / "written", dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids, **media).logits, expected)


RULES = {
    "defaults": {},
    "one view": {"do_image_splitting": False},
    "small tiles": {"tile_size": 64, "min_image_tokens": 4, "max_image_tokens": 16, "max_tiles": 6},
    "no thumbnail": {"use_thumbnail": False, "min_tiles": 3, "resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
    "few tokens": {"max_image_tokens": 100, "max_pixels_tolerance": 1.2},
}


@pytest.mark.parametrize("kind", RULES)
def test_views_and_tokens_equal_the_reference(kind, tmp_path):
    config = vl_config(0)
    config["vision_config"]["patch_size"] = 16
    config["downsample_factor"] = 2
    model = make_vl(config, 0)
    save_vl(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model, **RULES[kind])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    files = [*vlm.shared_images(), *vlm.odd_images(tmp_path)]
    got = vlm.media_of_host(recipe, files)
    shapes = []
    for file in files:
        theirs = processor.image_processor(str(file), return_tensors="pt")
        count, first = len(theirs["spatial_shapes"]), len(shapes)
        ours = got["pixel_values"][first : first + count]
        assert got["spatial_shapes"][first : first + count].tolist() == theirs["spatial_shapes"].tolist(), file.name
        assert torch.equal(got["pixel_attention_mask"][first : first + count], theirs["pixel_attention_mask"]), file.name
        shapes += theirs["spatial_shapes"].tolist()
        assert ours.shape == theirs["pixel_values"].shape
        limit = 1e-5 if file.suffix == ".png" else vlm.STEP * 0.26 / min(processor.image_processor.image_std)
        assert (ours - theirs["pixel_values"]).abs().max() <= limit, f"{file.name}: {(ours - theirs['pixel_values']).abs().max():.2e}"
    assert len(shapes) == len(got["spatial_shapes"]) and (len(shapes) > len(files)) == (kind != "one view")
    # The same pictures as tokens.
    message = json.loads((tmp_path / "messages.json").read_text())
    ids = json.loads(tiny.run_host("tokenize", recipe, "--messages", tmp_path / "messages.json", "--json").stdout)["ids"]
    assert ids == processor.apply_chat_template(message, tokenize=True, return_dict=True)["input_ids"][0]


def test_areas_of_the_recipe(tmp_path):
    config = vl_config(0)
    config["vision_config"]["patch_size"] = 16
    config["downsample_factor"] = 2
    model = make_vl(config, 0)
    save_vl(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model)
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"}, media={"min_pixels": 20 * 1024 - 5, "max_pixels": 90 * 1024 + 7})
    files = vlm.shared_images()
    got = vlm.media_of_host(recipe, files)
    theirs = processor.image_processor([str(file) for file in files], return_tensors="pt", min_image_tokens=20, max_image_tokens=90)
    assert torch.equal(got["spatial_shapes"], theirs["spatial_shapes"])
    assert got["pixel_values"].shape == theirs["pixel_values"].shape


# transformers' cache wants a layer that attends. What a convolution remembers is of no use where all do.
HYBRID = [seed for seed in range(40) if len(set(transformers.Lfm2Config(**lfm2_config(seed)).layer_types)) == 2]


@pytest.mark.parametrize("seed", HYBRID[:6])
def test_text_generation(seed, tmp_path):
    """Prompts of several lengths in one batch, padded in front, over a cache; longer than what a convolution remembers."""
    config = lfm2_config(seed)
    model = make_lfm2(config, seed)
    model.generation_config.eos_token_id = None
    save_lfm2(tmp_path / "model", model)
    save_processor(tmp_path / "model", make_vl(vl_config(0), 0)).tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink(missing_ok=True)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    prompts = ["what", "two of them ? yes", "this is a cat and that is a rocket . what is that picture ?"]
    new = 90 if seed == HYBRID[0] else 12
    arguments = [argument for prompt in prompts for argument in ("--prompt", prompt)]
    got = json.loads(tiny.run_host("generate", recipe, "--json", "--max-new-tokens", new, "--set", "generate.stop=[]", *arguments).stdout)
    for prompt, ours in zip(prompts, got, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        theirs, scores = tiny.greedy(model, inputs, new)
        tiny.check_greedy(ours["ids"], theirs, scores, TOLERANCE)
    if config["conv_bias"]:
        return  # transformers' padded rows then differ from the same rows alone, see arch_lfm2's README
    # What transformers makes of the padded batch is what the rows give alone, and so is ours.
    padded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    with torch.no_grad():
        together = model(**padded).logits[:, -1]
    for row, prompt in enumerate(prompts):
        ours = tiny.host_logits(recipe, tokenizer(prompt, return_tensors="pt")["input_ids"])[0, -1]
        assert tiny.relative_error(ours, together[row]) <= TOLERANCE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_messages_with_pictures(seed, tmp_path):
    """Conversations with one picture, none and two in one batch; then continued greedily over a cache."""
    vlm.shared_images()
    config = vl_config(seed)
    config["vision_config"]["patch_size"], config["downsample_factor"] = 16, 2
    model = make_vl(config, seed)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    save_vl(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model, tile_size=64, min_image_tokens=4, max_image_tokens=24, max_tiles=4)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    messages, out = tmp_path / "messages.json", tmp_path / "logits.safetensors"
    messages.write_text(json.dumps(vlm.conversations()))
    tiny.run_host("logits", recipe, "--messages", messages, "--out", out)
    got = load_file(out)
    continued = json.loads(tiny.run_host("generate", recipe, "--messages", messages, "--json", "--max-new-tokens", 12, "--set", "generate.stop=[]").stdout)
    for row, conversation in enumerate(vlm.conversations()):
        inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        assert got["mask"][row].sum() == length
        assert got["ids"][row, :length].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            expected = model(**inputs).logits
        # A step of 255 in a decoded pixel counts too, see vlm.STEP; it is far below what a wrong picture does.
        tolerance = TOLERANCE if row != 2 else 50 * TOLERANCE
        assert tiny.relative_error(got["logits"][row : row + 1, :length], expected) <= tolerance
        prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        theirs, scores = tiny.greedy(model, prompt, 12)
        tiny.check_greedy(continued[row]["ids"], theirs, scores, tolerance)


# Rows of whole blocks: bitsandbytes' AVX-512 path takes wrong absmax values where rows straddle them.
TEXT = {"hidden_size": 64, "block_ff_dim": 128, "block_auto_adjust_ff_dim": False, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3,
        "full_attn_idxs": [1], "conv_L_cache": 3, "conv_bias": False, "vocab_size": len(VOCABULARY), "max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
# transformers converts pixels to the dtype of patch_embedding.weight, which bitsandbytes makes bytes: only a dense one sees a picture there.
SKIPPED = ["lm_head", "patch_embedding"]
BITS = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=SKIPPED)
STEPS, RATE = 4, 5e-3


def losses_of(folder):
    return [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in line]


@pytest.mark.parametrize("scope, layout", [(None, "save_pretrained"), ("vision", "version 4"), ("projector", "modules"), ("all", "save_pretrained")])
def test_qlora_steps_with_pictures(scope, layout, tmp_path):
    vlm.shared_images()
    config = {
        "vision_config": {"model_type": "siglip2_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 16, "num_patches": 16, "vision_use_head": False},
        "text_config": {"model_type": "lfm2", **TEXT},
        "image_token_id": IMAGE, "projector_hidden_size": 64, "projector_use_layernorm": scope == "all", "tie_word_embeddings": scope == "projector",
    }
    model = make_vl(config, 3)
    save_vl(tmp_path / "model", model, layout)
    processor = save_processor(tmp_path / "model", model, tile_size=64, min_image_tokens=4, max_image_tokens=24, max_tiles=3)
    names = ("chelsea.png", "coffee.png", "coins.png")
    records = [{"messages": [{"role": "user", "content": [{"type": "image", "path": str(vlm.IMAGES / name)}, {"type": "text", "text": "what is this ?"}]},
                             {"role": "assistant", "content": answer}]} for name, answer in zip(names, ("a cat .", "a cup and that .", "two of them ."))]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    tables = dict(
        model={"path": tmp_path / "model", "dtype": "float32"},
        quantizer={"type": "nf4", "compute_dtype": "float32", "skip_modules": ["patch_embedding"]},
        data={"train": [tmp_path / "data.jsonl"], "max_length": 512, "shuffle": False},
        train={"learning_rate": RATE, "per_device_train_batch_size": 3, "max_steps": STEPS, "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
        output={"dir": tmp_path / "out"},
    )
    # The start is ours: B is zero, so A alone decides, and PEFT reads it.
    own = {"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | ({"scope": scope} if scope else {})
    start = tiny.write_recipe(tmp_path / "start.toml", **tables, adapter=own)
    tiny.run_host("run", start, "--set", "train.learning_rate=1e-30", "--set", "train.max_steps=1", "--set", f'output.dir="{tmp_path / "start"}"')

    def opened(folder, trainable):
        base = transformers.Lfm2VlForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32, quantization_config=BITS, device_map="cpu")
        # bitsandbytes' unfused path, as in test_nf4; the models have no dropout.
        return peft.PeftModel.from_pretrained(base, folder, is_trainable=trainable).train()

    reference = opened(tmp_path / "start", True)
    stored = load_file(tmp_path / "start" / "adapter_model.safetensors")
    trained = [name for name, parameter in reference.named_parameters() if parameter.requires_grad]
    assert len(trained) == len(stored), "PEFT adapts other modules than the file holds"
    if scope == "all":  # PEFT's own all-linear reaches the same modules
        base = transformers.Lfm2VlForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32, quantization_config=BITS, device_map="cpu")
        theirs = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear"))
        assert sorted(trained) == sorted(name for name, parameter in theirs.named_parameters() if parameter.requires_grad)
    expected = vlm.reference_losses(reference, processor, records, STEPS, RATE)
    tiny.run_host("run", tiny.write_recipe(tmp_path / "train.toml", **tables, adapter={"type": "lora", "path": tmp_path / "start"}))
    assert expected[-1] < 0.99 * expected[0], "the steps must matter"
    # Four AdamW steps divide by small second moments, which enlarges what the order of sums differs by.
    assert losses_of(tmp_path / "out") == pytest.approx(expected, rel=1e-3)
    adapted = opened(tmp_path / "out", False)
    inputs = processor.apply_chat_template(records[0]["messages"], tokenize=True, return_dict=True, return_tensors="pt")
    (tmp_path / "messages.json").write_text(json.dumps(records[0]["messages"]))
    use = tiny.write_recipe(tmp_path / "use.toml", model=tables["model"], quantizer=tables["quantizer"], adapter={"type": "lora", "path": tmp_path / "out"})
    tiny.run_host("logits", use, "--messages", tmp_path / "messages.json", "--out", tmp_path / "logits.safetensors")
    with torch.no_grad():
        theirs = adapted(**inputs).logits
    assert tiny.relative_error(load_file(tmp_path / "logits.safetensors")["logits"], theirs) <= TOLERANCE


def test_qlora_steps_of_packed_text(tmp_path):
    """Documents packed into one row train as they do one by one: no convolution crosses them."""
    model = make_lfm2({**TEXT, "tie_word_embeddings": False, "conv_L_cache": 4}, 4)
    save_lfm2(tmp_path / "model", model)
    texts = [[5, 6, 7, 8, 9, 10], [11, 12, 4], [13, 14, 15, 16, 17, 18, 19, 5, 6], [7, 9]]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps({"input_ids": ids, "labels": ids}) for ids in texts))
    tables = dict(
        model={"path": tmp_path / "model", "dtype": "float32"},
        quantizer={"type": "nf4", "compute_dtype": "float32"},
        data={"train": [tmp_path / "data.jsonl"], "format": "tokenized", "max_length": 32, "shuffle": False, "packing": True},
        train={"learning_rate": RATE, "per_device_train_batch_size": 1, "max_steps": STEPS, "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
        output={"dir": tmp_path / "out"},
    )
    start = tiny.write_recipe(tmp_path / "start.toml", **tables, adapter={"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"})
    tiny.run_host("run", start, "--set", "train.learning_rate=1e-30", "--set", "train.max_steps=1", "--set", f'output.dir="{tmp_path / "start"}"')
    base = transformers.Lfm2ForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32, device_map="cpu",
                                                        quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32))
    reference = peft.PeftModel.from_pretrained(base, tmp_path / "start", is_trainable=True).train()
    optimizer = torch.optim.AdamW([p for p in reference.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    count, expected = sum(len(ids) - 1 for ids in texts), []
    for _ in range(STEPS):
        total = 0.0
        for ids in map(torch.tensor, texts):
            loss = torch.nn.functional.cross_entropy(reference(ids[None]).logits[0, :-1], ids[1:], reduction="sum") / count
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(total)
    tiny.run_host("run", tiny.write_recipe(tmp_path / "train.toml", **tables, adapter={"type": "lora", "path": tmp_path / "start"}))
    assert expected[-1] < 0.99 * expected[0], "the steps must matter"
    assert losses_of(tmp_path / "out") == pytest.approx(expected, rel=1e-3)


def test_the_published_chat_template(tmp_path):
    """The text model's own, token by token."""
    folder = tiny.SHARED / "data" / "chat_templates"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    save_lfm2(tmp_path / "model", make_lfm2(lfm2_config(0), 0))
    save_processor(tmp_path / "model", make_vl(vl_config(0), 0)).tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink(missing_ok=True)
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model"}, text={"chat_template": folder / "lfm2.jinja"})
    conversation = [{"role": "system", "content": "yes"}, {"role": "user", "content": "what is this ?"}, {"role": "assistant", "content": "a cat ."}]
    (tmp_path / "messages.json").write_text(json.dumps(conversation))
    got = json.loads(tiny.run_host("tokenize", recipe, "--messages", tmp_path / "messages.json", "--add-generation-prompt", "--json").stdout)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = (folder / "lfm2.jinja").read_text()
    assert got["ids"] == tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
