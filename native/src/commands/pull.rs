//! `sterna pull`: a model from the hub into the cache.

use anyhow::Result;
use clap::Args;

use crate::Out;
use crate::args::HubArgs;
use crate::hub::{Hub, ModelName};
use crate::ui::progress::HubProgress;
use crate::ui::text;

/// What `sterna pull` takes.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The model: USER/REPO, USER/REPO:QUANT or USER/REPO@REVISION:QUANT.
    #[arg(value_name = "USER/REPO[:QUANT]")]
    pub name: ModelName,
    /// Which of its files is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Prints the path of the model's first file.
pub fn run(args: &PullArgs, out: &mut Out) -> Result<()> {
    let name = args.hub.complete(&args.name)?;
    let hub = Hub::from_env(args.hub.offline)?;
    let model = hub.pull(&name, args.hub.hf_file.as_deref(), &mut HubProgress::new())?;
    match model.fetched {
        0 => eprintln!("{name} is up to date ({})", text::bytes(model.size)),
        _ => eprintln!("{name} is here ({}), checked", text::bytes(model.size)),
    }
    if let Some(path) = model.paths.first() {
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}
