//! Checkpoints on the hub: config.json, safetensors in one file or in shards, and the tokenizer's files, in one folder of the cache.
//!
//! Not here: what is in these files (`crate::checkpoint`), beyond the names of shards.

use std::fs;
use std::path::PathBuf;

use super::error::{HubError, Result};
use super::{Hub, Index, Listing, ModelName, is_gguf};
use crate::checkpoint::{BESIDE, CONFIG, INDEX, SINGLE, shards};
use crate::fetch::{self, Watcher, path_of};

/// Weights in a form that is not read; the name tells what to say.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

impl Hub {
    /// The directory of a checkpoint on this machine, fetched only if it is not here.
    ///
    /// # Errors
    /// A repository without a checkpoint that can be read; what the network, the disk or the watcher say.
    pub fn checkpoint(&self, name: &ModelName, watcher: &mut dyn Watcher) -> Result<PathBuf> {
        let (repo, folder) = (name.id(), self.cache.folder(name));
        let is_here = |index: &Index| {
            let here = |file: &String| index.files.iter().any(|entry| &entry.name == file);
            !index.checkpoint.is_empty() && index.checkpoint.iter().all(here)
        };
        if is_here(&self.cache.index(&folder)) {
            return Ok(folder);
        }
        if self.offline {
            return Err(HubError::Offline { model: name.to_string(), cache: self.cache.root().to_owned() });
        }
        let listing = self.listing(name, is_wanted, watcher)?;
        let has = |file: &str| listing.files.iter().any(|remote| remote.name == file);
        let no_checkpoint = |why: String| HubError::NoCheckpoint { repo: repo.clone(), why };
        if let Some(why) = why_not(&listing) {
            return Err(no_checkpoint(why));
        }
        let _lock = fetch::lock(&folder, &repo, watcher)?;
        let mut index = self.cache.index(&folder);
        index.name = name.to_string();
        let mut files = vec![CONFIG.to_owned()];
        files.extend(BESIDE.iter().filter(|file| has(file)).map(|&file| file.to_owned()));
        if has(INDEX) {
            self.fetch_all(name, &listing, &[INDEX.to_owned()], &mut index, watcher)?;
            let path = path_of(&folder, INDEX);
            let text = fs::read(&path).map_err(HubError::io("read", &path))?;
            let shards = shards(&text).map_err(|error| no_checkpoint(format!("{INDEX}: {error:#}")))?;
            if let Some(missing) = shards.iter().find(|shard| !has(shard)) {
                return Err(no_checkpoint(format!(
                    "{INDEX} names {missing}, which is not there; the upload is incomplete"
                )));
            }
            files.push(INDEX.to_owned());
            files.extend(shards);
        } else {
            files.push(SINGLE.to_owned());
        }
        index.checkpoint.clone_from(&files);
        self.cache.write_index(&folder, &index)?;
        self.fetch_all(name, &listing, &files, &mut index, watcher)?;
        self.cache.write_index(&folder, &index)?;
        Ok(folder)
    }
}

/// Whether a file belongs to a checkpoint, or says why there is none.
fn is_wanted(name: &str) -> bool {
    let beside = [CONFIG, INDEX].iter().chain(&BESIDE).chain(&PICKLED).any(|file| *file == name);
    beside || !name.contains('/') && name.ends_with(".safetensors") || is_gguf(name)
}

/// What is missing from a checkpoint, and what to do.
fn why_not(listing: &Listing) -> Option<String> {
    let has = |file: &str| listing.files.iter().any(|remote| remote.name == file);
    if has(CONFIG) && (has(INDEX) || has(SINGLE)) {
        return None;
    }
    let any = |is: fn(&str) -> bool| listing.files.iter().any(|remote| is(&remote.name));
    Some(if any(|name| name.starts_with("adapter_model.")) {
        "it holds an adapter, not a model; merge the adapter into its model with PEFT's merge_and_unload()".into()
    } else if any(|name| PICKLED.contains(&name)) {
        "it holds pytorch_model.bin, which can run code when read; look for a version in safetensors".into()
    } else if any(is_gguf) {
        "it holds GGUF files; fetch one with `sterna pull` and bring it into another format with `sterna quantize`"
            .into()
    } else {
        let needed = if has(CONFIG) { SINGLE } else { CONFIG };
        format!("it has no {needed}")
    })
}
