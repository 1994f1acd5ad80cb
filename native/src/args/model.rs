//! Which model: a file, a folder, a name on the hub or an address becomes a file on this machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::hub::{self, Address, Cache, Hub, HubOptions, ModelName, Wanted, check_revision};
use crate::near::nearest;
use crate::ui::message;
use crate::ui::progress::HubProgress;

/// Which model.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelArgs {
    /// The model: a GGUF file (of a sharded one any part), a folder with one in it, USER/REPO or USER/REPO:QUANT on the Hugging Face hub, or
    /// the address of a file or of a hub's page.
    #[arg(value_name = "MODEL")]
    pub file: Option<PathBuf>,
    /// The same, as a flag.
    #[arg(short, long, value_name = "MODEL")]
    pub model: Vec<PathBuf>,
    /// A model on the Hugging Face hub, fetched once and kept; also -hf.
    #[arg(long, visible_alias = "hf", value_name = "USER/REPO[:QUANT]")]
    pub hf_repo: Option<Wanted>,
    /// The address of a GGUF, fetched once and kept; also -mu.
    #[arg(long, value_name = "URL")]
    pub model_url: Option<Wanted>,
    /// Which of a hub model's files is meant.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// How a name on the hub is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct HubArgs {
    /// Take this file of the repository instead of choosing by quant; also -hff.
    #[arg(long, value_name = "NAME")]
    pub hf_file: Option<String>,
    /// A branch, tag or commit, as after '@' in USER/REPO@REVISION.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Use what is in the cache, never the network.
    #[arg(long)]
    pub offline: bool,
    /// The hub's access token, in place of the one in HF_TOKEN or of `hf auth login`; also -hft.
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub hf_token: Option<String>,
}

/// How a checkpoint on the hub is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct CheckpointArgs {
    /// A branch, tag or commit of a repository, as after '@' in USER/REPO@REVISION.
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Use what is in the cache, never the network.
    #[arg(long)]
    pub offline: bool,
}

/// Where a model is.
enum Place {
    Here(PathBuf),
    Elsewhere(Wanted),
}

impl ModelArgs {
    /// The one model that was named, as it was; `None` if there is none.
    ///
    /// # Errors
    /// If two were named.
    pub fn one(&self) -> Result<Option<String>, String> {
        let named = [
            self.file.as_ref().map(|file| file.display().to_string()),
            self.model.last().map(|model| format!("-m {}", model.display())),
            self.hf_repo.as_ref().map(|wanted| format!("-hf {wanted}")),
            self.model_url.as_ref().map(|wanted| format!("--model-url {wanted}")),
        ];
        let mut named = named.into_iter().flatten();
        match (named.next(), named.next()) {
            (Some(one), Some(other)) => Err(format!("two models are named, {one} and {other}: give one of them")),
            (one, _) => Ok(one),
        }
    }

    /// The file on this machine, fetched if it must be. Where -m was given more than once, the last one holds.
    ///
    /// # Errors
    /// If there is no such model, or none or several were named.
    pub fn resolve(&self) -> Result<PathBuf> {
        let last = self.model.len().saturating_sub(1);
        self.resolve_from(&self.model[last..])?.pop().context(
            "no model given; name a GGUF file, a model on the hub (USER/REPO[:QUANT]), or the address of a GGUF",
        )
    }

    /// All files that were named with -m, or the one that was named otherwise.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); there may be none.
    pub fn resolve_all(&self) -> Result<Vec<PathBuf>> {
        self.resolve_from(&self.model)
    }

    fn resolve_from(&self, models: &[PathBuf]) -> Result<Vec<PathBuf>> {
        self.one().map_err(anyhow::Error::msg)?;
        let elsewhere = self.hf_repo.iter().chain(&self.model_url).map(|wanted| Place::Elsewhere(wanted.clone()));
        let typed = self.file.iter().chain(models).map(|typed| self.hub.locate(typed));
        typed.chain(elsewhere.map(|place| self.hub.fetched(place))).collect()
    }
}

impl HubArgs {
    /// `name` with `--revision` put in.
    ///
    /// # Errors
    /// If that is no revision, or another than the name has.
    pub fn complete(&self, name: &ModelName) -> Result<ModelName> {
        let mut name = name.clone();
        if let Some(revision) = &self.revision {
            check_revision(revision).map_err(|why| anyhow::anyhow!("--revision {revision}: {why}"))?;
            if name.revision.as_ref().is_some_and(|other| other != revision) {
                bail!("{name} and --revision {revision} name two revisions; give one");
            }
            name.revision = Some(revision.clone());
        }
        Ok(name)
    }

    /// The file that is meant: the one that an address named, or that of `--hf-file`.
    ///
    /// # Errors
    /// If the two differ.
    pub fn file<'a>(&'a self, named: Option<&'a str>) -> Result<Option<&'a str>> {
        match (named, self.hf_file.as_deref()) {
            (Some(named), Some(other)) if named != other => {
                bail!("the address names the file {named}, --hf-file {other}; give one of them")
            }
            (named, other) => Ok(named.or(other)),
        }
    }

    /// The hub that these and the environment name.
    ///
    /// # Errors
    /// If it has no address that can be used, or there is no place for the cache.
    pub fn hub(&self) -> Result<Hub> {
        let mut options = HubOptions::from_env(self.offline)?;
        options.token = self.hf_token.clone().or(options.token);
        Ok(Hub::new(options)?)
    }

    /// That `address` goes without what belongs to a repository.
    ///
    /// # Errors
    /// If --hf-file or --revision was given.
    pub fn refuse_for(&self, address: &Address) -> Result<()> {
        if self.hf_file.is_some() || self.revision.is_some() {
            bail!("--hf-file and --revision belong to a model on the hub, not to the address {address}");
        }
        Ok(())
    }

    /// The file on this machine that is meant by what was typed, a path, a name on the hub or an address; fetched if it must be.
    ///
    /// # Errors
    /// If there is no such model, here or there.
    pub fn locate(&self, typed: &Path) -> Result<PathBuf> {
        let place = self.place_of(typed)?;
        let by_name = matches!(place, Place::Elsewhere(_)) && !typed.to_string_lossy().contains("://");
        self.fetched(place).map_err(|error| if by_name { nowhere(typed, error) } else { error })
    }

    fn fetched(&self, place: Place) -> Result<PathBuf> {
        let located = match place {
            Place::Here(path) => {
                if self.hf_file.is_some() || self.revision.is_some() {
                    bail!(
                        "--hf-file and --revision belong to a model on the hub, but {} is a file on this machine",
                        path.display()
                    );
                }
                return Ok(path);
            }
            Place::Elsewhere(Wanted::Model { name, file }) => {
                let name = self.complete(&name)?;
                self.hub()?.locate(&name, self.file(file.as_deref())?, &mut HubProgress::new())?
            }
            Place::Elsewhere(Wanted::Address(address)) => {
                self.refuse_for(&address)?;
                self.hub()?.locate_address(&address, &mut HubProgress::new())?
            }
        };
        located.paths.into_iter().next().context("the model has no files")
    }

    /// What was typed as a path or a name: what is on this machine goes before what is on the hub.
    fn place_of(&self, typed: &Path) -> Result<Place> {
        let text = &*typed.to_string_lossy();
        let elsewhere = text.parse::<Wanted>();
        if typed.is_dir() {
            say_both(typed, "folder", &elsewhere);
            return in_folder(typed).map(Place::Here);
        }
        // Pipes and devices are refused where they are opened.
        if typed.exists() {
            say_both(typed, "file", &elsewhere);
            return Ok(Place::Here(typed.to_owned()));
        }
        if let Ok(target) = fs::read_link(typed) {
            bail!("{text} is a broken link to {}; name the model's file", target.display());
        }
        if text.contains("://") {
            return Ok(Place::Elsewhere(elsewhere?));
        }
        let path_like = is_gguf_name(text) || text.starts_with(['.', '/', '~', '\\']) || text.ends_with('/');
        let near = neighbour(typed);
        match elsewhere {
            Ok(wanted) if !path_like => {
                let Some(near) = near else { return Ok(Place::Elsewhere(wanted)) };
                bail!(
                    "there is no {text} here, but {}; for the hub's model of that name, give -hf {text}",
                    near.display()
                );
            }
            _ => {}
        }
        let hint = match near {
            Some(near) => format!("did you mean {}?", near.display()),
            None => match cached_like(text) {
                Some(name) => format!("did you mean {name}, which is in the cache?"),
                None => "models on the hub are named USER/REPO or USER/REPO:QUANT, and `sterna list` shows those that are in the cache".to_owned(),
            },
        };
        bail!("there is no file {text}; {hint}")
    }
}

impl CheckpointArgs {
    /// The directory of a checkpoint on this machine, and the repository's name where it was fetched from one. A directory that
    /// exists goes before a repository of the same name.
    pub fn resolve(&self, given: &Path) -> Result<(PathBuf, Option<String>)> {
        let name = given.to_str().and_then(|text| text.parse::<ModelName>().ok()).filter(|_| !given.exists());
        let Some(name) = name else {
            if self.revision.is_some() {
                bail!("--revision belongs to a repository on the hub, USER/REPO, not to {}", given.display());
            }
            return Ok((given.to_owned(), None));
        };
        if let Some(quant) = &name.quant {
            bail!(
                "{name} names a file of a GGUF repository ({quant}); a checkpoint is USER/REPO or USER/REPO@REVISION"
            );
        }
        let hub = HubArgs { revision: self.revision.clone(), ..HubArgs::default() };
        let name = hub.complete(&name)?;
        let dir = Hub::from_env(self.offline)?.checkpoint(&name, &mut HubProgress::new());
        Ok((dir.map_err(|error| nowhere(given, error.into()))?, Some(name.repo)))
    }
}

/// `error`, and that what was typed is not on this machine either, where the hub does not have it or cannot be asked.
fn nowhere(typed: &Path, error: anyhow::Error) -> anyhow::Error {
    use hub::{FetchError, HubError};
    let failed = match error.downcast_ref::<HubError>() {
        Some(HubError::Fetch(error)) => matches!(
            error,
            FetchError::Network { .. }
                | FetchError::ServerFailed { .. }
                | FetchError::Refused { .. }
                | FetchError::Status { .. }
        ),
        Some(error) => matches!(
            error,
            HubError::NotFound { .. }
                | HubError::Unauthorized { .. }
                | HubError::Offline { .. }
                | HubError::TooManyRequests { .. }
        ),
        None => false,
    };
    if !failed {
        return error;
    }
    error.context(format!(
        "there is no file or folder {} here, and the hub's model of that name cannot be fetched",
        typed.display()
    ))
}

/// Says that a name is one on the hub too, unless it is plainly a path.
fn say_both(typed: &Path, what: &str, elsewhere: &Result<Wanted, hub::HubError>) {
    let text = typed.to_string_lossy();
    if elsewhere.is_ok() && !is_gguf_name(&text) && !text.contains("://") {
        message::note(&format!(
            "{text} is a {what} on this machine, and that is used; -hf {text} is the hub's model of this name"
        ));
    }
}

fn is_gguf_name(text: &str) -> bool {
    text.to_ascii_lowercase().ends_with(".gguf")
}

/// The one GGUF in a folder.
fn in_folder(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let found: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
    // Names that are no UTF-8 are shown with U+FFFD in place of what is none.
    let names: Vec<String> = found.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let shown = folder.display();
    match &hub::models(&names)[..] {
        [one] => {
            let place = names.iter().position(|name| *name == one.files[0]).context("the folder's GGUF has no name")?;
            let path = folder.join(&found[place]);
            message::note(&format!("{shown} is a folder; its one GGUF is used, {}", one.files[0]));
            Ok(path)
        }
        [] if names.iter().any(|name| name == "config.json") => bail!(
            "{shown} is the folder of a checkpoint, not of a GGUF; convert it first: sterna convert {shown} -o {}.gguf",
            folder.canonicalize().ok().as_deref().unwrap_or(folder).file_name().unwrap_or_default().to_string_lossy()
        ),
        [] => bail!("{shown} is a folder without a GGUF; name a .gguf file"),
        several => {
            let names: Vec<_> =
                several.iter().map(|model| folder.join(&model.files[0]).display().to_string()).collect();
            bail!("{shown} is a folder with several GGUFs; name one of them: {}", names.join(", "))
        }
    }
}

/// A file or folder beside the one that was typed, with nearly its name.
fn neighbour(typed: &Path) -> Option<PathBuf> {
    let name = typed.file_name()?.to_str()?;
    let folder = typed.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
    let names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir() || is_gguf_name(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let whole = format!("{name}.gguf");
    let found = names.iter().find(|known| **known == whole).map(String::as_str);
    let found = found.or_else(|| nearest(name, names.iter().map(String::as_str)))?;
    Some(folder.map_or_else(|| found.into(), |folder| folder.join(found)))
}

/// A model of the cache whose repository has this name, whoever made it.
fn cached_like(text: &str) -> Option<String> {
    let (wanted, quant) = text.split_once(':').map_or((text, None), |(name, quant)| (name, Some(quant)));
    let models = Cache::from_env().ok()?.list().ok()?;
    models.into_iter().find_map(|model| {
        let name: ModelName = model.name.parse().ok()?;
        let same = quant.is_none() || name.quant.as_deref().zip(quant).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
        (name.repo.eq_ignore_ascii_case(wanted) && same).then_some(model.name)
    })
}
