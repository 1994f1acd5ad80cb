//! What `sterna` does without a command: it speaks with the model inside the program. This is the one place that knows
//! whether there is one.

use anyhow::{Result, bail};

use crate::Out;
use crate::args::GenerateArgs;

/// Generates with the model inside, of which there is none yet: says so, and how to go on.
///
/// # Errors
/// Always.
pub fn generate(_args: &GenerateArgs, _out: &mut Out) -> Result<()> {
    bail!(
        "this build of sterna has no model inside, so there is nothing to generate with yet; \
         name one: `sterna run FILE.gguf -p \"Once upon a time\"`, or `sterna run -hf USER/REPO[:QUANT]` to fetch it \
         (`sterna --help` shows the rest)"
    )
}
