//! The byte-level alphabet of GPT-2: every byte has a printable character, so that any bytes are text to a BPE model.
//!
//! The printable characters of Latin-1 stand for themselves; the other 68 bytes (controls, the space, 0x7F to 0xA0 and
//! the soft hyphen) take U+0100 onward in order. So the space is U+0120, the newline U+010A.

/// Whether the byte's character is the byte's own code point.
const fn is_own(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const TABLE: [char; 256] = {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        table[byte] = if is_own(byte as u8) {
            byte as u8 as char
        } else {
            next += 1;
            match char::from_u32(next - 1) {
                Some(c) => c,
                None => unreachable!(),
            }
        };
        byte += 1;
    }
    table
};

/// The character that stands for a byte in the vocabularies of byte-level BPE (`gpt2`): `Ġ` for the space.
pub fn char_of(byte: u8) -> char {
    TABLE[byte as usize]
}

/// The byte that a character stands for; `None` outside the alphabet.
pub(super) fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    if code < 0x100 {
        return is_own(code as u8).then_some(code as u8);
    }
    match code - 0x100 {
        n @ 0..=0x20 => Some(n as u8),
        n @ 0x21..=0x42 => Some((n - 0x21 + 0x7F) as u8),
        0x43 => Some(0xAD),
        _ => None,
    }
}

/// The byte of a byte token, written `<0x00>` to `<0xFF>`.
pub(super) fn parse_byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// How a vocabulary writes the token of one byte: `<0x00>` to `<0xFF>`.
pub(super) fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_a_bijection_with_the_published_anchors() {
        assert_eq!(char_of(b' '), '\u{120}');
        assert_eq!(char_of(b'\n'), '\u{10A}');
        assert_eq!(char_of(0x7F), '\u{121}');
        assert_eq!(char_of(0xA0), '\u{142}');
        assert_eq!(char_of(0xAD), '\u{143}');
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255u8 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
            assert!(seen.insert(char_of(byte)));
        }
        for c in [' ', '\n', '\u{144}', '\u{2581}', '\u{AD}', '\u{7F}'] {
            assert_eq!(byte_of(c), None, "{c:?}");
        }
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(parse_byte_token("<0x0A>"), Some(10));
        assert_eq!(parse_byte_token("<0xff>"), Some(255));
        for bad in ["<0x0>", "<0x0AA>", "<0x+A>", "0x0A", "<0x0A", "", "<0x\u{e9}>"] {
            assert_eq!(parse_byte_token(bad), None, "{bad}");
        }
    }
}
