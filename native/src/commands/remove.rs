//! `sterna remove`: models out of the cache.

use anyhow::Result;
use clap::Args;

use crate::Out;
use crate::hub::{Cache, Wanted};
use crate::ui::progress::HubProgress;
use crate::ui::text;

/// What `sterna remove` takes.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// What to delete: one quant with USER/REPO:QUANT, all of a repository with USER/REPO, or what came from an address.
    #[arg(value_name = "USER/REPO[:QUANT]", required = true)]
    pub names: Vec<Wanted>,
}

/// Prints what is gone.
pub fn run(args: &RemoveArgs, out: &mut Out) -> Result<()> {
    let cache = Cache::from_env()?;
    for name in &args.names {
        for model in cache.remove(name, &mut HubProgress::new())? {
            writeln!(out, "removed {} ({})", model.name, text::bytes(model.size))?;
        }
    }
    Ok(())
}
