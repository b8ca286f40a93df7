//! Asks for the effects that its task lists, and tells what came of them.
//!
//! `task.script` is a list of rounds; a round is one effect or a list of effects asked for
//! together. An effect is an object of one field: `{"fetch": [{"url": "…"}]}`, `{"run": {…}}`,
//! `{"write": ["name", ["text"]]}`, `{"wait": 5}`, with the contract's field names in snake_case;
//! [`script`] says what may be left out. `{"from": [2, 0]}` stands for the number of a file that an
//! earlier effect brought. At the end `task.finish` says what to return; without it, the history as JSON.

mod script;

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use studio_plugin::{
    Ask, Backend, Composed, Context, Description, Engine, Failure, Finished, Job, OpenTask,
    Outcome, Progress, Server, join_all,
};

/// See the module.
#[derive(Debug)]
pub struct Scripted;

impl Engine for Scripted {
    type Task = OpenTask;

    fn describe() -> Description {
        let stand_in = Backend::new("stand-in", "stand-in")
            .probe(["--help"])
            .server(Server {
                listen: vec!["{host}:{port}".to_owned()],
                ready: "/health".to_owned(),
                parallel: 1,
                start_ms: 60_000,
                routes: vec!["/v1".to_owned()],
            })
            .dispensable();
        let stand_in = match cfg!(feature = "next") {
            true => {
                Backend::new("stand-in", "stand-in").overrides("", "", "STUDIO_WORKER_STAND_IN_URL")
            }
            false => stand_in,
        };
        Description::new(["scripted"])
            .kind("scripted", ["scripted"])
            .backend(stand_in)
    }

    fn compose(ask: Ask) -> Result<Composed, Failure> {
        let script: Value = serde_json::from_str(&ask.text)
            .map_err(|error| Failure::permanent(format!("the words must be a script: {error}")))?;
        let mut composed = ask.compose("text", "scripted");
        if let Value::Object(task) = &mut composed.task {
            task.insert("script".to_owned(), script);
        }
        Ok(composed)
    }

    async fn run(context: Context, job: Job<OpenTask>) -> Result<Finished, Failure> {
        let order = map_order();
        let fields = &job.task.fields;
        let mut history: Vec<Outcome> = Vec::new();
        for round in list(fields, "script") {
            let effects = match round {
                Value::Array(effects) => effects,
                one => vec![one],
            };
            let effects = effects
                .into_iter()
                .map(|effect| script::effect(effect, &history))
                .collect::<Result<Vec<_>, _>>()?;
            let outcomes = join_all(effects.into_iter().map(|effect| {
                let context = context.clone();
                async move { context.perform(|| effect).await }
            }))
            .await;
            history.extend(
                outcomes
                    .into_iter()
                    .map(|outcome| outcome.unwrap_or_else(Outcome::Failed)),
            );
        }
        let finished = match fields.get("finish") {
            Some(finish) => script::finish(finish.clone(), &history)?,
            None => Finished::json(&json!({ "history": script::dump(&history)? })),
        };
        Ok(finished.fact("map-order", order))
    }

    fn read_progress(_: &str, state: u64, lines: &[String]) -> (u64, Option<Progress>) {
        let last = lines.iter().rev().find_map(|line| {
            let (done, total) = line.strip_prefix("progress ")?.split_once('/')?;
            Some(Progress {
                done: done.parse().ok()?,
                total: total.parse().ok()?,
                note: None,
            })
        });
        // The state counts the lines, so that a test can see that it comes back.
        (state + lines.len() as u64, last)
    }
}

/// The order in which a hash map has its keys. It is the same in every call for one job, however
/// large the history is, or plugins would not be functions of their arguments.
fn map_order() -> String {
    let map: HashMap<u32, ()> = (0..32).map(|key| (key, ())).collect();
    let keys: Vec<String> = map.keys().map(u32::to_string).collect();
    keys.join(" ")
}

fn list(fields: &Map<String, Value>, name: &str) -> Vec<Value> {
    fields
        .get(name)
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

studio_plugin::engine!(Scripted);

#[cfg(test)]
mod tests;
