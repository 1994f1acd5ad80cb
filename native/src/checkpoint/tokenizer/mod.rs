//! A checkpoint's tokenizer as the `tokenizer.ggml.*` keys of a GGUF: vocabulary, merges or scores, kinds, special tokens, chat
//! templates.
//!
//! Three sources, in this order: a byte-level tokenizer.json; tokenizer.model (SentencePiece) and its additions; a
//! tokenizer.json that was made from SentencePiece; vocab.json with merges.txt. `pre` finds the name of the way in which texts are
//! cut before merging, `limits` says what a GGUF cannot.
//!
//! Not here: encoding (`sterna_core::tokenizer`).

mod limits;
mod pre;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sterna_core::gguf::{Array, Metadata, Value as GgufValue};
use sterna_core::model::is_padding_token;
use sterna_core::tokenizer::{NFC_KEY, Tokenizer};

use super::Checkpoint;
use super::sentencepiece;

/// Kinds of tokens, by their numbers in a GGUF.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Scores of tokens that merges never make, as llama.cpp's files have them.
const ADDED_SCORE: f32 = -1000.0;
const PADDING_SCORE: f32 = -10_000.0;

/// No vocabulary has more tokens.
const MAX_TOKENS: usize = 1 << 24;

/// A vocabulary before it becomes keys.
struct Vocabulary {
    /// `llama` or `gpt2`
    model: &'static str,
    tokens: Vec<String>,
    kinds: Vec<i32>,
    /// One a token, for `llama`.
    scores: Vec<f32>,
    /// For `gpt2`.
    merges: Vec<String>,
    /// A space goes before a text.
    space_prefix: Option<bool>,
    remove_extra_whitespaces: Option<bool>,
}

/// Sets the keys of the checkpoint's tokenizer; says in `notes` what a person should know. `rows` are those of the embedding,
/// `first` the pre-tokenizers to try first.
///
/// # Errors
/// Files that are malformed or of an unsupported kind, named; a vocabulary that is larger than the embedding.
pub fn write(
    checkpoint: &Checkpoint,
    rows: usize,
    first: &[&'static str],
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<()> {
    let in_file = |name: &str| checkpoint.dir().join(name).display().to_string();
    let json_text = checkpoint.text("tokenizer.json")?;
    let json: Option<Value> = match &json_text {
        Some(text) => {
            Some(serde_json::from_str(text).with_context(|| format!("{} is no JSON", in_file("tokenizer.json")))?)
        }
        None => None,
    };
    let byte_level = json.as_ref().is_some_and(is_byte_level);
    let sentence_piece = checkpoint.dir().join("tokenizer.model");
    let settings = checkpoint.json("tokenizer_config.json")?.unwrap_or_default();
    let mut vocabulary = match &json {
        Some(json) if byte_level => from_json(json).with_context(|| in_file("tokenizer.json"))?,
        _ if sentence_piece.is_file() => {
            let bytes = std::fs::read(&sentence_piece).with_context(|| in_file("tokenizer.model"))?;
            let model = sentencepiece::parse(&bytes).with_context(|| in_file("tokenizer.model"))?;
            if !model.beyond_gguf.is_empty() {
                notes.push(format!(
                    "tokenizer.model does to texts what a GGUF cannot say: {}; texts are encoded without that",
                    model.beyond_gguf.join("; ")
                ));
            }
            Vocabulary {
                model: "llama",
                tokens: model.pieces.iter().map(|piece| piece.text.clone()).collect(),
                kinds: model.pieces.iter().map(|piece| piece.kind).collect(),
                scores: model.pieces.iter().map(|piece| piece.score).collect(),
                merges: Vec::new(),
                space_prefix: Some(model.add_dummy_prefix),
                // Texts are not altered by the tokenizers that `transformers` makes of such a file.
                remove_extra_whitespaces: Some(false),
            }
        }
        Some(json) => from_json(json).with_context(|| in_file("tokenizer.json"))?,
        None => match (checkpoint.json("vocab.json")?, checkpoint.text("merges.txt")?) {
            (Some(vocab), Some(merges)) => from_pair(&vocab, &merges).with_context(|| in_file("vocab.json"))?,
            _ => {
                notes.push("no tokenizer in the checkpoint: the file will take and give token ids only".into());
                return Ok(());
            }
        },
    };
    if vocabulary.model == "llama" {
        vocabulary.space_prefix = settings["add_prefix_space"].as_bool().or(vocabulary.space_prefix);
    }
    let mut added = added_tokens(checkpoint, json.as_ref(), &settings)?;
    let beyond = added.split_off(&rows);
    vocabulary.leave_out(rows, &beyond, notes);
    vocabulary.add(&added)?;
    vocabulary.fit(rows, notes).with_context(|| format!("the tokenizer in {}", checkpoint.dir().display()))?;
    let pre = match (vocabulary.model, json.as_ref().zip(json_text).filter(|_| byte_level)) {
        ("gpt2", Some((json, text))) => {
            let found = Tokenizer::from_json(text.as_bytes()).map_err(anyhow::Error::from);
            let found = found.and_then(|original| pre::recognize(&original, json, first));
            let found = found.with_context(|| in_file("tokenizer.json"))?;
            notes.extend(found.note);
            // What the name implies goes without saying.
            let nfc = steps(&json["normalizer"], "normalizers").iter().any(|step| step["type"] == "NFC");
            if nfc != found.pre.nfc() {
                metadata.insert(NFC_KEY, nfc);
            }
            found.pre.name()
        }
        ("gpt2", None) => pre::of_class(&settings, first, notes),
        _ => "default",
    };
    vocabulary.write(metadata, pre);
    special_tokens(checkpoint, json.as_ref(), &settings, &vocabulary, metadata)?;
    limits::note_ids(checkpoint, vocabulary.tokens.len(), notes)?;
    chat_templates(checkpoint, &settings, metadata, notes)?;
    let tokenizer = Tokenizer::from_metadata(metadata)
        .with_context(|| format!("the tokenizer in {} makes no usable vocabulary", checkpoint.dir().display()))?;
    notes.extend(tokenizer.warnings().iter().cloned());
    Ok(())
}

/// Says in `notes` what the GGUF with this metadata, complete, does not say of the checkpoint's tokenizer.
///
/// # Errors
/// Files that cannot be read.
pub fn note_limits(checkpoint: &Checkpoint, metadata: &Metadata, notes: &mut Vec<String>) -> Result<()> {
    limits::note(checkpoint, metadata, notes)
}

impl Vocabulary {
    /// Puts added tokens into their places.
    fn add(&mut self, added: &BTreeMap<usize, Added>) -> Result<()> {
        for (&id, token) in added {
            if id >= MAX_TOKENS {
                bail!("the added token {:?} has the id {id}; vocabularies end at {MAX_TOKENS}", token.text);
            }
            if id >= self.tokens.len() {
                self.pad(id + 1);
            }
            // What is unknown or a byte stays so.
            if ![UNKNOWN, BYTE].contains(&self.kinds[id]) || self.tokens[id] != token.text {
                let control = token.special || looks_special(&token.text);
                self.kinds[id] = if control { CONTROL } else { USER_DEFINED };
            }
            // Readers look for such tokens in the text itself.
            let spaced = self.model == "llama" && self.kinds[id] == USER_DEFINED;
            self.tokens[id] = if spaced { token.text.replace('\u{2581}', " ") } else { token.text.clone() };
            if let Some(score) = self.scores.get_mut(id).filter(|score| **score == PADDING_SCORE) {
                *score = ADDED_SCORE;
            }
        }
        Ok(())
    }

    /// Takes away added tokens whose ids are beyond the embedding's rows, such as a padding token for which no row was made: the
    /// model neither takes nor gives them. Says so.
    fn leave_out(&mut self, rows: usize, beyond: &BTreeMap<usize, Added>, notes: &mut Vec<String>) {
        while self.tokens.len() > rows && beyond.contains_key(&(self.tokens.len() - 1)) {
            self.tokens.pop();
            self.kinds.pop();
            self.scores.truncate(self.tokens.len());
        }
        if !beyond.is_empty() {
            let few = beyond.iter().take(8).map(|(id, token)| format!("{:?} ({id})", token.text));
            let more = if beyond.len() > 8 { " and others" } else { "" };
            notes.push(format!(
                "the embedding has {rows} rows; tokens beyond it are left out: {}{more}",
                few.collect::<Vec<_>>().join(", ")
            ));
        }
    }

    /// Fills up to `len` tokens.
    fn pad(&mut self, len: usize) {
        for id in self.tokens.len()..len {
            self.tokens.push(format!("[PAD{id}]"));
            self.kinds.push(UNUSED);
            if self.model == "llama" {
                self.scores.push(PADDING_SCORE);
            }
        }
    }

    /// Makes it as long as the embedding. Padding beyond that is left out, as no text becomes it.
    fn fit(&mut self, rows: usize, notes: &mut Vec<String>) -> Result<()> {
        let beyond = self.tokens.get(rows..).unwrap_or_default();
        if let Some(token) = beyond.iter().find(|token| !is_padding_token(token)) {
            bail!(
                "it has {} tokens, but the embedding has {rows} rows (vocab_size), none for {token:?}; the files belong to different models",
                self.tokens.len()
            );
        }
        if let Some(token) = beyond.first() {
            notes.push(format!(
                "the tokenizer has {} tokens and the embedding {rows} rows: {token:?}{} left out, as the model cannot read it",
                self.tokens.len(),
                if beyond.len() == 1 { " is" } else { " and those after it are" }
            ));
            self.tokens.truncate(rows);
            self.kinds.truncate(rows);
            self.scores.truncate(rows);
        }
        self.pad(rows);
        Ok(())
    }

    fn write(&self, metadata: &mut Metadata, pre: &str) {
        let mut set = |key: &str, value: GgufValue| metadata.insert(format!("tokenizer.ggml.{key}"), value);
        set("model", self.model.into());
        set("pre", pre.into());
        set("tokens", GgufValue::Array(Array::String(self.tokens.clone())));
        if self.model == "llama" {
            set("scores", GgufValue::Array(Array::F32(self.scores.clone())));
        }
        set("token_type", GgufValue::Array(Array::I32(self.kinds.clone())));
        if self.model == "gpt2" {
            set("merges", GgufValue::Array(Array::String(self.merges.clone())));
        }
        if let Some(prefix) = self.space_prefix {
            set("add_space_prefix", prefix.into());
        }
        if let Some(remove) = self.remove_extra_whitespaces {
            set("remove_extra_whitespaces", remove.into());
        }
    }
}

/// The steps of a normalizer, pre-tokenizer, post-processor or decoder: those in `list` of a sequence, else itself, or none.
fn steps<'v>(section: &'v Value, list: &str) -> &'v [Value] {
    match section[list].as_array() {
        Some(steps) => steps,
        None if section.is_null() => &[],
        None => std::slice::from_ref(section),
    }
}

/// Whether tokens are spelled in the byte-level alphabet.
fn is_byte_level(json: &Value) -> bool {
    let has = |section: &Value, list: &str| steps(section, list).iter().any(|step| step["type"] == "ByteLevel");
    json["model"]["byte_fallback"] != true
        && (has(&json["pre_tokenizer"], "pretokenizers") || has(&json["decoder"], "decoders"))
}

/// The vocabulary of a tokenizer.json.
fn from_json(json: &Value) -> Result<Vocabulary> {
    let model = &json["model"];
    // Old files do not name the type of their model.
    let kind = model["type"].as_str().unwrap_or("BPE");
    if kind != "BPE" {
        bail!("its model is {kind}; only BPE is supported");
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(mark) = model[key].as_str().filter(|mark| !mark.is_empty()) {
            bail!("its BPE marks parts of words with {mark:?} ({key}), which a GGUF cannot say");
        }
    }
    let vocab = model["vocab"].as_object().context("its model has no vocab")?;
    let mut tokens = by_id(vocab.iter())?;
    let merges = model["merges"].as_array().context("its model has no merges")?;
    let merges: Vec<(String, String)> =
        merges.iter().enumerate().map(|(i, merge)| pair(merge, i)).collect::<Result<_>>()?;
    if is_byte_level(json) {
        // A space within a part would read as the gap between parts; byte-level tokens have none of their own.
        let part = |text: &str| text.replace(' ', "\u{120}");
        let merges = merges.iter().map(|(left, right)| format!("{} {}", part(left), part(right))).collect();
        let kinds = vec![NORMAL; tokens.len()];
        return Ok(Vocabulary {
            model: "gpt2",
            tokens,
            kinds,
            scores: Vec::new(),
            merges,
            space_prefix: Some(adds_prefix(&json["pre_tokenizer"], "pretokenizers")),
            remove_extra_whitespaces: None,
        });
    }
    if model["byte_fallback"] != true {
        bail!("its BPE is neither byte-level nor SentencePiece's; only these are supported");
    }
    // SentencePiece merges by score. The merges that make a token have its rank, the first the highest.
    let mut scores = vec![PADDING_SCORE; tokens.len()];
    let ids: std::collections::HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
    let mut rank = 0;
    for (left, right) in &merges {
        let merged = [left.as_str(), right].concat();
        let &id =
            ids.get(merged.as_str()).with_context(|| format!("its merge of {left:?} and {right:?} makes no token"))?;
        if scores[id] == PADDING_SCORE {
            scores[id] = -(rank as f32);
            rank += 1;
        }
    }
    let unknown = model["unk_token"].as_str();
    let kind_of = |text: &String| match text.as_str() {
        text if Some(text) == unknown => UNKNOWN,
        text if is_byte(text) => BYTE,
        _ => NORMAL,
    };
    let kinds: Vec<i32> = tokens.iter().map(kind_of).collect();
    for (score, kind) in scores.iter_mut().zip(&kinds) {
        if *score == PADDING_SCORE {
            // Characters of their own come after all merges, as in SentencePiece's files.
            *score = if *kind == NORMAL { -(rank as f32) } else { 0.0 };
        }
    }
    for (id, token) in tokens.iter_mut().enumerate().filter(|(_, token)| token.is_empty()) {
        *token = format!("[PAD{id}]");
    }
    let space_prefix =
        Some(adds_prefix(&json["normalizer"], "normalizers") || adds_prefix(&json["pre_tokenizer"], "pretokenizers"));
    Ok(Vocabulary {
        model: "llama",
        tokens,
        kinds,
        scores,
        merges: Vec::new(),
        space_prefix,
        remove_extra_whitespaces: Some(false),
    })
}

/// The vocabulary of GPT-2's first form, vocab.json and merges.txt.
fn from_pair(vocab: &Value, merges: &str) -> Result<Vocabulary> {
    let tokens = by_id(vocab.as_object().context("it is no object")?.iter())?;
    let merges = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    Ok(Vocabulary {
        model: "gpt2",
        // No other file of this form says which tokens are special.
        kinds: tokens.iter().map(|text| if looks_special(text) { CONTROL } else { NORMAL }).collect(),
        tokens,
        scores: Vec::new(),
        merges: merges.map(str::to_owned).collect(),
        space_prefix: Some(false),
        remove_extra_whitespaces: None,
    })
}

/// Texts in the order of their ids; gaps become padding.
fn by_id<'a>(vocab: impl Iterator<Item = (&'a String, &'a Value)>) -> Result<Vec<String>> {
    let mut tokens: Vec<String> = Vec::new();
    let mut filled = Vec::new();
    for (text, id) in vocab {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < MAX_TOKENS);
        let id = id.with_context(|| format!("its token {text:?} has no id that is a number below {MAX_TOKENS}"))?;
        if id >= tokens.len() {
            tokens.resize(id + 1, String::new());
            filled.resize(id + 1, false);
        }
        if std::mem::replace(&mut filled[id], true) {
            bail!("its tokens {:?} and {text:?} both have the id {id}", tokens[id]);
        }
        tokens[id].clone_from(text);
    }
    if tokens.is_empty() {
        bail!("its vocabulary is empty");
    }
    for (id, _) in filled.iter().enumerate().filter(|(_, filled)| !**filled) {
        tokens[id] = format!("[PAD{id}]");
    }
    Ok(tokens)
}

fn pair(merge: &Value, index: usize) -> Result<(String, String)> {
    let parts = match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
            _ => None,
        },
        _ => None,
    };
    parts.with_context(|| format!("its merge {index} is {merge}, no pair of tokens"))
}

/// Whether a normalizer or pre-tokenizer, whose steps are in `list`, puts a space before a text.
fn adds_prefix(section: &Value, list: &str) -> bool {
    steps(section, list).iter().any(|step| match step["type"].as_str() {
        Some("Prepend") => step["prepend"] == "\u{2581}",
        Some("Metaspace") => match step["prepend_scheme"].as_str() {
            Some(scheme) => scheme != "never",
            None => step["add_prefix_space"] != false,
        },
        Some("ByteLevel") => step["add_prefix_space"] == true,
        _ => false,
    })
}

fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Tokens that steer a model although their files do not say so.
fn looks_special(text: &str) -> bool {
    let within = |before: &str, after: &str| text.starts_with(before) && text.ends_with(after);
    ["<pad>", "<mask>"].contains(&text)
        || within("<|", "|>")
        || within("<\u{ff5c}", "\u{ff5c}>")
        || within("<unused", ">")
}

/// A token that was added to a trained vocabulary.
struct Added {
    text: String,
    special: bool,
}

/// Added tokens by id, from all the files that may name them; the later ones know more.
fn added_tokens(checkpoint: &Checkpoint, json: Option<&Value>, settings: &Value) -> Result<BTreeMap<usize, Added>> {
    let mut added = BTreeMap::new();
    let mut put = |id: Option<u64>, text: Option<&str>, special: bool, file: &str| -> Result<()> {
        let id = id.and_then(|id| usize::try_from(id).ok());
        let (Some(id), Some(text)) = (id, text) else {
            bail!("{}: an added token has no id or no content", checkpoint.dir().join(file).display());
        };
        added.insert(id, Added { text: text.to_owned(), special });
        Ok(())
    };
    let older = checkpoint.json("added_tokens.json")?.unwrap_or_default();
    for (text, id) in older.as_object().into_iter().flatten() {
        put(id.as_u64(), Some(text), false, "added_tokens.json")?;
    }
    for (id, token) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        put(id.parse().ok(), token["content"].as_str(), token["special"] == true, "tokenizer_config.json")?;
    }
    for token in json.and_then(|json| json["added_tokens"].as_array()).into_iter().flatten() {
        put(token["id"].as_u64(), token["content"].as_str(), token["special"] == true, "tokenizer.json")?;
    }
    Ok(added)
}

/// The ids that a checkpoint's files give for a special token, the most telling first; none twice.
fn special_ids(checkpoint: &Checkpoint, name: &str, tokens: &[String]) -> Result<Vec<usize>> {
    let settings = checkpoint.json("tokenizer_config.json")?.unwrap_or_default();
    let map = checkpoint.json("special_tokens_map.json")?.unwrap_or_default();
    let generation = checkpoint.json("generation_config.json")?.unwrap_or_default();
    let text = |file: &Value| {
        let entry = &file[format!("{name}_token")];
        let text = entry.as_str().or_else(|| entry["content"].as_str())?;
        tokens.iter().position(|token| token == text)
    };
    let key = format!("{name}_token_id");
    let mut ids: Vec<usize> = text(&settings).or_else(|| text(&map)).into_iter().collect();
    for value in [checkpoint.config().find(&key), generation.get(&key)].into_iter().flatten() {
        let numbers = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        ids.extend(numbers.iter().filter_map(|number| usize::try_from(number.as_u64()?).ok()));
    }
    let mut seen = std::collections::HashSet::new();
    ids.retain(|&id| id < tokens.len() && seen.insert(id));
    Ok(ids)
}

/// The ids with which a checkpoint ends texts, as its files say, of the tokens in `metadata`.
fn ends_of_text(checkpoint: &Checkpoint, metadata: &Metadata) -> Result<Vec<u32>> {
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap_or_default();
    Ok(special_ids(checkpoint, "eos", tokens)?.into_iter().map(|id| id as u32).collect())
}

/// Ids of special tokens, and which of them go around a text.
fn special_tokens(
    checkpoint: &Checkpoint,
    json: Option<&Value>,
    settings: &Value,
    vocabulary: &Vocabulary,
    metadata: &mut Metadata,
) -> Result<()> {
    let ids = |name: &str| special_ids(checkpoint, name, &vocabulary.tokens);
    let (bos, ends) = (ids("bos")?.first().copied(), ids("eos")?);
    // A model that stops at one token may end its turns with another, and its calls of tools with a third.
    let mut ends = ends.into_iter();
    let (eos, eot, eom) = (ends.next(), ends.next(), ends.next());
    let (unknown, padding) = (ids("unk")?.first().copied(), ids("pad")?.first().copied());
    for (key, id) in
        [("bos", bos), ("eos", eos), ("eot", eot), ("eom", eom), ("unknown", unknown), ("padding", padding)]
    {
        if let Some(id) = id {
            metadata.insert(format!("tokenizer.ggml.{key}_token_id"), id as u32);
        }
    }
    let text = |id: Option<usize>| id.map(|id| vocabulary.tokens[id].as_str());
    let is = |texts: &[String], id: Option<usize>| matches!(texts, [one] if Some(one.as_str()) == text(id));
    let (add_bos, add_eos) = match json.map(|json| frame(&json["post_processor"])) {
        Some(Frame { before, after }) => (is(&before, bos), is(&after, eos)),
        None => (
            settings["add_bos_token"].as_bool().unwrap_or(vocabulary.model == "llama") && bos.is_some(),
            settings["add_eos_token"].as_bool().unwrap_or(false) && eos.is_some(),
        ),
    };
    metadata.insert("tokenizer.ggml.add_bos_token", add_bos);
    metadata.insert("tokenizer.ggml.add_eos_token", add_eos);
    Ok(())
}

/// The tokens that go around a text.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    before: Vec<String>,
    after: Vec<String>,
}

/// What a post-processor puts before and after a text.
fn frame(processor: &Value) -> Frame {
    let mut frame = Frame::default();
    for step in steps(processor, "processors") {
        match step["type"].as_str() {
            Some("TemplateProcessing") => {
                let parts = step["single"].as_array().map_or(&[][..], Vec::as_slice);
                let special = |part: &Value| part["SpecialToken"]["id"].as_str().map(str::to_owned);
                let text = parts.iter().position(|part| special(part).is_none()).unwrap_or(parts.len());
                frame.before.extend(parts[..text].iter().filter_map(special));
                frame.after.extend(parts[text..].iter().filter_map(special));
            }
            Some("RobertaProcessing" | "BertProcessing") => {
                frame.before.extend(step["cls"][0].as_str().map(str::to_owned));
                frame.after.extend(step["sep"][0].as_str().map(str::to_owned));
            }
            _ => {}
        }
    }
    frame
}

/// Chat templates, from whichever file has them.
fn chat_templates(
    checkpoint: &Checkpoint,
    settings: &Value,
    metadata: &mut Metadata,
    notes: &mut Vec<String>,
) -> Result<()> {
    if let Some(text) = checkpoint.text("chat_template.jinja")? {
        if text.trim().is_empty() {
            notes.push("chat_template.jinja is empty, so the file gets no chat template; fetch it again".into());
            return Ok(());
        }
        metadata.insert("tokenizer.chat_template", text);
        return Ok(());
    }
    let older = checkpoint.json("chat_template.json")?.unwrap_or_default();
    let template = [&settings["chat_template"], &older["chat_template"]].into_iter().find(|value| !value.is_null());
    match template {
        Some(Value::String(text)) => {
            metadata.insert("tokenizer.chat_template", text.as_str());
        }
        Some(Value::Array(list)) => {
            let mut names = Vec::new();
            for entry in list {
                let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) else { continue };
                if name == "default" {
                    metadata.insert("tokenizer.chat_template", text);
                } else {
                    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
                    let name: String = name.chars().map(plain).collect();
                    metadata.insert(format!("tokenizer.chat_template.{name}"), text);
                    names.push(name);
                }
            }
            if !names.is_empty() {
                metadata.insert("tokenizer.chat_templates", GgufValue::Array(Array::String(names)));
            }
        }
        _ => {}
    }
    Ok(())
}
