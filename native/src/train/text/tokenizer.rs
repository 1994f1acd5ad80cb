//! Tokenizers for training text: characters, byte-level BPE learned from the text itself, and GPT-2's.
//!
//! All three become the same thing, a byte-level BPE vocabulary (`tokenizer.ggml.model` = `gpt2`), and are encoded by the
//! runtime's own [`Tokenizer`]: what training sees is what `sterna` and llama.cpp make of the text later.
//!
//! - Characters: one token a character of the text. Single bytes come first, in byte order; a character of several
//!   bytes has merges that build it from its bytes, whose beginnings are tokens too. Bytes that the text lacks have no
//!   token: a text with such a character is refused with an error that names it (llama.cpp drops the byte silently).
//! - BPE: all 256 bytes, then merges learned inside the words of GPT-2's pattern; any text can be encoded.
//! - GPT-2: its 50,257 tokens.
//!
//! The last token is always `<|endoftext|>`, for the beginning and the end of a text. Nothing adds it by itself.
//! This module does not split texts and cuts no batches.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use sterna_core::gguf::{Array, Metadata, Value};
use sterna_core::tokenizer::{EncodeOptions, Tokenizer, byte_char};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, Trainer as _};

use crate::data;

/// The token that ends a text.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The vocabulary of `bpe` without a number.
const DEFAULT_BPE: usize = 1024;
/// What `bpe:N` may ask for.
const BPE_SIZES: std::ops::RangeInclusive<usize> = 512..=4096;
/// A pair that occurs less often is not worth a token.
const MIN_FREQUENCY: u64 = 2;
/// The numbers of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Which tokenizer; written `chars`, `bpe`, `bpe:2048` or `gpt2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TokenizerChoice {
    /// One token a character.
    Characters,
    /// Byte-level BPE learned from the training text.
    Bpe {
        /// At most so many tokens, 512 to 4096, the 256 bytes and `<|endoftext|>` among them; a short text gives fewer.
        vocabulary: usize,
    },
    /// GPT-2's own.
    Gpt2,
}

/// A vocabulary that encodes and decodes; as JSON it holds all that is needed to make it again.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Vocabulary", into = "Vocabulary")]
pub struct TextTokenizer {
    vocabulary: Arc<Vocabulary>,
    encoder: Arc<Tokenizer>,
}

/// What a tokenizer is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Vocabulary {
    choice: TokenizerChoice,
    /// In the byte-level alphabet; the place is the id, the last is [`END_OF_TEXT`].
    tokens: Vec<String>,
    /// Two tokens with a space between, the most urgent first.
    merges: Vec<String>,
}

impl TextTokenizer {
    /// Makes the tokenizer. `training_text` decides the vocabulary of characters and BPE; GPT-2's is read from the data
    /// set `gpt2-tokenizer`, which [`data::locate`] looks for in `data_dir` and the usual places.
    ///
    /// # Errors
    /// An empty text; a vocabulary size out of range; files of GPT-2's that are missing or damaged.
    pub fn build(choice: TokenizerChoice, training_text: &str, data_dir: Option<&Path>) -> Result<Self> {
        if training_text.is_empty() && choice != TokenizerChoice::Gpt2 {
            bail!("the training text is empty: there is nothing to learn from");
        }
        match choice {
            TokenizerChoice::Characters => characters(training_text),
            TokenizerChoice::Bpe { vocabulary } => learn(training_text, vocabulary)?,
            TokenizerChoice::Gpt2 => gpt2(&data::locate("gpt2-tokenizer", data_dir)?)?,
        }
        .try_into()
    }

    /// The ids of `text`, without any token around them; the names of special tokens in it are plain text.
    ///
    /// # Errors
    /// A character that the vocabulary cannot express; only with [`TokenizerChoice::Characters`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encoder.encode(text, EncodeOptions::default());
        ids.with_context(|| match self.choice() {
            TokenizerChoice::Characters => "the tokenizer knows the characters of its training text only".to_owned(),
            other => format!("the tokenizer {other} cannot encode this text"),
        })
    }

    /// The text of `ids`; bytes that are not UTF-8, and ids outside the vocabulary, become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.encoder.decode(ids, false)
    }

    /// How many tokens there are; ids are below it.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// What it was made as.
    pub fn choice(&self) -> TokenizerChoice {
        self.vocabulary.choice
    }

    /// The id of [`END_OF_TEXT`], the last.
    pub fn end_of_text(&self) -> u32 {
        self.vocabulary.tokens.len().saturating_sub(1) as u32
    }

    /// Sets the keys `tokenizer.ggml.*` of a GGUF, with which the runtime and llama.cpp encode as this does.
    pub fn metadata(&self, metadata: &mut Metadata) {
        self.vocabulary.write(metadata);
    }

    /// The same as a tokenizer.json, for other programs.
    pub fn json(&self) -> serde_json::Value {
        let Vocabulary { tokens, merges, .. } = &*self.vocabulary;
        let vocab: serde_json::Map<_, _> =
            tokens.iter().enumerate().map(|(id, token)| (token.clone(), serde_json::json!(id))).collect();
        let end = serde_json::json!({
            "id": self.end_of_text(), "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        });
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges,
            },
        })
    }
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTokenizer")
            .field("choice", &self.choice())
            .field("vocabulary", &self.vocabulary())
            .finish_non_exhaustive()
    }
}

impl PartialEq for TextTokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.vocabulary == other.vocabulary
    }
}

impl fmt::Display for TokenizerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Characters => f.write_str("chars"),
            Self::Bpe { vocabulary } => write!(f, "bpe:{vocabulary}"),
            Self::Gpt2 => f.write_str("gpt2"),
        }
    }
}

impl FromStr for TokenizerChoice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let vocabulary = match text {
            "chars" => return Ok(Self::Characters),
            "gpt2" => return Ok(Self::Gpt2),
            "bpe" => DEFAULT_BPE,
            _ => text.strip_prefix("bpe:").and_then(|number| number.parse().ok()).with_context(|| {
                format!("{text:?} is no tokenizer; write chars, bpe, bpe:N (a vocabulary of N tokens) or gpt2")
            })?,
        };
        check_size(vocabulary)?;
        Ok(Self::Bpe { vocabulary })
    }
}

impl TryFrom<String> for TokenizerChoice {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TokenizerChoice> for String {
    fn from(choice: TokenizerChoice) -> Self {
        choice.to_string()
    }
}

impl TryFrom<Vocabulary> for TextTokenizer {
    type Error = anyhow::Error;

    fn try_from(vocabulary: Vocabulary) -> Result<Self> {
        if vocabulary.tokens.last().is_none_or(|last| last != END_OF_TEXT) {
            bail!("a saved tokenizer must end in the token {END_OF_TEXT}; the file was changed or is damaged");
        }
        let mut metadata = Metadata::new();
        vocabulary.write(&mut metadata);
        let encoder = Tokenizer::from_metadata(&metadata)?;
        Ok(Self { vocabulary: Arc::new(vocabulary), encoder: Arc::new(encoder) })
    }
}

impl From<TextTokenizer> for Vocabulary {
    fn from(tokenizer: TextTokenizer) -> Self {
        Arc::unwrap_or_clone(tokenizer.vocabulary)
    }
}

impl Vocabulary {
    fn write(&self, metadata: &mut Metadata) {
        let end = self.tokens.len().saturating_sub(1);
        let mut types = vec![NORMAL; self.tokens.len()];
        if let Some(last) = types.last_mut() {
            *last = CONTROL;
        }
        let mut set = |key: &str, value: Value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
        set("model", "gpt2".into());
        set("pre", "gpt-2".into());
        set("tokens", Value::Array(Array::String(self.tokens.clone())));
        set("token_type", Value::Array(Array::I32(types)));
        // llama.cpp wants the key also where there are none.
        set("merges", Value::Array(Array::String(self.merges.clone())));
        // Without these llama.cpp takes token 11.
        set("bos_token_id", Value::U32(end as u32));
        set("eos_token_id", Value::U32(end as u32));
        set("add_bos_token", false.into());
        set("add_eos_token", false.into());
        set("add_space_prefix", false.into());
    }
}

fn check_size(vocabulary: usize) -> Result<()> {
    if !BPE_SIZES.contains(&vocabulary) {
        let (least, most) = (BPE_SIZES.start(), BPE_SIZES.end());
        bail!("a vocabulary of {vocabulary} tokens cannot be learned; give a number from {least} to {most}");
    }
    Ok(())
}

/// `bytes` in the byte-level alphabet.
fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte_char(byte)).collect()
}

/// One token a character.
fn characters(text: &str) -> Vocabulary {
    let distinct: BTreeSet<char> = text.chars().collect();
    let mut buffer = [0; 4];
    let mut bytes = BTreeSet::new();
    for c in &distinct {
        bytes.extend(c.encode_utf8(&mut buffer).bytes());
    }
    let mut tokens: Vec<String> = bytes.iter().map(|&byte| spell(&[byte])).collect();
    // A merge begins with a first byte, which occurs nowhere else in UTF-8, or with what such a merge made: none can
    // reach across two characters, and their order is of no consequence.
    let mut merges = Vec::new();
    let mut beginnings = BTreeSet::new();
    for c in &distinct {
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        for len in 2..=bytes.len() {
            if beginnings.insert(bytes[..len].to_vec()) {
                merges.push(format!("{} {}", spell(&bytes[..len - 1]), spell(&bytes[len - 1..len])));
                tokens.push(spell(&bytes[..len]));
            }
        }
    }
    tokens.push(END_OF_TEXT.to_owned());
    Vocabulary { choice: TokenizerChoice::Characters, tokens, merges }
}

/// Byte-level BPE with merges counted in `text`. The same text gives the same vocabulary: equal counts are decided by
/// ids, which follow the alphabet.
fn learn(text: &str, vocabulary: usize) -> Result<Vocabulary> {
    check_size(vocabulary)?;
    let library = |error: tokenizers::Error| anyhow!("the vocabulary cannot be learned: {error}");
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary - 1)
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .initial_alphabet((0..=255).map(byte_char).collect())
        .build();
    let words = ByteLevel::new(false, true, true);
    let cut = |text: &str| {
        let mut pieces = PreTokenizedString::from(text);
        words.pre_tokenize(&mut pieces)?;
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
        Ok(splits.into_iter().map(|(word, ..)| word.to_owned()).collect())
    };
    trainer.feed(std::iter::once(text), cut).map_err(library)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(library)?;
    let model = serde_json::to_value(&model)?;
    let (mut tokens, merges) = read_model(&model).context("the learned vocabulary")?;
    tokens.push(END_OF_TEXT.to_owned());
    Ok(Vocabulary { choice: TokenizerChoice::Bpe { vocabulary }, tokens, merges })
}

/// GPT-2's vocabulary from whichever of its published forms is in `folder`.
fn gpt2(folder: &Path) -> Result<Vocabulary> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let pairs = [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")];
    let found = pairs.iter().find(|(vocab, merges)| folder.join(vocab).is_file() && folder.join(merges).is_file());
    let (model, from) = match found {
        Some((vocab, merges)) => {
            let vocab: serde_json::Value =
                serde_json::from_str(&read(vocab)?).with_context(|| format!("{vocab} is not JSON"))?;
            let merges = read(merges)?;
            // The first line says a version. Later lines that begin with '#' are merges.
            let merges =
                merges.strip_prefix("#version").map_or(&*merges, |rest| rest.split_once('\n').unwrap_or_default().1);
            let merges: Vec<&str> = merges.lines().filter(|line| !line.is_empty()).collect();
            (serde_json::json!({ "vocab": vocab, "merges": merges }), folder.to_owned())
        }
        None => {
            let path = folder.join("tokenizer.json");
            let mut file: serde_json::Value = serde_json::from_str(&read("tokenizer.json")?)
                .with_context(|| format!("{} is not JSON", path.display()))?;
            (file.get_mut("model").map(serde_json::Value::take).unwrap_or_default(), path)
        }
    };
    let (tokens, merges) = read_model(&model).with_context(|| format!("GPT-2's vocabulary in {}", from.display()))?;
    if tokens.len() != 50_257 || merges.len() != 50_000 || tokens.last().is_none_or(|last| last != END_OF_TEXT) {
        bail!(
            "{} holds {} tokens and {} merges where GPT-2 has 50257 and 50000; get it again with `sterna data get gpt2-tokenizer`",
            from.display(),
            tokens.len(),
            merges.len()
        );
    }
    Ok(Vocabulary { choice: TokenizerChoice::Gpt2, tokens, merges })
}

/// Tokens by id and merges from the `model` of a `tokenizer.json`, in which a merge is a text or a pair.
fn read_model(model: &serde_json::Value) -> Result<(Vec<String>, Vec<String>)> {
    let vocab = model["vocab"].as_object().context("it has no vocabulary")?;
    let mut by_id: HashMap<u64, &str> = HashMap::with_capacity(vocab.len());
    for (token, id) in vocab {
        by_id.insert(id.as_u64().with_context(|| format!("the id of {token:?} is not a number"))?, token);
    }
    let tokens = (0..vocab.len() as u64)
        .map(|id| by_id.get(&id).map(|token| (*token).to_owned()).with_context(|| format!("no token has the id {id}")));
    let merges = model["merges"].as_array().context("it has no merges")?.iter().map(|merge| match merge {
        serde_json::Value::String(text) => Ok(text.clone()),
        serde_json::Value::Array(pair) => match pair.as_slice() {
            [serde_json::Value::String(left), serde_json::Value::String(right)] => Ok(format!("{left} {right}")),
            _ => bail!("the merge {merge} is not two texts"),
        },
        _ => bail!("the merge {merge} is not two texts"),
    });
    Ok((tokens.collect::<Result<_>>()?, merges.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    const CHARACTERS: TokenizerChoice = TokenizerChoice::Characters;
    const BPE_512: TokenizerChoice = TokenizerChoice::Bpe { vocabulary: 512 };

    fn built(choice: TokenizerChoice, text: &str) -> TextTokenizer {
        TextTokenizer::build(choice, text, None).unwrap_or_else(|error| panic!("{choice} from {text:?}: {error:#}"))
    }

    /// The folder of real data; without it the test is skipped, or fails where `STERNA_REQUIRE_DATA=1`.
    fn data_dir(name: &str) -> Option<PathBuf> {
        let folder = std::env::var_os("STERNA_DATA_DIR").map(PathBuf::from);
        if folder.is_none() {
            assert_ne!(std::env::var("STERNA_REQUIRE_DATA").as_deref(), Ok("1"), "STERNA_DATA_DIR is not set");
            println!("skipped: needs {name} from STERNA_DATA_DIR");
        }
        folder
    }

    /// The first nine tenths of the characters and the rest.
    fn split(text: &str) -> (&str, &str) {
        let at = text.char_indices().nth(text.chars().count() * 9 / 10).map_or(text.len(), |(at, _)| at);
        text.split_at(at)
    }

    /// What a reader of the GGUF makes of `text`.
    fn through_a_file(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
        let mut metadata = Metadata::new();
        tokenizer.metadata(&mut metadata);
        let mut file = sterna_core::gguf::Writer::new(Vec::new(), &metadata, Vec::new()).unwrap().finish().unwrap();
        file.resize(file.len().next_multiple_of(32), 0);
        let read = sterna_core::gguf::Gguf::parse(&file).unwrap();
        let reader = Tokenizer::from_metadata(&read.header().metadata).unwrap();
        assert_eq!(reader.warnings(), [""; 0]);
        assert_eq!((reader.bos(), reader.eos()), (Some(tokenizer.end_of_text()), Some(tokenizer.end_of_text())));
        assert!(reader.is_special(tokenizer.end_of_text()) && reader.is_end_of_generation(tokenizer.end_of_text()));
        assert_eq!(reader.vocab_size(), tokenizer.vocabulary());
        reader.encode(text, EncodeOptions { add_special: true, parse_special: false }).unwrap()
    }

    #[test]
    fn choices_are_written_as_they_are_read() {
        for (text, choice) in [
            ("chars", CHARACTERS),
            ("bpe:512", BPE_512),
            ("bpe:4096", TokenizerChoice::Bpe { vocabulary: 4096 }),
            ("gpt2", TokenizerChoice::Gpt2),
        ] {
            assert_eq!(text.parse::<TokenizerChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
            assert_eq!(serde_json::to_string(&choice).unwrap(), format!("{text:?}"));
            assert_eq!(serde_json::from_str::<TokenizerChoice>(&format!("{text:?}")).unwrap(), choice);
        }
        assert_eq!("bpe".parse::<TokenizerChoice>().unwrap(), TokenizerChoice::Bpe { vocabulary: 1024 });
        for bad in ["", "words", "bpe:", "bpe:511", "bpe:4097", "bpe:-1", "bpe:99999999999999999999", "Chars"] {
            assert!(bad.parse::<TokenizerChoice>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn characters_are_one_token_each() {
        let ascii = built(CHARACTERS, "hello\n");
        assert_eq!(ascii.vocabulary.tokens, ["Ċ", "e", "h", "l", "o", END_OF_TEXT]);
        assert!(ascii.vocabulary.merges.is_empty());
        assert_eq!(ascii.encode("hello\n").unwrap(), [2, 1, 3, 3, 4, 0]);

        let text = "aé€𝄞 é 中文👩‍👩‍👧 e\u{301}\r\n\u{a0}";
        let wide = built(CHARACTERS, text);
        let ids = wide.encode(text).unwrap();
        assert_eq!(ids.len(), text.chars().count());
        assert_eq!(wide.decode(&ids), text);
        for (c, id) in text.chars().zip(&ids) {
            assert_eq!(wide.decode(&[*id]), c.to_string());
        }
        assert_eq!(through_a_file(&wide, text), ids);
    }

    #[test]
    fn characters_outside_the_text_are_refused_by_name() {
        let tokenizer = built(CHARACTERS, "To be, or not to be");
        let error = format!("{:#}", tokenizer.encode("to bé").unwrap_err());
        assert!(error.contains("\"é\"") && error.contains("characters of its training text"), "{error}");
        // Half of its bytes are known here; half a character is none.
        assert!(built(CHARACTERS, "é").encode("è").is_err());
        // All of its bytes are: it is spelled out.
        let spelled = built(CHARACTERS, "éŨ");
        assert_eq!(spelled.decode(&spelled.encode("Ũé").unwrap()), "Ũé");
    }

    #[test]
    fn learned_merges_follow_the_counts() {
        let text = "the cat and the hat and the bat ".repeat(20);
        let tokenizer = built(BPE_512, &text);
        assert!(tokenizer.vocabulary() > 257 && tokenizer.vocabulary() <= 512);
        assert_eq!(tokenizer.vocabulary() as u32 - 1, tokenizer.end_of_text());
        let the = tokenizer.encode(" the").unwrap();
        assert_eq!((the.len(), tokenizer.decode(&the)), (1, " the".to_owned()));
        assert_eq!(through_a_file(&tokenizer, &text), tokenizer.encode(&text).unwrap());
        // The same text, the same vocabulary.
        assert_eq!(built(BPE_512, &text), tokenizer);
        // Any text can be encoded.
        let other = "Ünï¢ødé 👩‍👩‍👧 \0\u{7f}";
        assert_eq!(tokenizer.decode(&tokenizer.encode(other).unwrap()), other);
    }

    #[test]
    fn names_of_special_tokens_are_plain_text() {
        let text = "a <|endoftext|> b".repeat(50);
        for choice in [CHARACTERS, BPE_512] {
            let tokenizer = built(choice, &text);
            let ids = tokenizer.encode(&text).unwrap();
            assert!(!ids.contains(&tokenizer.end_of_text()));
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_and_a_changed_one_is_refused() {
        let text = "sea shells é by the sea shore ".repeat(9);
        for choice in [CHARACTERS, BPE_512] {
            let tokenizer = built(choice, &text);
            let json = serde_json::to_string(&tokenizer).unwrap();
            let again: TextTokenizer = serde_json::from_str(&json).unwrap();
            assert_eq!(again, tokenizer);
            assert_eq!(again.encode(&text).unwrap(), tokenizer.encode(&text).unwrap());
            for damaged in [json.replace(END_OF_TEXT, "x"), json.replace("\"merges\":[", "\"merges\":[\"q z\",")] {
                assert!(serde_json::from_str::<TextTokenizer>(&damaged).is_err());
            }
        }
        assert!(serde_json::from_str::<TextTokenizer>(r#"{"choice":"chars","tokens":[],"merges":[]}"#).is_err());
    }

    #[test]
    fn texts_without_anything_to_learn_do_no_harm() {
        for choice in [CHARACTERS, BPE_512] {
            assert!(TextTokenizer::build(choice, "", None).unwrap_err().to_string().contains("empty"));
            let tiny = built(choice, "x");
            assert_eq!(tiny.decode(&tiny.encode("x").unwrap()), "x");
            assert_eq!(tiny.encode("").unwrap(), [0; 0]);
        }
    }

    #[test]
    fn damaged_files_of_gpt2_are_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let folder = dir.path().join("gpt2");
        fs::create_dir(&folder).unwrap();
        for json in
            ["", "[]", r#"{"model":{"vocab":{"a":0},"merges":[]}}"#, r#"{"model":{"vocab":{"a":-1},"merges":[]}}"#]
        {
            fs::write(folder.join("tokenizer.json"), json).unwrap();
            let error = TextTokenizer::build(TokenizerChoice::Gpt2, "x", Some(dir.path())).unwrap_err();
            assert!(format!("{error:#}").contains("tokenizer.json"), "{json}: {error:#}");
        }
    }

    #[test]
    fn shakespeare_round_trips_with_all_three() {
        let Some(folder) = data_dir("text/tinyshakespeare.txt and gpt2/") else { return };
        let text = fs::read_to_string(data::locate("tinyshakespeare", Some(&folder)).unwrap()).unwrap();
        let (train, test) = split(&text);
        for (choice, vocabulary) in
            [(CHARACTERS, 66), (TokenizerChoice::Bpe { vocabulary: 1024 }, 1024), (TokenizerChoice::Gpt2, 50_257)]
        {
            let tokenizer = TextTokenizer::build(choice, train, Some(&folder)).unwrap();
            assert_eq!(tokenizer.vocabulary(), vocabulary, "{choice}");
            let (head, tail) = (tokenizer.encode(train).unwrap(), tokenizer.encode(test).unwrap());
            assert_eq!(tokenizer.decode(&head) + &tokenizer.decode(&tail), text, "{choice}");
            assert_eq!(through_a_file(&tokenizer, test), tail, "{choice}");
            println!("{choice}: {} + {} tokens", head.len(), tail.len());
            match choice {
                TokenizerChoice::Characters => assert_eq!((head.len(), tail.len()), (1_003_854, 111_540)),
                TokenizerChoice::Bpe { .. } => assert!(head.len() < 430_000 && tail.len() < 50_000),
                TokenizerChoice::Gpt2 => assert_eq!((head.len(), tail.len()), (301_966, 36_059)),
            }
        }
    }

    #[test]
    fn both_forms_of_gpt2s_files_give_the_same_tokenizer() {
        let Some(folder) = data_dir("gpt2/") else { return };
        let from = data::locate("gpt2-tokenizer", Some(&folder)).unwrap();
        let dir = tempfile::TempDir::new().unwrap();
        fs::copy(from.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        let one = TextTokenizer::build(TokenizerChoice::Gpt2, "", Some(dir.path()));
        assert_eq!(one.unwrap(), TextTokenizer::build(TokenizerChoice::Gpt2, "", Some(&folder)).unwrap());
    }

    /// Against llama.cpp, where `STERNA_LLAMA_TOKENIZE` names its llama-tokenize.
    #[test]
    fn llama_cpp_gives_the_same_ids() {
        let Some(binary) = std::env::var_os("STERNA_LLAMA_TOKENIZE") else {
            println!("without llama.cpp: STERNA_LLAMA_TOKENIZE does not name a llama-tokenize");
            return;
        };
        let ascii =
            "First Citizen:\n  We are accounted poor citizens; what's good?\n\nAll:\tspeak, speak!  \n".repeat(3);
        let wide = "l'été à Łódź – 中文と日本語 👩‍👩‍👧 e\u{301}\u{a0}x <|endoftext|>\r\n".repeat(3);
        let mut cases =
            vec![(CHARACTERS, ascii.clone()), (CHARACTERS, wide.clone()), (BPE_512, ascii), (BPE_512, wide.clone())];
        let folder = data_dir("text/tinyshakespeare.txt and gpt2/");
        if let Some(folder) = &folder {
            let play = fs::read_to_string(data::locate("tinyshakespeare", Some(folder)).unwrap()).unwrap();
            let play = split(&play).1;
            let choices = [CHARACTERS, TokenizerChoice::Bpe { vocabulary: 1024 }, TokenizerChoice::Gpt2];
            cases.extend(choices.map(|choice| (choice, play.to_owned())));
            cases.push((TokenizerChoice::Gpt2, wide));
        }
        let dir = tempfile::TempDir::new().unwrap();
        for (i, (choice, text)) in cases.iter().enumerate() {
            let tokenizer = TextTokenizer::build(*choice, text, folder.as_deref()).unwrap();
            let mut metadata = Metadata::new();
            metadata.insert("general.architecture", "llama");
            tokenizer.metadata(&mut metadata);
            let (model, prompt) = (dir.path().join(format!("{i}.gguf")), dir.path().join(format!("{i}.txt")));
            let file = sterna_core::gguf::Writer::new(Vec::new(), &metadata, Vec::new()).unwrap().finish().unwrap();
            fs::write(&model, file).unwrap();
            fs::write(&prompt, text).unwrap();
            let mut command = std::process::Command::new(&binary);
            command.arg("-m").arg(&model).arg("-f").arg(&prompt).args(["--ids", "--no-parse-special", "--log-disable"]);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let ids: Vec<u32> = serde_json::from_str(said.trim())
                .unwrap_or_else(|_| panic!("{choice}: {said}{}", String::from_utf8_lossy(&output.stderr)));
            assert!(ids == tokenizer.encode(text).unwrap(), "{choice} from {:.200?}", text);
        }
    }

    fn odd_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[ -~\t\r\n]{1,8}",
            "[\u{300}-\u{36f}\u{200b}-\u{200f}\u{2028}\u{feff}]{1,3}",
            "[一-丏ぁ-ん가-갎]{1,4}",
            "[\u{1f468}-\u{1f46a}\u{1f3fb}-\u{1f3ff}\u{200d}\u{fe0f}]{1,5}",
            any::<char>().prop_map(|c| c.to_string()),
        ];
        proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_round_trips(text in odd_text(), other in odd_text()) {
            let characters = built(CHARACTERS, &text);
            let ids = characters.encode(&text).unwrap();
            prop_assert_eq!(ids.len(), text.chars().count());
            prop_assert_eq!(characters.decode(&ids), text.as_str());
            prop_assert_eq!(through_a_file(&characters, &text), ids);
            // Another text is refused or comes back whole.
            if let Ok(ids) = characters.encode(&other) {
                prop_assert_eq!(characters.decode(&ids), other.as_str());
            }

            let bpe = built(BPE_512, &text.repeat(3));
            for text in [&text, &other] {
                let ids = bpe.encode(text).unwrap();
                prop_assert_eq!(bpe.decode(&ids), text.as_str());
                prop_assert_eq!(through_a_file(&bpe, text), ids);
            }
        }
    }
}
