//! Core on this machine: its threads, and models from files. What the model does is core's.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use sterna_core::generate::ModelLoader;
use sterna_core::kernels::{Executor, Rayon, Serial};
use sterna_core::model::LoadOptions;
use sterna_core::{Model, Session};

use crate::source::Source;
use crate::ui::interrupt::{self, Busy};
use crate::ui::progress::Progress;
use crate::ui::{message, text};

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

/// Loads a GGUF tensor by tensor; the peak in memory is the packed model and one tensor. Says on stderr what a person should know
/// about the model.
///
/// # Errors
/// A file that is no model that can be run; a kernel that this CPU does not have; Ctrl-C.
pub fn load(path: &Path, kernel: Option<&str>, exec: &dyn Executor) -> Result<Model> {
    let busy = interrupt::busy();
    let clock = Instant::now();
    message::detail(|| format!("loading {}", path.display()));
    let source = Source::open(path)?;
    let options = LoadOptions { kernel: kernel.map(str::to_owned) };
    let of_file = || path.display().to_string();
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
