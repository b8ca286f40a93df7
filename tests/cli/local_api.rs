//! Who may use the local API.

use reqwest::Method;
use serde_json::json;
use worker_tests::api::http;
use worker_tests::{Home, offers};

#[tokio::test]
async fn only_who_has_the_token_and_is_no_browser_elsewhere() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let url = |route: &str| format!("{}{route}", api.url);
    for route in ["/daemon/status", "/api/jobs", "/api/workers", "/api/logs"] {
        let answer = http().get(url(route)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{route}: no token");
        let answer = http()
            .get(url(route))
            .bearer_auth("wrong")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{route}: a wrong one");
        let answer = api
            .request(Method::GET, route)
            .header("Host", "evil.example")
            .send()
            .await
            .unwrap();
        assert_eq!(
            answer.status().as_u16(),
            403,
            "{route}: a name that was rebound"
        );
        for origin in ["https://evil.example", "null"] {
            let answer = api
                .request(Method::GET, route)
                .header("Origin", origin)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status().as_u16(), 403, "{route}: {origin}");
        }
        let answer = api
            .request(Method::GET, route)
            .header("Origin", "http://localhost:3000")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{route}");
    }
    let health = http().get(url("/healthz")).send().await.unwrap();
    assert_eq!(health.status().as_u16(), 200, "health needs no token");
    for (method, route) in [
        (Method::POST, "/daemon/pause"),
        (Method::POST, "/daemon/shutdown"),
        (Method::POST, "/api/jobs"),
    ] {
        let answer = http().request(method, url(route)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{route}");
    }
    assert_eq!(api.get("/daemon/status").await["paused"], false);
}

#[tokio::test]
async fn what_is_too_large_or_no_json_is_refused() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    let post = async |body: Vec<u8>| {
        let request = api
            .request(Method::POST, "/api/jobs")
            .header("content-type", "application/json")
            .body(body);
        request.send().await.map(|answer| answer.status().as_u16())
    };
    for body in [
        "",
        "{",
        "[]",
        "7",
        "{\"kind\":5,\"text\":\"x\"}",
        "{\"offer\":[]}",
        "{\"offer\":{\"jobId\":\"../x\"}}",
    ] {
        let status = post(body.as_bytes().to_vec()).await.unwrap();
        assert!((400..500).contains(&status), "{body}: {status}");
    }
    // The rest of a body that is refused by its length may not be read: then the connection ends instead.
    if let Ok(status) = post(vec![b' '; 80 << 20]).await {
        assert_eq!(status, 413);
    }
    let id = api.offer(&offers::chat("after", "hi")).await;
    api.result(&id).await;
}

#[tokio::test]
async fn hostile_ids_and_extensions_never_leave_the_folder() {
    let home = Home::new();
    let worker = home.start();
    let api = worker.connected().await;
    for id in [
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "a\u{0}b",
        "ä",
        &"x".repeat(200),
        "",
    ] {
        let mut claim = offers::chat("x", "hi");
        claim["jobId"] = json!(id);
        let (status, answer) = api.post("/api/jobs", &json!({"offer": claim})).await;
        assert!((400..500).contains(&status), "{id:?}: {answer}");
    }
    for route in [
        "/api/jobs/..%2f..%2fetc%2fpasswd",
        "/api/jobs/none",
        "/api/jobs/none/result",
        "/api/jobs/%00",
    ] {
        let answer = api.request(Method::GET, route).send().await.unwrap();
        assert!(
            (400..500).contains(&answer.status().as_u16()),
            "{route}: {}",
            answer.status()
        );
    }
}

#[tokio::test]
async fn a_shutdown_over_the_api_is_a_first_signal() {
    let home = Home::new();
    let mut worker = home.start();
    let api = worker.connected().await;
    let (status, _) = api.post("/daemon/shutdown", &json!({})).await;
    assert_eq!(status, 202);
    assert!(worker.ended().await.success());
}
