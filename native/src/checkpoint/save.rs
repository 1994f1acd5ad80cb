//! Saving models as `transformers` does: tensors in the names, order and shapes of their family, in one safetensors file of f32.
//!
//! What is given is in the order of a GGUF, as [`Item`] describes it; reordering for rotary positions and transposing are undone here.
//! Not here: configurations and tokenizers of models that are new (`train::text`).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::BESIDE;
use super::family::{Role, interleaved};
use super::plan::{From, Item, Origin};

/// Writes a safetensors file; `values` gives those of an item, in the order of a GGUF, when they are needed. The file has its name only
/// when it is complete.
///
/// # Errors
/// Items that are not in a checkpoint, values of another number, or a file that cannot be written.
pub fn tensors(path: &Path, items: &[Item], mut values: impl FnMut(&Item) -> Result<Vec<f32>>) -> Result<()> {
    let (mut header, mut end) = (Map::new(), 0usize);
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for item in items {
        let from = origin(item)?;
        let shape = match (item.vector, from.transposed) {
            (true, _) => vec![item.cols],
            (false, false) => vec![item.rows, item.cols],
            (false, true) => vec![item.cols, item.rows],
        };
        let start = end;
        end += 4 * item.rows * item.cols;
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        if header.insert(from.saved.clone(), entry).is_some() {
            bail!("two tensors are to be saved as {}", from.saved);
        }
    }
    let mut header = Value::Object(header).to_string();
    // Data begins at a multiple of 8.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let path = &crate::output::place(path)?;
    let part = path.with_extension("safetensors.part");
    let cannot = || format!("cannot write {}", path.display());
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&part).with_context(cannot)?);
    let mut write = || -> Result<()> {
        file.write_all(&(header.len() as u64).to_le_bytes()).with_context(cannot)?;
        file.write_all(header.as_bytes()).with_context(cannot)?;
        for item in items {
            let stored = reordered(item, values(item)?)?;
            stored.iter().try_for_each(|value| file.write_all(&value.to_le_bytes())).with_context(cannot)?;
        }
        file.flush().with_context(cannot)
    };
    let written = write().and_then(|()| fs::rename(&part, path).with_context(cannot));
    if written.is_err() {
        // The space may be what is missing.
        let _ = fs::remove_file(&part);
    }
    written
}

/// Copies what stands beside the weights of a checkpoint, and config.json with the type that [`tensors`] writes, and with what is true
/// of `items` where it said otherwise: the size of the vocabulary, and whether the output is the embedding.
///
/// # Errors
/// Files that cannot be read or written.
pub fn beside(from: &Path, to: &Path, items: &[Item]) -> Result<()> {
    let read = super::read_json(&from.join("config.json"))?;
    let mut config = read.with_context(|| format!("{} is missing", from.join("config.json").display()))?;
    for key in ["dtype", "torch_dtype"] {
        if config.get(key).is_some() {
            config[key] = "float32".into();
        }
    }
    let part = |role: Role| items.iter().find(|item| item.role == role);
    if let Some(embedding) = part(Role::Embedding) {
        config["vocab_size"] = embedding.rows.into();
    }
    if part(Role::Output).is_some() {
        config["tie_word_embeddings"] = false.into();
    }
    json_file(&to.join("config.json"), &config)?;
    for name in BESIDE {
        let path = from.join(name);
        if path.is_file() {
            let cannot = || format!("cannot copy {} to {}", path.display(), to.display());
            fs::copy(&path, to.join(name)).with_context(cannot)?;
        }
    }
    Ok(())
}

/// Writes a JSON file.
///
/// # Errors
/// If it cannot be written.
pub fn json_file(path: &Path, value: &Value) -> Result<()> {
    let path = &crate::output::place(path)?;
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn origin(item: &Item) -> Result<&From> {
    match &item.origin {
        Origin::Tensor(from) if !from.packed => Ok(from),
        _ => bail!("{} is no tensor of floats in a checkpoint", item.name),
    }
}

/// Values as they lie in the checkpoint.
fn reordered(item: &Item, values: Vec<f32>) -> Result<Vec<f32>> {
    let (from, &Item { rows, cols, .. }) = (origin(item)?, item);
    if values.len() != rows * cols {
        bail!("{} has {} values, not {rows} x {cols}", item.name, values.len());
    }
    // A bias is reordered as the rows that it belongs to.
    let (rows, cols) = if item.vector { (cols, 1) } else { (rows, cols) };
    let mut stored = vec![0.0; values.len()];
    match (from.heads_of, from.transposed) {
        (None, false) => return Ok(values),
        (Some(head), _) => {
            for (row, values) in values.chunks_exact(cols).enumerate() {
                stored[interleaved(row, head) * cols..][..cols].copy_from_slice(values);
            }
        }
        (None, true) => {
            for (row, values) in values.chunks_exact(cols).enumerate() {
                for (col, &value) in values.iter().enumerate() {
                    stored[col * rows + row] = value;
                }
            }
        }
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Checkpoint;
    use super::super::plan::Plan;
    use super::*;
    use crate::convert::weights::Tensor;

    /// Saved again, a checkpoint has the same names, shapes and values.
    #[test]
    fn what_is_read_is_saved_as_it_was() {
        for name in ["llama", "qwen2", "qwen3", "phi3", "gpt2"] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name);
            let dir = tempfile::tempdir().unwrap();
            let original = Checkpoint::open(&source).unwrap();
            let plan = Plan::of(&original).unwrap();
            let items: Vec<Item> =
                plan.items.into_iter().filter(|item| matches!(item.origin, Origin::Tensor(_))).collect();
            // The table read backwards says the same.
            for item in &items {
                let dims = if item.vector { vec![item.cols] } else { vec![item.rows, item.cols] };
                let found = plan.family.item(&item.name, &dims, plan.hyper.head).unwrap();
                let (found, expected) = (origin(&found).unwrap().clone(), origin(item).unwrap());
                assert_eq!(found.tensor, expected.tensor, "{name}");
                assert_eq!((found.heads_of, found.transposed), (expected.heads_of, expected.transposed), "{name}");
            }
            let read = |item: &Item| Tensor::of_item(&original, item.clone())?.read_all();
            tensors(&dir.path().join("model.safetensors"), &items, read).unwrap();
            beside(&source, dir.path(), &items).unwrap();
            let saved = Checkpoint::open(dir.path()).unwrap();
            assert!(saved.names().eq(original.names()), "{name}");
            for tensor in saved.names() {
                assert_eq!(
                    saved.entry(tensor).unwrap().shape,
                    original.entry(tensor).unwrap().shape,
                    "{name} {tensor}"
                );
                assert_eq!(saved.values(tensor).unwrap(), original.values(tensor).unwrap(), "{name} {tensor}");
            }
            assert_eq!(saved.config().word("dtype"), Some("float32"));
            assert_eq!(fs::read_dir(dir.path()).unwrap().filter(|e| is_part(&e.as_ref().unwrap().path())).count(), 0);
        }
    }

    fn is_part(path: &Path) -> bool {
        path.extension() == Some("part".as_ref())
    }

    #[test]
    fn what_cannot_be_saved_leaves_nothing() {
        let item = |name: &str, origin: Origin| Item {
            name: name.into(),
            role: Role::Vector,
            rows: 1,
            cols: 2,
            vector: true,
            origin,
        };
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("model.safetensors");
        let computed = item("rope_freqs.weight", Origin::Values(vec![1.0; 2]));
        assert!(tensors(&path, &[computed], |_| Ok(vec![1.0; 2])).unwrap_err().to_string().contains("rope_freqs"));
        let from = From {
            tensor: "norm.weight".into(),
            saved: "norm.weight".into(),
            heads_of: None,
            transposed: false,
            packed: false,
            scale: 1.0,
            trained: None,
        };
        let norm = item("output_norm.weight", Origin::Tensor(from));
        let error = tensors(&path, std::slice::from_ref(&norm), |_| Ok(vec![1.0])).unwrap_err().to_string();
        assert!(error.contains("has 1 values, not 1 x 2"), "{error}");
        assert!(tensors(&path, &[norm.clone(), norm], |_| Ok(vec![1.0; 2])).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
