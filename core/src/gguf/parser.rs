//! The one parser of headers, for both readers: a state machine that takes bytes as they come.
//!
//! Bytes are consumed in atoms (a number, a string, a tensor's record); a step either takes a whole atom or leaves the
//! input as it is and says how many bytes it lacks. So the stream reader buffers at most one atom, and no byte is
//! parsed twice. With the file's length known, counts are checked against the bytes left before anything grows.
//!
//! Not here: tensor data (`reader`, `stream`).

use std::collections::HashSet;

use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, GgufError, Header, MAGIC, MAX_ALIGNMENT, MAX_DEPTH, MAX_DIMS, MAX_KEYS,
    MAX_NAME_BYTES, MAX_STRING_BYTES, MAX_TENSORS, Metadata, TensorInfo, Value, ValueType, text,
};

/// The fewest bytes of a key with its value: length, one character, type, one byte.
const MIN_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
/// The fewest bytes of a tensor's record: length, one character, n_dims, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// A header in the making.
#[derive(Debug)]
pub(super) struct Parser {
    /// The file's length, where it is known.
    length: Option<u64>,
    /// Bytes consumed so far: the offset of the next atom.
    position: u64,
    /// Bytes that the next atom needs, as far as is known yet.
    needed: usize,
    state: State,
    version: u32,
    keys_left: u64,
    tensors_left: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
}

#[derive(Debug)]
enum State {
    Magic,
    Version,
    Counts,
    Key,
    ValueType { key: String },
    Value { key: String, value_type: ValueType },
    Items { key: String, stack: Vec<Frame> },
    TensorName,
    TensorRecord { name: String },
    Done,
}

/// An array in the making.
#[derive(Debug)]
struct Frame {
    array: Array,
    remaining: u64,
}

/// Why a step did not happen.
enum Stop {
    /// The atom needs this many bytes in all.
    Need(usize),
    Error(GgufError),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Self::Error(error)
    }
}

/// The bytes of the current atom: taken in order, consumed by the parser when the step succeeds.
struct Atom<'a> {
    bytes: &'a [u8],
    taken: usize,
}

impl<'a> Atom<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.taken.checked_add(count).ok_or(Stop::Need(usize::MAX))?;
        let taken = self.bytes.get(self.taken..end).ok_or(Stop::Need(end))?;
        self.taken = end;
        Ok(taken)
    }

    /// Asks for all of an atom at once, where its size is known before it is read.
    fn ensure(&self, count: usize) -> Result<(), Stop> {
        let end = self.taken.checked_add(count).ok_or(Stop::Need(usize::MAX))?;
        if end <= self.bytes.len() { Ok(()) } else { Err(Stop::Need(end)) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(u64::from_le_bytes)
    }
}

impl Parser {
    pub(super) fn new(length: Option<u64>) -> Self {
        Self {
            length,
            position: 0,
            needed: MAGIC.len(),
            state: State::Magic,
            version: 0,
            keys_left: 0,
            tensors_left: 0,
            metadata: Metadata::new(),
            tensors: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// Bytes that must be at hand, from the current position, for the next atom.
    pub(super) fn needed(&self) -> usize {
        self.needed
    }

    /// Consumes whole atoms from the front of `input`, and returns the header once it is complete.
    pub(super) fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Header>, GgufError> {
        loop {
            if let State::Done = self.state {
                return self.complete().map(Some);
            }
            let mut atom = Atom { bytes: input, taken: 0 };
            match self.step(&mut atom) {
                Ok(next) => {
                    let taken = atom.taken;
                    *input = input.get(taken..).unwrap_or_default();
                    self.position += taken as u64;
                    self.needed = 1;
                    if let Some(next) = next {
                        self.state = next;
                    }
                }
                Err(Stop::Need(needed)) => {
                    self.needed = needed;
                    return match self.bytes_left() {
                        Some(left) if needed as u64 > left => Err(self.truncated(left as usize)),
                        _ => Ok(None),
                    };
                }
                Err(Stop::Error(error)) => return Err(error),
            }
        }
    }

    /// The error for an end of file here, with `left` bytes of the current atom present.
    pub(super) fn truncated(&self, left: usize) -> GgufError {
        let what = match &self.state {
            State::Magic | State::Version | State::Counts => "the GGUF header".into(),
            State::Key => "a metadata key".into(),
            State::ValueType { key } | State::Value { key, .. } | State::Items { key, .. } => {
                format!("the value of metadata key `{key}`")
            }
            State::TensorName => "a tensor's name".into(),
            State::TensorRecord { name } => format!("the record of tensor `{name}`"),
            State::Done => "the header".into(),
        };
        let needed = self.needed.saturating_sub(left).max(1) as u64;
        GgufError::Truncated { what, offset: self.position.saturating_add(left as u64), needed }
    }

    fn bytes_left(&self) -> Option<u64> {
        self.length.map(|length| length.saturating_sub(self.position))
    }

    /// How many records of at least `min` bytes can follow `used` more bytes, but not more than `cap`.
    fn room(&self, used: usize, min: u64, cap: u64) -> u64 {
        match self.bytes_left() {
            Some(left) => (left.saturating_sub(used as u64) / min).min(cap),
            None => cap,
        }
    }

    /// Takes one atom. On success the state that follows, `None` for the same one.
    fn step(&mut self, atom: &mut Atom<'_>) -> Result<Option<State>, Stop> {
        // The state is left in place until the atom is whole, as the step may be repeated.
        match &mut self.state {
            State::Magic => {
                let found = atom.array()?;
                if found != MAGIC {
                    return Err(GgufError::NotGguf { found }.into());
                }
                Ok(Some(State::Version))
            }
            State::Version => {
                let version = atom.u32()?;
                match version {
                    2 | 3 => self.version = version,
                    _ if matches!(version.swap_bytes(), 1..=3) => {
                        return Err(GgufError::BigEndian { version: version.swap_bytes() }.into());
                    }
                    _ => return Err(GgufError::UnsupportedVersion { version }.into()),
                }
                Ok(Some(State::Counts))
            }
            State::Counts => {
                atom.ensure(16)?;
                let (tensors, keys) = (atom.u64()?, atom.u64()?);
                let limit = self.room(atom.taken, MIN_TENSOR_BYTES, MAX_TENSORS);
                if tensors > limit {
                    return Err(GgufError::TooManyTensors { count: tensors, limit }.into());
                }
                let limit = self.room(atom.taken, MIN_KEY_BYTES, MAX_KEYS);
                if keys > limit {
                    return Err(GgufError::TooManyKeys { count: keys, limit }.into());
                }
                (self.tensors_left, self.keys_left) = (tensors, keys);
                Ok(Some(self.next_record()))
            }
            State::Key => {
                let key = name(atom, self.position, self.bytes_left(), || "a metadata key".into())?;
                if key.is_empty() {
                    return Err(GgufError::EmptyName { what: "a metadata key".into(), offset: self.position }.into());
                }
                if self.metadata.contains(&key) {
                    return Err(GgufError::DuplicateKey { key, offset: self.position }.into());
                }
                Ok(Some(State::ValueType { key }))
            }
            State::ValueType { key } => {
                let value_type = value_type(atom, key, self.position)?;
                let key = std::mem::take(key);
                Ok(Some(State::Value { key, value_type }))
            }
            State::Value { key, value_type: ValueType::Array } => {
                let frame = array_head(atom, key, self.position, self.length)?;
                let key = std::mem::take(key);
                self.items(key, vec![frame]).map(Some)
            }
            State::Value { key, value_type } => {
                let value = match value_type {
                    ValueType::U8 => Value::U8(u8::from_le_bytes(atom.array()?)),
                    ValueType::I8 => Value::I8(i8::from_le_bytes(atom.array()?)),
                    ValueType::U16 => Value::U16(u16::from_le_bytes(atom.array()?)),
                    ValueType::I16 => Value::I16(i16::from_le_bytes(atom.array()?)),
                    ValueType::U32 => Value::U32(u32::from_le_bytes(atom.array()?)),
                    ValueType::I32 => Value::I32(i32::from_le_bytes(atom.array()?)),
                    ValueType::F32 => Value::F32(f32::from_le_bytes(atom.array()?)),
                    ValueType::U64 => Value::U64(u64::from_le_bytes(atom.array()?)),
                    ValueType::I64 => Value::I64(i64::from_le_bytes(atom.array()?)),
                    ValueType::F64 => Value::F64(f64::from_le_bytes(atom.array()?)),
                    ValueType::Bool => Value::Bool(boolean(atom.array::<1>()?[0], key, self.position)?),
                    ValueType::String => {
                        let what = || format!("the value of metadata key `{key}`");
                        let left = self.length.map(|length| length.saturating_sub(self.position));
                        Value::String(string(atom, self.position, left, MAX_STRING_BYTES, what)?)
                    }
                    // Taken by the arm above.
                    ValueType::Array => Value::Array(Array::empty(ValueType::U8)),
                };
                let key = std::mem::take(key);
                Ok(Some(self.key_done(key, value)))
            }
            State::Items { key, stack } => {
                // The stack is never empty here: `items` leaves the state when it is.
                let depth = stack.len();
                if let Some(Frame { array, remaining }) = stack.last_mut() {
                    let child = items(array, remaining, atom, key, self.position, self.length)?;
                    if let Some(child) = child {
                        if depth >= MAX_DEPTH {
                            let (key, limit) = (key.clone(), MAX_DEPTH);
                            return Err(GgufError::ArrayTooDeep { key, limit, offset: self.position }.into());
                        }
                        stack.push(child);
                    }
                }
                let (key, stack) = (std::mem::take(key), std::mem::take(stack));
                self.items(key, stack).map(Some)
            }
            State::TensorName => {
                let name = name(atom, self.position, self.bytes_left(), || "a tensor's name".into())?;
                if name.is_empty() {
                    return Err(GgufError::EmptyName { what: "a tensor's name".into(), offset: self.position }.into());
                }
                if !self.names.insert(name.clone()) {
                    return Err(GgufError::DuplicateTensor { name }.into());
                }
                Ok(Some(State::TensorRecord { name }))
            }
            State::TensorRecord { name } => {
                let n_dims = atom.u32()?;
                if n_dims > MAX_DIMS {
                    let (name, offset) = (name.clone(), self.position);
                    return Err(GgufError::TooManyDims { name, n_dims, offset }.into());
                }
                atom.ensure(n_dims as usize * 8 + 4 + 8)?;
                let dims = (0..n_dims).map(|_| atom.u64()).collect::<Result<Vec<_>, _>>()?;
                let (type_id, offset) = (atom.u32()?, atom.u64()?);
                check_dims(name, &dims)?;
                let name = std::mem::take(name);
                // Relative to the data section until the header is complete.
                self.tensors.push(TensorInfo { name, dims, type_id, offset, size: 0 });
                self.tensors_left -= 1;
                Ok(Some(self.next_record()))
            }
            State::Done => Ok(None),
        }
    }

    fn next_record(&self) -> State {
        if self.keys_left > 0 {
            State::Key
        } else if self.tensors_left > 0 {
            State::TensorName
        } else {
            State::Done
        }
    }

    fn key_done(&mut self, key: String, value: Value) -> State {
        self.metadata.insert(key, value);
        self.keys_left -= 1;
        self.next_record()
    }

    /// Folds finished arrays into those around them, and the outermost into the metadata.
    fn items(&mut self, key: String, mut stack: Vec<Frame>) -> Result<State, Stop> {
        while stack.last().is_some_and(|frame| frame.remaining == 0) {
            let Some(done) = stack.pop() else { break };
            match stack.last_mut() {
                None => return Ok(self.key_done(key, Value::Array(done.array))),
                Some(Frame { array: Array::Array(items), remaining }) => {
                    items.push(done.array);
                    *remaining -= 1;
                }
                // Only arrays of arrays get a frame on top of them.
                Some(_) => {}
            }
        }
        Ok(State::Items { key, stack })
    }

    /// Works out where tensors lie, once the directory is complete.
    fn complete(&mut self) -> Result<Header, GgufError> {
        let alignment = alignment(&self.metadata)?;
        let data_offset = self.position.checked_next_multiple_of(alignment);
        let mut tensors = std::mem::take(&mut self.tensors);
        for tensor in &mut tensors {
            if !tensor.offset.is_multiple_of(alignment) {
                let (name, offset) = (tensor.name.clone(), tensor.offset);
                return Err(GgufError::UnalignedOffset { name, offset, alignment });
            }
            // The first byte must be addressable, too, and no end may be the mark for "unknown".
            let absolute = data_offset.and_then(|start| start.checked_add(tensor.offset));
            tensor.offset = absolute
                .filter(|&offset| offset < u64::MAX)
                .ok_or_else(|| GgufError::OffsetOverflow { name: tensor.name.clone(), offset: tensor.offset })?;
        }
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| tensors[i].offset);
        for pair in order.windows(2) {
            let &[this, next] = pair else { continue };
            if tensors[this].offset == tensors[next].offset {
                let (first, second) = (tensors[this].name.clone(), tensors[next].name.clone());
                return Err(GgufError::OverlappingTensors { first, second, offset: tensors[this].offset });
            }
            tensors[this].size = tensors[next].offset - tensors[this].offset;
        }
        if let Some(&last) = order.last() {
            let last = &mut tensors[last];
            last.size = match self.length {
                None => TensorInfo::UNKNOWN_SIZE,
                Some(length) => length.checked_sub(last.offset).filter(|&size| size > 0).ok_or_else(|| {
                    GgufError::TensorBeyondEnd { name: last.name.clone(), offset: last.offset, length }
                })?,
            };
        }
        Ok(Header {
            version: self.version,
            metadata: std::mem::take(&mut self.metadata),
            tensors,
            alignment,
            data_offset: data_offset.unwrap_or(self.position),
        })
    }
}

/// The alignment that the metadata asks for.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    metadata
        .u64(ALIGNMENT_KEY)
        .filter(|&alignment| alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&alignment))
        .ok_or_else(|| GgufError::BadAlignment { found: value.describe() })
}

/// Refuses dimensions that are too many, zero, or whose product does not fit.
pub(super) fn check_dims(name: &str, dims: &[u64]) -> Result<(), GgufError> {
    if dims.contains(&0) {
        return Err(GgufError::ZeroDim { name: name.into(), dims: dims.into() });
    }
    // The bytes of the widest scalar must be countable, too.
    let product = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    match product {
        Some(product) if product <= u64::MAX / 8 => Ok(()),
        _ => Err(GgufError::TooManyElements { name: name.into(), dims: dims.into() }),
    }
}

fn value_type(atom: &mut Atom<'_>, key: &str, position: u64) -> Result<ValueType, Stop> {
    let offset = position + atom.taken as u64;
    let id = atom.u32()?;
    ValueType::from_id(id).ok_or_else(|| GgufError::UnknownValueType { key: key.into(), id, offset }.into())
}

fn boolean(byte: u8, key: &str, offset: u64) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(GgufError::InvalidBool { key: key.into(), value, offset }),
    }
}

/// A string with its length. `left` is how many bytes the file has from the atom's start, where known.
fn string(
    atom: &mut Atom<'_>,
    position: u64,
    left: Option<u64>,
    limit: u64,
    what: impl Fn() -> String,
) -> Result<String, Stop> {
    string_bytes(atom, position, left, limit, what).map(|(_, bytes)| text::from_bytes(bytes))
}

/// A key or a tensor's name. These are looked up and shown, and one that is not UTF-8 is a sign of damage.
fn name(atom: &mut Atom<'_>, position: u64, left: Option<u64>, what: impl Fn() -> String) -> Result<String, Stop> {
    let (offset, bytes) = string_bytes(atom, position, left, MAX_NAME_BYTES, &what)?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(GgufError::InvalidUtf8 { what: what(), offset }.into()),
    }
}

/// Where the bytes of a string begin in the file, and these.
fn string_bytes<'a>(
    atom: &mut Atom<'a>,
    position: u64,
    left: Option<u64>,
    limit: u64,
    what: impl Fn() -> String,
) -> Result<(u64, &'a [u8]), Stop> {
    let offset = position + atom.taken as u64;
    let length = atom.u64()?;
    if length > limit {
        return Err(GgufError::StringTooLong { what: what(), offset, length, limit }.into());
    }
    // `length` is at most MAX_STRING_BYTES, so the sums below cannot overflow.
    let end = atom.taken as u64 + length;
    if let Some(left) = left.filter(|&left| end > left) {
        let (offset, needed) = (position + left, end - left);
        return Err(GgufError::Truncated { what: what(), offset, needed }.into());
    }
    let start = position + atom.taken as u64;
    Ok((start, atom.take(length as usize)?))
}

/// An array's item type and count.
fn array_head(atom: &mut Atom<'_>, key: &str, position: u64, length: Option<u64>) -> Result<Frame, Stop> {
    let item_type = value_type(atom, key, position)?;
    let offset = position + atom.taken as u64;
    let count = atom.u64()?;
    let begin = position + atom.taken as u64;
    let limit = length.map_or(u64::MAX, |length| length.saturating_sub(begin)) / item_type.min_bytes();
    if count > limit {
        return Err(GgufError::ArrayTooLong { key: key.into(), count, limit, offset }.into());
    }
    Ok(Frame { array: Array::empty(item_type), remaining: count })
}

/// Takes as many items as are at hand, at least one; an item that is an array itself is returned as a new frame.
fn items(
    array: &mut Array,
    remaining: &mut u64,
    atom: &mut Atom<'_>,
    key: &str,
    position: u64,
    length: Option<u64>,
) -> Result<Option<Frame>, Stop> {
    macro_rules! scalars {
        ($items:ident, $scalar:ty) => {{
            const N: usize = size_of::<$scalar>();
            let whole = (atom.bytes.len() - atom.taken) / N;
            let count = (*remaining).min(whole as u64).max(1) as usize;
            let bytes = atom.take(count * N)?;
            $items.extend(bytes.as_chunks::<N>().0.iter().map(|&item| <$scalar>::from_le_bytes(item)));
            *remaining -= count as u64;
        }};
    }
    match array {
        Array::U8(items) => scalars!(items, u8),
        Array::I8(items) => scalars!(items, i8),
        Array::U16(items) => scalars!(items, u16),
        Array::I16(items) => scalars!(items, i16),
        Array::U32(items) => scalars!(items, u32),
        Array::I32(items) => scalars!(items, i32),
        Array::F32(items) => scalars!(items, f32),
        Array::U64(items) => scalars!(items, u64),
        Array::I64(items) => scalars!(items, i64),
        Array::F64(items) => scalars!(items, f64),
        Array::Bool(items) => {
            items.push(boolean(atom.array::<1>()?[0], key, position)?);
            *remaining -= 1;
        }
        Array::String(items) => {
            let what = || format!("item {} of metadata key `{key}`", items.len());
            let left = length.map(|length| length.saturating_sub(position));
            let item = string(atom, position, left, MAX_STRING_BYTES, what)?;
            items.push(item);
            *remaining -= 1;
        }
        Array::Array(_) => return array_head(atom, key, position, length).map(Some),
    }
    Ok(None)
}
