//! A model from chunks of its file: each tensor is packed as soon as it is whole, so that the peak in memory is the packed
//! model and one tensor.

use std::sync::Arc;

use js_sys::Uint8Array;
use sterna_core::ErrorKind;
use sterna_core::generate::ModelLoader;
use sterna_core::gguf::{Event, Header, Metadata, StreamReader, TensorInfo, merge};
use sterna_core::kernels::Executor;
use sterna_core::model::LoadOptions;
use sterna_core::model::image::{self, ImageLoader};
use wasm_bindgen::prelude::*;

use crate::card::Card;
use crate::error::{Failure, Result};
use crate::model::Model;
use crate::threads;

/// Bytes that are taken over from JavaScript at a time.
const WINDOW: u32 = 1 << 20;

/// Takes a file chunk by chunk, or the files of a split model one after the other.
///
/// A split model's tensors are known only when all of its headers are. So those of the second part and on are read
/// ahead ([`ahead`](Self::ahead)), then all parts are read whole, in order ([`part`](Self::part)).
#[wasm_bindgen]
pub struct Loader {
    reader: StreamReader,
    /// Headers of the second part and on.
    later: Vec<Header>,
    /// Reads the next of them.
    ahead: Option<StreamReader>,
    /// Parts that were read whole, and their bytes.
    done: (usize, u64),
    options: LoadOptions,
    context: Option<usize>,
    exec: Arc<dyn Executor>,
    /// From the header on.
    parts: Option<Parts>,
    card: Option<Card>,
    window: Vec<u8>,
    failed: bool,
}

/// A model on its way.
enum Parts {
    Text(Box<ModelLoader>),
    Image(Box<ImageLoader>, Metadata),
}

#[wasm_bindgen]
impl Loader {
    /// A loader for a file of `length` bytes, where that is known; `kernel` by name rather than the fastest, `context` tokens
    /// rather than what the model was made for.
    ///
    /// # Errors
    /// `invalid-argument` if a number is not a whole one.
    #[wasm_bindgen(constructor)]
    pub fn new(length: Option<f64>, kernel: Option<String>, context: Option<f64>) -> Result<Self> {
        let length = length.map(|length| whole("length", length)).transpose()?;
        let context = context.map(|context| whole("context", context)).transpose()?;
        if context == Some(0) {
            return Err(Failure::argument("a context of 0 tokens holds nothing; leave it out, or give at least 1"));
        }
        Ok(Self {
            reader: StreamReader::new(length),
            later: Vec::new(),
            ahead: None,
            done: (0, 0),
            options: LoadOptions { kernel },
            context: context.map(|context| usize::try_from(context).unwrap_or(usize::MAX)),
            exec: threads::executor(),
            parts: None,
            card: None,
            window: Vec::new(),
            failed: false,
        })
    }

    /// Begins to read the header of a split model's next part ahead, of a file of `length` bytes if that is known.
    /// `push` takes its bytes for as long as [`reads_ahead`](Self::reads_ahead).
    ///
    /// # Errors
    /// `invalid-argument` if the length is not a whole number, or the first part has begun.
    pub fn ahead(&mut self, length: Option<f64>) -> Result<()> {
        self.alive()?;
        if self.parts.is_some() || self.ahead.is_some() {
            return Err(Failure::argument("headers are read ahead one after the other, before the first part"));
        }
        self.ahead = Some(StreamReader::new(length.map(|length| whole("length", length)).transpose()?));
        Ok(())
    }

    /// Whether a header that is read ahead is incomplete yet.
    #[wasm_bindgen(getter, js_name = readsAhead)]
    pub fn reads_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Ends one part of a split model and begins the next, a file of `length` bytes if that is known.
    ///
    /// # Errors
    /// `truncated` if bytes of the part that ends are missing, `invalid-argument` if there is no next part.
    pub fn part(&mut self, length: Option<f64>) -> Result<()> {
        self.alive()?;
        let length = length.map(|length| whole("length", length)).transpose()?;
        self.failed = true;
        self.end_part()?;
        if self.done.0 > self.later.len() {
            return Err(Failure::argument("this part's header was not read ahead"));
        }
        self.reader = StreamReader::new(length);
        self.failed = false;
        Ok(())
    }

    /// Takes the next bytes of the file, as many as there are.
    ///
    /// # Errors
    /// If the file is damaged or not supported; nothing can be done with the loader then.
    pub fn push(&mut self, chunk: &Uint8Array) -> Result<()> {
        self.alive()?;
        self.failed = true;
        let mut window = core::mem::take(&mut self.window);
        for start in (0..chunk.length()).step_by(WINDOW as usize) {
            let part = chunk.subarray(start, chunk.length().min(start.saturating_add(WINDOW)));
            window.resize(part.length() as usize, 0);
            part.copy_to(&mut window);
            let ahead = self.ahead.is_some();
            self.take(&window)?;
            if ahead && self.ahead.is_none() {
                // What follows a header that is read ahead comes again with its part.
                break;
            }
        }
        self.window = window;
        self.failed = false;
        Ok(())
    }

    /// What is known of the model, as JSON, once its header has come.
    pub fn card(&self) -> Option<String> {
        self.card.as_ref().map(Card::json)
    }

    /// The model, after the last byte. Takes the loader.
    ///
    /// # Errors
    /// `truncated` if bytes are missing.
    pub fn finish(mut self) -> Result<Model> {
        self.alive()?;
        self.end_part()?;
        let (parts, bytes) = self.done;
        if parts <= self.later.len() {
            let message = format!("the model has {} parts, {parts} were read", self.later.len() + 1);
            return Err(Failure::new(ErrorKind::Truncated, message));
        }
        let (Some(parts), Some(mut card)) = (self.parts, self.card) else {
            return Err(Failure::new(
                ErrorKind::Truncated,
                "the file ends within its header; download or copy it again",
            ));
        };
        card.file_bytes.get_or_insert(bytes);
        // Its header is the model's now.
        drop(self.reader);
        match parts {
            Parts::Text(loader) => Ok(Model::of_text(loader.finish()?, card, self.context, self.exec)),
            Parts::Image(loader, metadata) => Ok(Model::of_image(loader.finish()?, metadata, card, self.exec)),
        }
    }
}

impl Loader {
    fn alive(&self) -> Result<()> {
        if self.failed { Err(Failure::argument("this loader has failed before; make another one")) } else { Ok(()) }
    }

    /// Ends the file that is read.
    fn end_part(&mut self) -> Result<()> {
        while let Some(event) = self.reader.finish()? {
            if let (Event::Tensor { info, bytes, .. }, Some(parts)) = (event, &mut self.parts) {
                parts.tensor(info, bytes, &self.exec)?;
            }
        }
        let (parts, bytes) = self.done;
        self.done = (parts + 1, bytes + self.reader.position());
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let Some(reader) = &mut self.ahead {
            while let Some(event) = reader.read(&mut bytes)? {
                if let Event::Header(header) = event {
                    self.later.push(header.clone());
                    self.ahead = None;
                    break;
                }
            }
            return Ok(());
        }
        while let Some(event) = self.reader.read(&mut bytes)? {
            match (event, &mut self.parts) {
                (Event::Header(header), None) => {
                    let (parts, card) = begin(header, &self.later, &self.options)?;
                    self.card = Some(card);
                    self.parts = Some(parts);
                }
                (Event::Header(header), Some(_)) => {
                    let part = self.done.0;
                    if self.later.get(part.wrapping_sub(1)) != Some(header) {
                        let message = format!("part {} of the model changed while it was read", part + 1);
                        return Err(Failure::new(ErrorKind::Damaged, message));
                    }
                }
                (Event::Tensor { info, bytes, .. }, Some(parts)) => parts.tensor(info, bytes, &self.exec)?,
                // The header comes first.
                (Event::Tensor { .. }, None) => {}
            }
        }
        Ok(())
    }
}

impl Parts {
    fn tensor(&mut self, info: &TensorInfo, bytes: &[u8], exec: &Arc<dyn Executor>) -> Result<()> {
        threads::inside(|| {
            match self {
                Self::Text(loader) => loader.tensor(info, bytes, &**exec)?,
                Self::Image(loader, _) => loader.tensor(info, bytes, &**exec)?,
            }
            Ok(())
        })
    }
}

/// A number that JavaScript gave.
fn whole(name: &str, value: f64) -> Result<u64> {
    if value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value) {
        return Ok(value as u64);
    }
    Err(Failure::argument(format!("{name} is {value}, it must be a whole number")))
}

/// The loader for the kind of model that a header is of, joined with those of the model's later parts, and its card.
fn begin(first: &Header, later: &[Header], options: &LoadOptions) -> Result<(Parts, Card)> {
    let kernel =
        sterna_core::kernels::select(options.kernel.as_deref()).map_err(sterna_core::model::ModelError::from)?;
    let parts = first.metadata.u64("split.count").unwrap_or(1);
    if later.is_empty() && parts > 1 {
        let message = format!(
            "the file is one of {parts} parts of a model; load all parts: give the address of one that ends in \
             -00001-of-{parts:05}.gguf, or a list of the parts"
        );
        return Err(Failure::new(ErrorKind::Unsupported, message));
    }
    let merged;
    let header = if later.is_empty() {
        first
    } else {
        merged = merge([core::slice::from_ref(first), later].concat())?.header;
        &merged
    };
    let metadata = &header.metadata;
    let mut card = Card::of(header, kernel.name());
    let parts = if metadata.str("general.architecture") == Some(image::ARCHITECTURE) {
        Parts::Image(Box::new(ImageLoader::new(header, options)?), metadata.clone())
    } else {
        let loader = ModelLoader::new(header, options)?;
        card.warnings.extend_from_slice(loader.warnings());
        Parts::Text(Box::new(loader))
    };
    Ok((parts, card))
}
