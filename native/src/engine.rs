//! Core on this machine: its threads, and models from files. What the model does is core's.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use sterna_core::generate::ModelLoader;
use sterna_core::kernels::{Executor, Rayon, Serial};
use sterna_core::model::{LoadOptions, Memory};
use sterna_core::{Model, Session};

use crate::memory::Scored;
use crate::source::Source;
use crate::ui::interrupt::{self, Busy};
use crate::ui::progress::Progress;
use crate::ui::{message, text};
use crate::{machine, memory};

/// Runs `work` with `threads` threads to compute on; all of it happens on one of them.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce(Arc<dyn Executor>) -> R + Send) -> Result<R> {
    if threads == 1 {
        return Ok(work(Arc::new(Serial)));
    }
    in_pool(threads, || work(Arc::new(Rayon)))
}

/// Runs `work` in a pool of so many threads, also of one: what spreads over rayon's threads by itself takes no others.
///
/// # Errors
/// If threads cannot be started.
pub fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> Result<R> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("cannot start threads; try -t 1")?;
    Ok(pool.install(work))
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct Loading<'a> {
    /// A kernel by name; `None` is the fastest.
    pub kernel: Option<&'a str>,
    /// Tokens of the conversations to come; `None` is what the model was made for.
    pub context: Option<usize>,
    /// Where the context is going to be filled, as far as the model has so much, what of it is scored at once; `None` where it grows
    /// as a conversation does.
    pub filled: Option<Scored>,
    /// Goes on where memory does not suffice.
    pub force: bool,
    /// The memory that is available, in bytes; `None` where that is not known.
    pub available: Option<u64>,
}

impl Default for Loading<'_> {
    /// With the fastest kernel, into the memory that this machine has available now.
    fn default() -> Self {
        Self { kernel: None, context: None, filled: None, force: false, available: machine::available_bytes() }
    }
}

/// Loads a GGUF tensor by tensor; the peak in memory is the packed model and one tensor. Says on stderr what a person should know
/// about the model, and before that what memory it needs.
///
/// # Errors
/// A file that is no model that can be run; memory that does not suffice; a kernel that this CPU does not have; Ctrl-C.
pub fn load(path: &Path, how: &Loading<'_>, exec: &dyn Executor) -> Result<Model> {
    let busy = interrupt::busy();
    let clock = Instant::now();
    message::detail(|| format!("loading {}", path.display()));
    let source = Source::open(path)?;
    let options = LoadOptions { kernel: how.kernel.map(str::to_owned) };
    let of_file = || path.display().to_string();
    let needed = Memory::of(source.header()).with_context(of_file)?;
    let context = how.context.unwrap_or(needed.context());
    match how.filled {
        None => memory::check(&needed, context, how.available, how.force),
        Some(scored) => {
            let vocabulary = source.header().tensor("token_embd.weight").map_or(0, |embedding| embedding.rows());
            let context = context.min(needed.context());
            memory::check_filled(&needed, context, (scored, vocabulary), how.available, how.force)
        }
    }
    .with_context(of_file)?;
    let mut loader = ModelLoader::new(source.header(), &options).with_context(of_file)?;
    let mut progress = Progress::bytes("loading", Some(source.file_bytes()));
    let mut done = 0;
    for (info, bytes) in source.tensors() {
        loader.tensor(info, bytes, exec).with_context(of_file)?;
        source.release(info);
        done += info.size;
        progress.set(done);
        busy.check()?;
    }
    let model = loader.finish().with_context(of_file)?;
    drop(progress);
    model.warnings().iter().for_each(|warning| message::warning_once(warning));
    message::detail(|| {
        format!(
            "loaded {} ({}, {} tensors) in {:.2} s; kernel {}, {} threads, context of {} tokens",
            path.display(),
            text::bytes(source.file_bytes()),
            source.header().tensors.len(),
            clock.elapsed().as_secs_f64(),
            model.transformer().kernel().name(),
            exec.threads(),
            model.transformer().config().n_ctx
        )
    });
    Ok(model)
}

/// Warns of a context that is longer than the one that a model was made for. Asked for, not silently changed.
pub fn warn_of_context(session: &Session) {
    let (asked, made_for) = (session.context(), session.model().transformer().config().n_ctx);
    if asked > made_for {
        message::warning_once(&format!(
            "the context of {asked} tokens is longer than the {made_for} that the model was made for; what it writes beyond them is likely to be poor"
        ));
    }
}

/// Feeds a prompt; shows how far it is when that takes long, and stops when interrupted.
pub fn feed(session: &mut Session, tokens: &[u32], busy: &Busy) -> Result<()> {
    let mut progress = Progress::steps("reading the prompt", tokens.len() as u64);
    session.feed_while(tokens, |done| {
        progress.set(done as u64);
        !busy.requested()
    })?;
    Ok(())
}

/// What kind of model it is, as benchmarks name it: architecture, name or size, tensor type of most weights.
pub fn describe(model: &Model) -> String {
    let metadata = model.metadata();
    let mut held: Vec<(&str, usize)> = Vec::new();
    for report in model.transformer().tensors() {
        match held.iter_mut().find(|(format, _)| *format == report.format) {
            Some((_, bytes)) => *bytes += report.bytes,
            None => held.push((report.format, report.bytes)),
        }
    }
    // Ternary types name a model even where its embedding outweighs them.
    let ternary = |format: &str| crate::hub::TERNARY_ORDER.iter().any(|name| format.starts_with(name));
    let main = held.iter().max_by_key(|(format, bytes)| (ternary(format), *bytes)).map_or("?", |(format, _)| format);
    let size = metadata.str("general.size_label");
    [Some(model.transformer().config().architecture.name), size, Some(main)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}
