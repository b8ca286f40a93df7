//! What a program in the sandbox can reach. Each deed is tried with the sandbox and without, so that each of these tests
//! could fail.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};

use serde_json::{Value, json};

use crate::rig::{Rig, said};

const WITHOUT: &str = "program_sandbox = false\nprograms_without_sandbox = true";

/// Whether it was refused, of one that must have been tried.
fn refused(outcome: &Value) -> bool {
    let said = said(outcome);
    assert!(said == "did" || said.starts_with("refused: "), "{outcome}");
    assert!(
        !said.contains("No such file"),
        "there was something to reach: {outcome}"
    );
    said != "did"
}

/// Tries deeds in one worker; which were refused.
async fn tried(rig: &Rig, deeds: &[Vec<String>]) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for (number, deed) in deeds.iter().enumerate() {
        let words: Vec<&str> = deed.iter().map(String::as_str).collect();
        let outcome = rig.run(&format!("deed-{number}"), &words).await;
        all.push((deed.join(" "), refused(&outcome)));
    }
    all
}

fn deed(what: &str, on: impl std::fmt::Display) -> Vec<String> {
    vec![what.to_owned(), on.to_string()]
}

/// A folder outside, with a file that everybody may read and write.
fn outside() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "private").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test]
async fn files_of_others_are_closed() {
    for sandbox in [true, false] {
        let rig = Rig::start(if sandbox { "" } else { WITHOUT }).await;
        let (folder, file) = outside();
        // As another job would leave it, and a model that no command named.
        let other = rig.home.path("state/scratch/job-other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("prompt"), "theirs").unwrap();
        let model = rig.home.path("models/model.gguf");
        fs::write(&model, "GGUF").unwrap();
        let new = folder.path().join("new");
        fs::write(rig.home.path("network.toml"), "").unwrap();
        fs::create_dir_all(rig.home.path("state/spool")).unwrap();
        fs::write(rig.home.path("state/spool/result"), "theirs").unwrap();
        let deeds = [
            deed("read", "/etc/passwd"),
            // The same by other ways: up from its own folder, through the system's, through a link of its own making.
            deed("read", "../../../../../../../../../../etc/passwd"),
            deed("read", "/proc/self/root/etc/passwd"),
            deed(
                "read",
                "/proc/self/cwd/../../../../../../../../../../etc/passwd",
            ),
            deed("read-by-link", "/etc/passwd"),
            deed("read-by-link", model.display()),
            deed("name-anew", model.display()),
            deed("list", rig.home.path("").display()),
            deed("list", "/dev"),
            deed("read", rig.home.path("network.toml").display()),
            deed("read", rig.home.path("state/spool/result").display()),
            deed("list", rig.home.path("state/journal").display()),
            deed("read", rig.home.config().display()),
            deed("read", rig.home.path("state/token").display()),
            deed("read", other.join("prompt").display()),
            deed("list", other.display()),
            deed("read", model.display()),
            deed("read", &file),
            deed("list", folder.path().display()),
            deed("write", new.display()),
            deed("write", &file),
            deed("mode", &file),
            deed("read", format!("/proc/{}/environ", rig.worker.id())),
            deed("read", format!("/proc/{}/cmdline", rig.worker.id())),
            deed("write", rig.home.path(".local/bin/stand-in").display()),
            deed("write", model.display()),
            deed("cut", &file),
            deed("remove", &file),
        ];
        for (deed, refused) in tried(&rig, &deeds).await {
            // Its own program is busy, and cannot be written to at all.
            assert!(
                refused == sandbox || deed.contains("stand-in"),
                "sandbox {sandbox}: {deed}"
            );
        }
        assert_eq!(new.exists(), !sandbox);
        fs::remove_dir_all(&other).unwrap();
    }
}

#[tokio::test]
async fn what_it_needs_is_open() {
    let rig = Rig::start("").await;
    let deeds = [
        deed("read", "/proc/self/status"),
        deed("read", "/proc/meminfo"),
        deed("read", "/proc/cpuinfo"),
        deed("list", "/usr/lib"),
        deed("write", "/dev/null"),
        deed("write", "own-file"),
        deed("execute", "/bin/sh"),
        vec!["pair".to_owned()],
    ];
    for (deed, refused) in tried(&rig, &deeds).await {
        assert!(!refused, "{deed}");
    }
    // The files that the command names, by name, through a folder, and on standard input.
    let script = json!([
        {"write": ["given.txt", ["twelve bytes"]]},
        {"write": ["kept.txt", ["back"]]},
        {"run": {"backend": "stand-in", "arguments": ["read", {"Positional": [{"File": {"from": [0, 0]}}]}]}},
        {"run": {"backend": "stand-in", "arguments": ["shell", {"Positional": [
            {"Text": "cat "}, {"Directory": [{"name": "a", "file": {"from": [0, 0]}}]}, {"Text": "/a; ls "},
            {"Directory": [{"name": "b", "file": {"from": [1, 0]}}]}, {"Text": "; cat; echo; echo \"$HOME\" > $HOME/x && echo did"}
        ]}], "input": ["fed"]}},
    ]);
    let history = rig.history("named", script).await;
    assert_eq!(said(&history[2]), "did", "{history:#?}");
    assert_eq!(
        history[3]["Exited"]["stdout_tail"], "twelve bytesb\nfed\ndid",
        "{history:#?}"
    );
    // A file of the same job that this command does not name, found by way of one that it does.
    let search =
        "; for n in 0 1 2 3 4 5; do cat $(dirname $(dirname $named))/made-$n/secret.txt; done";
    let script = json!([
        {"write": ["named.txt", ["x"]]},
        {"write": ["secret.txt", ["y"]]},
        {"run": {"backend": "stand-in", "arguments": ["shell", {"Positional": [
            {"Text": "named="}, {"File": {"from": [0, 0]}}, {"Text": "; cat $named"}, {"Text": search},
        ]}]}},
    ]);
    let history = rig.history("unnamed", script).await;
    let exit = &history[2]["Exited"];
    assert_eq!(exit["stdout_tail"], "x", "{exit}");
    let complaints = exit["stderr_tail"].as_str().unwrap();
    assert!(
        complaints.contains("Permission denied"),
        "it was there: {exit}"
    );
    rig.is_well("after").await;
}

#[tokio::test]
async fn nobody_is_reached() {
    let name = format!("studio-worker-test-{}", std::process::id());
    for sandbox in [true, false] {
        let rig = Rig::start(if sandbox { "" } else { WITHOUT }).await;
        let folder = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = folder.path().join("socket");
        let _local = UnixListener::bind(&socket).unwrap();
        let letters = folder.path().join("letters");
        let _letters = UnixDatagram::bind(&letters).unwrap();
        let _abstract = {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
            UnixListener::bind_addr(&address).unwrap()
        };
        let deeds = [
            deed("tcp", tcp.local_addr().unwrap()),
            deed("udp", udp.local_addr().unwrap()),
            deed("tcp", tcp6.local_addr().unwrap()),
            deed("abstract", &name),
            deed("socket", socket.display()),
            deed("pair-to", letters.display()),
            vec!["tcp-listen".to_owned()],
        ];
        for (deed, refused) in tried(&rig, &deeds).await {
            assert_eq!(refused, sandbox, "{deed}");
        }
        tcp.set_nonblocking(true).unwrap();
        assert_eq!(tcp.accept().is_err(), sandbox, "nothing arrived");
    }
}

/// What is everybody's by a number or a name: memory, messages, semaphores. It would outlive the program, and reach around every
/// rule about files.
#[tokio::test]
async fn nothing_is_shared_by_a_number_or_a_name() {
    let own = |words: &[&str]| {
        let ran = std::process::Command::new(worker_tests::built::hostile_program())
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(ran.stdout).unwrap()
    };
    for sandbox in [true, false] {
        let rig = Rig::start(if sandbox { "" } else { WITHOUT }).await;
        // As another program of the user's has it.
        let segment = own(&["segment"]);
        let id = segment.lines().next().unwrap();
        let deeds = [
            deed("made", "segment"),
            deed("made", "messages"),
            deed("made", "semaphore"),
            deed("made", "queue"),
            deed("attached", id),
            deed("removed", id),
        ];
        for (deed, refused) in tried(&rig, &deeds).await {
            assert_eq!(refused, sandbox, "{deed}");
        }
        if sandbox {
            assert!(own(&["removed", id]).contains("did"), "it was there");
        }
    }
}

/// Signals to others, and leaving the group.
#[tokio::test]
async fn other_processes_are_left_alone() {
    for sandbox in [true, false] {
        let rig = Rig::start(if sandbox { "" } else { WITHOUT }).await;
        let mut bystander = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = bystander.id().to_string();
        for call in ["nice", "scheduler", "parameters", "disk"] {
            for (whose, may) in [(pid.as_str(), !sandbox), ("0", true)] {
                let job = format!("{call}-{whose}");
                let outcome = rig.run(&job, &["slowed", call, whose]).await;
                assert_eq!(said(&outcome) == "did", may, "{call} {whose}: {outcome}");
            }
        }
        if sandbox {
            let outcome = rig.run("nice-user", &["slowed", "nice-user", "0"]).await;
            assert!(said(&outcome).starts_with("refused"), "{outcome}");
        }
        let script = format!("kill -KILL {pid} && echo did");
        let outcome = rig.run("kill", &["shell", &script]).await;
        let hit = outcome["Exited"]["stdout_tail"] == "did";
        assert_eq!(hit, !sandbox, "{outcome}");
        let _ = bystander.kill();
        bystander.wait().unwrap();
        let outcome = rig
            .run("leave", &["shell", "setsid sh -c 'echo did'"])
            .await;
        let left = outcome["Exited"]["stdout_tail"] == "did";
        assert_eq!(left, !sandbox, "{outcome}");
    }
}

/// The question is the plugin's too, and is asked before any job: nothing is open to it but what every program needs.
#[tokio::test]
async fn a_program_that_is_asked_for_help_is_kept_as_in_a_job() {
    for sandbox in [true, false] {
        let (folder, file) = outside();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let home = worker_tests::Home::new();
        home.configure(if sandbox { "" } else { WITHOUT });
        let closed = [
            "read /etc/passwd".to_owned(),
            format!("read {file}"),
            format!("list {}", folder.path().display()),
            format!("write {file}"),
            format!("read {}", home.config().display()),
            format!("list {}", home.path("state").display()),
            format!("tcp {}", tcp.local_addr().unwrap()),
            "tcp-listen".to_owned(),
        ];
        let open = ["read /proc/self/status", "list /usr/lib", "write own-file"];
        let rig = Rig::asked(home, &[closed.join("\n"), open.join("\n")].join("\n")).await;
        let answers = rig.home.path("state/programs/answers");
        let entry = fs::read_dir(answers).unwrap().next().unwrap().unwrap();
        let answer = fs::read_to_string(entry.path()).unwrap();
        let came = |deed: &str| {
            let line = answer
                .lines()
                .find(|line| line.starts_with(&format!("{deed}: ")));
            line.unwrap_or_else(|| panic!("{deed} was not tried: {answer}"))
                .to_owned()
        };
        for deed in &closed {
            assert_eq!(
                came(deed).contains(": refused: "),
                sandbox,
                "{}",
                came(deed)
            );
        }
        for deed in open {
            assert!(came(deed).ends_with(": did"), "{}", came(deed));
        }
        // The folder that it was asked in is gone.
        let work = fs::read_dir(rig.home.path("state/programs/work")).unwrap();
        assert_eq!(work.count(), 0);
    }
}

/// Where the operator switched the sandbox off, a plugin of somebody else's runs nothing until they say so too.
#[tokio::test]
async fn without_a_sandbox_only_the_workers_own_plugins_run_programs() {
    let rig = Rig::start("program_sandbox = false").await;
    let outcome = rig.run("refused", &["nothing"]).await;
    let why = outcome["Failed"]["message"].as_str().unwrap();
    assert!(why.contains("programs_without_sandbox"), "{why}");
    assert_eq!(outcome["Failed"]["retryable"], false);
}
