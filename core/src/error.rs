//! The one error type of the crate.

/// What can go wrong between bytes and numbers.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;
