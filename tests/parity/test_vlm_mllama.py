"""Mllama (Llama 3.2 Vision), against transformers on the same files: logits, generation, processors, training."""

import json
import random

import numpy
import peft
import PIL.Image
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.mllama.image_processing_mllama import get_all_supported_aspect_ratios
from transformers.models.mllama.processing_mllama import convert_sparse_cross_attention_mask_to_dense, get_cross_attention_token_mask

import test_vlm as vlm
import tiny

TOLERANCE = vlm.TOLERANCE
CONFIGS = 12
VOCABULARY = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "<pad>", *vlm.WORDS])}
ROWS = len(VOCABULARY)  # of the head; the image token is the first of the embedding's eight more
IMAGE = ROWS
TEMPLATE = "{{ '<s> ' }}" + vlm.TEMPLATE.replace("<image> ", "<|image|> ")
REAL = tiny.SHARED / "data" / "configs" / "llama3_2_11b_vision.json"


def mllama_config(seed):
    """Layers that look at pictures anywhere, several numbers of tiles, features of any layers, odd sizes."""
    draw = random.Random(f"mllama {seed}")
    text = {**tiny.random_config("llama", seed), "vocab_size": ROWS, "max_position_embeddings": 512, "tie_word_embeddings": False}
    for key in ("head_dim", "mlp_bias", "attention_bias"):
        text.pop(key, None)
    heads = text["num_attention_heads"]
    layers = draw.randint(2, 5)
    text |= {"hidden_size": heads * 2 * draw.randint(2, 10), "num_hidden_layers": layers, "cross_attention_layers": sorted(draw.sample(range(layers), draw.randint(1, min(3, layers))))}
    heads, patch = draw.choice([1, 2, 4]), draw.choice([4, 7])
    vision = {"hidden_size": heads * 2 * draw.randint(2, 8), "intermediate_size": draw.randrange(9, 70), "num_hidden_layers": draw.randint(1, 4), "num_global_layers": draw.randint(1, 3),
              "attention_heads": heads, "patch_size": patch, "image_size": patch * draw.randint(2, 4) + draw.choice([0, 0, 1]), "hidden_act": draw.choice(["gelu", "gelu_pytorch_tanh", "quick_gelu"]),
              "norm_eps": draw.choice([1e-5, 1e-3]), "max_num_tiles": draw.choice([4, 4, 2, 6])}
    if vision["max_num_tiles"] != 4:
        vision["supported_aspect_ratios"] = [list(pair) for pair in get_all_supported_aspect_ratios(vision["max_num_tiles"])]
    kept = draw.sample(range(-vision["num_hidden_layers"], vision["num_hidden_layers"]), draw.randint(1, 3) if vision["num_hidden_layers"] > 1 else 1)
    vision |= {"intermediate_layers_indices": kept, "vision_output_dim": vision["hidden_size"] * (1 + len(kept))}
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE}


def real_config():
    """The published one: its layers, indices and rotary settings; its widths cut down."""
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    config = json.loads(REAL.read_text())
    own = {key: value for key, value in config["text_config"].items() if key in transformers.MllamaTextConfig().to_dict()}
    text = own | {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": ROWS, "rope_scaling": config["text_config"]["rope_scaling"],
                  "rope_theta": config["text_config"]["rope_theta"], "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
    own = {key: value for key, value in config["vision_config"].items() if key in transformers.MllamaVisionConfig().to_dict()}
    vision = own | {"hidden_size": 16, "intermediate_size": 24, "attention_heads": 2, "image_size": 28, "vision_output_dim": 96}
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE}


def make_mllama(config, seed):
    torch.manual_seed(seed)
    model = transformers.MllamaForConditionalGeneration(transformers.MllamaConfig(**json.loads(json.dumps(config)))).float().eval()
    vlm.randomize(model)
    return model


def save_mllama(folder, model, layout="save_pretrained"):
    """Layouts: what transformers of all versions writes, and what version 5 calls the modules itself."""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if layout == "modules":
        save_file({name: tensor.detach().clone() for name, tensor in model.named_parameters()}, folder / "model.safetensors", metadata={"format": "pt"})


def save_processor(folder, model, **settings):
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY | {"<|image|>": IMAGE}, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(["<s>", "</s>", "<pad>", "<|image|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens={"image_token": "<|image|>"})
    vision = model.config.vision_config
    images = transformers.MllamaImageProcessor(**{"size": {"height": vision.image_size, "width": vision.image_size}, "max_image_tiles": vision.max_num_tiles, **settings})
    processor = transformers.MllamaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=TEMPLATE)
    processor.save_pretrained(folder)
    return processor


def rows_with_pictures(counts, seed):
    """Rows of equal length with so many image tokens, some at the beginning and some without a word between."""
    draw = random.Random(f"rows {seed}")
    width = max(counts) + 9
    rows = []
    for count in counts:
        row = [draw.randrange(4, ROWS) for _ in range(width - count)]
        for place in sorted((draw.choice([0, draw.randint(0, len(row)), draw.randint(3, 4)]) for _ in range(count)), reverse=True):
            row.insert(place, IMAGE)
        rows.append(row)
    return torch.tensor(rows)


def media_for(model, ids, seed):
    """A batch as transformers' processor fills it up, and the same without what fills it up."""
    vision = model.config.vision_config
    draw, generator = random.Random(f"media {seed}"), torch.Generator().manual_seed(seed)
    shapes = [tuple(shape) for shape in vision.supported_aspect_ratios]
    rows = [[draw.choice(shapes) for _ in range(int((row == IMAGE).sum()))] for row in ids]
    most, tiles = max(map(len, rows)), vision.max_num_tiles
    if most == 0:
        return {}, {}
    pixels = torch.zeros(len(rows), most, tiles, 3, vision.image_size, vision.image_size)
    ratio_ids, mask = torch.zeros(len(rows), most, dtype=torch.long), torch.zeros(len(rows), most, tiles, dtype=torch.long)
    mask[:, :, 0] = 1
    for r, row in enumerate(rows):
        for p, (height, width) in enumerate(row):
            pixels[r, p, : height * width] = torch.randn(height * width, 3, vision.image_size, vision.image_size, generator=generator)
            ratio_ids[r, p], mask[r, p, : height * width] = shapes.index((height, width)) + 1, 1
    full = {"pixel_values": pixels, "aspect_ratio_ids": ratio_ids, "aspect_ratio_mask": mask}
    return full, {name: tensor[ratio_ids > 0] for name, tensor in full.items()}


def cross_mask(model, ids, ratio_mask):
    tokens = [get_cross_attention_token_mask(row.tolist(), IMAGE) for row in ids]
    tiles = ratio_mask.sum(-1).tolist()
    dense = convert_sparse_cross_attention_mask_to_dense(tokens, tiles, model.config.vision_config.max_num_tiles, ids.shape[1])
    # Rows may have fewer image tokens than the batch has places.
    return torch.nn.functional.pad(torch.tensor(dense), (0, 0, 0, ratio_mask.shape[1] - dense.shape[2]))


def reference_logits(model, ids, full):
    masks = {"cross_attention_mask": cross_mask(model, ids, full["aspect_ratio_mask"])} if full else {}
    with torch.no_grad():
        return model(input_ids=ids, **full, **masks).logits


def host_logits(recipe, ids, media):
    tokens, out, file = (recipe.parent / name for name in ("ids.json", "logits.safetensors", "media.safetensors"))
    tokens.write_text(json.dumps(ids.tolist()))
    if media:
        save_file(media, file)
    tiny.run_host("logits", recipe, "--tokens", tokens, "--out", out, *(["--media", file] if media else []))
    return load_file(out)["logits"]


def alone(full, row, count):
    """A row of a batch without what fills it up."""
    return {name: tensor[row : row + 1, :count] for name, tensor in full.items()} if count else {}


def check_logits(model, recipe, seed, record_property):
    for counts in ((0, 2, 1), (0,)) if seed % 2 == 0 else ((3, 1), (2,)):
        ids = rows_with_pictures(counts, seed)
        full, packed = media_for(model, ids, seed)
        # As a batch of transformers, whose rows without a picture look at empty ones beside others.
        expected = reference_logits(model, ids, full)
        assert tiny.relative_error(host_logits(recipe, ids, full), expected) <= TOLERANCE, (counts, model.config)
        if not full:
            continue
        # As this project's processor makes it: every row is what transformers says of it alone.
        own = host_logits(recipe, ids, packed)
        for row, count in enumerate(counts):
            expected = reference_logits(model, ids[row : row + 1], alone(full, row, count))
            error = tiny.relative_error(own[row : row + 1], expected)
            record_property("relative_error", error)
            assert error <= TOLERANCE, f"{error:.2e} in row {row} of {counts} and {model.config}"


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_logits(seed, tmp_path, record_property):
    model = make_mllama(mllama_config(seed), seed)
    save_mllama(tmp_path / "model", model, ("save_pretrained", "modules")[seed // 2 % 2])
    check_logits(model, tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}), seed, record_property)


def test_logits_of_the_real_config_made_small(tmp_path, record_property):
    model = make_mllama(real_config(), 0)
    save_mllama(tmp_path / "model", model)
    check_logits(model, tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}), 0, record_property)


def test_keys_left_out_take_class_defaults(tmp_path):
    for name, config in {
        "nothing but the type": {"model_type": "mllama"},
        "parts": {"model_type": "mllama", "vision_config": {"image_size": 560, "num_global_layers": 2}, "text_config": {"num_hidden_layers": 9, "vocab_size": 1000, "pad_token_id": None}, "image_token_index": 1000},
    }.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with torch.device("meta"):
            model = transformers.MllamaForConditionalGeneration(transformers.MllamaConfig.from_dict(json.loads(json.dumps(config))))
        plan = json.loads(tiny.run_host("plan", tiny.write_recipe(folder / "r.toml", model={"path": folder, "dtype": "bfloat16"}), "--json", "--assume-devices", "cpu=200GiB").stdout)
        assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()), name


def test_plan_of_the_real_config(tmp_path):
    if not REAL.exists():
        pytest.skip(f"{REAL} is not there")
    (tmp_path / "config.json").write_text(REAL.read_text())
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path, "dtype": "bfloat16"}, quantizer={"type": "nf4", "double_quant": True})
    plan = json.loads(tiny.run_host("plan", recipe, "--json", "--assume-devices", "cuda:0=24GiB,cpu=64GiB").stdout)
    with torch.device("meta"):
        model = transformers.MllamaForConditionalGeneration(transformers.MllamaConfig.from_dict(json.loads(REAL.read_text())))
    assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()) == 10_670_220_835
    assert plan["fits"]


def more_images(folder):
    """Sizes on both sides of what one, two and more tiles hold."""
    draw = numpy.random.default_rng(8)
    files = []
    for _ in range(24):
        height, width = (int(draw.choice([5, 27, 55, 56, 57, 90, 112, 113, 168, 224, 300])) for _ in range(2))
        files.append(folder / f"tiles_{len(files)}_{width}x{height}.png")
        PIL.Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=numpy.uint8)).save(files[-1])
    return files


@pytest.mark.parametrize("kind", ["as published", "two tiles", "bicubic"])
def test_pixels_equal_the_reference(kind, tmp_path):
    config = mllama_config(0)
    config["vision_config"] |= {"image_size": 56, "patch_size": 14, "max_num_tiles": 4}
    config["vision_config"].pop("supported_aspect_ratios", None)
    published = json.loads((tiny.SHARED / "data" / "configs" / "processors" / "mllama_preprocessor_config.json").read_text())
    settings = {key: published[key] for key in ("image_mean", "image_std", "rescale_factor", "resample")}
    if kind == "two tiles":
        config["vision_config"] |= {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]}
    if kind == "bicubic":
        settings = {"resample": 3}
    model = make_mllama(config, 0)
    save_mllama(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model, **settings)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    files = [*vlm.shared_images(), *vlm.odd_images(tmp_path), *more_images(tmp_path)]
    got = vlm.media_of_host(recipe, files)
    seen = set()
    for i, file in enumerate(files):
        theirs = processor.image_processor(str(file), return_tensors="pt")
        for name in ("aspect_ratio_ids", "aspect_ratio_mask"):
            assert got[name][i].tolist() == theirs[name][0, 0].tolist(), file.name
        seen.add(int(theirs["aspect_ratio_ids"]))
        limit = 1e-5 if file.suffix == ".png" else vlm.STEP
        difference = (got["pixel_values"][i] - theirs["pixel_values"][0, 0]).abs().max()
        assert difference <= limit, f"{file.name}: {difference:.2e}"
    assert len(seen) == len(model.config.vision_config.supported_aspect_ratios), "every layout must have been there"


def conversations():
    rows = vlm.conversations()
    image = lambda name: {"type": "image", "path": str(vlm.IMAGES / name)}
    text = lambda words: {"type": "text", "text": words}
    # A picture in each of two turns: the first is not seen by the second.
    return [*rows, [{"role": "user", "content": [image("coins.png"), text("what is this ?")]}, {"role": "assistant", "content": "a cup ."}, {"role": "user", "content": [text("and this"), image("brick.png")]}]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_messages_with_pictures(seed, tmp_path):
    """Conversations with one picture, none, two together and two apart in one batch; then continued greedily over a cache."""
    vlm.shared_images()
    model = make_mllama(mllama_config(seed), seed)
    save_mllama(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    messages, out = tmp_path / "messages.json", tmp_path / "logits.safetensors"
    messages.write_text(json.dumps(conversations()))
    tiny.run_host("logits", recipe, "--messages", messages, "--out", out)
    got = load_file(out)
    continued = json.loads(tiny.run_host("generate", recipe, "--messages", messages, "--json", "--max-new-tokens", 12, "--set", "generate.stop=[]").stdout)
    for row, conversation in enumerate(conversations()):
        inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        assert got["mask"][row].sum() == length
        assert got["ids"][row, :length].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            expected = model(**inputs).logits
        # A step of 255 in a decoded pixel counts too, see STEP; it is far below what a wrong picture does.
        tolerance = TOLERANCE if row != 2 else 50 * TOLERANCE
        assert tiny.relative_error(got["logits"][row : row + 1, :length], expected) <= tolerance, row
        prompt = dict(processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"))
        prompt.pop("attention_mask")
        for token in continued[row]["ids"]:
            with torch.no_grad():
                logits = model(**prompt).logits[0, -1]
            best = logits.topk(2).values
            assert int(logits.argmax()) == token or best[0] - best[1] <= tolerance * logits.abs().max(), row
            prompt["input_ids"] = torch.cat([prompt["input_ids"], torch.tensor([[token]])], 1)
            if "cross_attention_mask" in prompt:
                prompt["cross_attention_mask"] = torch.cat([prompt["cross_attention_mask"], prompt["cross_attention_mask"][:, -1:]], 1)
            if token == 2:
                break


def test_data_masks_image_tokens(tmp_path):
    vlm.shared_images()
    model = make_mllama(mllama_config(0), 0)
    save_mllama(tmp_path / "model", model)
    save_processor(tmp_path / "model", model)
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": [*conversations()[2], {"role": "assistant", "content": "yes"}]}))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, data={"train": [tmp_path / "data.jsonl"], "max_length": 512})
    sample = json.loads(tiny.run_host("data", recipe, "--json").stdout)["samples"][0]
    places = [i for i, token in enumerate(sample["ids"]) if token == IMAGE]
    assert len(places) == 2 and len(sample["media"]) == 2, "a picture takes one token"
    assert all(sample["labels"][i] == -100 for i in places) and sum(label != -100 for label in sample["labels"]) > 0


STEPS, RATE = 4, 5e-3


@pytest.mark.parametrize("layout, scope", [("save_pretrained", None), ("modules", "all"), ("save_pretrained", "vision"), ("modules", "projector")])
def test_qlora_steps(layout, scope, tmp_path):
    """NF4 on everything that bitsandbytes quantizes, LoRA on one part or all: the same losses, and an adapter that PEFT opens with the same logits."""
    vlm.shared_images()
    config = mllama_config(0)
    # Rows of whole blocks: bitsandbytes' AVX-512 path takes wrong absmax values where rows straddle them.
    config["vision_config"] = {"hidden_size": 64, "intermediate_size": 128, "attention_heads": 4, "num_hidden_layers": 2, "num_global_layers": 1, "image_size": 28, "patch_size": 14,
                               "intermediate_layers_indices": [0], "vision_output_dim": 128}
    config["text_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3, "cross_attention_layers": [1]}
    model = make_mllama(config, 3)
    save_mllama(tmp_path / "model", model, layout)
    processor = save_processor(tmp_path / "model", model)
    names = ("chelsea.png", "coffee.png", "coins.png")
    records = [{"messages": [{"role": "user", "content": [{"type": "image", "path": str(vlm.IMAGES / name)}, {"type": "text", "text": "what is this ?"}]},
                             {"role": "assistant", "content": answer}]} for name, answer in zip(names, ("a cat .", "a cup and that .", "two of them ."))]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    tables = dict(
        model={"path": tmp_path / "model", "dtype": "float32"},
        quantizer={"type": "nf4", "compute_dtype": "float32"},
        data={"train": [tmp_path / "data.jsonl"], "max_length": 256, "shuffle": False},
        train={"learning_rate": RATE, "per_device_train_batch_size": 3, "max_steps": STEPS, "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
        output={"dir": tmp_path / "out"},
    )
    # The start is ours: B is zero, so A alone decides, and PEFT reads it.
    own = {"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | ({"scope": scope} if scope else {})
    start = tiny.write_recipe(tmp_path / "start.toml", **tables, adapter=own)
    tiny.run_host("run", start, "--set", "train.learning_rate=1e-30", "--set", "train.max_steps=1", "--set", f'output.dir="{tmp_path / "start"}"')

    def opened(folder, trainable):
        base = transformers.MllamaForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32, quantization_config=settings, device_map="cpu")
        # bitsandbytes' unfused path, as in test_nf4; the models have no dropout.
        return peft.PeftModel.from_pretrained(base, folder, is_trainable=trainable).train()

    reference = opened(tmp_path / "start", True)
    stored = load_file(tmp_path / "start" / "adapter_model.safetensors")
    assert len([n for n, p in reference.named_parameters() if p.requires_grad]) == len(stored), "PEFT adapts other modules than the file holds"
    parts = {part: any(part in name for name in stored) for part in ("cross_attn", "vision_model", "multi_modal_projector")}
    assert parts == {"cross_attn": scope in (None, "all"), "vision_model": scope in ("vision", "all"), "multi_modal_projector": scope in ("projector", "all")}
    expected = vlm.reference_losses(reference, processor, records, STEPS, RATE)
    recipe = tiny.write_recipe(tmp_path / "train.toml", **tables, adapter={"type": "lora", "path": tmp_path / "start"})
    tiny.run_host("run", recipe)
    got = [line["loss"] for line in map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert expected[-1] < 0.999 * expected[0], "the steps must matter"
    # Four AdamW steps divide by small second moments, which enlarges what the order of sums differs by.
    assert got == pytest.approx(expected, rel=1e-3)
    trained = opened(tmp_path / "out", False)
    inputs = processor.apply_chat_template(records[0]["messages"], tokenize=True, return_dict=True, return_tensors="pt")
    (tmp_path / "messages.json").write_text(json.dumps(records[0]["messages"]))
    use = tiny.write_recipe(tmp_path / "use.toml", model=tables["model"], quantizer=tables["quantizer"], adapter={"type": "lora", "path": tmp_path / "out"})
    tiny.run_host("logits", use, "--messages", tmp_path / "messages.json", "--out", tmp_path / "logits.safetensors")
    with torch.no_grad():
        theirs = trained(**inputs).logits
    assert tiny.relative_error(load_file(tmp_path / "logits.safetensors")["logits"], theirs) <= TOLERANCE
