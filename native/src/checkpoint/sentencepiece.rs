//! tokenizer.model: the pieces of a SentencePiece model, read from its protocol buffer.
//!
//! Of the message `ModelProto` these fields are read: 1 pieces (1 text, 2 score, 3 type), 2 trainer_spec (3 model_type,
//! 24 treat_whitespace_as_suffix), 3 normalizer_spec (1 name, 2 precompiled_charsmap, 3 add_dummy_prefix,
//! 4 remove_extra_whitespaces, 5 escape_whitespaces). Everything else is skipped by its wire type. Lengths are
//! checked against the bytes that are there.

use anyhow::{Context, Result, bail};

/// More pieces than any vocabulary has.
const MAX_PIECES: usize = 1 << 24;

/// One piece of the vocabulary; its place is its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its text, spaces as U+2581.
    pub text: String,
    /// Pieces with higher scores are merged first.
    pub score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte: the numbers of GGUF as well.
    pub kind: i32,
}

/// What is needed of a SentencePiece model.
#[derive(Clone, Debug, PartialEq)]
pub struct SentencePieceModel {
    /// The vocabulary.
    pub pieces: Vec<Piece>,
    /// A space is put before a text.
    pub add_dummy_prefix: bool,
    /// Runs of spaces become one.
    pub remove_extra_whitespaces: bool,
    /// What it does to texts that a GGUF has no key for, each in a few words.
    pub beyond_gguf: Vec<String>,
}

/// Reads a model.
///
/// # Errors
/// Bytes that are no such message, or a model that is not BPE.
pub fn parse(bytes: &[u8]) -> Result<SentencePieceModel> {
    let mut model = SentencePieceModel {
        pieces: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        beyond_gguf: Vec::new(),
    };
    let mut kind = 1;
    let (mut normalizer, mut has_map) = (String::new(), false);
    for_each(bytes, |field, value| {
        match (field, value) {
            (1, Wire::Bytes(bytes)) => {
                if model.pieces.len() == MAX_PIECES {
                    bail!("more than {MAX_PIECES} pieces");
                }
                let piece = piece(bytes).with_context(|| format!("piece {}", model.pieces.len()))?;
                model.pieces.push(piece);
            }
            (2, Wire::Bytes(bytes)) => for_each(bytes, |field, value| {
                match (field, value) {
                    (3, Wire::Number(number)) => kind = number,
                    (24, Wire::Number(1)) => {
                        model.beyond_gguf.push("spaces end words (treat_whitespace_as_suffix)".to_owned());
                    }
                    _ => {}
                }
                Ok(())
            })?,
            (3, Wire::Bytes(bytes)) => for_each(bytes, |field, value| {
                match (field, value) {
                    (1, Wire::Bytes(name)) => normalizer = String::from_utf8_lossy(name).into_owned(),
                    (2, Wire::Bytes(map)) => has_map = !map.is_empty(),
                    (5, Wire::Number(0)) => {
                        model.beyond_gguf.push("spaces are not escaped (escape_whitespaces)".to_owned());
                    }
                    (3, Wire::Number(number)) => model.add_dummy_prefix = number != 0,
                    (4, Wire::Number(number)) => model.remove_extra_whitespaces = number != 0,
                    _ => {}
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    if model.pieces.is_empty() {
        bail!("it holds no pieces");
    }
    if has_map {
        model.beyond_gguf.push(format!("characters are normalized ({normalizer})"));
    }
    if kind != 2 {
        let name = match kind {
            1 => "unigram",
            3 => "word",
            4 => "char",
            _ => "unknown",
        };
        bail!("its model type is {name}; only BPE models are supported");
    }
    Ok(model)
}

fn piece(bytes: &[u8]) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
    for_each(bytes, |field, value| {
        match (field, value) {
            (1, Wire::Bytes(text)) => {
                std::str::from_utf8(text).context("its text is not UTF-8")?.clone_into(&mut piece.text)
            }
            (2, Wire::Four(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Number(kind)) => {
                let known = i32::try_from(kind).ok().filter(|kind| (1..=6).contains(kind));
                piece.kind = known.with_context(|| format!("its type {kind} is not known"))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    if !piece.score.is_finite() {
        bail!("its score is {}", piece.score);
    }
    Ok(piece)
}

/// The value of a field.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Four(u32),
    Eight,
}

/// Calls `each` with the number and value of every field of a message.
fn for_each<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u64, Wire<'a>) -> Result<()>) -> Result<()> {
    let cut = "the message is cut short";
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => {
                bytes = bytes.get(8..).context(cut)?;
                Wire::Eight
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok().filter(|&length| length <= bytes.len());
                let (value, rest) = bytes.split_at(length.context(cut)?);
                bytes = rest;
                Wire::Bytes(value)
            }
            5 => {
                let (value, rest) = bytes.split_first_chunk().context(cut)?;
                bytes = rest;
                Wire::Four(u32::from_le_bytes(*value))
            }
            other => bail!("wire type {other} is not one of protocol buffers"),
        };
        each(key >> 3, value)?;
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().context("a number is cut short")?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(value);
        }
    }
    bail!("a number has more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn piece(text: &str, score: f32, kind: Option<u8>) -> Vec<u8> {
        let mut bytes = message(1, text.as_bytes());
        bytes.push(2 << 3 | 5);
        bytes.extend(score.to_le_bytes());
        if let Some(kind) = kind {
            bytes.extend([3 << 3, kind]);
        }
        message(1, &bytes)
    }

    fn model(kind: u8) -> Vec<u8> {
        let fixed64 = [9 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8];
        [
            piece("<unk>", 0.0, Some(2)),
            piece("▁a", -1.5, None),
            fixed64.to_vec(),
            message(2, &[3 << 3, kind, 4 << 3, 0x80, 0x7d]),
            message(3, &[3 << 3, 0]),
        ]
        .concat()
    }

    #[test]
    fn pieces_and_settings_are_read() {
        let model = parse(&model(2)).unwrap();
        assert_eq!(model.pieces[0], Piece { text: "<unk>".into(), score: 0.0, kind: 2 });
        assert_eq!(model.pieces[1], Piece { text: "▁a".into(), score: -1.5, kind: 1 });
        assert!(!model.add_dummy_prefix && model.remove_extra_whitespaces);
        assert_eq!(model.beyond_gguf, [""; 0]);
    }

    #[test]
    fn what_a_gguf_cannot_say_is_told() {
        let normalizer = [&message(1, b"nmt_nfkc")[..], &message(2, &[1, 2, 3]), &[5 << 3, 0]].concat();
        // Field 24 takes two bytes.
        let trainer = [3 << 3, 2, 0xc0, 1, 1];
        let bytes = [piece("a", 0.0, None), message(2, &trainer), message(3, &normalizer)].concat();
        let told = parse(&bytes).unwrap().beyond_gguf.join("; ");
        for word in ["nmt_nfkc", "escape_whitespaces", "treat_whitespace_as_suffix"] {
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn what_is_no_bpe_model_is_refused() {
        assert!(parse(&model(1)).unwrap_err().to_string().contains("unigram"));
        assert!(parse(b"").unwrap_err().to_string().contains("no pieces"));
        let bytes = model(2);
        for cut in 1..bytes.len() {
            // Fewer fields may still be a message, but none panics.
            let _ = parse(&bytes[..cut]);
        }
        for bad in [
            &[0x0a, 200][..],
            &[0x80; 12],
            &[0x07],
            &message(1, &[0x0a, 1, 0xff])[..],
            &piece("x", f32::NAN, None),
            &piece("x", 0.0, Some(9)),
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
