//! Each kind of vocabulary: what it holds, that texts come back, and that others read it the same way.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const CHARACTERS: TokenizerChoice = TokenizerChoice::Characters;
const BPE_512: TokenizerChoice = TokenizerChoice::Bpe { vocabulary: 512 };

fn built(choice: TokenizerChoice, text: &str) -> TextTokenizer {
    TextTokenizer::build(choice, text, None).unwrap_or_else(|error| panic!("{choice} from {text:?}: {error:#}"))
}

/// The folder of real data; without it the test is skipped, or fails where `STERNA_REQUIRE_DATA=1`.
fn data_dir(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("STERNA_DATA_DIR").map(PathBuf::from);
    if folder.is_none() {
        assert_ne!(std::env::var("STERNA_REQUIRE_DATA").as_deref(), Ok("1"), "STERNA_DATA_DIR is not set");
        println!("skipped: needs {name} from STERNA_DATA_DIR");
    }
    folder
}

/// The first nine tenths of the characters and the rest.
fn split(text: &str) -> (&str, &str) {
    let at = text.char_indices().nth(text.chars().count() * 9 / 10).map_or(text.len(), |(at, _)| at);
    text.split_at(at)
}

/// What a reader of the GGUF makes of `text`.
fn through_a_file(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
    let mut metadata = Metadata::new();
    tokenizer.metadata(&mut metadata);
    let mut file = sterna_core::gguf::Writer::new(Vec::new(), &metadata, Vec::new()).unwrap().finish().unwrap();
    file.resize(file.len().next_multiple_of(32), 0);
    let read = sterna_core::gguf::Gguf::parse(&file).unwrap();
    let reader = Tokenizer::from_metadata(&read.header().metadata).unwrap();
    assert_eq!(reader.warnings(), [""; 0]);
    assert_eq!((reader.bos(), reader.eos()), (Some(tokenizer.end_of_text()), Some(tokenizer.end_of_text())));
    assert!(reader.is_special(tokenizer.end_of_text()) && reader.is_end_of_generation(tokenizer.end_of_text()));
    assert_eq!(reader.vocab_size(), tokenizer.vocabulary());
    reader.encode(text, EncodeOptions { add_special: true, parse_special: false }).unwrap()
}

#[test]
fn choices_are_written_as_they_are_read() {
    for (text, choice) in [
        ("chars", CHARACTERS),
        ("bpe:512", BPE_512),
        ("bpe:4096", TokenizerChoice::Bpe { vocabulary: 4096 }),
        ("gpt2", TokenizerChoice::Gpt2),
    ] {
        assert_eq!(text.parse::<TokenizerChoice>().unwrap(), choice);
        assert_eq!(choice.to_string(), text);
        assert_eq!(serde_json::to_string(&choice).unwrap(), format!("{text:?}"));
        assert_eq!(serde_json::from_str::<TokenizerChoice>(&format!("{text:?}")).unwrap(), choice);
    }
    assert_eq!("bpe".parse::<TokenizerChoice>().unwrap(), TokenizerChoice::Bpe { vocabulary: 1024 });
    for bad in ["", "words", "bpe:", "bpe:511", "bpe:4097", "bpe:-1", "bpe:99999999999999999999", "Chars"] {
        assert!(bad.parse::<TokenizerChoice>().is_err(), "{bad:?} was taken");
    }
}

#[test]
fn characters_are_one_token_each() {
    let ascii = built(CHARACTERS, "hello\n");
    assert_eq!(ascii.vocabulary.tokens, ["Ċ", "e", "h", "l", "o", END_OF_TEXT]);
    assert!(ascii.vocabulary.merges.is_empty());
    assert_eq!(ascii.encode("hello\n").unwrap(), [2, 1, 3, 3, 4, 0]);

    let text = "aé€𝄞 é 中文👩‍👩‍👧 e\u{301}\r\n\u{a0}";
    let wide = built(CHARACTERS, text);
    let ids = wide.encode(text).unwrap();
    assert_eq!(ids.len(), text.chars().count());
    assert_eq!(wide.decode(&ids), text);
    for (c, id) in text.chars().zip(&ids) {
        assert_eq!(wide.decode(&[*id]), c.to_string());
    }
    assert_eq!(through_a_file(&wide, text), ids);
}

#[test]
fn characters_outside_the_text_are_refused_by_name() {
    let tokenizer = built(CHARACTERS, "To be, or not to be");
    let error = format!("{:#}", tokenizer.encode("to bé").unwrap_err());
    assert!(error.contains("\"é\"") && error.contains("characters of its training text"), "{error}");
    // Half of its bytes are known here; half a character is none.
    assert!(built(CHARACTERS, "é").encode("è").is_err());
    // All of its bytes are: it is spelled out.
    let spelled = built(CHARACTERS, "éŨ");
    assert_eq!(spelled.decode(&spelled.encode("Ũé").unwrap()), "Ũé");
}

#[test]
fn characters_of_the_held_out_part_alone_are_told() {
    assert_eq!(unseen("abc", "cab"), None);
    let one = unseen("abc", "a—b—").unwrap();
    assert!(one.starts_with("1 character stands only"), "{one}");
    assert!(one.contains("2 times in all: '—' (U+2014); it is in the vocabulary"), "{one}");
    let many = unseen("", "abcdefg").unwrap();
    assert!(
        many.starts_with("7 characters stand only") && many.contains("'e' (U+0065) and 2 more; they are"),
        "{many}"
    );
}

#[test]
fn learned_merges_follow_the_counts() {
    let text = "the cat and the hat and the bat ".repeat(20);
    let tokenizer = built(BPE_512, &text);
    assert!(tokenizer.vocabulary() > 257 && tokenizer.vocabulary() <= 512);
    assert_eq!(tokenizer.vocabulary() as u32 - 1, tokenizer.end_of_text());
    let the = tokenizer.encode(" the").unwrap();
    assert_eq!((the.len(), tokenizer.decode(&the)), (1, " the".to_owned()));
    assert_eq!(through_a_file(&tokenizer, &text), tokenizer.encode(&text).unwrap());
    // The same text, the same vocabulary.
    assert_eq!(built(BPE_512, &text), tokenizer);
    // Any text can be encoded.
    let other = "Ünï¢ødé 👩‍👩‍👧 \0\u{7f}";
    assert_eq!(tokenizer.decode(&tokenizer.encode(other).unwrap()), other);
}

#[test]
fn names_of_special_tokens_are_plain_text() {
    let text = "a <|endoftext|> b".repeat(50);
    for choice in [CHARACTERS, BPE_512] {
        let tokenizer = built(choice, &text);
        let ids = tokenizer.encode(&text).unwrap();
        assert!(!ids.contains(&tokenizer.end_of_text()));
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn a_saved_tokenizer_is_the_same_and_a_changed_one_is_refused() {
    let text = "sea shells é by the sea shore ".repeat(9);
    for choice in [CHARACTERS, BPE_512] {
        let tokenizer = built(choice, &text);
        let json = serde_json::to_string(&tokenizer).unwrap();
        let again: TextTokenizer = serde_json::from_str(&json).unwrap();
        assert_eq!(again, tokenizer);
        assert_eq!(again.encode(&text).unwrap(), tokenizer.encode(&text).unwrap());
        for damaged in [json.replace(END_OF_TEXT, "x"), json.replace("\"merges\":[", "\"merges\":[\"q z\",")] {
            assert!(serde_json::from_str::<TextTokenizer>(&damaged).is_err());
        }
    }
    assert!(serde_json::from_str::<TextTokenizer>(r#"{"choice":"chars","tokens":[],"merges":[]}"#).is_err());
}

#[test]
fn texts_without_anything_to_learn_do_no_harm() {
    for choice in [CHARACTERS, BPE_512] {
        assert!(TextTokenizer::build(choice, "", None).unwrap_err().to_string().contains("empty"));
        let tiny = built(choice, "x");
        assert_eq!(tiny.decode(&tiny.encode("x").unwrap()), "x");
        assert_eq!(tiny.encode("").unwrap(), [0; 0]);
    }
}

#[test]
fn damaged_files_of_gpt2_are_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    let folder = dir.path().join("gpt2");
    fs::create_dir(&folder).unwrap();
    for json in ["", "[]", r#"{"model":{"vocab":{"a":0},"merges":[]}}"#, r#"{"model":{"vocab":{"a":-1},"merges":[]}}"#]
    {
        fs::write(folder.join("tokenizer.json"), json).unwrap();
        let error = TextTokenizer::build(TokenizerChoice::Gpt2, "x", Some(dir.path())).unwrap_err();
        assert!(format!("{error:#}").contains("tokenizer.json"), "{json}: {error:#}");
    }
}

#[test]
fn shakespeare_round_trips_with_all_three() {
    let Some(folder) = data_dir("text/tinyshakespeare.txt and gpt2/") else { return };
    let text = fs::read_to_string(data::locate("tinyshakespeare", Some(&folder)).unwrap()).unwrap();
    let (train, test) = split(&text);
    for (choice, vocabulary) in
        [(CHARACTERS, 66), (TokenizerChoice::Bpe { vocabulary: 1024 }, 1024), (TokenizerChoice::Gpt2, 50_257)]
    {
        let tokenizer = TextTokenizer::build(choice, train, Some(&folder)).unwrap();
        assert_eq!(tokenizer.vocabulary(), vocabulary, "{choice}");
        let (head, tail) = (tokenizer.encode(train).unwrap(), tokenizer.encode(test).unwrap());
        assert_eq!(tokenizer.decode(&head) + &tokenizer.decode(&tail), text, "{choice}");
        assert_eq!(through_a_file(&tokenizer, test), tail, "{choice}");
        println!("{choice}: {} + {} tokens", head.len(), tail.len());
        match choice {
            TokenizerChoice::Characters => assert_eq!((head.len(), tail.len()), (1_003_854, 111_540)),
            TokenizerChoice::Bpe { .. } => assert!(head.len() < 430_000 && tail.len() < 50_000),
            TokenizerChoice::Gpt2 => assert_eq!((head.len(), tail.len()), (301_966, 36_059)),
        }
    }
}

#[test]
fn both_forms_of_gpt2s_files_give_the_same_tokenizer() {
    let Some(folder) = data_dir("gpt2/") else { return };
    let from = data::locate("gpt2-tokenizer", Some(&folder)).unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    fs::copy(from.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let one = TextTokenizer::build(TokenizerChoice::Gpt2, "", Some(dir.path()));
    assert_eq!(one.unwrap(), TextTokenizer::build(TokenizerChoice::Gpt2, "", Some(&folder)).unwrap());
}

/// Against llama.cpp, where `STERNA_LLAMA_TOKENIZE` names its llama-tokenize.
#[test]
fn llama_cpp_gives_the_same_ids() {
    let Some(binary) = std::env::var_os("STERNA_LLAMA_TOKENIZE") else {
        println!("without llama.cpp: STERNA_LLAMA_TOKENIZE does not name a llama-tokenize");
        return;
    };
    let ascii = "First Citizen:\n  We are accounted poor citizens; what's good?\n\nAll:\tspeak, speak!  \n".repeat(3);
    let wide = "l'été à Łódź – 中文と日本語 👩‍👩‍👧 e\u{301}\u{a0}x <|endoftext|>\r\n".repeat(3);
    let mut cases =
        vec![(CHARACTERS, ascii.clone()), (CHARACTERS, wide.clone()), (BPE_512, ascii), (BPE_512, wide.clone())];
    let folder = data_dir("text/tinyshakespeare.txt and gpt2/");
    if let Some(folder) = &folder {
        let play = fs::read_to_string(data::locate("tinyshakespeare", Some(folder)).unwrap()).unwrap();
        let play = split(&play).1;
        let choices = [CHARACTERS, TokenizerChoice::Bpe { vocabulary: 1024 }, TokenizerChoice::Gpt2];
        cases.extend(choices.map(|choice| (choice, play.to_owned())));
        cases.push((TokenizerChoice::Gpt2, wide));
    }
    let dir = tempfile::TempDir::new().unwrap();
    for (i, (choice, text)) in cases.iter().enumerate() {
        let tokenizer = TextTokenizer::build(*choice, text, folder.as_deref()).unwrap();
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", "llama");
        tokenizer.metadata(&mut metadata);
        let (model, prompt) = (dir.path().join(format!("{i}.gguf")), dir.path().join(format!("{i}.txt")));
        let file = sterna_core::gguf::Writer::new(Vec::new(), &metadata, Vec::new()).unwrap().finish().unwrap();
        fs::write(&model, file).unwrap();
        fs::write(&prompt, text).unwrap();
        let mut command = std::process::Command::new(&binary);
        command.arg("-m").arg(&model).arg("-f").arg(&prompt).args(["--ids", "--no-parse-special", "--log-disable"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let ids: Vec<u32> = serde_json::from_str(said.trim())
            .unwrap_or_else(|_| panic!("{choice}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        assert!(ids == tokenizer.encode(text).unwrap(), "{choice} from {:.200?}", text);
    }
}

fn odd_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ -~\t\r\n]{1,8}",
        "[\u{300}-\u{36f}\u{200b}-\u{200f}\u{2028}\u{feff}]{1,3}",
        "[一-丏ぁ-ん가-갎]{1,4}",
        "[\u{1f468}-\u{1f46a}\u{1f3fb}-\u{1f3ff}\u{200d}\u{fe0f}]{1,5}",
        any::<char>().prop_map(|c| c.to_string()),
    ];
    proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_round_trips(text in odd_text(), other in odd_text()) {
        let characters = built(CHARACTERS, &text);
        let ids = characters.encode(&text).unwrap();
        prop_assert_eq!(ids.len(), text.chars().count());
        prop_assert_eq!(characters.decode(&ids), text.as_str());
        prop_assert_eq!(through_a_file(&characters, &text), ids);
        // Another text is refused or comes back whole.
        if let Ok(ids) = characters.encode(&other) {
            prop_assert_eq!(characters.decode(&ids), other.as_str());
        }

        let bpe = built(BPE_512, &text.repeat(3));
        for text in [&text, &other] {
            let ids = bpe.encode(text).unwrap();
            prop_assert_eq!(bpe.decode(&ids), text.as_str());
            prop_assert_eq!(through_a_file(&bpe, text), ids);
        }
    }
}
