//! Requests, approvals, tokens.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use worker_studio::Approval;

use crate::support::{Rig, SECRET, SECRET_HASH, capabilities};

fn body(install: &str) -> Value {
    json!({
        "installId": install, "registrationSecretHash": SECRET_HASH,
        "capabilities": capabilities(), "userAgent": "studio-worker/test",
    })
}

#[tokio::test]
async fn a_local_worker_is_approved_at_once_and_only_its_newest_token_counts() {
    let rig = Rig::start().await;
    let answer: Value = rig.register_request("i-1").await.json().await.unwrap();
    assert_eq!(answer["status"], "approved");
    let request = answer["requestId"].as_str().unwrap();

    let (worker, first) = rig.token(request).await;
    let (again, second) = rig.token(request).await;
    assert_eq!(worker, again);
    assert_ne!(first, second);
    assert!(rig.open(&worker, &first).await.is_err());
    assert!(rig.open(&worker, &second).await.is_ok());

    let workers = rig.get("/workers").await;
    assert_eq!(workers[0]["workerId"], worker.as_str());
    assert_eq!(workers[0]["installId"], "i-1");
    assert!(!workers.to_string().contains(&second));
    rig.end().await;
}

#[tokio::test]
async fn an_operator_approves() {
    let rig = Rig::with(|o| o.approve = Approval::Manual).await;
    let request = rig.request("i-1").await;
    let poll: Value = rig.poll(&request, SECRET).await.json().await.unwrap();
    assert_eq!(poll, json!({"status": "pending"}));
    // Asking again while it is pending names the same request.
    assert_eq!(rig.request("i-1").await, request);

    let pending = rig.get("/workers/pending").await;
    assert_eq!(pending.as_array().unwrap().len(), 1);
    assert_eq!(pending[0]["requestId"], request.as_str());
    assert_eq!(pending[0]["capabilities"]["machineName"], "rig");

    let path = format!("/workers/pending/{request}/approve");
    let approved = rig.post(&path, &json!({})).await;
    assert_eq!(approved.status(), StatusCode::OK);
    assert_eq!(
        rig.post(&path, &json!({})).await.status(),
        StatusCode::CONFLICT
    );
    let (worker, token) = rig.token(&request).await;
    rig.connect(&worker, &token, capabilities()).await;
    assert_eq!(rig.get("/workers/pending").await, json!([]));
    rig.end().await;
}

#[tokio::test]
async fn an_operator_rejects_with_a_reason() {
    let rig = Rig::with(|o| o.approve = Approval::Manual).await;
    let request = rig.request("i-1").await;
    let path = format!("/workers/pending/{request}/reject");
    let rejected = rig.post(&path, &json!({"reason": "not ours"})).await;
    assert_eq!(rejected.status(), StatusCode::OK);
    let poll: Value = rig.poll(&request, SECRET).await.json().await.unwrap();
    assert_eq!(poll, json!({"status": "rejected", "reason": "not ours"}));
    // A restart of the worker files a fresh one.
    assert_ne!(rig.request("i-1").await, request);
    let unknown = rig.post("/workers/pending/rr-0/reject", &json!({})).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    rig.end().await;
}

#[tokio::test]
async fn only_the_own_install_is_approved_unasked() {
    let rig = Rig::with(|o| o.approve = Approval::OwnInstall).await;
    // It asked before the studio knew whose it is.
    let early = rig.request("i-own").await;
    let other = rig.request("i-other").await;
    rig.studio.install_own_worker("i-own");
    let (worker, _) = rig.token(&early).await;
    let poll: Value = rig.poll(&other, SECRET).await.json().await.unwrap();
    assert_eq!(poll["status"], "pending");
    // The same install registers anew: the same worker.
    assert_eq!(rig.register("i-own").await.0, worker);
    rig.end().await;
}

#[tokio::test]
async fn a_poll_needs_the_secret_and_a_known_request() {
    let rig = Rig::start().await;
    let request = rig.request("i-1").await;
    let wrong = rig.poll(&request, SECRET_HASH).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    let bare = rig
        .http
        .get(rig.wire(&format!("/workers/register-requests/{request}")))
        .send()
        .await
        .unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        rig.poll("rr-none", SECRET).await.status(),
        StatusCode::NOT_FOUND
    );
    rig.end().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_one_is_refused() {
    let rig = Rig::start().await;
    for (field, value) in [
        ("installId", json!("")),
        ("installId", json!("../../etc")),
        ("installId", json!("x".repeat(129))),
        ("installId", json!(7)),
        ("registrationSecretHash", json!("abc")),
        ("registrationSecretHash", json!(SECRET_HASH.to_uppercase())),
        ("capabilities", json!("many")),
    ] {
        let mut request = body("i-1");
        request[field] = value.clone();
        let status = rig.register_with(&request).await.status();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{field} = {value}");
    }
    let mut huge = body("i-1");
    huge["userAgent"] = "x".repeat(2 << 20).into();
    assert_eq!(
        rig.register_with(&huge).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    assert_eq!(rig.get("/workers").await, json!([]));
    rig.end().await;
}

#[tokio::test]
async fn the_rate_limit_spares_the_own_worker() {
    let rig = Rig::with(|o| {
        o.approve = Approval::OwnInstall;
        o.limits.register_per_minute = 10;
    })
    .await;
    rig.studio.install_own_worker("i-own");
    for n in 0..10 {
        let status = rig.register_request(&format!("i-{n}")).await.status();
        assert_eq!(status, StatusCode::OK);
    }
    let eleventh = rig.register_request("i-10").await;
    assert_eq!(eleventh.status(), StatusCode::TOO_MANY_REQUESTS);
    let own: Value = rig.register_request("i-own").await.json().await.unwrap();
    assert_eq!(own["status"], "approved");
    rig.end().await;
}

#[tokio::test]
async fn waiting_requests_are_bounded() {
    let rig = Rig::with(|o| {
        o.approve = Approval::Manual;
        o.limits.pending = 2;
    })
    .await;
    rig.request("i-1").await;
    rig.request("i-2").await;
    let third = rig.register_request("i-3").await;
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    // One that is there already may still ask.
    rig.request("i-1").await;
    rig.end().await;
}

#[tokio::test]
async fn a_worker_that_lost_its_secret_can_ask_again() {
    let rig = Rig::with(|o| o.approve = Approval::Manual).await;
    let lost = rig.request("i-1").await;
    let mut request = body("i-1");
    request["registrationSecretHash"] = "0".repeat(64).into();
    let answer: Value = rig.register_with(&request).await.json().await.unwrap();
    assert_ne!(answer["requestId"], lost.as_str());
    assert_eq!(
        rig.poll(&lost, SECRET).await.status(),
        StatusCode::NOT_FOUND
    );
    rig.end().await;
}

#[tokio::test]
async fn a_deleted_worker_is_told_wherever_it_comes() {
    let rig = Rig::start().await;
    let request = rig.request("i-1").await;
    let (id, token) = rig.token(&request).await;
    let mut worker = rig.connect(&id, &token, capabilities()).await;
    // One that has upgraded, but not said hello yet.
    let mut silent = rig.open(&id, &token).await.unwrap();

    let path = format!("/workers/{id}");
    let deleted = rig.api(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::OK);
    assert_eq!(
        worker.ended().await,
        (Some("worker_deleted".to_owned()), 4004)
    );
    silent
        .send(json!({"type": "hello", "authToken": token, "capabilities": capabilities()}))
        .await;
    assert_eq!(
        silent.ended().await,
        (Some("worker_deleted".to_owned()), 4004)
    );

    match rig.open(&id, &token).await {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            assert_eq!(response.status().as_u16(), 404);
        }
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(
        rig.poll(&request, SECRET).await.status(),
        StatusCode::NOT_FOUND
    );
    let again = rig.api(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    rig.end().await;
}
