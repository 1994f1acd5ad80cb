//! `sterna completions`: a script that makes a shell complete our commands and flags.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Out;
use crate::args::Cli;

/// What `sterna completions` takes.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. For bash: `sterna completions bash > ~/.local/share/bash-completion/completions/sterna`.
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, out: &mut Out) -> Result<()> {
    // Into memory first: the generator panics when a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sterna", &mut script);
    out.write_all(&script)?;
    Ok(())
}
