//! How well a model predicts a text, chunk by chunk, as llama-perplexity measures it.
//!
//! The text is cut into chunks of the context's size. Of each chunk the second half is scored, so that every scored
//! token has at least half a context before it; the first token of a chunk is the one that begins a text, where the
//! model has such. That leaves out half of the text. With a stride of N a window of the context's size moves on by N
//! tokens at a time instead, and of each only the tokens are scored that no earlier one held: every token once, except
//! the first of the text where the model has no token to put before it.

pub mod divergence;
pub mod logits_file;

use anyhow::{Result, bail};
use rayon::prelude::*;
use sterna_core::Model;
use sterna_core::kernels::Executor;
use sterna_core::model::Logits;
use sterna_core::tokenizer::{EncodeOptions, Tokenizer};

use self::logits_file::Writer;
use crate::loss::cross_entropy;
use crate::ui::interrupt::Busy;
use crate::ui::message;
use crate::ui::perplexity::{Estimate, Length, Losses};

/// Tokens per chunk if none are given.
pub const CONTEXT: usize = 512;

/// How a text is measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Tokens of a chunk; no more than the model's context.
    pub context: usize,
    /// Tokens by which windows advance; `None` is chunks side by side.
    pub stride: Option<usize>,
    /// At most so many chunks.
    pub chunks: usize,
    /// At most so many tokens of the text, from its beginning on.
    pub tokens: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { context: CONTEXT, stride: None, chunks: usize::MAX, tokens: usize::MAX }
    }
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Which chunk was done, from 0 on.
    pub index: usize,
    /// Of so many.
    pub count: usize,
    /// Its tokens.
    pub tokens: usize,
    /// The whole text's tokens, if there are fewer than a chunk was asked to have: it has as many, then.
    pub shrunk_to: Option<usize>,
    /// What was found so far.
    pub so_far: Option<Estimate>,
}

/// What a measurement found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Over the chunks that were done; `None` if that is none.
    pub estimate: Option<Estimate>,
    /// Chunks that were done.
    pub chunks: usize,
    /// Chunks that there are; more than were done if Ctrl-C was pressed.
    pub count: usize,
    /// Tokens of a chunk.
    pub context: usize,
}

impl Chunk {
    /// Says on stderr that the text is shorter than a chunk of `asked` tokens; once.
    pub fn say_shrunk(&self, asked: usize) {
        if let Some(tokens) = self.shrunk_to.filter(|_| self.index == 0) {
            message::note(&format!(
                "the text has {tokens} tokens, fewer than a chunk of {asked}, so it is one chunk of {tokens}"
            ));
        }
    }
}

/// Measures, and calls `done` after each chunk. Stops early if Ctrl-C was pressed.
///
/// # Errors
/// A model without a tokenizer; a text that is too short for the settings; what `done` returns.
pub fn measure(
    model: &Model,
    exec: &dyn Executor,
    text: &str,
    settings: &Settings,
    busy: &Busy,
    done: &mut dyn FnMut(Chunk) -> Result<()>,
) -> Result<Found> {
    measure_and_save(model, exec, text, settings, None, busy, done)
}

/// As [`measure`]; what the model predicted for the scored tokens goes into `save`, as a base for
/// [`divergence::measure`].
///
/// # Errors
/// As [`measure`]; a stride together with `save`; a file that cannot be written.
pub fn measure_and_save(
    model: &Model,
    exec: &dyn Executor,
    text: &str,
    settings: &Settings,
    mut save: Option<&mut Writer>,
    busy: &Busy,
    done: &mut dyn FnMut(Chunk) -> Result<()>,
) -> Result<Found> {
    let tokenizer = model.tokenizer()?;
    let mut tokens = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false })?;
    tokens.truncate(settings.tokens);
    let context = settings.context.min(model.transformer().config().n_ctx);
    let shrunk_to = (settings.stride.is_none() && tokens.len() < context).then_some(tokens.len());
    let mut windows = match settings.stride {
        None => chunks(tokens.len(), context)?,
        Some(stride) => sliding(tokens.len(), context, stride)?,
    };
    windows.truncate(settings.chunks);
    if windows.is_empty() {
        bail!("--chunks 0 leaves nothing to measure; -1 is all");
    }
    if let Some(save) = &mut save {
        if settings.stride.is_some() {
            bail!("a file of logits holds chunks side by side; leave --stride or --kl-divergence-base out");
        }
        let context = windows[0].end;
        save.begin(context, model.transformer().vocabulary(), &tokens[..windows.len() * context])?;
    }
    let lengths = lengths(tokenizer, &tokens);
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let mut losses = Losses::default();
    let mut found = Found { estimate: None, chunks: 0, count: windows.len(), context: shrunk_to.unwrap_or(context) };
    for (index, window) in windows.iter().enumerate() {
        if busy.requested() {
            break;
        }
        let mut chunk = tokens[window.start..window.end].to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let scored = score(model, exec, &chunk, window.first - window.start, |rows| {
            if let Some(save) = &mut save {
                save.chunk(rows)?;
            }
            Ok(rows.par_iter().map(|(row, target)| cross_entropy(row, *target as usize)).collect::<Vec<_>>())
        })?;
        for (loss, length) in scored.into_iter().zip(&lengths[window.first..]) {
            losses.push(loss, *length);
        }
        (found.estimate, found.chunks) = (losses.estimate(), index + 1);
        done(Chunk { index, count: windows.len(), tokens: chunk.len(), shrunk_to, so_far: found.estimate })?;
    }
    Ok(found)
}

/// What follows `split` of the characters of `text`.
pub fn after(text: &str, split: f64) -> &str {
    let skip = (text.chars().count() as f64 * split) as usize;
    text.char_indices().nth(skip).map_or("", |(at, _)| &text[at..])
}

/// Tokens from `start` to `end`, of which those from `first` on are scored: `start < first < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    start: usize,
    first: usize,
    end: usize,
}

/// Whole chunks side by side, of which the second half is scored. A text that is shorter than a chunk is one chunk.
fn chunks(tokens: usize, context: usize) -> Result<Vec<Window>> {
    if context < 4 {
        bail!("a chunk of {context} tokens has no second half to score; give a -c of at least 4");
    }
    let context = context.min(tokens);
    if context < 4 {
        bail!("the text has {tokens} tokens, and a chunk needs 4; give a longer text");
    }
    let window = |i: usize| {
        let start = i * context;
        Window { start, first: start + context / 2 + 1, end: start + context }
    };
    Ok((0..tokens / context).map(window).collect())
}

/// Windows that advance by `stride` and score what is new in them. The last may be shorter, its tokens have no less
/// context.
fn sliding(tokens: usize, context: usize, stride: usize) -> Result<Vec<Window>> {
    if tokens < 2 {
        bail!("the text has {tokens} tokens; the second is the first that can be predicted, give a longer text");
    }
    if stride >= context {
        bail!("--stride {stride} leaves no context in windows of {context} tokens; give a smaller one, or a larger -c");
    }
    let mut windows = vec![Window { start: 0, first: 1, end: context.min(tokens) }];
    let mut end = context;
    while end < tokens {
        windows.push(Window { start: end + stride - context, first: end, end: (end + stride).min(tokens) });
        end += stride;
    }
    Ok(windows)
}

/// How much of the text each token completes.
fn lengths(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<Length> {
    let mut stream = tokenizer.stream();
    let length = |&token| {
        let piece = stream.push(token);
        Length { characters: piece.chars().count() as u64, bytes: piece.len() as u64 }
    };
    tokens.iter().map(length).collect()
}

/// What `judge` makes of the tokens of `chunk` from place `first` on, which is at least 1: each with the logits that the model
/// gave before it, `[vocabulary]`.
fn score<T>(
    model: &Model,
    exec: &dyn Executor,
    chunk: &[u32],
    first: usize,
    judge: impl FnOnce(&[(&[f32], u32)]) -> Result<T>,
) -> Result<T> {
    let transformer = model.transformer();
    let mut state = transformer.state(Some(chunk.len()));
    state.expect(chunk.len());
    // What comes before is context; the last token predicts nothing that is here.
    if first > 1 {
        transformer.forward(&mut state, exec, &chunk[..first - 1], Logits::None)?;
    }
    let logits = transformer.forward(&mut state, exec, &chunk[first - 1..chunk.len() - 1], Logits::All)?;
    let rows: Vec<(&[f32], u32)> =
        logits.chunks_exact(transformer.vocabulary()).zip(chunk[first..].iter().copied()).collect();
    judge(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lie_side_by_side_and_score_their_second_half() {
        let window = |start, first, end| Window { start, first, end };
        assert_eq!(chunks(21, 10).unwrap(), [window(0, 6, 10), window(10, 16, 20)]);
        assert_eq!(chunks(5, 5).unwrap(), [window(0, 3, 5)]);
        assert_eq!(chunks(9, 10).unwrap(), [window(0, 5, 9)]);
        assert!(chunks(3, 10).is_err() && chunks(9, 3).is_err());
    }

    #[test]
    fn sliding_windows_score_every_token_once() {
        let window = |start, first, end| Window { start, first, end };
        assert_eq!(sliding(10, 4, 2).unwrap(), [window(0, 1, 4), window(2, 4, 6), window(4, 6, 8), window(6, 8, 10)]);
        assert_eq!(sliding(9, 4, 3).unwrap(), [window(0, 1, 4), window(3, 4, 7), window(6, 7, 9)]);
        assert_eq!(sliding(4, 4, 1).unwrap(), [window(0, 1, 4)]);
        assert_eq!(sliding(2, 512, 256).unwrap(), [window(0, 1, 2)]);
        assert!(sliding(1, 4, 2).is_err() && sliding(10, 4, 4).is_err() && sliding(10, 1, 1).is_err());
        for (tokens, context, stride) in [(1000, 64, 32), (1000, 64, 63), (1001, 7, 1), (65, 64, 5)] {
            let windows = sliding(tokens, context, stride).unwrap();
            let scored: Vec<usize> = windows.iter().flat_map(|window| window.first..window.end).collect();
            assert_eq!(scored, (1..tokens).collect::<Vec<_>>());
            for window in &windows[1..] {
                assert_eq!(window.first - window.start, context - stride);
            }
            assert!(windows.iter().all(|window| window.start < window.first && window.end - window.start <= context));
        }
    }

    #[test]
    fn splits_fall_between_characters() {
        assert_eq!(after("äöüß", 0.5), "üß");
        assert_eq!(after("abc", 0.0), "abc");
        assert_eq!(after("", 0.9), "");
    }
}
