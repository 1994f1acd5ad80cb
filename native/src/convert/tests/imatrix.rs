//! Importance matrices in conversions: the same as calibration where they hold the same, and better where it counts.

use sterna_core::gguf::{TensorDecl, Writer};

use super::*;

/// Writes an importance matrix in the form of a GGUF.
fn write_imatrix(path: &Path, entries: &[(&str, Vec<f32>)]) {
    let mut metadata = Metadata::new();
    metadata.insert("general.type", "imatrix");
    metadata.insert("imatrix.chunk_count", 1u32);
    metadata.insert("imatrix.chunk_size", 512u32);
    let mut tensors = Vec::new();
    for (name, means) in entries {
        // A power of two, so that dividing gives back the means.
        tensors.push((format!("{name}.in_sum2"), means.iter().map(|mean| mean * 512.0).collect::<Vec<f32>>()));
        tensors.push((format!("{name}.counts"), vec![512.0]));
    }
    let decl = |(name, values): &(String, Vec<f32>)| TensorDecl {
        name: name.clone(),
        dims: vec![values.len() as u64],
        type_id: Format::F32.type_id(),
        size: values.len() as u64 * 4,
    };
    let mut writer = Writer::new(Vec::new(), &metadata, tensors.iter().map(decl).collect()).unwrap();
    for (name, values) in &tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.tensor(name, &bytes).unwrap();
    }
    fs::write(path, writer.finish().unwrap()).unwrap();
}

#[test]
fn with_the_same_means_it_is_calibration() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("text"), "the tern flies over the sea and the sea is wide. ".repeat(40)).unwrap();
    convert("llama", &path("f16.gguf"), &options(Format::F16));
    let text = fs::read_to_string(path("text")).unwrap();
    let importance = calibration::importance(&path("f16.gguf"), &text).unwrap();
    let entries: Vec<(&str, Vec<f32>)> =
        importance.iter().map(|(name, means)| (name.as_str(), means.clone())).collect();
    write_imatrix(&path("x.imatrix.gguf"), &entries);
    let of = |out: &str, calibration: Option<PathBuf>, imatrix: Option<PathBuf>| {
        from_gguf(&path("f16.gguf"), &path(out), &Options { calibration, imatrix, ..options(Format::Q2_0) }).unwrap()
    };
    of("a.gguf", Some(path("text")), None);
    let report = of("b.gguf", None, Some(path("x.imatrix.gguf")));
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    of("c.gguf", None, None);
    let tensors = |name: &str| {
        let source = Source::open(&path(name)).unwrap();
        source.tensors().map(|(info, bytes)| (info.name.clone(), bytes.to_vec())).collect::<Vec<_>>()
    };
    assert!(tensors("a.gguf") == tensors("b.gguf"));
    assert!(tensors("a.gguf") != tensors("c.gguf"));
    let source = Source::open(&path("b.gguf")).unwrap();
    assert_eq!(source.header().metadata.str("quantize.imatrix.file"), Some("x.imatrix.gguf"));
    assert_eq!(source.header().metadata.u32("quantize.imatrix.entries_count"), Some(importance.len() as u32));
}

#[test]
fn what_has_no_entry_is_said_and_what_does_not_fit_is_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    let (imatrix, out) = (dir.path().join("x.dat"), dir.path().join("x.gguf"));
    let with = |entries: &[(&str, Vec<f32>)], options: Options| {
        write_imatrix(&imatrix, entries);
        from_checkpoint(&fixture("llama"), &out, None, &Options { imatrix: Some(imatrix.clone()), ..options })
    };
    let up = ("blk.0.ffn_up.weight", vec![1.0; 256]);
    let report = with(std::slice::from_ref(&up), options(Format::TQ2_0)).unwrap();
    let said = report.notes.iter().find(|note| note.contains("no entry for 6 of 7 matrices")).unwrap();
    assert!(said.contains("blk.0.attn_q.weight") && !said.contains("ffn_up"), "{said}");
    let refused = |entries: &[(&str, Vec<f32>)], options: Options| format!("{:#}", with(entries, options).unwrap_err());
    let error = refused(&[("blk.9.ffn_up.weight", vec![1.0; 256])], options(Format::TQ2_0));
    assert!(error.contains("no entry for any matrix that becomes ternary"), "{error}");
    let error = refused(&[("blk.0.ffn_up.weight", vec![1.0; 64])], options(Format::TQ2_0));
    assert!(error.contains("64 values for blk.0.ffn_up.weight, which has 256 columns"), "{error}");
    let error = refused(std::slice::from_ref(&up), Options { method: Method::Twn, ..options(Format::TQ2_0) });
    assert!(error.contains("--imatrix goes with --rule search, not with twn"), "{error}");
    let both = Options { calibration: Some(imatrix.clone()), ..options(Format::TQ2_0) };
    assert!(refused(&[up], both).contains("both weigh columns"));
}
