//! What `sterna` does without a command: it speaks with the model inside the program.

use std::sync::Arc;

use anyhow::{Context, Result};
use sterna_core::gguf::Gguf;
use sterna_core::kernels::Executor;
use sterna_core::model::LoadOptions;
use sterna_core::{Model, SessionOptions};

use crate::Out;
use crate::args::{self, GenerateArgs, PromptArgs};
use crate::commands::run;
use crate::engine;

/// Tokens, which here are characters, if no number is given.
const LENGTH: i64 = 1000;

/// Generates with the model inside: a thousand characters of a play, or what the arguments ask for. It goes on beyond its
/// context.
///
/// # Errors
/// If the arguments ask for what cannot be: a kernel that this machine has not, a prompt with characters the model does not know.
pub fn generate(args: &GenerateArgs, out: &mut Out) -> Result<()> {
    let mut args = args.clone();
    args.context_shift = true;
    if args.limits.predict < 0 {
        args.limits.predict = LENGTH;
    }
    if args.prompt.prompt.is_none() && args.prompt.prompt_file.is_none() {
        let piped = args::piped()?;
        // A blank line comes before each speech.
        args.no_display_prompt |= piped.is_none();
        args.prompt = PromptArgs { prompt: Some(piped.unwrap_or("\n".into())), no_escape: true, ..args.prompt };
    }
    engine::with_threads(args.engine.threads(), |exec| {
        let model = model(args.engine.kernel.clone(), &exec)?;
        run::generate(&model, SessionOptions { context: args.engine.context(), exec }, &args, out)
    })?
}

/// The model inside.
fn model(kernel: Option<String>, exec: &Arc<dyn Executor>) -> Result<Model> {
    let file = Gguf::parse(sterna_models::SHAKESPEARE).context("the model inside the program")?;
    Ok(Model::from_file(&file, &LoadOptions { kernel }, &**exec)?)
}
