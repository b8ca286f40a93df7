//! When a server ends.

use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_servers::{CallError, Limits, ServerError, Servers};

use crate::rig::{Rig, get, is_there, launch, until};

#[tokio::test]
async fn nobody_asks_so_it_goes() {
    let rig = Rig::with(|limits| limits.idle = Duration::from_millis(100));
    let server = launch(&[]);
    let lease = rig.lease(&server).await.unwrap();
    let pid = lease.id();
    // Longer than it may be idle: a call is not idleness.
    rig.ask(
        lease,
        &get("/v1/work?ms=400"),
        None,
        &CancellationToken::new(),
    )
    .await
    .unwrap();
    until("its end", || !is_there(pid)).await;
    assert_ne!(rig.lease(&server).await.unwrap().id(), pid);
}

#[tokio::test]
async fn one_that_listens_for_other_machines_later_is_ended() {
    // In a network of its own nobody reaches it until then, in the worker's everybody does.
    for own_network in [true, false] {
        let rig = Rig::new();
        let mut server = launch(&[]);
        server.own_network = own_network;
        let lease = rig.lease(&server).await.unwrap();
        let pid = lease.id();
        rig.ask(lease, &get("/v1/open"), None, &CancellationToken::new())
            .await
            .unwrap();
        let own_network = rig.servers.list().iter().any(|server| server.own_network);
        if let (true, Some(port)) = (own_network, open_port(pid)) {
            TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        }
        until("its end", || !is_there(pid)).await;
    }
}

/// The port on which a process listens for everybody in its network.
fn open_port(pid: i32) -> Option<u16> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    table.lines().find_map(|line| {
        let (address, rest) = line.split_once(" 00000000:")?;
        let (port, rest) = rest.split_once(' ')?;
        (address.ends_with(':') && rest.starts_with("00000000:0000 0A"))
            .then(|| u16::from_str_radix(port, 16).unwrap())
    })
}

#[tokio::test]
async fn one_that_stops_its_work_when_told_stays_warm() {
    let rig = Rig::new();
    let server = launch(&[]);
    let pid = cancelled(&rig, &server, true).await;
    assert!(is_there(pid));
    rig.servers.job_stopped("job").await;
    assert!(is_there(pid), "its work is known to be over");
    assert_eq!(rig.lease(&server).await.unwrap().id(), pid);
}

#[tokio::test]
async fn one_that_is_deaf_or_has_no_word_for_it_is_ended() {
    let rig = Rig::new();
    let deaf = launch(&["--deaf"]);
    let pid = cancelled(&rig, &deaf, true).await;
    assert!(!is_there(pid), "409 is no yes");
    let pid = cancelled(&rig, &launch(&[]), false).await;
    assert!(!is_there(pid), "nothing to tell it with");
    // Ended by us, so not held against it.
    for _ in 0..4 {
        cancelled(&rig, &deaf, true).await;
    }
    rig.pid(&deaf).await;
}

/// Cancels a call of an hour; the process that it went to.
async fn cancelled(rig: &Rig, server: &worker_servers::Launch, tells: bool) -> i32 {
    let cancel = CancellationToken::new();
    let lease = rig.lease(server).await.unwrap();
    let (pid, mut lines) = (lease.id(), lease.lines());
    let (work, stop) = (get("/v1/work?ms=3600000"), get("/v1/cancel"));
    let call = rig.ask(lease, &work, tells.then_some(&stop), &cancel);
    let watch = async {
        lines.recv().await;
        cancel.cancel();
    };
    let (answer, ()) = tokio::join!(call, watch);
    assert!(matches!(answer, Err(CallError::Cancelled)), "{answer:?}");
    pid
}

#[tokio::test]
async fn a_late_answer_ends_it_too() {
    let rig = Rig::new();
    let lease = rig.lease(&launch(&[])).await.unwrap();
    let pid = lease.id();
    let mut request = get("/v1/work?ms=3600000");
    request.timeout = Duration::from_millis(100);
    let late = rig
        .ask(lease, &request, None, &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(
        matches!(late, CallError::TimedOut { .. }) && late.is_passing(),
        "{late}"
    );
    assert!(!is_there(pid));
}

#[tokio::test]
async fn a_job_that_stops_between_calls_takes_its_server_along() {
    let rig = Rig::new();
    let server = launch(&[]);
    rig.pid(&server).await;
    let pid = rig.servers.list()[0].pid;
    rig.servers.job_stopped("another").await;
    assert!(is_there(pid));
    rig.servers.job_ended("job");
    rig.servers.job_stopped("job").await;
    assert!(is_there(pid), "a job that ended by itself left no work");
    rig.pid(&server).await;
    rig.servers.job_stopped("job").await;
    assert!(!is_there(pid));
}

#[tokio::test]
async fn memory_is_released_longest_unused_first_and_never_from_one_in_use() {
    let rig = Rig::new();
    let servers = ["1", "2", "3", "4"].map(|n| launch(&["--load-ms", n]));
    for server in &servers {
        rig.pid(server).await;
    }
    let _used = rig.lease(&servers[0]).await.unwrap();
    let pids: Vec<i32> = servers
        .iter()
        .zip(rig.servers.list())
        .map(|(_, status)| status.pid)
        .collect();
    let mut asked = 0;
    rig.servers
        .release_memory(Some(&servers[1]), || {
            asked += 1;
            let enough = asked > 1;
            async move { enough }
        })
        .await;
    let there: Vec<bool> = pids.iter().map(|pid| is_there(*pid)).collect();
    assert_eq!(there, [true, true, false, true]);
    rig.servers.release_memory(None, || async { false }).await;
    let there: Vec<bool> = pids.iter().map(|pid| is_there(*pid)).collect();
    assert_eq!(there, [true, false, false, false]);
}

#[tokio::test]
async fn what_it_holds_is_let_go_with_its_process() {
    let rig = Rig::new();
    let held = std::sync::Arc::new(());
    let mut server = launch(&[]);
    server.holds.add(held.clone());
    rig.pid(&server).await;
    drop(server);
    assert_eq!(std::sync::Arc::strong_count(&held), 2);
    rig.servers.release_memory(None, || async { false }).await;
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

/// Notes, when it is let go, whether a server's folder was still there.
struct Noting {
    servers: PathBuf,
    there: Arc<AtomicBool>,
}

impl Drop for Noting {
    fn drop(&mut self) {
        let mut entries = std::fs::read_dir(&self.servers).unwrap().flatten();
        let there = entries.any(|entry| entry.file_name() != "shown");
        self.there.store(there, Ordering::SeqCst);
    }
}

/// Its folder may take long to remove, and somebody may be waiting for the room of what it holds.
#[tokio::test]
async fn what_it_holds_is_let_go_before_its_folder_is_removed() {
    let rig = Rig::new();
    let there = Arc::<AtomicBool>::default();
    let mut server = launch(&[]);
    server.holds.add(Arc::new(Noting {
        servers: rig.dir.path().join("servers"),
        there: there.clone(),
    }));
    rig.pid(&server).await;
    drop(server);
    rig.servers.release_memory(None, || async { false }).await;
    assert!(there.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_plugin_that_is_replaced_loses_its_servers_after_the_call_in_hand() {
    let rig = Rig::new();
    let (old, mut new) = (launch(&[]), launch(&[]));
    new.plugin_digest = "22".to_owned();
    let lease = rig.lease(&old).await.unwrap();
    let pid = lease.id();
    rig.servers.retire(|launch| launch.plugin_digest == "22");
    assert_ne!(
        rig.pid(&new).await,
        rig.pid(&launch(&["--load-ms", "1"])).await
    );
    rig.ask(lease, &get("/v1/pid"), None, &CancellationToken::new())
        .await
        .expect("the call in hand is finished");
    until("the old one's end", || !is_there(pid)).await;
    rig.pid(&new).await;
}

#[tokio::test]
async fn the_worker_goes_and_nothing_stays() {
    let rig = Rig::new();
    let (a, b) = (launch(&[]), launch(&["--load-ms", "1"]));
    rig.pid(&a).await;
    rig.pid(&b).await;
    let pids: Vec<i32> = rig.servers.list().iter().map(|server| server.pid).collect();
    assert_eq!(pids.len(), 2);
    rig.servers.stop().await;
    assert!(pids.iter().all(|pid| !is_there(*pid)));
    assert!(matches!(rig.lease(&a).await, Err(ServerError::Stopping)));
    let folder = rig.dir.path().join("servers");
    let left: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["shown"], "its folders went with the processes");
    std::fs::create_dir(folder.join("left-by-a-power-cut")).unwrap();
    Servers::open(&folder, Limits::default()).unwrap();
    assert!(!folder.join("left-by-a-power-cut").exists());
}

/// What a server of an earlier run left is no reason not to start, though nobody may remove it.
#[test]
fn what_cannot_be_removed_is_left_beside() {
    const TEST: &str = "ends::what_cannot_be_removed_is_left_beside";
    const PLACE: &str = "WORKER_SERVERS_TEST";
    if let Some(folder) = std::env::var_os(PLACE) {
        let folder = std::path::PathBuf::from(folder);
        let servers = Servers::open(&folder, Limits::default()).unwrap();
        drop(servers);
        let entries = std::fs::read_dir(&folder).unwrap().flatten();
        let (shown, left): (Vec<_>, Vec<_>) = entries
            .map(|entry| entry.path())
            .partition(|path| path.join("shown").is_dir());
        assert_eq!(shown.len(), 1, "a folder of its own");
        assert_eq!(left, [folder.join("foreign")], "what may be removed is");
        return;
    }
    let nobody = 65534;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("servers");
    for left in ["shut", "foreign"] {
        std::fs::create_dir_all(folder.join(left)).unwrap();
        std::fs::write(folder.join(left).join("file"), "").unwrap();
    }
    let own = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    let owned = [&folder, &folder.join("shut")].map(|path| chown(path, Some(nobody), Some(nobody)));
    if owned.iter().any(Result::is_err) {
        eprintln!("\nNOT RUN: {TEST}: only root can leave what somebody else cannot remove");
        return;
    }
    for (path, mode) in [(dir.path(), 0o755), (&folder.join("shut"), 0o000)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let mut again = std::process::Command::new(own);
    again.args(["--exact", TEST]).env(PLACE, &folder);
    let ended = again.uid(nobody).gid(nobody).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && told.contains("1 passed"),
        "{told}"
    );
}
