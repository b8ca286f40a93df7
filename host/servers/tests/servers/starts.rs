//! Which calls share a server, and what becomes of one that does not start.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_servers::{ServerError, ShownFile};

use crate::rig::{LIMIT, Rig, is_there, launch, text, until};

#[tokio::test]
async fn a_server_is_started_once_and_asked_again() {
    let rig = Rig::new();
    let same = launch(&["--load-ms", "300"]);
    let first = rig.pid(&same).await;
    assert_eq!(rig.pid(&same).await, first);
    let other = rig.pid(&launch(&["--load-ms", "301"])).await;
    assert_ne!(other, first, "other arguments are another server");
    assert_eq!(rig.pid(&same).await, first);
    let listed = rig.servers.list();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (listed[0].starts, listed[0].calls, listed[0].busy),
        (1, 3, false)
    );
}

#[tokio::test]
async fn two_calls_at_once_start_one_and_take_turns() {
    let rig = Rig::new();
    let same = launch(&["--load-ms", "200"]);
    let (a, b) = tokio::join!(rig.pid(&same), rig.pid(&same));
    assert_eq!(a, b);
    let first = rig.lease(&same).await.unwrap();
    let late = rig
        .servers
        .lease(
            &same,
            "job",
            Duration::from_millis(50),
            &CancellationToken::new(),
        )
        .await;
    assert!(matches!(late, Err(ServerError::Late { .. })));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let cancelled = rig.servers.lease(&same, "job", LIMIT, &cancel).await;
    assert!(matches!(cancelled, Err(ServerError::Cancelled)));
    drop(first);
    assert_eq!(rig.pid(&same).await, a);
}

#[tokio::test]
async fn more_may_wait_than_not_without_bound() {
    let rig = Rig::with(|limits| limits.queue = 1);
    let same = launch(&[]);
    let _held = rig.lease(&same).await.unwrap();
    let never = CancellationToken::new();
    let waiting = rig.servers.lease(&same, "job", LIMIT, &never);
    tokio::pin!(waiting);
    assert!(futures_are_pending(waiting.as_mut()).await);
    let third = rig.lease(&same).await;
    assert!(matches!(third, Err(ServerError::Busy { limit: 1, .. })));
}

/// Polls once.
async fn futures_are_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    tokio::time::timeout(Duration::ZERO, future).await.is_err()
}

#[tokio::test]
async fn several_at_once_where_the_server_takes_them() {
    let rig = Rig::new();
    let mut wide = launch(&[]);
    wide.parallel = 2;
    let first = rig.lease(&wide).await.unwrap();
    let second = rig.lease(&wide).await.unwrap();
    assert_eq!(first.id(), second.id());
}

#[tokio::test]
async fn one_that_does_not_get_ready_is_ended_and_says_why() {
    let rig = Rig::new();
    for options in [["--never-ready"], ["--silent"], ["--wrong-port"]] {
        let mut late = launch(&options);
        late.start = Duration::from_millis(400);
        match rig.lease(&late).await {
            Err(error @ ServerError::NotReady { .. }) => {
                assert!(
                    error.is_passing() && error.to_string().contains("listening"),
                    "{options:?}: {error}"
                );
            }
            other => panic!("{options:?}: {:?}", other.err()),
        }
    }
    let died = rig.lease(&launch(&["--exit", "7"])).await.err().unwrap();
    assert!(matches!(died, ServerError::DiedStarting { .. }));
    assert!(
        died.to_string().contains("exit code 7") && died.to_string().contains("cannot load"),
        "{died}"
    );
    assert!(rig.servers.list().is_empty());
}

/// What a server that has no such path says is believed, but not at once: one may listen before it has its paths.
#[tokio::test]
async fn one_without_its_ready_path_is_given_up_before_its_time() {
    let rig = Rig::with(|limits| limits.absent = Duration::from_millis(400));
    let error = rig.lease(&launch(&["--absent", "always"])).await.err();
    match error {
        Some(error @ ServerError::NoReadyPath { status: 404, .. }) => {
            let said = error.to_string();
            assert!(said.contains("404 on /health"), "{said}");
            assert!(!error.is_passing(), "the plugin is told to do it otherwise");
        }
        other => panic!("{other:?}"),
    }
    assert!(rig.servers.list().is_empty());
    // One that adds its paths late, and one that says 503 in between for longer than 404 alone would be borne.
    rig.pid(&launch(&["--absent", "loading", "--load-ms", "200"]))
        .await;
    let mut in_turns = launch(&["--absent", "partly", "--never-ready"]);
    in_turns.start = Duration::from_millis(1_500);
    let late = rig.lease(&in_turns).await.err().unwrap();
    assert!(matches!(late, ServerError::NotReady { .. }), "{late}");
}

/// Ways in which a port that was free is somebody else's by the time the server wants it: the server finds it taken and ends
/// as if all were well; it does so while it is asked whether it is ready, so that nobody sees whose port it is before the end;
/// or it shares the port and the kernel gives every other call to the stranger. It is started again on another port while the
/// stranger holds the first, and the stranger is never asked.
#[tokio::test]
async fn a_port_that_somebody_else_took_is_another_port() {
    for (option, own_network) in [
        ("--taken", true),
        ("--lost", true),
        ("--shared", true),
        ("--taken", false),
        ("--lost", false),
        ("--shared", false),
    ] {
        let rig = Rig::new();
        let note = rig.dir.path().join("note");
        let mut server = launch(&[option, note.to_str().unwrap()]);
        server.own_network = own_network;
        let pid = rig.pid(&server).await;
        for _ in 0..16 {
            assert_eq!(rig.pid(&server).await, pid, "{option}");
        }
        let listed = rig.servers.list();
        assert_eq!((listed.len(), listed[0].starts), (1, 2), "{option}");
        let stranger: std::net::SocketAddr = {
            let noted = std::fs::read_to_string(&note).unwrap();
            let address = noted.parse();
            address.unwrap_or_else(|_| panic!("{option}: {noted}"))
        };
        assert_ne!(stranger.port(), listed[0].port, "{option}");
        // In a network of its own the stranger is out of the test's reach.
        let held = std::net::TcpListener::bind(stranger);
        assert!(
            own_network || held.is_err(),
            "{option}: the stranger is still there"
        );
        std::fs::remove_file(&note).unwrap();
    }
}

#[tokio::test]
async fn one_that_listens_for_other_machines_is_ended() {
    let rig = Rig::new();
    for own_network in [true, false] {
        let mut server = launch(&["--open"]);
        server.own_network = own_network;
        let open = rig.lease(&server).await.err().unwrap();
        assert!(
            matches!(open, ServerError::Open { .. }) && !open.is_passing(),
            "{open}"
        );
        assert!(rig.servers.list().is_empty());
    }
}

#[tokio::test]
async fn one_that_dies_again_and_again_is_not_started_any_more() {
    let rig = Rig::new();
    let broken = launch(&["--exit", "7"]);
    for _ in 0..3 {
        let died = rig.lease(&broken).await.err().unwrap();
        assert!(matches!(died, ServerError::DiedStarting { .. }), "{died}");
    }
    let given_up = rig.lease(&broken).await.err().unwrap();
    assert!(
        matches!(given_up, ServerError::CrashLoop { count: 3, .. }),
        "{given_up}"
    );
    assert!(
        !given_up.is_passing(),
        "the plugin is told to do it otherwise"
    );
    // Another server is not held responsible.
    rig.pid(&launch(&[])).await;
}

#[tokio::test]
async fn a_crash_loop_is_over_with_its_window() {
    let rig = Rig::with(|limits| {
        limits.crashes = 1;
        limits.window = Duration::from_millis(500);
    });
    let broken = launch(&["--exit", "7"]);
    let mut given_up = 0;
    let started_again = async {
        let mut died = 0;
        while died < 2 {
            match rig.lease(&broken).await.err().unwrap() {
                ServerError::CrashLoop { .. } => given_up += 1,
                _ => died += 1,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, started_again)
        .await
        .expect("it is started again");
    assert!(given_up > 0);
}

#[tokio::test]
async fn a_cancelled_start_leaves_nothing() {
    let rig = Rig::new();
    let (slow, cancel) = (launch(&["--never-ready"]), CancellationToken::new());
    let servers = rig.servers.clone();
    let starting = tokio::spawn({
        let cancel = cancel.clone();
        async move { servers.lease(&slow, "job", LIMIT, &cancel).await.err() }
    });
    until("the process", || !rig.servers.list().is_empty()).await;
    let pid = rig.servers.list()[0].pid;
    cancel.cancel();
    assert!(matches!(
        starting.await.unwrap(),
        Some(ServerError::Cancelled)
    ));
    until("its end", || !is_there(pid)).await;
}

#[tokio::test]
async fn equal_contents_are_one_server_under_their_own_name() {
    let rig = Rig::new();
    let path = rig.dir.path().join("blob");
    std::fs::write(&path, "weights").unwrap();
    let shown = |name: &str| {
        let file = ShownFile {
            name: name.to_owned(),
            path: path.clone(),
        };
        rig.servers.shown().file(&file).unwrap()
    };
    let (first, again) = (shown("a.gguf"), shown("a.gguf"));
    assert_eq!(first, again);
    assert!(first.ends_with("a.gguf"));
    assert_ne!(shown("b.gguf"), first);
    let model = |path: &std::path::Path| launch(&["--model", path.to_str().unwrap()]);
    let answer = rig.get(&model(&first), "/v1/model").await.unwrap();
    assert_eq!(text(&answer), "weights");
    // Replaced as the cache replaces: by another file.
    std::fs::write(rig.dir.path().join("new"), "changed").unwrap();
    std::fs::rename(rig.dir.path().join("new"), &path).unwrap();
    let changed = shown("a.gguf");
    assert_ne!(changed, first);
    assert_eq!(
        text(&rig.get(&model(&changed), "/v1/model").await.unwrap()),
        "changed"
    );
    assert_eq!(rig.servers.list().len(), 2);
}
