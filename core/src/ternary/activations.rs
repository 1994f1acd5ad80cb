//! Activations as int8 codes with a scale each group of columns: the other operand of a ternary product.
//!
//! Per token and group, as BitNet b1.58 was trained (arXiv:2402.17764): `s = 127 / max|x|` with the maximum held to at least
//! 1e-5, `code = round_half_even(x * s)`. The group is the matrix's: a whole token where rows have a single scale.

/// `n` tokens of `cols` activations as int8.
///
/// ```text
/// tokens are cut into blocks of 16, then 8, 4, 2, 1; within a block of T tokens
///   codes   [cols / 4, T, 4]   four consecutive columns of each token side by side
///   scales  [groups, T]        x = code * scale
///   sums    [groups, T]        sum of the codes, since sum((w+1)*x) - sum(x) = sum(w*x)
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizedRows {
    pub(crate) n: usize,
    pub(crate) cols: usize,
    pub(crate) group: usize,
    pub(crate) codes: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<i32>,
}

impl QuantizedRows {
    /// Makes room for `n` tokens of `cols` columns in groups of `group`; contents are undefined until written.
    ///
    /// # Panics
    /// If `group` does not divide `cols` or is not a multiple of 16, or there are more activations than can be addressed.
    pub fn reset(&mut self, n: usize, cols: usize, group: usize) {
        assert!(group > 0 && cols.is_multiple_of(group) && group.is_multiple_of(16));
        let codes = n.checked_mul(cols).expect("activations that can be addressed");
        (self.n, self.cols, self.group) = (n, cols, group);
        self.codes.resize(codes, 0);
        self.scales.resize(n * (cols / group), 0.0);
        self.sums.resize(n * (cols / group), 0);
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.n
    }

    /// Columns of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns that share a scale.
    pub fn group(&self) -> usize {
        self.group
    }

    /// int8 code of `token` at `col`.
    ///
    /// # Panics
    /// If the position lies outside.
    pub fn code(&self, token: usize, col: usize) -> i8 {
        let (first, len) = self.block_of(token);
        self.codes[first * self.cols + (col / 4 * len + token - first) * 4 + col % 4]
    }

    /// The codes of a token in the order of its columns, `[cols]`.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn token(&self, token: usize) -> Vec<i8> {
        let (first, len) = self.block_of(token);
        let quads = self.codes[first * self.cols..][..len * self.cols].as_chunks::<4>().0;
        quads.iter().skip(token - first).step_by(len).flatten().copied().collect()
    }

    /// Scale of `token` in group `group`.
    ///
    /// # Panics
    /// If the position lies outside.
    pub fn scale(&self, token: usize, group: usize) -> f32 {
        let (first, len) = self.block_of(token);
        self.scales[first * (self.cols / self.group) + group * len + token - first]
    }

    fn block_of(&self, token: usize) -> (usize, usize) {
        token_blocks(self.n).find(|(first, len)| (*first..first + len).contains(&token)).expect("token inside")
    }
}

/// The blocks `(first token, tokens)` that `n` tokens are cut into: 16s, then what is left by powers of two.
pub(crate) fn token_blocks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    core::iter::from_fn(move || {
        let left = n - first;
        if left == 0 {
            return None;
        }
        let len = if left >= 16 { 16 } else { 1 << left.ilog2() };
        let block = (first, len);
        first += len;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::token_blocks;

    #[cfg(panic = "unwind")] // elsewhere a panic ends the tests
    #[test]
    #[should_panic(expected = "activations that can be addressed")]
    fn more_activations_than_can_be_addressed_are_refused() {
        // Multiplied without a check this is 0, and kernels would read beyond what is there.
        super::QuantizedRows::default().reset(1 << (usize::BITS - 4), 16, 16);
    }

    #[test]
    fn blocks_cover_all_tokens_once() {
        for n in 0..70 {
            let mut next = 0;
            for (first, len) in token_blocks(n) {
                assert_eq!(first, next);
                assert!(len.is_power_of_two() && len <= 16);
                next += len;
            }
            assert_eq!(next, n);
        }
    }
}
