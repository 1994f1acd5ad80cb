//! Chat templates as the transformers library renders them: those of real models, and thousands of expressions.
//!
//! The results of expressions and slices, `data/chat/expressions.json` and `slices.json`, are made by
//! `tests/fixtures/make_template_expectations.py`.
//!
//! The expectations in `data/chat/expected.txt` are made by `tests/fixtures/make_chat_expectations.py`, which describes
//! their format; the templates are others' and are read from `STERNA_DATA_DIR`. Without it the tests say so and skip,
//! or fail where `STERNA_REQUIRE_DATA=1`.

#![cfg(feature = "chat")]

use std::path::PathBuf;

use sterna_core::generate::chat::{ChatTemplate, Extras, Message, Value};

const EXPECTED: &str = include_str!("data/chat/expected.txt");
const SYSTEM: &str = "Answer in one word.\n  Be kind. ";

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::from_pairs(pairs)
}

/// The conversations of the script, by name.
fn conversation(name: &str) -> Vec<Message> {
    let turns = |turns: &[(&str, &str)]| turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    match name {
        "user" => turns(&[("user", "Hello, wörld! {{ 1 }} <|im_end|>")]),
        "system" => turns(&[("system", SYSTEM), ("user", " Hi\n")]),
        "turns" => turns(&[
            ("system", SYSTEM),
            ("user", "One?"),
            ("assistant", "Yes."),
            ("user", "Two?"),
            ("assistant", "No.\n"),
            ("user", "Three?"),
        ]),
        "thinking" => turns(&[
            ("user", "Think."),
            ("assistant", "<think>\nDeep\nthoughts.\n</think>\n\nDone."),
            ("user", "Again."),
            ("assistant", "<think>\nMore.\n</think>\n\nAgain done."),
        ]),
        "reasoning" => vec![
            Message::new("user", "Think."),
            Message::new("assistant", "Done.").with("reasoning_content", "\nDeep thoughts.\n"),
        ],
        "tools" => {
            let arguments = map([("city", "Köln".into()), ("days", 2.into()), ("x", 0.5.into())]);
            let function = map([("name", "weather".into()), ("arguments", arguments)]);
            let call = map([("type", "function".into()), ("function", function)]);
            vec![
                Message::new("system", SYSTEM),
                Message::new("user", "Weather in Köln?"),
                Message::new("assistant", "").with("tool_calls", vec![call]),
                Message::new("tool", "rain"),
                Message::new("assistant", "Rain."),
            ]
        }
        other => panic!("the test knows no conversation {other}"),
    }
}

fn extra(name: &str) -> Value {
    match name {
        "enable_thinking" => false.into(),
        "date_string" => "29 Feb 2024".into(),
        "tools" => {
            let text = |kind: &str| map([("type", kind.into())]);
            let days = map([("type", "integer".into()), ("default", 1.into())]);
            let parameters = map([
                ("type", "object".into()),
                ("properties", map([("city", text("string")), ("days", days)])),
                ("required", vec!["city"].into()),
            ]);
            let function = map([
                ("name", "weather".into()),
                ("description", "Tells the weather <now> & \"then\".".into()),
                ("parameters", parameters),
            ]);
            vec![map([("type", "function".into()), ("function", function)])].into()
        }
        other => panic!("the test knows no extra {other}"),
    }
}

#[test]
fn renders_as_transformers() {
    let Some(folder) = std::env::var_os("STERNA_DATA_DIR") else {
        assert_ne!(std::env::var("STERNA_REQUIRE_DATA").as_deref(), Ok("1"), "STERNA_DATA_DIR is not set");
        println!("skipped: STERNA_DATA_DIR is not set, chat-templates/ is needed");
        return;
    };
    let folder = PathBuf::from(folder).join("chat-templates");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for case in EXPECTED.split("=== ").skip(1) {
        let (header, text) = case.split_once('\n').unwrap();
        let expected = text.strip_suffix('\n').unwrap().replace("\\\n", "\n");
        let words: Vec<&str> = header.split(' ').collect();
        let [model, name, prompt, extras @ ..] = words.as_slice() else { panic!("{header}") };
        let path = folder.join(format!("{model}.jinja"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let template = ChatTemplate::new(&source, Some("<|bos|>"), Some("<|eos|>")).unwrap();
        let extras: Extras = extras.iter().map(|name| ((*name).to_owned(), extra(name))).collect();
        let found = template.render(&conversation(name), *prompt == "prompt", &extras, Some(1_709_210_096));
        if found.as_ref() != Ok(&expected) {
            wrong.push(format!("{header}\n expected {expected:?}\n found    {found:?}"));
        }
        cases += 1;
    }
    println!("{} of {cases} renderings", cases - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cases, 64);
}

/// The text of a template without messages.
fn text_of(source: &str) -> Option<String> {
    let template = ChatTemplate::new(source, None, None).ok()?;
    template.render(&[], false, &Extras::new(), Some(1_709_210_096)).ok()
}

#[test]
fn expressions_are_as_in_jinja2() {
    let file: serde_json::Value = serde_json::from_str(include_str!("data/chat/expressions.json")).unwrap();
    let prelude = file["prelude"].as_str().unwrap();
    let mut wrong = Vec::new();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let source = case[0].as_str().unwrap();
        let found = text_of(&[prelude, source].concat());
        if found.as_deref() != case[1].as_str() {
            wrong.push(format!("{source}\n jinja2 {:?}\n found  {found:?}", case[1].as_str()));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 5_000);
}

#[test]
fn slices_are_as_in_python() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("data/chat/slices.json")).unwrap();
    let subjects = ["[0, 1, 2, 3]", "'abcd'", "(0, 1, 2)", "range(5)", "[]"];
    for case in cases.as_array().unwrap() {
        let bounds = (0..3).map(|i| case[i].as_i64().map_or(String::new(), |bound| bound.to_string()));
        let bounds = bounds.collect::<Vec<_>>().join(":");
        for (i, subject) in subjects.iter().enumerate() {
            let list = if i == 1 { "" } else { " | list" };
            let found = text_of(&format!("{{{{ {subject}[{bounds}]{list} | tojson }}}}")).unwrap();
            let found: serde_json::Value = serde_json::from_str(&found).unwrap();
            assert_eq!(found, case[3][i], "{subject}[{bounds}]");
        }
    }
    assert_eq!(cases.as_array().unwrap().len(), 900);
}
