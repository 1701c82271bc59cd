//! The special tokens of a checkpoint, read from tokenizer_config.json and special_tokens_map.json by transformers' rules.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::{Error, Result};

/// Names that transformers reserves, in its order.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

#[derive(Default)]
pub struct SpecialTokens {
    /// Reserved names first, then a model's own (`image_token` ...). They are also variables of the chat template.
    pub named: Vec<(String, AddedToken)>,
    pub extra: Vec<AddedToken>,
    /// `added_tokens_decoder`, or tokenizer.json's added tokens where the config has none.
    pub added: BTreeMap<u32, AddedToken>,
}

impl SpecialTokens {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(key, _)| key == name).map(|(_, token)| token.content.as_str())
    }

    /// All of them once, named before extra.
    pub fn all(&self) -> Vec<&AddedToken> {
        let mut tokens: Vec<&AddedToken> = Vec::new();
        for token in self.named.iter().map(|(_, token)| token).chain(&self.extra) {
            if !tokens.iter().any(|other| other.content == token.content) {
                tokens.push(token);
            }
        }
        tokens
    }

    /// `defaults` are the special tokens of the tokenizer class, for keys that the config does not have.
    /// `file_tokens` are the added tokens of tokenizer.json.
    pub fn read(
        config: &Map<String, Value>,
        map: &Map<String, Value>,
        defaults: &[(&str, &str)],
        file_tokens: &BTreeMap<u32, AddedToken>,
    ) -> Result<Self> {
        let mut values = config.clone();
        let mut result = SpecialTokens::default();
        if let Some(Value::Object(added)) = config.get("added_tokens_decoder") {
            for (id, token) in added {
                let id: u32 = id.parse().map_err(|_| {
                    Error::data(format!("tokenizer_config.json: added_tokens_decoder has the id '{id}', expected a number"))
                })?;
                let token = token_of(token)
                    .ok_or_else(|| Error::data(format!("tokenizer_config.json: added_tokens_decoder.{id} is not a token")))?;
                result.added.insert(id, token);
            }
        } else {
            // The older layout: special_tokens_map.json overrides, tokenizer.json gives the added tokens.
            for (key, value) in map {
                values.insert(key.clone(), value.clone());
            }
            result.added = file_tokens.clone();
        }

        let resolve = |value: &Value| -> Option<AddedToken> {
            let token = token_of(value)?;
            Some(result.added.values().find(|added| added.content == token.content).cloned().unwrap_or(token))
        };
        for name in NAMED {
            let value = match values.get(name) {
                Some(value) => value.clone(),
                None => match defaults.iter().find(|(key, _)| *key == name) {
                    Some((_, default)) => Value::String((*default).into()),
                    None => continue,
                },
            };
            if value.is_null() {
                continue;
            }
            let token = resolve(&value).ok_or_else(|| Error::data(format!("tokenizer_config.json: {name} is neither text nor a token")))?;
            result.named.push((name.into(), token));
        }
        for (key, value) in &values {
            if key.ends_with("_token") && !NAMED.contains(&key.as_str()) {
                if let Some(token) = token_of(value) {
                    result.named.push((key.clone(), token));
                }
            }
        }
        let extra = match values.get("extra_special_tokens") {
            Some(value) if !is_empty(value) => Some(value),
            _ => values.get("additional_special_tokens"),
        };
        match extra {
            Some(Value::Array(items)) => result.extra = items.iter().filter_map(token_of).collect(),
            Some(Value::Object(items)) => {
                for (key, value) in items {
                    if let Some(token) = token_of(value) {
                        result.named.push((key.clone(), token));
                    }
                }
            }
            _ => {}
        }
        Ok(result)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

/// A token is its text, or a table with `content` and flags.
fn token_of(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(text) => Some(AddedToken::from(text.clone(), true)),
        Value::Object(fields) => {
            let content = fields.get("content")?.as_str()?;
            let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            Some(
                AddedToken::from(content, special)
                    .single_word(flag("single_word").unwrap_or(false))
                    .lstrip(flag("lstrip").unwrap_or(false))
                    .rstrip(flag("rstrip").unwrap_or(false))
                    .normalized(flag("normalized").unwrap_or(!special)),
            )
        }
        _ => None,
    }
}
