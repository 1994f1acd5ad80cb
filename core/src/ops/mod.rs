//! The steps of a transformer between the matrix products: norms, rotary positions and hyper-connections. Attention and activation functions are
//! kernels' loops and are called by the decoder directly.

pub mod hyper_connections;
mod norm;
mod rope;

pub use hyper_connections::HyperConnection;
pub use norm::Norm;
pub use rope::{LongRope, Rope, RopeScaling, Rotations};
