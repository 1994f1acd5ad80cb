//! Cuts beside those of the expressions as models publish them, and beside recorded ones.

use super::*;
use std::sync::LazyLock;
use tokenizers::utils::SysRegex;

fn pieces(name: &str, text: &str) -> Vec<String> {
    let splitter = PreTokenizer::named(name).unwrap().compile().unwrap();
    splitter.words(text).into_iter().map(str::to_owned).collect()
}

#[test]
fn every_row_compiles_and_loses_nothing() {
    let text = "Hello  World's\t\tDON'T 12345 naïve\r\n\r\n  x=[y]; `a` 你好。 e\u{301} ²³ \u{a0} \n end  ";
    for row in TABLE {
        let name = row.names[0];
        assert_eq!(pieces(name, text).concat(), text, "{name}");
        assert!(pieces(name, "").is_empty());
    }
}

#[test]
fn what_a_tokenizer_json_says_is_found_in_the_table() {
    let cuts_by = |expressions: &[&str]| {
        let found = PreTokenizer::all().filter(|pre| pre.cuts_by(expressions.iter().copied()));
        found.map(PreTokenizer::name).collect::<Vec<_>>()
    };
    // As Llama 3, Qwen 2 and GPT-4o write them.
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    assert_eq!(cuts_by(&[llama3]), ["llama-bpe", "dbrx", "glm4"]);
    let qwen2 = llama3.replace("{1,3}", "");
    assert_eq!(cuts_by(&[&qwen2]), ["qwen2", "deepseek-r1-qwen"]);
    assert_eq!(cuts_by(&["[^\n]+|[\n]+", &qwen2]), ["laguna"]);
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    assert_eq!(cuts_by(&[gpt2]), ["gpt-2"]);
    assert_eq!(cuts_by(&[r"\p{N}", gpt2]), ["starcoder"]);
    assert_eq!(cuts_by(&[gpt2, r"\p{N}"]), [""; 0]);
    assert_eq!(cuts_by(&[]), [""; 0]);
}

#[test]
fn names_are_unique() {
    let mut seen = std::collections::HashSet::new();
    for name in names() {
        assert!(seen.insert(name), "{name} stands in two rows");
    }
}

/// Recorded by tests/fixtures/make_cuts.py: llama.cpp's splitter, or the published expressions.
#[test]
fn every_name_cuts_as_recorded() {
    let mut recorded: serde_json::Value = serde_json::from_str(include_str!("../../../tests/data/cuts.json")).unwrap();
    let texts: Vec<String> = serde_json::from_value(recorded["texts"].take()).unwrap();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for cuts in recorded["cuts"].as_array_mut().unwrap() {
        let names: Vec<String> = serde_json::from_value(cuts["names"].take()).unwrap();
        let words: Vec<Vec<usize>> = serde_json::from_value(cuts["words"].take()).unwrap();
        for name in &names {
            let splitter =
                PreTokenizer::named(name).unwrap_or_else(|| panic!("{name} is not known")).compile().unwrap();
            for (text, expected) in texts.iter().zip(&words) {
                let found = splitter.words(text);
                if found.iter().map(|word| word.chars().count()).ne(expected.iter().copied()) {
                    let mut characters = text.chars();
                    let expected: Vec<String> =
                        expected.iter().map(|&n| characters.by_ref().take(n).collect()).collect();
                    wrong.push(format!("{name}:\n  found    {found:?}\n  expected {expected:?}"));
                }
            }
            seen += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, names().count());
}

#[test]
fn gpt2_gives_the_last_space_to_the_word() {
    assert_eq!(pieces("gpt-2", "a   b"), ["a", "  ", " b"]);
    assert_eq!(pieces("gpt-2", "a \n\tb"), ["a", " \n", "\t", "b"]);
    assert_eq!(pieces("gpt-2", "a  "), ["a", "  "]);
    assert_eq!(pieces("gpt-2", "I'll 12ab"), ["I", "'ll", " 12", "ab"]);
    assert_eq!(pieces("gpt-2", "I'LL"), ["I", "'", "LL"]);
}

#[test]
fn llama3_and_qwen2_differ_in_digits_only() {
    assert_eq!(pieces("llama-bpe", "I'LL 12345"), ["I", "'LL", " ", "123", "45"]);
    assert_eq!(pieces("qwen2", "I'LL 123"), ["I", "'LL", " ", "1", "2", "3"]);
    assert_eq!(pieces("llama-bpe", "a \n \n  b"), ["a", " \n \n", " ", " b"]);
    assert_eq!(pieces("llama-bpe", "x\t\ty (z)!\n\nq"), ["x", "\t", "\ty", " (", "z", ")!\n\n", "q"]);
    assert_eq!(pieces("qwen2", "a\n\n\nb"), ["a", "\n\n\n", "b"]);
}

#[test]
fn falcon_and_default_cut_digits_by_three() {
    assert_eq!(pieces("falcon", "a 12345!?"), ["a", " ", "123", "45", "!?"].map(str::to_owned).to_vec().as_slice());
    assert_eq!(pieces("default", "x1234"), ["x", "123", "4"]);
}

#[test]
fn gpt4o_cuts_at_case_changes() {
    assert_eq!(pieces("gpt-4o", "HelloWorld isn't"), ["Hello", "World", " isn't"]);
    assert_eq!(pieces("tekken", "éÉtat 12"), ["é", "État", " ", "1", "2"]);
}

/// Ours beside the expressions as their models publish them, lookahead and all.
static PUBLISHED: LazyLock<Vec<(&str, Splitter, SysRegex)>> = LazyLock::new(|| {
    let contractions = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
    let tail = r"\s*[\r\n]+|\s+(?!\S)|\s+";
    let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
    let lead = r"[^\r\n\p{L}\p{N}]?";
    let cl100k = |digits| {
        let symbols = r" ?[^\s\p{L}\p{N}]+[\r\n]*";
        format!(r"{contractions}|{lead}\p{{L}}+|{digits}|{symbols}|{tail}")
    };
    let o200k = |suffix: &str, digits| {
        let symbols = r" ?[^\s\p{L}\p{N}]+[\r\n/]*";
        format!("{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}|{digits}|{symbols}|{tail}")
    };
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let expressions = [
        ("gpt-2", gpt2.to_owned()),
        ("llama-bpe", cl100k(r"\p{N}{1,3}")),
        ("qwen2", cl100k(r"\p{N}")),
        ("tekken", o200k("", r"\p{N}")),
        ("gpt-4o", o200k(&format!("{contractions}?"), r"\p{N}{1,3}")),
    ];
    let compiled = |(name, expression): (&'static str, String)| {
        (name, PreTokenizer::named(name).unwrap().compile().unwrap(), SysRegex::new(&expression).unwrap())
    };
    expressions.into_iter().map(compiled).collect()
});

proptest::proptest! {
    #[test]
    fn cuts_are_those_of_the_published_expressions(
        text in "[ \\t\\r\\n\u{a0}\u{3000}aZéßǅʰ中ا\u{301}09²Ⅷ'’.,/!$_sStTlLrReEvVmMdD]{0,24}"
    ) {
        for (name, splitter, engine) in PUBLISHED.iter() {
            let mut expected = Vec::new();
            let mut done = 0;
            for (start, end) in engine.find_iter(&text) {
                expected.extend([&text[done..start], &text[start..end]]);
                done = end;
            }
            expected.retain(|piece| !piece.is_empty());
            proptest::prop_assert_eq!(done, text.len(), "{}", name);
            proptest::prop_assert_eq!(splitter.words(&text), expected, "{}", name);
        }
    }
}
