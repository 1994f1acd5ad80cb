//! Chat templates: messages to the one text that a model was trained to continue.
//!
//! Templates are Jinja programs that come inside model files, so they are untrusted; the module `jinja` runs them
//! as the transformers library does, and limits what they take. This module gives them messages and what else they
//! ask for. It does not turn text into ids, and it has no clock: the caller says what time it is.

mod builtin;

use std::collections::BTreeMap;

pub use crate::jinja::Value;
use crate::jinja::{Fault, MAX_BYTES, MAX_OUTPUT, MAX_STEPS, Syntax, Template};
use builtin::FALLBACKS;

/// Values by name: what a template may ask for beyond messages (`tools`, `enable_thinking`), or a message beyond its
/// role and content (`tool_calls`, `reasoning_content`).
pub type Extras = BTreeMap<String, Value>;

/// Why a conversation was not rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template does not parse.
    #[error("chat template, line {line}: {reason}")]
    Syntax {
        /// Line in the template, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// The source has no template syntax at all and is not a name we know either.
    #[error("chat template {name:?} is neither a template nor a known name (known: {known})")]
    UnknownName {
        /// The source, cut short.
        name: String,
        /// The names that [`ChatTemplate::fallback`] knows.
        known: String,
    },
    /// There is no template, and nothing tells which one the model was trained with.
    #[error(
        "the file has no chat template, so it is probably not a chat model: let it continue a text, or name a template ({known})"
    )]
    Missing {
        /// The names that [`ChatTemplate::fallback`] knows.
        known: String,
    },
    /// The template itself refuses these messages, with `raise_exception`.
    #[error("the chat template refuses these messages: {message}")]
    Raised {
        /// The template's words.
        message: String,
    },
    /// The template did something that cannot be done.
    #[error("chat template, line {line}: {reason}")]
    Render {
        /// Line in the template, from 1.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// The template ran for too long: it loops, or the conversation is enormous.
    #[error("the chat template took more than {steps} steps; is it meant to end?")]
    TooManySteps {
        /// The limit.
        steps: u64,
    },
    /// The template built texts and lists without end on the way to its result.
    #[error("the chat template built more than {bytes} bytes of values; is it meant to end?")]
    TooLarge {
        /// The limit.
        bytes: usize,
    },
    /// The template wrote too much.
    #[error("the chat template wrote more than {bytes} bytes")]
    TooLong {
        /// The limit.
        bytes: usize,
    },
}

/// One message of a conversation.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; templates may know more.
    pub role: String,
    /// The text.
    pub content: String,
    /// What else the template sees on the message. An entry `content` takes the place of the text (a list of parts, or
    /// none beside `tool_calls`).
    pub extras: Extras,
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), extras: Extras::new() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extras.insert(name.into(), value.into());
        self
    }

    /// What the template sees. As in transformers, thoughts under one of the names of [`REASONING`] are there under
    /// the other names that templates ask for.
    fn to_value(&self) -> Value {
        let own = [("role", Value::from(self.role.as_str())), ("content", Value::from(self.content.as_str()))];
        let own = own.into_iter().filter(|(name, _)| !self.extras.contains_key(*name));
        let fields = own.chain(self.extras.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut thoughts = REASONING.iter().filter_map(|name| self.extras.get(*name));
        match thoughts.find(|value| !matches!(value, Value::None)) {
            None => Value::from_pairs(fields),
            Some(thoughts) => {
                let first = [("thinking", thoughts.clone())].into_iter();
                Value::from_pairs(first.chain(fields).chain([("reasoning_content", thoughts.clone())]))
            }
        }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template: `tokenizer.chat_template` of a GGUF file, or `chat_template` of a tokenizer config. A bare
    /// name ("chatml") stands for the [`fallback`](Self::fallback) of that name. `bos` and `eos` are what `bos_token`
    /// and `eos_token` print; without them those are undefined.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Syntax`], [`TemplateError::UnknownName`].
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        if let Some(template) = Self::fallback(source.trim(), bos, eos) {
            return Ok(template);
        }
        if !source.contains("{{") && !source.contains("{%") {
            return Err(TemplateError::UnknownName {
                name: source.trim().chars().take(40).collect(),
                known: Self::known_names(),
            });
        }
        Self::compile(source, bos, eos)
    }

    /// A template of our own for a well-known format, for files that carry none; `None` if the name is not one of
    /// [`fallback_names`](Self::fallback_names).
    pub fn fallback(name: &str, bos: Option<&str>, eos: Option<&str>) -> Option<Self> {
        let (_, _, source) = FALLBACKS.iter().find(|(known, _, _)| *known == name)?;
        Self::compile(source, bos, eos).ok()
    }

    /// The names of the built-in formats.
    pub fn fallback_names() -> impl Iterator<Item = &'static str> {
        FALLBACKS.iter().map(|(name, _, _)| *name)
    }

    /// The built-in format that a vocabulary was made for, told by its special tokens; `None` when nothing tells.
    /// `has` says whether the vocabulary has a token of that text.
    pub fn guess(has: impl Fn(&str) -> bool) -> Option<&'static str> {
        let told = FALLBACKS.iter().filter(|(_, tokens, _)| !tokens.is_empty());
        told.filter(|(_, tokens, _)| tokens.iter().all(|token| has(token))).map(|(name, _, _)| *name).next()
    }

    /// [`fallback_names`](Self::fallback_names), for messages.
    pub(super) fn known_names() -> String {
        Self::fallback_names().collect::<Vec<_>>().join(", ")
    }

    fn compile(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        let template =
            Template::parse(source).map_err(|Syntax { line, reason }| TemplateError::Syntax { line, reason })?;
        Ok(ChatTemplate { template, bos: bos.map(str::to_owned), eos: eos.map(str::to_owned) })
    }

    /// Writes a conversation as the model expects it. With `add_generation_prompt` the text ends where the assistant's
    /// answer begins. `extras` are what else the template may look at (`tools`, `documents`, `enable_thinking`, ...);
    /// they go before what is known by itself (`bos_token`). `now`, in seconds since 1970, local to the user, is what
    /// `strftime_now` tells; without it that function is undefined, and templates that can, do without.
    ///
    /// Encode the result with special tokens parsed and none added.
    ///
    /// # Errors
    ///
    /// [`TemplateError`]: the template refuses the messages, fails, or hits a limit (10 million steps, 64 MiB of text,
    /// 512 MiB of values built on the way, lists and dicts nested 128 deep, 300 calls and expressions inside each other).
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extras: &Extras,
        now: Option<i64>,
    ) -> Result<String, TemplateError> {
        let mut variables = Extras::new();
        variables.insert("messages".to_owned(), messages.iter().map(Message::to_value).collect());
        variables.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        for absent in ["tools", "documents"] {
            variables.insert(absent.to_owned(), Value::None);
        }
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if let Some(text) = text {
                variables.insert(name.to_owned(), text.as_str().into());
            }
        }
        variables.extend(extras.iter().map(|(name, value)| (name.clone(), value.clone())));
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value)).collect();
        self.template.render(variables, now).map_err(|(line, fault)| match fault {
            Fault::Raised(message) => TemplateError::Raised { message },
            Fault::Steps => TemplateError::TooManySteps { steps: MAX_STEPS },
            Fault::Bytes => TemplateError::TooLarge { bytes: MAX_BYTES },
            Fault::Output => TemplateError::TooLong { bytes: MAX_OUTPUT },
            Fault::Failed(reason) => TemplateError::Render { line, reason },
        })
    }
}

/// The names under which templates look for what a model thought before it answered.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

#[cfg(test)]
mod tests;
