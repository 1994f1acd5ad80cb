//! Text on top of a session's tokens: prompts are encoded, replies come out as complete characters.

use super::{Draws, Finish, GenerateError, GenerateOptions, Model, Sampling, Session};
use crate::error::Error;
use crate::tokenizer::{EncodeOptions, StreamDecoder};

impl Model {
    /// Text as this model's tokens. With `add_special`, as the beginning of a text: the tokens that begin one are put before
    /// it where the model has such, and there is always a token to begin with, if the model has any that could serve.
    ///
    /// # Errors
    /// If the file has no tokenizer, or it has no token for a character.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Error> {
        let tokenizer = self.tokenizer()?;
        let mut tokens = tokenizer.encode(text, options)?;
        if tokens.is_empty() && options.add_special {
            // A text must begin somehow.
            tokens.extend(tokenizer.bos().or(tokenizer.eos()));
        }
        Ok(tokens)
    }
}

impl Session {
    /// Feeds `prompt` and generates what follows, piece by piece, until the model ends or the context is full.
    ///
    /// At the beginning of a session the tokens that begin a text are put before the prompt, where the model has such.
    ///
    /// # Errors
    /// If the file has no tokenizer, or the prompt does not fit.
    pub fn generate(&mut self, prompt: &str, sampling: &Sampling) -> Result<Generation<'_>, Error> {
        self.feed_text(prompt, false)?;
        Ok(self.reply(sampling, &GenerateOptions::default())?)
    }

    /// Encodes `text` and feeds it. With `parse_special`, the names of special tokens in it are those tokens, as in a
    /// rendered chat template.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn feed_text(&mut self, text: &str, parse_special: bool) -> Result<(), Error> {
        let tokens = self.encode(text, parse_special)?;
        self.feed(&tokens)?;
        Ok(())
    }

    /// The tokens that [`feed_text`](Self::feed_text) would feed.
    ///
    /// # Errors
    /// If the file has no tokenizer.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, Error> {
        self.model().encode(text, EncodeOptions { add_special: self.tokens().is_empty(), parse_special })
    }

    /// Generates what follows the tokens fed so far.
    ///
    /// # Errors
    /// If the file has no tokenizer.
    pub fn reply(&mut self, sampling: &Sampling, options: &GenerateOptions) -> Result<Generation<'_>, GenerateError> {
        Ok(Generation { reply: Reply::new(self, sampling, options)?, session: self })
    }
}

/// Where the writing of a reply stands. Apart from its session, for hosts that must own both and cannot keep a borrow
/// between two tokens; [`Generation`] is the iterator.
#[derive(Debug)]
pub struct Reply {
    draws: Draws,
    decoder: StreamDecoder,
    stop: Vec<String>,
    /// Text that may be the beginning of a stop text.
    held: String,
    drawn: usize,
    ended: bool,
}

impl Reply {
    /// A reply to what was fed to `session` so far; nothing is drawn yet.
    ///
    /// # Errors
    /// If the file has no tokenizer.
    pub fn new(session: &Session, sampling: &Sampling, options: &GenerateOptions) -> Result<Self, GenerateError> {
        let decoder = session.model().tokenizer()?.stream().after(session.tokens());
        let stop = options.stop.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        let draws = Draws::new(sampling, options);
        Ok(Self { draws, decoder, stop, held: String::new(), drawn: 0, ended: false })
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.draws.finish()
    }

    /// Tokens drawn so far.
    pub fn tokens(&self) -> usize {
        self.drawn
    }

    /// The text of the next token of `session`, the one that this began with; empty where a character is not complete yet,
    /// `None` at the end.
    ///
    /// # Errors
    /// As [`Session::draw`].
    pub fn next(&mut self, session: &mut Session) -> Option<Result<String, Error>> {
        match self.draws.next(session) {
            Some(Ok(id)) => {
                self.drawn += 1;
                let piece = self.decoder.push(id);
                Some(Ok(self.release(&piece)))
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.ended => None,
            None => {
                self.ended = true;
                let mut text = core::mem::take(&mut self.held);
                if self.finish() != Some(Finish::Stop) {
                    text.push_str(&self.decoder.finish());
                }
                (!text.is_empty()).then_some(Ok(text))
            }
        }
    }

    /// The text that can be given out now that `piece` has come.
    fn release(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            self.draws.end(Finish::Stop);
            return core::mem::take(&mut self.held);
        }
        // The longest end of the text that begins a stop text stays back.
        let mut keep = 0;
        for stop in &self.stop {
            let longest = stop.char_indices().map(|(at, _)| at).filter(|&at| self.held.ends_with(&stop[..at])).max();
            keep = keep.max(longest.unwrap_or(0));
        }
        let rest = self.held.split_off(self.held.len() - keep);
        core::mem::replace(&mut self.held, rest)
    }
}

/// A reply as it is written: pieces of text, each whole characters.
#[derive(Debug)]
pub struct Generation<'s> {
    session: &'s mut Session,
    reply: Reply,
}

impl Generation<'_> {
    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.reply.finish()
    }

    /// Tokens drawn so far.
    pub fn tokens(&self) -> usize {
        self.reply.tokens()
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<String, Error>;

    /// The next token's text; empty where a character is not complete yet.
    fn next(&mut self) -> Option<Self::Item> {
        self.reply.next(self.session)
    }
}
