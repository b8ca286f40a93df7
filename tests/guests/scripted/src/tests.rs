use studio_plugin::executor::step;
use studio_plugin::{Effect, Fields, File, Job, Next, Output, Platform, RawJob};

use super::*;

fn job(task: &str) -> Job<OpenTask> {
    Job::read(RawJob {
        id: "j".to_owned(),
        kind: "scripted".to_owned(),
        model: "scripted".to_owned(),
        task: task.to_owned(),
        model_source: r#"{"engine":"scripted","files":[],"cliDefaults":{}}"#.to_owned(),
        vram_gb_estimate: 0.0,
        entropy: 0,
        settings: "{}".to_owned(),
        backends: Vec::new(),
        platform: Platform {
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            gpu: None,
        },
    })
    .unwrap()
}

fn next(task: &str, history: Vec<Outcome>) -> Result<Next, Failure> {
    step(history, |context| Scripted::run(context, job(task)))
}

#[test]
fn every_effect_can_be_written_short() {
    let task = r#"{"script":[[
        {"fetch":[{"url":"https://h/a","sha256":"00"}]},
        {"run":{"backend":"stand-in","arguments":["a",{"Flag":"--b"},{"Setting":{"name":"-c","value":["d",{"Output":0}]}}],
                "environment":[["STAND_IN_MODE","ok"]],"outputs":[{"File":"txt"},"Folder"],"input":["in"]}},
        {"http":{"target":"https://h/","headers":[["a","b"]],"body":["x"]}},
        {"call":{"backend":"stand-in","request":{"target":"/"}}},
        {"read":{"file":3,"offset":0,"length":4}},
        {"write":["name",["text",{"File":3}]]},
        {"wait":5},
        {"other":["dance","{}"]}
    ]]}"#;
    let Ok(Next::Perform(effects)) = next(task, vec![]) else {
        panic!("{:?}", next(task, vec![]));
    };
    assert_eq!(effects.len(), 8);
    let Effect::Run(command) = &effects[1] else {
        panic!("another order");
    };
    assert_eq!(command.arguments.len(), 3);
    assert_eq!(effects[6], Effect::Wait(5));
}

#[test]
fn rounds_follow_each_other_and_files_are_named_by_where_they_came_from() {
    let task = r#"{"script":[{"write":["a",["x"]]},{"read":{"file":{"from":[0,0]},"offset":1,"length":2}}]}"#;
    let file = File {
        id: 41,
        name: "a".to_owned(),
        size: 1,
        media_type: None,
    };
    let mut history = vec![Outcome::Files(vec![file])];
    let Ok(Next::Perform(effects)) = next(task, history.clone()) else {
        panic!("another answer");
    };
    let Effect::Read(range) = &effects[0] else {
        panic!("another effect");
    };
    assert_eq!(range.file, 41);
    history.push(Outcome::Failed(Failure::retryable("no")));
    let Ok(Next::Finish(finished)) = next(task, history) else {
        panic!("another answer");
    };
    let Output::Json(dump) = finished.output else {
        panic!("not JSON");
    };
    let dump: Value = serde_json::from_str(&dump).unwrap();
    assert_eq!(dump["history"][1]["Failed"]["message"], "no");
}

#[test]
fn it_ends_as_it_is_told() {
    let failed = next(r#"{"finish":{"failure":"why","retryable":true}}"#, vec![]);
    assert_eq!(failed, Err(Failure::retryable("why")));
    let media = next(
        r#"{"finish":{"text":"t","ext":"x","media_type":"a/b"}}"#,
        vec![],
    );
    let Ok(Next::Finish(finished)) = media else {
        panic!("another answer");
    };
    let expected = Finished::media("t", "x").media_type("a/b");
    assert_eq!(finished.output, expected.output);
    assert!(next(r#"{"script":[{"jump":1}]}"#, vec![]).is_err());
}

#[test]
fn progress_is_read_from_lines_that_say_so() {
    let lines = ["x".to_owned(), "progress 3/8".to_owned()];
    let (state, progress) = Scripted::read_progress("stand-in", 5, &lines);
    assert_eq!(state, 7);
    assert_eq!(progress.map(|it| (it.done, it.total)), Some((3, 8)));
}

#[test]
fn words_are_a_script() {
    let ask = Ask {
        kind: "scripted".to_owned(),
        text: r#"[{"wait":1}]"#.to_owned(),
        options: Map::new(),
    };
    let composed = Scripted::compose(ask).unwrap();
    assert_eq!(composed.task["script"][0]["wait"], 1);
    assert!(Fields::parse("task", &composed.task.to_string()).is_ok());
}
