//! `sterna data`: the data sets, and getting them.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::Out;
use crate::data::{self, CATALOGUE, DataSet, Fetcher};
use crate::ui::message;
use crate::ui::progress::HubProgress;
use crate::ui::text::{self, Align};

/// What `sterna data` takes.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// The actions.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the data sets and where they are.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Fetch data sets, checked; files that are here already are checked only.
    Get(GetArgs),
}

/// What `sterna data list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Look here only.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `sterna data get` takes.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Which; `sterna data list` shows the names.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Put them here, into a folder of the set's name; without it into $STERNA_DATA_DIR, or the folder data of the
    /// cache.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Runs the action.
pub fn run(args: &DataArgs, out: &mut Out) -> Result<()> {
    match &args.action {
        Action::List(args) => list(args, out),
        Action::Get(args) => get(args, out),
    }
}

/// One row, or one JSON object, per data set.
fn list(args: &ListArgs, out: &mut Out) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Row {
        #[serde(flatten)]
        set: &'static DataSet,
        /// `null` where it is not on this machine.
        path: Option<String>,
    }
    let path = |set: &DataSet| Some(data::locate(set.name, args.data_dir.as_deref()).ok()?.display().to_string());
    let row = |set: &'static DataSet| Row { set, path: path(set) };
    let rows: Vec<Row> = CATALOGUE.iter().map(row).collect();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    let cells = |row: &Row| {
        let path = row.path.clone().unwrap_or_else(|| "-".to_owned());
        let set = row.set;
        vec![set.name.to_owned(), text::bytes(set.bytes()), set.licence.to_owned(), set.about.to_owned(), path]
    };
    let columns = [
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("LICENCE", Align::Left),
        ("WHAT", Align::Left),
        ("PATH", Align::Left),
    ];
    text::table(out, &columns, &rows.iter().map(cells).collect::<Vec<_>>())?;
    Ok(())
}

/// Prints the path of each.
fn get(args: &GetArgs, out: &mut Out) -> Result<()> {
    // A misspelt name is found before anything is fetched.
    let sets = args.names.iter().map(|name| data::named(name)).collect::<Result<Vec<_>>>()?;
    let folder = data::folder(args.data_dir.as_deref())?;
    let fetcher = Fetcher::from_env()?;
    for set in sets {
        let kept = fetcher.get(set, &folder, &mut HubProgress::new())?;
        let by_name = if kept.path.is_file() { "; commands that read a text take its name" } else { "" };
        match kept.fetched {
            0 => message::line(&format!("{} was here already; checked{by_name}", set.name)),
            n => message::line(&format!(
                "{} is here, checked ({n} of {} files fetched){by_name}",
                set.name,
                set.files.len()
            )),
        }
        writeln!(out, "{}", kept.path.display())?;
    }
    Ok(())
}
