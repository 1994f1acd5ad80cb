//! What a GGUF cannot say of a tokenizer, said to the person who converts it: normal forms, the space around added tokens, where
//! a space goes before a text, what goes around it, and more ends than there are keys for. Beside these, samples and every added
//! token are encoded by both, and a difference that nothing above explains is shown.

use std::collections::HashSet;

use anyhow::Result;
use serde_json::Value;
use sterna_core::generate::has_vocabulary;
use sterna_core::gguf::Metadata;
use sterna_core::tokenizer::{EncodeOptions, Tokenizer, byte_char};

use super::super::Checkpoint;
use super::{ends_of_text, steps};

const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// Added tokens that are looked at; no model has more that differ from each other.
const MOST_ADDED: usize = 2000;

/// Texts that both encode.
const SAMPLES: &[&str] = &[
    "Hello world, I'm sure it's OK: 12345 naïve café 你好 Привет\n\n  def f(x):\n\treturn [x**2]\r\n",
    "cafe\u{301} \u{212b} \u{1100}\u{1161}\u{11a8} ﬁ ① Ｈｉ ½ UPPER lower  spaces   more\u{a0}and ",
    " leading and trailing ",
];

/// Compares the tokenizer in `metadata` with the tokenizer.json that it was made from; says in `notes` what differs.
///
/// # Errors
/// If one of them cannot be read.
pub fn note(checkpoint: &Checkpoint, metadata: &Metadata, notes: &mut Vec<String>) -> Result<()> {
    if !has_vocabulary(metadata) {
        return Ok(());
    }
    let written = Tokenizer::from_metadata(metadata)?;
    note_ends(checkpoint, metadata, &written, notes)?;
    let Some(text) = checkpoint.text("tokenizer.json")? else { return Ok(()) };
    let json: Value = serde_json::from_str(&text)?;
    let byte_level = metadata.str("tokenizer.ggml.model") == Some("gpt2");
    let mut known = note_normalizer(&json["normalizer"], byte_level, notes);
    known |= note_prefix(&json, byte_level, notes);
    note_frame(&json["post_processor"], &written, notes);
    if byte_level {
        note_bytes(metadata, notes);
    }
    // Not every tokenizer.json that can be converted can be run here.
    let Ok(original) = Tokenizer::from_json(text.as_bytes()) else { return Ok(()) };
    let both = Both { original: &original, written: &written };
    known |= both.note_added(&json, notes);
    if !known {
        both.note_samples(notes);
    }
    both.note_merges(&json, metadata, notes);
    Ok(())
}

/// Ends of text that no key names and no reader knows by their text.
fn note_ends(checkpoint: &Checkpoint, metadata: &Metadata, written: &Tokenizer, notes: &mut Vec<String>) -> Result<()> {
    let ends = ends_of_text(checkpoint, metadata)?;
    let lost: Vec<String> = ends
        .iter()
        .filter(|&&id| !written.is_end_of_generation(id))
        .map(|&id| format!("{id} ({:?})", written.text(id).unwrap_or_default()))
        .collect();
    if !lost.is_empty() {
        notes.push(format!(
            "texts end with {} tokens in generation_config.json or config.json, and a GGUF names three; these will not end a text: {}",
            ends.len(),
            lost.join(", ")
        ));
    }
    Ok(())
}

/// What a normalizer does that is not done to texts of this file. Gives whether there is anything.
fn note_normalizer(normalizer: &Value, byte_level: bool, notes: &mut Vec<String>) -> bool {
    let is_said = |step: &&Value| match step["type"].as_str() {
        Some("NFC") => byte_level,
        // How SentencePiece writes spaces.
        Some("Prepend") => !byte_level && step["prepend"] == "\u{2581}",
        Some("Replace") => !byte_level && step["pattern"]["String"] == " " && step["content"] == "\u{2581}",
        _ => false,
    };
    let lost: Vec<String> =
        steps(normalizer, "normalizers").iter().filter(|step| !is_said(step)).map(name_of).collect();
    if byte_level && steps(normalizer, "normalizers").iter().any(|step| step["type"] == "NFC") {
        notes.push(
            "tokenizer.json brings texts to the normal form NFC; sterna does the same, llama.cpp does not".into(),
        );
    }
    if lost.is_empty() {
        return false;
    }
    notes.push(format!(
        "tokenizer.json alters texts before it encodes them ({}); a GGUF cannot say so, and texts are read as they are",
        lost.join(", ")
    ));
    true
}

/// Where a space goes before a text, when readers of GGUFs put it elsewhere. Gives whether there is anything.
fn note_prefix(json: &Value, byte_level: bool, notes: &mut Vec<String>) -> bool {
    const LIST: &str = "pretokenizers";
    let section = &json["pre_tokenizer"];
    let all = steps(section, LIST);
    if byte_level {
        let prefixed = all.iter().position(|step| step["type"] == "ByteLevel" && step["add_prefix_space"] == true);
        // Steps before it have cut the text into words, and it looks at each of them.
        if prefixed.is_some_and(|at| at > 0) {
            notes.push(
                "tokenizer.json puts a space before every word that does not begin with one (add_prefix_space after another step \
                 that cuts texts), which a GGUF cannot say; sterna puts one before a text only, llama.cpp none"
                    .into(),
            );
            return true;
        }
        if prefixed.is_some() {
            notes.push(
                "texts begin with a space in tokenizer.json (add_prefix_space); sterna does the same, llama.cpp does not".into(),
            );
        }
        return false;
    }
    let metaspace = all.iter().find(|step| step["type"] == "Metaspace").filter(|_| super::adds_prefix(section, LIST));
    let first = metaspace.is_some_and(|step| step["prepend_scheme"] == "first");
    if metaspace.is_some() {
        notes.push(
            "tokenizer.json puts no space before a text that begins with one (Metaspace); readers of a GGUF put one there too"
                .into(),
        );
    }
    if first {
        notes.push(
            "tokenizer.json puts a space before a whole text only (Metaspace \"first\"); readers of a GGUF put one after each special token too"
                .into(),
        );
    }
    metaspace.is_some()
}

/// Bytes that no token spells.
fn note_bytes(metadata: &Metadata, notes: &mut Vec<String>) {
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap_or_default();
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let missing: Vec<u8> = (0..=255).filter(|&byte| !known.contains(byte_char(byte).to_string().as_str())).collect();
    if let Some(first) = missing.first() {
        notes.push(format!(
            "the vocabulary has no token for {} of the 256 bytes, such as 0x{first:02X}: tokenizer.json leaves them out of texts, \
             and sterna refuses texts that have them",
            missing.len()
        ));
    }
}

/// Ids of special tokens that are no tokens of the vocabulary, by file and key.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn note_ids(checkpoint: &Checkpoint, tokens: usize, notes: &mut Vec<String>) -> Result<()> {
    let generation = checkpoint.json("generation_config.json")?.unwrap_or_default();
    for name in ["bos", "eos", "unk", "pad"] {
        let key = format!("{name}_token_id");
        let places =
            [("config.json", checkpoint.config().find(&key)), ("generation_config.json", generation.get(&key))];
        for (file, value) in places {
            let ids =
                value.map_or(&[][..], |value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
            let is_token = |id: &Value| id.as_u64().is_some_and(|id| id < tokens as u64);
            let lost: Vec<String> =
                ids.iter().filter(|id| !id.is_null() && !is_token(id)).map(Value::to_string).collect();
            if !lost.is_empty() {
                notes.push(format!(
                    "{key} of {file} is not taken where it is {}: the vocabulary has the ids 0 to {}",
                    lost.join(", "),
                    tokens.saturating_sub(1)
                ));
            }
        }
    }
    Ok(())
}

/// What goes around a text, when it is not the tokens that begin and end one.
fn note_frame(processor: &Value, written: &Tokenizer, notes: &mut Vec<String>) {
    let frame = super::frame(processor);
    let is = |texts: &[String], id: Option<u32>| match texts {
        [] => true,
        [text] => id.is_some() && written.id(text) == id,
        _ => false,
    };
    for (place, texts, id) in [("before", &frame.before, written.bos()), ("after", &frame.after, written.eos())] {
        if !is(texts, id) {
            notes.push(format!(
                "tokenizer.json puts {} {place} a text; a GGUF can only ask for the one token that begins or ends texts, so it is left out",
                texts.join(" ")
            ));
        }
    }
}

fn name_of(step: &Value) -> String {
    step["type"].as_str().unwrap_or("without a type").to_owned()
}

/// The tokenizer of the checkpoint and the one that was written.
struct Both<'t> {
    original: &'t Tokenizer,
    written: &'t Tokenizer,
}

impl Both<'_> {
    /// Both ids of a text, if they differ.
    fn differ(&self, text: &str) -> Option<(Vec<u32>, Vec<u32>)> {
        let original = self.original.encode(text, PARSED).ok()?;
        // A vocabulary that lacks a byte refuses the text, where the original leaves it out.
        let written = self.written.encode(text, PARSED).ok()?;
        (original != written).then_some((original, written))
    }

    /// Added tokens that change what is around them. Gives whether there are any.
    fn note_added(&self, json: &Value, notes: &mut Vec<String>) -> bool {
        let mut by_flag: Vec<(String, Vec<String>)> = Vec::new();
        // Then the tokens are not why.
        if self.differ("a b a b \n\n b").is_some() {
            return false;
        }
        for token in json["added_tokens"].as_array().into_iter().flatten().take(MOST_ADDED) {
            let Some(text) = token["content"].as_str() else { continue };
            let flags: Vec<&str> = ["lstrip", "rstrip", "single_word", "normalized"]
                .into_iter()
                .filter(|flag| token[flag] == true)
                .collect();
            let between = format!("a {text} b a{text}b \n{text}\n b");
            if flags.is_empty() || self.differ(&between).is_none() {
                continue;
            }
            let flags = flags.join(", ");
            match by_flag.iter_mut().find(|(known, _)| *known == flags) {
                Some((_, texts)) => texts.push(text.to_owned()),
                None => by_flag.push((flags, vec![text.to_owned()])),
            }
        }
        for (flags, texts) in &by_flag {
            let more = if texts.len() > 5 { format!(" and {} more", texts.len() - 5) } else { String::new() };
            notes.push(format!(
                "added tokens take what is around them into account in tokenizer.json ({flags}), which a GGUF cannot say: {}{more}",
                texts.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(" ")
            ));
        }
        !by_flag.is_empty()
    }

    /// A text that becomes other ids for no reason said before.
    fn note_samples(&self, notes: &mut Vec<String>) {
        // Small vocabularies do not know all characters.
        let knows = |c: &char| {
            let text = c.to_string();
            self.original.encode(&text, PARSED).is_ok_and(|ids| self.original.decode(&ids, false) == text)
                && self.written.encode(&text, PARSED).is_ok()
        };
        for sample in SAMPLES {
            let sample: String = sample.chars().filter(knows).collect();
            if let Some((original, written)) = self.differ(&sample) {
                let at = original.iter().zip(&written).take_while(|(a, b)| a == b).count();
                let show = |ids: &[u32]| format!("{:?}", &ids[at.min(ids.len())..ids.len().min(at + 6)]);
                notes.push(format!(
                    "{sample:?} becomes other tokens than with tokenizer.json: from token {at} on {} instead of {}",
                    show(&written),
                    show(&original)
                ));
                return;
            }
        }
    }

    /// Words that are tokens but come apart, or the other way round, where `ignore_merges` is not what the name implies.
    fn note_merges(&self, json: &Value, metadata: &Metadata, notes: &mut Vec<String>) {
        let name = metadata.str("tokenizer.ggml.pre").unwrap_or_default();
        let Some(pre) = sterna_core::tokenizer::PreTokenizer::named(name) else { return };
        let says = json["model"]["ignore_merges"] == true;
        if metadata.str("tokenizer.ggml.model") != Some("gpt2") || pre.ignore_merges() == says {
            return;
        }
        let ids = 0..self.original.vocab_size() as u32;
        let words = ids.filter(|&id| !self.original.is_special(id)).map(|id| self.original.decode(&[id], false));
        let differ: Vec<String> =
            words.filter(|word| !word.contains('\u{FFFD}') && self.differ(word).is_some()).collect();
        if let Some(one) = differ.first() {
            notes.push(format!(
                "tokenizer.json has ignore_merges {says}, and {name} implies the opposite: {} words become other tokens, such as {one:?}",
                differ.len()
            ));
        }
    }
}
