//! The executor, through the interface that a plugin's author and the host see.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what is not there fails it"
)]

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use studio_plugin::executor::step;
use studio_plugin::{
    Context, Download, Effect, Failure, File, Finished, Next, Outcome, join, join_all,
};

type Made = Result<Finished, Failure>;

/// Plays the host: answers each effect until the plugin finishes. Returns the rounds it saw.
fn play<F: Future<Output = Made>>(
    run: impl Fn(Context) -> F,
    mut answer: impl FnMut(&Effect) -> Outcome,
) -> (Vec<Vec<Effect>>, Made) {
    let (mut history, mut rounds) = (Vec::new(), Vec::new());
    loop {
        match step(history.clone(), &run) {
            Ok(Next::Perform(effects)) => {
                assert!(rounds.len() < 50, "it goes on for ever");
                history.extend(effects.iter().map(&mut answer));
                rounds.push(effects);
            }
            Ok(Next::Finish(finished)) => return (rounds, Ok(finished)),
            Err(failure) => return (rounds, Err(failure)),
        }
    }
}

fn file(name: &str, id: u32) -> File {
    File {
        id,
        name: name.to_owned(),
        size: 3,
        media_type: None,
    }
}

fn host(effect: &Effect) -> Outcome {
    match effect {
        Effect::Fetch(downloads) => Outcome::Files(
            downloads
                .iter()
                .map(|download| file(&download.url, 1))
                .collect(),
        ),
        Effect::Write((name, _)) => Outcome::Files(vec![file(name, 2)]),
        Effect::Wait(_) => Outcome::Waited,
        Effect::Read(range) => Outcome::Bytes(vec![7; range.length as usize]),
        _ => Outcome::Failed(Failure::retryable("not here")),
    }
}

fn name(effect: &Effect) -> String {
    match effect {
        Effect::Wait(milliseconds) => format!("wait {milliseconds}"),
        Effect::Write((name, _)) => format!("write {name}"),
        Effect::Fetch(downloads) => format!("fetch {}", downloads[0].url),
        Effect::Read(range) => format!("read {}", range.length),
        _ => "other".to_owned(),
    }
}

fn names(rounds: &[Vec<Effect>]) -> Vec<Vec<String>> {
    rounds
        .iter()
        .map(|round| round.iter().map(name).collect())
        .collect()
}

fn done(text: impl Into<String>) -> Made {
    Ok(Finished::media(text.into(), "txt"))
}

fn message<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    let failure = result.unwrap_err();
    assert!(!failure.retryable, "{failure:?}");
    failure.message
}

#[test]
fn straight_code_goes_effect_by_effect_and_finishes() {
    let run = async |context: Context| {
        let files = context.fetch([Download::new("https://h/a")]).await?;
        let bytes = context.read(&files[0], 0, 4).await?;
        let written = context.write("copy", || vec![bytes.clone()]).await?;
        done(written.name)
    };
    let (rounds, made) = play(run, host);
    assert_eq!(
        names(&rounds),
        [["fetch https://h/a"], ["read 4"], ["write copy"]]
    );
    assert_eq!(made, done("copy"));
}

#[test]
fn a_closure_runs_only_while_its_outcome_is_missing() {
    let (inside, outside) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let counts = (Rc::clone(&inside), Rc::clone(&outside));
    let run = move |context: Context| {
        let (inside, outside) = (Rc::clone(&inside), Rc::clone(&outside));
        async move {
            for part in ["one", "two", "three"] {
                outside.set(outside.get() + 1);
                context
                    .write(part, || {
                        inside.set(inside.get() + 1);
                        vec![part]
                    })
                    .await?;
            }
            done("")
        }
    };
    let (rounds, made) = play(run, host);
    assert_eq!(rounds.len(), 3);
    assert!(made.is_ok());
    assert_eq!(counts.0.get(), 3, "once for each write");
    assert_eq!(counts.1.get(), 1 + 2 + 3 + 3, "again at each step");
}

#[test]
fn joined_branches_share_rounds_as_long_as_both_wait() {
    let run = async |context: Context| {
        let long = async {
            for milliseconds in [1, 2, 3] {
                context.wait(milliseconds).await?;
            }
            Ok::<_, Failure>("long")
        };
        let short = async {
            for part in ["a", "b"] {
                context.write(part, || vec![part]).await?;
            }
            Ok::<_, Failure>("short")
        };
        let (long, short) = join(long, short).await;
        done(format!("{} {}", long?, short?))
    };
    let (rounds, made) = play(run, host);
    assert_eq!(
        names(&rounds),
        [
            vec!["wait 1", "write a"],
            vec!["wait 2", "write b"],
            vec!["wait 3"]
        ]
    );
    assert_eq!(made, done("long short"));
}

#[test]
fn any_number_of_branches_of_any_length_can_be_joined() {
    let run = async |context: Context| {
        let branches = (1..=4_u32).map(|length| {
            let context = context.clone();
            async move {
                for turn in 0..length {
                    context.wait(length * 10 + turn).await?;
                }
                Ok::<_, Failure>(length)
            }
        });
        let lengths: Result<Vec<u32>, Failure> = join_all(branches).await.into_iter().collect();
        done(format!("{:?}", lengths?))
    };
    let (rounds, made) = play(run, host);
    assert_eq!(
        rounds.iter().map(Vec::len).collect::<Vec<_>>(),
        [4, 3, 2, 1]
    );
    assert_eq!(made, done("[1, 2, 3, 4]"));
}

#[test]
fn a_refused_effect_is_an_error_that_the_plugin_may_answer() {
    let run = async |context: Context| match context.other("dance", "now".into()).await {
        Err(failure) => done(failure.message),
        Ok(_) => done("danced"),
    };
    assert_eq!(play(run, host).1, done("not here"));

    let passed_on = async |context: Context| {
        context.other("dance", "now".into()).await?;
        done("danced")
    };
    let failure = play(passed_on, host).1.unwrap_err();
    assert_eq!(failure, Failure::retryable("not here"));
}

#[test]
fn an_outcome_of_another_kind_is_a_plugin_bug() {
    let run = async |context: Context| {
        context.wait(1).await?;
        done("")
    };
    let failure = message(step(vec![Outcome::Bytes(vec![])], run));
    assert!(
        failure.starts_with("plugin bug: a wait was answered with bytes"),
        "{failure}"
    );
}

#[test]
fn outcomes_left_over_are_a_plugin_bug() {
    let run = async |context: Context| {
        context.wait(1).await?;
        done("")
    };
    let failure = message(step(vec![Outcome::Waited, Outcome::Waited], run));
    assert!(
        failure.contains("1 outcomes of its history unused"),
        "{failure}"
    );
    let at_once = message(step(vec![Outcome::Waited], async |_: Context| done("")));
    assert!(at_once.contains("unused"), "{at_once}");
}

#[test]
fn a_history_that_ends_inside_a_round_is_a_plugin_bug() {
    let run = async |context: Context| {
        let (first, second) = join(context.wait(1), context.wait(2)).await;
        first?;
        second?;
        done("")
    };
    let failure = message(step(vec![Outcome::Waited], run));
    assert!(
        failure.contains("ends inside a round of 2 effects"),
        "{failure}"
    );
}

#[test]
fn waiting_for_anything_but_an_effect_is_a_plugin_bug() {
    let run = async |_: Context| {
        std::future::pending::<()>().await;
        done("")
    };
    let failure = message(step(vec![], run));
    assert!(failure.contains("not an effect"), "{failure}");
}

#[test]
fn an_effect_started_and_given_up_is_a_plugin_bug() {
    /// Polls once, and goes on whatever came of it.
    struct Once<F>(Pin<Box<F>>);
    impl<F: Future> Future for Once<F> {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
            let _ = self.0.as_mut().poll(task);
            Poll::Ready(())
        }
    }
    let run = async |context: Context| {
        Once(Box::pin(context.wait(1))).await;
        done("")
    };
    let failure = message(step(vec![], run));
    assert!(
        failure.contains("1 of its effects were not waited for"),
        "{failure}"
    );
}

#[test]
fn the_same_history_gives_the_same_answer() {
    let run = async |context: Context| {
        let (first, second) = join(context.wait(1), context.wait(2)).await;
        first?;
        second?;
        context.wait(3).await?;
        done("")
    };
    for history in [vec![], vec![Outcome::Waited; 2], vec![Outcome::Waited; 3]] {
        assert_eq!(step(history.clone(), run), step(history, run));
    }
}

#[test]
fn a_combinator_that_polls_only_what_was_woken_gets_on() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    struct OnlyWhenWoken<F>(Pin<Box<F>>, Arc<Woken>);
    impl<F: Future> Future for OnlyWhenWoken<F> {
        type Output = F::Output;
        fn poll(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<F::Output> {
            if !self.1.0.swap(false, Ordering::Relaxed) {
                return Poll::Pending;
            }
            let waker = Arc::clone(&self.1).into();
            self.0.as_mut().poll(&mut TaskContext::from_waker(&waker))
        }
    }
    let run = async |context: Context| {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let branch = async { context.wait(1).await };
        OnlyWhenWoken(Box::pin(branch), woken).await?;
        done("awake")
    };
    assert_eq!(play(run, host).1, done("awake"));
}
