//! From a checkpoint's files to a tokenizer that behaves as transformers' AutoTokenizer does on the same files.
//!
//! tokenizer.json alone does not say it all: AutoTokenizer rebuilds the pipeline of some tokenizer classes from the vocabulary and the merges,
//! adds the special tokens that the configs name, and ignores `add_bos_token` and `add_eos_token` where tokenizer.json exists.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokenizers::decoders::{byte_fallback::ByteFallback, byte_level::ByteLevel, fuse::Fuse, sequence, strip::Strip, DecoderWrapper};
use tokenizers::models::{bpe::BPE, ModelWrapper};
use tokenizers::normalizers::{unicode::NFC, NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::{sequence::Sequence, split::Split, split::SplitPattern, PreTokenizerWrapper};
use tokenizers::{AddedToken, PostProcessorWrapper, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder};

use crate::error::{Error, Result};
use crate::special::SpecialTokens;

/// Model types whose checkpoints AutoTokenizer opens from tokenizer.json as it stands, whatever class their config names.
const FILE_AS_IT_STANDS: [&str; 39] = [
    "aria",
    "arctic",
    "cohere_asr",
    "ernie4_5",
    "ernie4_5_moe",
    "fuyu",
    "glm",
    "glm4",
    "glm4_moe",
    "glm4v",
    "gpt_bigcode",
    "granite",
    "granitemoe",
    "internlm2",
    "internlm3",
    "jamba",
    "llava",
    "llava_next",
    "minicpm3",
    "minicpmv",
    "minimax_m2",
    "ministral",
    "ministral3",
    "mistral",
    "mistral3",
    "mixtral",
    "modernbert",
    "molmo",
    "nemotron",
    "olmo2",
    "olmo3",
    "persimmon",
    "phi3",
    "phimoe",
    "pixtral",
    "smolvlm",
    "stablelm",
    "vipllava",
    "voxtral",
];

const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How AutoTokenizer treats tokenizer.json.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    AsItStands,
    Llama,
    Qwen2,
}

impl Class {
    fn of(config: &Map<String, Value>, model_type: &str, file: &[u8], model: &ModelWrapper) -> Self {
        let name = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("");
        if !matches!(model, ModelWrapper::BPE(_)) {
            return Class::AsItStands;
        }
        match name.strip_suffix("Fast").unwrap_or(name) {
            _ if FILE_AS_IT_STANDS.contains(&model_type) => Class::AsItStands,
            // Checkpoints of this type often name the wrong class, so theirs is not believed.
            _ if model_type == "qwen2" => Class::Qwen2,
            "LlamaTokenizer" if std::str::from_utf8(file).is_ok_and(|text| text.contains("\"ByteLevel\"")) => Class::AsItStands,
            "LlamaTokenizer" => Class::Llama,
            "Qwen2Tokenizer" => Class::Qwen2,
            "" if model_type.starts_with("qwen3") || model_type.starts_with("qwen2") => Class::Qwen2,
            _ => Class::AsItStands,
        }
    }

    fn default_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Class::AsItStands => &[],
            Class::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Class::Qwen2 => &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")],
        }
    }
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<FileToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    // Parsed apart: through the enum of models it would be copied twice, which for 280,000 merges takes longer than the parsing.
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct FileToken {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelType<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<std::borrow::Cow<'a, str>>,
}

pub struct Loaded {
    pub tokenizer: Tokenizer,
    pub special: SpecialTokens,
    /// Text that begins with a space gets another one before it is encoded.
    ///
    /// SentencePiece puts a space before every text. transformers' LlamaTokenizer leaves it out where there is one, and so decodes " a" as
    /// "a" again; here SentencePiece wins, with which the models were trained.
    pub space_before_space: bool,
}

pub fn load(tokenizer_json: &[u8], config: &Map<String, Value>, map: &Map<String, Value>, model_type: &str) -> Result<Loaded> {
    let broken = |error: &dyn std::fmt::Display| Error::data(format!("tokenizer.json: {error}"));
    let file: File = serde_json::from_slice(tokenizer_json).map_err(|e| broken(&e))?;
    if file.version.as_deref().is_some_and(|version| version != "1.0") {
        return Err(broken(&format!("version '{}', expected '1.0'", file.version.unwrap_or_default())));
    }
    let kind: ModelType = serde_json::from_str(file.model.get()).map_err(|e| broken(&e))?;
    let mut model = if kind.kind.as_deref() == Some("BPE") {
        ModelWrapper::BPE(serde_json::from_str(file.model.get()).map_err(|e| broken(&e))?)
    } else {
        serde_json::from_str(file.model.get()).map_err(|e| broken(&e))?
    };

    let class = Class::of(config, model_type, tokenizer_json, &model);
    let (mut normalizer, mut pre_tokenizer, mut decoder) = (file.normalizer, file.pre_tokenizer, file.decoder);
    if let (Class::Llama | Class::Qwen2, ModelWrapper::BPE(bpe)) = (class, &mut model) {
        (normalizer, pre_tokenizer, decoder) = rebuild(class, bpe, config).map_err(|e| broken(&e))?;
    }
    let mut tokenizer: Tokenizer = TokenizerBuilder::new()
        .with_model(model)
        .with_normalizer(normalizer)
        .with_pre_tokenizer(pre_tokenizer)
        .with_post_processor(file.post_processor)
        .with_decoder(decoder)
        .build()
        .map_err(|e| broken(&e))?
        .into();

    let file_tokens: Vec<(u32, AddedToken)> = file.added_tokens.into_iter().map(|entry| (entry.id, entry.token)).collect();
    let by_id: BTreeMap<u32, AddedToken> = file_tokens.iter().cloned().collect();
    let special = SpecialTokens::read(config, map, class.default_tokens(), &by_id)?;
    let mut tokens = Vec::new();
    if class == Class::AsItStands {
        tokens.extend(file_tokens.into_iter().map(|(_, token)| token));
    }
    tokens.extend(special.added.values().cloned());
    for token in special.named.iter().map(|(_, token)| token.clone().special(true)).chain(special.extra.iter().cloned()) {
        if !tokens.iter().any(|known| known.content == token.content) {
            tokens.push(token);
        }
    }
    if class == Class::Qwen2 {
        tokens.extend(special.all().into_iter().map(|token| AddedToken::from(token.content.clone(), true)));
    }
    tokenizer.add_tokens(tokens).map_err(|e| broken(&e))?;
    if config.get("split_special_tokens").and_then(Value::as_bool) == Some(true) {
        tokenizer.set_encode_special_tokens(true);
    }
    let space_before_space = matches!(tokenizer.get_pre_tokenizer(),
        Some(PreTokenizerWrapper::Metaspace(metaspace)) if class == Class::Llama && metaspace.get_prepend_scheme() == PrependScheme::First);
    Ok(Loaded { tokenizer, special, space_before_space })
}

type Pipeline = (Option<NormalizerWrapper>, Option<PreTokenizerWrapper>, Option<DecoderWrapper>);

/// The pipeline that transformers' class puts around the file's vocabulary and merges.
fn rebuild(class: Class, bpe: &mut BPE, config: &Map<String, Value>) -> tokenizers::Result<Pipeline> {
    let add_prefix_space = config.get("add_prefix_space").and_then(Value::as_bool);
    bpe.dropout = None;
    bpe.unk_token = None;
    bpe.continuing_subword_prefix = None;
    bpe.end_of_word_suffix = None;
    bpe.ignore_merges = false;
    if class == Class::Qwen2 {
        bpe.fuse_unk = false;
        bpe.byte_fallback = false;
        let split = Split::new(SplitPattern::Regex(QWEN2_SPLIT.into()), SplitDelimiterBehavior::Isolated, false)?;
        let bytes = ByteLevel::default().add_prefix_space(add_prefix_space.unwrap_or(false)).use_regex(false);
        let pre = Sequence::new(vec![PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)]);
        return Ok((
            Some(NormalizerWrapper::NFC(NFC)),
            Some(PreTokenizerWrapper::Sequence(pre)),
            Some(DecoderWrapper::ByteLevel(ByteLevel::default())),
        ));
    }
    bpe.fuse_unk = true;
    bpe.byte_fallback = true;
    let prefix = add_prefix_space.unwrap_or(true);
    let legacy = config.get("legacy").and_then(Value::as_bool).unwrap_or(false);
    let scheme = match (prefix, legacy) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    };
    let mut steps = vec![
        DecoderWrapper::Replace(Replace::new("\u{2581}", " ")?),
        DecoderWrapper::ByteFallback(ByteFallback::default()),
        DecoderWrapper::Fuse(Fuse::default()),
    ];
    if prefix {
        steps.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    Ok((
        None,
        Some(PreTokenizerWrapper::Metaspace(Metaspace::new('\u{2581}', scheme, false))),
        Some(DecoderWrapper::Sequence(sequence::Sequence::new(steps))),
    ))
}
