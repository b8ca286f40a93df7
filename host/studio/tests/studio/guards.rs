//! Who may talk to the routes at all.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Rig, TOKEN, raw};

#[tokio::test]
async fn host_then_origin_then_token() {
    let rig = Rig::start().await;
    let good = format!("Authorization: Bearer {TOKEN}\r\n");
    let wrong = "Authorization: Bearer 0123456789abcdef0123456789abcdee\r\n";
    let cases = [
        ("localhost", "", good.as_str(), 200),
        ("[::1]:80", "Origin: http://localhost:5173\r\n", &good, 200),
        ("127.0.0.1", "Origin: https://127.0.0.1\r\n", &good, 200),
        ("evil.example", "", &good, 403),
        ("127.0.0.1.evil.example", "", &good, 403),
        ("127.0.0.1", "Origin: http://evil.example\r\n", &good, 403),
        ("127.0.0.1", "Origin: null\r\n", &good, 403),
        (
            "127.0.0.1",
            "Origin: http://localhost\r\nOrigin: http://evil.example\r\n",
            &good,
            403,
        ),
        ("127.0.0.1", "", "", 401),
        ("127.0.0.1", "", wrong, 401),
        ("127.0.0.1", "", "Authorization: Basic dTpw\r\n", 401),
        (
            "evil.example",
            "Origin: http://evil.example\r\n",
            wrong,
            403,
        ),
    ];
    for (host, origin, token, expected) in cases {
        let head = format!(
            "GET /api/jobs HTTP/1.1\r\nHost: {host}\r\n{origin}{token}Connection: close\r\n\r\n"
        );
        assert_eq!(raw(&rig, &head).await, expected, "{head}");
    }
    // The target in absolute form says another host than the header.
    let head = format!(
        "GET http://evil.example/api/jobs HTTP/1.1\r\nHost: localhost\r\n{good}Connection: close\r\n\r\n"
    );
    assert_eq!(raw(&rig, &head).await, 403);
    rig.end().await;
}

#[tokio::test]
async fn a_denial_is_json_and_leaks_nothing() {
    let rig = Rig::start().await;
    let response = rig
        .http
        .get(format!("{}/api/jobs", rig.base))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"], "unauthorized");
    assert!(!body.to_string().contains(TOKEN));
    assert!(!format!("{:?}", rig.studio).contains(TOKEN));
    rig.end().await;
}

#[tokio::test]
async fn no_page_opens_the_wire_routes() {
    let rig = Rig::start().await;
    let response = rig
        .http
        .post(rig.wire("/workers/register-request"))
        .header("origin", "http://localhost")
        .json(&json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let (id, token) = rig.register("i-1").await;
    let head = format!(
        "GET /graphics/api/workers/{id}/connect HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n\
         Authorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: studio-worker-v1\r\n\r\n"
    );
    let head = head.replace("Connection: Upgrade", "Connection: Upgrade, close");
    assert_eq!(raw(&rig, &head).await, 403);
    rig.end().await;
}

#[tokio::test]
async fn bodies_are_bounded() {
    let rig = Rig::start().await;
    let large = vec![b' '; (64 << 20) + 1];
    let response = rig
        .api(Method::POST, "/jobs")
        .body(large)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"], "too_large");
    rig.end().await;
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let rig = Rig::start().await;
    let many: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let head =
        format!("GET /api/jobs HTTP/1.1\r\nHost: localhost\r\n{many}Connection: close\r\n\r\n");
    assert_eq!(raw(&rig, &head).await, 431);
    rig.end().await;
}
