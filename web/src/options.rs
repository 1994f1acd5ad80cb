//! What JavaScript gives as JSON: how to generate, messages, extras for templates.

use serde_json::{Map, Value};
use sterna_core::Sampling;
use sterna_core::generate::GenerateOptions;

use crate::error::{Failure, Result};

/// How to draw and when to stop, from the options of `start`. What is absent or null is core's default; numbers that make no
/// sense are refused rather than bent.
pub fn generation(json: &str) -> Result<(Sampling, GenerateOptions)> {
    let fields = Fields::parse(json)?;
    let (sampling, limits) = (Sampling::default(), GenerateOptions::default());
    let sampling = Sampling {
        temperature: fields.float("temperature", 0.0, f32::MAX)?.unwrap_or(sampling.temperature),
        top_k: fields.whole("topK")?.map_or(sampling.top_k, saturated),
        top_p: fields.float("topP", 0.0, 1.0)?.unwrap_or(sampling.top_p),
        min_p: fields.float("minP", 0.0, 1.0)?.unwrap_or(sampling.min_p),
        repeat_penalty: fields.float("repeatPenalty", f32::MIN_POSITIVE, f32::MAX)?.unwrap_or(sampling.repeat_penalty),
        frequency_penalty: fields.float("frequencyPenalty", f32::MIN, f32::MAX)?.unwrap_or(sampling.frequency_penalty),
        presence_penalty: fields.float("presencePenalty", f32::MIN, f32::MAX)?.unwrap_or(sampling.presence_penalty),
        repeat_last_n: fields.whole("repeatLastN")?.map_or(sampling.repeat_last_n, saturated),
        logit_bias: fields.biases("logitBias")?,
        seed: fields.whole("seed")?.unwrap_or(sampling.seed),
    };
    let limits = GenerateOptions {
        max_tokens: fields.whole("maxTokens")?.map(saturated),
        stop: fields.texts("stop")?,
        ignore_eos: fields.flag("ignoreEos")?.unwrap_or(limits.ignore_eos),
        slide: fields.flag("slide")?.unwrap_or(limits.slide),
        keep: fields.whole("keep")?.map_or(limits.keep, saturated),
    };
    Ok((sampling, limits))
}

/// One JSON object.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(json: &str) -> Result<Self> {
        match serde_json::from_str(json) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Failure::argument("options must be an object")),
            Err(error) => Err(Failure::argument(format!("options are not JSON: {error}"))),
        }
    }

    /// A field that is there and not null.
    fn find(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn float(&self, name: &str, min: f32, max: f32) -> Result<Option<f32>> {
        let Some(value) = self.find(name) else { return Ok(None) };
        match value.as_f64().map(|value| value as f32) {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ if min == f32::MIN => Err(Failure::argument(format!("{name} is {value}, it must be a number"))),
            _ if max < f32::MAX => Err(Failure::argument(format!("{name} is {value}, it must be from {min} to {max}"))),
            _ => Err(Failure::argument(format!("{name} is {value}, it must be a number of at least {min}"))),
        }
    }

    /// A whole number from 0; a text of digits too, as JavaScript's numbers end at 2^53.
    fn whole(&self, name: &str) -> Result<Option<u64>> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let number = match value {
            Value::String(digits) => digits.parse().ok(),
            Value::Number(number) => number.as_u64().or_else(|| {
                let number = number.as_f64()?;
                (number.fract() == 0.0 && (0.0..18_446_744_073_709_551_616.0).contains(&number))
                    .then_some(number as u64)
            }),
            _ => None,
        };
        number
            .map(Some)
            .ok_or_else(|| Failure::argument(format!("{name} is {value}, it must be a whole number from 0")))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.find(name) else { return Ok(None) };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| Failure::argument(format!("{name} is {value}, it must be true or false")))
    }

    /// Pairs of a token's id and what is added to its logit; null is minus infinity, which JSON cannot write.
    fn biases(&self, name: &str) -> Result<Vec<(u32, f32)>> {
        let Some(value) = self.find(name) else { return Ok(Vec::new()) };
        let pair = |pair: &Value| {
            let [id, bias] = pair.as_array()?.as_slice() else { return None };
            let bias = if bias.is_null() { f32::NEG_INFINITY } else { bias.as_f64()? as f32 };
            Some((u32::try_from(id.as_u64()?).ok()?, bias)).filter(|_| bias < f32::INFINITY)
        };
        let pairs = value.as_array().and_then(|pairs| pairs.iter().map(pair).collect());
        pairs
            .ok_or_else(|| Failure::argument(format!("{name} is {value}, it must be pairs of a token id and a number")))
    }

    /// A text or a list of texts.
    fn texts(&self, name: &str) -> Result<Vec<String>> {
        let wrong =
            |value: &Value| Failure::argument(format!("{name} is {value}, it must be a text or a list of texts"));
        match self.find(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(value @ Value::Array(texts)) => {
                texts.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(|| wrong(value))).collect()
            }
            Some(value) => Err(wrong(value)),
        }
    }
}

fn saturated(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(feature = "text")]
pub use chat::{extras, messages};

#[cfg(feature = "text")]
mod chat {
    use std::collections::BTreeMap;

    use sterna_core::generate::chat::{Extras, Message, Value};

    use crate::error::{Failure, Result};

    /// Messages of a conversation: a list of objects with a role. What else they hold goes to the template as it is; content
    /// that is no text (parts, or none) too.
    pub fn messages(json: &str) -> Result<Vec<Message>> {
        let wrong = |reason: String| Failure::argument(format!("messages: {reason}"));
        let all: Vec<BTreeMap<String, Value>> = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        let message = |(i, mut fields): (usize, BTreeMap<String, Value>)| {
            let role = fields.remove("role");
            let Some(role) = role.as_ref().and_then(Value::as_str) else {
                return Err(wrong(format!("message {i} has no role; give \"user\", \"assistant\" or \"system\"")));
            };
            let text = fields.get("content").and_then(Value::as_str).map(str::to_owned);
            if text.is_some() {
                fields.remove("content");
            }
            let mut message = Message::new(role, text.unwrap_or_default());
            message.extras = fields;
            Ok(message)
        };
        let all: Vec<Message> = all.into_iter().enumerate().map(message).collect::<Result<_>>()?;
        if all.is_empty() {
            return Err(wrong("there are none; give at least one".to_owned()));
        }
        Ok(all)
    }

    /// What a template may ask for beyond messages, and the template that takes the place of the model's own
    /// (`chat_template`: source, or the name of a built-in one).
    pub fn extras(json: &str) -> Result<(Extras, Option<String>)> {
        let wrong = |reason: String| Failure::argument(format!("extras for the template: {reason}"));
        let mut extras: Extras = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        let template = match extras.remove("chat_template") {
            Some(value) => match value.as_str() {
                Some(source) => Some(source.to_owned()),
                None => return Err(wrong("chat_template is not a text".to_owned())),
            },
            None => None,
        };
        Ok((extras, template))
    }
}
