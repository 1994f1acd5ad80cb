//! Whether the embedding, the output and the tokenizer of a file are made for the same tokens.
//!
//! Not here: the tokenizer itself, which models do without.

use super::error::ModelError;
use crate::gguf::Header;

/// What is wrong, if anything.
pub(super) fn fault(header: &Header) -> Option<ModelError> {
    differ(header).or_else(|| without_rows(header))
}

/// An output for other tokens than the embedding has.
fn differ(header: &Header) -> Option<ModelError> {
    let find = |name: &str| header.tensors.iter().find(|info| info.name == name);
    let (embedding, output) = (find("token_embd.weight")?, find("output.weight")?);
    (embedding.rows() != output.rows()).then(|| ModelError::Shape {
        name: output.name.clone(),
        offset: output.offset,
        found: format!("{} x {}", output.rows(), output.cols()),
        expected: format!("{} x {}, as the embedding has", embedding.rows(), embedding.cols()),
    })
}

/// A vocabulary with more tokens than the embedding has rows: texts would become ids that the model cannot read. Padding is no
/// such token; and fewer are no fault, as embeddings get padded.
fn without_rows(header: &Header) -> Option<ModelError> {
    let tokens = header.metadata.strings("tokenizer.ggml.tokens")?;
    let types = header.metadata.i32s("tokenizer.ggml.token_type").unwrap_or_default();
    let padding = header.metadata.u64("tokenizer.ggml.padding_token_id");
    let embedding = header.tensor("token_embd.weight")?;
    let rows = usize::try_from(embedding.rows()).unwrap_or(usize::MAX);
    let is_padding = |(id, text): (usize, &String)| {
        types.get(id) == Some(&UNUSED_TOKEN) || padding == Some(id as u64) || is_padding_token(text)
    };
    if tokens.iter().enumerate().skip(rows).all(is_padding) {
        return None;
    }
    Some(ModelError::Vocabulary {
        name: embedding.name.clone(),
        offset: embedding.offset,
        rows: embedding.rows(),
        tokens: tokens.len() as u64,
    })
}

/// A vocabulary with fewer tokens than the embedding has rows, as a sentence for the user: such ids have no text. Converters fill
/// the vocabulary up with padding.
pub fn rows_without_tokens(header: &Header) -> Option<String> {
    let tokens = header.metadata.strings("tokenizer.ggml.tokens")?.len() as u64;
    let rows = header.tensor("token_embd.weight")?.rows();
    (tokens < rows).then(|| {
        format!(
            "the vocabulary has {tokens} tokens and the embedding {rows} rows: ids from {tokens} on have no text. If the model gives \
             them, the file was converted with another model's tokenizer"
        )
    })
}

/// A token that stands for nothing, in `tokenizer.ggml.token_type`.
const UNUSED_TOKEN: i32 = 5;

/// Whether a token's text says that it fills a place (`<pad>`, `[PAD17]`, `<|reserved_special_token_3|>`, `<unused5>`): no text
/// becomes it, so a model may go without a row for it.
pub fn is_padding_token(text: &str) -> bool {
    let Some(word) = text.strip_prefix(['<', '[']).and_then(|rest| rest.strip_suffix(['>', ']'])) else { return false };
    let word = word.trim_matches(|c: char| !c.is_ascii_alphabetic()).to_ascii_lowercase();
    ["pad", "padding", "unused", "reserved", "reserved_special_token", "dummy", "extra", "extra_id", "placeholder"]
        .contains(&word.as_str())
}
