//! The card of a model: what a page tells about a file, known from its header on.

use serde_json::{Map, Value, json};
use sterna_core::formats::identify_all;
use sterna_core::generate::has_vocabulary;
use sterna_core::gguf::{Header, TensorInfo, readable};
use sterna_core::model::{Memory, image};

/// What there is to say about a model.
#[derive(Clone, Debug)]
pub struct Card {
    /// All that does not change.
    fields: Map<String, Value>,
    /// Bytes of the file, once they are known.
    pub file_bytes: Option<u64>,
    /// Bytes of the weights in memory; until the model is loaded, what the header promises.
    pub packed_bytes: u64,
    /// What is odd about the file but no reason to refuse it.
    pub warnings: Vec<String>,
}

impl Card {
    /// The card of a file with this header, to be run by `kernel`.
    pub fn of(header: &Header, kernel: &str) -> Self {
        let m = &header.metadata;
        let architecture = m.str("general.architecture").unwrap_or_default();
        let tensors = Tensors::of(header);
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                fields.insert(name.to_owned(), value);
            }
        };
        put("architecture", json!(architecture));
        let name = m.str("general.name").or_else(|| m.str("general.basename")).unwrap_or(architecture);
        put("name", json!(readable(name)));
        put("description", json!(m.str("general.description").map(readable)));
        put("license", json!(m.str("general.license").map(readable)));
        let is_image = architecture == image::ARCHITECTURE;
        put("kind", json!(if is_image { "image" } else { "text" }));
        put("parameters", json!(tensors.elements));
        put("bitsPerWeight", json!(tensors.bytes as f64 * 8.0 / tensors.elements.max(1) as f64));
        put("quantization", json!(tensors.main()));
        put("formats", tensors.formats.iter().map(|(name, _, bytes)| ((*name).to_owned(), json!(bytes))).collect());
        if is_image {
            let size = |key: &str| m.u32(&format!("{architecture}.{key}"));
            put(
                "image",
                json!({
                    "width": size("width"),
                    "height": size("height"),
                    "channels": size("channels"),
                    "classes": m.strings(&format!("{architecture}.labels")),
                    "centred": m.bool(&format!("{architecture}.centred")).unwrap_or(false),
                }),
            );
        } else {
            let size = |key: &str| m.u64(&format!("{architecture}.{key}"));
            put("contextLength", json!(size("context_length")));
            put("vocabulary", json!(header.tensor("token_embd.weight").map(TensorInfo::rows)));
            put("embeddingLength", json!(size("embedding_length")));
            put("layers", json!(size("block_count")));
        }
        put("hasTokenizer", json!(has_vocabulary(m)));
        put("hasChatTemplate", json!(m.str("tokenizer.chat_template").is_some()));
        put("kernel", json!(kernel));
        put("threads", json!(crate::threads::count()));
        // An upper bound, as matrices whose groups share a scale shrink further.
        let packed_bytes = Memory::of(header).map_or(tensors.bytes, |memory| memory.weights);
        Self { fields, file_bytes: None, packed_bytes, warnings: tensors.notes }
    }

    /// As JSON.
    pub fn json(&self) -> String {
        let mut fields = self.fields.clone();
        if let Some(bytes) = self.file_bytes {
            fields.insert("fileBytes".to_owned(), json!(bytes));
        }
        fields.insert("packedBytes".to_owned(), json!(self.packed_bytes));
        fields.insert("warnings".to_owned(), json!(self.warnings));
        Value::Object(fields).to_string()
    }
}

/// Sums over a file's tensors.
#[derive(Default)]
struct Tensors {
    elements: u64,
    /// Without padding.
    bytes: u64,
    /// Name, whether it is ternary, bytes; in the order in which they first occur.
    formats: Vec<(&'static str, bool, u64)>,
    notes: Vec<String>,
}

impl Tensors {
    fn of(header: &Header) -> Self {
        let mut sums = Self::default();
        for (info, identified) in header.tensors.iter().zip(identify_all(header)) {
            // Those that cannot be identified have been refused.
            let Ok(identified) = identified else { continue };
            let format = identified.format;
            let bytes = format.tensor_bytes(info.rows(), info.cols()).unwrap_or(info.size);
            sums.elements = sums.elements.saturating_add(info.elements());
            sums.bytes = sums.bytes.saturating_add(bytes);
            match sums.formats.iter_mut().find(|(name, ..)| *name == format.name()) {
                Some((.., sum)) => *sum = sum.saturating_add(bytes),
                None => sums.formats.push((format.name(), format.is_ternary(), bytes)),
            }
            if let Some(note) = identified.note
                && !sums.notes.iter().any(|known| known == note)
            {
                sums.notes.push(note.to_owned());
            }
        }
        sums
    }

    /// The type that names the file: of most bytes, ternary ones before others, as embeddings may outweigh them.
    fn main(&self) -> Option<&'static str> {
        self.formats.iter().max_by_key(|(_, ternary, bytes)| (*ternary, *bytes)).map(|(name, ..)| *name)
    }
}
