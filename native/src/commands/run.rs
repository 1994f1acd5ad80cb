//! `sterna run`: text from a GGUF.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use sterna_core::generate::{Finish, GenerateOptions};
use sterna_core::{Model, Sampling, SessionOptions};

use crate::Out;
use crate::args::{GenerateArgs, ModelArgs, SamplingArgs};
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
        let model = engine::load(path, args.engine.kernel.as_deref(), &*exec)?;
        generate(&model, SessionOptions { context: args.engine.context(), exec }, args, out)
    })?
}

/// Generates with a model that is loaded.
///
/// # Errors
/// Arguments that the model cannot follow; Ctrl-C, after what was generated until then.
pub fn generate(model: &Model, options: SessionOptions, args: &GenerateArgs, out: &mut Out) -> Result<()> {
    let text = args.prompt.text()?;
    let sampling = sampling(&args.sampling);
    let threads = options.exec.threads();
    let busy = interrupt::busy();
    let mut session = model.session(options);
    let prompt = session.encode(&text, true)?;
    let mut printer = Printer::new(out);
    if !args.no_display_prompt {
        printer.echo(&text)?;
    }
    engine::feed(&mut session, &prompt, &busy)?;
    printer.prompt_done(session.tokens().len());
    let limits = GenerateOptions {
        max_tokens: usize::try_from(args.predict).ok(),
        ignore_eos: args.ignore_eos,
        slide: args.context_shift,
        ..GenerateOptions::default()
    };
    let mut reply = session.reply(&sampling, &limits)?;
    while !busy.requested()
        && let Some(piece) = reply.next()
    {
        printer.token(&piece?)?;
    }
    let finish = reply.finish();
    printer.end_line()?;
    if !args.no_perf {
        let kernel = model.transformer().kernel().name();
        message::line(&format!(
            "{} ({kernel}, {threads} {}, seed {})",
            printer.speed().line(),
            if threads == 1 { "thread" } else { "threads" },
            sampling.seed
        ));
    }
    if finish == Some(Finish::Context) {
        message::note(&format!(
            "the context of {} tokens is full; --context-shift goes on beyond it, -c sets another size",
            session.context()
        ));
    }
    Ok(busy.check()?)
}

/// What was typed as core's sampling.
pub fn sampling(args: &SamplingArgs) -> Sampling {
    Sampling {
        temperature: args.temp,
        top_k: args.top_k as usize,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        repeat_last_n: usize::try_from(args.repeat_last_n).unwrap_or(usize::MAX),
        seed: args.seed(),
    }
}
