//! A loaded model: prompts in, text, token ids or probabilities out, one step a call, so that the worker can look at its
//! messages between two of them.

use std::sync::Arc;

use serde_json::{Map, Value};
use sterna_core::generate::{Draws, Finish, GenerateError, GenerateOptions, PIECE};
use sterna_core::gguf::Metadata;
use sterna_core::kernels::Executor;
use sterna_core::model::ModelError;
use sterna_core::model::image::{ImageClassifier, probabilities};
use sterna_core::{ErrorKind, Sampling, Session, SessionOptions};
use wasm_bindgen::prelude::*;

use crate::card::Card;
use crate::error::{Failure, Result};
use crate::{bench, options, threads};

#[cfg(feature = "text")]
use sterna_core::generate::{Reply, chat::ChatTemplate};
#[cfg(feature = "text")]
use sterna_core::tokenizer::EncodeOptions;

/// Items of a metadata array that are shown.
const HEAD: usize = 8;
/// What reading one piece of a prompt should take: an abort waits that long.
const PIECE_SECONDS: f64 = 0.1;
/// Tokens of the first piece, and what sizes are multiples of: kernels take so many side by side.
const PIECE_STEP: usize = 16;

/// A model of text or of pictures, with the one conversation that it holds.
#[wasm_bindgen]
pub struct Model {
    card: Card,
    exec: Arc<dyn Executor>,
    body: Body,
}

enum Body {
    Text(Box<Text>),
    Image(Box<ImageClassifier>, Metadata),
}

/// A text model and where its conversation stands.
struct Text {
    session: Session,
    /// Of the prompt, what is not fed yet.
    pending: Vec<u32>,
    /// Tokens of the prompt that were in the cache.
    cached: usize,
    /// Tokens of the next piece.
    piece: usize,
    writing: Option<Writing>,
    drawn: usize,
    #[cfg(feature = "text")]
    template: Option<(Option<String>, ChatTemplate)>,
}

/// A reply: as text or as token ids, whichever is asked for first.
enum Writing {
    Begun(Box<(Sampling, GenerateOptions)>),
    #[cfg(feature = "text")]
    Text(Box<Reply>),
    Ids(Box<Draws>),
}

#[wasm_bindgen]
impl Model {
    /// `text` or `image`.
    #[wasm_bindgen(getter)]
    pub fn kind(&self) -> String {
        match self.body {
            Body::Text(_) => "text",
            Body::Image(..) => "image",
        }
        .to_owned()
    }

    /// What is known of the model, as JSON.
    pub fn card(&self) -> String {
        self.card.json()
    }

    /// The file's metadata as a JSON object; long arrays as their length and their first items.
    pub fn metadata(&self) -> String {
        let metadata = match &self.body {
            Body::Text(text) => text.session.model().metadata(),
            Body::Image(_, metadata) => metadata,
        };
        let all: Map<String, Value> =
            metadata.iter().map(|(key, value)| (key.to_owned(), value.to_json(HEAD))).collect();
        Value::Object(all).to_string()
    }

    /// Probabilities of the classes, `[images, classes]`, from pixels, `[images, height, width, channels]`.
    ///
    /// # Errors
    /// `wrong-kind` of a text model, `invalid-argument` if the pixels are no whole number of images.
    pub fn classify(&self, pixels: &[u8]) -> Result<Vec<f32>> {
        let Body::Image(model, _) = &self.body else {
            let message = "this is a text model: generate text with it, or load an image classifier";
            return Err(Failure::new(ErrorKind::WrongKind, message));
        };
        let mut scores = threads::inside(|| model.logits(&*self.exec, pixels))?;
        scores.chunks_exact_mut(model.config().labels.len()).for_each(probabilities);
        Ok(scores)
    }

    /// Text as token ids; with `add_special` as the beginning of a text, with `parse_special` the names of special tokens are
    /// those tokens.
    ///
    /// # Errors
    /// `no-tokenizer` if the file has none, `unsupported` if this build has none.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        #[cfg(feature = "text")]
        return Ok(self.text_ref()?.session.model().encode(text, EncodeOptions { add_special, parse_special })?);
        #[cfg(not(feature = "text"))]
        return self.without_text((text, add_special, parse_special));
    }

    /// The text of token ids. Special tokens are left out unless `skip_special` is false.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn decode(&self, ids: &[u32], skip_special: Option<bool>) -> Result<String> {
        #[cfg(feature = "text")]
        return Ok(self.text_ref()?.session.model().tokenizer()?.decode(ids, skip_special.unwrap_or(true)));
        #[cfg(not(feature = "text"))]
        return self.without_text((ids, skip_special));
    }

    /// Makes `text` what the next reply goes on from, and gives the number of its tokens. What the cache has of its beginning
    /// stays; [`prefill`](Self::prefill) reads the rest.
    ///
    /// # Errors
    /// `context-full` if it does not fit, else as [`encode`](Self::encode).
    pub fn prompt(&mut self, text: &str) -> Result<usize> {
        let ids = self.encode(text, true, true)?;
        self.text()?.prompt(ids)
    }

    /// As [`prompt`](Self::prompt), with token ids.
    ///
    /// # Errors
    /// `context-full` if they do not fit, `invalid-argument` if one is not in the vocabulary or there are none.
    #[wasm_bindgen(js_name = promptTokens)]
    pub fn prompt_tokens(&mut self, ids: Vec<u32>) -> Result<usize> {
        self.text()?.prompt(ids)
    }

    /// As [`prompt`](Self::prompt), with a conversation as the chat template writes it: messages as a JSON list, and a JSON
    /// object of what else the template may look at. There, `chat_template` replaces the model's own.
    ///
    /// # Errors
    /// `no-chat-template`, `template` if it refuses the messages, else as [`prompt`](Self::prompt).
    #[wasm_bindgen(js_name = promptChat)]
    pub fn prompt_chat(&mut self, messages: &str, extras: &str) -> Result<usize> {
        #[cfg(feature = "text")]
        return self.text()?.prompt_chat(messages, extras);
        #[cfg(not(feature = "text"))]
        return self.without_text((messages, extras));
    }

    /// Tokens of the last prompt that were in the cache.
    #[wasm_bindgen(getter)]
    pub fn cached(&self) -> usize {
        self.text_ref().map_or(0, |text| text.cached)
    }

    /// Reads a piece of the prompt, for about a tenth of a second and at most 128 tokens; true when all is read.
    ///
    /// # Errors
    /// `out-of-memory` if the cache cannot grow.
    pub fn prefill(&mut self) -> Result<bool> {
        self.text()?.prefill()
    }

    /// Begins a reply to the prompt: a JSON object with `maxTokens`, `temperature`, `topK`, `topP`, `minP`, `repeatPenalty`,
    /// `repeatLastN`, `seed`, `stop`, `slide` and `ignoreEos`, all optional.
    ///
    /// # Errors
    /// `invalid-argument` if one of them makes no sense.
    pub fn start(&mut self, options: &str) -> Result<()> {
        let text = self.text()?;
        text.writing = Some(Writing::Begun(Box::new(options::generation(options)?)));
        text.drawn = 0;
        Ok(())
    }

    /// The next token's text, which is empty where a character is not complete yet; undefined at the end.
    ///
    /// # Errors
    /// `damaged` if the model computes nonsense, `out-of-memory` if the cache cannot grow.
    pub fn next(&mut self) -> Result<Option<String>> {
        #[cfg(feature = "text")]
        return self.text()?.next();
        #[cfg(not(feature = "text"))]
        return self.without_text(());
    }

    /// The next token; undefined at the end. For models without a tokenizer, and builds without any: stop texts are not
    /// looked for. A reply is taken by this or by [`next`](Self::next), not by both.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    #[wasm_bindgen(js_name = nextToken)]
    pub fn next_token(&mut self) -> Result<Option<u32>> {
        self.text()?.next_token()
    }

    /// Why the reply ended, once it has: `stop` (the model's own end, or a stop text), `length` or `context`.
    #[wasm_bindgen(getter)]
    pub fn finish(&self) -> Option<String> {
        let finish = match self.text_ref().ok()?.writing.as_ref()? {
            Writing::Begun(_) => None,
            #[cfg(feature = "text")]
            Writing::Text(reply) => reply.finish(),
            Writing::Ids(draws) => draws.finish(),
        };
        let word = match finish? {
            Finish::EndOfText | Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
        };
        Some(word.to_owned())
    }

    /// Tokens of the reply so far.
    #[wasm_bindgen(getter)]
    pub fn drawn(&self) -> usize {
        self.text_ref().map_or(0, |text| text.drawn)
    }

    /// Tokens that fit into the conversation; 0 for an image classifier.
    #[wasm_bindgen(getter)]
    pub fn context(&self) -> usize {
        self.text_ref().map_or(0, |text| text.session.context())
    }

    /// Bytes of the packed weights and of the KV cache.
    pub fn memory(&self) -> f64 {
        let cache = self.text_ref().map_or(0, |text| text.session.cache_bytes());
        self.card.packed_bytes as f64 + cache as f64
    }
}

impl Model {
    /// A text model and an empty conversation of at most `context` tokens.
    pub fn of_text(model: sterna_core::Model, mut card: Card, context: Option<usize>, exec: Arc<dyn Executor>) -> Self {
        card.packed_bytes = model.transformer().bytes() as u64;
        let session = model.session(SessionOptions { context, exec: exec.clone() });
        let text = Text {
            session,
            pending: Vec::new(),
            cached: 0,
            piece: PIECE_STEP,
            writing: None,
            drawn: 0,
            #[cfg(feature = "text")]
            template: None,
        };
        Self { card, exec, body: Body::Text(Box::new(text)) }
    }

    /// An image classifier.
    pub fn of_image(model: ImageClassifier, metadata: Metadata, mut card: Card, exec: Arc<dyn Executor>) -> Self {
        card.packed_bytes = model.bytes() as u64;
        Self { card, exec, body: Body::Image(Box::new(model), metadata) }
    }

    fn text(&mut self) -> Result<&mut Text> {
        match &mut self.body {
            Body::Text(text) => Ok(text),
            Body::Image(..) => Err(not_text()),
        }
    }

    fn text_ref(&self) -> Result<&Text> {
        match &self.body {
            Body::Text(text) => Ok(text),
            Body::Image(..) => Err(not_text()),
        }
    }

    /// What a build without tokenizers says when it is given text.
    #[cfg(not(feature = "text"))]
    fn without_text<T>(&self, _: impl Sized) -> Result<T> {
        self.text_ref()?;
        let message = "this build has no tokenizers and no chat templates; load the model with text: true";
        Err(Failure::new(ErrorKind::Unsupported, message))
    }
}

impl Text {
    fn prompt(&mut self, mut prompt: Vec<u32>) -> Result<usize> {
        let (len, limit) = (prompt.len(), self.session.context());
        if len == 0 {
            return Err(GenerateError::EmptyPrompt.into());
        }
        if len > limit {
            return Err(ModelError::ContextFull { limit, used: 0, more: len }.into());
        }
        let vocabulary = self.session.model().transformer().vocabulary();
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(ModelError::TokenOutside { id, vocabulary }.into());
        }
        self.cached = self.session.keep_prefix(&prompt);
        prompt.drain(..self.cached);
        self.pending = prompt;
        self.writing = None;
        Ok(len)
    }

    #[cfg(feature = "text")]
    fn prompt_chat(&mut self, messages: &str, extras: &str) -> Result<usize> {
        let (messages, (extras, given)) = (options::messages(messages)?, options::extras(extras)?);
        let model = self.session.model().clone();
        let template = match &mut self.template {
            Some((known, template)) if *known == given => template,
            slot => {
                let template = model.chat_template(given.as_deref())?;
                &slot.insert((given, template)).1
            }
        };
        let rendered = template.render(&messages, true, &extras, Some(local_seconds()));
        let rendered = rendered.map_err(sterna_core::Error::from)?;
        let ids = model.encode(&rendered, EncodeOptions { add_special: false, parse_special: true })?;
        self.prompt(ids)
    }

    fn prefill(&mut self) -> Result<bool> {
        let len = self.piece.min(self.pending.len());
        if len > 0 {
            let started = bench::now();
            let piece = &self.pending[..len];
            threads::inside(|| self.session.feed(piece).map(|_| ()))?;
            self.pending.drain(..len);
            // A last piece of a few tokens says little.
            if len >= PIECE_STEP {
                let fitting = len as f64 * PIECE_SECONDS / (bench::now() - started).max(1e-6);
                self.piece = (fitting as usize / PIECE_STEP * PIECE_STEP).clamp(PIECE_STEP, PIECE);
            }
        }
        Ok(self.pending.is_empty())
    }

    /// The reply, once the prompt is read.
    fn reply(&mut self) -> Result<(&mut Session, &mut Writing)> {
        if !self.pending.is_empty() {
            return Err(Failure::argument("the prompt is not read yet: call prefill until it gives true"));
        }
        let writing = self.writing.as_mut().ok_or_else(|| Failure::argument("no reply was begun: call start first"))?;
        Ok((&mut self.session, writing))
    }

    #[cfg(feature = "text")]
    fn next(&mut self) -> Result<Option<String>> {
        let (session, writing) = self.reply()?;
        if let Writing::Begun(options) = writing {
            *writing = Writing::Text(Box::new(Reply::new(session, &options.0, &options.1)?));
        }
        let Writing::Text(reply) = writing else {
            return Err(Failure::argument("this reply is taken as token ids; begin another one"));
        };
        let piece = threads::inside(|| reply.next(session)).transpose()?;
        self.drawn = reply.tokens();
        Ok(piece)
    }

    fn next_token(&mut self) -> Result<Option<u32>> {
        let (session, writing) = self.reply()?;
        if let Writing::Begun(options) = writing {
            *writing = Writing::Ids(Box::new(Draws::new(&options.0, &options.1)));
        }
        let Writing::Ids(draws) = writing else {
            return Err(Failure::argument("this reply is taken as text; begin another one"));
        };
        let id = threads::inside(|| draws.next(session)).transpose()?;
        self.drawn += usize::from(id.is_some());
        Ok(id)
    }
}

fn not_text() -> Failure {
    let message =
        "this is an image classifier, it neither reads nor writes text: classify with it, or load a text model";
    Failure::new(ErrorKind::WrongKind, message)
}

/// Seconds since 1970 by the user's clock, as templates tell the date.
#[cfg(feature = "text")]
fn local_seconds() -> i64 {
    let now = js_sys::Date::new_0();
    (now.get_time() / 1000.0 - now.get_timezone_offset() * 60.0) as i64
}
