//! Models split into several files: their names (`model-00001-of-00003.gguf`) and the joining of their headers.
//!
//! The first shard carries the metadata; each carries `split.no` (from 0), `split.count` and `split.tensors.count`. A count of
//! 0, which `llama-gguf-split --merge` leaves behind, or of 1 says that the file is not split, as if there were no such keys.
//! Not here: opening the files.

use std::collections::HashSet;

use super::{GgufError, Header};

/// The parts of a shard's file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardName {
    /// What stands before the number, path included.
    pub stem: String,
    /// The shard's number, from 1.
    pub number: u32,
    /// How many shards there are.
    pub count: u32,
}

impl ShardName {
    /// Takes `STEM-00001-of-00003.gguf` apart; `None` if the name is not of this form or the number is not within
    /// the count.
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        (1..=count).contains(&number).then(|| Self { stem: stem.into(), number, count })
    }

    /// The name of the shard with this number, from 1.
    pub fn sibling(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }

    /// The names of all shards, in order.
    pub fn all(&self) -> impl ExactSizeIterator<Item = String> + '_ {
        (0..self.count as usize).map(|index| self.sibling(index as u32 + 1))
    }
}

/// The headers of all shards as one.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The first shard's metadata with the tensors of all. Offsets count from the start of the tensor's own shard.
    pub header: Header,
    /// For each tensor of `header.tensors` the index of its shard, from 0.
    pub shard_of: Vec<usize>,
}

/// Joins the headers of all shards, given in order. One header that does not say it is split is a whole model by itself.
///
/// # Errors
/// [`GgufError::ShardCount`], [`GgufError::ShardOrder`], [`GgufError::ShardTensors`] or [`GgufError::DuplicateTensor`]
/// if they do not belong together, [`GgufError::MissingKey`] or [`GgufError::WrongType`] if a split key is absent or
/// no integer.
pub fn merge(headers: Vec<Header>) -> Result<Merged, GgufError> {
    let given = headers.len();
    let mut parts = headers.into_iter().enumerate();
    let Some((_, mut header)) = parts.next() else {
        return Err(GgufError::ShardCount { shard: 0, found: 0, given: 0 });
    };
    if given == 1 && is_whole(&header)? {
        let shard_of = vec![0; header.tensors.len()];
        return Ok(Merged { header, shard_of });
    }
    check_place(&header, 0, given)?;
    let expected = match header.metadata.get("split.tensors.count") {
        Some(_) => Some(header.metadata.require_u64("split.tensors.count")?),
        None => None,
    };
    let mut shard_of = vec![0; header.tensors.len()];
    for (shard, part) in parts {
        check_place(&part, shard, given)?;
        shard_of.extend(part.tensors.iter().map(|_| shard));
        header.tensors.extend(part.tensors);
    }
    let mut names = HashSet::new();
    if let Some(twice) = header.tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        return Err(GgufError::DuplicateTensor { name: twice.name.clone() });
    }
    let found = header.tensors.len() as u64;
    match expected {
        Some(expected) if expected != found => Err(GgufError::ShardTensors { expected, found }),
        _ => Ok(Merged { header, shard_of }),
    }
}

/// Whether a header does not belong to a split model.
fn is_whole(header: &Header) -> Result<bool, GgufError> {
    let key = "split.count";
    Ok(!header.metadata.contains(key) || header.metadata.require_u64(key)? <= 1)
}

fn check_place(header: &Header, shard: usize, given: usize) -> Result<(), GgufError> {
    let count = header.metadata.require_u64("split.count")?;
    if count != given as u64 {
        return Err(GgufError::ShardCount { shard, found: count, given });
    }
    let number = header.metadata.require_u64("split.no")?;
    if number != shard as u64 {
        return Err(GgufError::ShardOrder { shard, found: number });
    }
    Ok(())
}

fn five_digits(text: &str) -> Option<u32> {
    (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, Metadata, TensorDecl, Writer};

    fn shard(number: u16, count: u16, total: i32, tensors: &[&str]) -> Header {
        let mut metadata = Metadata::new();
        metadata.insert("split.no", number);
        metadata.insert("split.count", count);
        metadata.insert("split.tensors.count", total);
        let decl = |name: &&str| TensorDecl { name: (*name).into(), dims: vec![1], type_id: 0, size: 4 };
        let mut writer = Writer::new(Vec::new(), &metadata, tensors.iter().map(decl).collect()).unwrap();
        for name in tensors {
            writer.tensor(name, &[0; 4]).unwrap();
        }
        Gguf::parse(&writer.finish().unwrap()).unwrap().header().clone()
    }

    #[test]
    fn names_are_parsed_and_siblings_named() {
        let name = ShardName::parse("dir-a/model-of-x-00002-of-00003.gguf").unwrap();
        assert_eq!((name.stem.as_str(), name.number, name.count), ("dir-a/model-of-x", 2, 3));
        assert_eq!(name.all().collect::<Vec<_>>()[2], "dir-a/model-of-x-00003-of-00003.gguf");
        assert_eq!(name.sibling(2), "dir-a/model-of-x-00002-of-00003.gguf");
        for wrong in ["m.gguf", "m-1-of-3.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-00001-of-00003"] {
            assert_eq!(ShardName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn headers_merge_in_order() {
        let merged = merge(vec![shard(0, 2, 3, &["a", "b"]), shard(1, 2, 3, &["c"])]).unwrap();
        assert_eq!(merged.shard_of, [0, 0, 1]);
        assert_eq!(merged.header.tensor("c").map(|tensor| tensor.elements()), Some(1));
    }

    #[test]
    fn a_count_of_zero_or_one_is_a_whole_model() {
        // As llama-gguf-split --merge writes it, and with keys that are left over from a part.
        for whole in [shard(0, 0, 1, &["a"]), shard(0, 1, 1, &["a"]), shard(2, 0, 9, &["a"])] {
            let merged = merge(vec![whole.clone()]).unwrap();
            assert_eq!((merged.header, merged.shard_of), (whole, vec![0]));
        }
        // Beside others it is none of them.
        let parts = vec![shard(0, 0, 2, &["a"]), shard(1, 2, 2, &["b"])];
        assert!(matches!(merge(parts), Err(GgufError::ShardCount { shard: 0, found: 0, given: 2 })));
        let mut odd = shard(0, 0, 1, &["a"]);
        odd.metadata.insert("split.count", "none");
        assert!(matches!(merge(vec![odd]), Err(GgufError::WrongType { .. })));
    }

    #[test]
    fn foreign_parts_are_refused() {
        assert!(matches!(merge(vec![]), Err(GgufError::ShardCount { given: 0, .. })));
        assert!(matches!(
            merge(vec![shard(0, 2, 2, &["a"])]),
            Err(GgufError::ShardCount { shard: 0, found: 2, given: 1 })
        ));
        let swapped = vec![shard(1, 2, 2, &["a"]), shard(0, 2, 2, &["b"])];
        assert!(matches!(merge(swapped), Err(GgufError::ShardOrder { shard: 0, found: 1 })));
        let short = vec![shard(0, 2, 9, &["a"]), shard(1, 2, 9, &["b"])];
        assert!(matches!(merge(short), Err(GgufError::ShardTensors { expected: 9, found: 2 })));
        let twice = vec![shard(0, 2, 2, &["a"]), shard(1, 2, 2, &["a"])];
        assert!(matches!(merge(twice), Err(GgufError::DuplicateTensor { name }) if name == "a"));
    }
}
