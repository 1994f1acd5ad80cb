//! Threads that wait for the next product by looking, not by sleeping.
//!
//! A token takes a hundred products, each some ten microseconds long on every thread, and waking a sleeping worker of a browser
//! takes several times as long. So while a token is computed the helpers of a [`Team`] look for the next one, and sleep only when
//! none came for as long as a few products take: the leader has lost its core, or has other work.
//!
//! Nobody waits for a helper that has not come yet: who is free takes the next task, and a product is done when its tasks are.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};

use super::{Executor, Serial};

type Task = dyn Fn(usize) + Sync;

/// Bits of a ticket for the next task and for their number.
const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;
/// Looks without a task after which a helper sleeps: some hundred microseconds.
const LOOKS: u32 = 1 << 16;

/// A leader, who runs products, and the helpers who are with it at the time; none is enough.
pub struct Team {
    /// A number of the product, how many tasks it has, and the next one; in one word, so that a task is only taken from the product
    /// that it belongs to.
    ticket: AtomicU64,
    /// Tasks that are done.
    done: AtomicUsize,
    /// The product's. It is valid while a task of it has been taken and is not done.
    task: UnsafeCell<Option<*const Task>>,
    /// A product is running.
    busy: AtomicBool,
    /// Helpers may go.
    over: AtomicBool,
    threads: AtomicUsize,
    /// Helpers who sleep, or are about to.
    asleep: AtomicUsize,
    lock: Mutex<()>,
    call: Condvar,
}

// SAFETY: `task` is written by the thread that set `busy`, while no task is to be taken, and read by those that took one, which
// the ticket orders after the write; the product does not end before they are done.
unsafe impl Sync for Team {}
// SAFETY: it owns nothing that belongs to a thread; the pointer is only used while its product runs.
unsafe impl Send for Team {}

impl Default for Team {
    fn default() -> Self {
        Self::new()
    }
}

impl Team {
    /// A leader alone.
    pub const fn new() -> Self {
        Self {
            ticket: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            task: UnsafeCell::new(None),
            busy: AtomicBool::new(false),
            over: AtomicBool::new(true),
            threads: AtomicUsize::new(1),
            asleep: AtomicUsize::new(0),
            lock: Mutex::new(()),
            call: Condvar::new(),
        }
    }

    /// Runs `work`, which leads, on a thread of the rayon pool, with all others as helpers until it returns.
    pub fn gather<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        /// Lets the helpers go, however `work` ends.
        struct Dismiss<'a>(&'a Team);
        impl Drop for Dismiss<'_> {
            fn drop(&mut self) {
                self.0.dismiss();
            }
        }
        rayon::scope(|scope| {
            let threads = rayon::current_num_threads();
            self.over.store(false, Ordering::Release);
            self.threads.store(threads, Ordering::Relaxed);
            let _dismiss = Dismiss(self);
            for _ in 1..threads {
                scope.spawn(|_| self.help());
            }
            work()
        })
    }

    /// Takes tasks until the leader is done with all its work.
    pub fn help(&self) {
        let mut looks = 0;
        while !self.over.load(Ordering::Acquire) {
            match self.take() {
                Some(i) => {
                    looks = 0;
                    let _done = Done(&self.done);
                    // SAFETY: a task was taken and is not done: its product is running, and `task` was set before it could be
                    // taken.
                    if let Some(task) = unsafe { *self.task.get() } {
                        // SAFETY: as above, so what it points to is borrowed by `run`, which waits.
                        unsafe { (*task)(i) };
                    }
                }
                None if looks < LOOKS => {
                    looks += 1;
                    spin_loop();
                }
                None => {
                    looks = 0;
                    self.sleep();
                }
            }
        }
    }

    /// Sleeps until there is something to take, or nothing more to do.
    fn sleep(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::Relaxed);
        // Either this sees the product that was posted, or whoever posted it sees this sleeper.
        fence(Ordering::SeqCst);
        while !self.is_open() && !self.over.load(Ordering::Acquire) {
            guard = self.call.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes who sleeps, after something was posted.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) > 0 {
            // Whoever counts as asleep but does not wait yet holds the lock.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.call.notify_all();
        }
    }

    /// Lets the helpers go.
    fn dismiss(&self) {
        self.threads.store(1, Ordering::Relaxed);
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether a task is left.
    fn is_open(&self) -> bool {
        let ticket = self.ticket.load(Ordering::Acquire);
        ticket & MASK < ticket >> BITS & MASK
    }

    /// The next task of the product, if one is left.
    fn take(&self) -> Option<usize> {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let (tasks, next) = (ticket >> BITS & MASK, ticket & MASK);
            if next >= tasks {
                return None;
            }
            match self.ticket.compare_exchange_weak(ticket, ticket + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(next as usize),
                Err(now) => ticket = now,
            }
        }
    }
}

/// Counts a task as done, also where it panics.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A product that runs. It ends, also where a task of the leader panics, when all tasks that were taken are done.
struct Running<'a> {
    team: &'a Team,
    /// The ticket behind the last task.
    end: u64,
    /// Tasks that the leader took.
    own: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let taken = (self.team.ticket.swap(self.end, Ordering::AcqRel) & MASK) as usize;
        while self.team.done.load(Ordering::Acquire) + self.own < taken {
            spin_loop();
        }
        self.team.busy.store(false, Ordering::Release);
    }
}

// SAFETY: each index is taken once, by exchanging the ticket, and `run` returns when as many tasks are done as were taken, which are
// all unless one panics.
unsafe impl Executor for Team {
    fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // What a task runs itself, it runs alone.
        if tasks <= 1 || self.threads() == 1 || tasks as u64 > MASK || self.busy.swap(true, Ordering::Acquire) {
            return Serial.run(tasks, task);
        }
        // SAFETY: only the lifetime changes; the pointer is used while this call lasts.
        let lasting = unsafe { core::mem::transmute::<*const (dyn Fn(usize) + Sync), *const Task>(task) };
        // SAFETY: all tasks of the product before were done when `busy` was given up, and none of this one can be taken yet.
        unsafe { *self.task.get() = Some(lasting) };
        self.done.store(0, Ordering::Relaxed);
        let number = (self.ticket.load(Ordering::Relaxed) >> (2 * BITS)).wrapping_add(1);
        let first = number << (2 * BITS) | (tasks as u64) << BITS;
        let mut running = Running { team: self, end: first | tasks as u64, own: 0 };
        self.ticket.store(first, Ordering::Release);
        self.wake();
        while let Some(i) = self.take() {
            running.own += 1;
            task(i);
        }
    }
}

// WebAssembly under Node has no threads; in browsers whole models are compared.
#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_however_many_help() {
        for helpers in [0, 1, 3] {
            let team = Team::new();
            team.over.store(false, Ordering::Relaxed);
            team.threads.store(helpers + 1, Ordering::Relaxed);
            std::thread::scope(|scope| {
                for _ in 0..helpers {
                    scope.spawn(|| team.help());
                }
                let counts: Vec<AtomicUsize> = (0..97).map(|_| AtomicUsize::new(0)).collect();
                for round in 1..2000 {
                    let tasks = round % counts.len() + 1;
                    team.run(tasks, &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                    // What was counted is seen at once, and whatever the task borrowed is free again.
                    let total: usize = counts[..tasks].iter().map(|count| count.swap(0, Ordering::Relaxed)).sum();
                    assert_eq!(total, tasks);
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 0));
                    if round % 500 == 0 {
                        // Long enough for the helpers to fall asleep.
                        std::thread::sleep(std::time::Duration::from_millis(50));
                    }
                }
                team.dismiss();
            });
        }
    }

    #[test]
    fn a_panic_is_heard_and_leaves_the_team_whole() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let team = Team::new();
        for bad in 0..40 {
            let work = || team.run(40, &|i| assert!(i != bad, "task {i}"));
            let caught = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| pool.install(|| team.gather(work))));
            assert!(caught.is_err());
            let count = AtomicUsize::new(0);
            pool.install(|| team.gather(|| team.run(40, &|_| _ = count.fetch_add(1, Ordering::Relaxed))));
            assert_eq!(count.into_inner(), 40);
        }
    }

    #[test]
    fn a_task_may_run_others() {
        let team = Team::new();
        let sum = AtomicUsize::new(0);
        let work = || {
            team.run(10, &|i| {
                team.run(10, &|j| {
                    sum.fetch_add(i * 10 + j, Ordering::Relaxed);
                });
            });
            team.threads()
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(|| team.gather(work)), 3);
        assert_eq!(sum.swap(0, Ordering::Relaxed), 4950);
        // Nobody is there.
        assert_eq!(work(), 1);
        assert_eq!(sum.into_inner(), 4950);
    }
}
