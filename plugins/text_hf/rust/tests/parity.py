"""Compares the crate with transformers: tokens, offsets, decoding, streaming, special tokens, chat templates.

parity.py DUMP [SHARED]   run with the parity environment's Python. DUMP is the built example text_hf_dump, SHARED the folder of real data
                          beside the repository. Exit status 1 where anything differs.
"""
import glob
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": 'The "weather" <now> & later', "parameters": {
    "type": "object", "required": ["city"], "properties": {"city": {"type": "string", "description": "City \u00e9"},
                                                           "n": {"type": "integer", "enum": [1, 2]}, "f": {"type": "number", "default": 1.5},
                                                           "o": {"type": ["string", "null"], "default": None}}}}}]
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "get_weather", "arguments": {
    "city": "Z\u00fcrich", "n": 1, "f": 1.0, "x": None, "b": True, "l": ["a", {"k": 2}]}}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = {
    "user": ([say("user", "Hi")], {}),
    "turns": ([say("system", "Be brief.\n"), say("user", "  Hi <b> & 'x' \"y\" "), say("assistant", "Hello\n\nyou  "),
               say("user", "D\u00e9 \u4f60\u597d \U0001f600"), say("assistant", "No.")], {}),
    "think": ([say("user", "Hi"), say("assistant", "<think>\nhm\n</think>\n\nHello"), say("user", "more"), say("assistant", "Bye")], {}),
    "reasoning": ([say("user", "Hi"), say("assistant", "Hello", reasoning_content="let me see")], {}),
    "tools": ([say("user", "weather?"), say("assistant", "", tool_calls=[CALL]),
               say("tool", '{"t": 21}', name="get_weather", tool_call_id="abcdefghi"), say("assistant", "21 degrees.")], {"tools": TOOLS}),
    "no content": ([say("user", "weather?"), say("assistant", None, tool_calls=[CALL, CALL]),
                    say("tool", "21", name="get_weather", tool_call_id="abcdefghi"), say("assistant", "21.")], {"tools": TOOLS}),
    "parts": ([say("user", [{"type": "image"}, {"type": "text", "text": "What?"}]), say("assistant", [{"type": "text", "text": "A cat."}])], {}),
    "no thinking": ([say("user", "Hi")], {"enable_thinking": False}),
    "documents": ([say("user", "Hi")], {"documents": [{"title": "T", "text": "body"}]}),
}


def ask(dump, folder, requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    out = subprocess.run([dump, folder], input=lines, capture_output=True, text=True, check=True, timeout=600).stdout
    return [json.loads(line) for line in out.strip("\n").split("\n")]


def texts(shared):
    data = os.path.join(shared, "data")
    stories = open(os.path.join(data, "text/tinystories.txt")).read().split("<|endoftext|>")[:300]
    documents = [json.loads(line)["text"] for line in open(os.path.join(data, "text/c4_demo.jsonl"))]
    records = json.load(open(os.path.join(data, "sft/alpaca_en_demo.json")))[:100]
    calls = json.load(open(os.path.join(data, "sft/glaive_toolcall_en_demo.json")))[:60]
    real = stories + documents + open(os.path.join(data, "text/wiki_demo.txt")).read().splitlines()
    real += [record[key] for record in records for key in ("instruction", "input", "output")]
    real += [turn["value"] for record in calls for turn in record["conversations"]]
    rng = random.Random(7)
    special = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "[PAD]", "<|endoftext|>", "<0x41>", "\u2581"]
    mixed = ["".join(rng.choice(special) + rng.choice(["", " ", "\n"]) + rng.choice(real)[:rng.randint(0, 30)] for _ in range(4)) for _ in range(300)]
    wild = ["".join(chr(rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000), 32])) for _ in range(20)) for _ in range(300)]
    return rng.sample(real, 1000) + mixed + wild


def check_tokenizer(dump, folder, model_type, samples):
    work = tempfile.mkdtemp()
    for name in os.listdir(folder):
        if name.endswith(".json") and not name.startswith("model"):
            shutil.copyfile(os.path.join(folder, name), os.path.join(work, name))
    if not os.path.exists(os.path.join(work, "config.json")):
        json.dump({"model_type": model_type} if model_type else {}, open(os.path.join(work, "config.json"), "w"))
    reference = AutoTokenizer.from_pretrained(work)
    if type(reference).__name__ == "LlamaTokenizer":
        # The one difference that is meant: see README.md of the plugin.
        samples = [text for text in samples if text[:1] not in (" ", "\u2581")]
    rng = random.Random(1)
    sequences = [[rng.randrange(len(reference)) if rng.random() < 0.5 else rng.randrange(min(300, len(reference))) for _ in range(9)] for _ in range(500)]
    requests = [{"text": text, "special": special} for text in samples for special in (False, True)]
    answers = ask(dump, work, requests + [{"ids": ids} for ids in sequences] + [{"info": True}])
    shutil.rmtree(work)
    wrong = []
    for request, answer in zip(requests, answers):
        expected = reference(request["text"], add_special_tokens=request["special"], return_offsets_mapping=True)
        at = [0]
        for char in request["text"]:
            at.append(at[-1] + len(char.encode()))
        offsets = [[at[begin], at[end]] for begin, end in expected["offset_mapping"]]
        if answer.get("ids") != expected["input_ids"] or answer["offsets"] != offsets:
            wrong.append(("ids or offsets", request["text"][:60]))
    for ids, answer in zip([answer.get("ids", []) for answer in answers[:len(requests)]] + sequences, answers):
        plain, skipped = reference.decode(ids), reference.decode(ids, skip_special_tokens=True)
        if (answer["decoded"], answer["skipped"], answer["streamed"], answer["streamed_skipped"]) != (plain, skipped, plain, skipped):
            wrong.append(("decoding", ids[:12]))
    special = sorted(id for id, token in reference.added_tokens_decoder.items() if token.special)
    facts = {"vocab_size": len(reference), "special_ids": special, "bos": reference.bos_token_id, "eos": reference.eos_token_id,
             "pad": reference.pad_token_id, "unk": reference.unk_token_id}
    if answers[-1] != facts:
        wrong.append(("special tokens", answers[-1]))
    print(f"{os.path.basename(folder)} ({model_type}, {type(reference).__name__}): {len(requests)} texts, {len(sequences)} sequences, {len(wrong)} wrong {wrong[:2]}")
    return len(wrong)


def check_templates(dump, paths):
    requests, expected = [], []
    for path in paths:
        source = open(path).read()
        blocks = bool(re.search(r"\{%-?\s*generation\s*-?%", source))
        for name, (messages, variables) in CONVERSATIONS.items():
            for prompt in (False, True):
                chat = [{key: value for key, value in message.items() if value is not None} for message in json.loads(json.dumps(messages))]
                more = {key: value for key, value in variables.items() if key not in ("tools", "documents")}
                try:
                    (text,), (spans,) = chat_template_utils.render_jinja_template(
                        [chat], tools=variables.get("tools"), documents=variables.get("documents"), chat_template=source,
                        return_assistant_tokens_mask=True, add_generation_prompt=prompt, **SPECIAL, **more)
                    spans = [[len(text[:begin].encode()), len(text[:end].encode())] for begin, end in spans if begin < end]
                except Exception:  # the message is Python's
                    text, spans = None, []
                expected.append((os.path.basename(path), name, text, spans if blocks else None))
                requests.append({"template": source, "messages": messages, "variables": {**SPECIAL, **variables}, "prompt": prompt, "spans": blocks})
    wrong = []
    for (path, name, text, spans), answer in zip(expected, ask(dump, "-", requests)):
        same = "error" in answer if text is None else answer.get("text") == text and (spans is None or [span[:2] for span in answer["spans"]] == spans)
        if not same:
            wrong.append((path, name, answer.get("error", "text or spans differ")))
    print(f"{len(paths)} templates: {len(requests)} renderings, {sum(text is None for _, _, text, _ in expected)} errors on both sides, {len(wrong)} wrong {wrong[:3]}")
    return len(wrong)


def main():
    dump = os.path.abspath(sys.argv[1])
    shared = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../../../shared")
    samples = texts(shared)
    wrong = 0
    for folder, model_type in (("tokenizers/llama", "llama"), ("tokenizers/llama", "mistral"), ("tokenizers/llama3", "llama"),
                               ("tokenizers/qwen2", "qwen2"), ("tokenizers/qwen2", "qwen3"), ("models/stories260K", None),
                               ("models/babyllama-105", None)):
        wrong += check_tokenizer(dump, os.path.join(shared, "data", folder), model_type, samples)
    import trl
    wrong += check_templates(dump, sorted(glob.glob(os.path.join(os.path.dirname(trl.__file__), "chat_templates/*.jinja")))
                             + sorted(glob.glob(os.path.join(shared, "data/chat_templates/*.jinja"))))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
