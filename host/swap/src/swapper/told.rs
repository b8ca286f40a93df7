//! What is told to whoever asks: every state with its reason.

use serde_json::{Value, json};
use worker_plugins::{Generation, Rule};

use super::{Asked, Swapper};
use crate::book::Book;
use crate::parcel::State;

impl Swapper {
    /// The state of what serves under a name: `active`, or `probation`.
    pub async fn told(&self) -> Value {
        let inner = self.inner.lock().await;
        let mut plugins = serde_json::Map::new();
        for (name, entry) in &inner.book.plugins {
            let left = inner.trials.get(name).map(|trial| trial.left);
            let state = match (&entry.active, left) {
                (None, _) if entry.waiting.is_some() => "waiting",
                (None, _) => "removed",
                (Some(_), _) if !inner.serving.contains_key(name) => "not-allowed",
                (Some(_), Some(_)) => "probation",
                (Some(_), None) => "active",
            };
            let told = json!({
                "state": state,
                "digest": entry.active.as_ref().map(|one| &one.digest),
                "version": entry.active.as_ref().map(|one| &one.version),
                "jobsLeft": left,
                "pinned": entry.pinned,
                "previous": entry.previous,
            });
            plugins.insert(name.clone(), told);
        }
        let candidates: Vec<Value> = inner
            .asking
            .iter()
            .map(|(name, asking)| {
                let (state, reason) = match &asking.state {
                    Asked::Checking => (State::Checking, String::new()),
                    Asked::Refused(refusal) => (State::Refused, refusal.to_string()),
                    Asked::Waiting(more) => (
                        State::Waiting,
                        format!("asks for more: {more}; `plugin grant {name}` takes it on"),
                    ),
                    Asked::Pinned => (State::Pinned, format!("`plugin unpin {name}`")),
                    Asked::RolledBack(why) => (State::RolledBack, why.clone()),
                };
                let rule = match &asking.state {
                    Asked::Refused(refusal) => Some(refusal.rule.name()),
                    _ => None,
                };
                let signature = match &asking.state {
                    Asked::Refused(refusal) => failed(refusal.rule),
                    _ => None,
                };
                let waiting = inner.book.plugins.get(name);
                let waiting = waiting.and_then(|entry| entry.waiting.as_ref());
                let waiting = waiting.filter(|_| state == State::Waiting);
                json!({
                    "name": name,
                    "digest": asking.digest,
                    "version": asking.version,
                    "state": state.name(),
                    "reason": reason,
                    "rule": rule,
                    "from": asking.from,
                    "asks": waiting.map(|waiting| &waiting.asked),
                    "more": waiting.map(|waiting| &waiting.more),
                    "lacks": waiting.map(|waiting| waiting.more.to_string()),
                    "signature": signature,
                })
            })
            .collect();
        let draining: Vec<Value> = self
            .serving
            .draining()
            .iter()
            .map(|g| generation(g))
            .collect();
        let mut refused: Vec<String> = inner
            .set
            .refused()
            .iter()
            .map(ToString::to_string)
            .collect();
        refused.extend(inner.asking.values().filter_map(|one| match &one.state {
            Asked::Refused(refusal) => Some(refusal.to_string()),
            _ => None,
        }));
        json!({
            "states": plugins,
            "candidates": candidates,
            "draining": draining,
            "quarantined": inner.book.quarantined,
            "refused": refused,
            "trouble": inner.trouble,
            // While this stays, what serves is the very same object.
            "published": self.serving.published(),
            "jobs": jobs(&self.serving.current()),
        })
    }

    /// What happened, oldest first.
    pub async fn history(&self) -> Value {
        json!({ "history": self.inner.lock().await.book.history })
    }

    /// The book as it is.
    pub async fn book(&self) -> Book {
        self.inner.lock().await.book.clone()
    }
}

/// What a refusal says of the signature, where it says something.
fn failed(rule: Rule) -> Option<&'static str> {
    match rule {
        Rule::NotSigned => Some("not-signed"),
        Rule::UnknownKey | Rule::Signature => Some("failed"),
        _ => None,
    }
}

fn generation(one: &Generation) -> Value {
    let engines: Vec<String> = one
        .engines()
        .iter()
        .map(|engine| format!("{} {}", engine.identity().name, engine.identity().version))
        .collect();
    json!({ "generation": one.id(), "engines": engines, "jobs": jobs(one) })
}

/// How a generation's jobs ended.
fn jobs(one: &Generation) -> Value {
    let [done, failed, broke] = one.statistics().counts();
    json!({ "done": done, "failed": failed, "broke": broke })
}
