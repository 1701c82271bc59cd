"""Models that hear, against transformers on the same files: logits, generation, features, training."""

import json
import math
import random
import struct
import subprocess
import wave

import numpy
import peft
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny
from test_vlm import reference_losses

# Design, section 8. Float32 on both sides; what differs is the order of sums.
TOLERANCE = 1e-4
CONFIGS = 12
JFK = tiny.SHARED / "data" / "audio" / "jfk.wav"
TEXTS = {"llama": {}, "mistral": {"sliding_window": 7}, "qwen2": {}}
WORDS = "what does he say ? ask not your country can do for you and so my fellow . yes no he asks she sings".split()
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(WORDS), "[BEGIN_AUDIO]", "[AUDIO]"])}
AUDIO = VOCABULARY["[AUDIO]"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% if message['content'] is string %}{{ message['content'] + ' ' }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}{{ '[BEGIN_AUDIO] [AUDIO] ' }}{% else %}{{ (part['text'] or '') + ' ' }}{% endif %}"
    "{% endfor %}{% endif %}{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


def voxtral_config(seed):
    """Encoders of odd widths, tokens of one position, several, or parts of some; any of several text models."""
    draw = random.Random(f"voxtral {seed}")
    heads, positions = draw.choice([1, 2, 4]), draw.choice([4, 6, 12])
    hidden = heads * 2 * draw.randint(2, 8)
    audio = {
        "hidden_size": hidden,
        "intermediate_size": draw.choice([w for w in range(7, 90) if positions * hidden % w == 0]),
        "num_hidden_layers": draw.randint(1, 4),
        "num_attention_heads": heads,
        "num_mel_bins": draw.randint(4, 20),
        "max_source_positions": positions,
        "activation_function": draw.choice(["gelu", "gelu", "relu", "silu"]),
        "scale_embedding": draw.random() < 0.3,
    }
    text_type = list(TEXTS)[seed % len(TEXTS)]
    text = {**tiny.random_config(text_type, seed), **TEXTS[text_type], "model_type": text_type, "vocab_size": len(VOCABULARY) + 9, "max_position_embeddings": 512}
    text.setdefault("head_dim", text["hidden_size"] // text["num_attention_heads"])
    return {"audio_config": audio, "text_config": text, "audio_token_id": AUDIO, "projector_hidden_act": draw.choice(["gelu", "silu"])}


def make_voxtral(config, seed):
    torch.manual_seed(seed)
    model = transformers.VoxtralForConditionalGeneration(transformers.VoxtralConfig(**config)).float().eval()
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
            elif "embed" in name:
                parameter.normal_(0.0, 1.0)
            else:
                parameter.normal_(0.0, 1.2 * parameter[0].numel() ** -0.5)


def save_voxtral(folder, model, layout="save_pretrained"):
    """Layouts: what transformers 5 writes, which is what version 4 wrote, and what it calls the modules itself."""
    model.save_pretrained(folder)
    if layout == "modules":
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.named_parameters()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def window_tokens(model):
    audio = model.config.audio_config
    return audio.max_source_positions * audio.hidden_size // audio.intermediate_size


def host_logits(recipe, ids, features=None):
    tokens, out, media = (recipe.parent / name for name in ("ids.json", "logits.safetensors", "media.safetensors"))
    tokens.write_text(json.dumps(ids.tolist()))
    if features is not None:
        save_file({"input_features": features}, media)
    tiny.run_host("logits", recipe, "--tokens", tokens, "--out", out, *(["--media", media] if features is not None else []))
    return load_file(out)["logits"]


def ids_with_sounds(model, rows, seed):
    """One row each, a list of the windows of its sounds; equally long."""
    draw = random.Random(seed)
    tokens = window_tokens(model)
    width = max(sum(row) for row in rows) * tokens + 9
    all_ids = []
    for row in rows:
        words = [draw.randrange(4, AUDIO) for _ in range(width - sum(row) * tokens)]
        for windows, place in zip(row, sorted(draw.sample(range(len(words) + 1), len(row)), reverse=True)):
            words[place:place] = [AUDIO] * tokens * windows
        all_ids.append(words)
    return torch.tensor(all_ids)


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_logits(seed, tmp_path, record_property):
    config = voxtral_config(seed)
    model = make_voxtral(config, seed)
    save_voxtral(tmp_path / "model", model, ("save_pretrained", "modules")[seed // 2 % 2])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    audio = model.config.audio_config
    for rows in ([[1]], [[], [2], [1, 1]], [[]]):
        ids = ids_with_sounds(model, rows, seed)
        windows = sum(map(sum, rows))
        features = torch.randn(windows, audio.num_mel_bins, 2 * audio.max_source_positions, generator=torch.Generator().manual_seed(seed)) if windows else None
        with torch.no_grad():
            expected = model(input_ids=ids, input_features=features).logits
        error = tiny.relative_error(host_logits(recipe, ids, features), expected)
        record_property("relative_error", error)
        assert error <= TOLERANCE, f"{error:.2e} with windows {rows} and {config}"


def real_config():
    source = tiny.SHARED / "data" / "configs" / "voxtral_mini_3b.json"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    return json.loads(source.read_text())


def test_plan_of_the_real_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(real_config()))
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path, "dtype": "bfloat16"}, quantizer={"type": "nf4", "double_quant": True})
    plan = json.loads(tiny.run_host("plan", recipe, "--json", "--assume-devices", "cuda:0=24GiB,cpu=64GiB").stdout)
    with torch.device("meta"):
        model = transformers.VoxtralForConditionalGeneration(transformers.VoxtralConfig.from_dict(real_config()))
    assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()) == 4_676_271_104
    assert plan["fits"]


def test_keys_left_out_take_class_defaults(tmp_path):
    """What config.json leaves out is as in transformers' classes: the count of parameters shows it."""
    for name, config in {
        "nothing but the type": {"model_type": "voxtral"},
        "part of the encoder": {"model_type": "voxtral", "audio_config": {"model_type": "voxtral_encoder", "d_model": 640, "encoder_ffn_dim": 2560, "encoder_layers": 3}},
        "part of a text": {"model_type": "voxtral", "text_config": {"hidden_size": 512, "num_hidden_layers": 2}},
        "another text": {"model_type": "voxtral", "text_config": {"model_type": "mistral", "num_attention_heads": 16}},
        "tied": {"model_type": "voxtral", "text_config": {"tie_word_embeddings": True, "num_hidden_layers": 1}},
    }.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with torch.device("meta"):
            model = transformers.VoxtralForConditionalGeneration(transformers.VoxtralConfig.from_dict(config))
        plan = json.loads(tiny.run_host("plan", tiny.write_recipe(folder / "r.toml", model={"path": folder, "dtype": "bfloat16"}), "--json", "--assume-devices", "cpu=200GiB").stdout)
        assert plan["parameters"]["total"] == sum(p.numel() for p in model.parameters()), name


def tiny_real_config(mels=128):
    """The true config with few and narrow layers: half a minute of sound is 375 tokens."""
    config = real_config()
    config["audio_config"] |= {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16, "num_mel_bins": mels}
    config["text_config"] |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
                              "vocab_size": len(VOCABULARY) + 9}
    config["audio_token_id"] = AUDIO
    del config["architectures"], config["torch_dtype"], config["hidden_size"], config["vocab_size"]
    return config


def save_processor(folder, model, where="preprocessor_config.json", **settings):
    """Tokenizer, chat template and feature extractor beside the weights; returns transformers' own extractor and tokenizer."""
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(["<s>", "</s>", "<pad>", "[BEGIN_AUDIO]", "[AUDIO]"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE)
    tokenizer.save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(**{"feature_size": model.config.audio_config.num_mel_bins, **settings})
    if where == "preprocessor_config.json":
        extractor.save_pretrained(folder)
    else:
        (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": json.loads(extractor.to_json_string()), "processor_class": "VoxtralProcessor"}))
    return Reference(model, tokenizer, extractor)


class Reference:
    """What VoxtralProcessor does, without the tokenizer of Mistral's that it wants: a sound is filled up to whole windows, features are cut into them."""

    def __init__(self, model, tokenizer, extractor):
        self.tokenizer, self.extractor = tokenizer, extractor
        self.frames, self.tokens = 2 * model.config.audio_config.max_source_positions, window_tokens(model)

    def features(self, sound):
        found = self.extractor(sound, sampling_rate=16000, padding=True, truncation=False, pad_to_multiple_of=self.frames * self.extractor.hop_length, return_tensors="pt")["input_features"]
        return found.reshape(self.extractor.feature_size, -1, self.frames).transpose(0, 1)

    def apply_chat_template(self, conversation, add_generation_prompt=False, **_):
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        paths = [part["path"] for message in conversation if isinstance(message["content"], list) for part in message["content"] if part["type"] == "audio"]
        features = [self.features(load_sound(path)) for path in paths]
        counts = iter(len(f) * self.tokens for f in features)
        ids = [i for token in ids for i in ([token] * next(counts) if token == AUDIO else [token])]
        return {"input_ids": torch.tensor([ids]), **({"input_features": torch.cat(features)} if features else {})}


def load_sound(path):
    """As transformers loads it; a WAV of 16 bits, 16 kHz and one channel without its libraries."""
    try:
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16000, 2, 1):
                return numpy.frombuffer(file.readframes(file.getnframes()), dtype=numpy.int16).astype(numpy.float32) / 32768
    except wave.Error:
        pass
    pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    return transformers.audio_utils.load_audio(str(path), backend="soundfile")


def write_wav(path, samples, rate=16000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes((numpy.clip(samples, -1, 1) * 32767).astype(numpy.int16).tobytes())
    return path


def made_sound(seconds, rate=16000, seed=0):
    """A voice-like sum of tones under a moving envelope, with some noise."""
    draw = numpy.random.default_rng(seed)
    t = numpy.arange(int(seconds * rate)) / rate
    tones = sum(numpy.sin(2 * numpy.pi * f * t + p) for f, p in zip(draw.uniform(80, 3500, 7), draw.uniform(0, 6, 7)))
    return (0.1 * tones * (0.6 + 0.4 * numpy.sin(2 * numpy.pi * 3 * t)) + 0.01 * draw.standard_normal(len(t))).astype(numpy.float32)


def speech():
    if not JFK.exists():
        pytest.skip(f"{JFK} is not there")
    return JFK


def features_of_host(recipe, files):
    messages, out = recipe.parent / "messages.json", recipe.parent / "features.safetensors"
    content = [{"type": "audio", "path": str(file)} for file in files] + [{"type": "text", "text": "what does he say ?"}]
    messages.write_text(json.dumps([{"role": "user", "content": content}]))
    done = json.loads(tiny.run_host("tokenize", recipe, "--messages", messages, "--json", "--media-out", out).stdout)
    return load_file(out)["input_features"], done["ids"]


# Features are logarithms: what lies near the floor magnifies the last bits of a power. transformers' own two implementations agree to 1e-5 in most places.
FEATURES = 1e-4


@pytest.mark.parametrize("mels", [80, 128])
def test_features_of_speech_equal_the_reference(mels, tmp_path):
    model = make_voxtral(tiny_real_config(mels), 0)
    save_voxtral(tmp_path / "model", model)
    reference = save_processor(tmp_path / "model", model, ("preprocessor_config.json", "processor_config.json")[mels == 80])
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    long, short = write_wav(tmp_path / "long.wav", made_sound(61.3)), write_wav(tmp_path / "short.wav", made_sound(0.01))
    exact = write_wav(tmp_path / "exact.wav", made_sound(30))
    files = [speech(), long, short, exact]
    got, ids = features_of_host(recipe, files)
    expected = [reference.features(load_sound(file)) for file in files]
    assert [len(e) for e in expected] == [1, 3, 1, 1]
    assert ids.count(AUDIO) == 6 * 375
    assert got.shape == (6, mels, 3000)
    assert (got - torch.cat(expected)).abs().max() <= FEATURES


@pytest.mark.parametrize("name,rate,channels,subtype", [
    ("a.flac", 44100, 2, None), ("a.ogg", 48000, 1, "VORBIS"), ("b.ogg", 48000, 2, "OPUS"), ("a.mp3", 44100, 2, None), ("b.mp3", 16000, 1, None), ("a.wav", 8000, 1, "FLOAT"),
    ("b.wav", 11025, 2, "PCM_24"), ("c.wav", 96000, 6, "PCM_16"), ("d.wav", 22050, 1, "ULAW"), ("e.wav", 44101, 1, "PCM_U8")])
def test_features_of_made_files_equal_the_reference(name, rate, channels, subtype, tmp_path):
    """Files of other rates, channels and codings, written with libsndfile; transformers reads them with libsndfile and libsoxr."""
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    model = make_voxtral(tiny_real_config(), 0)
    save_voxtral(tmp_path / "model", model)
    reference = save_processor(tmp_path / "model", model)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    sounds = [made_sound(3.7, rate, seed) for seed in range(channels)]
    soundfile.write(tmp_path / name, numpy.stack(sounds, axis=1), rate, subtype=subtype)
    got, _ = features_of_host(recipe, [tmp_path / name])
    expected = reference.features(load_sound(tmp_path / name))
    # Decoders of coded sound are other builds of the same libraries: they differ in the last bits, which show where features are near their floor.
    limit = FEATURES if name.endswith((".wav", ".flac")) else 20 * FEATURES
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= limit, f"{(got - expected).abs().max():.2e}"


def conversations(folder):
    audio = lambda path: {"type": "audio", "path": str(path)}
    text = lambda words: {"type": "text", "text": words}
    short = write_wav(folder / "short.wav", made_sound(2.5, seed=1))
    long = write_wav(folder / "long.wav", made_sound(34, seed=2))
    return [
        [{"role": "user", "content": [audio(speech()), text("what does he say ?")]}],
        [{"role": "user", "content": "what can you do ?"}, {"role": "assistant", "content": "ask ."}, {"role": "user", "content": "yes"}],
        [{"role": "user", "content": [text("he and she"), audio(long), audio(short), text("what does she say ?")]}],
    ]


def test_messages_with_sounds(tmp_path):
    """The true config with tiny sizes: conversations with one sound, none and two, together in one batch; then continued greedily over a cache."""
    model = make_voxtral(tiny_real_config(), 1)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    save_voxtral(tmp_path / "model", model)
    reference = save_processor(tmp_path / "model", model)
    (tmp_path / "model" / "generation_config.json").unlink(missing_ok=True)
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    messages, out = tmp_path / "messages.json", tmp_path / "logits.safetensors"
    messages.write_text(json.dumps(conversations(tmp_path)))
    tiny.run_host("logits", recipe, "--messages", messages, "--out", out)
    got = load_file(out)
    continued = json.loads(tiny.run_host("generate", recipe, "--messages", messages, "--json", "--max-new-tokens", 12, "--set", "generate.stop=[]").stdout)
    for row, conversation in enumerate(conversations(tmp_path)):
        inputs = reference.apply_chat_template(conversation)
        length = inputs["input_ids"].shape[1]
        assert got["mask"][row].sum() == length
        assert got["ids"][row, :length].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            assert tiny.relative_error(got["logits"][row : row + 1, :length], model(**inputs).logits) <= TOLERANCE
            prompt = reference.apply_chat_template(conversation, add_generation_prompt=True)
            ids = prompt["input_ids"]
            for token in continued[row]["ids"]:
                logits = model(input_ids=ids, input_features=prompt.get("input_features")).logits[0, -1]
                best = logits.topk(2).values
                assert int(logits.argmax()) == token or best[0] - best[1] <= TOLERANCE * logits.abs().max()
                ids = torch.cat([ids, torch.tensor([[token]])], 1)
                if token in (2, AUDIO):  # the end, or a place without a sound
                    break


def small_model(folder, **sizes):
    """Windows of a fifth of a second, for tests that need no long ones."""
    config = tiny_real_config(16)
    config["audio_config"] |= {"max_source_positions": 12, **sizes}
    model = make_voxtral(config, 3)
    return model, config


def test_data_counts_sounds_and_masks_them(tmp_path):
    model, _ = small_model(tmp_path)
    save_voxtral(tmp_path / "model", model)
    save_processor(tmp_path / "model", model)
    one, two = (str(write_wav(tmp_path / f"{i}.wav", made_sound(0.3 * i, seed=i))) for i in (1, 2))
    # Marks and a list beside the messages, ShareGPT's form, and parts; the first relative to the file.
    records = [
        {"messages": [{"role": "user", "content": "<audio>what does he say ?"}, {"role": "assistant", "content": "ask not ."}], "audios": ["1.wav"]},
        {"audio": two, "conversations": [{"from": "human", "value": "<audio>\nwhat does she say ?"}, {"from": "gpt", "value": "no ."}]},
        {"messages": [{"role": "user", "content": [{"type": "audio", "path": one}, {"type": "text", "text": "and"}, {"type": "audio", "audio": two}]}, {"role": "assistant", "content": "yes"}]},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    recipe = tiny.write_recipe(tmp_path / "recipe.toml", model={"path": tmp_path / "model", "dtype": "float32"}, data={"train": [tmp_path / "data.jsonl"], "max_length": 512})
    got = json.loads(tiny.run_host("data", recipe, "--json").stdout)
    assert got["train"]["media"] == 4
    windows = {"1": math.ceil(0.3 * 16000 / (24 * 160)), "2": math.ceil(0.6 * 16000 / (24 * 160))}
    for sample, expected in zip(got["samples"], (windows["1"], windows["2"], windows["1"] + windows["2"]), strict=True):
        places = [i for i, token in enumerate(sample["ids"]) if token == AUDIO]
        assert len(places) == expected * window_tokens(model)
        assert all(sample["labels"][i] == -100 for i in places)
        assert sum(label != -100 for label in sample["labels"]) > 0
    for change, expected in (({"audios": ["1.wav", "1.wav"]}, "the record lists 2 audio files"), ({"images": ["1.png"], "audios": [], "messages": [{"role": "user", "content": "<image>what ?"}, records[0]["messages"][1]]}, "the model takes audio, found image")):
        (tmp_path / "data.jsonl").write_text(json.dumps({**records[0], **change}))
        done = subprocess.run([str(tiny.HOST), "data", str(recipe)], capture_output=True, text=True)
        assert done.returncode == 5 and expected in done.stderr, done.stderr


TRAINED = {"language": {}, "audio": {"scope": "audio"}, "projector": {"scope": "projector"}, "all": {"scope": "all"}}


@pytest.mark.parametrize("layout", ["save_pretrained", "modules"])
@pytest.mark.parametrize("scope", TRAINED)
def test_qlora_steps(scope, layout, tmp_path):
    """NF4 on everything that bitsandbytes quantizes, LoRA on one part: the same losses, and an adapter that PEFT opens with the same logits."""
    model, _ = small_model(tmp_path, intermediate_size=128)
    save_voxtral(tmp_path / "model", model, layout)
    reference = save_processor(tmp_path / "model", model)
    answers = ("ask not .", "she sings and so .", "your country can .")
    records = [{"messages": [{"role": "user", "content": [{"type": "audio", "path": str(write_wav(tmp_path / f"{i}.wav", made_sound(0.2 + 0.2 * i, seed=i)))}, {"type": "text", "text": "what does he say ?"}]},
                             {"role": "assistant", "content": answer}]} for i, answer in enumerate(answers)]
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
        base = transformers.VoxtralForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32, quantization_config=settings, device_map="cpu")
        return peft.PeftModel.from_pretrained(base, folder, is_trainable=trainable)

    adapted = opened(tmp_path / "start", True)
    stored = load_file(tmp_path / "start" / "adapter_model.safetensors")
    assert len([n for n, p in adapted.named_parameters() if p.requires_grad]) == len(stored), "PEFT adapts other modules than the file holds"
    assert any(".audio_tower." in name for name in stored) == (scope in ("audio", "all"))
    assert any("language_model" in name for name in stored) == (scope in ("language", "all"))
    adapted.train()  # bitsandbytes' unfused path, as in test_nf4; the model has no dropout
    expected = reference_losses(adapted, reference, records, steps, rate)
    recipe = tiny.write_recipe(tmp_path / "train.toml", **tables, adapter={"type": "lora", "path": tmp_path / "start"})
    tiny.run_host("run", recipe)
    got = [line["loss"] for line in map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert expected[-1] < 0.99 * expected[0], "the steps must matter"
    # Four AdamW steps divide by small second moments, which enlarges what the order of sums differs by.
    assert got == pytest.approx(expected, rel=1e-3)
    # What we trained, opened by PEFT.
    trained = opened(tmp_path / "out", False).train()
    (tmp_path / "messages.json").write_text(json.dumps(records[0]["messages"]))
    use = tiny.write_recipe(tmp_path / "use.toml", model=tables["model"], quantizer=tables["quantizer"], adapter={"type": "lora", "path": tmp_path / "out"})
    tiny.run_host("logits", use, "--messages", tmp_path / "messages.json", "--out", tmp_path / "logits.safetensors")
    with torch.no_grad():
        theirs = trained(**reference.apply_chat_template(records[0]["messages"])).logits
    assert tiny.relative_error(load_file(tmp_path / "logits.safetensors")["logits"], theirs) <= TOLERANCE


@pytest.mark.parametrize("damage", ["truncated", "rate", "channels", "long", "text", "absent", "url", "no number"])
def test_hostile_sounds_are_refused(damage, tmp_path):
    model, _ = small_model(tmp_path)
    save_voxtral(tmp_path / "model", model)
    save_processor(tmp_path / "model", model)
    file = write_wav(tmp_path / "sound.wav", made_sound(1))
    data = file.read_bytes()
    path, options = str(file), []
    if damage == "truncated":
        expected = "it is cut off"
        file.write_bytes(data[:9000])
    elif damage == "rate":
        expected = "2147483647 samples a second"
        file.write_bytes(data[:24] + struct.pack("<I", 0x7FFFFFFF) + data[28:])
    elif damage == "channels":
        expected = "900 channels"
        file.write_bytes(data[:22] + struct.pack("<H", 900) + data[24:])
    elif damage == "long":
        expected, options = "media.decode_limit", ["--set", "media.decode_limit=15999"]
    elif damage == "text":
        expected = "no WAV, FLAC, MP3 or OGG"
        file.write_text("GIF89a or so, and not a sound")
    elif damage == "absent":
        expected = "no such file"
        file.unlink()
    elif damage == "url":
        expected, path = "is a URL", "https://example.org/a.wav"
    else:
        expected = "a sample is no number"
        file.write_bytes(b"RIFF" + struct.pack("<I", 44) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 1, 16000, 64000, 4, 32) + b"data" + struct.pack("<Iff", 8, 0, math.nan))
    (tmp_path / "messages.json").write_text(json.dumps([{"role": "user", "content": [{"type": "audio", "path": path}, {"type": "text", "text": "what ?"}]}]))
    recipe = tiny.write_recipe(tmp_path / "r.toml", model={"path": tmp_path / "model", "dtype": "float32"})
    done = subprocess.run([str(tiny.HOST), "logits", str(recipe), "--messages", str(tmp_path / "messages.json"), "--out", str(tmp_path / "x"), *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 5 and expected in done.stderr, done.stderr
    assert not (tmp_path / "x").exists()


def test_listed_by_what_it_takes():
    listed = json.loads(tiny.run_host("plugins", "list", "--kind", "architecture", "--modality", "audio", "--json").stdout)
    assert "voxtral" in json.dumps(listed) and "llava" not in json.dumps(listed)
