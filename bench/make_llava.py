"""make_llava.py FOLDER: a LLaVA checkpoint of random bfloat16 weights (seed 0): the vision tower of LLaVA 1.5 (CLIP ViT-L/14 at 336) and a Llama of 1.1 B."""
import sys

import torch
import transformers
from tokenizers import Tokenizer, decoders, models

folder = sys.argv[1]
TEMPLATE = ("{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
vision = dict(model_type="clip_vision_model", hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14, projection_dim=768)
text = dict(model_type="llama", hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, vocab_size=32064,
            max_position_embeddings=4096)
pieces = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{i:02X}>": 3 + i for i in range(256)}
config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=len(pieces), image_token_index=len(pieces), vision_feature_layer=-2, dtype="bfloat16")
model = transformers.LlavaForConditionalGeneration(config)
model.save_pretrained(folder, max_shard_size="1GB")
tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>", byte_fallback=True))
tokenizer.decoder = decoders.ByteFallback()
tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<image>"])
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
                                                 extra_special_tokens={"image_token": "<image>"})
images = transformers.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
transformers.LlavaProcessor(image_processor=images, tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
                            chat_template=TEMPLATE).save_pretrained(folder)
print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
