//! A model file on disk, mapped into memory, its shards joined. Hands out tensors one at a time; reads none of them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sterna_core::gguf::{Gguf, GgufError, Header, ShardName, TensorInfo, merge};

/// Why a model file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The system's answer to opening it.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A part of a sharded model is not beside the others.
    #[error("{} is part of a model of {count} files, but {} cannot be opened: {source}; put all parts into one folder", path.display(), missing.display())]
    MissingShard {
        /// The part that was named.
        path: PathBuf,
        /// The part that is not there.
        missing: PathBuf,
        /// How many there should be.
        count: u32,
        /// The reason.
        source: io::Error,
    },
    /// A folder, a pipe or a device.
    #[error("{} is not a plain file; name a .gguf file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The container is malformed.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
}

/// All files of a model.
#[derive(Debug)]
pub struct Source {
    paths: Vec<PathBuf>,
    maps: Vec<Mmap>,
    header: Header,
    /// For each tensor of the header, the file it is in.
    shard_of: Vec<usize>,
}

impl Source {
    /// Opens a GGUF; of a sharded one, `path` may name any part.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(ShardName::parse);
        let paths: Vec<PathBuf> = match &name {
            Some(name) => name.all().map(|part| path.with_file_name(part)).collect(),
            None => vec![path.to_owned()],
        };
        let mut maps = Vec::new();
        let mut headers = Vec::new();
        for part in &paths {
            let map = map(part).map_err(|error| match (error, &name) {
                (SourceError::Open { path: missing, source }, Some(name)) if missing != path => {
                    SourceError::MissingShard { path: path.to_owned(), missing, count: name.count, source }
                }
                (error, _) => error,
            })?;
            let file = Gguf::parse(&map).map_err(|source| SourceError::Gguf { path: part.clone(), source })?;
            headers.push(file.header().clone());
            maps.push(map);
        }
        let merged = merge(headers).map_err(|source| SourceError::Gguf { path: path.to_owned(), source })?;
        Ok(Self { paths, maps, header: merged.header, shard_of: merged.shard_of })
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.len() as u64).sum()
    }

    /// The header of the whole model; offsets count within the tensor's own file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Each tensor with its bytes, in the order of the header.
    pub fn tensors(&self) -> impl Iterator<Item = (&TensorInfo, &[u8])> {
        self.header.tensors.iter().zip(&self.shard_of).map(|(info, shard)| {
            let range = |map: &'_ Mmap| {
                let start = usize::try_from(info.offset).ok()?;
                Some(start..start.checked_add(usize::try_from(info.size).ok()?)?.min(map.len()))
            };
            let map = &self.maps[*shard];
            (info, range(map).and_then(|range| map.get(range)).unwrap_or_default())
        })
    }

    /// Lets go of the memory in which the system keeps a tensor's pages for us, once it is packed. They stay readable.
    pub fn release(&self, info: &TensorInfo) {
        if let Some(place) = self.header.tensors.iter().position(|tensor| tensor.name == info.name) {
            release_pages(&self.maps[self.shard_of[place]], info.offset as usize, info.size as usize);
        }
    }
}

/// Which part of a model a tensor belongs to, by the names that converters give.
pub fn kind(name: &str) -> &'static str {
    let last = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, rest)| rest);
    match last {
        _ if last.contains("norm") => "norms",
        _ if last.starts_with("token_embd") || last.starts_with("position_embd") => "embedding",
        _ if last.starts_with("output") => "output",
        _ if last.starts_with("attn_hc.") || last.starts_with("ffn_hc.") => "connections",
        _ if last.starts_with("attn_") => "attention",
        _ if last.starts_with("ffn_") => "feed-forward",
        _ => "other",
    }
}

/// Lets go of the memory in which the system keeps a part of a map made by [`map`]; it stays readable.
pub(crate) fn release_pages(map: &Mmap, start: usize, len: usize) {
    #[cfg(unix)]
    {
        // SAFETY: the map is private and nobody writes to it, so dropped pages come back from the file unchanged.
        let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
        let _ = advised; // advice only
    }
    #[cfg(not(unix))]
    let _ = (map, start, len);
}

/// Maps a plain file.
pub(crate) fn map(path: &Path) -> Result<Mmap, SourceError> {
    let open = |source| SourceError::Open { path: path.to_owned(), source };
    // Before opening: a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(open)?.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(open)?;
    // SAFETY: the map is read only. Should another process shrink the file meanwhile, reading it ends this process with
    // SIGBUS, as with every program that maps files; sterna itself replaces model files only by renaming.
    unsafe { Mmap::map(&file) }.map_err(open)
}

#[cfg(test)]
mod tests {
    use sterna_core::gguf::{Metadata, TensorDecl, Writer};

    use super::*;

    fn file(metadata: &Metadata, tensors: &[&str]) -> Vec<u8> {
        let decl = |name: &&str| TensorDecl { name: (*name).into(), dims: vec![8], type_id: 0, size: 32 };
        let mut writer = Writer::new(Vec::new(), metadata, tensors.iter().map(decl).collect()).unwrap();
        for name in tensors {
            writer.tensor(name, &[name.as_bytes()[0]; 32]).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn shards_open_by_any_part() {
        let dir = tempfile::TempDir::new().unwrap();
        let part = |number: u32| dir.path().join(format!("m-{number:05}-of-00002.gguf"));
        for (number, tensors) in [(1, &["a", "b"][..]), (2, &["c"][..])] {
            let mut metadata = Metadata::new();
            metadata.insert("split.no", number as u16 - 1);
            metadata.insert("split.count", 2_u16);
            metadata.insert("split.tensors.count", 3_i32);
            std::fs::write(part(number), file(&metadata, tensors)).unwrap();
        }
        let source = Source::open(&part(2)).unwrap();
        let tensors: Vec<_> =
            source.tensors().map(|(info, bytes)| (info.name.as_str(), bytes[0], bytes.len())).collect();
        assert_eq!(tensors, [("a", b'a', 32), ("b", b'b', 32), ("c", b'c', 32)]);
        for (info, bytes) in source.tensors() {
            source.release(info);
            assert!(bytes.iter().all(|byte| *byte == info.name.as_bytes()[0]));
        }
        std::fs::remove_file(part(1)).unwrap();
        let error = Source::open(&part(2)).unwrap_err();
        assert!(matches!(&error, SourceError::MissingShard { count: 2, .. }), "{error}");
    }

    #[test]
    fn tensors_are_sorted_into_kinds() {
        for (name, expected) in [
            ("token_embd.weight", "embedding"),
            ("output.weight", "output"),
            ("output_norm.weight", "norms"),
            ("blk.0.attn_q.weight", "attention"),
            ("blk.11.attn_sub_norm.weight", "norms"),
            ("blk.3.ffn_down.weight", "feed-forward"),
            ("blk.0.attn_hc.weight", "connections"),
            ("blk.0.ffn_hc.bias", "connections"),
            ("rope_freqs.weight", "other"),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_model_is_named() {
        let dir = tempfile::TempDir::new().unwrap();
        assert!(matches!(Source::open(dir.path()), Err(SourceError::NotAFile { .. })));
        assert!(matches!(Source::open(&dir.path().join("none.gguf")), Err(SourceError::Open { .. })));
        for bytes in [&b""[..], b"not a model"] {
            let path = dir.path().join("x.gguf");
            std::fs::write(&path, bytes).unwrap();
            let error = Source::open(&path).unwrap_err();
            assert!(matches!(&error, SourceError::Gguf { .. }) && error.to_string().contains("x.gguf"), "{error}");
        }
    }
}
