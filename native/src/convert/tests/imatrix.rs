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

/// Both forms as llama-imatrix of August 2026 wrote them, of the fixture `llama` in F16 and the beginning of wikitext-2's test:
/// `llama-imatrix -m llama.gguf -f text.txt -c 64 -b 64 -o llama.gguf`, and with `--output-format dat -o llama.dat`.
#[test]
fn files_of_llama_imatrix_are_read_in_both_forms() {
    let made = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/imatrix").join(name);
    let (new, old) = (Imatrix::read(&made("llama.gguf")).unwrap(), Imatrix::read(&made("llama.dat")).unwrap());
    let dir = tempfile::TempDir::new().unwrap();
    let of = |name: &str, imatrix: Option<PathBuf>| {
        let out = dir.path().join(name);
        let report = convert("llama", &out, &Options { imatrix, ..options(Format::Q2_0) });
        assert!(report.notes.is_empty(), "{:?}", report.notes);
        out
    };
    let weighted = Source::open(&of("weighted.gguf", Some(made("llama.gguf")))).unwrap();
    of("old.gguf", Some(made("llama.dat")));
    let plain = Source::open(&of("plain.gguf", None)).unwrap();
    let floats = dir.path().join("floats.gguf");
    convert("llama", &floats, &options(Format::F32));
    let floats = Source::open(&floats).unwrap();
    let values = |source: &Source, name: &str| {
        let (info, bytes) = source.tensors().find(|(info, _)| info.name == name).unwrap();
        let format = Format::identify(info).unwrap();
        Tensor::of_gguf(source, info, format, bytes).read_all().unwrap()
    };
    let mut matrices = 0;
    for (info, _) in weighted.tensors().filter(|(info, _)| info.name.starts_with("blk.") && info.dims.len() == 2) {
        let (name, cols) = (info.name.as_str(), info.cols() as usize);
        let means = new.of_tensor(name, cols).unwrap().unwrap();
        for (a, b) in means.iter().zip(old.of_tensor(name, cols).unwrap().unwrap()) {
            assert!((a - b).abs() <= 1e-5 * a.abs(), "{name}: {a} {b}");
        }
        // The error that counts is smaller than without.
        let original = values(&floats, name);
        let error = |stored: Vec<f32>| -> f64 {
            let one = |(i, (a, b)): (usize, (&f32, &f32))| f64::from(means[i % cols]) * f64::from(a - b).powi(2);
            original.iter().zip(&stored).enumerate().map(one).sum()
        };
        let (with, without) = (error(values(&weighted, name)), error(values(&plain, name)));
        assert!(with < without, "{name}: {with} {without}");
        matrices += 1;
    }
    assert_eq!(matrices, 7);
}
