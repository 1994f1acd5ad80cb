//! Any text as a chat template, over a short conversation: no panic, and an end. A second part of the input is a message.
//!
//! Run with `cargo +nightly fuzz run chat_template`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sterna_core::generate::chat::{ChatTemplate, Extras, Message};

fuzz_target!(|input: (&str, &str)| {
    let (source, text) = input;
    // Without a tag it is no template; a tag before it lets the fuzzer begin inside an expression, too.
    for source in [source.to_owned(), format!("{{{{ {source}"), format!("{{% {source}")] {
        let Ok(template) = ChatTemplate::new(&source, Some("<s>"), Some("</s>")) else { continue };
        let messages = [Message::new("user", text), Message::new("assistant", "No."), Message::new("user", "1 + 1")];
        let _ = template.render(&messages, true, &Extras::new(), Some(1_700_000_000));
    }
});
