use studio_plugin::{
    Answer, Effect, Exit, Failure, File, Finished, ImageTask, Job, Next, Outcome, Output, executor,
};

use super::*;
use crate::SdCpp;
use crate::testing::{NEWEST, backend, file, probe, raw_with};
use studio_plugin::Engine as _;

const FILES: &[(&str, &str)] = &[
    ("diffusion-model", "z.gguf"),
    ("text-encoder", "qwen.gguf"),
    ("vae", "ae.safetensors"),
];

/// The options of a server: those of the command without its own, and where it listens.
fn help() -> String {
    NEWEST.replace("  -o, --output\n", "  -l, --listen-ip\n  --listen-port\n")
}

fn with_server(fields: &str, files: &[(&str, &str)], defaults: &str) -> RawJob {
    let mut raw = raw_with(fields, files, defaults);
    let mut server = backend(&help());
    server.name = PROGRAM.to_owned();
    raw.backends.push(server);
    raw
}

fn step(raw: &RawJob, history: &[Outcome]) -> Result<Next, Failure> {
    let job: Job<ImageTask> = Job::read(raw.clone())?;
    executor::step(history.to_vec(), |context| SdCpp::run(context, job))
}

fn effects(next: Result<Next, Failure>) -> Vec<Effect> {
    match next.unwrap() {
        Next::Perform(effects) => effects,
        Next::Finish(_) => panic!("finished too early"),
    }
}

fn call_of(next: Result<Next, Failure>) -> Call {
    match effects(next).as_slice() {
        [Effect::Call(call)] => call.clone(),
        other => panic!("{other:?}"),
    }
}

fn finished(next: Result<Next, Failure>) -> Finished {
    match next.unwrap() {
        Next::Finish(finished) => finished,
        Next::Perform(effects) => panic!("wants more: {effects:?}"),
    }
}

fn fetched() -> Vec<Outcome> {
    let files = ["z.gguf", "ae.safetensors", "qwen.gguf"];
    let files = (1..).zip(files).map(|(id, name)| file(id, name, ""));
    vec![Outcome::Files(files.collect())]
}

fn answered(status: u16, body: &str) -> Outcome {
    Outcome::Responded(Response {
        status,
        headers: Vec::new(),
        body: Answer::Bytes(body.as_bytes().to_vec()),
    })
}

fn taken() -> Outcome {
    answered(202, r#"{"id":"7","kind":"img_gen","status":"queued"}"#)
}

/// The start of a PNG of 104 by 72 pixels.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAGgAAABI";

fn drawn() -> Outcome {
    answered(
        200,
        &format!(
            r#"{{"id":"7","status":"completed","result":{{"output_format":"png","images":[{{"index":0,"b64_json":"{PNG}"}}]}},"error":null}}"#
        ),
    )
}

fn ran() -> Outcome {
    Outcome::Exited(Exit {
        code: Some(0),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        stdout_tail: "x - generate_image 104x72\n".to_owned(),
        stderr_tail: String::new(),
        wall_ms: 9,
        outputs: vec![vec![file(9, "output-0.png", "image/png")]],
        extra: Vec::new(),
    })
}

/// The JSON of a request, with `<n>` where a file comes in base64.
fn body(request: &Request) -> Value {
    let mut text = Vec::new();
    for part in &request.body {
        match part {
            Part::Bytes(bytes) => text.extend_from_slice(bytes),
            Part::Base64(id) => text.extend(format!("<{id}>").into_bytes()),
            Part::File(_) => panic!("a file as it is"),
        }
    }
    json::from_slice(&text).unwrap()
}

fn fact(finished: &Finished, name: &str) -> Option<String> {
    let mut facts = finished.facts.iter();
    facts
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.clone())
}

#[test]
fn a_job_is_handed_over_and_asked_for_until_it_is_over() {
    let raw = with_server(r#""ext":"png","seed":5,"width":100,"height":70"#, FILES, "");
    assert!(
        matches!(effects(step(&raw, &[])).as_slice(), [Effect::Fetch(_)]),
        "no file for the words"
    );
    let mut history = fetched();
    let submit = call_of(step(&raw, &history));
    assert_eq!(
        (
            submit.request.method.as_str(),
            submit.request.target.as_str()
        ),
        ("POST", "/sdcpp/v1/img_gen")
    );
    assert!(submit.on_cancel.is_none() && submit.request.repeat.is_none());
    history.push(taken());
    let ask = call_of(step(&raw, &history));
    assert_eq!(
        (&ask.arguments, &ask.environment, &ask.backend),
        (&submit.arguments, &submit.environment, &submit.backend)
    );
    assert_eq!(ask.request.target, "/sdcpp/v1/jobs/7");
    let repeat = ask.request.repeat.unwrap();
    assert_eq!(
        (repeat.pointer.as_str(), repeat.pending),
        (
            "/status",
            vec!["queued".to_owned(), "generating".to_owned()]
        )
    );
    let cancel = ask.on_cancel.unwrap();
    assert_eq!(
        (cancel.method.as_str(), cancel.target.as_str()),
        ("POST", "/sdcpp/v1/jobs/7/cancel")
    );
    history.push(drawn());
    let done = finished(step(&raw, &history));
    let Output::Media(media) = &done.output else {
        panic!("{done:?}")
    };
    assert!(
        matches!(&media.content, Part::Bytes(bytes) if bytes.starts_with(b"\x89PNG") && bytes.len() == 24)
    );
    let said: Vec<_> = ["seed", "width", "height", "steps", "program"]
        .map(|name| fact(&done, name).unwrap())
        .to_vec();
    assert_eq!(said, ["5", "104", "72", "8", "sd-server"]);
    for target in [submit.request.target, ask.request.target, cancel.target] {
        assert!(
            served()
                .routes
                .iter()
                .any(|route| target.starts_with(route))
        );
    }
}

/// Field by field what the command line says, with the types that the server does not ignore.
#[test]
fn everything_the_command_is_told_the_server_is_told() {
    let raw = with_server(
        r#""prompt":"a <sd_cpp_extra_args>{\"seed\":1}</sd_cpp_extra_args> <lora:/etc/passwd:1>","negativePrompt":"blur}","initImageUrl":"https://a/i",
           "maskUrl":"https://a/m","denoise":0.5,"cfgScale":7.3,"samplingMethod":"lcm","width":640,"height":480,"steps":20,"seed":9007199254740993"#,
        FILES,
        r#""flowShift":3.5,"zeroCondT":true,"offloadToCpu":true,"mmap":true,"maxVramGib":5.5"#,
    );
    let mut history = fetched();
    history.push(Outcome::Files(vec![
        file(4, "i.png", "image/png"),
        file(5, "m.png", "image/png"),
    ]));
    let call = call_of(step(&raw, &history));
    assert_eq!(
        body(&call.request),
        json!({
            "prompt": "a <sd_cpp_extra_args>{\"seed\":1}</sd_cpp_extra_args> < lora:/etc/passwd:1>", "negative_prompt": "blur}",
            "batch_count": 1, "embed_image_metadata": false, "output_format": "webp", "output_compression": 90,
            "width": 640, "height": 480, "seed": 9_007_199_254_740_993_i64, "strength": 0.5,
            "sample_params": {"sample_steps": 20, "sample_method": "lcm", "flow_shift": 3.5, "guidance": {"txt_cfg": 7.3}},
            "init_image": "<4>", "mask_image": "<5>",
        })
    );
    let name = |argument: &Argument| match argument {
        Argument::Flag(name) => name.clone(),
        Argument::Setting(setting) => setting.name.clone(),
        Argument::Positional(_) => panic!("{argument:?}"),
    };
    let names: Vec<_> = call.arguments.iter().map(name).collect();
    assert_eq!(
        names,
        [
            "--diffusion-model",
            "--vae",
            "--llm",
            "--lora-model-dir",
            "--flow-shift",
            "--model-args",
            "--offload-to-cpu",
            "--mmap",
            "--max-vram",
            "--diffusion-fa"
        ]
    );
    // Never the working directory, which it would read at each request.
    let folder = call
        .arguments
        .iter()
        .find(|argument| name(argument) == "--lora-model-dir");
    assert!(
        matches!(folder, Some(Argument::Setting(setting)) if setting.value == [Piece::Directory(Vec::new())])
    );
}

/// Two tasks for one model share a server, whatever they ask for.
#[test]
fn the_launch_depends_on_the_model_alone() {
    let launch = |fields: &str| {
        let raw = with_server(fields, FILES, r#""flowShift":3"#);
        call_of(step(&raw, &fetched())).arguments
    };
    assert_eq!(
        launch(""),
        launch(
            r#""prompt":"b","seed":3,"steps":4,"width":64,"height":64,"cfgScale":2,"samplingMethod":"lcm","ext":"png""#
        )
    );
}

fn why(raw: &RawJob) -> Without {
    let job: Job<ImageTask> = Job::read(raw.clone()).unwrap();
    let cli = Probe::read(job.backends.first().unwrap());
    let plan = Plan::make(&job, &cli).unwrap();
    let options = argv::options(&plan, &cli).unwrap();
    server_launch(&job, &plan, &options, &cli)
}

fn server_launch(job: &RawJob, plan: &Plan, options: &[Opt], cli: &Probe) -> Without {
    launch(job, plan, options, cli).unwrap_err()
}

#[test]
fn what_the_two_do_differently_goes_through_the_command() {
    let lora: Vec<_> = FILES
        .iter()
        .copied()
        .chain([("lora", "ink.safetensors")])
        .collect();
    for (fields, files, defaults, said) in [
        (
            r#""refImageUrl":"https://a/r.png""#,
            FILES,
            "",
            "crops reference pictures",
        ),
        ("", lora.as_slice(), "", "LoRAs"),
        (r#""steps":101"#, FILES, "", "100 steps"),
        (r#""width":2048,"height":2048"#, FILES, "", "too large"),
    ] {
        match why(&with_server(fields, files, defaults)) {
            Without::Because(why) => assert!(why.contains(said), "{why}"),
            Without::Absent => panic!("{said}"),
        }
    }
}

#[test]
fn a_server_that_is_not_the_commands_twin_is_left_alone() {
    let altered = |alter: &dyn Fn(&mut BackendStatus)| {
        let mut raw = with_server(r#""samplingMethod":"lcm""#, FILES, r#""maxVramGib":2"#);
        alter(raw.backends.last_mut().unwrap());
        why(&raw)
    };
    let release = altered(&|server| server.release = Some("master-800-1234567".to_owned()));
    assert!(matches!(release, Without::Because(why) if why.contains("master-800-1234567")));
    // The same options, both the operator's own, and of two releases by their own word.
    let said = altered(&|server| {
        let version = "stable-diffusion.cpp version master-826-1234567, commit 1234567";
        server.probes.push(version.to_owned());
    });
    assert!(matches!(said, Without::Because(why) if why.contains("master-826-1234567")));
    let routes = altered(&|server| server.probes = vec![help().replace("--backend", "")]);
    assert!(matches!(routes, Without::Because(why) if why.contains("native routes")));
    let option = altered(&|server| server.probes = vec![help().replace("--max-vram", "")]);
    assert!(matches!(option, Without::Because(why) if why.contains("--max-vram")));
    // It ignores a sampler that it does not know, without a word.
    let sampler = altered(&|server| {
        server.probes =
            vec![help().replace("--sampling-method", "--sampling-method one of [euler]")];
    });
    assert!(matches!(sampler, Without::Because(why) if why.contains("sampler lcm")));

    let mut raw = with_server("", FILES, "");
    raw.settings = r#"{"use-server":false}"#.to_owned();
    assert_eq!(why(&raw), Without::Absent);
    raw.settings = "{}".to_owned();
    raw.backends.pop();
    assert_eq!(why(&raw), Without::Absent);
}

#[test]
fn an_option_without_a_place_in_a_request_is_never_dropped() {
    let job: Job<ImageTask> = Job::read(with_server("", FILES, "")).unwrap();
    let cli = probe(NEWEST);
    let plan = Plan::make(&job, &cli).unwrap();
    let why = |name, value| {
        let mut options = argv::options(&plan, &cli).unwrap();
        assert!(launch(&job, &plan, &options, &cli).is_ok());
        options.push(Opt { name, value });
        launch(&job, &plan, &options, &cli).unwrap_err()
    };
    let unknown = why("--hires", Slot::Bare);
    assert!(matches!(unknown, Without::Because(why) if why.contains("no field")));
    let infinite = why("--cfg-scale", Slot::Text("inf".to_owned()));
    assert!(matches!(infinite, Without::Because(why) if why.contains("no number")));
}

/// Whatever goes wrong with the server, the command draws the picture, and the record says so.
#[test]
fn the_command_goes_on_where_the_server_gives_up() {
    let raw = with_server(r#""ext":"png""#, FILES, "");
    let lost = || Outcome::Failed(Failure::retryable("sd-server died 3 times within 60 s"));
    let failed = r#"{"status":"failed","error":{"code":"x","message":"generate failed"}}"#;
    for given_up in [
        vec![lost()],
        vec![answered(404, "")],
        vec![answered(429, r#"{"error":"job queue is full"}"#)],
        vec![answered(400, r#"{"error":"invalid json"}"#)],
        vec![taken(), lost()],
        vec![taken(), answered(404, "")],
        vec![taken(), answered(410, r#"{"error":"expired"}"#)],
        vec![taken(), answered(200, failed)],
        vec![
            taken(),
            answered(
                200,
                r#"{"status":"completed","result":{"output_format":"png","images":[]}}"#,
            ),
        ],
    ] {
        let mut history = fetched();
        history.extend(given_up);
        let texts = effects(step(&raw, &history));
        assert!(matches!(texts.as_slice(), [Effect::Write(_)]), "{texts:?}");
        history.push(Outcome::Files(vec![file(8, "prompt.txt", "")]));
        let run = effects(step(&raw, &history));
        assert!(
            matches!(run.as_slice(), [Effect::Run(command)] if command.backend == "sd-cli"),
            "{run:?}"
        );
        history.push(ran());
        let done = finished(step(&raw, &history));
        assert_eq!(fact(&done, "program").as_deref(), Some("sd-cli"));
        assert!(fact(&done, PROGRAM).unwrap().contains("gave up"));
    }
}

/// The command would take the same time once more, and fail as well.
#[test]
fn a_server_that_took_all_the_time_of_the_job_ends_it() {
    let raw = with_server(r#""ext":"png""#, FILES, "");
    let late = |ms: u64| Outcome::TimedOut((ms, Failure::retryable("late")));
    for (given, said, named) in [
        (3_600_000, "after 60 minutes", "timeout-minutes"),
        (1_800_000, "after 30 minutes", "program_timeout_secs"),
    ] {
        let mut history = fetched();
        history.extend([taken(), late(given)]);
        let failure = step(&raw, &history).unwrap_err();
        assert!(failure.retryable, "{failure:?}");
        for words in ["sd-server had not finished", said, named] {
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
    // Late with taking the job is nothing drawn yet.
    let mut history = fetched();
    history.push(late(SUBMIT_MS));
    let texts = effects(step(&raw, &history));
    assert!(matches!(texts.as_slice(), [Effect::Write(_)]), "{texts:?}");
}

#[test]
fn a_job_that_is_not_for_the_server_is_recorded_as_such() {
    let raw = with_server(r#""ext":"png","steps":101"#, FILES, "");
    let mut history = fetched();
    history.extend([Outcome::Files(vec![file(8, "prompt.txt", "")]), ran()]);
    let done = finished(step(&raw, &history));
    assert_eq!(
        fact(&done, PROGRAM).as_deref(),
        Some("not used: it draws at most 100 steps")
    );
}

#[test]
fn a_long_answer_is_read_in_pieces() {
    let raw = with_server(r#""ext":"png""#, FILES, "");
    let Outcome::Responded(Response {
        body: Answer::Bytes(text),
        ..
    }) = drawn()
    else {
        panic!("no answer")
    };
    let long = File {
        size: text.len() as u64,
        ..file(20, "answer", "application/json")
    };
    let mut history = fetched();
    history.push(taken());
    history.push(Outcome::Responded(Response {
        status: 200,
        headers: Vec::new(),
        body: Answer::File(long),
    }));
    let (first, second) = text.split_at(40);
    for piece in [first, second] {
        let next = effects(step(&raw, &history));
        assert!(
            matches!(next.as_slice(), [Effect::Read(range)] if range.file == 20),
            "{next:?}"
        );
        history.push(Outcome::Bytes(piece.to_vec()));
    }
    assert_eq!(
        fact(&finished(step(&raw, &history)), "width").as_deref(),
        Some("104")
    );
}
