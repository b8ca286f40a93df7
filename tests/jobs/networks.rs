//! The network that a warm server is in: its own where the worker can make one, else the worker's, and everybody is told which.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use worker_tests::rights::{self, NOBODY};
use worker_tests::wait::until;
use worker_tests::{built, needs};

use crate::servers::{Rig, call};

/// Whether network namespaces can be made here, by somebody else's word: what the worker thinks of it is what is tested.
fn can_be_made(what: &str) -> bool {
    let Some(unshare) = needs::program(what, "unshare", "util-linux") else {
        return false;
    };
    let made = Command::new(unshare).args(["--net", "true"]).output();
    let can = made.expect("it can be run").status.success();
    if !can {
        needs::not_run(what, "no network namespace can be made here");
    }
    can
}

/// Whether somebody listens on a port of a network, as the kernel tells of it below `process`.
fn listens(process: &Path, port: u64) -> bool {
    let tables = ["net/tcp", "net/tcp6"].map(|name| fs::read_to_string(process.join(name)));
    let port = format!(":{port:04X}");
    tables.into_iter().flatten().any(|table| {
        let listening = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].ends_with(&port) && fields[3] == "0A"
        };
        table.lines().skip(1).any(listening)
    })
}

fn connect(port: u64) -> std::io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap()))
}

/// The network namespaces that some thread of the machine is in.
fn networks() -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let threads = processes.flat_map(|entry| {
        let tasks = fs::read_dir(entry.path().join("task"));
        tasks.into_iter().flatten().flatten()
    });
    let networks = threads.filter_map(|entry| fs::read_link(entry.path().join("ns/net")).ok());
    networks.collect()
}

async fn only_server(rig: &Rig) -> (PathBuf, u64, Value) {
    let history = rig.history("job-1", json!([call(&[], "/v1/pid")])).await;
    assert_eq!(history[0]["Responded"]["status"], 200, "{history:?}");
    let server = rig.servers().await[0].clone();
    let process = Path::new("/proc").join(server["pid"].to_string());
    (process, server["port"].as_u64().unwrap(), server)
}

async fn check(rig: &Rig, name: &str) -> Value {
    let told = rig.home.run(&["doctor", "--json"]).await.stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    let mut checks = told["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["check"] == name);
    check.unwrap_or_else(|| panic!("{name}: {told}")).clone()
}

#[tokio::test]
async fn one_of_its_own_is_reached_by_its_worker_alone_and_gone_with_it() {
    if !can_be_made("a server in a network of its own") {
        return;
    }
    let mut rig = Rig::start("").await;
    let (process, port, server) = only_server(&rig).await;
    assert_eq!(server["network"], "own");
    let own = fs::read_link(process.join("ns/net")).unwrap();
    assert_ne!(own, fs::read_link("/proc/self/ns/net").unwrap());
    assert!(listens(&process, port), "in there it listens");
    assert!(
        !listens(Path::new("/proc/self"), port),
        "out here it does not"
    );
    connect(port).expect_err("and cannot be connected to");
    let check = check(&rig, "server.network").await;
    assert_eq!(check["level"], "ok", "{check}");
    rig.worker.line("a network namespace for each").await;
    // No word to anybody: it goes with the worker, and nothing of it stays.
    rig.worker.kill().await;
    until("the end of the server", || {
        (!process.exists()).then_some(())
    })
    .await;
    until("the end of its network", || {
        (!networks().contains(&own)).then_some(())
    })
    .await;
}

/// Two servers are in two networks, and one that is told its port listens on every address of its own: it is ended as it is
/// everywhere.
#[tokio::test]
async fn each_has_its_own() {
    if !can_be_made("a network for each server") {
        return;
    }
    let rig = Rig::start("").await;
    let script = json!([
        call(&[], "/v1/pid"),
        call(&["--deaf"], "/v1/pid"),
        call(&["--open"], "/v1/pid")
    ]);
    let history = rig.history("job-1", script).await;
    let message = history[2]["Failed"]["message"].as_str().unwrap();
    assert!(message.contains("listens beyond this machine"), "{message}");
    let servers = rig.servers().await;
    let networks: Vec<PathBuf> = servers
        .iter()
        .map(|server| {
            let process = Path::new("/proc").join(server["pid"].to_string());
            fs::read_link(process.join("ns/net")).unwrap()
        })
        .collect();
    assert_eq!(networks.len(), 2);
    assert_ne!(networks[0], networks[1]);
    rig.worker.stop().await;
}

/// Without the right to make any, servers work as well, and everybody is told that others can connect to them.
#[tokio::test]
async fn without_the_right_to_make_any_it_is_the_workers_and_that_is_said() {
    let rig = Rig::start_as("", |command, _| {
        if !rustix::process::geteuid().is_root() {
            return Some(command);
        }
        let what = "a worker without the right to make networks";
        rights::changed(
            what,
            &command,
            &["--bounding-set=-sys_admin", "--inh-caps=-all"],
        )
    });
    let Some(rig) = rig.await else {
        return;
    };
    let (process, port, server) = only_server(&rig).await;
    assert_eq!(server["network"], "shared");
    assert!(listens(&process, port) && listens(Path::new("/proc/self"), port));
    connect(port).expect("it is where everybody is");
    let status = rig.worker.status("its word", |_| true).await;
    assert_eq!(status["serverNetwork"]["network"], "shared");
    let said = rig.worker.line("warm servers listen in").await;
    assert!(said.contains("CAP_SYS_ADMIN"), "{said}");
    // It is the running worker whose rights count, not the doctor's.
    let check = check(&rig, "server.network").await;
    assert_eq!(check["level"], "warning", "{check}");
    let found = check["found"].as_str().unwrap();
    assert!(
        found.contains("the running worker") && found.contains("CAP_SYS_ADMIN"),
        "{found}"
    );
    rig.worker.stop().await;
}

/// An ordinary user with the two capabilities, as `setpriv` is told.
const THEIRS: [&str; 5] = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+sys_admin,+net_admin",
    "--ambient-caps=+sys_admin,+net_admin",
];

/// How many of its sets of capabilities have any: the effective, the permitted, the ambient one.
fn held(process: &Path) -> usize {
    let status = fs::read_to_string(process.join("status")).unwrap();
    let lines = status.lines().filter(|line| line.starts_with("Cap"));
    let of = |line: &str, name| line.starts_with(name) && !line.ends_with("0000000000000000");
    lines
        .filter(|line| of(line, "CapEff") || of(line, "CapPrm") || of(line, "CapAmb"))
        .count()
}

/// A worker of an ordinary user with the two capabilities makes networks, and its servers have none of the capabilities.
#[tokio::test]
async fn capabilities_for_it_stay_with_the_worker() {
    let what = "a worker with capabilities";
    if !can_be_made(what) {
        return;
    }
    let rig = Rig::start_as("", |command, home| {
        rights::give(&home.path(""), NOBODY);
        rights::give(Path::new(command.get_args().last()?), NOBODY);
        let version = home.command(&["--version"]);
        let works = rights::changed(what, &version, &THEIRS)?.output();
        if !works.expect("it can be run").status.success() {
            needs::not_run(what, "nobody may run the worker here");
            return None;
        }
        rights::changed(what, &command, &THEIRS)
    });
    let Some(rig) = rig.await else {
        return;
    };
    let worker = Path::new("/proc").join(rig.worker.id().to_string());
    assert_eq!(held(&worker), 3, "effective, permitted, ambient");
    let (process, port, server) = only_server(&rig).await;
    assert_eq!(server["network"], "own");
    connect(port).expect_err("nobody connects to it");
    assert_eq!(held(&process), 0);
    rig.worker.stop().await;
}

/// The child that compiles plugins is started by the worker with all that the worker has.
#[tokio::test]
async fn the_compiler_lets_go_of_them() {
    let what = "a compiler with capabilities";
    let command = |argument: &str| {
        let mut command = Command::new(built::worker());
        command.arg(argument).current_dir("/");
        rights::changed(what, &command, &THEIRS)
    };
    let Some(mut version) = command("--version") else {
        return;
    };
    if !version.output().expect("it can be run").status.success() {
        return needs::not_run(what, "nobody may run the worker here");
    }
    let Some(mut command) = command("compile-plugin") else {
        return;
    };
    // It waits for its input once it is confined.
    let mut compiler = command.stdin(Stdio::piped()).spawn().unwrap();
    let process = Path::new("/proc").join(compiler.id().to_string());
    until("a compiler without capabilities", || {
        (held(&process) == 0).then_some(())
    })
    .await;
    assert!(compiler.try_wait().unwrap().is_none(), "it waits");
    compiler.kill().unwrap();
    compiler.wait().unwrap();
}
