//! Small vocabularies made here, and every way that one can be malformed.

mod files;

use super::*;
use std::borrow::Cow;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FRAMED: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn strings(texts: &[&str]) -> Cow<'static, [String]> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A vocabulary in the making: texts with type and score.
fn raw(model: &'static str, tokens: &[(&str, i32, f32)]) -> Raw<'static> {
    Raw {
        model: model.into(),
        tokens: tokens.iter().map(|token| token.0.to_owned()).collect(),
        types: Some(tokens.iter().map(|token| token.1).collect()),
        scores: Some(tokens.iter().map(|token| token.2).collect()),
        ..Raw::default()
    }
}

fn build(raw: &Raw) -> Tokenizer {
    Tokenizer::from_raw(raw).unwrap()
}

fn error(raw: &Raw) -> TokenizerError {
    Tokenizer::from_raw(raw).unwrap_err()
}

/// `<unk> <s> </s>`, all byte tokens, then `extra`.
fn sentence_piece(extra: &[(&str, i32, f32)]) -> Raw<'static> {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec![("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)];
    tokens.extend(bytes.iter().map(|text| (text.as_str(), 6, 0.0)));
    tokens.extend_from_slice(extra);
    raw("llama", &tokens)
}

/// All 256 bytes as the byte-level alphabet, then `extra`; no scores, as in real files.
fn byte_level(pre: &'static str, extra: &[(&str, i32)], merges: &[&str]) -> Raw<'static> {
    let bytes: Vec<String> = (0..=255).map(|byte| bytes::char_of(byte).to_string()).collect();
    let mut tokens: Vec<(&str, i32, f32)> = bytes.iter().map(|text| (text.as_str(), 1, 0.0)).collect();
    tokens.extend(extra.iter().map(|&(text, kind)| (text, kind, 0.0)));
    Raw { pre: Some(pre.into()), merges: Some(strings(merges)), scores: None, ..raw("gpt2", &tokens) }
}

fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| tokenizer.text(id).unwrap().to_owned()).collect()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream().show_special(true);
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

#[test]
fn sentence_piece_joins_by_score_then_from_the_left() {
    let tokenizer = build(&sentence_piece(&[
        ("a", 1, -9.0),
        ("b", 1, -9.0),
        ("ab", 1, -2.0),
        ("ba", 1, -1.0),
        ("aa", 1, -3.0),
        ("▁", 1, -9.0),
    ]));
    let encode = |text| texts(&tokenizer, &tokenizer.encode(text, PLAIN).unwrap());
    // "ba" scores best, although "ab" starts earlier.
    assert_eq!(encode("aba"), ["▁", "a", "ba"]);
    // Equal scores: the leftmost pair.
    assert_eq!(encode("aaa"), ["▁", "aa", "a"]);
    assert_eq!(encode(""), [""; 0]);
}

#[test]
fn sentence_piece_joins_characters_that_are_no_tokens() {
    // Neither U+E9 nor its neighbour is a token, their join is; a list of merges could not say so.
    let tokenizer = build(&sentence_piece(&[("éx", 1, -1.0), ("▁", 1, -2.0)]));
    let encode = |text| texts(&tokenizer, &tokenizer.encode(text, PLAIN).unwrap());
    assert_eq!(encode("éx"), ["▁", "éx"]);
    assert_eq!(encode("é"), ["▁", "<0xC3>", "<0xA9>"]);
}

#[test]
fn sentence_piece_is_the_same_whether_words_are_cut_or_not() {
    // The second vocabulary has a token with a space inside, so that the text is merged in one go.
    let words = [("a", 1, -4.0), ("▁", 1, -4.0), ("▁a", 1, -1.0), ("aa", 1, -2.0), ("▁▁", 1, -3.0)];
    let cut = build(&sentence_piece(&words));
    let whole = build(&sentence_piece(&[words.as_slice(), &[("zz▁zz", 1, -5.0)]].concat()));
    for text in ["aa  a a", "   ", "a", " aaa    aa ", "a\n a"] {
        let ids = cut.encode(text, PLAIN).unwrap();
        assert_eq!(ids, whole.encode(text, PLAIN).unwrap(), "{text:?}");
        assert_eq!(cut.decode(&ids, true), text);
    }
}

#[test]
fn space_prefix_goes_where_text_starts() {
    let extra = [("▁", 1, -1.0), ("a", 1, -2.0), ("▁a", 1, -0.5), ("<|x|>", 3, 0.0)];
    let mut raw = sentence_piece(&extra);
    let tokenizer = build(&raw);
    let encode = |text, options| texts(&tokenizer, &tokenizer.encode(text, options).unwrap());
    assert_eq!(encode("a<|x|>a a", PARSE), ["▁a", "<|x|>", "▁a", "▁a"]);
    assert_eq!(encode("a", FRAMED), ["<s>", "▁a"]);
    assert_eq!(encode(" a", PLAIN), ["▁", "▁a"]);
    for text in ["a<|x|>a a", " a", "a", "<|x|> a"] {
        let ids = tokenizer.encode(text, FRAMED).unwrap();
        assert_eq!(tokenizer.decode(&ids[1..], false), text);
    }
    // A continuation keeps its space, a beginning does not.
    let a = tokenizer.id("▁a").unwrap();
    assert_eq!(tokenizer.stream().push(a), "a");
    assert_eq!(tokenizer.stream().after(&[1, a]).push(a), " a");
    assert_eq!(tokenizer.stream().after(&[1]).push(a), "a");

    raw.add_space_prefix = Some(false);
    let bare = build(&raw);
    assert_eq!(texts(&bare, &bare.encode("a a", PLAIN).unwrap()), ["a", "▁a"]);
    assert_eq!(bare.decode(&[a], true), " a");
}

#[test]
fn extra_whitespace_goes_when_the_file_says_so() {
    let mut raw = sentence_piece(&[("▁", 1, -2.0), ("a", 1, -2.0), ("▁a", 1, -1.0)]);
    raw.remove_extra_whitespaces = Some(true);
    let tokenizer = build(&raw);
    assert_eq!(texts(&tokenizer, &tokenizer.encode("  a   a ", PLAIN).unwrap()), ["▁a", "▁a"]);
}

#[test]
fn a_character_without_bytes_is_one_unknown_or_an_error() {
    let tokens = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0), ("▁", 1, 0.0), ("a", 1, 0.0)];
    let tokenizer = build(&raw("llama", &tokens));
    assert_eq!(tokenizer.encode("aé", PLAIN).unwrap(), [3, 4, 0]);
    let tokenizer = build(&raw("gpt2", &[("a", 1, 0.0), ("b", 1, 0.0)]));
    assert_eq!(tokenizer.encode("abé", PLAIN), Err(TokenizerError::Unencodable { character: "é".to_owned() }));
}

#[test]
fn byte_level_merges_by_rank_within_words() {
    let extra = [("ab", 1), ("bc", 1), ("abc", 1), ("Ġa", 1)];
    let tokenizer = build(&byte_level("gpt-2", &extra, &["b c", "a b", "a bc", "Ġ a"]));
    let encode = |text| texts(&tokenizer, &tokenizer.encode(text, PLAIN).unwrap());
    assert_eq!(encode("abc ab"), ["abc", "Ġ", "ab"]);
    assert_eq!(encode("abc a"), ["abc", "Ġa"]);
    assert!(tokenizer.warnings().is_empty(), "{:?}", tokenizer.warnings());
    for text in ["abc ab", "é🙂\u{0}", " \n\n a"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, PLAIN).unwrap(), true), text);
    }
}

#[test]
fn whole_words_ignore_merges_where_the_name_says_so() {
    // "abc" cannot be reached by merges; llama-bpe takes it whole, gpt-2 does not.
    let (extra, merges) = ([("ab", 1), ("abc", 1), ("<|bos|>", 3)], ["a b"]);
    let llama = build(&Raw { bos: Some(258), ..byte_level("llama-bpe", &extra, &merges) });
    assert_eq!(texts(&llama, &llama.encode("abc", PLAIN).unwrap()), ["abc"]);
    // ... and begins texts with bos, unless told otherwise.
    assert_eq!(llama.encode("abc", FRAMED).unwrap(), [258, 257]);
    let told = build(&Raw { bos: Some(258), add_bos: Some(false), ..byte_level("llama-bpe", &extra, &merges) });
    assert_eq!(told.encode("abc", FRAMED).unwrap(), [257]);
    let gpt2 = build(&byte_level("gpt-2", &extra, &merges));
    assert_eq!(texts(&gpt2, &gpt2.encode("abc", PLAIN).unwrap()), ["ab", "c"]);
}

#[test]
fn character_vocabularies_need_no_merges() {
    let tokens = [("Ċ", 1, 0.0), ("Ġ", 1, 0.0), ("!", 1, 0.0), ("a", 1, 0.0), ("b", 1, 0.0)];
    for merges in [None, Some(strings(&[]))] {
        for pre in [None, Some("gpt-2".into()), Some("nothing-known".into())] {
            let tokenizer = build(&Raw { merges: merges.clone(), pre, ..raw("gpt2", &tokens) });
            assert!(tokenizer.warnings().is_empty(), "{:?}", tokenizer.warnings());
            let ids = tokenizer.encode("ab ba!\n\n", FRAMED).unwrap();
            assert_eq!(ids, [3, 4, 1, 4, 3, 2, 0, 0]);
            assert_eq!(tokenizer.decode(&ids, true), "ab ba!\n\n");
            assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
        }
    }
    let idle = build(&Raw { merges: None, ..raw("gpt2", &[("a", 1, 0.0), ("aa", 1, 0.0)]) });
    assert!(idle.warnings()[0].contains("1 longer token"), "{:?}", idle.warnings());
}

#[test]
fn a_missing_byte_is_not_merged_across() {
    let tokens = [("a", 1, 0.0), ("b", 1, 0.0), ("ab", 1, 0.0), ("<unk>", 2, 0.0)];
    let raw = Raw { merges: Some(strings(&["a b"])), pre: Some("gpt-2".into()), unk: Some(3), ..raw("gpt2", &tokens) };
    assert_eq!(build(&raw).encode("abaxb", PLAIN).unwrap(), [2, 0, 3, 1]);
}

#[test]
fn unknown_pre_tokenizers_are_named_with_what_is_known() {
    let tokenizer = build(&byte_level("brand-new", &[("ab", 1)], &["a b"]));
    let [warning] = tokenizer.warnings() else { panic!("{:?}", tokenizer.warnings()) };
    assert!(warning.contains("`brand-new`") && warning.contains("llama-bpe") && warning.contains("qwen2"));
    let tokenizer = build(&Raw { pre: None, ..byte_level("", &[("ab", 1)], &["a b"]) });
    assert!(tokenizer.warnings()[0].contains("no tokenizer.ggml.pre"));
}

#[test]
fn special_tokens_by_kind() {
    let extra = [("<|im_end|>", 3), ("<tool>", 4), ("<|im|>", 3), ("<spare>", 5)];
    let tokenizer = build(&byte_level("gpt-2", &extra, &[]));
    let [end, tool] = ["<|im_end|>", "<tool>"].map(|text| tokenizer.id(text).unwrap());
    let ids = tokenizer.encode("x<tool><|im_end|>", PARSE).unwrap();
    assert_eq!(ids[1..], [tool, end]);
    // Typed by a user, control tokens are text; user-defined ones are always themselves.
    let ids = tokenizer.encode("x<tool><|im_end|>", PLAIN).unwrap();
    assert_eq!(ids[1], tool);
    assert_eq!(ids.len(), 2 + "<|im_end|>".len());
    assert_eq!(tokenizer.decode(&ids, true), "x<tool><|im_end|>");
    assert_eq!(tokenizer.decode(&[tool, end], true), "<tool>");
    assert_eq!(tokenizer.decode(&[tool, end], false), "<tool><|im_end|>");
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(tool));
    assert_eq!(tokenizer.end_of_generation(), [end]);
    assert!(!tokenizer.is_special(u32::MAX) && !tokenizer.is_end_of_generation(u32::MAX));
}

#[test]
fn the_longest_special_token_wins() {
    let tokenizer = build(&byte_level("gpt-2", &[("<a", 4), ("<a>", 4), ("  ", 4), ("    ", 4)], &[]));
    let encode = |text| texts(&tokenizer, &tokenizer.encode(text, PLAIN).unwrap());
    assert_eq!(encode("<a><a"), ["<a>", "<a"]);
    assert_eq!(encode("      x"), ["    ", "  ", "x"]);
}

#[test]
fn generation_ends() {
    // By text wherever the token is special, also when the file calls it user-defined; never as plain text.
    let extra = [("<|end|>", 4), ("<|eot_id|>", 3), ("</s>", 1), ("<|other|>", 3), ("stop", 3)];
    let tokenizer = build(&Raw { eot: Some(260), ..byte_level("gpt-2", &extra, &[]) });
    let ends: Vec<&str> = tokenizer.end_of_generation().iter().filter_map(|&id| tokenizer.text(id)).collect();
    assert_eq!(ends, ["<|end|>", "<|eot_id|>", "stop"]);
    assert!(tokenizer.is_special(tokenizer.id("<|end|>").unwrap()));
    // Channels: <|end|> closes a part of a message that <|return|> or <|call|> ends.
    let tokenizer = build(&byte_level("gpt-2", &[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)], &[]));
    assert_eq!(tokenizer.end_of_generation(), [257, 258]);
}

#[test]
fn without_types_the_named_ids_are_control_tokens() {
    let mut raw = byte_level("gpt-2", &[("[END]", 1)], &[]);
    raw.types = None;
    raw.eos = Some(256);
    let tokenizer = build(&raw);
    assert!(tokenizer.is_special(256) && tokenizer.is_end_of_generation(256));
    assert_eq!(tokenizer.encode("[END]", PARSE).unwrap(), [256]);
}

#[test]
fn streams_never_split_a_character() {
    let spm = build(&sentence_piece(&[("▁", 1, -1.0), ("é", 1, -1.0)]));
    let bpe = build(&byte_level("gpt-2", &[("ðŁ", 1)], &["ð Ł"]));
    let text = "é 🙂 日本\u{301}語\u{10FFFF}!";
    for tokenizer in [&spm, &bpe] {
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        let mut stream = tokenizer.stream();
        let mut all = String::new();
        for &id in &ids {
            let piece = stream.push(id);
            assert!(!piece.contains('\u{FFFD}'), "{piece:?}");
            all.push_str(&piece);
        }
        assert_eq!(stream.finish(), "");
        assert_eq!(all, text);
        // Any cut of the ids, and any order, reads as the whole of it.
        for start in 0..ids.len() {
            let mut part = ids[start..].to_vec();
            assert_eq!(streamed(tokenizer, &part), tokenizer.decode(&part, false));
            part.reverse();
            assert_eq!(streamed(tokenizer, &part), tokenizer.decode(&part, false));
        }
    }
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    let tokenizer = build(&sentence_piece(&[]));
    let byte = |byte: u8| 3 + u32::from(byte);
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(byte(0xF0)), "");
    assert_eq!(stream.push(byte(0x9F)), "");
    // A letter cannot continue it: what was held back is broken for good.
    assert_eq!(stream.push(byte(b'a')), "\u{FFFD}a");
    assert_eq!(stream.push(byte(0xFF)), "\u{FFFD}");
    assert_eq!(stream.push(byte(0xE2)), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.finish(), "");
    // An id that is no token does not swallow what is held back.
    assert_eq!(stream.push(byte(0xE2)), "");
    assert_eq!(stream.push(9999), "\u{FFFD}\u{FFFD}");
    assert_eq!(tokenizer.decode(&[byte(0xF0), byte(0x9F), byte(b'a')], true), "\u{FFFD}a");
}

#[test]
fn phi3_strips_after_special_tokens() {
    let extra = [("▁", 1, -1.0), ("a", 1, -2.0), ("▁a", 1, -0.5), ("<|end|>", 3, 0.0), ("<|endoftext|>", 3, 0.0)];
    let named = |name: &'static str| build(&Raw { name: Some(name.into()), ..sentence_piece(&extra) });
    let encode = |tokenizer: &Tokenizer, text| texts(tokenizer, &tokenizer.encode(text, PARSE).unwrap());
    let phi = named("My Phi-3 mini");
    assert_eq!(encode(&phi, "<|end|> \n\ta<|end|>\n"), ["<|end|>", "▁a", "<|end|>"]);
    assert_eq!(encode(&phi, "<|endoftext|> a"), ["<|endoftext|>", "▁", "▁a"]);
    let other = named("other");
    assert_eq!(encode(&other, "<|end|> a"), ["<|end|>", "▁", "▁a"]);
}

#[test]
fn empty_texts_are_no_tokens() {
    let tokenizer = build(&raw("gpt2", &[("a", 1, 0.0), ("", 1, 0.0), ("", 4, 0.0), ("", 3, 0.0)]));
    assert_eq!(tokenizer.encode("aa", PARSE).unwrap(), [0, 0]);
    assert_eq!(tokenizer.decode(&[0, 1, 2, 3], false), "a");
    assert_eq!(tokenizer.id(""), None);
}

#[test]
fn minus_one_means_none() {
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2".to_owned());
    metadata.insert("tokenizer.ggml.tokens", vec!["a".to_owned()]);
    metadata.insert("tokenizer.ggml.eos_token_id", -1i32);
    metadata.insert("tokenizer.ggml.padding_token_id", u32::MAX);
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.pad()), (None, None));
    assert!(tokenizer.warnings().is_empty(), "{:?}", tokenizer.warnings());
}

#[test]
fn malformed_keys() {
    let mut metadata = Metadata::new();
    let build = |metadata: &Metadata| Tokenizer::from_metadata(metadata).unwrap_err();
    assert_eq!(build(&metadata), TokenizerError::MissingKey { key: "tokenizer.ggml.model" });
    metadata.insert("tokenizer.ggml.model", "gpt2".to_owned());
    assert_eq!(build(&metadata), TokenizerError::MissingKey { key: "tokenizer.ggml.tokens" });
    metadata.insert("tokenizer.ggml.tokens", 7u32);
    let wrong = |key, expected| TokenizerError::WrongType { key, expected };
    assert_eq!(build(&metadata), wrong("tokenizer.ggml.tokens", "an array of strings"));
    metadata.insert("tokenizer.ggml.tokens", vec!["a".to_owned()]);
    metadata.insert("tokenizer.ggml.bos_token_id", "1".to_owned());
    assert_eq!(build(&metadata), wrong("tokenizer.ggml.bos_token_id", "a token id"));
    metadata.insert("tokenizer.ggml.bos_token_id", 0u32);
    metadata.insert("tokenizer.ggml.scores", vec![0.5f32]);
    metadata.insert("tokenizer.ggml.token_type", vec![0.5f32]);
    assert_eq!(build(&metadata), wrong("tokenizer.ggml.token_type", "an array of integers"));
    metadata.insert("tokenizer.ggml.token_type", vec![1i32]);
    assert_eq!(Tokenizer::from_metadata(&metadata).unwrap().bos(), Some(0));
}

#[test]
fn malformed_vocabularies() {
    assert_eq!(error(&raw("bert", &[("a", 1, 0.0)])), TokenizerError::UnsupportedModel { name: "bert".to_owned() });
    assert_eq!(error(&raw("gpt2", &[])), TokenizerError::EmptyVocabulary);

    let mut lengths = raw("llama", &[("a", 1, 0.0), ("b", 1, 0.0)]);
    lengths.scores = Some(vec![0.0].into());
    let mismatch = |key, found| TokenizerError::LengthMismatch { key, found, tokens: 2 };
    assert_eq!(error(&lengths), mismatch("tokenizer.ggml.scores", 1));
    lengths.types = Some(vec![1].into());
    assert_eq!(error(&lengths), mismatch("tokenizer.ggml.token_type", 1));

    let twice = TokenizerError::DuplicateToken { text: "a".to_owned(), first: 0, second: 2 };
    for model in ["gpt2", "llama"] {
        assert_eq!(error(&raw(model, &[("a", 1, 0.0), ("b", 1, 0.0), ("a", 1, 0.0)])), twice);
    }
    assert_eq!(error(&raw("llama", &[("a", 1, 0.0), ("b", 1, f32::NAN)])), TokenizerError::NanScore { id: 1 });
    let byte = TokenizerError::MalformedByteToken { id: 1, text: "<0xZZ>".to_owned() };
    assert_eq!(error(&raw("llama", &[("a", 1, 0.0), ("<0xZZ>", 6, 0.0)])), byte);
    // Infinite scores have an order.
    build(&raw("llama", &[("a", 1, f32::INFINITY), ("b", 1, f32::NEG_INFINITY)]));
    let strange = build(&raw("gpt2", &[("a", 77, 0.0)]));
    assert!(strange.warnings()[0].contains("77"));
}

#[test]
fn malformed_merges() {
    let with = |merge: &str| byte_level("gpt-2", &[("ab", 1), ("Ġa", 1)], &["a b", merge]);
    for merge in ["", "ab", " ", "a ", " b", "a"] {
        let expected = TokenizerError::MalformedMerge { index: 1, text: merge.to_owned() };
        assert_eq!(error(&with(merge)), expected, "{merge:?}");
    }
    for (merge, missing) in [("ab ba", "ba"), ("zz a", "zz"), ("ab a", "aba"), ("a b c", "b c"), ("é a", "éa")] {
        let (merge, missing) = (merge.to_owned(), missing.to_owned());
        assert_eq!(error(&with(&merge)), TokenizerError::MergeOfUnknownToken { index: 1, merge, missing });
    }
}

#[test]
fn of_equal_merges_the_first_counts() {
    let extra = [("ab", 1), ("bc", 1)];
    let tokenizer = build(&byte_level("gpt-2", &extra, &["a b", "b c", "a b"]));
    assert_eq!(texts(&tokenizer, &tokenizer.encode("abc", PLAIN).unwrap()), ["ab", "c"]);
}

fn json(decoder: &str, vocab: &str, merges: &str) -> Vec<u8> {
    format!(
        r#"{{"version": "1.0", "truncation": {{"direction": "Right", "max_length": 2, "strategy": "LongestFirst",
        "stride": 0}}, "padding": null, "added_tokens": [{{"id": 3, "content": "<|end|>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}}], "normalizer": null,
        "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
        "post_processor": null, "decoder": {decoder}, "model": {{"type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "vocab": {vocab}, "merges": {merges}}}}}"#
    )
    .into_bytes()
}

const BYTE_LEVEL: &str = r#"{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}"#;
const AB: &str = r#"{"a": 0, "b": 1, "ab": 2}"#;

#[test]
fn json_encodes_whole_texts_and_knows_special_tokens() {
    let tokenizer = Tokenizer::from_json(&json(BYTE_LEVEL, AB, r#"["a b"]"#)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 4);
    // The file's truncation to two tokens is for training.
    assert_eq!(tokenizer.encode("abbab<|end|>", PARSE).unwrap(), [2, 1, 2, 3]);
    assert_eq!(tokenizer.encode("ab<|end|>", PLAIN).unwrap(), [2]);
    assert_eq!(tokenizer.decode(&[2, 3, 1], true), "abb");
    assert!(tokenizer.is_end_of_generation(3) && tokenizer.is_special(3));
    assert_eq!((tokenizer.id("ab"), tokenizer.text(1)), (Some(2), Some("b")));
}

#[test]
fn json_decoders() {
    let spaced = r#"{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;
    let vocab = r#"{"a": 0, "▁a": 1, "<0xC3>": 2, "<0xA9>": 3}"#;
    let tokenizer = Tokenizer::from_json(&json(spaced, vocab, "[]")).unwrap();
    assert_eq!(tokenizer.decode(&[1, 1, 2, 3, 0], true), "a aéa");
    let metaspace = r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false}"#;
    let tokenizer = Tokenizer::from_json(&json(metaspace, vocab, "[]")).unwrap();
    assert_eq!(tokenizer.decode(&[1, 2], true), " a<0xC3>");
}

#[test]
fn malformed_json() {
    let of = |decoder, vocab, merges| Tokenizer::from_json(&json(decoder, vocab, merges)).unwrap_err();
    assert!(matches!(Tokenizer::from_json(b"{").unwrap_err(), TokenizerError::Json { .. }));
    assert!(matches!(Tokenizer::from_json(b"[1]").unwrap_err(), TokenizerError::UnsupportedDecoder { .. }));
    let none = TokenizerError::UnsupportedDecoder { found: "no decoder".to_owned() };
    assert_eq!(of("null", AB, "[]"), none);
    let word_piece = TokenizerError::UnsupportedDecoder { found: "`WordPiece`".to_owned() };
    assert_eq!(of(r#"{"type": "WordPiece", "prefix": "x", "cleanup": true}"#, AB, "[]"), word_piece);
    assert!(matches!(of(BYTE_LEVEL, r#"{"a": -1}"#, "[]"), TokenizerError::Json { .. }));
    let far = TokenizerError::TooManyTokens { found: 4_000_000_001, limit: vocab::MAX_TOKENS };
    assert_eq!(of(BYTE_LEVEL, r#"{"a": 4000000000}"#, "[]"), far);
    // The crate numbers the added token after the three others.
    let same = TokenizerError::DuplicateId { id: 3, texts: ["<|end|>".to_owned(), "ab".to_owned()] };
    assert_eq!(of(BYTE_LEVEL, r#"{"a": 0, "b": 1, "ab": 3}"#, "[]"), same);
    // Joined, these are longer than any token: the crate's builder would index past its buffer.
    for merges in [r#"["ab ab"]"#, r#"[["ab", "ab"]]"#] {
        assert!(matches!(of(BYTE_LEVEL, AB, merges), TokenizerError::MergeOfUnknownToken { index: 0, .. }));
    }
    for merges in [r#"["ab"]"#, r#"[["a"]]"#, "[1]", r#"["a "]"#] {
        assert!(matches!(of(BYTE_LEVEL, AB, merges), TokenizerError::MalformedMerge { index: 0, .. }), "{merges}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

    /// Any metadata gives a tokenizer or an error, and a tokenizer takes any text and any ids.
    #[test]
    fn nothing_panics(
        tokens in proptest::collection::vec("(<0x[0-9A-G]{2}>|[ab▁Ġ ]{0,3}|</s>|<\\|end\\|>)", 0..12),
        types in proptest::option::of(proptest::collection::vec(-1i32..8, 0..12)),
        scores in proptest::option::of(proptest::collection::vec(proptest::num::f32::ANY, 0..12)),
        merges in proptest::option::of(proptest::collection::vec("[ab▁Ġ]{0,2} ?[abĠ ]{0,2}", 0..4)),
        model in "(gpt2|llama)",
        pre in proptest::option::of("(gpt-2|llama-bpe|default|what)"),
        ids in proptest::collection::vec(proptest::option::of(0u64..14), 6),
        flags in proptest::collection::vec(proptest::option::of(proptest::bool::ANY), 4),
        text in "([ab▁Ġ é🙂\n]|</s>|<\\|end\\|>){0,12}",
        decoded in proptest::collection::vec(0u32..14, 0..12),
    ) {
        // Half of the time the arrays fit, so that more than the length checks are reached.
        let fit = text.len() % 2 == 0;
        let types = types.map(|mut t: Vec<i32>| { if fit { t.resize(tokens.len(), 1) }; t });
        let scores = scores.map(|mut s: Vec<f32>| { if fit { s.resize(tokens.len(), 0.0) }; s });
        let mut unique = std::collections::HashSet::new();
        let tokens: Vec<String> = tokens.into_iter().filter(|t: &String| !fit || unique.insert(t.clone())).collect();
        let raw = Raw {
            model: model.into(),
            pre: pre.map(Cow::from),
            tokens: tokens.clone().into(),
            types: types.map(|mut t| { if fit { t.truncate(tokens.len()) }; t.into() }),
            scores: scores.map(|mut s| { if fit { s.truncate(tokens.len()) }; s.into() }),
            merges: merges.map(Cow::from),
            bos: ids[0], eos: ids[1], eot: ids[2], eom: ids[3], unk: ids[4], pad: ids[5],
            add_bos: flags[0], add_eos: flags[1], add_space_prefix: flags[2], remove_extra_whitespaces: flags[3],
            ..Raw::default()
        };
        if let Ok(tokenizer) = Tokenizer::from_raw(&raw) {
            for options in [PLAIN, PARSE, FRAMED] {
                if let Ok(ids) = tokenizer.encode(&text, options) {
                    proptest::prop_assert!(ids.iter().all(|&id| tokenizer.text(id).is_some()));
                }
            }
            proptest::prop_assert_eq!(streamed(&tokenizer, &decoded), tokenizer.decode(&decoded, false));
        }
    }
}
