//! Checkpoints of Hugging Face: a directory with config.json, safetensors in one file or in shards with an index, and a
//! tokenizer. All of it is mapped and checked here; tensors are read when they are asked for.
//!
//! - `safetensors.rs`: headers of files.
//! - `config.rs`: numbers in config.json.
//! - `family.rs`: the table of model families: which tensor becomes which, in what shape, and defaults of configurations.
//! - `names.rs`: names of tensors without what wrappers add.
//! - `plan.rs`: the tensors of one checkpoint, each with its place, and those that have none.
//! - `metadata.rs`: the keys of the GGUF that follow from the configuration; `rope.rs`: those about rotary positions.
//! - `tokenizer.rs`, `sentencepiece.rs`: the vocabulary and what goes with it.
//! - `save.rs`: the way back, of models that were trained here.
//!
//! Not here: quantization and writing (`convert`), and checkpoints of our own training runs (`train::checkpoint`).

pub mod config;
pub mod family;
pub mod metadata;
mod names;
pub mod plan;
pub mod rope;
pub mod safetensors;
pub mod save;
pub mod sentencepiece;
pub mod tokenizer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use memmap2::Mmap;
use serde_json::Value;
use sterna_core::formats::half::{bf16_to_f32, f16_to_f32};
use sterna_core::gguf::not_fetched;

use self::config::Config;
use self::plan::LeftOut;
use self::safetensors::{Dtype, Entry};
use crate::source::{map, release_pages};

/// The file that says what the model is.
pub const CONFIG: &str = "config.json";
/// The file that says which shard a tensor is in.
pub const INDEX: &str = "model.safetensors.index.json";
/// The file of a checkpoint without shards.
pub const SINGLE: &str = "model.safetensors";
/// The file of an adapter.
const ADAPTER: &str = "adapter_model.safetensors";

/// Files that stand beside the weights of a checkpoint: how to run it, what its tokens are, on what terms it may be used.
pub const BESIDE: [&str; 12] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "README.md",
];

/// A checkpoint's directory, its tensors mapped.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Config,
    shards: Vec<Shard>,
    /// Shard and entry of each tensor.
    tensors: BTreeMap<String, (usize, Entry)>,
    /// Tensors of shards that the index places in another shard.
    unlisted: Vec<LeftOut>,
}

#[derive(Debug)]
struct Shard {
    name: String,
    map: Mmap,
}

impl Checkpoint {
    /// Opens a directory and checks all headers.
    ///
    /// # Errors
    /// A file that is missing or malformed: one message that names the file, and the tensor where there is one.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{} is no directory; name the folder that holds the checkpoint's config.json", dir.display());
        }
        let config = Config::read(dir)?;
        let (shards, tensors, unlisted) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut checkpoint = Self { dir: dir.to_owned(), config, shards, tensors, unlisted };
        if dir.join(INDEX).is_file() {
            checkpoint.open_shards()?;
        } else if dir.join(SINGLE).is_file() {
            let entries = checkpoint.shard(SINGLE)?;
            checkpoint.tensors = entries.into_iter().map(|(name, entry)| (name, (0, entry))).collect();
        } else if dir.join("pytorch_model.bin").is_file() || dir.join("pytorch_model.bin.index.json").is_file() {
            bail!(
                "{} holds pytorch_model.bin, which can run code when read; save the model again with \
                 save_pretrained(..., safe_serialization=True)",
                dir.display()
            );
        } else if dir.join(ADAPTER).is_file() {
            bail!(
                "{} holds an adapter ({ADAPTER}), not a model; merge it into its model with PEFT's merge_and_unload(), and save \
                 the whole model",
                dir.display()
            );
        } else {
            bail!("{} has neither {SINGLE} nor {INDEX}; fetch the checkpoint's safetensors files", dir.display());
        }
        Ok(checkpoint)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// config.json
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type, shape and place of a tensor.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name).map(|(_, entry)| entry)
    }

    /// Tensors of shards that are not read, because the index places them in another shard.
    pub fn unlisted(&self) -> &[LeftOut] {
        &self.unlisted
    }

    /// Files of weights in the directory that are not read, as a note each.
    pub fn notes(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let unread = |name: &&String| name.ends_with(".safetensors") && !self.shards.iter().any(|s| s.name == **name);
        let why = if self.dir.join(INDEX).is_file() {
            format!("{INDEX} does not name it")
        } else {
            format!("{SINGLE} holds the model")
        };
        names.iter().filter(unread).map(|name| format!("{name} is not read: {why}")).collect()
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, name: &str) -> &[u8] {
        let found = self.tensors.get(name);
        found.and_then(|(shard, entry)| self.shards[*shard].map.get(entry.range.clone())).unwrap_or_default()
    }

    /// A tensor as messages name it: with its file.
    pub fn place(&self, name: &str) -> String {
        let file = self.tensors.get(name).map_or("?", |(shard, _)| self.shards[*shard].name.as_str());
        format!("tensor {name} of {}", self.dir.join(file).display())
    }

    /// Lets go of the memory in which the system keeps a tensor's pages; it stays readable.
    pub fn release(&self, name: &str) {
        if let Some((shard, entry)) = self.tensors.get(name) {
            release_pages(&self.shards[*shard].map, entry.range.start, entry.range.len());
        }
    }

    /// The values of a small tensor.
    ///
    /// # Errors
    /// If there is no such tensor, or its type is not one of floats.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name).with_context(|| format!("{} has no tensor {name}", self.dir.display()))?;
        let mut values = vec![0.0; entry.shape.iter().product()];
        floats(&entry.dtype, self.bytes(name), &mut values).with_context(|| self.place(name))?;
        Ok(values)
    }

    /// The text of a file of the directory, `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        read_text(&self.dir.join(name))
    }

    /// A JSON file of the directory, `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read or is no JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        read_json(&self.dir.join(name))
    }

    fn open_shards(&mut self) -> Result<()> {
        let path = self.dir.join(INDEX);
        let index = read_json(&path)?.unwrap_or_default();
        let map = weight_map(&index).with_context(|| path.display().to_string())?;
        let mut numbers = HashMap::new();
        let mut headers = Vec::new();
        for (tensor, file) in map {
            let of_tensor = || format!("{}, tensor {tensor}", path.display());
            let file = file.as_str().filter(|name| is_plain(name)).with_context(|| {
                format!("{}: its file is not the name of a file beside the index, but {file}", of_tensor())
            })?;
            let number = match numbers.get(file) {
                Some(&number) => number,
                None => {
                    if !self.dir.join(file).is_file() {
                        bail!(
                            "{}: its shard {file} is missing from {}; fetch all files of the checkpoint",
                            of_tensor(),
                            self.dir.display()
                        );
                    }
                    headers.push(self.shard(file)?);
                    numbers.insert(file.to_owned(), headers.len() - 1);
                    headers.len() - 1
                }
            };
            let entry = headers[number].get(tensor).with_context(|| {
                format!("{}: the index places it in {file}, which does not have it; fetch both again", of_tensor())
            })?;
            self.tensors.insert(tensor.clone(), (number, entry.clone()));
        }
        // Libraries read all that is in a shard, whether the index lists it or not.
        for (number, header) in headers.into_iter().enumerate() {
            for (name, entry) in header {
                match self.tensors.get(&name) {
                    None => {
                        self.tensors.insert(name, (number, entry));
                    }
                    Some(&(listed, _)) if listed != number => {
                        let reason = format!(
                            "{} has it too, but {INDEX} places it in {}",
                            self.shards[number].name, self.shards[listed].name
                        );
                        self.unlisted.push(LeftOut { name, reason });
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Maps a shard and reads its header.
    fn shard(&mut self, name: &str) -> Result<BTreeMap<String, Entry>> {
        let path = self.dir.join(name);
        let map = map(&path)?;
        let header = match not_fetched(&map) {
            Some(what) => bail!("{} is no safetensors file: {what}", path.display()),
            None => safetensors::read_header(&map).with_context(|| path.display().to_string())?,
        };
        self.shards.push(Shard { name: name.to_owned(), map });
        Ok(header)
    }
}

/// A run of floats of any type as f32.
///
/// # Errors
/// If the type is not one of floats, or the slices do not go together.
pub fn floats(dtype: &Dtype, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let size = dtype.size().filter(|_| *dtype != Dtype::U8);
    let size = size.with_context(|| format!("its type {dtype} is not read; it must be F32, F16, BF16 or F64"))?;
    if out.len().checked_mul(size) != Some(bytes.len()) {
        bail!("{} bytes are not {} values of {dtype}", bytes.len(), out.len());
    }
    let halves = || bytes.as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
    match dtype {
        Dtype::BF16 => out.iter_mut().zip(halves()).for_each(|(out, bits)| *out = bf16_to_f32(bits)),
        Dtype::F16 => out.iter_mut().zip(halves()).for_each(|(out, bits)| *out = f16_to_f32(bits)),
        Dtype::F64 => {
            let values = bytes.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32);
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
        }
        _ => {
            let values = bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
        }
    }
    Ok(())
}

/// The shards that an index names, each once, in the order of their names.
///
/// # Errors
/// If it is no index, or names files outside its folder.
pub fn shards(index: &[u8]) -> Result<Vec<String>> {
    let index: Value = serde_json::from_slice(index).context("it is no JSON")?;
    let mut names = BTreeSet::new();
    for (tensor, file) in weight_map(&index)? {
        let file = file.as_str().filter(|name| is_plain(name));
        names.insert(
            file.with_context(|| format!("the file of tensor {tensor} is not one beside the index"))?.to_owned(),
        );
    }
    Ok(names.into_iter().collect())
}

fn weight_map(index: &Value) -> Result<&serde_json::Map<String, Value>> {
    index["weight_map"].as_object().context("it has no weight_map")
}

/// Whether a name is that of a file in the same folder, and nothing that leads out of it.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    if let Some(what) = not_fetched(text.as_bytes()).filter(|_| !text.starts_with('{')) {
        bail!("{} is no JSON: {what}", path.display());
    }
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} is no JSON", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safetensors(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape, values) in tensors {
            let from = data.len();
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
            header.insert((*name).to_owned(), entry);
        }
        let header = Value::Object(header).to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
    }

    fn sharded(index: &str) -> (tempfile::TempDir, Result<Checkpoint>) {
        let dir = tempfile::TempDir::new().unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        fs::write(dir.path().join(INDEX), index).unwrap();
        fs::write(dir.path().join("1.safetensors"), safetensors(&[("a", &[2], &[1.0, 2.0])])).unwrap();
        fs::write(dir.path().join("2.safetensors"), safetensors(&[("b", &[1], &[3.0])])).unwrap();
        let opened = Checkpoint::open(dir.path());
        (dir, opened)
    }

    #[test]
    fn shards_are_joined_by_the_index() {
        let (_dir, opened) = sharded(r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#);
        let checkpoint = opened.unwrap();
        assert_eq!(checkpoint.values("a").unwrap(), [1.0, 2.0]);
        checkpoint.release("b");
        assert_eq!(checkpoint.values("b").unwrap(), [3.0]);
        assert!(checkpoint.place("b").contains("2.safetensors"));
        assert!(checkpoint.values("c").is_err());
    }

    #[test]
    fn what_the_index_does_not_list_is_read_or_named() {
        let (dir, opened) = sharded(r#"{"weight_map":{"a":"1.safetensors"}}"#);
        let checkpoint = opened.unwrap();
        assert!(checkpoint.names().eq(["a"]));
        assert_eq!(checkpoint.notes(), ["2.safetensors is not read: model.safetensors.index.json does not name it"]);
        // A shard with one tensor that is listed, one that is not, and one that the index places elsewhere.
        let more = safetensors(&[("a", &[1], &[9.0]), ("b", &[1], &[3.0]), ("c", &[1], &[4.0])]);
        fs::write(dir.path().join("2.safetensors"), more).unwrap();
        fs::write(dir.path().join(INDEX), r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert!(checkpoint.names().eq(["a", "b", "c"]));
        assert_eq!((checkpoint.values("a").unwrap(), checkpoint.values("c").unwrap()), (vec![1.0, 2.0], vec![4.0]));
        let reason = "2.safetensors has it too, but model.safetensors.index.json places it in 1.safetensors";
        assert_eq!(checkpoint.unlisted(), [LeftOut { name: "a".into(), reason: reason.into() }]);
        assert!(checkpoint.notes().is_empty());
    }

    #[test]
    fn an_index_that_does_not_fit_is_refused_by_name() {
        for (index, said) in [
            (r#"{"weight_map":{"a":"3.safetensors"}}"#, "tensor a: its shard 3.safetensors is missing"),
            (r#"{"weight_map":{"c":"1.safetensors"}}"#, "tensor c: the index places it in 1.safetensors"),
            (r#"{"weight_map":{"a":"../1.safetensors"}}"#, "tensor a: its file is not the name of a file"),
            (r#"{"weight_map":{"a":7}}"#, "tensor a: its file"),
            (r#"{"weight_map":[]}"#, "it has no weight_map"),
            ("{", "is no JSON"),
        ] {
            let error = format!("{:#}", sharded(index).1.unwrap_err());
            assert!(error.contains(said) && error.contains(INDEX), "{error}");
        }
    }

    #[test]
    fn directories_without_a_checkpoint_say_what_is_missing() {
        let dir = tempfile::TempDir::new().unwrap();
        let error = || format!("{:#}", Checkpoint::open(dir.path()).unwrap_err());
        assert!(error().contains("config.json"));
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert!(error().contains("neither model.safetensors"));
        fs::write(dir.path().join(ADAPTER), "").unwrap();
        assert!(error().contains("merge_and_unload()"));
        fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        assert!(error().contains("safe_serialization"));
        fs::write(dir.path().join(SINGLE), "short").unwrap();
        assert!(error().contains("model.safetensors: the file has only 5 bytes"), "{}", error());
    }

    #[test]
    fn what_came_in_place_of_a_file_is_named() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        for (came, said) in
            [(pointer, "Git LFS pointer"), ("<!DOCTYPE html>", "a web page"), ("Invalid username", "a server")]
        {
            let dir = tempfile::TempDir::new().unwrap();
            let error = || format!("{:#}", Checkpoint::open(dir.path()).unwrap_err());
            for (file, kind) in [(SINGLE, "safetensors file"), (INDEX, "JSON"), (CONFIG, "JSON")] {
                fs::write(dir.path().join(CONFIG), "{}").unwrap();
                fs::write(dir.path().join(file), came).unwrap();
                let error = error();
                assert!(error.contains(&format!("{file} is no {kind}: ")) && error.contains(said), "{error}");
            }
            fs::write(dir.path().join("tokenizer.json"), came).unwrap();
            let error = format!("{:#}", read_json(&dir.path().join("tokenizer.json")).unwrap_err());
            assert!(error.contains("tokenizer.json is no JSON: ") && error.contains(said), "{error}");
        }
    }
}
