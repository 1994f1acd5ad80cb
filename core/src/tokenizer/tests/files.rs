//! What files say otherwise than others, and how it is read.

use super::*;

#[test]
fn ids_out_of_range_are_read_as_not_given() {
    let fresh = || raw("gpt2", &[("a", 1, 0.0), ("b", 1, 0.0)]);
    let found = build(&Raw {
        bos: Some(2),
        eos: Some(u64::MAX),
        eot: Some(2),
        eom: Some(2),
        unk: Some(2),
        pad: Some(2),
        ..fresh()
    });
    assert_eq!((found.bos(), found.eos(), found.unk(), found.pad()), (None, None, None, None));
    assert!(found.end_of_generation().is_empty());
    for (warning, key) in found.warnings().iter().zip(["bos", "eos", "unknown", "eot", "eom", "padding"]) {
        assert!(warning.contains(&format!("`tokenizer.ggml.{key}_token_id`")), "{warning}");
    }
    assert_eq!(found.warnings().len(), 6);
    let framed = build(&Raw { add_bos: Some(true), add_eos: Some(true), ..fresh() });
    assert_eq!(framed.encode("a", FRAMED).unwrap(), [0]);
    assert_eq!(framed.warnings().len(), 2);
    let out = TokenizerError::IdOutOfRange { key: "eos", id: 2, last: 1 };
    assert_eq!(build(&fresh()).with_bos_eos(None, Some(2)).unwrap_err(), out);
    let named = build(&fresh()).with_bos_eos(Some(0), Some(1)).unwrap();
    assert_eq!((named.bos(), named.eos(), named.end_of_generation()), (Some(0), Some(1), [1].as_slice()));
    // SentencePiece's own ids go without saying, where the vocabulary has them, and stand in for wrong ones.
    let two = raw("llama", &[("a", 1, 0.0), ("b", 1, 0.0)]);
    let tiny = build(&Raw { bos: Some(7), ..two });
    assert_eq!((tiny.bos(), tiny.eos(), tiny.unk()), (Some(1), None, Some(0)));
    assert!(tiny.warnings()[0].contains("is 7") && tiny.warnings()[0].contains("it is 1"), "{:?}", tiny.warnings());
}

#[test]
fn tokens_without_a_row_are_padding() {
    let tokens = [("a", 1, 0.0), ("b", 1, 0.0), ("[PAD]", 3, 0.0), ("[PAD3]", 4, 0.0)];
    let padded = build(&Raw { rows: Some(2), pad: Some(2), ..raw("gpt2", &tokens) });
    assert_eq!((padded.vocab_size(), padded.pad()), (4, None));
    assert!(padded.warnings()[0].contains("\"[PAD]\""), "{:?}", padded.warnings());
    // They are no tokens for any text, here one with bytes that are unknown.
    assert!(matches!(padded.encode("[PAD]", PARSE), Err(TokenizerError::Unencodable { .. })));
    assert_eq!(build(&Raw { rows: Some(9), ..raw("gpt2", &tokens) }).encode("[PAD]", PARSE).unwrap(), [2]);
}

#[test]
fn what_is_written_there_is_not_added_again() {
    let extra = [("<s>", 3), ("</s>", 3)];
    let raw = Raw {
        bos: Some(256),
        eos: Some(257),
        add_bos: Some(true),
        add_eos: Some(true),
        ..byte_level("gpt-2", &extra, &[])
    };
    let tokenizer = build(&raw);
    let letter = tokenizer.id("a").unwrap();
    for text in ["a", "<s>a", "a</s>", "<s>a</s>"] {
        assert_eq!(tokenizer.encode(text, FRAMED).unwrap(), [256, letter, 257], "{text}");
    }
    assert_eq!(tokenizer.encode("<s></s>", FRAMED).unwrap(), [256, 257]);
    // Typed twice, it is there twice; as plain text it is no token, and what was asked for is added.
    assert_eq!(tokenizer.encode("<s><s>a", FRAMED).unwrap(), [256, 256, letter, 257]);
    let plain = tokenizer.encode("<s>a", EncodeOptions { add_special: true, parse_special: false }).unwrap();
    assert_eq!((plain[0], plain.len()), (256, 6));
    assert_eq!(tokenizer.encode("<s>a", PARSE).unwrap(), [256, letter]);
}

#[test]
fn tokens_that_mark_a_gap_are_text_in_plain_text() {
    let extra = [("<|fim_prefix|>", 4), ("<fim_suffix>", 4), ("▁<MID>", 4), ("<tool>", 4)];
    let tokenizer = build(&byte_level("gpt-2", &extra, &[]));
    let text = "<|fim_prefix|><fim_suffix><tool>";
    assert_eq!(tokenizer.encode(text, PARSE).unwrap(), [256, 257, 259]);
    let plain = tokenizer.encode(text, PLAIN).unwrap();
    assert_eq!((plain.len(), plain.last()), (text.len() - "<tool>".len() + 1, Some(&259)));
    assert!(tokenizer.is_special(256) && tokenizer.is_special(258) && !tokenizer.is_special(259));
    assert_eq!(tokenizer.decode(&plain, true), text);
}

#[test]
fn the_qwen_families_read_nfc() {
    let composed = "caf\u{e9} \u{c5} \u{ac01}";
    let decomposed = "cafe\u{301} \u{212b} \u{1100}\u{1161}\u{11a8}";
    let tokenizer = |pre, nfc| build(&Raw { nfc, ..byte_level(pre, &[("ab", 1)], &["a b"]) });
    let both = |tokenizer: &Tokenizer| [composed, decomposed].map(|text| tokenizer.encode(text, PLAIN).unwrap());
    for (pre, nfc) in [("qwen2", None), ("qwen35", Some(true)), ("gpt-2", Some(true))] {
        let tokenizer = tokenizer(pre, nfc);
        let [ids, same] = both(&tokenizer);
        assert_eq!(ids, same, "{pre}");
        assert_eq!(tokenizer.decode(&ids, true), composed);
    }
    for (pre, nfc) in [("qwen2", Some(false)), ("qwen35", None), ("deepseek-r1-qwen", None), ("llama-bpe", None)] {
        let tokenizer = tokenizer(pre, nfc);
        let [composed, decomposed] = both(&tokenizer);
        assert_ne!(composed, decomposed, "{pre}");
    }
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.tokens", vec!["a"]);
    metadata.insert(NFC_KEY, true);
    assert!(Tokenizer::from_metadata(&metadata).unwrap().vocab.nfc);
}

#[test]
fn a_byte_level_text_begins_with_a_space_where_the_file_says_so() {
    let mut raw = byte_level("gpt-2", &[("Ġa", 1), ("<|x|>", 3)], &["Ġ a"]);
    raw.add_space_prefix = Some(true);
    let tokenizer = build(&raw);
    for (text, expected) in [("a", &[256][..]), (" a", &[256]), ("a<|x|>a", &[256, 257, 256])] {
        assert_eq!(tokenizer.encode(text, PARSE).unwrap(), expected, "{text:?}");
    }
    assert_eq!(tokenizer.decode(&[256, 257, 256], false), "a<|x|>a");
}

#[test]
fn few_names_spell_words_as_they_are() {
    let tokens =
        [("▁", 1), ("a", 1), ("é", 1), ("▁a", 1), ("\n", 1), ("\n\n", 1), ("<0xE4>", 6), ("<0xBD>", 6), ("<0xA0>", 6)];
    let tokens = tokens.map(|(text, kind)| (text, kind, 0.0));
    let raw = Raw { pre: Some("gemma4".into()), merges: Some(strings(&["▁ a"])), ..raw("gpt2", &tokens) };
    let tokenizer = build(&raw);
    let encode = |text| texts(&tokenizer, &tokenizer.encode(text, PLAIN).unwrap());
    assert_eq!(encode("a a é"), ["a", "▁a", "▁", "é"]);
    assert_eq!(encode("a\n\na\n"), ["a", "\n\n", "a", "\n"]);
    assert_eq!(encode("a你"), ["a", "<0xE4>", "<0xBD>", "<0xA0>"]);
    assert_eq!(tokenizer.decode(&tokenizer.encode(" a你\n\n", PLAIN).unwrap(), true), " a你\n\n");
    assert!(matches!(tokenizer.encode("ü", PLAIN), Err(TokenizerError::Unencodable { .. })));
}

#[test]
fn arrays_may_be_longer_than_the_tokens() {
    let mut long = raw("llama", &[("a", 1, 0.0), ("b", 1, 0.0)]);
    long.scores = Some(vec![0.0, 1.0, f32::NAN].into());
    long.types = Some(vec![1, 1, 99].into());
    let tokenizer = build(&long);
    assert!(tokenizer.warnings().iter().all(|warning| warning.contains("the last 1 are not read")));
    assert_eq!(tokenizer.warnings().len(), 2);
}

/// A GGUF may hold tokens that are parts of characters; they are written in bytes.
#[test]
fn tokens_that_are_not_utf8_are_bytes() {
    let mut file = b"GGUF".to_vec();
    let text = |file: &mut Vec<u8>, bytes: &[u8]| {
        file.extend((bytes.len() as u64).to_le_bytes());
        file.extend(bytes);
    };
    file.extend(3u32.to_le_bytes());
    file.extend([0u64, 2].iter().flat_map(|n| n.to_le_bytes()));
    text(&mut file, b"tokenizer.ggml.model");
    file.extend(8u32.to_le_bytes());
    text(&mut file, b"llama");
    text(&mut file, b"tokenizer.ggml.tokens");
    file.extend([9u32, 8].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(5u64.to_le_bytes());
    for token in [&b"<unk>"[..], b"\xe2\x96\x81a", b"\xe4\xbd", b"\xa0", b"\xff"] {
        text(&mut file, token);
    }
    let tokenizer = Tokenizer::from_metadata(&crate::gguf::Gguf::parse(&file).unwrap().header().metadata).unwrap();
    assert_eq!(tokenizer.decode(&[1, 2, 3, 1], true), "a\u{4f60} a");
    assert_eq!(tokenizer.decode(&[4], true), "\u{FFFD}");
    let mut stream = tokenizer.stream();
    assert_eq!((stream.push(2), stream.push(3)), (String::new(), "\u{4f60}".to_owned()));
}
