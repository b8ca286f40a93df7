//! A version beside the one that it would replace, on the journals of the last jobs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use worker_plugins::Engine;
use worker_runner::replay::{Ended, Recorded, Trace, differences, recent, replay};

/// Journals that a comparison takes, the latest first. More makes each swap slower.
const JOURNALS: usize = 20;
/// How long all of it may take. Longer keeps a swap waiting for a version that burns its fuel at every step; shorter compares less on a busy
/// machine, and what was not compared is watched for longer.
const LIMIT: Duration = Duration::from_secs(20);
/// Fewer than these say little: probation is longer then.
const ENOUGH: usize = 3;

/// What one journal shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The same effects and the same end.
    Same,
    /// Other effects; each line says one.
    Differs(Vec<String>),
    /// From this step on it asks for another kind of thing, so that the journal has no answers for it.
    Diverged(u32),
    /// It breaks, or fails where the old one succeeds.
    Worse(String),
}

/// A journal's verdict, with what each version computed.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The job.
    pub job: String,
    /// What it shows.
    pub verdict: Verdict,
    /// Fuel that the old version took.
    pub old_fuel: u64,
    /// Fuel that the new version took.
    pub new_fuel: u64,
}

/// A comparison over some journals.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// One for each journal that could be used.
    pub jobs: Vec<Compared>,
    /// Journals of this engine that could not be.
    pub unusable: usize,
    /// Journals that there was no time for.
    pub left: usize,
}

impl Comparison {
    /// Whether it was made on enough journals to say something.
    pub fn enough(&self) -> bool {
        self.jobs.len() >= ENOUGH
    }

    /// Why the new version is not to serve.
    pub fn refusal(&self) -> Option<String> {
        self.jobs.iter().find_map(|one| match &one.verdict {
            Verdict::Worse(why) => Some(format!("on the journal of job {} {why}", one.job)),
            _ => None,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.jobs.is_empty() {
            return write!(
                f,
                "compared on no journal ({} cannot be used{})",
                self.unusable,
                left(self.left),
            );
        }
        let count = |wanted: fn(&Verdict) -> bool| {
            self.jobs.iter().filter(|one| wanted(&one.verdict)).count()
        };
        write!(
            f,
            "compared on {} journals{}: {} the same, {} with other effects, {} diverged",
            self.jobs.len(),
            left(self.left),
            count(|verdict| *verdict == Verdict::Same),
            count(|verdict| matches!(verdict, Verdict::Differs(_))),
            count(|verdict| matches!(verdict, Verdict::Diverged(_))),
        )?;
        let example = self.jobs.iter().find_map(|one| match &one.verdict {
            Verdict::Differs(lines) => Some(lines.join(", ")),
            _ => None,
        });
        match example {
            Some(lines) => write!(f, ", such as {lines}"),
            None => Ok(()),
        }
    }
}

fn left(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!(", for {count} there was no time"),
    }
}

/// Compares on the last journals of the engine's name, as far as there is time.
pub(crate) async fn compare_last(
    journals: &Path,
    old: &Arc<Engine>,
    new: &Arc<Engine>,
) -> Comparison {
    let (dir, name) = (journals.to_owned(), old.identity().name.clone());
    let read = tokio::task::spawn_blocking(move || recent(&dir, &name, JOURNALS)).await;
    let (recorded, unusable) = read.unwrap_or_default();
    let until = Instant::now() + LIMIT;
    compare_until(Some(until), &recorded, unusable, old, new).await
}

/// Compares on these journals.
pub async fn compare(
    recorded: &[Recorded],
    unusable: usize,
    old: &Engine,
    new: &Engine,
) -> Comparison {
    compare_until(None, recorded, unusable, old, new).await
}

/// What was not begun or not ended by then is left.
pub(crate) async fn compare_until(
    until: Option<Instant>,
    recorded: &[Recorded],
    unusable: usize,
    old: &Engine,
    new: &Engine,
) -> Comparison {
    let mut comparison = Comparison {
        unusable,
        left: recorded.len(),
        ..Comparison::default()
    };
    for one in recorded {
        if until.is_some_and(|until| until <= Instant::now()) {
            break;
        }
        // Side by side: a swap waits for both, and neither for anything but its own computing.
        let both = async { tokio::join!(replay(old, one), replay(new, one)) };
        let done = match until {
            Some(until) => timeout_at(until, both).await.ok(),
            None => Some(both.await),
        };
        let Some((before, after)) = done else {
            break;
        };
        comparison.left -= 1;
        comparison.jobs.push(Compared {
            job: one.job.id.clone(),
            verdict: verdict(&before, &after),
            old_fuel: before.fuel,
            new_fuel: after.fuel,
        });
    }
    comparison
}

fn verdict(before: &Trace, after: &Trace) -> Verdict {
    match (&before.end, &after.end) {
        (_, Ended::Broke(why)) if !matches!(before.end, Ended::Broke(_)) => {
            return Verdict::Worse(format!("it breaks: {why}"));
        }
        (_, Ended::UnknownBackend(name)) => {
            return Verdict::Worse(format!(
                "it asks for the program `{name}`, which it never declared"
            ));
        }
        (Ended::Finished(_), Ended::Failed(message)) => {
            return Verdict::Worse(format!(
                "it fails where the version before succeeds: {message}"
            ));
        }
        // A journal that ends there, of the job in hand for instance, has no more answers for either.
        (before, after @ Ended::Diverged(step)) if before != after => {
            return Verdict::Diverged(*step);
        }
        _ => {}
    }
    let lines = differences(before, after);
    if lines.is_empty() {
        Verdict::Same
    } else {
        Verdict::Differs(lines)
    }
}
