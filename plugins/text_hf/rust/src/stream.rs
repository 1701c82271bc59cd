//! Decoding a stream of tokens: the pieces put together equal the decoding of all ids, bytes of broken characters included.

use tokenizers::{DecoderWrapper, Tokenizer};

use crate::error::{Error, Result};

/// What a decoder allows. Cutting is safe only where later tokens cannot change the text of earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every token is bytes; only an incomplete character waits.
    Bytes,
    /// Tokens are text, a run of byte tokens (`<0xE2>`) is decoded as a whole; the first characters depend on the position.
    Pieces,
    /// Anything else: all text comes at the end.
    Whole,
}

impl Mode {
    /// `cleans` says that the codec edits the decoded text afterwards.
    pub fn of(tokenizer: &Tokenizer, cleans: bool) -> Self {
        if cleans {
            return Mode::Whole;
        }
        match tokenizer.get_decoder() {
            None => Mode::Pieces,
            Some(DecoderWrapper::ByteLevel(_)) => Mode::Bytes,
            Some(DecoderWrapper::Sequence(sequence)) if sequence.get_decoders().iter().all(is_local) => Mode::Pieces,
            Some(decoder) if is_local(decoder) => Mode::Pieces,
            Some(_) => Mode::Whole,
        }
    }
}

/// True for decoders that look at one token at a time, save for runs of byte tokens and the start of the text.
fn is_local(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_) | DecoderWrapper::Fuse(_) => true,
        DecoderWrapper::Strip(strip) => strip.stop == 0 && strip.start <= 1,
        // A pattern of one character cannot span two tokens.
        DecoderWrapper::Replace(replace) => serde_json::to_value(replace)
            .ok()
            .and_then(|value| Some(value.get("pattern")?.get("String")?.as_str()?.chars().count() == 1))
            .unwrap_or(false),
        _ => false,
    }
}

pub struct Stream {
    mode: Mode,
    skip_special: bool,
    /// Pieces: context tokens, then waiting ones. Whole: all. Bytes: unused.
    ids: Vec<u32>,
    /// How many of `ids` are context: already given out.
    context: usize,
    /// Bytes: the start of an incomplete character.
    held: Vec<u8>,
}

impl Stream {
    pub fn new(mode: Mode, skip_special: bool) -> Self {
        Stream { mode, skip_special, ids: Vec::new(), context: 0, held: Vec::new() }
    }

    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        let token = match tokenizer.id_to_token(id) {
            Some(token) if !(self.skip_special && tokenizer.get_added_vocabulary().is_special_token(&token)) => token,
            _ => return Ok(String::new()),
        };
        match self.mode {
            Mode::Bytes => Ok(self.push_bytes(&token)),
            Mode::Whole => {
                self.ids.push(id);
                Ok(String::new())
            }
            Mode::Pieces => {
                self.ids.push(id);
                if is_byte_token(&token) {
                    return Ok(String::new());
                }
                self.take_pieces(tokenizer)
            }
        }
    }

    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        match self.mode {
            Mode::Bytes => {
                let rest = std::mem::take(&mut self.held);
                Ok(String::from_utf8_lossy(&rest).into_owned())
            }
            Mode::Whole => decode(tokenizer, &std::mem::take(&mut self.ids)),
            Mode::Pieces => self.take_pieces(tokenizer),
        }
    }

    /// Gives out what waits: the text of context and waiting tokens without the text of the context.
    fn take_pieces(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let before = decode(tokenizer, &self.ids[..self.context])?;
        let all = decode(tokenizer, &self.ids)?;
        let piece = match all.strip_prefix(&before) {
            Some(piece) => piece.to_owned(),
            None => return Err(Error::internal("the decoder is not the kind that a stream took it for")),
        };
        // Only the very start of a text is treated differently (a stripped space), so any context with text stands for all that came before.
        if !piece.is_empty() {
            let waiting = self.ids.split_off(self.context);
            if decode(tokenizer, &waiting)?.is_empty() {
                self.ids.extend(waiting);
            } else {
                self.ids = waiting;
            }
        }
        self.context = self.ids.len();
        Ok(piece)
    }

    fn push_bytes(&mut self, token: &str) -> String {
        self.held.extend_from_slice(&token_bytes(token));
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.held.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.held[..valid]));
                    let Some(bad) = error.error_len() else {
                        self.held.drain(..valid);
                        return text;
                    };
                    text.push('\u{FFFD}');
                    self.held.drain(..valid + bad);
                }
            }
        }
    }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    // Special tokens to skip were never kept.
    tokenizer.decode(ids, false).map_err(|e| Error::data(format!("decode: {e}")))
}

fn is_byte_token(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') && u8::from_str_radix(&token[3..5], 16).is_ok()
}

/// The bytes of a byte-level token: each character stands for a byte; a token with any other character is text.
fn token_bytes(token: &str) -> Vec<u8> {
    token.chars().map(char_byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's table: printable Latin-1 characters stand for themselves, the other bytes are numbered from U+0100 in their order.
fn char_byte(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}
