//! Whole jobs, step by step, as a host would see them.

use studio_plugin::json::{Value, json};
use studio_plugin::{
    Argument, BackendStatus, Effect, Exit, File, Next, Outcome, Output, Part, Piece, Platform,
    RawJob, executor,
};

use super::*;

const VOICES: &str = "\
Pty Language       Age/Gender VoiceName          File                 Other Languages
 5  cmn             --/M      Chinese_(Mandarin,_latin_as_English) sit/cmn              (zh-cmn 5)(zh 5)
 5  de              --/M      German             gmw/de               
 2  en-gb           --/M      English_(Great_Britain) gmw/en               (en 2)
 2  en-us           --/M      English_(America)  gmw/en-US            (en 3)
 5  fr-be           --/M      French_(Belgium)   roa/fr-BE            (fr 8)
 5  fr-fr           --/M      French_(France)    roa/fr               (fr 5)
";

const VARIANTS: &str = "\
Pty Language       Age/Gender VoiceName          File                 Other Languages
 5  variant         --/F      female3            !v/f3                
 5  variant         --/M      Mr_Serious         !v/Mr serious        
 5  variant         --/M      Storm              !v/Storm             (en-us 5)
";

fn raw(fields: Value) -> RawJob {
    let mut task = json!({"kind": "audio_tts", "text": "good morning"});
    for (name, value) in fields.as_object().unwrap() {
        task[name] = value.clone();
    }
    RawJob {
        id: "job-1".to_owned(),
        kind: "audio_tts".to_owned(),
        model: "espeak".to_owned(),
        task: task.to_string(),
        model_source: r#"{"engine":"espeak","files":[],"cliDefaults":{}}"#.to_owned(),
        vram_gb_estimate: 0.0,
        entropy: 1,
        settings: "{}".to_owned(),
        backends: vec![BackendStatus {
            name: "espeak-ng".to_owned(),
            release: None,
            digest: "d".repeat(64),
            probes: vec![
                "-f --stdin -v -s -w -b".to_owned(),
                VOICES.to_owned(),
                VARIANTS.to_owned(),
            ],
        }],
        platform: Platform {
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            gpu: None,
        },
    }
}

fn step(raw: &RawJob, history: &[Outcome]) -> Result<Next, Failure> {
    let job = Job::read(raw.clone())?;
    executor::step(history.to_vec(), |context| Espeak::run(context, job))
}

/// The command of the first step.
fn asked(fields: Value) -> Result<Command, Failure> {
    match step(&raw(fields), &[])? {
        Next::Perform(mut effects) => match (effects.pop(), effects.pop()) {
            (Some(Effect::Run(command)), None) => Ok(command),
            other => panic!("{other:?}"),
        },
        Next::Finish(done) => panic!("{done:?}"),
    }
}

fn setting(command: &Command, wanted: &str) -> String {
    let found = command
        .arguments
        .iter()
        .find_map(|argument| match argument {
            Argument::Setting(setting) if setting.name == wanted => Some(setting.value.clone()),
            _ => None,
        });
    match found.as_deref() {
        Some([Piece::Text(text)]) => text.clone(),
        other => panic!("{wanted}: {other:?}"),
    }
}

fn refused(fields: Value, said: &str) {
    let failure = asked(fields).unwrap_err();
    assert!(failure.message.contains(said), "{}", failure.message);
    assert!(!failure.retryable);
}

fn exit(code: i32, outputs: Vec<File>, stderr: &str) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        stdout_tail: String::new(),
        stderr_tail: stderr.to_owned(),
        wall_ms: 9,
        outputs: vec![outputs],
        extra: Vec::new(),
    }
}

fn file(size: u64) -> File {
    File {
        id: 4,
        name: "out.wav".to_owned(),
        size,
        media_type: Some("audio/wav".to_owned()),
    }
}

fn head(data: u32) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    bytes.extend_from_slice(&22_050_u32.to_le_bytes());
    bytes.extend_from_slice(&44_100_u32.to_le_bytes());
    bytes.extend_from_slice(&[2, 0, 16, 0]);
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&data.to_le_bytes());
    bytes
}

#[test]
fn the_text_goes_in_by_standard_input_and_the_header_is_checked() {
    let job = raw(json!({"language": "de", "speed": 2}));
    let command = asked(json!({"language": "de", "speed": 2})).unwrap();
    assert_eq!(command.input, [Part::Bytes(b"good morning".to_vec())]);
    assert_eq!(setting(&command, "-v"), "gmw/de");
    assert_eq!(setting(&command, "-s"), "350");
    assert!(!format!("{:?}", command.arguments).contains("good morning"));

    let mut history = vec![Outcome::Exited(exit(0, vec![file(44 + 200)], ""))];
    match step(&job, &history).unwrap() {
        Next::Perform(effects) => assert!(matches!(
            effects.as_slice(),
            [Effect::Read(range)] if range.file == 4 && range.offset == 0 && range.length == 44
        )),
        Next::Finish(done) => panic!("{done:?}"),
    }
    history.push(Outcome::Bytes(head(200)));
    let Next::Finish(done) = step(&job, &history).unwrap() else {
        panic!("wants more");
    };
    match done.output {
        Output::Media(media) => {
            assert_eq!((media.content, media.ext.as_str()), (Part::File(4), "wav"));
        }
        Output::Json(text) => panic!("{text}"),
    }
    let facts: Vec<_> = done
        .facts
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        facts,
        [
            ("voice", "gmw/de"),
            ("words-per-minute", "350"),
            ("sample-rate", "22050"),
            ("samples", "100")
        ]
    );
}

#[test]
fn a_header_that_does_not_fit_the_file_is_refused() {
    let job = raw(json!({}));
    for (bytes, said) in [
        (
            head(0x7fff_f000),
            "2147479552 bytes of sound, and it holds 200",
        ),
        (head(0), "0 bytes of sound, and it holds 200"),
        (head(200)[..30].to_vec(), "ends within its header"),
        (vec![b'x'; 44], "another header"),
    ] {
        let history = [
            Outcome::Exited(exit(0, vec![file(244)], "")),
            Outcome::Bytes(bytes),
        ];
        let failure = step(&job, &history).unwrap_err();
        assert!(failure.message.contains(said), "{}", failure.message);
    }
}

#[test]
fn voices_and_languages_are_those_of_the_lists() {
    for (fields, given) in [
        (json!({}), "gmw/en"),
        (
            json!({"voice": "default", "language": "en-US"}),
            "gmw/en-US",
        ),
        (json!({"language": "fr"}), "roa/fr"),
        (json!({"language": "de_AT"}), "gmw/de"),
        (json!({"language": "zh"}), "sit/cmn"),
        (json!({"voice": "german"}), "gmw/de"),
        (json!({"voice": "gmw/en-us"}), "gmw/en-US"),
        (json!({"voice": "EN-GB", "language": "en"}), "gmw/en"),
        (json!({"voice": "de+f3"}), "gmw/de+f3"),
        (json!({"voice": "female3", "language": "fr"}), "roa/fr+f3"),
        (json!({"voice": "+storm"}), "gmw/en+Storm"),
    ] {
        let command = asked(fields.clone()).unwrap_or_else(|f| panic!("{fields}: {}", f.message));
        assert_eq!(setting(&command, "-v"), given, "{fields}");
    }
    refused(
        json!({"voice": "../../etc/passwd"}),
        "no voice \"../../etc/passwd\"; it has Chinese",
    );
    refused(json!({"voice": "--path=/tmp"}), "no voice");
    refused(
        json!({"voice": "de+nobody"}),
        "no variant \"nobody\"; it has female3, Storm",
    );
    refused(json!({"voice": "Mr"}), "no voice \"Mr\"");
    refused(
        json!({"language": "tlh"}),
        "no language \"tlh\"; it speaks cmn, de",
    );
    refused(
        json!({"voice": "German", "language": "fr"}),
        "the voice German speaks de, not \"fr\"",
    );
}

#[test]
fn speed_is_held_within_what_the_program_speaks() {
    for (speed, words) in [
        (0.01, "80"),
        (0.5, "88"),
        (1.0, "175"),
        (2.5, "438"),
        (40.0, "449"),
    ] {
        assert_eq!(
            setting(&asked(json!({"speed": speed})).unwrap(), "-s"),
            words
        );
    }
    for speed in [json!(0), json!(-1)] {
        refused(
            json!({"speed": speed}),
            "task.speed must be a number above 0",
        );
    }
}

#[test]
fn text_stays_text() {
    let given = |text: &str| match asked(json!({"text": text})).unwrap().input.as_slice() {
        [Part::Bytes(bytes)] => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(given("[[h@l@U]]"), "[ [h@l@U]]");
    assert_eq!(given("a\0b\u{1b}c\n"), "a b c\n");
    assert_eq!(given("--help"), "--help");
    refused(json!({"text": " \n\0"}), "task.text is empty");
    refused(json!({"text": "a".repeat(100_001)}), "100001 characters");
}

#[test]
fn a_failed_run_says_what_failed() {
    let job = raw(json!({}));
    let mut slow = exit(0, vec![], "");
    slow.timed_out = true;
    let mut killed = exit(0, vec![], "");
    (killed.code, killed.signal) = (None, Some(9));
    let mut full = exit(1, vec![], "");
    full.out_of_memory = true;
    for (ended, said, retryable) in [
        (slow, "12 characters after 10 minutes", true),
        (killed, "signal 9", true),
        (full, "want of memory", true),
        (exit(0, vec![], ""), "wrote no sound", true),
        (
            exit(3, vec![file(9)], "x\nCan't write\n\n"),
            "code 3 (Can't write)",
            true,
        ),
        (
            exit(
                1,
                vec![],
                "Error: The specified espeak-ng voice does not exist.\n",
            ),
            "cannot load it",
            false,
        ),
    ] {
        let failure = step(&job, &[Outcome::Exited(ended)]).unwrap_err();
        assert!(failure.message.contains(said), "{}", failure.message);
        assert_eq!(failure.retryable, retryable);
    }
    let mut without = raw(json!({}));
    without.backends.clear();
    let failure = step(&without, &[]).unwrap_err();
    assert!(failure.message.contains("apt-get install espeak-ng") && failure.retryable);
}

#[test]
fn words_become_a_task() {
    let ask = |options: Value| {
        compose::compose(Ask {
            kind: "audio_tts".to_owned(),
            text: "hello".to_owned(),
            options: options.as_object().cloned().unwrap(),
        })
    };
    for options in [json!({"model": "espeak"}), json!({})] {
        let composed = ask(options).unwrap();
        assert_eq!(composed.task, json!({"kind": "audio_tts", "text": "hello"}));
        assert_eq!(composed.model_source["engine"], "espeak");
    }
    let composed = ask(json!({"model": "espeak:de", "speed": 2})).unwrap();
    assert_eq!(
        composed.task,
        json!({"kind": "audio_tts", "text": "hello", "voice": "de", "speed": 2})
    );
    let failure = ask(json!({"model": "kokoro"})).unwrap_err();
    assert!(failure.message.contains("no model \"kokoro\"") && !failure.retryable);
}
