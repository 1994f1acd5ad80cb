//! How work is spread over threads that the host brings: core starts none of its own.

/// Runs independent tasks, on however many threads the host has.
///
/// # Safety
/// `run` must call the task with each index exactly once and return only when all calls have returned: tasks write to disjoint
/// parts of shared buffers by index.
pub unsafe trait Executor: Send + Sync {
    /// Threads that take part.
    fn threads(&self) -> usize;
    /// Calls `task` with each of `0..tasks` once, in any order, and returns when all are done.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// One thread: the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

// SAFETY: a plain loop.
unsafe impl Executor for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// The rayon pool that the caller is in: `ThreadPool::install` natively, the pool of wasm-bindgen-rayon in a browser.
#[cfg(feature = "rayon")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Rayon;

// SAFETY: a parallel iterator visits each index once and joins before it returns.
#[cfg(feature = "rayon")]
unsafe impl Executor for Rayon {
    fn threads(&self) -> usize {
        rayon::current_num_threads()
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        use rayon::prelude::*;
        if tasks <= 1 || self.threads() == 1 {
            return Serial.run(tasks, task);
        }
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Cuts `0..len` into about `parts` ranges of equal length, each a multiple of `unit` but for the last.
pub(crate) fn split(len: usize, parts: usize, unit: usize) -> (usize, impl Fn(usize) -> core::ops::Range<usize>) {
    let step = len.div_ceil(parts.max(1)).next_multiple_of(unit).max(unit);
    (len.div_ceil(step), move |i: usize| i * step..((i + 1) * step).min(len))
}

/// Calls `task` with each chunk of `chunk` elements of `data` (the last may be shorter) and its index.
pub(crate) fn chunks_mut<T: Send>(
    exec: &dyn Executor,
    data: &mut [T],
    chunk: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    struct Base<T>(*mut T);
    // SAFETY: each task derives from it a slice that no other task touches.
    unsafe impl<T: Send> Sync for Base<T> {}
    impl<T> Base<T> {
        fn at(&self, offset: usize) -> *mut T {
            self.0.wrapping_add(offset)
        }
    }
    let len = data.len();
    let base = Base(data.as_mut_ptr());
    exec.run(len.div_ceil(chunk), &|i| {
        let start = i * chunk;
        // SAFETY: chunks lie inside `data`, borrowed mutably for this call, and do not overlap; `run` calls each i once.
        let part = unsafe { core::slice::from_raw_parts_mut(base.at(start), chunk.min(len - start)) };
        task(i, part);
    });
}
