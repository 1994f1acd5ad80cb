//! Strings of a file that are not UTF-8.
//!
//! GGUF says that strings are UTF-8, and some files hold other values: names in another encoding, tokens that are parts of characters.
//! Their bytes are kept within Rust's strings: after [`MARK`] a byte that is no part of a character is the character U+10FF00
//! plus the byte, at the end of the last private-use plane. A copy of the file has the same bytes again.

use std::borrow::Cow;

/// Begins a string that holds bytes; two noncharacters, which no text has.
const MARK: &str = "\u{10FFFE}\u{10FFFE}";
/// The character of byte 0.
const FIRST: u32 = 0x10_FF00;

/// The string of these bytes: the same text where they are UTF-8.
pub(super) fn from_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(MARK) => text.to_owned(),
        _ => {
            let mut text = MARK.to_owned();
            let as_bytes = |bytes: &[u8], text: &mut String| {
                text.extend(bytes.iter().filter_map(|&byte| char::from_u32(FIRST + u32::from(byte))));
            };
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    // What could be mistaken for a byte is written in bytes.
                    match u32::from(c) >= FIRST {
                        true => as_bytes(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut text),
                        false => text.push(c),
                    }
                }
                as_bytes(chunk.invalid(), &mut text);
            }
            text
        }
    }
}

/// The bytes that a string of a file's metadata stands for: its own, except where the file's string is not UTF-8.
pub fn string_bytes(text: &str) -> Cow<'_, [u8]> {
    let Some(rest) = text.strip_prefix(MARK) else { return Cow::Borrowed(text.as_bytes()) };
    let mut bytes = Vec::with_capacity(rest.len());
    for c in rest.chars() {
        match u32::from(c).checked_sub(FIRST) {
            Some(byte) => bytes.push(byte as u8),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

/// A string of a file's metadata for people to read: bytes that are no part of a character are U+FFFD.
pub fn readable(text: &str) -> Cow<'_, str> {
    match string_bytes(text) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_back() {
        let marked = format!("{MARK}x").into_bytes();
        let cases: [&[u8]; 7] = [
            b"",
            b"plain",
            "\u{10FFFE}\u{10FF41}".as_bytes(),
            b"Mod\xe8le",
            b"\xe4\xbd",
            b"\xff\xff\xf4\x8f\xbf\xbf",
            &marked,
        ];
        let mut seen = std::collections::HashSet::new();
        for bytes in cases {
            let text = from_bytes(bytes);
            assert_eq!(&*string_bytes(&text), bytes);
            assert!(seen.insert(text), "{bytes:?}");
        }
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(&*string_bytes(&from_bytes(&every)), every);
        assert_eq!(readable(&from_bytes(b"Mod\xe8le")), "Mod\u{FFFD}le");
        assert_eq!(readable("Modèle"), "Modèle");
    }
}
