//! The reader fed by chunks of any size: first the header, then each tensor's whole bytes in the order of the file.
//!
//! Holds one tensor at a time. Not here: fetching the chunks, and what to do with a tensor.

use super::parser::Parser;
use super::{GgufError, Header, TensorInfo};

/// How far the buffer of a tensor is reserved ahead of the bytes that came, if the stream's length is unknown.
const RESERVE: usize = 1 << 20;

/// What a [`StreamReader`] has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// The header is complete. Comes first, once.
    Header(&'a Header),
    /// A tensor is complete. Tensors come in the order of their offsets.
    Tensor {
        /// The tensor's place in [`Header::tensors`].
        index: usize,
        /// The tensor.
        info: &'a TensorInfo,
        /// Its bytes, padding after it included, as [`Gguf::data`](super::Gguf::data) gives them.
        bytes: &'a [u8],
    },
}

/// Reads a GGUF file from chunks.
///
/// ```
/// # use sterna_core::gguf::{Event, GgufError, StreamReader};
/// # fn read(chunks: &[&[u8]]) -> Result<(), GgufError> {
/// let mut reader = StreamReader::new(None);
/// for chunk in chunks {
///     let mut rest = *chunk;
///     while let Some(event) = reader.read(&mut rest)? {
///         if let Event::Tensor { info, bytes, .. } = event {
///             println!("{}: {} bytes", info.name, bytes.len());
///         }
///     }
/// }
/// while let Some(_event) = reader.finish()? { /* the last tensor, if the length was not given */ }
/// # Ok(())
/// # }
/// # assert!(read(&[b"GGUF", &[3, 0, 0, 0], &[0; 16]]).is_ok());
/// ```
#[derive(Debug)]
pub struct StreamReader {
    length: Option<u64>,
    /// Bytes of the stream taken so far.
    position: u64,
    parser: Parser,
    header: Option<Header>,
    /// Places of the tensors, by offset.
    order: Vec<usize>,
    /// How many tensors of `order` were delivered.
    delivered: usize,
    /// While the header is read: the beginning of an atom. Later: the beginning of the tensor that is due.
    buffer: Vec<u8>,
    /// Whether `buffer` is a tensor that was delivered.
    spent: bool,
}

impl StreamReader {
    /// A reader for a stream of the given total length in bytes.
    ///
    /// Give the length where it is known: lying counts are then refused before they are waited for, and the buffer of
    /// a tensor is allocated once. Without it, the last tensor ends where the stream does.
    pub fn new(length: Option<u64>) -> Self {
        Self {
            length,
            position: 0,
            parser: Parser::new(length),
            header: None,
            order: Vec::new(),
            delivered: 0,
            buffer: Vec::new(),
            spent: false,
        }
    }

    /// The header, once it is complete.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Bytes of the stream taken so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes bytes from the front of `chunk`, up to the next event or to the chunk's end (then `None`).
    ///
    /// # Errors
    /// A [`GgufError`] for each way in which the file can be malformed; the reader is of no use after one.
    pub fn read(&mut self, chunk: &mut &[u8]) -> Result<Option<Event<'_>>, GgufError> {
        if let Some(length) = self.length {
            let all = self.position.checked_add(chunk.len() as u64);
            if all.is_none_or(|all| all > length) {
                return Err(GgufError::TooMuchData { length });
            }
        }
        if self.header.is_none() {
            return self.read_header(chunk);
        }
        self.release();
        let Some((index, offset, size)) = self.due() else {
            // After the last tensor nothing is of interest.
            self.skip(chunk, chunk.len());
            return Ok(None);
        };
        if self.position < offset {
            let gap = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            self.skip(chunk, gap.min(chunk.len()));
            if self.position < offset {
                return Ok(None);
            }
        }
        let missing = usize::try_from(size - self.buffer.len() as u64).unwrap_or(usize::MAX);
        let count = missing.min(chunk.len());
        self.reserve(index, size, count)?;
        let (bytes, rest) = chunk.split_at(count);
        self.buffer.extend_from_slice(bytes);
        *chunk = rest;
        self.position += count as u64;
        if self.buffer.len() as u64 == size { Ok(self.deliver(index)) } else { Ok(None) }
    }

    /// Ends the stream. Call it until it returns `None`; a last tensor of unknown size is delivered here.
    ///
    /// # Errors
    /// [`GgufError::Truncated`] if the header or a tensor is incomplete, [`GgufError::TensorBeyondEnd`] if the last
    /// tensor did not begin.
    pub fn finish(&mut self) -> Result<Option<Event<'_>>, GgufError> {
        if self.header.is_none() {
            return Err(self.parser.truncated(self.buffer.len()));
        }
        self.release();
        let position = self.position;
        let Some((index, offset, size)) = self.due() else { return Ok(None) };
        let got = self.buffer.len() as u64;
        let Some(info) = self.header.as_mut().and_then(|header| header.tensors.get_mut(index)) else { return Ok(None) };
        if size == TensorInfo::UNKNOWN_SIZE && got > 0 {
            info.size = got;
            return Ok(self.deliver(index));
        }
        let name = info.name.clone();
        if size == TensorInfo::UNKNOWN_SIZE {
            return Err(GgufError::TensorBeyondEnd { name, offset, length: position });
        }
        let needed = offset.saturating_add(size).saturating_sub(position);
        Err(GgufError::Truncated { what: format!("tensor `{name}`"), offset: position, needed })
    }

    fn read_header(&mut self, chunk: &mut &[u8]) -> Result<Option<Event<'_>>, GgufError> {
        let before = chunk.len();
        let mut header = None;
        while header.is_none() && !chunk.is_empty() {
            if self.buffer.is_empty() {
                header = self.parser.advance(chunk)?;
                if header.is_none() {
                    self.buffer.extend_from_slice(chunk);
                    *chunk = &[];
                }
            } else {
                // An atom straddles chunks: add just what it lacks, so that nothing behind it is ever buffered.
                let lacking = self.parser.needed().saturating_sub(self.buffer.len()).max(1).min(chunk.len());
                let (bytes, rest) = chunk.split_at(lacking);
                self.buffer.extend_from_slice(bytes);
                *chunk = rest;
                let mut whole = self.buffer.as_slice();
                header = self.parser.advance(&mut whole)?;
                let left = whole.len();
                self.buffer.drain(..self.buffer.len() - left);
            }
        }
        self.position += (before - chunk.len()) as u64;
        let Some(header) = header else { return Ok(None) };
        self.order = (0..header.tensors.len()).collect();
        self.order.sort_by_key(|&index| header.tensors[index].offset);
        self.buffer = Vec::new();
        Ok(Some(Event::Header(self.header.insert(header))))
    }

    /// Place, offset and size of the tensor that comes next.
    fn due(&self) -> Option<(usize, u64, u64)> {
        let index = *self.order.get(self.delivered)?;
        let info = self.header.as_ref()?.tensors.get(index)?;
        Some((index, info.offset, info.size))
    }

    fn skip(&mut self, chunk: &mut &[u8], count: usize) {
        *chunk = chunk.get(count..).unwrap_or_default();
        self.position += count as u64;
    }

    /// Makes room for `count` more bytes of a tensor, never beyond what the tensor or the bytes at hand justify.
    fn reserve(&mut self, index: usize, size: u64, count: usize) -> Result<(), GgufError> {
        if self.buffer.capacity() - self.buffer.len() >= count {
            return Ok(());
        }
        let missing = usize::try_from(size - self.buffer.len() as u64).unwrap_or(usize::MAX);
        // With the length announced, the parser has checked that the tensor lies within it.
        let ahead = if self.length.is_some() { missing } else { self.buffer.len().max(RESERVE).min(missing) };
        self.buffer.try_reserve_exact(ahead.max(count)).map_err(|_| {
            let name = self.header.as_ref().and_then(|header| header.tensors.get(index)).map(|info| info.name.as_str());
            GgufError::OutOfMemory { what: format!("tensor `{}`", name.unwrap_or_default()), size }
        })
    }

    fn deliver(&mut self, index: usize) -> Option<Event<'_>> {
        self.delivered += 1;
        self.spent = true;
        let info = self.header.as_ref()?.tensors.get(index)?;
        Some(Event::Tensor { index, info, bytes: &self.buffer })
    }

    /// Gives a delivered tensor's memory back.
    fn release(&mut self) {
        if std::mem::take(&mut self.spent) {
            self.buffer = Vec::new();
        }
    }
}
