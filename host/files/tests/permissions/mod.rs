//! Tests of what permissions keep away: root, whom they do not hold, runs them as somebody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Nobody, on every system.
const NOBODY: u32 = 65534;

/// Whether permissions hold this process. Where they do not, the test of this name has been run by one that they do.
pub(crate) fn hold(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let own = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    let mut again = Command::new(own);
    again.args(["--exact", test]).env("TMPDIR", dir.path());
    let ended = again.uid(NOBODY).gid(NOBODY).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    false
}
