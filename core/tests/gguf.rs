//! The GGUF container from outside: one test a malformation, round trips, both readers against each other, and a
//! corpus of damaged files.

use proptest::prelude::*;
use sterna_core::gguf::*;

// ---- a file by hand, so that it can be wrong in any way -------------------------------------------------------------

/// Raw header bytes.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn head(version: u32, tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }

    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn bytes(mut self, v: &[u8]) -> Self {
        self.0.extend(v);
        self
    }

    fn string(self, v: &str) -> Self {
        self.u64(v.len() as u64).bytes(v.as_bytes())
    }

    fn tensor(self, name: &str, dims: &[u64], type_id: u32, offset: u64) -> Self {
        let raw = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &dim| raw.u64(dim)).u32(type_id).u64(offset)
    }

    /// Pads to the alignment and adds data.
    fn data(mut self, alignment: usize, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(alignment) + bytes, 7);
        self
    }
}

/// The error of the slice reader, having checked that the stream reader has the same.
fn error(raw: Raw) -> GgufError {
    let error = Gguf::parse(&raw.0).expect_err("accepted");
    let streamed = stream(&raw.0, Some(raw.0.len() as u64), 1).expect_err("accepted by the stream reader");
    assert_eq!(error.to_string(), streamed.to_string());
    stream(&raw.0, None, 3).expect_err("accepted by the stream reader without a length");
    error
}

/// What a reader found: the header, and each tensor's place and bytes in order of offset.
type Found = (Header, Vec<(usize, Vec<u8>)>);

fn stream(bytes: &[u8], length: Option<u64>, chunk: usize) -> Result<Found, GgufError> {
    let mut reader = StreamReader::new(length);
    let mut tensors = Vec::new();
    for mut rest in bytes.chunks(chunk.max(1)) {
        while let Some(event) = reader.read(&mut rest)? {
            if let Event::Tensor { index, bytes, info } = event {
                assert_eq!(bytes.len() as u64, info.size);
                tensors.push((index, bytes.to_vec()));
            }
        }
        assert!(rest.is_empty());
    }
    while let Some(event) = reader.finish()? {
        if let Event::Tensor { index, bytes, .. } = event {
            tensors.push((index, bytes.to_vec()));
        }
    }
    Ok((reader.header().expect("finish passed").clone(), tensors))
}

fn slice(bytes: &[u8]) -> Result<Found, GgufError> {
    let gguf = Gguf::parse(bytes)?;
    let header = gguf.header().clone();
    let mut order: Vec<usize> = (0..header.tensors.len()).collect();
    order.sort_by_key(|&index| header.tensors[index].offset);
    let tensors = order.iter().map(|&index| (index, gguf.data(&header.tensors[index]).to_vec())).collect();
    Ok((header, tensors))
}

#[test]
fn both_versions_are_read() {
    for version in [2, 3] {
        let raw = Raw::head(version, 1, 1).string("k").u32(4).u32(9).tensor("t", &[3, 2], 0, 0).data(32, 24);
        let gguf = Gguf::parse(&raw.0).unwrap();
        assert_eq!(gguf.header().version, version);
        assert_eq!(gguf.header().metadata.u32("k"), Some(9));
        let tensor = gguf.tensor("t").unwrap();
        assert_eq!((tensor.cols(), tensor.rows(), tensor.elements(), tensor.size), (3, 2, 6, 24));
        assert_eq!(gguf.data(tensor), [7; 24]);
        assert_eq!(gguf.header().length_needed(|tensor| Some(tensor.elements() * 4)), Some(raw.0.len() as u64));
        assert_eq!(gguf.header().length_needed(|_| Some(u64::MAX)), None);
        assert!(gguf.tensor("u").is_none());
    }
}

#[test]
fn a_file_without_tensors_may_end_with_its_metadata() {
    let raw = Raw::head(3, 0, 1).string("k").u32(7).bytes(&[1]);
    assert_eq!(slice(&raw.0).unwrap(), stream(&raw.0, None, 5).unwrap());
}

#[test]
fn data_of_another_file_is_empty_not_a_panic() {
    let raw = Raw::head(3, 0, 0);
    let gguf = Gguf::parse(&raw.0).unwrap();
    let foreign = TensorInfo { name: "x".into(), dims: vec![1], type_id: 0, offset: u64::MAX, size: u64::MAX };
    assert!(gguf.data(&foreign).is_empty());
}

// ---- one test a malformation ----------------------------------------------------------------------------------------

macro_rules! refused {
    ($($name:ident: $raw:expr => $pattern:pat $(if $guard:expr)?,)*) => {$(
        #[test]
        fn $name() {
            let error = error($raw);
            assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
        }
    )*};
}

refused! {
    not_gguf: Raw(b"ggml....".to_vec()) => GgufError::NotGguf { found: [b'g', b'g', b'm', b'l'] },
    big_endian: Raw(b"GGUF".to_vec()).u32(3u32.swap_bytes()).u64(0).u64(0) => GgufError::BigEndian { version: 3 },
    version_1: Raw::head(1, 0, 0) => GgufError::UnsupportedVersion { version: 1 },
    version_4: Raw::head(4, 0, 0) => GgufError::UnsupportedVersion { version: 4 },
    empty: Raw(Vec::new()) => GgufError::Truncated { offset: 0, needed: 4, .. },
    ends_in_counts: Raw(b"GGUF\x03\0\0\0\0\0".to_vec()) => GgufError::Truncated { offset: 10, needed: 14, .. },
    ends_in_value: Raw::head(3, 0, 1).string("some.key").u32(10).u32(1)
        => GgufError::Truncated { what, needed: 4, .. } if what.contains("`some.key`"),
    ends_in_string: Raw::head(3, 0, 1).string("k").u32(8).u64(10).bytes(b"abc")
        => GgufError::Truncated { what, needed: 7, .. } if what.contains("`k`"),
    ends_in_tensor_record: Raw::head(3, 1, 0).string("blk.0.ffn_up.weight").u32(1)
        => GgufError::Truncated { what, .. } if what.contains("`blk.0.ffn_up.weight`"),
    too_many_keys: Raw::head(3, 0, 1 << 40).data(1, 100) => GgufError::TooManyKeys { count: 0x100_0000_0000, limit: 7 },
    too_many_tensors: Raw::head(3, u64::MAX, 0).data(1, 100)
        => GgufError::TooManyTensors { count: u64::MAX, limit: 4 },
    key_too_long: Raw::head(3, 0, 1).u64(MAX_NAME_BYTES + 1).data(1, 70_000)
        => GgufError::StringTooLong { offset: 24, length: 65536, .. },
    string_too_long: Raw::head(3, 0, 1).string("k").u32(8).u64(u64::MAX).data(1, 100)
        => GgufError::StringTooLong { length: u64::MAX, what, .. } if what.contains("`k`"),
    tensor_name_too_long: Raw::head(3, 1, 0).u64(1 << 20).data(1, 100) => GgufError::StringTooLong { .. },
    key_not_utf8: Raw::head(3, 0, 1).u64(2).bytes(&[0xff, 0xfe]).u32(0).bytes(&[0])
        => GgufError::InvalidUtf8 { offset: 32, .. },
    tensor_name_not_utf8: Raw::head(3, 1, 0).u64(1).bytes(&[0x80]).u32(1).u64(1).u32(0).u64(0).data(32, 4)
        => GgufError::InvalidUtf8 { offset: 32, .. },
    empty_key: Raw::head(3, 0, 1).string("").u32(4).u32(0).bytes(&[0; 8]) => GgufError::EmptyName { offset: 24, .. },
    empty_tensor_name: Raw::head(3, 1, 0).tensor("", &[1], 0, 0).data(32, 4) => GgufError::EmptyName { .. },
    duplicate_key: Raw::head(3, 0, 2).string("k").u32(4).u32(0).string("k").u32(4).u32(0)
        => GgufError::DuplicateKey { key, offset: 41 } if key == "k",
    unknown_value_type: Raw::head(3, 0, 1).string("k").u32(13).u64(0)
        => GgufError::UnknownValueType { id: 13, offset: 33, .. },
    unknown_item_type: Raw::head(3, 0, 1).string("k").u32(9).u32(99).u64(0)
        => GgufError::UnknownValueType { id: 99, offset: 37, .. },
    invalid_bool: Raw::head(3, 0, 1).string("k").u32(7).bytes(&[2]) => GgufError::InvalidBool { value: 2, offset: 37, .. },
    invalid_bool_item: Raw::head(3, 0, 1).string("k").u32(9).u32(7).u64(2).bytes(&[1, 255])
        => GgufError::InvalidBool { value: 255, .. },
    array_too_long: Raw::head(3, 0, 1).string("k").u32(9).u32(4).u64(1 << 62).data(1, 100)
        => GgufError::ArrayTooLong { count: 0x4000_0000_0000_0000, limit: 25, offset: 41, .. },
    array_of_strings_too_long: Raw::head(3, 0, 1).string("k").u32(9).u32(8).u64(13).data(1, 100)
        => GgufError::ArrayTooLong { limit: 12, .. },
    array_too_deep: (0..MAX_DEPTH).fold(Raw::head(3, 0, 1).string("k").u32(9), |raw, _| raw.u32(9).u64(1)).u32(4).u64(0)
        => GgufError::ArrayTooDeep { key, limit: 8, .. } if key == "k",
    alignment_of_three: Raw::head(3, 0, 1).string(ALIGNMENT_KEY).u32(4).u32(3) => GgufError::BadAlignment { .. },
    alignment_of_zero: Raw::head(3, 0, 1).string(ALIGNMENT_KEY).u32(4).u32(0) => GgufError::BadAlignment { .. },
    alignment_too_large: Raw::head(3, 0, 1).string(ALIGNMENT_KEY).u32(10).u64(1 << 63) => GgufError::BadAlignment { .. },
    alignment_is_text: Raw::head(3, 0, 1).string(ALIGNMENT_KEY).u32(8).string("32")
        => GgufError::BadAlignment { found } if found == "a string",
    duplicate_tensor: Raw::head(3, 2, 0).tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).data(32, 64)
        => GgufError::DuplicateTensor { name } if name == "t",
    too_many_dims: Raw::head(3, 1, 0).tensor("t", &[1; 5], 0, 0).data(32, 4)
        => GgufError::TooManyDims { n_dims: 5, offset: 33, .. },
    absurdly_many_dims: Raw::head(3, 1, 0).string("t").u32(u32::MAX).data(32, 64)
        => GgufError::TooManyDims { n_dims: u32::MAX, .. },
    zero_dim: Raw::head(3, 1, 0).tensor("t", &[4, 0], 0, 0).data(32, 4) => GgufError::ZeroDim { .. },
    too_many_elements: Raw::head(3, 1, 0).tensor("t", &[1 << 32, 1 << 32], 0, 0).data(32, 4)
        => GgufError::TooManyElements { .. },
    unaligned_offset: Raw::head(3, 1, 0).tensor("t", &[1], 0, 4).data(32, 64)
        => GgufError::UnalignedOffset { offset: 4, alignment: 32, .. },
    offset_overflow: Raw::head(3, 1, 0).tensor("t", &[1], 0, u64::MAX - 31).data(32, 64)
        => GgufError::OffsetOverflow { .. },
    overlapping_tensors: Raw::head(3, 2, 0).tensor("a", &[1], 0, 0).tensor("b", &[1], 0, 0).data(32, 64)
        => GgufError::OverlappingTensors { first, second, .. } if first == "a" && second == "b",
    tensor_beyond_end: Raw::head(3, 1, 0).tensor("t", &[1], 0, 64).data(32, 64)
        => GgufError::TensorBeyondEnd { offset: 128, length: 128, .. },
    tensor_far_beyond_end: Raw::head(3, 1, 0).tensor("t", &[1], 0, 1 << 60).data(32, 64)
        => GgufError::TensorBeyondEnd { .. },
}

#[test]
fn a_stream_may_not_exceed_its_length() {
    let raw = Raw::head(3, 0, 0).bytes(&[0; 8]);
    let error = stream(&raw.0, Some(24), 32).unwrap_err();
    assert!(matches!(error, GgufError::TooMuchData { length: 24 }));
}

#[test]
fn a_stream_that_ends_within_a_tensor_names_it() {
    let raw = Raw::head(3, 2, 0).tensor("a", &[8], 0, 0).tensor("b", &[8], 0, 32).data(32, 64);
    let start = raw.0.len() - 64;
    let short = stream(&raw.0[..start + 20], None, 7).unwrap_err();
    assert!(matches!(&short, GgufError::Truncated { what, needed: 12, .. } if what == "tensor `a`"), "{short:?}");
    let absent = stream(&raw.0[..start + 32], None, 7).unwrap_err();
    assert!(matches!(&absent, GgufError::TensorBeyondEnd { name, .. } if name == "b"), "{absent:?}");
    let (header, tensors) = stream(&raw.0[..start + 40], None, 7).unwrap();
    assert_eq!((header.tensors[1].size, tensors[1].1.len()), (8, 8));
    let known = stream(&raw.0[..start + 40], Some(raw.0.len() as u64), 7).unwrap_err();
    assert!(matches!(&known, GgufError::Truncated { what, needed: 24, .. } if what == "tensor `b`"), "{known:?}");
}

#[test]
fn a_size_that_no_memory_holds_is_an_error() {
    // The announced length is a lie of the host's here, and must still not abort.
    let raw = Raw::head(3, 1, 0).tensor("t", &[1], 0, 0).data(32, 4);
    let error = stream(&raw.0, Some(1 << 62), 4096).unwrap_err();
    assert!(matches!(&error, GgufError::OutOfMemory { what, .. } if what == "tensor `t`"), "{error:?}");
}

#[test]
fn without_a_length_memory_follows_the_bytes() {
    // Claims 2^60 items; the reader waits for them instead of allocating.
    let raw = Raw::head(3, 0, 1).string("k").u32(9).u32(4).u64(1 << 60).data(1, 4000);
    assert!(matches!(stream(&raw.0, None, 100).unwrap_err(), GgufError::Truncated { .. }));
}

// ---- the writer -----------------------------------------------------------------------------------------------------

fn decl(name: &str, dims: &[u64], size: u64) -> TensorDecl {
    TensorDecl { name: name.into(), dims: dims.into(), type_id: 24, size }
}

fn writer_error(metadata: &Metadata, tensors: Vec<TensorDecl>) -> GgufError {
    Writer::new(Vec::new(), metadata, tensors).expect_err("accepted")
}

#[test]
fn the_writer_refuses_what_the_readers_refuse() {
    let none = Metadata::new();
    let mut odd = Metadata::new();
    odd.insert(ALIGNMENT_KEY, 12u32);
    assert!(matches!(writer_error(&odd, vec![]), GgufError::BadAlignment { .. }));
    let twice = vec![decl("a", &[1], 1), decl("a", &[1], 1)];
    assert!(matches!(writer_error(&none, twice), GgufError::DuplicateTensor { .. }));
    assert!(matches!(writer_error(&none, vec![decl("a", &[1; 5], 1)]), GgufError::TooManyDims { .. }));
    assert!(matches!(writer_error(&none, vec![decl("a", &[0], 1)]), GgufError::ZeroDim { .. }));
    assert!(matches!(writer_error(&none, vec![decl("a", &[1], 0)]), GgufError::EmptyTensor { .. }));
    assert!(matches!(writer_error(&none, vec![decl("", &[1], 1)]), GgufError::EmptyName { .. }));
    assert!(matches!(writer_error(&none, vec![decl("a", &[u64::MAX, 2], 1)]), GgufError::TooManyElements { .. }));
    let huge = vec![decl("a", &[1], 1 << 62), decl("b", &[1], 1 << 62)];
    assert!(matches!(writer_error(&none, huge), GgufError::OffsetOverflow { .. }));
    let mut long = Metadata::new();
    long.insert("k".repeat(1 << 16), 1u8);
    assert!(matches!(writer_error(&long, vec![]), GgufError::StringTooLong { .. }));
    let mut deep = Metadata::new();
    deep.insert("k", (0..MAX_DEPTH).fold(Array::U8(vec![1]), |array, _| Array::Array(vec![array])));
    assert!(matches!(writer_error(&deep, vec![]), GgufError::ArrayTooDeep { .. }));
}

#[test]
fn the_writer_holds_to_what_was_declared() {
    let open = || Writer::new(Vec::new(), &Metadata::new(), vec![decl("a", &[4], 4), decl("b", &[4], 4)]).unwrap();
    let mut writer = open();
    assert_eq!(writer.due(), Some("a"));
    assert!(matches!(
        writer.tensor("b", &[0; 4]).unwrap_err(),
        GgufError::WriteOrder { expected, found } if expected == "a" && found == "b"
    ));
    assert!(matches!(writer.tensor("a", &[0; 5]).unwrap_err(), GgufError::WriteSize { expected: 4, found: 5, .. }));
    writer.append(&[0; 3]).unwrap();
    assert!(matches!(writer.append(&[0; 2]).unwrap_err(), GgufError::WriteSize { expected: 4, found: 5, .. }));
    assert!(matches!(writer.finish().unwrap_err(), GgufError::WriteSize { found: 3, .. }));
    let mut writer = open();
    writer.tensor("a", &[0; 4]).unwrap();
    writer.tensor("b", &[0; 4]).unwrap();
    assert!(matches!(writer.append(&[0]).unwrap_err(), GgufError::WriteOrder { .. }));
    assert_eq!(writer.finish().unwrap().len() % 32, 0);
}

#[test]
fn strings_that_are_not_utf8_keep_their_bytes() {
    let latin = b"Mod\xe8le";
    let raw = Raw::head(3, 1, 2)
        .string("general.name")
        .u32(8)
        .u64(6)
        .bytes(latin)
        .string("tokenizer.ggml.tokens")
        .u32(9)
        .u32(8)
        .u64(2)
        .u64(1)
        .bytes(&[0xe4])
        .u64(1)
        .bytes(&[0xe5]);
    let end = raw.0.len();
    let raw = raw.tensor("t", &[1], 0, 0).data(32, 4);
    let gguf = Gguf::parse(&raw.0).unwrap();
    assert_eq!(format!("{:?}", stream(&raw.0, None, 1).unwrap().0), format!("{:?}", gguf.header()));
    let metadata = &gguf.header().metadata;
    let name = metadata.str("general.name").unwrap();
    assert_eq!((&*string_bytes(name), &*readable(name)), (latin.as_slice(), "Mod\u{FFFD}le"));
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.iter().map(|token| string_bytes(token).into_owned()).collect::<Vec<_>>(), [[0xe4], [0xe5]]);
    // A copy has the same bytes.
    let info = &gguf.header().tensors[0];
    let copied = write(metadata, &[(decl(&info.name, &info.dims, 4), vec![7; 4])]);
    assert_eq!(copied[..end], raw.0[..end]);
}

#[test]
fn a_sink_that_fails_is_an_error() {
    let error = Writer::new([0u8; 10].as_mut_slice(), &Metadata::new(), vec![]).err();
    assert!(matches!(error, Some(GgufError::Write(_))));
}

// ---- round trips ----------------------------------------------------------------------------------------------------

fn value() -> impl Strategy<Value = Value> {
    let text = "\\PC{0,6}";
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        text.prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        array().prop_map(Value::Array),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    let flat = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Array::U8),
        prop::collection::vec(any::<i8>(), 0..9).prop_map(Array::I8),
        prop::collection::vec(any::<u16>(), 0..9).prop_map(Array::U16),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(Array::I16),
        prop::collection::vec(any::<u32>(), 0..9).prop_map(Array::U32),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Array::I32),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(Array::F32),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        prop::collection::vec("\\PC{0,6}", 0..9).prop_map(Array::String),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(Array::U64),
        prop::collection::vec(any::<i64>(), 0..9).prop_map(Array::I64),
        prop::collection::vec(any::<f64>(), 0..9).prop_map(Array::F64),
    ];
    flat.prop_recursive(3, 12, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Array::Array))
}

prop_compose! {
    fn contents()(
        values in prop::collection::vec(value(), 0..8),
        alignment in prop::option::of(3u32..9),
        shapes in prop::collection::vec((prop::collection::vec(1u64..5, 0..5), 1u64..80), 0..6),
    ) -> (Metadata, Vec<(TensorDecl, Vec<u8>)>) {
        let mut metadata = Metadata::new();
        if let Some(power) = alignment {
            metadata.insert(ALIGNMENT_KEY, 1u32 << power);
        }
        for (i, value) in values.into_iter().enumerate() {
            metadata.insert(format!("key.{i}"), value);
        }
        let tensors = shapes.into_iter().enumerate().map(|(i, (dims, size))| {
            let bytes = (0..size).map(|j| (j as u8) ^ (i as u8 * 16)).collect();
            (decl(&format!("tensor.{i}"), &dims, size), bytes)
        });
        (metadata, tensors.collect())
    }
}

fn write(metadata: &Metadata, tensors: &[(TensorDecl, Vec<u8>)]) -> Vec<u8> {
    let decls = tensors.iter().map(|(decl, _)| decl.clone()).collect();
    let mut writer = Writer::new(Vec::new(), metadata, decls).unwrap();
    for (i, (decl, bytes)) in tensors.iter().enumerate() {
        if i % 2 == 0 {
            writer.tensor(&decl.name, bytes).unwrap();
        } else {
            bytes.chunks(7).for_each(|piece| writer.append(piece).unwrap());
        }
    }
    writer.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read((metadata, tensors) in contents(), chunk in 1usize..200) {
        let file = write(&metadata, &tensors);
        let gguf = Gguf::parse(&file).unwrap();
        let header = gguf.header();
        // NaN differs from itself, so floats are compared as they are printed.
        prop_assert_eq!(format!("{:?}", header.metadata.iter().collect::<Vec<_>>()),
                        format!("{:?}", metadata.iter().collect::<Vec<_>>()));
        prop_assert_eq!(header.tensors.len(), tensors.len());
        for (decl, bytes) in &tensors {
            let tensor = gguf.tensor(&decl.name).unwrap();
            prop_assert_eq!((&tensor.dims, tensor.type_id), (&decl.dims, decl.type_id));
            prop_assert_eq!(tensor.offset % header.alignment, 0);
            prop_assert!(tensor.size - decl.size < header.alignment);
            let (data, padding) = gguf.data(tensor).split_at(bytes.len());
            prop_assert_eq!(data, &bytes[..]);
            prop_assert!(padding.iter().all(|&byte| byte == 0));
        }
        let whole = slice(&file).unwrap();
        for length in [None, Some(file.len() as u64)] {
            let streamed = stream(&file, length, chunk).unwrap();
            prop_assert_eq!(format!("{:?}", streamed), format!("{:?}", whole));
        }
    }
}

// ---- damaged files --------------------------------------------------------------------------------------------------

/// A file with something of everything.
fn sample() -> Vec<u8> {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    metadata.insert(ALIGNMENT_KEY, 32u32);
    metadata.insert("tokens", vec!["<s>", "a", "", "ä"]);
    metadata.insert("scores", vec![0.5f32, -1.0]);
    metadata.insert("flags", vec![true, false]);
    metadata.insert("nested", Array::Array(vec![Array::I16(vec![1, 2]), Array::Array(vec![Array::String(vec![])])]));
    metadata.insert("f64", 0.25f64);
    metadata.insert("i64", -3i64);
    let tensors = [("a", 3u64, 33u64), ("b", 2, 8), ("c", 1, 64)]
        .map(|(name, dim, size)| (decl(name, &[dim, 2], size), vec![9; size as usize]));
    write(&metadata, &tensors)
}

/// Both readers on the same bytes, at several chunk sizes: no panic, and the same outcome.
fn agree(bytes: &[u8], chunk: usize) {
    let whole = slice(bytes);
    let streamed = stream(bytes, Some(bytes.len() as u64), chunk);
    assert_eq!(format!("{whole:?}"), format!("{streamed:?}"));
    // Without the length an error may come later, and as another variant, but it comes.
    let blind = stream(bytes, None, chunk);
    assert_eq!(whole.is_ok(), blind.is_ok(), "{whole:?} against {blind:?}");
}

#[test]
fn cut_anywhere() {
    let file = sample();
    agree(&file, 13);
    for end in 0..file.len() {
        agree(&file[..end], 1 + end % 17);
    }
}

#[test]
fn every_bit_flipped() {
    let file = sample();
    let header = Gguf::parse(&file).unwrap().header().data_offset as usize;
    for bit in 0..header * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        agree(&damaged, 1 + bit % 29);
    }
}

#[test]
fn every_byte_replaced_by_extremes() {
    let file = sample();
    let header = Gguf::parse(&file).unwrap().header().data_offset as usize;
    for place in 0..header {
        for length in [1, 4, 8] {
            for byte in [0x00, 0xff, 0x7f, 0x80] {
                let mut damaged = file.clone();
                damaged[place..(place + length).min(header)].fill(byte);
                agree(&damaged, 64);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_damage(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
                     cut in any::<prop::sample::Index>(), chunk in 1usize..300) {
        let mut file = sample();
        for (place, byte) in edits {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if cut.index(4) == 0 {
            file.truncate(cut.index(file.len()));
        }
        agree(&file, chunk);
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..200), chunk in 1usize..50) {
        agree(&bytes, chunk);
        let mut with_magic = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        with_magic.extend(bytes);
        agree(&with_magic, chunk);
    }
}

// ---- real files -----------------------------------------------------------------------------------------------------

/// Needs `$STERNA_DATA_DIR`; skipping is a failure where `STERNA_REQUIRE_DATA=1`.
#[test]
fn real_files_are_read_alike_by_both_readers() {
    let Some(folder) = std::env::var_os("STERNA_DATA_DIR").map(std::path::PathBuf::from) else {
        assert_ne!(std::env::var("STERNA_REQUIRE_DATA").as_deref(), Ok("1"), "STERNA_DATA_DIR is not set");
        println!("skipped: real_files_are_read_alike_by_both_readers (STERNA_DATA_DIR is not set)");
        return;
    };
    for (name, architecture, tensors, tokens) in [
        ("stories260k/stories260K.gguf", "llama", true, 512),
        ("tokenizers/ggml-vocab-gpt-2.gguf", "gpt2", false, 50257),
        ("tokenizers/ggml-vocab-llama-spm.gguf", "llama", false, 32000),
        ("tokenizers/ggml-vocab-phi-3.gguf", "phi3", false, 32064),
    ] {
        let file = std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let whole = slice(&file).unwrap();
        for (length, chunk) in [(None, 1000), (Some(file.len() as u64), 65_537), (None, usize::MAX)] {
            assert!(stream(&file, length, chunk).unwrap() == whole, "{name}");
        }
        let header = whole.0;
        assert_eq!(header.metadata.require_str("general.architecture").unwrap(), architecture, "{name}");
        assert_eq!(header.metadata.require_strings("tokenizer.ggml.tokens").unwrap().len(), tokens, "{name}");
        assert_eq!(!header.tensors.is_empty(), tensors, "{name}");
        for (tensor, found) in header.tensors.iter().zip(sterna_core::formats::identify_all(&header)) {
            found.unwrap_or_else(|error| panic!("{name}: {}: {error}", tensor.name));
        }
    }
}
