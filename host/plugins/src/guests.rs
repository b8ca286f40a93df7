//! The threads that guests run on, and the clock that ends their overlong calls.
//!
//! Guests compute and never wait, so they get a few threads of their own: on those that serve the network, one
//! long call would stop heartbeats. Callers on an async runtime await the answer; whoever stops waiting cancels
//! the call within a tick.
//!
//! A job has a thread to itself, which serves nobody while a step is made. Its longer calls run there: what goes in and what comes
//! out stays with one core, and no thread has to be woken for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::EngineWeak;

/// How often running guests are looked at. A shorter tick ends a call nearer to its deadline and wakes the machine more often.
const TICK: Duration = Duration::from_millis(5);

/// How many ticks the clock goes on after the last call has ended. Waking it costs a call more than the whole of a small one
/// does, so it sleeps only once nothing has run for a second.
const LINGER_TICKS: u32 = 200;

/// Calls waiting for a thread; more are refused. A worker has one job and a few readers of progress, so hundreds mean a leak.
const MAX_WAITING: usize = 256;

type Task = Box<dyn FnOnce() + Send>;

/// Why a task was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Too many wait already.
    #[error("{MAX_WAITING} calls are waiting already")]
    Full,
    /// The sandbox is closing, or the thread died under the call.
    #[error("its thread has ended")]
    Closed,
}

#[derive(Default)]
struct Waiting {
    tasks: VecDeque<Task>,
    closed: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    running: AtomicUsize,
    clock_sleeps: AtomicBool,
    clock: Mutex<bool>,
    wake: Condvar,
}

/// A pool of guest threads. Dropping it ends them once their calls have ended.
pub(crate) struct Guests {
    shared: Arc<Shared>,
}

/// Whether nobody waits for a call's answer any more.
#[derive(Clone)]
pub(crate) enum Abandoned {
    /// Set when its future is dropped.
    Flag(Arc<AtomicBool>),
    /// Said by whoever lent the thread.
    Asked(Arc<dyn Fn() -> bool + Send + Sync>),
}

impl Default for Abandoned {
    fn default() -> Self {
        Self::Flag(Arc::default())
    }
}

impl Abandoned {
    pub(crate) fn is_set(&self) -> bool {
        match self {
            Self::Flag(flag) => flag.load(Ordering::Relaxed),
            Self::Asked(is_over) => is_over(),
        }
    }
}

struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

thread_local! {
    /// Set on a thread that was lent to guests.
    static LENT: RefCell<Option<Abandoned>> = const { RefCell::new(None) };
}

/// Lends this thread to the longer calls, steps and finishes, that are awaited in `work`: they run on the spot, so it must be one
/// that nothing else waits for. `is_over` is asked every few milliseconds meanwhile; a call ends when it says so.
pub fn lend_thread<R>(
    is_over: impl Fn() -> bool + Send + Sync + 'static,
    work: impl FnOnce() -> R,
) -> R {
    let before = LENT.replace(Some(Abandoned::Asked(Arc::new(is_over))));
    let _after = TakeBack(before);
    work()
}

/// The thread is what it was afterwards, also after a panic.
struct TakeBack(Option<Abandoned>);

impl Drop for TakeBack {
    fn drop(&mut self) {
        LENT.set(self.0.take());
    }
}

impl Guests {
    /// Starts the threads.
    pub(crate) fn start(threads: NonZeroUsize, engine: EngineWeak) -> std::io::Result<Self> {
        let guests = Self {
            shared: Arc::new(Shared {
                waiting: Mutex::default(),
                arrived: Condvar::new(),
                running: AtomicUsize::new(0),
                clock_sleeps: AtomicBool::new(false),
                clock: Mutex::new(false),
                wake: Condvar::new(),
            }),
        };
        for number in 0..threads.get() {
            let shared = Arc::clone(&guests.shared);
            thread::Builder::new()
                .name(format!("guest-{number}"))
                .spawn(move || shared.serve())?;
        }
        let shared = Arc::clone(&guests.shared);
        thread::Builder::new()
            .name("guest-clock".to_owned())
            .spawn(move || shared.tick(&engine))?;
        Ok(guests)
    }

    /// Runs `work` on a guest thread. Dropping the future abandons it: a call that has not begun never does, a running one is
    /// told by [`Abandoned`].
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Abandoned) -> R + Send + 'static,
    ) -> Result<R, Refused> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let flag = Arc::<AtomicBool>::default();
        let abandoned = Abandoned::Flag(flag.clone());
        let guard = AbandonOnDrop(flag);
        let span = tracing::Span::current();
        self.submit(Box::new(move || {
            if abandoned.is_set() {
                return;
            }
            let answer = span.in_scope(|| work(&abandoned));
            // Fails when nobody waits any more; then nobody misses it.
            let _ = sender.send(answer);
        }))?;
        let answer = receiver.await;
        drop(guard);
        answer.map_err(|_| Refused::Closed)
    }

    /// The same on this thread, where it was lent, else on a guest thread.
    pub(crate) async fn run_here<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Abandoned) -> R + Send + 'static,
    ) -> Result<R, Refused> {
        let Some(abandoned) = LENT.with_borrow(Clone::clone) else {
            return self.run(work).await;
        };
        let mut answer = None;
        self.shared.counted(|| answer = Some(work(&abandoned)));
        answer.ok_or(Refused::Closed)
    }

    fn submit(&self, task: Task) -> Result<(), Refused> {
        let mut waiting = lock(&self.shared.waiting);
        if waiting.closed {
            return Err(Refused::Closed);
        }
        if waiting.tasks.len() >= MAX_WAITING {
            return Err(Refused::Full);
        }
        waiting.tasks.push_back(task);
        drop(waiting);
        self.shared.arrived.notify_one();
        Ok(())
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.closed = true;
        waiting.tasks.clear();
        drop(waiting);
        self.shared.arrived.notify_all();
        *lock(&self.shared.clock) = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn serve(&self) {
        while let Some(task) = self.next() {
            self.counted(task);
        }
    }

    /// Makes a call, with the clock going.
    fn counted(&self, call: impl FnOnce()) {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.wake_clock();
        // A panic here is a defect of the host's; it must not take the thread from the calls to come. The caller gets no answer.
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            tracing::error!(target: "plugins", "a guest's thread panicked in host code; the call is lost");
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn next(&self) -> Option<Task> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(task) = waiting.tasks.pop_front() {
                return Some(task);
            }
            waiting = self
                .arrived
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake_clock(&self) {
        if self.clock_sleeps.load(Ordering::SeqCst) {
            let _held = lock(&self.clock);
            self.wake.notify_all();
        }
    }

    fn tick(&self, engine: &EngineWeak) {
        let mut idle = 0;
        loop {
            {
                let mut closed = lock(&self.clock);
                if idle >= LINGER_TICKS {
                    // Announced before `running` is looked at again, and calls count themselves before they look here: one of the
                    // two sees the other.
                    self.clock_sleeps.store(true, Ordering::SeqCst);
                    while !*closed && self.running.load(Ordering::SeqCst) == 0 {
                        closed = self
                            .wake
                            .wait(closed)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                    self.clock_sleeps.store(false, Ordering::SeqCst);
                    idle = 0;
                }
                if *closed && self.running.load(Ordering::SeqCst) == 0 {
                    return;
                }
            }
            thread::sleep(TICK);
            let Some(engine) = engine.upgrade() else {
                return;
            };
            engine.increment_epoch();
            idle = match self.running.load(Ordering::SeqCst) {
                0 => idle + 1,
                _ => 0,
            };
        }
    }
}

/// Nothing in this module can be left half-changed by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests(threads: usize) -> Guests {
        let engine = wasmtime::Engine::default();
        let guests = Guests::start(NonZeroUsize::new(threads).unwrap(), engine.weak()).unwrap();
        // The clock may find its engine gone; calls go on.
        drop(engine);
        guests
    }

    #[tokio::test]
    async fn a_panic_loses_one_call_and_no_thread() {
        let guests = guests(1);
        let lost = guests.run(|_| -> u32 { panic!("on purpose") }).await;
        assert_eq!(lost, Err(Refused::Closed));
        assert_eq!(guests.run(|_| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_never_begins() {
        let guests = guests(1);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let first = guests.run(move |_| held.recv().is_ok());
        tokio::pin!(first);
        assert!(futures_poll_once(first.as_mut()).await.is_none());
        let ran = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ran);
        {
            let second = guests.run(move |_| flag.store(true, Ordering::SeqCst));
            tokio::pin!(second);
            assert!(futures_poll_once(second.as_mut()).await.is_none());
        }
        release.send(()).unwrap();
        assert_eq!(first.await, Ok(true));
        assert_eq!(guests.run(|_| ()).await, Ok(()));
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn too_many_waiting_are_refused() {
        let guests = guests(1);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (started, began) = std::sync::mpsc::channel::<()>();
        guests
            .submit(Box::new(move || {
                let _ = started.send(());
                let _ = held.recv();
            }))
            .unwrap();
        began.recv().unwrap();
        for _ in 0..MAX_WAITING {
            guests.submit(Box::new(|| ())).unwrap();
        }
        assert_eq!(guests.submit(Box::new(|| ())), Err(Refused::Full));
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn calls_run_here_where_the_thread_was_lent() {
        let guests = guests(1);
        let here = thread::current().id();
        let place = |_: &Abandoned| thread::current().id();
        assert_ne!(guests.run_here(place).await, Ok(here));
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        lend_thread(
            move || asked.load(Ordering::Relaxed),
            || {
                let call = guests.run_here(place);
                assert_eq!(at_once(call), Ok(here));
                assert_eq!(at_once(guests.run_here(Abandoned::is_set)), Ok(false));
                over.store(true, Ordering::Relaxed);
                assert_eq!(at_once(guests.run_here(Abandoned::is_set)), Ok(true));
                let lost = at_once(guests.run_here(|_| -> u32 { panic!("on purpose") }));
                assert_eq!(lost, Err(Refused::Closed));
            },
        );
        assert_ne!(guests.run_here(place).await, Ok(here), "no longer lent");
    }

    /// What needs to wait for nothing.
    fn at_once<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => Some(value),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
