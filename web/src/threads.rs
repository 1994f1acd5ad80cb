//! The threads that compute: the pool's where the build has one and it was started, else the caller's.

use std::sync::Arc;
#[cfg(feature = "threads")]
use std::sync::LazyLock;

use sterna_core::kernels::Executor;
#[cfg(feature = "threads")]
use sterna_core::kernels::Team;

#[cfg(feature = "threads")]
static TEAM: LazyLock<Arc<Team>> = LazyLock::new(Arc::default);

/// What core computes on, within [`inside`].
pub fn executor() -> Arc<dyn Executor> {
    #[cfg(feature = "threads")]
    return TEAM.clone();
    #[cfg(not(feature = "threads"))]
    return Arc::new(sterna_core::kernels::Serial);
}

/// How many there are.
pub fn count() -> usize {
    #[cfg(feature = "threads")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "threads"))]
    return 1;
}

/// Runs `work` with all threads at hand: they are woken once, and not for each product.
pub fn inside<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "threads")]
    return TEAM.gather(work);
    #[cfg(not(feature = "threads"))]
    return work();
}
