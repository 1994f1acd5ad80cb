//! What can be wrong with a GGUF file: one variant a malformation.

/// Why a GGUF file cannot be read or written. Offsets count bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The first four bytes are not `GGUF`. The message says what the file is where they tell.
    #[error("not a GGUF file: {}", foreign(*found))]
    NotGguf {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The version number reads right only with its bytes swapped.
    #[error("big-endian GGUF (version {version}) is not supported; convert the file to little-endian")]
    BigEndian {
        /// The version, read big-endian.
        version: u32,
    },
    /// A version other than 2 and 3.
    #[error("GGUF version {version} is not supported (2 and 3 are); convert the model again with current tools")]
    UnsupportedVersion {
        /// The version that the file states.
        version: u32,
    },
    /// The file ends too early.
    #[error("the file ends within {what}, at byte {offset}: {needed} more bytes are needed; download or copy it again")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where the bytes run out.
        offset: u64,
        /// How many bytes are missing at least.
        needed: u64,
    },
    /// A stream delivered more bytes than the length that was announced for it.
    #[error("the stream delivers more than the {length} bytes announced; check the length given for it")]
    TooMuchData {
        /// The announced length.
        length: u64,
    },
    /// More metadata keys than the file can hold, or than [`MAX_KEYS`](super::MAX_KEYS).
    #[error("the header claims {count} metadata keys, at most {limit} are possible; the file is damaged")]
    TooManyKeys {
        /// The count in the header.
        count: u64,
        /// The most that is possible.
        limit: u64,
    },
    /// More tensors than the file can hold, or than [`MAX_TENSORS`](super::MAX_TENSORS).
    #[error("the header claims {count} tensors, at most {limit} are possible; the file is damaged")]
    TooManyTensors {
        /// The count in the header.
        count: u64,
        /// The most that is possible.
        limit: u64,
    },
    /// A string longer than its limit.
    #[error("{what} at byte {offset} claims {length} bytes, the limit is {limit}; the file is damaged")]
    StringTooLong {
        /// Which string.
        what: String,
        /// Where its length stands.
        offset: u64,
        /// The length claimed.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// A key or tensor name that is not UTF-8. Other strings may be anything; see [`string_bytes`](super::string_bytes).
    #[error(
        "{what} at byte {offset} is not valid UTF-8; the file is damaged or was written by a faulty tool, download it again"
    )]
    InvalidUtf8 {
        /// Which name.
        what: String,
        /// Where it begins.
        offset: u64,
    },
    /// A key or tensor name without characters.
    #[error("{what} at byte {offset} is empty; the file is damaged")]
    EmptyName {
        /// Which name.
        what: String,
        /// Where its length stands.
        offset: u64,
    },
    /// The same key twice.
    #[error("metadata key `{key}` occurs twice (again at byte {offset}); remove one")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it occurs again.
        offset: u64,
    },
    /// A value type that GGUF does not define.
    #[error("metadata key `{key}` has unknown value type {id} at byte {offset}; the file is damaged or too new")]
    UnknownValueType {
        /// The key.
        key: String,
        /// The type's number.
        id: u32,
        /// Where the number stands.
        offset: u64,
    },
    /// A bool that is neither 0 nor 1.
    #[error(
        "metadata key `{key}` holds the bool {value} at byte {offset}, only 0 and 1 are defined; the file is damaged"
    )]
    InvalidBool {
        /// The key.
        key: String,
        /// The byte found.
        value: u8,
        /// Where it stands.
        offset: u64,
    },
    /// An array with more items than the rest of the file can hold.
    #[error("metadata key `{key}` claims {count} items at byte {offset}, the file has room for {limit}; it is damaged")]
    ArrayTooLong {
        /// The key.
        key: String,
        /// The count claimed.
        count: u64,
        /// The most that fit.
        limit: u64,
        /// Where the count stands.
        offset: u64,
    },
    /// Arrays nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    #[error("metadata key `{key}` nests arrays deeper than {limit} at byte {offset}; flatten them")]
    ArrayTooDeep {
        /// The key.
        key: String,
        /// The limit.
        limit: usize,
        /// Where the array that is too deep begins.
        offset: u64,
    },
    /// An alignment that is no power of two, or above [`MAX_ALIGNMENT`](super::MAX_ALIGNMENT).
    #[error("`general.alignment` is {found}; it must be a power of two up to {limit}", limit = super::MAX_ALIGNMENT)]
    BadAlignment {
        /// The value found, as text.
        found: String,
    },
    /// The same tensor name twice.
    #[error("tensor `{name}` occurs twice; remove one")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// More dimensions than ggml knows.
    #[error("tensor `{name}` has {n_dims} dimensions at byte {offset}, at most {limit} are defined", limit = super::MAX_DIMS)]
    TooManyDims {
        /// The tensor.
        name: String,
        /// The count claimed.
        n_dims: u32,
        /// Where the count stands.
        offset: u64,
    },
    /// A dimension of zero.
    #[error("tensor `{name}` has a dimension of zero ({dims:?}); leave empty tensors out")]
    ZeroDim {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
    },
    /// The product of the dimensions does not fit 64 bits.
    #[error("tensor `{name}` has more elements than 64 bits can count ({dims:?}); the file is damaged")]
    TooManyElements {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: Vec<u64>,
    },
    /// A tensor's offset is not a multiple of the alignment.
    #[error(
        "tensor `{name}` lies at {offset} of the data, not a multiple of the alignment {alignment}; write the file again"
    )]
    UnalignedOffset {
        /// The tensor.
        name: String,
        /// The offset within the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor's offset does not fit 64 bits.
    #[error("tensor `{name}` lies at {offset} of the data, beyond what 64 bits can address; the file is damaged")]
    OffsetOverflow {
        /// The tensor.
        name: String,
        /// The offset within the data.
        offset: u64,
    },
    /// Two tensors begin at the same byte.
    #[error("tensors `{first}` and `{second}` both begin at byte {offset}; the file is damaged")]
    OverlappingTensors {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// Where both begin.
        offset: u64,
    },
    /// A tensor begins at or after the end of the file.
    #[error("tensor `{name}` begins at byte {offset}, but the file has {length} bytes; download or copy it again")]
    TensorBeyondEnd {
        /// The tensor.
        name: String,
        /// Where it begins.
        offset: u64,
        /// The file's length.
        length: u64,
    },
    /// A tensor, or a string of the header, cannot be held in memory.
    #[error("{what} takes {size} bytes, more than can be allocated here; use a smaller model")]
    OutOfMemory {
        /// What was to be held.
        what: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A key that is needed is absent.
    #[error("metadata key `{key}` is missing; the file is incomplete or of another kind, convert the model again")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key's value has another type than is needed.
    #[error("metadata key `{key}` is {found}, expected {expected}; write the file again with a current converter")]
    WrongType {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A shard's `split.count` differs from the number of shards at hand.
    #[error("shard {shard} says `split.count` = {found}, but {given} shards are given; give all parts, in order")]
    ShardCount {
        /// Index of the shard, from 0.
        shard: usize,
        /// What the shard says.
        found: u64,
        /// How many shards were given.
        given: usize,
    },
    /// A shard stands in another place than its `split.no` says.
    #[error("shard {shard} says `split.no` = {found}; give the parts in order")]
    ShardOrder {
        /// Index of the shard, from 0.
        shard: usize,
        /// What the shard says.
        found: u64,
    },
    /// The shards hold another number of tensors than `split.tensors.count`.
    #[error("`split.tensors.count` is {expected}, but the shards hold {found} tensors; a part is damaged or foreign")]
    ShardTensors {
        /// What the key says.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A tensor was written out of turn, or one that was not declared.
    #[error("tensor `{found}` was written where `{expected}` was declared; write tensors in the declared order")]
    WriteOrder {
        /// The tensor that is due; empty after the last one.
        expected: String,
        /// The tensor that came.
        found: String,
    },
    /// A tensor was given more or fewer bytes than declared.
    #[error("tensor `{name}` was declared with {expected} bytes and got {found}; give exactly the declared bytes")]
    WriteSize {
        /// The tensor.
        name: String,
        /// Bytes declared.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// A tensor cannot be declared without bytes.
    #[error("tensor `{name}` is declared with 0 bytes; leave empty tensors out")]
    EmptyTensor {
        /// The tensor.
        name: String,
    },
    /// The sink refused bytes.
    #[error("writing the GGUF file failed: {0}")]
    Write(#[from] std::io::Error),
}

/// Beginnings of files that people have in place of a GGUF: what they are, and what to do.
const FOREIGN: [(&[&[u8]], &str); 7] = [
    (
        &[b"vers"],
        "it is a Git LFS pointer, the short text that stands for a large file in a git repository. Fetch the file itself with `git lfs pull`, or download it from its own address",
    ),
    (
        &[b"<!DO", b"<!do", b"<htm", b"<HTM", b"<!--", b"<?xm", b"<hea", b"\n<!D"],
        "it is a web page, such as a server sends in place of a file. Download the file from its own address (on Hugging Face it has /resolve/ in it, not /blob/)",
    ),
    (
        &[b"Entr", b"Inva", b"Repo", b"Acce", b"Unau", b"{\"er"],
        "it holds the message of a server, not a model. Check the address and whether the model needs a login, and download it again",
    ),
    (&[b"PK\x03\x04"], "it is a ZIP archive, as PyTorch's .bin and .pt files are. Convert the model to GGUF first"),
    (
        &[b"lmgg", b"fmgg", b"tjgg", b"algg"],
        "it is a file of llama.cpp from before GGUF (2023). Convert the original model again",
    ),
    (
        &[b"\x1f\x8b\x08\x00", b"\x1f\x8b\x08\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zX", b"7z\xbc\xaf", b"BZh9"],
        "it is compressed. Unpack it first",
    ),
    (&[b"\0\0\0\0"], "it begins with zeros, as a download does that was not finished. Download it again"),
];

/// How many of [`FOREIGN`] stand for any file that is fetched, whatever its format.
const FOREIGN_ANYWHERE: usize = 3;

/// What came in place of a file that begins so, and what to do: a Git LFS pointer, a web page or a server's message. `None` if it is
/// none of these.
pub fn not_fetched(file: &[u8]) -> Option<&'static str> {
    let begin = file.get(..4)?;
    FOREIGN[..FOREIGN_ANYWHERE].iter().find(|(beginnings, _)| beginnings.contains(&begin)).map(|(_, what)| *what)
}

/// What a file is that begins with `found`, and what to do.
fn foreign(found: [u8; 4]) -> String {
    match FOREIGN.iter().find(|(beginnings, _)| beginnings.contains(&&found[..])) {
        Some((_, what)) => (*what).to_owned(),
        None => format!("it begins with \"{}\". Convert the model to GGUF first", found.escape_ascii()),
    }
}
