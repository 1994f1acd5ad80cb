//! `sterna list`: what the cache holds.

use anyhow::Result;
use clap::Args;

use crate::Out;
use crate::hub::Cache;
use crate::ui::text::{self, Align};

/// What `sterna list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints one row per model.
pub fn run(args: &ListArgs, out: &mut Out) -> Result<()> {
    let cache = Cache::from_env()?;
    let models = cache.list()?;
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &models).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if models.is_empty() {
        eprintln!("no models in {}; fetch one with `sterna pull USER/REPO[:QUANT]`", cache.root().display());
        return Ok(());
    }
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|model| {
            vec![
                model.name.clone(),
                model.quant.clone().unwrap_or_else(|| "-".to_owned()),
                text::bytes(model.size),
                if model.complete { text::day(model.fetched) } else { "unfinished".to_owned() },
                model.path.display().to_string(),
            ]
        })
        .collect();
    let columns = [
        ("NAME", Align::Left),
        ("QUANT", Align::Left),
        ("SIZE", Align::Right),
        ("DATE", Align::Left),
        ("PATH", Align::Left),
    ];
    text::table(out, &columns, &rows)?;
    Ok(())
}
