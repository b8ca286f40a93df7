//! A thread that may wait for the disk.
//!
//! An asynchronous runtime's threads may not, so file work usually moves to another thread and back, which takes longer
//! than reading or writing a few kilobytes does. A job that runs on a thread of its own holds nobody up by doing that itself.

use std::cell::Cell;

use tokio::runtime::Handle;

use crate::entry::FileError;

/// Bytes up to which a job reads and writes on its own thread. More, on a slow disk, would keep it from hearing that it was
/// cancelled; less moves small work to another thread.
pub(crate) const QUICK_BYTES: u64 = 1 << 20;

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Runs a future to its end on this thread, which must be none of the runtime's own: in it, file work that is quickly done
/// is done on the spot.
pub fn run_on_own_thread<F: Future>(runtime: &Handle, future: F) -> F::Output {
    let _after = Reset(MAY_WAIT.replace(true));
    runtime.block_on(future)
}

/// Whether this thread may wait for the disk: it is a job's own.
#[must_use]
pub fn may_wait() -> bool {
    MAY_WAIT.get()
}

/// The thread is the runtime's again afterwards, also after a panic.
struct Reset(bool);

impl Drop for Reset {
    fn drop(&mut self) {
        MAY_WAIT.set(self.0);
    }
}

/// Does file work: on the spot where it is `quick` and this thread may wait for it, else on a thread for such work.
pub(crate) async fn file_work<T, F>(quick: bool, work: F) -> Result<T, FileError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, FileError> + Send + 'static,
{
    if quick && MAY_WAIT.get() {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(FileError::Stopping))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    async fn place_of_work(quick: bool) -> thread::ThreadId {
        let work = || Ok(thread::current().id());
        file_work(quick, work).await.unwrap()
    }

    #[tokio::test]
    async fn only_quick_work_of_a_job_stays_on_its_thread() {
        let here = thread::current().id();
        assert_ne!(place_of_work(true).await, here, "a thread of the runtime");
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let own = thread::current().id();
            assert_eq!(run_on_own_thread(&runtime, place_of_work(true)), own);
            assert_ne!(run_on_own_thread(&runtime, place_of_work(false)), own);
            assert!(!MAY_WAIT.get());
        })
        .await
        .unwrap();
    }
}
