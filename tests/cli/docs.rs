//! The documentation, typed: every command of README.md, docs/*.md and models/*.md is read by the program's own parser, and run
//! where it needs no network, in a folder that holds small files of the names that the documentation uses. Flags that the text names
//! exist; variables that the code reads are documented.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::CommandFactory;
use parquet::data_type::ByteArrayType;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sterna::args::Cli;
use tempfile::TempDir;

use crate::support::{fixture, shipped, stdout, sterna};

/// What becomes of a documented command.
enum Rule {
    /// It is read, not run, for this reason.
    Parse(#[allow(dead_code, reason = "for the reader")] &'static str),
    /// It is run with these options in place of its own, or beside them.
    With(&'static [(&'static str, &'static str)]),
}

const NETWORK: Rule = Rule::Parse("needs the network");
/// A decoder that trains in a moment.
const TINY: Rule = Rule::With(&[
    ("--steps", "2"),
    ("--layers", "1"),
    ("--seq-len", "64"),
    ("--batch-size", "2"),
    ("--float-steps", "0"),
]);
const TINY_QAT: Rule = Rule::With(&[("--steps", "2"), ("--seq-len", "32"), ("--batch-size", "2")]);

/// By the words with which a command begins, the first that fits; what fits none is run as it is written.
const RULES: [(&str, Rule); 13] = [
    ("sterna pull", NETWORK),
    ("sterna remove", NETWORK),
    ("sterna data get", NETWORK),
    ("sterna train shakespeare", TINY),
    ("sterna train --text", TINY),
    ("sterna train mnist", Rule::With(&[("--steps", "2"), ("--batch-size", "4")])),
    ("sterna qat", TINY_QAT),
    ("sterna bench gemm", Rule::With(&[("--shape", "64x256x16"), ("--seconds", "0.05")])),
    ("sterna bench gguf", Rule::With(&[("-r", "1")])),
    (
        "sterna bench model DIR --text FILE --run-qat",
        Rule::With(&[("--qat-steps", "2"), ("--seq-len", "32"), ("--batch-size", "2"), ("-c", "32")]),
    ),
    ("sterna bench model DIR", Rule::With(&[("-c", "32")])),
    (
        "sterna bench quantization",
        Rule::With(&[("--steps", "2"), ("--configuration-steps", "0"), ("--batch-size", "4"), ("--data", "mnist")]),
    ),
    ("sterna bench", Rule::With(&[("-r", "1"), ("-n", "8")])),
];

/// Programs of others that the documentation calls: these lines are theirs to check.
const OTHERS: [&str; 4] = ["cargo", "npm", "pip", "python"];
/// Flags of others that the text names.
const THEIR_FLAGS: [&str; 4] = ["--release", "--no-deps", "--no-binary", "--merge"];

/// Folder and files of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The pages about the command line.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    for folder in ["docs", "models"] {
        pages.extend(fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    pages.retain(|page| page.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    pages
}

/// The lines of a page's blocks for a shell; lines that go on are one.
fn shell_lines(page: &str) -> Vec<String> {
    let (mut lines, mut inside, mut begun) = (Vec::new(), false, String::new());
    for line in page.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside && line.ends_with('\\') => begun += line.trim_end_matches('\\'),
            line if inside => lines.push(std::mem::take(&mut begun) + line),
            _ => {}
        }
    }
    lines
}

/// The commands of a line, each as its words: quotes are taken off, what follows a `#` is left out.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | ';' | '&') => {
                words.extend(word.take());
                if c != ' ' {
                    commands.push(std::mem::take(&mut words));
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

#[test]
fn lines_are_cut_into_commands_as_a_shell_does() {
    let words = |line: &str| commands(line);
    assert_eq!(
        words("sterna run m.gguf -p \"To be\"   # text"),
        [["sterna", "run", "m.gguf", "-p", "To be"].map(String::from)]
    );
    assert_eq!(
        words("a b; c 'd; #e' && f"),
        [vec!["a".to_owned(), "b".into()], vec!["c".into(), "d; #e".into()], vec!["f".into()]]
    );
    assert!(words("# nothing").is_empty());
    assert_eq!(shell_lines("```sh\na \\\n  b\nc\n```\nd\n```js\ne\n```"), ["a b", "c"]);
}

/// A folder with small files of all names that the documentation uses, and data sets beside.
struct House {
    dir: TempDir,
}

impl House {
    /// `checkpoint` is what stands in DIR.
    fn new(checkpoint: &str) -> Self {
        let house = Self { dir: TempDir::new().unwrap() };
        let path = |name: &str| house.dir.path().join(name);
        for folder in ["models", "DIR", "data/tinyshakespeare", "data/wikitext-2", "data/mnist"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for entry in fs::read_dir(fixture(checkpoint)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), path("DIR").join(entry.file_name())).unwrap();
        }
        // A model that can chat.
        stdout(
            sterna().arg("convert").arg(fixture("qwen3")).arg("-o").arg(path("model.gguf")).args(["--quant", "TQ2_0"]),
        );
        for name in ["a.gguf", "b.gguf", "in.gguf"] {
            fs::copy(path("model.gguf"), path(name)).unwrap();
        }
        for name in ["shakespeare.gguf", "mnist.gguf"] {
            fs::copy(shipped(name), path("models").join(name)).unwrap();
        }
        fs::copy(shipped("mnist.gguf"), path("mnist.gguf")).unwrap();
        let play =
            "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n\n";
        let play = play.repeat(100);
        for name in ["data/tinyshakespeare/tinyshakespeare.txt", "plays.txt"] {
            fs::write(path(name), &play).unwrap();
        }
        let book: String = pages().iter().map(|page| fs::read_to_string(page).unwrap()).collect();
        let book: String = book.chars().filter(char::is_ascii).take(60_000).collect();
        for name in ["data/wikitext-2/wikitext-2.test.raw", "text.txt", "book.txt", "FILE", "held-out.txt"] {
            fs::write(path(name), &book).unwrap();
        }
        let documents: Vec<&str> = book.split("\n\n").filter(|text| !text.trim().is_empty()).collect();
        let lines: String =
            documents.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
        fs::write(path("train.jsonl"), lines).unwrap();
        parquet(&path("test.parquet"), &documents[..20]);
        for (part, count) in [("train", 40u32), ("t10k", 20)] {
            let (mut images, mut labels) = (vec![0, 0, 8, 3], vec![0, 0, 8, 1]);
            images.extend([count, 28, 28].iter().flat_map(|dim| dim.to_be_bytes()));
            images.extend((0..count * 784).map(|i| if i / 28 % 28 == i / 784 % 10 + 9 { 255u8 } else { 0 }));
            labels.extend(count.to_be_bytes());
            labels.extend((0..count).map(|i| (i % 10) as u8));
            fs::write(path("data/mnist").join(format!("{part}-images-idx3-ubyte")), images).unwrap();
            fs::write(path("data/mnist").join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
        }
        house
    }

    /// Runs a command, with `options` in place of its own.
    fn run(&self, words: &[String], options: &[(&str, &str)], number: usize) -> Result<(), String> {
        let mut words = words.to_vec();
        for (flag, value) in options {
            match words.iter().position(|word| word == flag) {
                Some(at) => (*value).clone_into(&mut words[at + 1]),
                None => words.extend([(*flag).to_owned(), (*value).to_owned()]),
            }
        }
        // Runs of the same name would meet in the same folder.
        if ["train", "qat"].contains(&&*words[1]) && !words.iter().any(|word| word == "--out") {
            words.extend(["--out".to_owned(), format!("runs/{number}")]);
        }
        let mut command = sterna();
        command
            .current_dir(self.dir.path())
            .env("STERNA_DATA_DIR", "data")
            .env("STERNA_CACHE", "cache")
            .write_stdin("");
        let output = command.args(&words[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{}\n{said}", words.join(" "))) }
    }
}

fn parquet(path: &Path, texts: &[&str]) {
    let schema = Arc::new(parse_message_type("message m { required binary text (UTF8); }").unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<_> = texts.iter().map(|&text| text.into()).collect();
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn every_documented_command_works_as_it_is_typed() {
    let mut used = [false; RULES.len()];
    let (mut ran, mut failed) = (0, Vec::new());
    for page in pages() {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&page).unwrap();
        let all: Vec<Vec<String>> = shell_lines(&text).iter().flat_map(|line| commands(line)).collect();
        let mut house = None;
        for words in all {
            if words[0] != "sterna" {
                assert!(OTHERS.contains(&&*words[0]), "{name}: what is {words:?}?");
                continue;
            }
            let line = words.join(" ");
            if let Err(error) = Cli::read(words.iter().map(OsString::from)) {
                failed.push(format!("{name}: {line}\n{error}"));
                continue;
            }
            let network = line.contains(" -hf ") || line.contains("USER/REPO");
            let rule = RULES.iter().position(|(begin, _)| line.starts_with(begin));
            rule.into_iter().for_each(|at| used[at] = true);
            let options = match rule.map(|at| &RULES[at].1) {
                Some(Rule::Parse(_)) => continue,
                _ if network => continue,
                Some(Rule::With(options)) => options,
                None => &[][..],
            };
            // What keeps every code needs a checkpoint that is ternary.
            let checkpoint = if name == "conversion.md" { "bitnet" } else { "llama" };
            let house = house.get_or_insert_with(|| House::new(checkpoint));
            ran += 1;
            failed.extend(house.run(&words, options, ran).err().map(|error| format!("{name}: {error}")));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(ran > 40, "only {ran} commands ran");
    let unused: Vec<_> = RULES.iter().zip(used).filter(|(_, used)| !used).map(|((begin, _), _)| begin).collect();
    assert!(unused.is_empty(), "no page has a command that begins with {unused:?}");
}

/// The long flags of a command and all below it, other names included.
fn flags(command: &clap::Command, found: &mut BTreeSet<String>) {
    for arg in command.get_arguments() {
        found.extend(arg.get_long().map(|long| format!("--{long}")));
        found.extend(arg.get_all_aliases().unwrap_or_default().into_iter().map(|long| format!("--{long}")));
    }
    command.get_subcommands().for_each(|below| flags(below, found));
}

#[test]
fn every_flag_that_the_text_names_exists() {
    let mut known: BTreeSet<String> =
        THEIR_FLAGS.map(String::from).into_iter().chain(["--help".into(), "--version".into()]).collect();
    flags(&Cli::command(), &mut known);
    let mut seen = 0;
    // The page of llama.cpp's flags names those that are not here too; a test of its table keeps it true.
    for page in pages().into_iter().filter(|page| !page.ends_with("llama-cpp-flags.md")) {
        let text = fs::read_to_string(&page).unwrap();
        let text = text.replace('\n', " ");
        // Code stands between backticks, also in blocks.
        for code in text.split('`').skip(1).step_by(2).chain(text.split("```").skip(1).step_by(2)) {
            for word in code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')) {
                let letter = word.strip_prefix("--").and_then(|flag| flag.chars().next());
                if letter.is_some_and(|c| c.is_ascii_lowercase()) {
                    assert!(known.contains(word), "{} names {word}, which no command has", page.display());
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} flags were found");
}

#[test]
fn every_variable_that_is_read_is_documented() {
    let page = fs::read_to_string(root().join("docs/environment.md")).unwrap();
    let mut open = vec![root().join("native/src")];
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if path.ends_with("tests.rs") {
            continue;
        }
        for call in ["var(\"", "var_os(\"", "non_empty(\"", "text_from(\"", "env = \"", "set(\""] {
            for after in text.split(call).skip(1) {
                let variable = after.split('"').next().unwrap();
                if variable.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
                    assert!(page.contains(&format!("`{variable}`")), "{} reads {variable}", path.display());
                    seen.insert(variable.to_owned());
                }
            }
        }
    }
    for variable in ["HF_TOKEN", "STERNA_CACHE", "STERNA_KERNEL", "NO_COLOR"] {
        assert!(seen.contains(variable), "{variable} was not found in the sources");
    }
}
