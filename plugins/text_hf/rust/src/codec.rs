//! The codec: a tokenizer and a chat template. Immutable after `add_tokens`, so any number of threads may use it.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{Error, Result};
use crate::guard;
use crate::load::{load, Loaded};
use crate::spans::{render_with_spans, Rendered};
use crate::special::SpecialTokens;
use crate::stream::{Mode, Stream};
use crate::template::{prepare_messages, ChatTemplate, Request};

pub struct Files<'a> {
    pub tokenizer_json: &'a [u8],
    /// Empty: `{}`.
    pub tokenizer_config: &'a str,
    /// Empty: none, or already merged into the config.
    pub special_tokens_map: &'a str,
    /// Empty: none.
    pub chat_template: &'a str,
    /// `model_type` of config.json; empty: not known.
    pub model_type: &'a str,
}

pub struct Codec {
    tokenizer: Arc<Tokenizer>,
    special: SpecialTokens,
    template: Option<Arc<ChatTemplate>>,
    clean_up: bool,
    mode: Mode,
    space_before_space: bool,
}

#[derive(Clone, Copy, Default)]
pub struct RenderOptions {
    pub add_generation_prompt: bool,
    pub continue_final_message: bool,
    pub want_spans: bool,
}

pub struct Token {
    pub id: u32,
    pub begin: usize,
    pub end: usize,
}

impl Codec {
    pub fn new(files: &Files) -> Result<Self> {
        let config = object(files.tokenizer_config, "tokenizer_config.json")?;
        let map = object(files.special_tokens_map, "special_tokens_map.json")?;
        let loading = || load(files.tokenizer_json, &config, &map, files.model_type);
        // The crate panics over some broken files.
        let loaded = catch_unwind(AssertUnwindSafe(loading))
            .unwrap_or_else(|panic| Err(Error::data(format!("tokenizer.json: broken: {}", guard::panic_text(panic.as_ref())))));
        let Loaded { tokenizer, special, space_before_space } = loaded?;
        let template = match files.chat_template {
            "" => None,
            source => {
                let source = source.to_owned();
                let limits = guard::Limits::for_input(source.len());
                let compile = move || ChatTemplate::compile(&source).map(Arc::new);
                Some(guard::run("chat template: compiling it", limits, compile)?)
            }
        };
        let flag = |name: &str| config.get(name).and_then(Json::as_bool) == Some(true);
        // Meant for WordPiece; on BPE it would eat spaces, so transformers wants to be told twice.
        let is_bpe = matches!(tokenizer.get_model(), ModelWrapper::BPE(_));
        let clean_up = flag("clean_up_tokenization_spaces")
            && (!is_bpe || flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"));
        let mode = Mode::of(&tokenizer, clean_up);
        Ok(Codec { tokenizer: Arc::new(tokenizer), special, template, clean_up, mode, space_before_space })
    }

    /// Adds tokens that the vocabulary does not have; returns how many it did not. Before the codec is shared.
    pub fn add_tokens(&mut self, tokens: &[String], special: bool) -> Result<usize> {
        let tokenizer =
            Arc::get_mut(&mut self.tokenizer).ok_or_else(|| Error::data("tokens can only be added before the codec is in use"))?;
        let before = tokenizer.get_vocab_size(true);
        let tokens: Vec<AddedToken> = tokens.iter().map(|text| AddedToken::from(text.clone(), special)).collect();
        tokenizer.add_tokens(tokens).map_err(|e| Error::data(format!("add tokens: {e}")))?;
        Ok(tokenizer.get_vocab_size(true) - before)
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<Token>> {
        let padded = self.space_before_space && text.starts_with([' ', '\u{2581}']);
        let encoding = if padded {
            self.tokenizer.encode(format!(" {text}"), add_special_tokens)
        } else {
            self.tokenizer.encode(text, add_special_tokens)
        };
        let encoding = encoding.map_err(|e| Error::data(format!("encode: {e}")))?;
        let pad = usize::from(padded);
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.map(|(id, (begin, end))| Token { id: *id, begin: begin.saturating_sub(pad), end: end.saturating_sub(pad) }).collect())
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let text = self.tokenizer.decode(ids, skip_special_tokens).map_err(|e| Error::data(format!("decode: {e}")))?;
        Ok(if self.clean_up { clean_up(text) } else { text })
    }

    pub fn stream(&self, skip_special_tokens: bool) -> Decoding {
        Decoding { tokenizer: self.tokenizer.clone(), stream: Stream::new(self.mode, skip_special_tokens), clean_up: self.clean_up }
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// `bos_token`, `eos_token`, `pad_token`, `unk_token` ... or a model's own name.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special.get(name)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.tokenizer.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Ids of all special tokens, ascending.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    fn special_contents(&self) -> Vec<String> {
        let added = self.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        added.values().filter(|token| token.special).map(|token| token.content.clone()).collect()
    }

    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    pub fn has_generation_blocks(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.has_generation_blocks())
    }

    /// A rendered conversation that begins so must not get another one.
    pub fn starts_with_bos(&self, text: &str) -> bool {
        self.special.get("bos_token").is_some_and(|bos| !bos.is_empty() && text.starts_with(bos))
    }

    pub fn render(&self, messages: &str, variables: &str, options: RenderOptions) -> Result<Rendered> {
        let template = self.template.clone().ok_or_else(|| {
            Error::template("the checkpoint has no chat template; name one in the recipe: [text] chat_template = \"file.jinja\"")
        })?;
        let parsed = serde_json::from_str(messages).map_err(|e| Error::data(format!("messages: {e}")))?;
        let messages_bytes = messages.len() + variables.len();
        let mut all = Map::new();
        for (name, token) in &self.special.named {
            all.insert(name.clone(), Json::String(token.content.clone()));
        }
        all.extend(object(variables, "template variables")?);
        let mut request =
            Request { messages: prepare_messages(parsed)?, variables: all, add_generation_prompt: options.add_generation_prompt };
        if options.continue_final_message && (options.add_generation_prompt || options.want_spans) {
            return Err(Error::data("continue_final_message goes with neither add_generation_prompt nor spans"));
        }
        let special = if options.want_spans { self.special_contents() } else { Vec::new() };
        let limits = guard::Limits::for_input(messages_bytes);
        guard::run("chat template: rendering it", limits, move || {
            if options.continue_final_message {
                let text = crate::template::render_continued(&template, &mut request)?;
                return Ok(Rendered { text, spans: Vec::new() });
            }
            if options.want_spans {
                return render_with_spans(&template, &request, &special);
            }
            Ok(Rendered { text: template.render(&request, None)?, spans: Vec::new() })
        })
    }
}

/// One stream of tokens being decoded; keeps what it needs of the codec alive.
pub struct Decoding {
    tokenizer: Arc<Tokenizer>,
    stream: Stream,
    clean_up: bool,
}

impl Decoding {
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.stream.push(&self.tokenizer, id)
    }

    pub fn finish(&mut self) -> Result<String> {
        let text = self.stream.finish(&self.tokenizer)?;
        Ok(if self.clean_up { clean_up(text) } else { text })
    }
}

fn object(text: &str, what: &str) -> Result<Map<String, Json>> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Json::Object(fields)) => Ok(fields),
        Ok(Json::Null) => Ok(Map::new()),
        Ok(_) => Err(Error::data(format!("{what}: expected a table"))),
        Err(error) => Err(Error::data(format!("{what}: {error}"))),
    }
}

/// The artefacts that transformers' clean_up_tokenization removes, in its order.
fn clean_up(text: String) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs.iter().fold(text, |text, (from, to)| text.replace(from, to))
}
