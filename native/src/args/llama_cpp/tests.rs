use clap::{Arg, CommandFactory};

use super::*;
use crate::args::Cli;

/// What llama.cpp's tools have (tests/fixtures/make_llama_cpp_flags.py): names, number of values, tools.
const THEIRS: &str = include_str!("../../../../tests/fixtures/llama_cpp_flags.txt");

const DOC: &str = "../docs/llama-cpp-flags.md";

fn commands_of(tool: &str) -> Commands {
    match tool {
        "completion" | "cli" => TEXT,
        "perplexity" => PERPLEXITY,
        "tokenize" => TOKENIZE,
        "bench" => BENCH,
        _ => panic!("{tool}"),
    }
}

/// What clap has for a flag of a command.
fn ours(root: &clap::Command, command: &str, name: &str) -> Option<Arg> {
    crate::args::words::argument(root.find_subcommand(command).unwrap(), name).cloned()
}

fn built() -> clap::Command {
    let mut root = Cli::command();
    root.build();
    root
}

#[test]
fn every_flag_of_llama_cpp_is_answered_with_the_values_that_it_takes() {
    let root = built();
    for line in THEIRS.lines() {
        let mut words = line.split(' ');
        let (names, values) = (words.next().unwrap(), words.next().unwrap().parse::<usize>().unwrap());
        let tools: Commands = words.map(commands_of).fold(0, |all, tool| all | tool);
        for (command, bit) in NAMES.iter().filter(|(_, bit)| tools & bit != 0) {
            for name in names.split(',') {
                let flag = find(*bit, name).unwrap_or_else(|| panic!("{command} {name} has no row"));
                let takes = if flag.value.is_empty() { 0 } else { flag.value.split(' ').count() };
                assert_eq!(takes, values, "{command} {name}");
                if flag.there & bit != 0 {
                    let arg = flag.names.iter().find_map(|name| ours(&root, command, name));
                    let arg = arg.unwrap_or_else(|| panic!("{command} {name} is not there"));
                    assert_eq!(usize::from(arg.get_action().takes_values()), values, "{command} {name}");
                }
            }
        }
    }
}

#[test]
fn the_table_and_the_command_line_agree() {
    let root = built();
    for flag in flags() {
        assert_eq!(flag.there & !flag.tools, 0, "{:?}", flag.names);
        for (command, bit) in NAMES.iter().filter(|(_, bit)| flag.tools & bit != 0) {
            let here = flag.names.iter().any(|name| ours(&root, command, name).is_some());
            assert_eq!(here, flag.there & bit != 0, "{command} {:?}", flag.names);
            for name in flag.names {
                let rows = flags().filter(|other| other.tools & bit != 0 && other.names.contains(name)).count();
                assert_eq!(rows, 1, "{command} {name} has several rows");
            }
        }
        let (Otherwise::Nothing(text) | Otherwise::Refused(_, text)) = flag.otherwise;
        assert_eq!(text.is_empty(), flag.there == flag.tools, "{:?}", flag.names);
    }
}

#[test]
fn the_page_of_flags_is_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(DOC);
    let page = page();
    if std::env::var_os("STERNA_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "{DOC} is not what the table says: run the test with STERNA_WRITE_DOCS=1, and look at the change"
    );
}

fn names(commands: Commands) -> String {
    NAMES.iter().filter(|(_, bit)| commands & bit != 0).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn page() -> String {
    let mut page = "\
# The flags of llama.cpp

<!-- Written by a test from the table that reads the command line, native/src/args/llama_cpp/. -->

Whoever knows llama.cpp's tools can type what they type there. Five commands correspond to tools of llama.cpp: `sterna run` to
llama-completion, `sterna chat` to llama-cli, `sterna bench` to llama-bench, `sterna perplexity` to llama-perplexity, and
`sterna tokenize` to llama-tokenize. `run` and `chat` answer the flags of both llama-completion and llama-cli. The list is that of
August 2026, with a few flags that were there before.

- **yes**: the flag is there and means the same, but for what the last column says.
- **no effect**: the flag is taken with its value, and one line on stderr says why it changes nothing.
- **no**: the flag is refused, and the message says what to do instead. A value in brackets asks for what is so here anyway, and is
  taken without a word.

Flags may be given twice: the last one holds, but for those that are lists (`-r`, `--logit-bias`, and the lists of `bench`). Long
flags may be written with `_` in place of `-`, and with `=` before the value. A flag that is in neither program is refused by its
whole name, with the nearest one that is there. `sterna COMMAND --help` lists all flags of a command, also those that llama.cpp does
not have.
"
    .to_owned();
    for group in GROUPS {
        page += &format!("\n## {}\n\n| flag | commands | here | |\n| --- | --- | --- | --- |\n", group.title);
        for flag in group.flags {
            let spelled: Vec<String> = flag.names.iter().map(|name| format!("`{name}`")).collect();
            let value = if flag.value.is_empty() { String::new() } else { format!(" {}", flag.value) };
            let spelled = format!("{}{value}", spelled.join(", ")).replace('|', "\\|");
            let mut row = |commands: Commands, state: &str, text: &str| {
                if commands != 0 {
                    page += &format!("| {spelled} | {} | {state} | {} |\n", names(commands), text.replace('|', "\\|"));
                }
            };
            row(flag.there, "yes", flag.remark);
            match flag.otherwise {
                Otherwise::Nothing(why) => row(flag.tools & !flag.there, "no effect", why),
                Otherwise::Refused([], instead) => row(flag.tools & !flag.there, "no", instead),
                Otherwise::Refused(neutral, instead) => {
                    row(flag.tools & !flag.there, &format!("no ({})", neutral.join(", ")), instead);
                }
            }
        }
    }
    page
}
