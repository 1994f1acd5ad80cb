//! A model from chunks of its file: each tensor is packed as soon as it is whole, so that the peak in memory is the packed
//! model and one tensor.

use std::sync::Arc;

use js_sys::Uint8Array;
use sterna_core::ErrorKind;
use sterna_core::generate::ModelLoader;
use sterna_core::gguf::{Event, Header, Metadata, StreamReader, TensorInfo};
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

/// Takes a file chunk by chunk.
#[wasm_bindgen]
pub struct Loader {
    reader: StreamReader,
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
        let whole = |name: &str, value: f64| match value {
            _ if value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value) => Ok(value as u64),
            _ => Err(Failure::argument(format!("{name} is {value}, it must be a whole number"))),
        };
        let length = length.map(|length| whole("length", length)).transpose()?;
        let context = context.map(|context| whole("context", context)).transpose()?;
        if context == Some(0) {
            return Err(Failure::argument("a context of 0 tokens holds nothing; leave it out, or give at least 1"));
        }
        Ok(Self {
            reader: StreamReader::new(length),
            options: LoadOptions { kernel },
            context: context.map(|context| usize::try_from(context).unwrap_or(usize::MAX)),
            exec: threads::executor(),
            parts: None,
            card: None,
            window: Vec::new(),
            failed: false,
        })
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
            self.take(&window)?;
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
        while let Some(event) = self.reader.finish()? {
            if let (Event::Tensor { info, bytes, .. }, Some(parts)) = (event, &mut self.parts) {
                parts.tensor(info, bytes, &self.exec)?;
            }
        }
        let (Some(parts), Some(mut card)) = (self.parts, self.card) else {
            return Err(Failure::new(
                ErrorKind::Truncated,
                "the file ends within its header; download or copy it again",
            ));
        };
        card.file_bytes.get_or_insert(self.reader.position());
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

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some(event) = self.reader.read(&mut bytes)? {
            match (event, &mut self.parts) {
                (Event::Header(header), _) => {
                    let (parts, kernel) = begin(header, &self.options)?;
                    let mut card = Card::of(header, kernel);
                    if let Parts::Text(loader) = &parts {
                        card.warnings.extend_from_slice(loader.warnings());
                    }
                    self.card = Some(card);
                    self.parts = Some(parts);
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

/// The loader for the kind of model that a header is of, and the name of its kernel.
fn begin(header: &Header, options: &LoadOptions) -> Result<(Parts, &'static str)> {
    let kernel =
        sterna_core::kernels::select(options.kernel.as_deref()).map_err(sterna_core::model::ModelError::from)?;
    let metadata = &header.metadata;
    if let Some(parts) = metadata.u64("split.count").filter(|&parts| parts > 1) {
        let message =
            format!("the file is one of {parts} parts of a model; join them to one file first (gguf-split --merge)");
        return Err(Failure::new(ErrorKind::Unsupported, message));
    }
    let parts = if metadata.str("general.architecture") == Some(image::ARCHITECTURE) {
        Parts::Image(Box::new(ImageLoader::new(header, options)?), metadata.clone())
    } else {
        Parts::Text(Box::new(ModelLoader::new(header, options)?))
    };
    Ok((parts, kernel.name()))
}
