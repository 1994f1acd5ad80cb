//! `sterna pull`: a model from the hub or an address into the cache.

use anyhow::Result;
use clap::Args;

use crate::Out;
use crate::args::HubArgs;
use crate::hub::Wanted;
use crate::ui::progress::HubProgress;
use crate::ui::text;

/// What `sterna pull` takes.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The model: USER/REPO, USER/REPO:QUANT or USER/REPO@REVISION:QUANT, or the address of a GGUF or of a hub's page.
    #[arg(value_name = "USER/REPO[:QUANT]")]
    pub name: Wanted,
    /// Which of its files is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// Prints the path of the model's first file.
pub fn run(args: &PullArgs, out: &mut Out) -> Result<()> {
    let hub = args.hub.hub()?;
    let progress = &mut HubProgress::new();
    let (name, model) = match &args.name {
        Wanted::Model { name, file } => {
            let name = args.hub.complete(name)?;
            let model = hub.pull(&name, args.hub.file(file.as_deref())?, progress)?;
            (name.to_string(), model)
        }
        Wanted::Address(address) => {
            args.hub.refuse_for(address)?;
            (address.to_string(), hub.locate_address(address, progress)?)
        }
    };
    let size = text::bytes(model.size);
    match (&args.name, model.fetched) {
        (Wanted::Address(_), 0) => eprintln!(
            "{name} is here already ({size}); a server tells no checksum, so to fetch it again remove it first: sterna remove {name}"
        ),
        (Wanted::Address(_), _) => eprintln!("{name} is here ({size})"),
        (_, 0) => eprintln!("{name} is up to date ({size})"),
        (_, _) => eprintln!("{name} is here ({size}), checked"),
    }
    if let Some(path) = model.paths.first() {
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}
