//! Named points at which a test can have the process die, as a power cut would end it.
//!
//! Only builds with debug assertions look at the variable: a released worker has no such door.

/// Names the point at which the process kills itself.
pub const VARIABLE: &str = "STUDIO_WORKER_FAILPOINT";

/// Kills this process without a word when the variable names this point.
pub fn failpoint(name: &str) {
    #[cfg(all(unix, debug_assertions))]
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        // That it fails leaves the process running, and then the test that wanted it dead fails.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    #[cfg(not(all(unix, debug_assertions)))]
    let _ = name;
}
