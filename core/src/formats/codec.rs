//! [`Format`]'s conversions over slices: checks of lengths, scales and codes, and the loop over blocks.

use super::half::{f16_is_bad, f16_to_f32};
use super::table::Codes;
use super::*;

/// Appends values as blocks of a format.
type Quantize = fn(Format, &[f32], &mut Vec<u8>) -> Result<(), FormatError>;

/// What there is to know of a format; see [`super::table`].
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) type_id: u32,
    pub(super) file_type: Option<u32>,
    pub(super) len: usize,
    pub(super) bytes: usize,
    /// Bytes after the blocks of a tensor.
    pub(super) tail: usize,
    /// Where the f16 scales of a block stand.
    pub(super) scales: &'static [usize],
    pub(super) is_float: bool,
    /// The codes of a ternary type.
    pub(super) codes: Option<Codes>,
    /// Blocks to values. Lengths and scales were checked.
    pub(super) dequantize: fn(&[u8], &mut [f32]),
    /// Blocks to codes and scales (f16 bits). Lengths were checked.
    pub(super) decode: fn(&[u8], &mut [u8], &mut [u16]),
    /// Codes and scales to blocks. Lengths, codes and scales were checked.
    pub(super) encode: fn(&[u8], &[u16], &mut Vec<u8>),
    /// Values to blocks. The length was checked. On an error `out` may have grown.
    pub(super) quantize: Option<Quantize>,
}

impl Row {
    /// A type that can do nothing yet.
    pub(super) const fn of(len: usize, bytes: usize, scales: &'static [usize]) -> Self {
        Self {
            name: "",
            type_id: 0,
            file_type: None,
            len,
            bytes,
            tail: 0,
            scales,
            is_float: false,
            codes: None,
            dequantize: |_, _| {},
            decode: |_, _, _| {},
            encode: |_, _, _| {},
            quantize: None,
        }
    }
}

impl Format {
    /// The values of whole blocks; of [`Format::I2_S`] the whole tensor with its tail. `out` has as many elements as
    /// the blocks.
    ///
    /// # Errors
    /// [`FormatError::Length`] if the slices do not go together, [`FormatError::BadScale`] if a scale is NaN or
    /// infinite. Plain floats (F32, F16, BF16) are passed on as they are.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
        self.check_bytes(out.len(), bytes.len(), self.tail_bytes())?;
        if self.tail_bytes() > 0 {
            self.tensor_scale(bytes, out.len())?;
        }
        self.check_scales(bytes)?;
        (self.row().dequantize)(bytes, out);
        Ok(())
    }

    /// Takes whole blocks (for example a row) of a ternary type apart.
    ///
    /// `codes` (value + 1, 0 to 3) has as many elements as the blocks, `scales` (f16 bits) as many as there are
    /// blocks, none for [`Format::I2_S`]. `bytes` of I2_S may be blocks alone or the whole tensor with its tail.
    ///
    /// # Errors
    /// [`FormatError::Length`] if the slices do not go together, [`FormatError::BadScale`] if a scale is NaN or
    /// infinite, [`FormatError::NotTernary`].
    pub fn decode_codes(self, bytes: &[u8], codes: &mut [u8], scales: &mut [u16]) -> Result<(), FormatError> {
        if !self.is_ternary() {
            return Err(FormatError::NotTernary { format: self });
        }
        let tail = if bytes.len() == self.tail_bytes() + codes.len() / 4 { self.tail_bytes() } else { 0 };
        let blocks = self.check_bytes(codes.len(), bytes.len(), tail)?;
        self.check_scale_count(blocks, scales.len())?;
        (self.row().decode)(bytes, codes, scales);
        match scales.iter().position(|&scale| f16_is_bad(scale)) {
            Some(block) => Err(self.bad_scale(block, f16_to_f32(scales[block]))),
            None => Ok(()),
        }
    }

    /// The exact inverse of [`Format::decode_codes`], appended to `out`. For [`Format::I2_S`] without scales: the
    /// tensor's follows with [`Format::encode_tensor_scale`] once all rows are written.
    ///
    /// # Errors
    /// [`FormatError::Length`] if the slices are not whole blocks, [`FormatError::Code`] if the type cannot hold a
    /// code, [`FormatError::BadScale`] if a scale is NaN or infinite, [`FormatError::NotTernary`].
    pub fn encode_codes(self, codes: &[u8], scales: &[u16], out: &mut Vec<u8>) -> Result<(), FormatError> {
        let Some(held) = self.codes() else { return Err(FormatError::NotTernary { format: self }) };
        let blocks = self.check_len(codes.len())?;
        self.check_scale_count(blocks, scales.len())?;
        if let Some(index) = codes.iter().position(|&code| !held.holds(code)) {
            return Err(FormatError::Code { format: self, index, code: codes[index] });
        }
        if let Some(block) = scales.iter().position(|&scale| f16_is_bad(scale)) {
            return Err(self.bad_scale(block, f16_to_f32(scales[block])));
        }
        (self.row().encode)(codes, scales, out);
        Ok(())
    }

    /// The scale of a whole [`Format::I2_S`] tensor of `elements`.
    ///
    /// # Errors
    /// [`FormatError::NoTensorScale`] for other types, [`FormatError::Length`] if `bytes` end before the scale,
    /// [`FormatError::BadScale`] if it is NaN or infinite.
    pub fn tensor_scale(self, bytes: &[u8], elements: usize) -> Result<f32, FormatError> {
        if self.tail_bytes() == 0 {
            return Err(FormatError::NoTensorScale { format: self });
        }
        let codes = self.check_len(elements)? * self.block_bytes();
        let scale = bytes.get(codes..).and_then(i2_s::scale).ok_or(FormatError::Length {
            format: self,
            what: "bytes of the tensor",
            expected: codes.saturating_add(self.tail_bytes()),
            found: bytes.len(),
        })?;
        if scale.is_finite() { Ok(scale) } else { Err(self.bad_scale(0, scale)) }
    }

    /// Appends the tail of an [`Format::I2_S`] tensor with its scale.
    ///
    /// # Errors
    /// [`FormatError::NoTensorScale`] for other types, [`FormatError::BadScale`] if it is NaN or infinite.
    pub fn encode_tensor_scale(self, scale: f32, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.tail_bytes() == 0 {
            return Err(FormatError::NoTensorScale { format: self });
        }
        if !scale.is_finite() {
            return Err(self.bad_scale(0, scale));
        }
        out.extend(i2_s::tail(scale));
        Ok(())
    }

    /// Appends `values`, whole blocks, in this type: ggml's reference quantizer for those types that are written. For
    /// [`Format::I2_S`] the values are the whole tensor, and its tail is appended as well.
    ///
    /// # Errors
    /// [`FormatError::Length`] if the values are not whole blocks, [`FormatError::NotFinite`] (except for plain
    /// floats) and [`FormatError::OutOfRange`] if a value or scale cannot be held, [`FormatError::NoQuantizer`] for
    /// types that are only read. On an error `out` is as it was.
    pub fn quantize(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.check_len(values.len())?;
        let Some(quantize) = self.row().quantize else { return Err(FormatError::NoQuantizer { format: self }) };
        if !self.is_float()
            && let Some(index) = values.iter().position(|value| !value.is_finite())
        {
            return Err(FormatError::NotFinite { format: self, index, value: values[index].to_string() });
        }
        let start = out.len();
        quantize(self, values, out).inspect_err(|_| out.truncate(start))
    }

    /// The number of blocks in `elements`.
    fn check_len(self, elements: usize) -> Result<usize, FormatError> {
        let block = self.block_len();
        if elements.is_multiple_of(block) {
            return Ok(elements / block);
        }
        let expected = elements.next_multiple_of(block);
        Err(FormatError::Length { format: self, what: "a number of elements", expected, found: elements })
    }

    /// The number of blocks in `elements`, with as many bytes to them and a tail.
    fn check_bytes(self, elements: usize, found: usize, tail: usize) -> Result<usize, FormatError> {
        let blocks = self.check_len(elements)?;
        match blocks.checked_mul(self.block_bytes()).and_then(|bytes| bytes.checked_add(tail)) {
            Some(expected) if expected == found => Ok(blocks),
            expected => {
                let expected = expected.unwrap_or(usize::MAX);
                Err(FormatError::Length { format: self, what: "bytes of blocks", expected, found })
            }
        }
    }

    fn check_scale_count(self, blocks: usize, found: usize) -> Result<(), FormatError> {
        let expected = if self.group().is_some() { blocks } else { 0 };
        if expected == found {
            return Ok(());
        }
        Err(FormatError::Length { format: self, what: "a number of scales", expected, found })
    }

    /// Refuses blocks with f16 scales that are NaN or infinite.
    fn check_scales(self, bytes: &[u8]) -> Result<(), FormatError> {
        let places = self.row().scales;
        if places.is_empty() {
            return Ok(());
        }
        for (index, block) in bytes.chunks_exact(self.block_bytes()).enumerate() {
            for &place in places {
                let bits = u16::from_le_bytes([block[place], block[place + 1]]);
                if f16_is_bad(bits) {
                    return Err(self.bad_scale(index, f16_to_f32(bits)));
                }
            }
        }
        Ok(())
    }

    fn bad_scale(self, block: usize, scale: f32) -> FormatError {
        FormatError::BadScale { format: self, block, scale: scale.to_string() }
    }

    /// The error for a block whose scale is beyond f16; names its largest value.
    fn out_of_range(self, values: &[f32], block: usize) -> FormatError {
        let index = block * self.block_len();
        let values = values.get(index..index + self.block_len()).unwrap_or_default();
        FormatError::OutOfRange { format: self, index, value: quantizer::absmax(values) }
    }
}

/// Codes times their scale.
#[inline(always)]
pub(super) fn scale_codes<const LEN: usize>(codes: &[u8; LEN], scale: f32, out: &mut [f32; LEN]) {
    for j in 0..LEN {
        out[j] = (codes[j] as i32 - 1) as f32 * scale;
    }
}

pub(super) fn dequantize<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(bytes, out);
    }
}

pub(super) fn decode<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    codes: &mut [u8],
    scales: &mut [u16],
    block: impl Fn(&[u8; BYTES], &mut [u8; LEN]) -> u16,
) {
    for ((bytes, codes), scale) in bytes.as_chunks().0.iter().zip(codes.as_chunks_mut().0).zip(scales) {
        *scale = block(bytes, codes);
    }
}

pub(super) fn encode<const BYTES: usize, const LEN: usize>(
    codes: &[u8],
    scales: &[u16],
    out: &mut Vec<u8>,
    block: impl Fn(&[u8; LEN], u16) -> [u8; BYTES],
) {
    for (codes, &scale) in codes.as_chunks().0.iter().zip(scales) {
        out.extend(block(codes, scale));
    }
}

/// Plain floats: NaN and infinities are passed on, a finite value that becomes infinite is an error.
pub(super) fn quantize_floats<const BYTES: usize>(
    format: Format,
    values: &[f32],
    out: &mut Vec<u8>,
    block: impl Fn(&[f32; 1]) -> [u8; BYTES],
    is_finite: impl Fn(&[u8; BYTES]) -> bool,
) -> Result<(), FormatError> {
    for (index, &value) in values.iter().enumerate() {
        let bytes = block(&[value]);
        if value.is_finite() && !is_finite(&bytes) {
            return Err(FormatError::OutOfRange { format, index, value });
        }
        out.extend(bytes);
    }
    Ok(())
}

pub(super) fn quantize_blocks<const BYTES: usize, const LEN: usize>(
    format: Format,
    values: &[f32],
    out: &mut Vec<u8>,
    block: impl Fn(&[f32; LEN]) -> [u8; BYTES],
) -> Result<(), FormatError> {
    let start = out.len();
    for values in values.as_chunks().0 {
        out.extend(block(values));
    }
    match format.check_scales(&out[start..]) {
        Err(FormatError::BadScale { block, .. }) => Err(format.out_of_range(values, block)),
        result => result,
    }
}

/// Values to ternary blocks.
pub(super) fn quantize_codes<const LEN: usize>(
    format: Format,
    values: &[f32],
    out: &mut Vec<u8>,
    block: impl Fn(&[f32; LEN]) -> ([u8; LEN], u16),
) -> Result<(), FormatError> {
    for (index, values_of_block) in values.as_chunks().0.iter().enumerate() {
        let (codes, scale) = block(values_of_block);
        format.encode_codes(&codes, &[scale], out).map_err(|error| match error {
            FormatError::BadScale { .. } => format.out_of_range(values, index),
            error => error,
        })?;
    }
    Ok(())
}
