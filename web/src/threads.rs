//! The threads that compute: the pool's where the build has one and it was started, else the caller's.

use std::sync::Arc;

use sterna_core::kernels::Executor;

/// What core computes on.
pub fn executor() -> Arc<dyn Executor> {
    #[cfg(feature = "threads")]
    return Arc::new(sterna_core::kernels::Rayon);
    #[cfg(not(feature = "threads"))]
    return Arc::new(sterna_core::kernels::Serial);
}

/// Runs `work` on one of the pool's threads, so that the pool is entered once and not for each product of matrices.
pub fn inside<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "threads")]
    return rayon::scope(|_| work());
    #[cfg(not(feature = "threads"))]
    return work();
}
