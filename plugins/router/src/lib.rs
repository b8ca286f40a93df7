//! The default policy: which engine takes an offer, or why none does.
//!
//! Strict by `modelSource.engine` and by kind, because an engine that stood in for another once
//! delivered placeholders as real pictures. The order of the checks and the words of the answers
//! are those that studios know: some of them tell a passing refusal from a lasting one by the
//! words `busy`, `in-flight` and `paused` in the text, so a lasting refusal must never hold one.

mod admission;
mod offer;

use studio_plugin::{Candidate, Rejection, Router, WorkerState};

use crate::offer::Offer;

const PAUSED: &str = "worker paused by operator";
const BUSY: &str = "worker already has an in-flight job";
/// Said while the worker ends: passing, so that the studio queues the job again at once.
const DRAINING: &str = "worker is busy finishing its last job before it stops";

/// See the module.
#[derive(Debug)]
pub struct StrictRouter;

impl Router for StrictRouter {
    fn route(
        offer: &str,
        candidates: &[Candidate],
        worker: &WorkerState,
    ) -> Result<String, Rejection> {
        if worker.paused {
            return Err(Rejection::new("paused", PAUSED));
        }
        if worker.draining {
            return Err(Rejection::new("busy", DRAINING));
        }
        let offer = Offer::read(offer)?;
        let engine = choose(&offer, candidates)?;
        admission::check(&offer, engine, worker)?;
        if worker.current_job.is_some() {
            return Err(Rejection::new("busy", BUSY));
        }
        Ok(engine.to_owned())
    }
}

/// The first candidate that serves the engine named, for this kind.
fn choose<'a>(offer: &Offer, candidates: &'a [Candidate]) -> Result<&'a str, Rejection> {
    let mut of_engine = candidates
        .iter()
        .filter(|candidate| candidate.engines.contains(&offer.engine))
        .peekable();
    if of_engine.peek().is_none() {
        return Err(Rejection::new(
            "unsupported_engine",
            format!(
                "no {} engine on this worker; its plugin is not loaded, or its program is missing",
                offer::quoted(&offer.engine)
            ),
        ));
    }
    of_engine
        .find(|candidate| candidate.kinds.iter().any(|(kind, _)| *kind == offer.kind))
        .map(|candidate| candidate.name.as_str())
        .ok_or_else(|| {
            Rejection::new(
                "unsupported_kind",
                format!(
                    "the {} engine on this worker cannot serve {} tasks",
                    offer::quoted(&offer.engine),
                    offer::quoted(&offer.kind)
                ),
            )
        })
}

studio_plugin::router!(StrictRouter);

#[cfg(test)]
mod tests;
