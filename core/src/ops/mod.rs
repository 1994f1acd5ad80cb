//! The steps of a transformer between the matrix products: norms and rotary positions. Attention and activation functions are
//! kernels' loops and are called by the decoder directly.

mod norm;
mod rope;

pub use norm::Norm;
pub use rope::{Rope, RopeScaling, Rotations};
