//! `sterna man`: manual pages of the program and of every command.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};

use crate::Out;
use crate::args::Cli;

/// What `sterna man` takes.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder for the pages, made if it is not there. With ~/.local/share/man/man1, `man sterna` and `man sterna-run` find them.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Writes the pages and prints the path of the first.
///
/// # Errors
/// If a page cannot be written.
pub fn run(args: &ManArgs, out: &mut Out) -> Result<()> {
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot make the folder {}", args.dir.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("cannot write the pages into {}", args.dir.display()))?;
    writeln!(out, "{}", args.dir.join("sterna.1").display())?;
    Ok(())
}
