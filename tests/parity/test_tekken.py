"""Mistral's tekken.json against mistral-common: ids of texts, decoding, conversations with sounds. The vocabulary is the one that its package carries."""

import json
import pathlib
import random

import pytest

import tiny
from test_voxtral import made_sound, write_wav

mistral_common = pytest.importorskip("mistral_common", reason="mistral-common is not installed: it carries the vocabulary too")
DATA = pathlib.Path(mistral_common.__file__).parent / "data"
FILE = DATA / "tekken_240911.json"
# Voxtral's special tokens, as its tekken.json lists them: id 24 is [AUDIO].
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
           "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>", "<SPECIAL_23>", "[AUDIO]",
           "[BEGIN_AUDIO]", "<SPECIAL_26>", "<SPECIAL_27>", "<SPECIAL_28>", "<SPECIAL_29>", "<SPECIAL_30>", "<SPECIAL_31>", "[ARGS]", "[CALL_ID]", "[TRANSCRIBE]"]


def tekken_file(folder, version):
    """v3: as the package has it. Later: the same vocabulary with Voxtral's special tokens and settings of sound."""
    data = json.loads(FILE.read_text())
    data.pop("image", None)
    if version != "v3":
        data["config"]["version"] = version
        data["special_tokens"] = [{"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(SPECIAL)]
        data["audio"] = {"sampling_rate": 16000, "frame_rate": 12.5, "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}, "chunk_length_s": 30.0}
    folder.mkdir(exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(data))
    (folder / "config.json").write_text(json.dumps({"model_type": "voxtral", "audio_token_id": 24, "text_config": {"num_hidden_layers": 1}, "audio_config": {"num_hidden_layers": 1}}))
    return tiny.write_recipe(folder / "r.toml", model={"path": folder})


def texts():
    """Real ones, and such as trip tokenizers up: white space, scripts, signs, spelled special tokens."""
    found = ["", " ", "\n\n\n  \n", "a" * 3000, "   leading and trailing   ", "tab\tand\r\nnew lines", "[INST] is no token here </s> [AUDIO]", "1234567890 3.14e-5", "fi ﬁ é é ß ẞ", "日本語の文章と中文",
             "עברית العربية हिन्दी", "👩‍👩‍👧‍👦🏳️‍🌈 emoji", "def f(x):\n    return x ** 2  # code\n", "\u200b\u00a0\ufeff", "MiXeD CaSe WORDS'll don't", "a/b/c\\d//e"]
    stories = tiny.SHARED / "data" / "text" / "tinystories.txt"
    if stories.exists():
        found += stories.read_text().split("<|endoftext|>")[:30]
    draw = random.Random(7)
    alphabet = "ab zé\n\t.,'-/09Ω日👍  \r"
    return found + ["".join(draw.choice(alphabet) for _ in range(draw.randint(1, 60))) for _ in range(60)]


def tokenize(recipe, *options):
    return json.loads(tiny.run_host("tokenize", recipe, "--json", *options).stdout)


@pytest.mark.parametrize("version", ["v3", "v11"])
def test_ids_equal_the_reference(version, tmp_path):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    recipe = tekken_file(tmp_path / "model", version)
    reference = Tekkenizer.from_file(tmp_path / "model" / "tekken.json")
    # One run of the host for all: completions of data are encoded each by itself.
    data = tmp_path / "data.jsonl"
    kept = [text for text in texts() if text]
    data.write_text("\n".join(json.dumps({"text": text}) for text in kept))
    recipe = tiny.write_recipe(tmp_path / "data.toml", model={"path": tmp_path / "model"}, data={"train": [data], "format": "completion", "max_length": 100000, "shuffle": False})
    samples = json.loads(tiny.run_host("data", recipe, "--json", "--limit", len(kept)).stdout)["samples"]
    assert len(samples) == len(kept)
    for text, sample in zip(kept, samples, strict=True):
        expected = reference.encode(text, bos=True, eos=True)
        assert sample["ids"] == expected, repr(text)
    got = tokenize(tekken_file(tmp_path / "model", version), "--text", kept[5])
    assert got["ids"] == reference.encode(kept[5], bos=True, eos=False)


def conversations(folder):
    audio = {"type": "audio", "path": str(write_wav(folder / "a.wav", made_sound(31)))}
    text = lambda words: {"type": "text", "text": words}
    plain = [
        [{"role": "user", "content": "Hello, what is 2+2?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?  "}, {"role": "user", "content": [text("one"), text("two")]}],
        [{"role": "user", "content": "[/INST] and </s> are no tokens here"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}, {"role": "user", "content": " d\n"}],
    ]
    heard = [
        [{"role": "user", "content": [audio, text("What is said?")]}],
        [{"role": "user", "content": [text("first"), audio, audio, text("both?")]}, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Why?"}],
    ]
    return plain, heard


@pytest.mark.parametrize("version", ["v3", "v7", "v11", "v13"])
def test_conversations_equal_the_reference(version, tmp_path):
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    recipe = tekken_file(tmp_path / "model", version)
    reference = MistralTokenizer.from_file(str(tmp_path / "model" / "tekken.json"))
    plain, heard = conversations(tmp_path)
    # A system prompt and sounds together: not before v11.
    heard += [[{"role": "system", "content": "Listen."}, *heard[1]]] if version in ("v11", "v13") else []
    for conversation in plain + (heard if version != "v3" else []):
        theirs = json.loads(json.dumps(conversation))
        for message in theirs:
            if isinstance(message["content"], list):
                message["content"] = [part if part["type"] == "text" else {"type": "audio_url", "audio_url": {"url": "file://" + part["path"]}} for part in message["content"]]
        expected = reference.encode_chat_completion(ChatCompletionRequest.from_openai(messages=theirs)).tokens
        (tmp_path / "m.json").write_text(json.dumps(conversation))
        got = tokenize(recipe, "--messages", tmp_path / "m.json", "--add-generation-prompt")
        assert got["ids"] == expected, conversation
