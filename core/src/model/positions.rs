//! Where a conversation's tokens stand: the angles of rotary positions, and which factors the length of the text asks for.

use crate::ops::{Rope, Rotations};

/// The positions of a conversation's tokens.
pub(super) enum Positions {
    /// There are none, they are learned.
    Learned,
    /// The same for texts of every length.
    Fixed(Rotations),
    /// Of a model whose factors depend on the length of the text (LongRoPE).
    ByLength {
        rotations: Rotations,
        rope: Box<Rope>,
        /// Whether `rotations`, and the keys in the cache, have the long factors.
        long: bool,
        /// The text will have this many tokens, as far as is known.
        expected: usize,
        /// The tokens in the cache, whose keys are computed again when the factors change.
        tokens: Vec<u32>,
    },
}

impl Positions {
    /// For an empty conversation.
    pub fn of(rope: Option<&Rope>) -> Self {
        match rope {
            None => Self::Learned,
            Some(rope) if rope.long.is_none() => Self::Fixed(Rotations::new(rope, 0)),
            Some(rope) => Self::ByLength {
                rotations: Rotations::new(rope, 0),
                rope: Box::new(rope.clone()),
                long: false,
                expected: 0,
                tokens: Vec::new(),
            },
        }
    }

    /// Computes the angles of `tokens`, the first of which is at position `first`.
    pub fn prepare(&mut self, first: usize, tokens: &[u32]) {
        match self {
            Self::Learned => {}
            Self::Fixed(rotations) => rotations.prepare(first, tokens.len()),
            Self::ByLength { rotations, tokens: known, .. } => {
                rotations.prepare(first, tokens.len());
                known.extend_from_slice(tokens);
            }
        }
    }

    /// The angles that were prepared; `None` where positions are learned.
    pub fn rotations(&self) -> Option<&Rotations> {
        match self {
            Self::Learned => None,
            Self::Fixed(rotations) | Self::ByLength { rotations, .. } => Some(rotations),
        }
    }

    /// The factors that a text of `length` tokens, or of as many as are expected, needs; `None` where they are in use.
    pub fn other_factors(&self, length: usize) -> Option<bool> {
        match self {
            Self::ByLength { rope, long, expected, .. } => {
                let needed = rope.is_long(length.max(*expected));
                (needed != *long).then_some(needed)
            }
            _ => None,
        }
    }

    /// Takes the factors that a text of `length` tokens needs. If they are others than those in use, gives the tokens whose keys
    /// have to be computed again; they count as forgotten.
    pub fn change_factors(&mut self, length: usize) -> Option<Vec<u32>> {
        let needed = self.other_factors(length)?;
        let Self::ByLength { rotations, rope, long, expected, tokens } = self else { return None };
        (*long, *rotations) = (needed, Rotations::new(rope, length.max(*expected)));
        Some(core::mem::take(tokens))
    }

    /// The text will have at least `length` tokens.
    pub fn expect(&mut self, length: usize) {
        if let Self::ByLength { expected, .. } = self {
            *expected = length;
        }
    }

    /// Forgets all tokens from `tokens` on, and what was expected.
    pub fn truncate(&mut self, tokens: usize) {
        if let Self::ByLength { tokens: known, expected, .. } = self {
            known.truncate(tokens);
            *expected = 0;
        }
    }
}
