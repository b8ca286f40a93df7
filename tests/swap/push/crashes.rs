//! `kill -9` while a pushed plugin is on its way, then a start: a whole generation serves, and the studio is told how it stands.

use std::path::Path;

use worker_tests::Reply;
use worker_tests::wait::rows;

use super::programs::{self, next, program};
use super::rig::{BOTH, Scripted, better, good, told, update};
use crate::crashes::is_clean;
use crate::support::digest;

/// Points on the way of a push, in order, and whether the new version was recorded by then.
const POINTS: [(&str, bool); 4] = [
    ("received", false),
    ("stored", false),
    ("recorded", true),
    ("published", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_push_is_taken_in_leaves_a_whole_generation_and_is_told() {
    rows(POINTS.map(|(point, recorded)| (point, kill_at(point, recorded)))).await;
}

async fn kill_at(point: &'static str, recorded: bool) {
    let rig = Scripted::start().await;
    drop(rig.studio.welcomed_with(BOTH).await);
    let Scripted {
        studio,
        home,
        folder,
        worker,
    } = rig;
    worker.stop().await;
    let env = [("STUDIO_WORKER_FAILPOINT", Path::new(point))];
    let mut worker = home.start_with(folder.path(), &env);
    let mut peer = studio.welcomed_with(BOTH).await;
    let new = better("one");
    let files = worker_tests::FileServer::start().await;
    let url = files.put("one.wasm", new.clone());
    peer.send(update("u-1", &new, &url)).await;
    let status = worker.ended().await;
    assert!(!status.success(), "{point}: it was killed: {status}");
    drop(peer);

    let worker = home.start_with(folder.path(), &[]);
    let mut peer = studio.welcomed_with(BOTH).await;
    let rig = Scripted {
        studio,
        home,
        folder,
        worker,
    };
    let state = if recorded {
        "rolled-back"
    } else {
        "interrupted"
    };
    told(&mut peer, "u-1", state).await;
    assert_eq!(rig.serves().await, digest(&good()), "{point}");
    is_clean(&rig.home, point);
    if !recorded {
        // Announced again, it is tried anew.
        peer.send(update("u-1", &new, &url)).await;
        told(&mut peer, "u-1", "probation").await;
        assert_eq!(rig.serves().await, digest(&new), "{point}");
    }
}

#[tokio::test]
async fn a_kill_while_its_program_comes_leaves_what_served() {
    let mut rig = programs::Rig::start().await;
    let before = rig.plugin().await;
    rig.scripted.worker.terminate();
    rig.scripted.worker.ended().await;
    let mut rig = rig.again(Some("providing")).await;
    rig.shelf.on("plugin", Reply::Bytes(program()));
    let new = next("one");
    rig.push("u-1", &new).await;
    let status = rig.scripted.worker.ended().await;
    assert!(!status.success(), "it was killed: {status}");
    let mut rig = rig.again(None).await;
    told(&mut rig.peer, "u-1", "interrupted").await;
    assert_eq!(rig.plugin().await["digest"], before["digest"]);
    is_clean(&rig.scripted.home, "providing");
    rig.push("u-1", &new).await;
    told(&mut rig.peer, "u-1", "probation").await;
    assert_eq!(rig.plugin().await["digest"], digest(&new).as_str());
    rig.job("after").await;
}
