//! For comparisons with the reference library: reads requests, one JSON table a line, and writes an answer a line.
//!
//! text_hf_dump FOLDER [TEMPLATE]      FOLDER holds tokenizer.json and, where there are, tokenizer_config.json, special_tokens_map.json,
//!                                     chat_template.jinja, config.json. "-" as FOLDER: a built-in tokenizer, for templates alone.
//! {"text": ..., "special": bool}      -> {"ids", "offsets", "decoded", "skipped", "streamed"}
//! {"ids": [...]}                      -> {"decoded", "skipped", "streamed", "streamed_skipped"}
//! {"messages": [...], "variables": {}, "prompt": bool, "spans": bool, "continue": bool, "template": "source, optional"}
//!                                     -> {"text", "spans"}
//! {"info": true}                      -> {"vocab_size", "special_ids", "bos", ...}
//! A failure answers {"error": text}.

use std::io::{BufRead, Write};
use std::path::Path;

use serde_json::{json, Value};
use text_hf::codec::{Codec, Files, RenderOptions};

const TINY: &[u8] = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[]}"#;

fn open(folder: &str, template: Option<&str>, config: Option<&str>) -> text_hf::error::Result<Codec> {
    let read = |name: &str| std::fs::read_to_string(Path::new(folder).join(name)).unwrap_or_default();
    let tokenizer = if folder == "-" { TINY.to_vec() } else { std::fs::read(Path::new(folder).join("tokenizer.json")).unwrap_or_default() };
    let tokenizer_config = config.map_or_else(|| read("tokenizer_config.json"), str::to_owned);
    let table: Value = serde_json::from_str(&tokenizer_config).unwrap_or_default();
    let file = read("chat_template.jinja");
    let own = table.get("chat_template").and_then(Value::as_str).unwrap_or("");
    let model: Value = serde_json::from_str(&read("config.json")).unwrap_or_default();
    Codec::new(&Files {
        tokenizer_json: &tokenizer,
        tokenizer_config: &tokenizer_config,
        special_tokens_map: &read("special_tokens_map.json"),
        chat_template: template.unwrap_or(if file.is_empty() { own } else { &file }),
        model_type: model.get("model_type").and_then(Value::as_str).unwrap_or(""),
    })
}

fn decoded(codec: &Codec, ids: &[u32]) -> text_hf::error::Result<Value> {
    let streamed = |skip: bool| -> text_hf::error::Result<String> {
        let mut stream = codec.stream(skip);
        let mut text = String::new();
        for id in ids {
            text += &stream.push(*id)?;
        }
        Ok(text + &stream.finish()?)
    };
    Ok(json!({"decoded": codec.decode(ids, false)?, "skipped": codec.decode(ids, true)?,
        "streamed": streamed(false)?, "streamed_skipped": streamed(true)?}))
}

fn answer(codec: &Codec, request: &Value) -> text_hf::error::Result<Value> {
    let flag = |name: &str| request.get(name).and_then(Value::as_bool).unwrap_or(false);
    if let Some(text) = request.get("text").and_then(Value::as_str) {
        let tokens = codec.encode(text, flag("special"))?;
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let mut answer = decoded(codec, &ids)?;
        answer["ids"] = json!(ids);
        answer["offsets"] = tokens.iter().map(|token| json!([token.begin, token.end])).collect();
        return Ok(answer);
    }
    if let Some(ids) = request.get("ids").and_then(Value::as_array) {
        return decoded(codec, &ids.iter().filter_map(|id| id.as_u64().map(|id| id as u32)).collect::<Vec<_>>());
    }
    if let Some(messages) = request.get("messages") {
        let variables = request.get("variables").map(Value::to_string).unwrap_or_default();
        let options =
            RenderOptions { add_generation_prompt: flag("prompt"), continue_final_message: flag("continue"), want_spans: flag("spans") };
        let rendered = codec.render(&messages.to_string(), &variables, options)?;
        let spans: Vec<Value> = rendered.spans.iter().map(|span| json!([span.begin, span.end, span.message])).collect();
        return Ok(json!({"text": rendered.text, "spans": spans}));
    }
    let id = |name: &str| codec.special_token(name).and_then(|token| codec.token_id(token));
    Ok(json!({"vocab_size": codec.vocab_size(), "special_ids": codec.special_ids(), "bos": id("bos_token"), "eos": id("eos_token"),
        "pad": id("pad_token"), "unk": id("unk_token")}))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().map_or("-", String::as_str);
    let file = arguments.get(1).map(|path| std::fs::read_to_string(path).expect("the template"));
    let mut codec = open(folder, file.as_deref(), None);
    let mut template = String::new();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        if let Some(source) = request.get("template").and_then(Value::as_str) {
            if source != template || codec.is_err() {
                template = source.to_owned();
                codec = open(folder, Some(source), None);
            }
        }
        let result = codec.as_ref().map_err(Clone::clone).and_then(|codec| answer(codec, &request));
        writeln!(out, "{}", result.unwrap_or_else(|error| json!({"error": error.text}))).expect("stdout");
    }
}
