"""LLaVA-NeXT, against transformers on the same files: tiles, their packing, generation."""

import json
import random

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import test_vlm as vlm
import tiny

TOLERANCE = vlm.TOLERANCE
CONFIGS = 12


def next_config(seed):
    """A llava's config whose views are patches alone, and sizes of one to six tiles."""
    draw = random.Random(f"next {seed}")
    config = vlm.llava_config(seed)
    vision = config["vision_config"]
    config["vision_feature_select_strategy"] = "default" if vision["model_type"].startswith("clip") else "full"
    if config["vision_feature_layer"] == 0:
        config["vision_feature_layer"] = -1  # transformers takes 0 for none
    edge = vision["image_size"]
    shapes = draw.sample([(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3)], draw.randint(1, 5))
    return config | {"image_grid_pinpoints": [[rows * edge, columns * edge] for rows, columns in shapes]}


def make_next(config, seed):
    torch.manual_seed(seed)
    model = transformers.LlavaNextForConditionalGeneration(transformers.LlavaNextConfig(**json.loads(json.dumps(config)))).float().eval()
    vlm.randomize(model)
    return model


def save_next(folder, model, layout="save_pretrained"):
    vlm.save_llava(folder, model, layout)
    (folder / "generation_config.json").unlink(missing_ok=True)


def save_processor(folder, model, **settings):
    """As for a llava; the image processor cuts tiles."""
    vision = model.config.vision_config
    edge = vision.image_size
    base = vlm.save_processor(folder, model)
    sizes = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}, "image_grid_pinpoints": model.config.image_grid_pinpoints}
    if vision.model_type.startswith("siglip"):
        sizes |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    processor = transformers.LlavaNextProcessor(image_processor=transformers.LlavaNextImageProcessor(**{**sizes, **settings}), tokenizer=base.tokenizer, patch_size=vision.patch_size, chat_template=vlm.TEMPLATE,
                                                vision_feature_select_strategy=model.config.vision_feature_select_strategy,
                                                num_additional_image_tokens=int(vision.model_type.startswith("clip")))
    processor.save_pretrained(folder)
    return processor


def sizes_for(count, seed):
    draw = random.Random(f"sizes {seed}")
    return [[draw.choice([1, 7, 30, 333, 1000]), draw.choice([2, 9, 40, 300, 900])] for _ in range(count)]


def views_of(model, size):
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return image_size_to_num_patches(size, model.config.image_grid_pinpoints, model.config.vision_config.image_size)


def tokens_of(model, sizes):
    """From the model itself: how many features each picture packs into."""
    edge = model.config.vision_config.image_size
    pixels = torch.zeros(len(sizes), max(views_of(model, size) for size in sizes), 3, edge, edge)
    with torch.no_grad():
        features = model.model.get_image_features(pixels, torch.tensor(sizes)).pooler_output
    return [len(own) for own in features]


def host_logits(recipe, ids, media):
    tokens, out, file = (recipe.parent / name for name in ("ids.json", "logits.safetensors", "media.safetensors"))
    tokens.write_text(json.dumps(ids.tolist()))
    if media:
        save_file(media, file)
    tiny.run_host("logits", recipe, "--tokens", tokens, "--out", out, *(["--media", file] if media else []))
    return load_file(out)["logits"]


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_logits(seed, tmp_path, record_property):
    config = next_config(seed)
    model = make_next(config, seed)
    save_next(tmp_path / "model", model, ("save_pretrained", "modules")[seed // 2 % 2])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    draw = random.Random(seed)
    image, edge = config["image_token_index"], config["vision_config"]["image_size"]
    words = lambda count: [draw.randrange(4, 4 + len(vlm.WORDS)) for _ in range(count)]
    for counts in ((1,), (0, 2, 1), (0,)):
        sizes = sizes_for(sum(counts), seed)
        lengths = tokens_of(model, sizes) if sizes else []
        rows, media = [], {}
        for count in counts:
            rows.append(words(2))
            for _ in range(count):
                rows[-1] += [image] * lengths.pop(0) + words(2)
        width = max(len(row) for row in rows) + 3
        ids = torch.tensor([row + words(width - len(row)) for row in rows])
        if sizes:
            most = max(views_of(model, size) for size in sizes)
            media = {"pixel_values": torch.randn(len(sizes), most, 3, edge, edge, generator=torch.Generator().manual_seed(seed)), "image_sizes": torch.tensor(sizes)}
        with torch.no_grad():
            expected = model(input_ids=ids, **media).logits
        error = tiny.relative_error(host_logits(recipe, ids, media), expected)
        record_property("relative_error", error)
        assert error <= TOLERANCE, f"{error:.2e} with {counts} pictures of {sizes} and {config}"


def test_keys_left_out_take_class_defaults(tmp_path):
    for name, config in {
        "llama": {"model_type": "llava_next", "image_token_index": 31999},
        "mistral": {"model_type": "llava_next", "text_config": {"model_type": "mistral"}, "tie_word_embeddings": True, "image_token_index": 31999},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with torch.device("meta"):
            model = transformers.LlavaNextForConditionalGeneration(transformers.LlavaNextConfig.from_dict(json.loads(json.dumps(config))))
        model.tie_weights()
        plan = json.loads(tiny.run_host("plan", tiny.write_recipe(folder / "r.toml", model={"path": folder, "dtype": "bfloat16"}), "--json", "--assume-devices", "cpu=200GiB").stdout)
        assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()), name


@pytest.mark.parametrize("kind", ["as in config.json", "larger views", "bilinear"])
def test_pixels_equal_the_reference(kind, tmp_path):
    config = next_config(0)
    config["vision_config"] |= {"image_size": 56, "patch_size": 14}
    config["image_grid_pinpoints"] = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    model = make_next(config, 0)
    save_next(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model, **{"larger views": {"size": {"shortest_edge": 70}}, "bilinear": {"resample": 2}}.get(kind, {}))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    files = [*vlm.shared_images(), *vlm.odd_images(tmp_path)]
    got = vlm.media_of_host(recipe, files)
    for file, ours, size in zip(files, got["pixel_values"], got["image_sizes"], strict=True):
        theirs = processor.image_processor(str(file), return_tensors="pt")
        assert size.tolist() == theirs["image_sizes"][0].tolist(), file.name
        views = theirs["pixel_values"].shape[1]
        assert ours[views:].abs().max() == 0 if views < len(ours) else True
        limit = 1e-5 if file.suffix == ".png" else vlm.STEP
        difference = (ours[:views] - theirs["pixel_values"][0]).abs().max()
        assert difference <= limit, f"{file.name}: {difference:.2e}"


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_messages_with_pictures(seed, tmp_path):
    """Conversations with one picture, none and two in one batch; then continued greedily over a cache."""
    vlm.shared_images()
    model = make_next(next_config(seed), seed)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    save_next(tmp_path / "model", model)
    processor = save_processor(tmp_path / "model", model)
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
        theirs, scores = tiny.greedy(model, prompt, 12)
        tiny.check_greedy(continued[row]["ids"], theirs, scores, tolerance)
