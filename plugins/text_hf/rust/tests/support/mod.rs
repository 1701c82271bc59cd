//! What the tests share: the folder of real data, and tokenizers small enough to write down.
#![allow(dead_code)]

use std::path::PathBuf;

use serde_json::{json, Value};
use text_hf::codec::{Codec, Files};
use text_hf::error::Result;

/// The folder of real data beside the repository; None, said aloud, where it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TENON_SHARED_DIR").map(PathBuf::from);
    let root = root.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../../shared"));
    let path = root.join("data").join(path);
    if !path.exists() {
        println!("SKIP real data is absent: {}", path.display());
        return None;
    }
    Some(path)
}

pub fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_default()
}

pub fn open_folder(folder: &std::path::Path) -> Codec {
    Codec::new(&Files {
        tokenizer_json: &std::fs::read(folder.join("tokenizer.json")).unwrap(),
        tokenizer_config: &read(folder.join("tokenizer_config.json")),
        special_tokens_map: &read(folder.join("special_tokens_map.json")),
        chat_template: "",
        model_type: "",
    })
    .unwrap()
}

pub fn codec(tokenizer: &Value, config: &Value, template: &str) -> Result<Codec> {
    Codec::new(&Files {
        tokenizer_json: tokenizer.to_string().as_bytes(),
        tokenizer_config: &config.to_string(),
        special_tokens_map: "",
        chat_template: template,
        model_type: "",
    })
}

fn token(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

/// Llama 2's kind: words begin with U+2581, other bytes are tokens of their own.
pub fn sentence_tokenizer() -> Value {
    let mut vocab = serde_json::Map::new();
    for word in ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"] {
        vocab.insert(word.into(), json!(vocab.len()));
    }
    for byte in 0..=255 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
    }
    for word in ["\u{2581}", "a", "b", "c", "\u{2581}a", "ab", "\u{2581}ab"] {
        vocab.insert(word.into(), json!(vocab.len()));
    }
    json!({
        "version": "1.0",
        "added_tokens": [token(0, "<unk>"), token(1, "<s>"), token(2, "</s>"), token(3, "<|im_start|>"), token(4, "<|im_end|>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["\u{2581} a", "a b", "\u{2581}a b"]}
    })
}

/// GPT-2's kind: every byte is a character.
pub fn byte_tokenizer() -> Value {
    let printable: Vec<u32> = (0x21..=0x7E).chain(0xA1..=0xAC).chain(0xAE..=0xFF).collect();
    let mut extra = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..256u32 {
        let code = if printable.contains(&byte) {
            byte
        } else {
            extra += 1;
            extra - 1
        };
        vocab.insert(char::from_u32(code).unwrap().into(), json!(byte));
    }
    vocab.insert("ab".into(), json!(256));
    json!({
        "version": "1.0",
        "added_tokens": [token(257, "<|end|>"), token(258, "<|caf\u{e9}|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]}
    })
}

/// A small generator of repeatable random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}
