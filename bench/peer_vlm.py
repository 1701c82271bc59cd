"""peer_vlm.py FOLDER MESSAGES.json: transformers' side of `host __bench RECIPE vision=MESSAGES.json`, in bfloat16 on the CPU; the same lines."""
import json
import pathlib
import sys
import time

import torch
import transformers
from PIL import Image

folder, file = sys.argv[1], pathlib.Path(sys.argv[2])
conversations = json.loads(file.read_text())
pictures = [part["path"] for conversation in conversations for message in conversation for part in message["content"] if part["type"] == "image"]
t = time.time()
model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu").eval()
processor = transformers.AutoProcessor.from_pretrained(folder)
print(f"load {time.time() - t:.2f} s, weights {model.get_memory_footprint() / 1e6:.0f} MB, peak RSS 0 MB", flush=True)

PASSES = 3
for n in range(PASSES + 1):
    if n == 1:
        t = time.time()  # the first one warms up
    for picture in pictures:
        with Image.open(file.parent / picture) as image:
            processor.image_processor(images=image.convert("RGB"), return_tensors="pt")
print(f"preprocess {PASSES * len(pictures) / (time.time() - t):.2f} image/s", flush=True)

text = processor.apply_chat_template(conversations[0], add_generation_prompt=True, tokenize=False)
first = file.parent / pictures[0]


def generate(count):
    with Image.open(first) as image:
        inputs = processor(text=text, images=image.convert("RGB"), return_tensors="pt").to(torch.bfloat16)
    t = time.time()
    with torch.no_grad():
        model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return inputs["input_ids"].shape[1]


generate(1)
t = time.time()
tokens = generate(1)
print(f"prefill {time.time() - t:.3f} s, {tokens} tokens", flush=True)
took = []
for count in (4, 16, 48):
    t = time.time()
    generate(count)
    took.append(time.time() - t)
print(f"decode {32 / (took[2] - took[1]):.2f} token/s", flush=True)
