//! One tensor: whether its type and shape fit its place, what it takes in memory, and how its bytes get there.

use super::error::ModelError;
use super::weights::TensorReport;
use crate::formats::{Format, FormatError};
use crate::gguf::TensorInfo;
use crate::kernels::{Executor, chunks_mut};
use crate::ternary::{BlockMatrix, Matrix, TernaryBuilder, TernaryMatrix};
use std::sync::Mutex;

/// What a tensor's name promises.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// `[rows, cols]`; with `None` any number of rows.
    Matrix { rows: Option<usize>, cols: usize },
    /// `[rows, cols]`, of floats: what a connection's coefficients are computed with.
    Projection { rows: usize, cols: usize },
    /// `[len]`
    Vector { len: usize },
    /// `[len]`, divided by, so all above zero.
    Divisors { len: usize },
    /// Read by other programs only.
    Ignored,
}

/// A tensor in memory.
pub(super) enum Loaded {
    Matrix(Matrix),
    Vector(Vec<f32>),
}

/// The most bytes that a tensor of the header takes in memory. A ternary matrix whose rows turn out to have one scale each
/// takes fewer.
pub(super) fn held_bytes(info: &TensorInfo, format: Format, place: Place) -> u64 {
    match place {
        Place::Ignored => 0,
        Place::Vector { len } | Place::Divisors { len } => 4 * len as u64,
        Place::Matrix { .. } if format.is_ternary() => TernaryMatrix::bytes_needed(
            info.rows(),
            info.cols(),
            format.group().map_or(info.cols(), |group| group as u64),
        ),
        Place::Matrix { .. } | Place::Projection { .. } => {
            format.tensor_bytes(info.rows(), info.cols()).unwrap_or(u64::MAX)
        }
    }
}

/// Brings one tensor into memory from its bytes, `None` if its place is to be ignored.
pub(super) fn read(
    info: &TensorInfo,
    format: Format,
    place: Place,
    bytes: &[u8],
    exec: &dyn Executor,
) -> Result<Option<(Loaded, TensorReport)>, ModelError> {
    // The header's own entries have passed; a caller may hand over another.
    check(info, format, place)?;
    let (rows, cols) = (info.rows() as usize, info.cols() as usize);
    let expected = format.tensor_bytes(info.rows(), info.cols()).unwrap_or(u64::MAX);
    let Some(bytes) = usize::try_from(expected).ok().and_then(|len| bytes.get(..len)) else {
        return Err(ModelError::Truncated { name: info.name.clone(), found: bytes.len() as u64, expected });
    };
    let (loaded, group, held) = match place {
        Place::Ignored => return Ok(None),
        Place::Vector { len } | Place::Divisors { len } => {
            let mut values = vec![0.0; len];
            format.dequantize(bytes, &mut values).map_err(|source| in_tensor(info, source))?;
            finite(info, &values, 0)?;
            if matches!(place, Place::Divisors { .. })
                && let Some(element) = values.iter().position(|&value| value <= 0.0)
            {
                let (name, value) = (info.name.clone(), values[element]);
                return Err(ModelError::NotPositive { name, offset: info.offset, element, value });
            }
            (Loaded::Vector(values), None, len * 4)
        }
        Place::Matrix { .. } if format.is_ternary() => {
            let m = pack(info, format, rows, cols, bytes, exec)?;
            let (group, held) = (m.group(), m.bytes());
            (Loaded::Matrix(Matrix::Ternary(m)), Some(group), held)
        }
        Place::Matrix { .. } | Place::Projection { .. } => {
            let mut data = Vec::new();
            data.try_reserve_exact(bytes.len()).map_err(|_| out_of_memory(info, bytes))?;
            data.extend_from_slice(bytes);
            let m = BlockMatrix::new(format, rows, cols, data);
            check_finite(info, &m, exec)?;
            let held = m.bytes();
            (Loaded::Matrix(Matrix::Blocks(m)), None, held)
        }
    };
    let report = TensorReport { name: info.name.clone(), format: format.name(), group, bytes: held };
    Ok(Some((loaded, report)))
}

/// Whether a tensor's type and shape fit its place.
pub(super) fn check(info: &TensorInfo, format: Format, place: Place) -> Result<(), ModelError> {
    let shape = |expected: String| ModelError::Shape {
        name: info.name.clone(),
        offset: info.offset,
        found: format!("{} x {}", info.rows(), info.cols()),
        expected,
    };
    match place {
        Place::Ignored => {}
        Place::Vector { len } | Place::Divisors { len } => {
            if info.elements() != len as u64 {
                return Err(shape(format!("{len} elements")));
            }
            floats(info, format, "a norm, bias or scale")?;
        }
        Place::Projection { rows, cols } => {
            floats(info, format, "the weights of a hyper-connection")?;
            check(info, format, Place::Matrix { rows: Some(rows), cols })?;
        }
        Place::Matrix { rows, cols } => {
            let fits = rows.is_none_or(|rows| info.rows() == rows as u64) && info.cols() == cols as u64;
            let folded = info.dims.iter().skip(2).any(|&dim| dim != 1);
            if !fits || info.rows() == 0 || folded {
                let rows = rows.map_or("any".to_owned(), |rows| rows.to_string());
                return Err(shape(format!("{rows} x {cols}")));
            }
            // A sum of codes times int8 must fit 32 bits, and a token id must name a row.
            if cols > 1 << 22 || info.rows() > 1 << 31 {
                return Err(shape(format!("at most {} x {}", 1u64 << 31, 1 << 22)));
            }
        }
    }
    Ok(())
}

/// Refuses a quantized type where a few plain numbers stand.
fn floats(info: &TensorInfo, format: Format, place: &'static str) -> Result<(), ModelError> {
    if format.is_float() {
        return Ok(());
    }
    let (name, offset, found) = (info.name.clone(), info.offset, format.name());
    Err(ModelError::Placement { name, offset, found, place, expected: "F32, F16 or BF16" })
}

fn pack(
    info: &TensorInfo,
    format: Format,
    rows: usize,
    cols: usize,
    bytes: &[u8],
    exec: &dyn Executor,
) -> Result<TernaryMatrix, ModelError> {
    let row_bytes = cols / format.block_len() * format.block_bytes();
    let (group, tensor_scale) = match format.group() {
        Some(group) => (group, 1.0),
        None => (
            cols,
            format
                .tensor_scale(bytes, (bytes.len() - format.tail_bytes()) * 4)
                .map_err(|source| in_tensor(info, source))?,
        ),
    };
    let builder = TernaryBuilder::try_new(rows, cols, group, tensor_scale);
    let mut builder = builder.map_err(|_| out_of_memory(info, bytes))?;
    let mut tiles: Vec<_> = builder.tiles_mut().collect();
    let first_error = FirstError::<FormatError>::default();
    chunks_mut(exec, &mut tiles, 8, |_, tiles| {
        let mut codes = vec![0; cols];
        // Where the one scale is the tensor's, a row's own is 1.
        let mut scales = vec![half::f16::ONE.to_bits(); cols / group];
        for tile in tiles {
            for lane in 0..tile.rows {
                let row = tile.first_row + lane;
                let read = if format.group().is_some() { &mut scales[..] } else { &mut [] };
                match format.decode_codes(&bytes[row * row_bytes..][..row_bytes], &mut codes, read) {
                    Ok(()) => tile.set_row(lane, &codes, &scales),
                    Err(error) => first_error.report(row, error),
                }
            }
        }
    });
    match first_error.take() {
        None => {
            drop(tiles);
            Ok(builder.finish())
        }
        Some((row, error)) => Err(in_tensor(info, from_row(error, row * (cols / format.block_len())))),
    }
}

/// The error of the lowest row, whichever task meets one first: the same on any number of threads.
struct FirstError<E>(Mutex<Option<(usize, E)>>);

impl<E> Default for FirstError<E> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<E> FirstError<E> {
    fn report(&self, row: usize, error: E) {
        let mut first = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if first.as_ref().is_none_or(|(r, _)| row < *r) {
            *first = Some((row, error));
        }
    }

    fn take(self) -> Option<(usize, E)> {
        self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// An error in a row that begins at block `first` of its tensor.
fn from_row(error: FormatError, first: usize) -> FormatError {
    match error {
        FormatError::BadScale { format, block, scale } => FormatError::BadScale { format, block: first + block, scale },
        other => other,
    }
}

/// Refuses NaN and infinities anywhere in a matrix that is kept in blocks.
fn check_finite(info: &TensorInfo, m: &BlockMatrix, exec: &dyn Executor) -> Result<(), ModelError> {
    const ROWS: usize = 64;
    let tasks = m.rows().div_ceil(ROWS);
    let first_error = FirstError::<ModelError>::default();
    let (format, row_blocks) = (m.format(), m.cols() / m.format().block_len());
    exec.run(tasks, &|task| {
        let mut values = vec![0.0; m.cols()];
        for row in task * ROWS..((task + 1) * ROWS).min(m.rows()) {
            let read = format.dequantize(m.row(row), &mut values);
            let read = read.map_err(|error| in_tensor(info, from_row(error, row * row_blocks)));
            if let Err(error) = read.and_then(|()| finite(info, &values, row * m.cols())) {
                first_error.report(row, error);
                return;
            }
        }
    });
    match first_error.take() {
        None => Ok(()),
        Some((_, error)) => Err(error),
    }
}

fn finite(info: &TensorInfo, values: &[f32], first: usize) -> Result<(), ModelError> {
    // A sum of absolute bits would overflow; a product with zero keeps NaN and turns infinities into it.
    if values.iter().map(|v| v * 0.0).sum::<f32>() == 0.0 {
        return Ok(());
    }
    let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
    Err(ModelError::NotFinite { name: info.name.clone(), offset: info.offset, element: first + at })
}

fn out_of_memory(info: &TensorInfo, bytes: &[u8]) -> ModelError {
    ModelError::OutOfMemory { name: info.name.clone(), bytes: bytes.len() as u64 }
}

fn in_tensor(info: &TensorInfo, source: FormatError) -> ModelError {
    ModelError::Tensor { name: info.name.clone(), offset: info.offset, source }
}
