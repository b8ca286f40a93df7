//! `GET /metrics` of a worker that did something.

use reqwest::Method;
use worker_tests::api::http;
use worker_tests::built;

use crate::support::{Rig, another, component, digest};

#[tokio::test]
async fn metrics_tell_what_happened_and_only_to_whoever_has_the_token() {
    let first = component("haiku");
    let second = another(&first, "second");
    let rig = Rig::start(&[("haiku.wasm", &first)]).await;
    rig.haiku().await;
    rig.put("haiku.wasm", &second);
    rig.serves("haiku", &digest(&second)).await;
    rig.put("haiku.wasm", b"broken");
    rig.candidate("haiku", "refused").await;

    let url = format!("{}/metrics", rig.api.url);
    assert_eq!(http().get(&url).send().await.unwrap().status(), 401);
    let told = rig
        .api
        .request(Method::GET, "/metrics")
        .send()
        .await
        .unwrap();
    assert_eq!(
        told.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let page = told.text().await.unwrap();
    let generation = rig.generation().await;
    for line in [
        "studio_worker_connected 1".to_owned(),
        "studio_worker_sessions_total 1".to_owned(),
        "studio_worker_busy 0".to_owned(),
        "studio_worker_offers_total{answer=\"accepted\"} 1".to_owned(),
        "studio_worker_jobs_total{outcome=\"done\"} 1".to_owned(),
        "studio_worker_jobs_total{outcome=\"failed\"} 0".to_owned(),
        "studio_worker_job_duration_seconds_count 1".to_owned(),
        "studio_worker_job_duration_seconds_bucket{le=\"+Inf\"} 1".to_owned(),
        format!("studio_worker_generation_info{{generation=\"{generation}\"}} 1"),
        "studio_worker_plugin_states_total{state=\"probation\"} 1".to_owned(),
        "studio_worker_plugin_states_total{state=\"refused\"} 1".to_owned(),
        "studio_worker_spool_results 0".to_owned(),
    ] {
        assert!(
            page.lines().any(|one| one == line),
            "{line} is missing:\n{page}"
        );
    }
    let serves = page
        .lines()
        .find(|line| line.contains("plugin=\"haiku\""))
        .unwrap();
    assert!(
        serves.contains(&digest(&second)) && serves.contains("state=\"probation\""),
        "{serves}"
    );
    let refused = page
        .lines()
        .find(|line| line.starts_with("studio_worker_plugin_candidate_info{"))
        .unwrap();
    assert!(
        refused.contains("state=\"refused\"") && refused.contains("reason=\"haiku.wasm"),
        "{refused}"
    );
    // The reference page names what there is, and nothing else.
    let reference =
        std::fs::read_to_string(built::root().join("docs/reference/metrics.md")).unwrap();
    let named: Vec<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `studio")?.split('`').next())
        .collect();
    assert!(named.len() > 20);
    for name in named {
        assert!(page.contains(&format!("# TYPE studio{name} ")), "{name}");
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("studio_worker_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}
