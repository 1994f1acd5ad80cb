//! The model inside the program: what `sterna` without a command speaks with. The one place that knows whether there is
//! one.

use anyhow::{Result, bail};

use crate::Out;
use crate::args::GenerateArgs;

/// The GGUF in this build, if it has one.
pub const MODEL: Option<&[u8]> = None;

/// Generates with the model inside.
pub fn generate(_args: &GenerateArgs, _out: &mut Out) -> Result<()> {
    bail!(
        "this build of sterna has no model inside, so there is nothing to generate with yet; \
         name one: `sterna run FILE.gguf -p \"Once upon a time\"`, or `sterna run -hf USER/REPO[:QUANT]` to fetch it \
         (`sterna --help` shows the rest)"
    )
}
