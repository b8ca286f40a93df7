//! Locks that somebody else may hold, waited for with a bound.

use std::fs::TryLockError;
use std::io;
use std::time::Duration;

/// Between two tries. Longer keeps the waiting one from what is free; shorter only burns time.
const PAUSE: Duration = Duration::from_millis(20);

/// Tries so often, with a pause after each. Whether the lock was had. Blocks.
pub(crate) fn wait(
    tries: u32,
    mut lock: impl FnMut() -> Result<(), TryLockError>,
) -> io::Result<bool> {
    for _ in 0..tries {
        match lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(source)) => return Err(source),
        }
    }
    Ok(false)
}
