//! [`Format`]'s conversions over slices: checks of lengths, scales and codes, and the loop over blocks.

use super::half::{f16_is_bad, f16_to_f32};
use super::*;

impl Format {
    /// The values of whole blocks; of [`Format::I2_S`] the whole tensor with its tail. `out` has as many elements as
    /// the blocks.
    ///
    /// # Errors
    /// [`FormatError::Length`] if the slices do not go together, [`FormatError::BadScale`] if a scale is NaN or
    /// infinite. Plain floats (F32, F16, BF16) are passed on as they are.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
        let blocks = self.check_bytes(out.len(), bytes.len(), self.tail_bytes())?;
        match self {
            Self::F32 => plain(bytes, out, fp32::dequantize_block),
            Self::F16 => plain(bytes, out, f16::dequantize_block),
            Self::BF16 => plain(bytes, out, bf16::dequantize_block),
            Self::Q8_0 => {
                self.check_scales(bytes, [0])?;
                plain(bytes, out, q8_0::dequantize_block);
            }
            Self::Q4_0 => {
                self.check_scales(bytes, [0])?;
                plain(bytes, out, q4_0::dequantize_block);
            }
            Self::Q4_K => {
                self.check_scales(bytes, [0, 2])?;
                plain(bytes, out, q4_k::dequantize_block);
            }
            Self::Q6_K => {
                self.check_scales(bytes, [208])?;
                plain(bytes, out, q6_k::dequantize_block);
            }
            Self::TQ1_0 => self.scaled(bytes, out, tq1_0::decode_block)?,
            Self::TQ2_0 => self.scaled(bytes, out, tq2_0::decode_block)?,
            Self::Q2_0 => self.scaled::<{ q2_0::BYTES }, { q2_0::LEN }>(bytes, out, q2_0::decode_block)?,
            Self::Q2_0G128 | Self::PQ2_0 => {
                self.scaled::<{ pq2_0::BYTES }, { pq2_0::LEN }>(bytes, out, q2_0::decode_block)?;
            }
            Self::PTQ1_0 => self.scaled(bytes, out, ptq1_0::decode_block)?,
            Self::Q1_0 => self.scaled(bytes, out, q1_0::decode_block)?,
            Self::I2_S => {
                let scale = self.tensor_scale(bytes, out.len())?;
                let mut codes = [0; i2_s::LEN];
                for (block, out) in bytes[..blocks * i2_s::BYTES].as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                    i2_s::decode_block(block, &mut codes);
                    scale_codes(&codes, scale, out);
                }
            }
        }
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
        match self {
            Self::TQ1_0 => split(bytes, codes, scales, tq1_0::decode_block),
            Self::TQ2_0 => split(bytes, codes, scales, tq2_0::decode_block),
            Self::Q2_0 => split::<{ q2_0::BYTES }, { q2_0::LEN }>(bytes, codes, scales, q2_0::decode_block),
            Self::Q2_0G128 | Self::PQ2_0 => {
                split::<{ pq2_0::BYTES }, { pq2_0::LEN }>(bytes, codes, scales, q2_0::decode_block);
            }
            Self::PTQ1_0 => split(bytes, codes, scales, ptq1_0::decode_block),
            Self::Q1_0 => split(bytes, codes, scales, q1_0::decode_block),
            _ => {
                for (block, codes) in bytes.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
                    i2_s::decode_block(block, codes);
                }
            }
        }
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
        if !self.is_ternary() {
            return Err(FormatError::NotTernary { format: self });
        }
        let blocks = self.check_len(codes.len())?;
        self.check_scale_count(blocks, scales.len())?;
        let held = |code: u8| match self {
            Self::TQ1_0 | Self::PTQ1_0 => code <= 2,
            Self::Q1_0 => code == 0 || code == 2,
            _ => code <= 3,
        };
        if let Some(index) = codes.iter().position(|&code| !held(code)) {
            return Err(FormatError::Code { format: self, index, code: codes[index] });
        }
        if let Some(block) = scales.iter().position(|&scale| f16_is_bad(scale)) {
            return Err(self.bad_scale(block, f16_to_f32(scales[block])));
        }
        match self {
            Self::TQ1_0 => join(codes, scales, out, tq1_0::encode_block),
            Self::TQ2_0 => join(codes, scales, out, tq2_0::encode_block),
            Self::Q2_0 => join::<{ q2_0::BYTES }, { q2_0::LEN }>(codes, scales, out, q2_0::encode_block),
            Self::Q2_0G128 | Self::PQ2_0 => {
                join::<{ pq2_0::BYTES }, { pq2_0::LEN }>(codes, scales, out, q2_0::encode_block);
            }
            Self::PTQ1_0 => join(codes, scales, out, ptq1_0::encode_block),
            Self::Q1_0 => join(codes, scales, out, q1_0::encode_block),
            _ => out.extend(codes.as_chunks().0.iter().flat_map(i2_s::encode_block)),
        }
        Ok(())
    }

    /// The scale of a whole [`Format::I2_S`] tensor of `elements`.
    ///
    /// # Errors
    /// [`FormatError::NoTensorScale`] for other types, [`FormatError::Length`] if `bytes` end before the scale,
    /// [`FormatError::BadScale`] if it is NaN or infinite.
    pub fn tensor_scale(self, bytes: &[u8], elements: usize) -> Result<f32, FormatError> {
        if self != Self::I2_S {
            return Err(FormatError::NoTensorScale { format: self });
        }
        let codes = self.check_len(elements)? * self.block_bytes();
        let scale = bytes.get(codes..).and_then(|tail| tail.first_chunk()).ok_or(FormatError::Length {
            format: self,
            what: "bytes of the tensor",
            expected: codes.saturating_add(self.tail_bytes()),
            found: bytes.len(),
        })?;
        let scale = f32::from_le_bytes(*scale);
        if scale.is_finite() { Ok(scale) } else { Err(self.bad_scale(0, scale)) }
    }

    /// Appends the tail of an [`Format::I2_S`] tensor with its scale.
    ///
    /// # Errors
    /// [`FormatError::NoTensorScale`] for other types, [`FormatError::BadScale`] if it is NaN or infinite.
    pub fn encode_tensor_scale(self, scale: f32, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self != Self::I2_S {
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
    /// Q4_0, Q4_K and Q6_K.
    pub fn quantize(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.check_len(values.len())?;
        if !matches!(self, Self::F32 | Self::F16 | Self::BF16)
            && let Some(index) = values.iter().position(|value| !value.is_finite())
        {
            return Err(FormatError::NotFinite { format: self, index, value: values[index].to_string() });
        }
        let start = out.len();
        match self {
            Self::F32 => each(values, out, fp32::quantize_block),
            Self::F16 => {
                each(values, out, f16::quantize_block);
                let halves = out[start..].as_chunks().0.iter().map(|&half| u16::from_le_bytes(half));
                let bad = halves.zip(values).position(|(half, value)| f16_is_bad(half) && value.is_finite());
                if let Some(index) = bad {
                    out.truncate(start);
                    return Err(FormatError::OutOfRange { format: self, index, value: values[index] });
                }
            }
            Self::BF16 => each(values, out, bf16::quantize_block),
            Self::Q8_0 => {
                each(values, out, q8_0::quantize_block);
                if let Err(FormatError::BadScale { block, .. }) = self.check_scales(&out[start..], [0]) {
                    out.truncate(start);
                    return Err(self.out_of_range(values, block));
                }
            }
            Self::Q4_0 | Self::Q4_K | Self::Q6_K => return Err(FormatError::NoQuantizer { format: self }),
            Self::TQ1_0 => self.ternary(values, out, tq1_0::quantize_block)?,
            Self::TQ2_0 => self.ternary(values, out, tq2_0::quantize_block)?,
            Self::Q2_0 => self.ternary::<{ q2_0::LEN }>(values, out, q2_0::quantize_block)?,
            Self::Q2_0G128 | Self::PQ2_0 => self.ternary::<{ pq2_0::LEN }>(values, out, q2_0::quantize_block)?,
            Self::PTQ1_0 => self.ternary(values, out, ptq1_0::quantize_block)?,
            Self::Q1_0 => self.ternary(values, out, q1_0::quantize_block)?,
            Self::I2_S => {
                let codes = values.iter().map(|&value| i2_s::quantize_value(value)).collect::<Vec<_>>();
                self.encode_codes(&codes, &[], out)?;
                self.encode_tensor_scale(quantizer::absmax(values), out)?;
            }
        }
        Ok(())
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
        let expected = if self == Self::I2_S { 0 } else { blocks };
        if expected == found {
            return Ok(());
        }
        Err(FormatError::Length { format: self, what: "a number of scales", expected, found })
    }

    /// Refuses blocks with f16 scales, at the given bytes of each block, that are NaN or infinite.
    fn check_scales<const N: usize>(self, bytes: &[u8], places: [usize; N]) -> Result<(), FormatError> {
        for (index, block) in bytes.chunks_exact(self.block_bytes()).enumerate() {
            for place in places {
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

    /// Dequantizes ternary blocks.
    fn scaled<const BYTES: usize, const LEN: usize>(
        self,
        bytes: &[u8],
        out: &mut [f32],
        decode: impl Fn(&[u8; BYTES], &mut [u8; LEN]) -> u16,
    ) -> Result<(), FormatError> {
        let mut codes = [0; LEN];
        for (index, (block, out)) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0).enumerate() {
            let scale = decode(block, &mut codes);
            if f16_is_bad(scale) {
                return Err(self.bad_scale(index, f16_to_f32(scale)));
            }
            scale_codes::<LEN>(&codes, f16_to_f32(scale), out);
        }
        Ok(())
    }

    /// Quantizes to ternary blocks.
    fn ternary<const LEN: usize>(
        self,
        values: &[f32],
        out: &mut Vec<u8>,
        quantize: impl Fn(&[f32; LEN]) -> ([u8; LEN], u16),
    ) -> Result<(), FormatError> {
        let start = out.len();
        for (block, values_of_block) in values.as_chunks().0.iter().enumerate() {
            let (codes, scale) = quantize(values_of_block);
            self.encode_codes(&codes, &[scale], out).map_err(|error| {
                out.truncate(start);
                if let FormatError::BadScale { .. } = error { self.out_of_range(values, block) } else { error }
            })?;
        }
        Ok(())
    }
}

fn scale_codes<const LEN: usize>(codes: &[u8; LEN], scale: f32, out: &mut [f32; LEN]) {
    for j in 0..LEN {
        out[j] = (codes[j] as i32 - 1) as f32 * scale;
    }
}

fn plain<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        dequantize(block, out);
    }
}

fn split<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    codes: &mut [u8],
    scales: &mut [u16],
    decode: impl Fn(&[u8; BYTES], &mut [u8; LEN]) -> u16,
) {
    for ((block, codes), scale) in bytes.as_chunks().0.iter().zip(codes.as_chunks_mut().0).zip(scales) {
        *scale = decode(block, codes);
    }
}

fn join<const BYTES: usize, const LEN: usize>(
    codes: &[u8],
    scales: &[u16],
    out: &mut Vec<u8>,
    encode: impl Fn(&[u8; LEN], u16) -> [u8; BYTES],
) {
    for (codes, &scale) in codes.as_chunks().0.iter().zip(scales) {
        out.extend(encode(codes, scale));
    }
}

fn each<const BYTES: usize, const LEN: usize>(
    values: &[f32],
    out: &mut Vec<u8>,
    quantize: impl Fn(&[f32; LEN]) -> [u8; BYTES],
) {
    for values in values.as_chunks().0 {
        out.extend(quantize(values));
    }
}
