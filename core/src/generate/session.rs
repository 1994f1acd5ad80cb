//! A conversation in token ids: feeding, drawing, rewinding.

use super::{GenerateError, Model, Sampler, Sampling};
use crate::error::Error;
use crate::kernels::{Executor, Serial};
use crate::model::{Logits, ModelError, State};
use std::sync::Arc;

/// How a session is set up.
#[derive(Clone)]
pub struct SessionOptions {
    /// Tokens that fit; `None` for what the model was made for. The KV cache grows as needed.
    pub context: Option<usize>,
    /// The host's threads.
    pub exec: Arc<dyn Executor>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { context: None, exec: Arc::new(Serial) }
    }
}

/// When to stop generating.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerateOptions {
    /// At most so many tokens.
    pub max_tokens: Option<usize>,
    /// Texts that end the reply; they are not part of it.
    pub stop: Vec<String>,
    /// Goes on after tokens that end a reply.
    pub ignore_eos: bool,
    /// When the context is full, forgets its older half and goes on, rather than ending.
    pub slide: bool,
    /// So many tokens at the beginning of the text are never forgotten so.
    pub keep: usize,
}

/// Why generation came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its reply.
    EndOfText,
    /// A stop text came up.
    Stop,
    /// The number of tokens asked for was reached.
    Length,
    /// The context is full.
    Context,
}

/// One conversation: what was said, and its KV cache.
pub struct Session {
    model: Model,
    exec: Arc<dyn Executor>,
    state: State,
    /// All tokens; the cache holds all of them or the first of them. What it lacks, the next call computes.
    tokens: Vec<u32>,
    /// Of the last token in the cache.
    logits: Vec<f32>,
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("tokens", &self.tokens.len()).field("context", &self.context()).finish()
    }
}

/// Tokens that are fed between two looks at whether to go on.
pub const PIECE: usize = 128;

impl Session {
    pub(super) fn new(model: Model, options: SessionOptions) -> Self {
        let state = model.transformer.state(options.context);
        Self { model, exec: options.exec, state, tokens: Vec::new(), logits: Vec::new() }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What was said so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that fit.
    pub fn context(&self) -> usize {
        self.state.limit()
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> usize {
        self.state.cache_bytes()
    }

    /// Appends tokens; gives the logits after the last one, `[vocabulary]`.
    ///
    /// # Errors
    /// If a token is outside the vocabulary, the context is full, or there is no token at all.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.feed_while(tokens, |_| true)
    }

    /// As [`feed`](Self::feed); between pieces of a long text `go_on` is told how many tokens are done, and may stop it.
    /// What was fed by then stays.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_while(&mut self, tokens: &[u32], mut go_on: impl FnMut(usize) -> bool) -> Result<&[f32], Error> {
        self.model.check_tokens(tokens)?;
        if self.tokens.len() + tokens.len() > self.context() {
            let (limit, used) = (self.context(), self.tokens.len());
            return Err(ModelError::ContextFull { limit, used, more: tokens.len() }.into());
        }
        let asked = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        if self.tokens.is_empty() {
            return Err(GenerateError::EmptyPrompt.into());
        }
        if self.state.expect(self.tokens.len()) {
            // The text has become longer than the factors of its positions allow. It is read again here, piece by piece.
            self.state.truncate(0);
            self.state.expect(self.tokens.len());
        }
        while self.state.tokens() < self.tokens.len() {
            let from = self.state.tokens();
            let piece = &self.tokens[from..self.tokens.len().min(from + PIECE)];
            let last = from + piece.len() == self.tokens.len();
            let logits = if last { Logits::Last } else { Logits::None };
            let result = self.model.transformer.forward(&mut self.state, &*self.exec, piece, logits)?;
            if last {
                self.logits.clear();
                self.logits.extend_from_slice(result);
            } else if !go_on(self.state.tokens().saturating_sub(asked)) {
                self.tokens.truncate(self.state.tokens().max(asked));
                // The next call starts with the last of these tokens again, and so gets its logits.
                self.state.truncate(self.tokens.len() - 1);
                break;
            }
        }
        Ok(&self.logits)
    }

    /// Forgets all tokens from `tokens` on.
    pub fn rewind(&mut self, tokens: usize) {
        if tokens < self.tokens.len() {
            self.tokens.truncate(tokens);
            // One less in the cache, so that the next step computes the last token's logits.
            self.state.truncate(tokens.saturating_sub(1));
        }
    }

    /// Keeps what `prompt` and the tokens so far have in common at their beginnings, forgets the rest, and gives how many
    /// tokens that are: what remains to be fed is `prompt[kept..]`.
    pub fn keep_prefix(&mut self, prompt: &[u32]) -> usize {
        let kept = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.rewind(kept);
        kept
    }

    /// Forgets the older half of what follows the first `keep` tokens of a full context, as llama.cpp does. What comes after
    /// the gap is computed again, at the places it has now. False if there is nothing to forget.
    fn slide(&mut self, keep: usize) -> bool {
        let forgotten = self.tokens.len().saturating_sub(keep) / 2;
        if forgotten == 0 {
            return false;
        }
        self.tokens.drain(keep..keep + forgotten);
        self.state.truncate(keep);
        true
    }

    /// Draws the next token and appends it.
    ///
    /// # Errors
    /// If nothing was fed yet, the context is full, or the model computed NaN.
    pub fn draw(&mut self, sampler: &mut Sampler) -> Result<u32, Error> {
        self.feed(&[])?;
        let id = sampler.sample(&self.logits, &self.tokens)?;
        if self.tokens.len() == self.context() {
            return Err(ModelError::ContextFull { limit: self.context(), used: self.tokens.len(), more: 1 }.into());
        }
        self.tokens.push(id);
        Ok(id)
    }

    /// Draws tokens until one ends the reply or a limit is met. Tokens that end a reply are appended but not yielded.
    pub fn draw_all(&mut self, sampling: &Sampling, options: &GenerateOptions) -> Tokens<'_> {
        Tokens { draws: Draws::new(sampling, options), session: self }
    }

    fn is_end(&self, id: u32) -> bool {
        #[cfg(feature = "tokenizer")]
        return self.model.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.is_end_of_generation(id));
        #[cfg(not(feature = "tokenizer"))]
        return self.model.metadata.u32("tokenizer.ggml.eos_token_id") == Some(id);
    }
}

/// Where the drawing of a reply's tokens stands. Apart from its session, for hosts that must own both and cannot keep a
/// borrow between two tokens; [`Tokens`] is the iterator.
#[derive(Clone, Debug)]
pub struct Draws {
    sampler: Sampler,
    left: usize,
    ignore_eos: bool,
    slide: bool,
    keep: usize,
    finish: Option<Finish>,
}

impl Draws {
    /// Nothing is drawn yet.
    pub fn new(sampling: &Sampling, options: &GenerateOptions) -> Self {
        Self {
            sampler: Sampler::new(sampling.clone()),
            left: options.max_tokens.unwrap_or(usize::MAX),
            ignore_eos: options.ignore_eos,
            slide: options.slide,
            keep: options.keep,
            finish: None,
        }
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Draws the next token of `session` and appends it; `None` at the end.
    ///
    /// # Errors
    /// As [`Session::draw`]; the end comes after an error.
    pub fn next(&mut self, session: &mut Session) -> Option<Result<u32, Error>> {
        if self.finish.is_some() {
            return None;
        }
        if self.left == 0 {
            self.end(Finish::Length);
            return None;
        }
        let full = session.tokens.len() >= session.context();
        if full && !(self.slide && session.slide(self.keep)) {
            self.end(Finish::Context);
            return None;
        }
        self.left -= 1;
        match session.draw(&mut self.sampler) {
            Ok(id) if !self.ignore_eos && session.is_end(id) => {
                self.end(Finish::EndOfText);
                None
            }
            Ok(id) => Some(Ok(id)),
            Err(error) => {
                self.left = 0;
                Some(Err(error))
            }
        }
    }

    /// Ends it for a reason that was found outside.
    pub(super) fn end(&mut self, finish: Finish) {
        self.finish.get_or_insert(finish);
    }
}

/// Tokens as they are drawn.
#[derive(Debug)]
pub struct Tokens<'s> {
    session: &'s mut Session,
    draws: Draws,
}

impl Tokens<'_> {
    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.draws.finish()
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.draws.next(self.session)
    }
}
