"""Models that see, against transformers on the same files: logits, generation, processors, training."""

import json
import math
import random

import numpy
import peft
import PIL.Image
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny

# Design, section 8. Float32 on both sides; what differs is the order of sums.
TOLERANCE = 1e-4
CONFIGS = 12
IMAGES = tiny.SHARED / "data" / "multimodal" / "images"
TEXTS = {"llama": {}, "mistral": {"sliding_window": 7}, "qwen2": {}}
WORDS = "what is this a cat cup rocket and that picture shows two of them ? . USER: ASSISTANT: yes no".split()
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% if message['content'] is string %}{{ message['content'] + ' ' }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image> ' }}{% else %}{{ part['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endif %}{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


def llava_config(seed):
    """Towers of both kinds, several feature layers, both strategies, odd sizes, and any of several text models."""
    draw = random.Random(f"llava {seed}")
    kind = ("clip", "siglip")[seed % 2]
    heads, layers = draw.choice([1, 2, 4]), draw.randint(1, 4)
    vision = {
        "model_type": f"{kind}_vision_model",
        "hidden_size": heads * 2 * draw.randint(2, 8),
        "intermediate_size": draw.randrange(9, 70),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": draw.choice([4, 7]),
        "hidden_act": draw.choice(["quick_gelu", "gelu", "gelu_pytorch_tanh"]),
        "layer_norm_eps": draw.choice([1e-5, 1e-3]),
    }
    vision["image_size"] = vision["patch_size"] * draw.randint(2, 4) + draw.choice([0, 0, 1])
    if kind == "siglip":
        vision["vision_use_head"] = draw.random() < 0.5
    text_type = list(TEXTS)[seed % len(TEXTS)]
    text = {**tiny.random_config(text_type, seed), **TEXTS[text_type], "model_type": text_type, "vocab_size": len(WORDS) + 12, "max_position_embeddings": 512}
    tied = text.pop("tie_word_embeddings")
    config = {
        "vision_config": vision,
        "text_config": {**text, "tie_word_embeddings": tied},
        "image_token_index": len(WORDS) + 4,
        "projector_hidden_act": draw.choice(["gelu", "silu"]),
        "vision_feature_select_strategy": draw.choice(["default", "full"]),
        "vision_feature_layer": draw.choice([-1, -2, 1, layers, list({-1, -layers, 0}), [-2, -1]]),
        "multimodal_projector_bias": draw.random() < 0.7,
        "tie_word_embeddings": tied,
    }
    return config


def make_llava(config, seed):
    torch.manual_seed(seed)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**config)).float().eval()
    randomize(model)
    return model


def randomize(model):
    """Norms away from one and biases away from zero, so that leaving one out shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, 0.3)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            elif parameter.dim() < 2 or "embed" in name:
                parameter.normal_(0.0, 1.0)
            else:
                parameter.normal_(0.0, 1.2 * parameter[0].numel() ** -0.5)


def image_tokens(model):
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    tokens = side * side + (vision.model_type == "clip_vision_model")
    return tokens - (model.config.vision_feature_select_strategy == "default")


def save_llava(folder, model, layout="save_pretrained"):
    """Layouts: what transformers 5 writes, what it calls the modules itself, and what version 4 wrote for CLIP."""
    model.save_pretrained(folder)
    if layout != "save_pretrained":
        tensors = load_file(folder / "model.safetensors")
        if layout == "modules":
            tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items() if name in dict(model.named_parameters())}
        else:
            tensors = {name.replace("vision_tower.", "vision_tower.vision_model."): tensor for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_processor(folder, model, processor_class=None, **settings):
    """Tokenizer, chat template and image processor beside the weights; returns transformers' own, read from the same files."""
    vision = model.config.vision_config
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "<pad>", *WORDS, "<image>"])}
    assert vocabulary["<image>"] == model.config.image_token_index
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(["<s>", "</s>", "<pad>", "<image>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens={"image_token": "<image>"})
    clip = vision.model_type == "clip_vision_model"
    if processor_class is None:
        processor_class = transformers.LlavaImageProcessor if clip else transformers.SiglipImageProcessor
    edge = vision.image_size
    sizes = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}} if clip else {"size": {"height": edge, "width": edge}}
    images = processor_class(**{**sizes, **settings})
    processor = transformers.LlavaProcessor(image_processor=images, tokenizer=tokenizer, patch_size=vision.patch_size, chat_template=TEMPLATE,
                                            vision_feature_select_strategy=model.config.vision_feature_select_strategy, num_additional_image_tokens=int(clip))
    processor.save_pretrained(folder)
    return processor


def host_logits(recipe, ids, pixels=None):
    tokens, out, media = (recipe.parent / name for name in ("ids.json", "logits.safetensors", "media.safetensors"))
    tokens.write_text(json.dumps(ids.tolist()))
    if pixels is not None:
        save_file({"pixel_values": pixels}, media)
    tiny.run_host("logits", recipe, "--tokens", tokens, "--out", out, *(["--media", media] if pixels is not None else []))
    return load_file(out)["logits"]


def ids_with_pictures(model, counts, seed):
    """One row each, with so many pictures; equally long."""
    draw = random.Random(seed)
    image, tokens = model.config.image_token_index, image_tokens(model)
    width = max(counts) * tokens + 9
    rows = []
    for count in counts:
        words = [draw.randrange(4, 4 + len(WORDS)) for _ in range(width - count * tokens)]
        places = sorted(draw.sample(range(len(words) + 1), count), reverse=True)
        for place in places:
            words[place:place] = [image] * tokens
        rows.append(words)
    return torch.tensor(rows)


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_llava_logits(seed, tmp_path, record_property):
    config = llava_config(seed)
    model = make_llava(config, seed)
    layouts = ("save_pretrained", "modules", "version 4") if config["vision_config"]["model_type"] == "clip_vision_model" else ("save_pretrained", "modules")
    save_llava(tmp_path / "model", model, layouts[seed // 2 % len(layouts)])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    edge = config["vision_config"]["image_size"]
    for counts in ((1,), (0, 2, 1), (0,)):
        ids = ids_with_pictures(model, counts, seed)
        pixels = torch.randn(sum(counts), 3, edge, edge, generator=torch.Generator().manual_seed(seed)) if sum(counts) else None
        with torch.no_grad():
            expected = model(input_ids=ids, pixel_values=pixels).logits
        error = tiny.relative_error(host_logits(recipe, ids, pixels), expected)
        record_property("relative_error", error)
        assert error <= TOLERANCE, f"{error:.2e} with {counts} pictures and {config}"


def test_llava_keys_left_out_take_class_defaults(tmp_path):
    """What config.json leaves out is as in transformers' classes: the count of parameters shows it."""
    for name, config in {
        "nothing but the type": {"model_type": "llava"},
        "part of the tower": {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model", "hidden_size": 192}},
        "a siglip": {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}, "text_config": {"model_type": "qwen2"}},
    }.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with torch.device("meta"):
            model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig.from_dict(config))
        plan = json.loads(tiny.run_host("plan", tiny.write_recipe(folder / "r.toml", model={"path": folder, "dtype": "bfloat16"}), "--json", "--assume-devices", "cpu=200GiB").stdout)
        assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()), name


def test_llava_plan_of_the_real_config(tmp_path):
    source = tiny.SHARED / "data" / "configs" / "llava_1.5_7b_hf.json"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    (tmp_path / "config.json").write_text(source.read_text())
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path, "dtype": "bfloat16"}, quantizer={"type": "nf4", "double_quant": True})
    plan = json.loads(tiny.run_host("plan", recipe, "--json", "--assume-devices", "cuda:0=24GiB,cpu=64GiB").stdout)
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig.from_dict(json.loads(source.read_text())))
    assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()) == 7_063_427_072
    assert plan["fits"]


def shared_images():
    if not IMAGES.exists():
        pytest.skip(f"{IMAGES} is not there")
    return sorted(IMAGES.iterdir())


def odd_images(folder):
    """Shapes and modes that a processor must not trip over."""
    draw = numpy.random.default_rng(5)
    files = []

    def save(name, image, **options):
        image.save(folder / name, **options)
        files.append(folder / name)

    for width, height in ((1, 1), (3, 200), (333, 5), (31, 47), (224, 224)):
        save(f"{width}x{height}.png", PIL.Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=numpy.uint8)))
    smooth = PIL.Image.fromarray(draw.integers(0, 256, (9, 13, 3), dtype=numpy.uint8)).resize((130, 90), PIL.Image.BICUBIC)
    save("grey.png", smooth.convert("L"))
    save("grey.jpg", smooth.convert("L"))
    save("bits.png", smooth.convert("1"))
    save("palette.png", smooth.convert("P", palette=PIL.Image.ADAPTIVE))
    alpha = smooth.convert("RGBA")
    alpha.putalpha(PIL.Image.fromarray(draw.integers(0, 256, (90, 130), dtype=numpy.uint8)))
    save("alpha.png", alpha)
    save("progressive.jpg", smooth, progressive=True, quality=60)
    save("lossy.webp", smooth, quality=70)
    save("lossless.webp", smooth, lossless=True)
    for orientation in range(1, 9):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        save(f"turned_{orientation}.jpg", smooth, exif=exif, quality=95)
    return files


def media_of_host(recipe, files):
    messages, out = recipe.parent / "messages.json", recipe.parent / "pixels.safetensors"
    content = [{"type": "image", "path": str(file)} for file in files] + [{"type": "text", "text": "what is this ?"}]
    messages.write_text(json.dumps([{"role": "user", "content": content}]))
    tiny.run_host("tokenize", recipe, "--messages", messages, "--json", "--media-out", out)
    return load_file(out)


# The same kernels on the same bytes. Decoders of JPEG and WebP are other builds of the same libraries; one step of 255 is what they may differ by.
STEP = 1.05 / 255 / 0.26


@pytest.mark.parametrize("kind", ["clip", "siglip", "padded", "bilinear"])
def test_pixels_equal_the_reference(kind, tmp_path):
    config = llava_config(1 if kind == "siglip" else 0)
    config["vision_config"] |= {"image_size": 56, "patch_size": 14}
    model = make_llava(config, 0)
    save_llava(tmp_path / "model", model)
    settings = {"padded": {"do_pad": True}, "bilinear": {"resample": 2}}.get(kind, {})
    processor = save_processor(tmp_path / "model", model, **settings)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    files = [*shared_images(), *odd_images(tmp_path)]
    got = media_of_host(recipe, files)["pixel_values"]
    for file, ours in zip(files, got, strict=True):
        theirs = processor.image_processor(str(file), return_tensors="pt")["pixel_values"][0]
        assert ours.shape == theirs.shape
        limit = 1e-5 if file.suffix == ".png" else STEP
        assert (ours - theirs).abs().max() <= limit, f"{file.name}: {(ours - theirs).abs().max():.2e}"


def conversations():
    image = lambda name: {"type": "image", "path": str(IMAGES / name)}
    text = lambda words: {"type": "text", "text": words}
    return [
        [{"role": "user", "content": [image("chelsea.png"), text("what is this ?")]}],
        [{"role": "user", "content": "what is that ?"}, {"role": "assistant", "content": "a cup ."}, {"role": "user", "content": "yes"}],
        [{"role": "user", "content": [text("two of them"), image("coffee.png"), image("rocket.jpg"), text("and that ?")]}],
    ]


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_messages_with_pictures(seed, tmp_path):
    """Conversations with one picture, none and two, together in one batch; then continued greedily over a cache."""
    shared_images()
    config = llava_config(seed)
    model = make_llava(config, seed)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    save_llava(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model)
    (tmp_path / "model" / "generation_config.json").unlink(missing_ok=True)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    messages, out = tmp_path / "messages.json", tmp_path / "logits.safetensors"
    messages.write_text(json.dumps(conversations()))
    tiny.run_host("logits", recipe, "--messages", messages, "--out", out)
    got = load_file(out)
    new_tokens = 12
    continued = json.loads(tiny.run_host("generate", recipe, "--messages", messages, "--json", "--max-new-tokens", new_tokens, "--set", "generate.stop=[]").stdout)
    for row, conversation in enumerate(conversations()):
        inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        assert got["mask"][row].sum() == length
        assert got["ids"][row, :length].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            expected = model(**inputs).logits
        # A step of 255 in a decoded pixel counts too, see STEP; it is far below what a wrong picture does.
        tolerance = TOLERANCE if row != 2 else 50 * TOLERANCE
        assert tiny.relative_error(got["logits"][row : row + 1, :length], expected) <= tolerance
        prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        with torch.no_grad():
            ids = prompt["input_ids"]
            for token in continued[row]["ids"]:
                logits = model(input_ids=ids, pixel_values=prompt.get("pixel_values")).logits[0, -1]
                best = logits.topk(2).values
                assert int(logits.argmax()) == token or best[0] - best[1] <= tolerance * logits.abs().max()
                ids = torch.cat([ids, torch.tensor([[token]])], 1)
                if token in (2, model.config.image_token_index):  # the end, or a place without a picture
                    break


def test_data_counts_media_and_masks_them(tmp_path):
    shared_images()
    model = make_llava(llava_config(0), 0)
    save_llava(tmp_path / "model", model)
    save_processor(tmp_path / "model", model)
    # LLaMA-Factory's form, LLaVA's, and parts.
    records = [
        {"messages": [{"role": "user", "content": "<image>what is this ?"}, {"role": "assistant", "content": "a cat ."}], "images": [str(IMAGES / "chelsea.png")]},
        {"image": str(IMAGES / "coffee.png"), "conversations": [{"from": "human", "value": "<image>\nwhat is this ?"}, {"from": "gpt", "value": "a cup ."}]},
        {"messages": [*conversations()[2], {"role": "assistant", "content": "yes"}]},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, data={"train": [tmp_path / "data.jsonl"], "max_length": 512})
    got = json.loads(tiny.run_host("data", recipe, "--json").stdout)
    assert got["train"]["media"] == 4
    image = model.config.image_token_index
    for sample, pictures in zip(got["samples"], (1, 1, 2), strict=True):
        places = [i for i, token in enumerate(sample["ids"]) if token == image]
        assert len(places) == pictures * image_tokens(model) and len(sample["media"]) == pictures
        assert all(sample["labels"][i] == -100 for i in places)
        assert sum(label != -100 for label in sample["labels"]) > 0
    # One picture more than the text has places for.
    records[0]["images"].append(records[0]["images"][0])
    (tmp_path / "data.jsonl").write_text(json.dumps(records[0]))
    done = tiny.subprocess.run([str(tiny.HOST), "data", str(recipe)], capture_output=True, text=True)
    assert done.returncode == 5 and "data.jsonl:1: the record lists 2 image files" in done.stderr


def reference_losses(model, processor, records, steps, rate):
    """Plain SGD-free loop: AdamW over all records at once, loss over the assistant's tokens."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        total, count = 0.0, 0
        batches = []
        for record in records:
            inputs = processor.apply_chat_template(record["messages"], tokenize=True, return_dict=True, return_tensors="pt")
            ids = inputs["input_ids"][0].tolist()
            answer = len(ids) - len(processor.tokenizer(record["messages"][-1]["content"] + " </s>", add_special_tokens=False)["input_ids"])
            batches.append((inputs, answer))
            count += len(ids) - answer
        for inputs, answer in batches:
            logits = model(**inputs).logits[0].float()
            loss = torch.nn.functional.cross_entropy(logits[answer - 1 : -1], inputs["input_ids"][0, answer:], reduction="sum") / count
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


TRAINED = {"language": {}, "vision": {"scope": "vision"}, "projector": {"scope": "projector"}, "all": {"scope": "all"}}


@pytest.mark.parametrize("layout", ["save_pretrained", "version 4"])
@pytest.mark.parametrize("scope", TRAINED)
def test_qlora_steps(scope, layout, tmp_path):
    """NF4 on everything that bitsandbytes quantizes, LoRA on one part: the same losses, and an adapter that PEFT opens with the same logits."""
    shared_images()
    config = llava_config(0)
    # Rows of whole blocks: bitsandbytes' AVX-512 path takes wrong absmax values where rows straddle them.
    config["vision_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": 28, "patch_size": 14}
    config["text_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2,
                              "tie_word_embeddings": False}
    config |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "tie_word_embeddings": False, "multimodal_projector_bias": True}
    model = make_llava(config, 3)
    save_llava(tmp_path / "model", model, layout)
    processor = save_processor(tmp_path / "model", model)
    names = ("chelsea.png", "coffee.png", "coins.png")
    records = [{"messages": [{"role": "user", "content": [{"type": "image", "path": str(IMAGES / name)}, {"type": "text", "text": "what is this ?"}]},
                             {"role": "assistant", "content": answer}]} for name, answer in zip(names, ("a cat .", "a cup and that .", "two of them ."))]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    steps, rate = 4, 5e-3
    settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    tables = dict(
        model={"path": tmp_path / "model", "dtype": "float32"},
        quantizer={"type": "nf4", "compute_dtype": "float32"},
        data={"train": [tmp_path / "data.jsonl"], "max_length": 256, "shuffle": False},
        train={"learning_rate": rate, "per_device_train_batch_size": 3, "max_steps": steps, "lr_scheduler_type": "constant", "max_grad_norm": 0.0},
        output={"dir": tmp_path / "out"},
    )
    # The start is ours: B is zero, so A alone decides, and PEFT reads it.
    start = tiny.write_recipe(tmp_path / "start.toml", **tables, adapter={"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", **TRAINED[scope]})
    tiny.run_host("run", start, "--set", "train.learning_rate=1e-30", "--set", "train.max_steps=1", "--set", f'output.dir="{tmp_path / "start"}"')

    def opened(folder, trainable):
        base = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32, quantization_config=settings, device_map="cpu")
        return peft.PeftModel.from_pretrained(base, folder, is_trainable=trainable)

    reference = opened(tmp_path / "start", True)
    stored = load_file(tmp_path / "start" / "adapter_model.safetensors")
    assert len([n for n, p in reference.named_parameters() if p.requires_grad]) == len(stored), "PEFT adapts other modules than the file holds"
    assert any(name.startswith("base_model.model.model.vision_tower.") for name in stored) == (scope in ("vision", "all"))
    reference.train()  # bitsandbytes' unfused path, as in test_nf4; the model has no dropout
    expected = reference_losses(reference, processor, records, steps, rate)
    recipe = tiny.write_recipe(tmp_path / "train.toml", **tables, adapter={"type": "lora", "path": tmp_path / "start"})
    tiny.run_host("run", recipe)
    got = [line["loss"] for line in map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert expected[-1] < 0.99 * expected[0], "the steps must matter"
    # Four AdamW steps divide by small second moments, which enlarges what the order of sums differs by.
    assert got == pytest.approx(expected, rel=1e-3)
    # What we trained, opened by PEFT.
    trained = opened(tmp_path / "out", False).train()
    inputs = processor.apply_chat_template(records[0]["messages"], tokenize=True, return_dict=True, return_tensors="pt")
    (tmp_path / "messages.json").write_text(json.dumps(records[0]["messages"]))
    use = tiny.write_recipe(tmp_path / "use.toml", model=tables["model"], quantizer=tables["quantizer"], adapter={"type": "lora", "path": tmp_path / "out"})
    tiny.run_host("logits", use, "--messages", tmp_path / "messages.json", "--out", tmp_path / "logits.safetensors")
    with torch.no_grad():
        theirs = trained(**inputs).logits
    assert tiny.relative_error(load_file(tmp_path / "logits.safetensors")["logits"], theirs) <= TOLERANCE


def test_towers_stay_dense_where_the_recipe_says_so(tmp_path):
    model = make_llava(llava_config(0), 0)
    save_llava(tmp_path / "model", model)
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"}, quantizer={"type": "nf4", "skip_modules": ["vision_tower", "multi_modal_projector"]})
    plan = json.loads(tiny.run_host("plan", recipe, "--json").stdout)
    for module in plan["modules"]:
        tower = "vision_tower" in module["path"] or "projector" in module["path"]
        if module["path"].endswith("_proj") or ".linear_" in module["path"] or ".fc" in module["path"]:
            assert (module["filler"] == "nf4") != tower, module
    assert math.isfinite(plan["totals"]["weights"])


@pytest.mark.parametrize("damage", ["truncated", "bomb", "text", "absent", "directory", "url"])
def test_hostile_pictures_are_refused(damage, tmp_path):
    model = make_llava(llava_config(0), 0)
    save_llava(tmp_path / "model", model)
    save_processor(tmp_path / "model", model)
    file = tmp_path / "picture.png"
    noise = PIL.Image.fromarray(numpy.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=numpy.uint8))
    expected = {"truncated": "damaged PNG", "bomb": "decode_limit", "text": "no JPEG, PNG or WebP", "absent": "no such file", "directory": "no regular file", "url": "is a URL"}[damage]
    noise.save(file)
    path = str(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:9000])
    elif damage == "bomb":
        PIL.Image.new("L", (30000, 30000)).save(file)
    elif damage == "text":
        file.write_text("GIF89a or so")
    elif damage == "absent":
        file.unlink()
    elif damage == "directory":
        path = str(tmp_path)
    else:
        path = "https://example.org/a.png"
    (tmp_path / "messages.json").write_text(json.dumps([{"role": "user", "content": [{"type": "image", "path": path}, {"type": "text", "text": "what ?"}]}]))
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    done = tiny.subprocess.run([str(tiny.HOST), "logits", str(recipe), "--messages", str(tmp_path / "messages.json"), "--out", str(tmp_path / "x")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 5 and expected in done.stderr, done.stderr
    assert not (tmp_path / "x").exists()
