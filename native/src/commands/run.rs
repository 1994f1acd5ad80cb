//! `sterna run`: text from a GGUF.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use sterna_core::generate::Finish;
use sterna_core::{Model, SessionOptions};

use crate::Out;
use crate::args::{GenerateArgs, ModelArgs};
use crate::engine;
use crate::ui::stream::Printer;
use crate::ui::{interrupt, message};

/// What `sterna run` takes.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to generate.
    #[command(flatten)]
    pub generate: GenerateArgs,
}

/// Prints the prompt and what the model makes of it.
pub fn run(args: &RunArgs, out: &mut Out) -> Result<()> {
    let path = args.model.resolve()?;
    from_file(&path, &args.generate, out)
}

fn from_file(path: &Path, args: &GenerateArgs, out: &mut Out) -> Result<()> {
    engine::with_threads(args.engine.threads(), |exec| {
        let model = engine::load(path, &args.engine.loading(), &*exec)?;
        generate(&model, SessionOptions { context: args.engine.context(), exec }, args, out)
    })?
}

/// Generates with a model that is loaded.
///
/// # Errors
/// Arguments that the model cannot follow; Ctrl-C, after what was generated until then.
pub fn generate(model: &Model, options: SessionOptions, args: &GenerateArgs, out: &mut Out) -> Result<()> {
    let text = args.prompt.text()?;
    let sampling = args.sampling.sampling();
    let threads = options.exec.threads();
    let busy = interrupt::busy();
    let mut session = model.session(options);
    engine::warn_of_context(&session);
    let prompt = session.encode(&text, true)?;
    // All that can be wrong with what was asked for is found before anything is printed.
    if prompt.len() > session.context() {
        let (tokens, context) = (prompt.len(), session.context());
        bail!("the prompt has {tokens} tokens, the context {context}; -c sets another");
    }
    sampling.check(model.transformer().vocabulary())?;
    let limits = args.options(prompt.len())?;
    let mut printer = Printer::new(out);
    let mut write = || {
        if !args.no_display_prompt {
            printer.echo(&text)?;
        }
        engine::feed(&mut session, &prompt, &busy)?;
        printer.prompt_done(session.tokens().len());
        let mut reply = session.reply(&sampling, &limits)?;
        while !busy.requested()
            && let Some(piece) = reply.next()
        {
            printer.reply(&piece?, reply.tokens())?;
        }
        anyhow::Ok(reply.finish())
    };
    let finish = write();
    // Also where it failed: the error stands on a line of its own.
    printer.end_line()?;
    let finish = finish?;
    if !args.perf.no_perf {
        let kernel = model.transformer().kernel().name();
        message::line(&format!(
            "{} ({kernel}, {threads} {}, seed {})",
            printer.speed().line(),
            if threads == 1 { "thread" } else { "threads" },
            sampling.seed
        ));
    }
    if finish == Some(Finish::Context) {
        let context = session.context();
        let advice = match limits.slide {
            true => "--keep leaves nothing of it to forget, so give a smaller --keep, or another size with -c",
            false => "--context-shift goes on beyond it, -c sets another size",
        };
        message::note(&format!("the context of {context} tokens is full; {advice}"));
    }
    Ok(busy.check()?)
}
