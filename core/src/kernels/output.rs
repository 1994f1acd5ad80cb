//! Where threads write the rows of one product: a `[tokens, rows]` buffer shared by tasks that own disjoint rows.

use core::marker::PhantomData;

/// A `[tokens, rows]` f32 buffer whose rows are written by several tasks at once.
pub struct Output<'a> {
    data: *mut f32,
    tokens: usize,
    rows: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: writes go through `write`, whose caller owns the rows it names.
unsafe impl Sync for Output<'_> {}
// SAFETY: as above; f32 may be written from any thread.
unsafe impl Send for Output<'_> {}

impl<'a> Output<'a> {
    /// Wraps `data`, `[tokens, rows]`.
    ///
    /// # Panics
    /// If the length is not a multiple of `rows`.
    pub fn new(data: &'a mut [f32], rows: usize) -> Self {
        assert!(rows > 0 && data.len().is_multiple_of(rows));
        Self { data: data.as_mut_ptr(), tokens: data.len() / rows, rows, owner: PhantomData }
    }

    /// Tokens of the buffer.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Rows (output features) of the buffer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes `values` at `token`, from `row` on; what would lie beyond the last row is dropped.
    ///
    /// # Safety
    /// No other thread may write or read these rows meanwhile.
    ///
    /// # Panics
    /// If `token` or `row` lies outside.
    #[inline(always)]
    pub unsafe fn write(&self, token: usize, row: usize, values: &[f32]) {
        assert!(token < self.tokens && row < self.rows);
        let len = values.len().min(self.rows - row);
        // SAFETY: inside the buffer by the assertion; exclusive by the caller's word.
        unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), self.data.add(token * self.rows + row), len) };
    }
}
