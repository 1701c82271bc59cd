//! The file, judged as mistral-common judges it, and the ids of plain texts.
use std::collections::HashMap;

use base64::{engine::general_purpose::STANDARD, Engine};
use serde::Deserialize;
use tiktoken_rs::CoreBPE;

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Token>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
    version: String,
}

#[derive(Deserialize)]
struct Token {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// What files up to v7 that list no special tokens mean.
const OLD_SPECIAL: [&str; 20] = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]",
    "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
];

pub struct Tekken {
    core: CoreBPE,
    /// By rank; ids are ranks behind the special tokens.
    tokens: Vec<Vec<u8>>,
    special: Vec<String>,
    ids: HashMap<Vec<u8>, u32>,
    version: u32,
}

/// More would be no vocabulary, and less memory than its ids.
const MAX_TOKENS: usize = 1 << 24;

impl Tekken {
    pub fn new(json: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(json).map_err(|e| format!("it is no tekken.json: {e}"))?;
        let config = &file.config;
        let version = config.version.strip_prefix('v').and_then(|v| v.parse().ok());
        let version: u32 = version.ok_or_else(|| format!("config.version is '{}', expected v3, v7, v11 or the like", config.version))?;
        let count = config.default_num_special_tokens;
        if config.default_vocab_size > MAX_TOKENS || count >= config.default_vocab_size || config.default_vocab_size - count > file.vocab.len() {
            return Err(format!(
                "config.default_vocab_size is {}, expected more than the {count} special tokens and at most {} more than that: as many are in vocab",
                config.default_vocab_size,
                file.vocab.len()
            ));
        }
        let special = special_tokens(file.special_tokens, count, version)?;
        let mut tokens = Vec::new();
        for (rank, token) in file.vocab[..config.default_vocab_size - count].iter().enumerate() {
            let bytes = STANDARD.decode(&token.token_bytes).map_err(|e| format!("vocab[{rank}].token_bytes is no base64: {e}"))?;
            if token.rank != rank || (rank < 256 && bytes != [rank as u8]) {
                return Err(format!("vocab[{rank}] has rank {} and bytes {bytes:?}, expected ranks in order, the 256 bytes first", token.rank));
            }
            tokens.push(bytes);
        }
        if tokens.len() < 256 {
            return Err(format!("vocab has {} tokens, expected the 256 bytes at least", tokens.len()));
        }
        let mut encoder = rustc_hash::FxHashMap::default();
        let mut ids = HashMap::new();
        for (rank, bytes) in tokens.iter().enumerate() {
            if encoder.insert(bytes.clone(), rank as u32).is_some() {
                return Err(format!("vocab[{rank}] is there twice"));
            }
            ids.insert(bytes.clone(), (rank + count) as u32);
        }
        for (id, spelling) in special.iter().enumerate() {
            ids.insert(spelling.as_bytes().to_vec(), id as u32);
        }
        let core = CoreBPE::new(encoder, Default::default(), &config.pattern).map_err(|e| format!("config.pattern: {e}"))?;
        Ok(Self { core, tokens, special, ids, version })
    }

    pub fn vocab_size(&self) -> usize {
        self.special.len() + self.tokens.len()
    }

    pub fn special_count(&self) -> usize {
        self.special.len()
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn token(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match self.special.get(id) {
            Some(spelling) => spelling.as_bytes(),
            None => self.tokens.get(id - self.special.len()).map_or(&[], |bytes| bytes),
        }
    }

    pub fn id(&self, bytes: &[u8]) -> Option<u32> {
        self.ids.get(bytes).copied()
    }

    pub fn encode(&self, text: &str) -> Vec<u32> {
        let first = self.special.len() as u32;
        self.core.encode_ordinary(text).into_iter().map(|rank| rank + first).collect()
    }
}

fn special_tokens(listed: Option<Vec<Special>>, count: usize, version: u32) -> Result<Vec<String>, String> {
    let listed: Vec<String> = match listed {
        None if version > 7 => return Err("special_tokens is missing, expected a list in files of versions above v7".into()),
        None => OLD_SPECIAL.iter().map(|s| s.to_string()).collect(),
        Some(list) => {
            if let Some((i, token)) = list.iter().enumerate().find(|(i, token)| token.rank != *i) {
                return Err(format!("special_tokens[{i}] has rank {}, expected ranks in order", token.rank));
            }
            list.into_iter().map(|token| token.token_str).collect()
        }
    };
    if listed.len() > count {
        return Err(format!("there are {} special tokens, expected at most default_num_special_tokens ({count})", listed.len()));
    }
    let filler = (listed.len()..count).map(|i| format!("<SPECIAL_{i}>"));
    let all: Vec<String> = listed.iter().cloned().chain(filler).collect();
    let mut seen = std::collections::HashSet::new();
    match all.iter().find(|token| !seen.insert(*token)) {
        Some(token) => Err(format!("special token '{token}' is there twice")),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes, "ab", "abc" and two special tokens.
    fn file(change: impl Fn(&mut serde_json::Value)) -> String {
        let bytes = (0..256u32).map(|b| vec![b as u8]).chain([b"ab".to_vec(), b"abc".to_vec(), b"unused".to_vec()]);
        let vocab: Vec<_> = bytes.enumerate().map(|(i, b)| serde_json::json!({"rank": i, "token_bytes": STANDARD.encode(b), "token_str": null})).collect();
        let special = serde_json::json!([{"rank": 0, "token_str": "<s>", "is_control": true}]);
        let config = serde_json::json!({"pattern": "\\w+|\\s+|\\W+", "default_vocab_size": 260, "default_num_special_tokens": 2, "num_vocab_tokens": 259, "version": "v11"});
        let mut value = serde_json::json!({"config": config, "vocab": vocab, "special_tokens": special});
        change(&mut value);
        value.to_string()
    }

    #[test]
    fn words_become_their_longest_merges_behind_the_special_tokens() {
        let tekken = Tekken::new(&file(|_| {})).unwrap();
        assert_eq!(tekken.encode("abcab c"), [259, 258, 34, 101]);
        assert_eq!(tekken.encode("<s>"), [62, 117, 64]); // plain text, never a special token
        assert_eq!((tekken.vocab_size(), tekken.special_count(), tekken.version()), (260, 2, 11));
        assert_eq!(tekken.token(1), b"<SPECIAL_1>");
        assert_eq!(tekken.token(259), b"abc");
        assert_eq!(tekken.token(260), b"");
        assert_eq!(tekken.id(b"<s>"), Some(0));
        assert_eq!(tekken.id(b"unused"), None); // cut off by default_vocab_size
    }

    #[test]
    fn files_that_cannot_be_vocabularies_say_why() {
        let error = |change: &dyn Fn(&mut serde_json::Value)| Tekken::new(&file(change)).err().unwrap();
        assert!(Tekken::new("{}").err().unwrap().contains("no tekken.json"));
        assert!(error(&|v| v["config"]["version"] = "x".into()).contains("config.version is 'x'"));
        assert!(error(&|v| v["config"]["default_vocab_size"] = 9999.into()).contains("default_vocab_size is 9999"));
        assert!(error(&|v| v["config"]["default_num_special_tokens"] = 260.into()).contains("default_vocab_size is 260"));
        assert!(error(&|v| v["vocab"][7]["rank"] = 8.into()).contains("vocab[7] has rank 8"));
        assert!(error(&|v| v["vocab"][9]["token_bytes"] = "?".into()).contains("no base64"));
        assert!(error(&|v| v["vocab"][257]["token_bytes"] = v["vocab"][256]["token_bytes"].clone()).contains("vocab[257] is there twice"));
        assert!(error(&|v| v["special_tokens"] = serde_json::Value::Null).contains("special_tokens is missing"));
        assert!(error(&|v| v["special_tokens"][0]["token_str"] = "<SPECIAL_1>".into()).contains("there twice"));
        assert!(error(&|v| v["config"]["pattern"] = "(".into()).contains("config.pattern"));
    }
}
