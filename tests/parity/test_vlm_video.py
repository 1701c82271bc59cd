"""Videos as folders of frames for Qwen2-VL and Qwen2.5-VL, against transformers' own processors and models on the same frames."""

import json
import random

import numpy
import PIL.Image
import pytest
import torch
import transformers
from safetensors.torch import load_file

import test_vlm as vlm
import test_vlm_qwen as qwen
import tiny


def make_frames(folder, count, width, height, seed, fps=None, ending="png"):
    """Smooth noise that drifts. Names have numbers without leading zeros, so that their order as text is another one."""
    draw = numpy.random.default_rng(seed)
    start, drift = draw.uniform(0, 255, (5, 7, 3)), draw.uniform(-30, 30, (5, 7, 3))
    folder.mkdir(parents=True)
    for i in range(count):
        small = numpy.clip(start + i * drift, 0, 255).astype(numpy.uint8)
        PIL.Image.fromarray(small).resize((width, height), PIL.Image.BICUBIC).save(folder / f"frame_{i + 1}.{ending}")
    if fps:
        (folder / "video_metadata.json").write_text(json.dumps({"fps": fps}))
    return [str(folder / f"frame_{i + 1}.{ending}") for i in range(count)]


def metadata(videos):
    """What the reference is told of each list of frames."""
    return [{"total_num_frames": len(frames), "fps": fps, "frames_indices": list(range(len(frames)))} for frames, fps in videos]


def checkpoint(folder, family="qwen2_5_vl", seed=0, video=None, patch=None, temporal=None, images=None):
    config = qwen.qwen_config(family, seed)
    if patch:
        config["vision_config"] |= {"patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": temporal}
        if family == "qwen2_5_vl":
            config["vision_config"]["window_size"] = 4 * patch
    model = qwen.make_qwen(family, config, seed)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    qwen.save_qwen(folder, model)
    return model, qwen.save_processor(folder, model, video=video, **(images or {}))


def host_media(recipe, folders):
    messages, out = recipe.parent / "messages.json", recipe.parent / "media.safetensors"
    messages.write_text(json.dumps([{"role": "user", "content": [*({"type": "video", "path": str(folder)} for folder in folders), {"type": "text", "text": "what is this ?"}]}]))
    tiny.run_host("tokenize", recipe, "--messages", messages, "--json", "--media-out", out)
    return load_file(out)


PROCESSORS = {
    "class defaults": (14, 2, {}),
    "small": (14, 2, {"min_pixels": 4 * 28 * 28, "max_pixels": 30 * 28 * 28}),
    "sizes in the table": (4, 2, {"size": {"shortest_edge": 900, "longest_edge": 3000}, "resample": 2}),
    "three at a time": (4, 3, {"size": {"shortest_edge": 900, "longest_edge": 3000}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
    "one at a time": (4, 1, {"size": {"shortest_edge": 900, "longest_edge": 3000}}),
    "capped": (4, 2, {"size": {"shortest_edge": 100, "longest_edge": 9000}, "cap_pixels_per_frame": True, "max_video_tokens": 120}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_equal_the_reference(kind, tmp_path):
    """Odd counts and shapes of frames; a list of files is what messages bring to transformers."""
    patch, temporal, settings = PROCESSORS[kind]
    _, processor = checkpoint(tmp_path / "model", patch=patch, temporal=temporal, video=settings)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    shapes = [(5, 64, 48, None), (1, 31, 47, 3.0), (12, 90, 33, 0.5), (2, 224, 224, None)]
    videos = [(make_frames(tmp_path / f"clip{i}", count, width, height, i, fps), fps) for i, (count, width, height, fps) in enumerate(shapes)]
    got = host_media(recipe, [tmp_path / f"clip{i}" for i in range(len(videos))])
    theirs = processor(text=["<|video_pad|> " * len(videos)], videos=[[frames for frames, _ in videos]], videos_kwargs={"video_metadata": metadata(videos)}, return_tensors="pt")
    assert got["video_grid_thw"].tolist() == theirs["video_grid_thw"].tolist()
    assert got["pixel_values_videos"].shape == theirs["pixel_values_videos"].shape
    # The same kernels on the same bytes of PNG.
    assert (got["pixel_values_videos"] - theirs["pixel_values_videos"]).abs().max() <= 1e-5
    assert torch.equal(got["second_per_grid_ts"], torch.as_tensor(theirs["second_per_grid_ts"], dtype=torch.float32))


@pytest.mark.parametrize("seed", range(8))
def test_frames_are_picked_like_the_reference(seed, tmp_path):
    """do_sample_frames, by number and by rate, on decoded frames: lists of files transformers does not sample, and fails on lists of which one frame or none is picked."""
    draw = random.Random(seed)
    temporal = draw.choice([1, 2, 3])
    settings = {"size": {"shortest_edge": 64, "longest_edge": 900}, "do_sample_frames": True}
    settings |= {"num_frames": draw.randint(temporal, 9)} if seed % 2 else {"fps": draw.choice([0.7, 1.0, 2.0]), "min_frames": draw.randint(max(temporal, 2), 6), "max_frames": draw.randint(6, 12)}
    _, processor = checkpoint(tmp_path / "model", patch=4, temporal=temporal, video=settings)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    videos = [(make_frames(tmp_path / f"clip{i}", draw.randint(10, 29), 24, 18, 10 * seed + i, fps), fps) for i, fps in enumerate((2.5, 30.0, 7.0))]
    got = host_media(recipe, [tmp_path / f"clip{i}" for i in range(len(videos))])
    decoded = [[PIL.Image.open(frame).convert("RGB") for frame in frames] for frames, _ in videos]
    theirs = processor(text=["<|video_pad|> " * len(videos)], videos=decoded, videos_kwargs={"video_metadata": metadata(videos)}, return_tensors="pt")
    assert got["video_grid_thw"].tolist() == theirs["video_grid_thw"].tolist()
    assert (got["pixel_values_videos"] - theirs["pixel_values_videos"]).abs().max() <= 1e-5
    assert torch.equal(got["second_per_grid_ts"], torch.as_tensor(theirs["second_per_grid_ts"], dtype=torch.float32))


def conversations(folder, fps):
    """For the host with folders, for the reference with lists of files: one video, none, two among pictures."""
    vlm.shared_images()
    files = [make_frames(folder / f"clip{i}", count, 60, 44, i, fps) for i, count in enumerate((5, 2, 3))]
    image = lambda name: {"type": "image", "path": str(vlm.IMAGES / name)}
    text = lambda words: {"type": "text", "text": words}
    made = []
    for of in (lambda i: str(folder / f"clip{i}"), lambda i: files[i]):
        video = lambda i: {"type": "video", "path": of(i)}
        made.append([
            [{"role": "user", "content": [video(0), text("what is this ?")]}],
            [{"role": "user", "content": "what is that ?"}, {"role": "assistant", "content": "a cup ."}, {"role": "user", "content": "yes"}],
            [{"role": "user", "content": [text("two of them"), video(1), image("chelsea.png"), text("and that ?"), video(2), image("coins.png")]}],
        ])
    return *made, [[(files[0], fps)], [], [(files[1], fps), (files[2], fps)]]


def reference_inputs(processor, conversation, videos, **options):
    told = {"videos_kwargs": {"video_metadata": metadata(videos)}} if videos else {}
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=told, **options)


@pytest.mark.parametrize("seed, fps", [(0, None), (1, 2.0), (2, 8.0)])
@pytest.mark.parametrize("family", qwen.FAMILIES)
def test_messages_with_videos(family, seed, fps, tmp_path):
    """Videos and pictures in one batch, padded on the left; then continued greedily over a cache."""
    config = qwen.qwen_config(family, seed)["vision_config"]
    edge = config["patch_size"] * config["spatial_merge_size"]
    areas = {"min_pixels": 4 * edge**2, "max_pixels": 20 * edge**2}
    model, processor = checkpoint(tmp_path / "model", family, seed, video=areas, images=areas)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    ours, theirs, videos = conversations(tmp_path, fps)
    messages, out = tmp_path / "messages.json", tmp_path / "logits.safetensors"
    messages.write_text(json.dumps(ours))
    tiny.run_host("logits", recipe, "--messages", messages, "--out", out)
    got = load_file(out)
    continued = json.loads(tiny.run_host("generate", recipe, "--messages", messages, "--json", "--max-new-tokens", 8, "--set", "generate.stop=[]").stdout)
    for row, conversation in enumerate(theirs):
        inputs = reference_inputs(processor, conversation, videos[row])
        length = inputs["input_ids"].shape[1]
        assert got["ids"][row, :length].tolist() == inputs["input_ids"][0].tolist()
        assert (inputs["input_ids"] == qwen.VIDEO).any() == bool(videos[row])
        with torch.no_grad():
            expected = model(**inputs).logits
        assert tiny.relative_error(got["logits"][row : row + 1, :length], expected) <= qwen.TOLERANCE
        prompt = reference_inputs(processor, conversation, videos[row], add_generation_prompt=True)
        continuation, scores = tiny.greedy(model, prompt, 8)
        tiny.check_greedy(continued[row]["ids"], continuation, scores, qwen.TOLERANCE, ends=(2, qwen.IMAGE, qwen.VIDEO))


def test_data_counts_videos_and_masks_them(tmp_path):
    _, processor = checkpoint(tmp_path / "model", patch=4, temporal=2, video={"min_pixels": 64, "max_pixels": 900})
    make_frames(tmp_path / "clips" / "a", 5, 24, 16, 1)
    make_frames(tmp_path / "clips" / "b", 2, 24, 16, 2)
    image = str(vlm.shared_images()[0])
    records = [
        {"messages": [{"role": "user", "content": "<video>what is this ?"}, {"role": "assistant", "content": "a cat ."}], "videos": ["clips/a"]},
        {"messages": [{"role": "user", "content": "<image>and <video> that ?"}, {"role": "assistant", "content": "yes"}], "videos": ["clips/b"], "images": [image]},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, media={"max_pixels": 3136}, data={"train": [tmp_path / "data.jsonl"], "max_length": 512})
    got = json.loads(tiny.run_host("data", recipe, "--json").stdout)
    assert got["train"]["media"] == 3
    for sample, layers in zip(got["samples"], (3, 1), strict=True):
        places = [i for i, token in enumerate(sample["ids"]) if token == qwen.VIDEO]
        # 24 x 16 pixels are 3 x 2 squares of 8.
        assert len(places) == layers * 6
        assert all(sample["labels"][i] == -100 for i in places)
        assert sum(label != -100 for label in sample["labels"]) > 0


@pytest.mark.parametrize("damage", ["film", "list", "fps in the part", "pixels in the part", "empty", "sizes", "no rate", "one too many"])
def test_what_is_no_video_is_refused(damage, tmp_path):
    checkpoint(tmp_path / "model", patch=4, temporal=2, video={"do_sample_frames": True, "fps": 1.0} if damage == "no rate" else {})
    frames = make_frames(tmp_path / "clip", 3, 24, 16, 1)
    part = {"type": "video", "path": str(tmp_path / "clip")}
    content = [part, {"type": "text", "text": "what ?"}]
    expected = {"film": "ffmpeg -i film.mp4", "list": "a video is a folder of pictures", "fps in the part": "video_metadata.json", "pixels in the part": "says max_pixels, which no single part can: [media] in the recipe", "empty": "no pictures in it", "sizes": "frames differ in size",
                "no rate": "nothing tells how many these are", "one too many": "the text has 2 places for videos"}[damage]
    if damage == "film":
        part["path"] = str(tmp_path / "film.mp4")
        (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    elif damage == "list":
        part["path"] = frames
    elif damage == "fps in the part":
        part["fps"] = 2.0
    elif damage == "pixels in the part":
        part["max_pixels"] = 360 * 420
    elif damage == "empty":
        part["path"] = str(tmp_path / "nothing")
        (tmp_path / "nothing").mkdir()
    elif damage == "sizes":
        PIL.Image.new("RGB", (16, 24)).save(frames[1])
    elif damage == "one too many":
        content[1]["text"] = "what <|video_pad|> ?"
    (tmp_path / "messages.json").write_text(json.dumps([{"role": "user", "content": content}]))
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    done = tiny.subprocess.run([str(tiny.HOST), "logits", str(recipe), "--messages", str(tmp_path / "messages.json"), "--out", str(tmp_path / "x")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 5 and expected in done.stderr, done.stderr
    assert not (tmp_path / "x").exists()
