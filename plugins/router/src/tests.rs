use super::*;

const OFFER: &str = r#"{"jobId":"j","model":"m","vramGbEstimate":6.5,
    "task":{"kind":"image","prompt":"a busy street, paused, in-flight"},
    "modelSource":{"engine":"sd-cpp","files":[{"approxBytes":8589934592}],
        "cliDefaults":{"offloadToCpu":false}}}"#;

fn worker() -> WorkerState {
    WorkerState {
        paused: false,
        draining: false,
        current_job: None,
        vram_total_gb: 24.0,
        vram_threshold_gb: 12.0,
        device_free_gb: None,
        host_available_gb: None,
        warm: Vec::new(),
        settings: "{}".to_owned(),
    }
}

fn candidate(name: &str, engine: &str, kinds: &[&str]) -> Candidate {
    Candidate {
        name: name.to_owned(),
        engines: vec![engine.to_owned()],
        kinds: kinds
            .iter()
            .map(|kind| ((*kind).to_owned(), vec![]))
            .collect(),
    }
}

fn candidates() -> Vec<Candidate> {
    vec![
        candidate("painter", "sd-cpp", &["image"]),
        candidate("synthetic", "synthetic", &["image", "llm"]),
    ]
}

fn route(offer: &str, worker: &WorkerState) -> Result<String, (String, String)> {
    StrictRouter::route(offer, &candidates(), worker).map_err(|it| (it.code, it.reason))
}

fn refusal(code: &str, reason: &str) -> Result<String, (String, String)> {
    Err((code.to_owned(), reason.to_owned()))
}

#[test]
fn an_offer_goes_to_the_engine_it_names() {
    assert_eq!(route(OFFER, &worker()).unwrap(), "painter");
    let other = OFFER.replace("sd-cpp", "synthetic");
    assert_eq!(route(&other, &worker()).unwrap(), "synthetic");
}

#[test]
fn the_first_of_two_that_serve_the_kind_is_taken() {
    let candidates = [
        candidate("speaker", "e", &["audio_tts"]),
        candidate("one", "e", &["image"]),
        candidate("two", "e", &["image"]),
    ];
    let offer = OFFER.replace("sd-cpp", "e");
    assert_eq!(
        StrictRouter::route(&offer, &candidates, &worker()).unwrap(),
        "one"
    );
}

#[test]
fn historic_texts_are_exact_to_the_byte() {
    let mut state = worker();
    state.current_job = Some("other".to_owned());
    assert_eq!(
        route(OFFER, &state),
        refusal("busy", "worker already has an in-flight job")
    );
    state.paused = true;
    assert_eq!(
        route(OFFER, &state),
        refusal("paused", "worker paused by operator")
    );
}

#[test]
fn device_memory_is_compared_with_a_reserve() {
    let mut state = worker();
    state.vram_threshold_gb = 24.0;
    state.device_free_gb = Some(16.39);
    let offer = OFFER.replace("6.5", "21");
    assert_eq!(
        route(&offer, &state),
        refusal(
            "insufficient_memory",
            "insufficient device memory: needs 21.00 GiB, 16.39 GiB free (1.00 GiB kept in reserve)"
        )
    );
    state.device_free_gb = Some(22.0);
    assert!(route(&offer, &state).is_ok(), "just enough");
    state.device_free_gb = None;
    assert!(route(&offer, &state).is_ok(), "not known");
}

#[test]
fn a_job_that_needs_no_device_memory_fits_a_full_card() {
    let mut state = worker();
    state.device_free_gb = Some(0.2);
    assert!(route(&OFFER.replace("6.5", "0"), &state).is_ok());
}

#[test]
fn the_operators_threshold_is_kept() {
    let offer = OFFER.replace("6.5", "12.5");
    let (code, reason) = route(&offer, &worker()).unwrap_err();
    assert_eq!(code, "insufficient_memory");
    assert!(
        reason.contains("12.50 GiB, the operator allows 12.00 GiB"),
        "{reason}"
    );
    assert!(route(&OFFER.replace("6.5", "12"), &worker()).is_ok());
}

#[test]
fn warm_servers_are_room_that_can_be_made() {
    let mut state = worker();
    state.device_free_gb = Some(2.0);
    assert!(route(OFFER, &state).is_err());
    state.warm = vec![("painter".to_owned(), "m".to_owned())];
    assert!(route(OFFER, &state).is_ok(), "the model itself");
    state.warm = vec![("painter".to_owned(), "other".to_owned())];
    assert!(route(OFFER, &state).is_ok(), "another, which can be ended");
    state.vram_total_gb = 6.0;
    assert!(route(OFFER, &state).is_err(), "never enough");
}

#[test]
fn main_memory_counts_only_where_weights_stay_in_it() {
    let mut state = worker();
    state.host_available_gb = Some(9.1);
    assert!(route(OFFER, &state).is_ok());
    let offloaded = OFFER.replace("\"offloadToCpu\":false", "\"offloadToCpu\":true");
    assert_eq!(
        route(&offloaded, &state),
        refusal(
            "insufficient_memory",
            "insufficient host memory: needs 8.00 GiB, 9.10 GiB available (4.00 GiB kept in reserve)"
        )
    );
    state.host_available_gb = Some(12.0);
    assert!(route(&offloaded, &state).is_ok());
    state.host_available_gb = Some(9.1);
    let mapped = offloaded.replace("Cpu\":true", "Cpu\":true,\"mmap\":true");
    assert!(route(&mapped, &state).is_ok());
}

/// The examples of the protocol's page, byte for byte.
#[test]
fn the_words_and_the_arithmetic_of_the_protocol() {
    let mut state = worker();
    state.vram_threshold_gb = 48.0;
    state.device_free_gb = Some(16.39);
    state.host_available_gb = Some(9.1);
    let (_, device) = route(&OFFER.replace("6.5", "21"), &state).unwrap_err();
    assert_eq!(
        device,
        "insufficient device memory: needs 21.00 GiB, 16.39 GiB free (1.00 GiB kept in reserve)"
    );
    // Sizes are added up; a file without one counts nothing.
    let files = r#"[{"approxBytes":8589934592},{"approxBytes":6281389670},{"filename":"x"}]"#;
    let offloaded = OFFER
        .replace(r#"[{"approxBytes":8589934592}]"#, files)
        .replace("Cpu\":false", "Cpu\":true");
    let (code, host) = route(&offloaded, &state).unwrap_err();
    assert_eq!(code, "insufficient_memory");
    assert_eq!(
        host,
        "insufficient host memory: needs 13.85 GiB, 9.10 GiB available (4.00 GiB kept in reserve)"
    );
    // What fits to the last byte is taken, what does not by a hundredth is not; what nobody can measure is.
    for (free, taken) in [(Some(7.5), true), (Some(7.49), false), (None, true)] {
        state.device_free_gb = free;
        assert_eq!(route(OFFER, &state).is_ok(), taken, "{free:?}");
    }
    for (available, taken) in [(Some(17.86), true), (Some(17.84), false), (None, true)] {
        state.host_available_gb = available;
        assert_eq!(route(&offloaded, &state).is_ok(), taken, "{available:?}");
    }
}

#[test]
fn checks_come_in_the_studios_order() {
    let mut state = worker();
    state.paused = true;
    state.draining = true;
    state.current_job = Some("other".to_owned());
    state.device_free_gb = Some(1.0);
    let mut codes = Vec::new();
    for _ in 0..4 {
        let (code, reason) = route(OFFER, &state).unwrap_err();
        if state.paused {
            state.paused = false;
        } else if state.draining {
            assert_eq!(reason, DRAINING);
            state.draining = false;
        } else if code == "insufficient_memory" {
            state.device_free_gb = None;
        }
        codes.push(code);
    }
    assert_eq!(codes, ["paused", "busy", "insufficient_memory", "busy"]);
}

#[test]
fn lasting_refusals_hold_no_word_of_a_passing_one() {
    for (offer, code) in [
        (OFFER.replace("sd-cpp", "llama-cpp"), "unsupported_engine"),
        (OFFER.replace("sd-cpp", "paused"), "unsupported_engine"),
        (OFFER.replace("sd-cpp", "BUSY-x"), "unsupported_engine"),
        (OFFER.replace("sd-cpp", ""), "unsupported_engine"),
        (OFFER.replace("\"image\"", "\"mesh\""), "unsupported_kind"),
        (
            OFFER.replace("\"image\"", "\"in-flight\""),
            "unsupported_kind",
        ),
        (OFFER.replace("\"image\"", "null"), "bad_offer"),
        (OFFER.replace("6.5", "null"), "bad_offer"),
        (OFFER.replace("6.5", "\"busy\""), "bad_offer"),
        (OFFER.replace("\"task\"", "\"chore\""), "bad_offer"),
        (OFFER.replace("\"modelSource\"", "\"source\""), "bad_offer"),
        (OFFER.replace("false", "\"paused\""), "bad_offer"),
        ("{".to_owned(), "bad_offer"),
        ("null".to_owned(), "bad_offer"),
        ("[".repeat(100_000), "bad_offer"),
    ] {
        let (found, reason) = route(&offer, &worker()).unwrap_err();
        assert_eq!(found, code, "{reason}");
        for word in ["busy", "in-flight", "paused"] {
            assert!(!reason.to_lowercase().contains(word), "{reason}");
        }
    }
}

#[test]
fn an_estimate_that_is_absent_is_no_reason_to_refuse() {
    let mut state = worker();
    state.device_free_gb = Some(2.0);
    let offer = OFFER.replace("\"vramGbEstimate\":6.5,", "");
    assert!(route(&offer, &state).is_ok());
}
