//! Encoding, decoding, streaming; corrupt files.

mod support;

use serde_json::{json, Value};
use support::*;
use text_hf::codec::Codec;

fn ids(codec: &Codec, text: &str, special: bool) -> Vec<u32> {
    codec.encode(text, special).unwrap().iter().map(|token| token.id).collect()
}

#[test]
fn published_vectors_are_equal() {
    for name in ["llama", "llama3", "qwen2"] {
        let (Some(folder), Some(vectors)) = (shared(&format!("tokenizers/{name}")), shared("tokenizers/vectors")) else { return };
        let codec = open_folder(&folder);
        let inputs = read(vectors.join(format!("{name}.inp")));
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let outputs = read(vectors.join(format!("{name}.out")));
        let outputs: Vec<Vec<u32>> = outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
        assert!(outputs.len() >= 46 && inputs.len() >= outputs.len(), "{name}: {} inputs, {} outputs", inputs.len(), outputs.len());
        for (input, output) in inputs.iter().zip(&outputs) {
            assert_eq!(&ids(&codec, input, false), output, "{name}: {input:?}");
        }
    }
}

#[test]
fn the_class_decides_how_text_after_a_special_token_begins() {
    let as_it_stands = codec(&sentence_tokenizer(), &json!({"bos_token": "<s>"}), "").unwrap();
    let llama = codec(&sentence_tokenizer(), &json!({"bos_token": "<s>", "tokenizer_class": "LlamaTokenizer"}), "").unwrap();
    let id = |text: &str| llama.token_id(text).unwrap();
    assert_eq!(ids(&as_it_stands, "ab</s>ab", true), [1, id("\u{2581}ab"), 2, id("\u{2581}ab")]);
    assert_eq!(ids(&llama, "ab</s>ab", true), [1, id("\u{2581}ab"), 2, id("ab")]);
}

#[test]
fn a_space_at_the_beginning_survives() {
    let config = json!({"bos_token": "<s>", "tokenizer_class": "LlamaTokenizer"});
    let codec = codec(&sentence_tokenizer(), &config, "").unwrap();
    for text in [" ab", "  a", " ", "\u{2581}a", " </s> a"] {
        let tokens = codec.encode(text, true).unwrap();
        let expected = text.replace('\u{2581}', " ");
        assert_eq!(codec.decode(&ids(&codec, text, false), false).unwrap(), expected);
        assert_eq!(tokens.last().unwrap().end, text.len());
    }
}

#[test]
fn offsets_are_bytes_of_the_text() {
    let codec = codec(&sentence_tokenizer(), &json!({}), "").unwrap();
    let text = "ab \u{e9}</s>";
    let tokens = codec.encode(text, true).unwrap();
    let places: Vec<(usize, usize)> = tokens.iter().map(|token| (token.begin, token.end)).collect();
    assert_eq!(places, [(0, 0), (0, 2), (2, 3), (3, 5), (3, 5), (5, 9)]);
    assert_eq!(tokens.last().unwrap().id, 2);
}

#[test]
fn added_tokens_get_the_next_ids() {
    let mut codec = codec(&byte_tokenizer(), &json!({"eos_token": "<|end|>", "pad_token": "<|pad|>"}), "").unwrap();
    assert_eq!((codec.vocab_size(), codec.token_id("<|pad|>")), (260, Some(259)));
    assert_eq!(codec.special_token("eos_token"), Some("<|end|>"));
    assert_eq!(codec.special_ids(), [257, 258, 259]);
    assert_eq!(codec.add_tokens(&["<new>".into(), "a".into(), "<new>".into()], false).unwrap(), 1);
    assert_eq!((codec.vocab_size(), codec.token_id("<new>"), codec.is_special(260)), (261, Some(260), false));
    assert_eq!(ids(&codec, "x<new>y", false), [u32::from(b'x'), 260, u32::from(b'y')]);
    let stream = codec.stream(false);
    assert!(codec.add_tokens(&["<more>".into()], false).is_err());
    drop(stream);
}

fn check_stream(codec: &Codec, ids: &[u32]) {
    for skip in [false, true] {
        let mut stream = codec.stream(skip);
        let mut text: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        text += &stream.finish().unwrap();
        assert_eq!(text, codec.decode(ids, skip).unwrap(), "skip {skip}, ids {ids:?}");
    }
}

#[test]
fn a_stream_equals_the_decoding_of_all_ids() {
    let whole = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    let with_decoder = |decoder: Value| {
        let mut tokenizer = sentence_tokenizer();
        tokenizer["decoder"] = decoder;
        tokenizer
    };
    let mut random = Random(1);
    for tokenizer in [sentence_tokenizer(), byte_tokenizer(), with_decoder(whole), with_decoder(metaspace), with_decoder(Value::Null)] {
        let codec = codec(&tokenizer, &json!({}), "").unwrap();
        let size = codec.vocab_size();
        for text in ["a", " ab  ab", "\u{1F600}\u{1F600} x \u{e9}", "</s>ab</s> ab", "", "\n\n a"] {
            check_stream(&codec, &ids(&codec, text, true));
        }
        for _ in 0..3000 {
            // Small ids (special tokens and bytes that begin characters) half of the time, unknown ids now and then.
            let count = random.below(9);
            let sequence: Vec<u32> = (0..count)
                .map(|_| if random.below(2) == 0 { random.below(size + 2) } else { size - 1 - random.below(72) } as u32)
                .collect();
            check_stream(&codec, &sequence);
        }
    }
}

#[test]
fn pieces_come_as_soon_as_they_are_certain() {
    let codec = codec(&sentence_tokenizer(), &json!({}), "").unwrap();
    let mut stream = codec.stream(false);
    let id = |text: &str| codec.token_id(text).unwrap();
    let sequence = ["\u{2581}a", "\u{2581}a", "<0xC3>", "<0xA9>", "b"].map(id);
    assert_eq!(sequence.map(|id| stream.push(id).unwrap()), ["a", " a", "", "", "\u{e9}b"]);
}

#[test]
fn corrupt_files_are_errors() {
    let good = sentence_tokenizer().to_string();
    let mut random = Random(2);
    let open = |bytes: &[u8]| {
        let files = text_hf::codec::Files {
            tokenizer_json: bytes,
            tokenizer_config: "",
            special_tokens_map: "",
            chat_template: "",
            model_type: "",
        };
        Codec::new(&files).map(|_| ())
    };
    assert!(open(good.as_bytes()).is_ok());
    for text in
        ["", "{}", "[]", "null", "{\"model\": {}}", "{\"model\": {\"type\": \"BPE\"}}", "{\"version\": \"9\", \"model\": {}}", "\u{feff}{}"]
    {
        assert!(open(text.as_bytes()).is_err(), "{text}");
    }
    assert!(open(&[0xFF, 0xFE]).is_err());
    for _ in 0..300 {
        let cut = random.below(good.len());
        assert!(open(&good.as_bytes()[..cut]).is_err());
        // A changed byte may leave a valid file; it must only not bring the process down.
        let mut bytes = good.clone().into_bytes();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(128) as u8;
        }
        let _ = open(&bytes).is_ok();
    }
    let deep = format!("{{\"model\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(open(deep.as_bytes()).is_err());
    let mut regex = byte_tokenizer();
    regex["pre_tokenizer"] =
        json!({"type": "Split", "pattern": {"Regex": "(".repeat(100_000) + &")".repeat(100_000)}, "behavior": "Isolated", "invert": false});
    assert!(open(regex.to_string().as_bytes()).is_err());
}

#[test]
fn a_catastrophic_pattern_ends() {
    let mut tokenizer = byte_tokenizer();
    tokenizer["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(a+)+(?=b)$"}, "behavior": "Isolated", "invert": false});
    let codec = codec(&tokenizer, &json!({}), "").unwrap();
    let _ = codec.encode(&"a".repeat(50_000), false);
}

#[test]
fn threads_share_a_codec() {
    let codec = codec(&sentence_tokenizer(), &json!({}), "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let expected = ids(&codec, "ab a\u{e9}b", true);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(ids(&codec, "ab a\u{e9}b", true), expected);
                    assert_eq!(codec.decode(&expected, true).unwrap(), "ab a\u{e9}b");
                }
                for _ in 0..20 {
                    let rendered = codec.render(r#"[{"role":"user","content":"x"}]"#, "", Default::default()).unwrap();
                    assert_eq!(rendered.text, "x");
                }
            });
        }
    });
}
