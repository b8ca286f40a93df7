//! What is not taken: refused, held until the operator grants more, pinned. Said once, however often it is looked at.

use worker_plugins::{Broken, Lacks, Refusal, Rule};

use super::{Asked, Asking, SwapError, Swapper};
use crate::book::{Papers, Version, Waiting};
use crate::parcel::{Sender, State};

/// Names that are shown as asking. Whoever sends plugins of ever new names must not fill the memory with them.
const MAX_ASKING: usize = 256;

/// Plugins of which a version waits for the operator. More fills the disk with what waits; fewer refuses what a studio with many plugins
/// brings.
const MAX_WAITING: usize = 32;

impl Swapper {
    /// Shows how far a candidate has come, and tells it.
    pub(crate) async fn ask(&self, name: &str, version: &Version, state: Asked, from: &Sender) {
        let (told, reason, rule) = match &state {
            Asked::Checking => (State::Checking, String::new(), None),
            Asked::Refused(refusal) => (State::Refused, refusal.to_string(), Some(refusal.rule)),
            Asked::Waiting(more) => (State::Waiting, more.clone(), None),
            Asked::Pinned => (
                State::Pinned,
                format!("`plugin unpin {name}` takes it off"),
                None,
            ),
            Asked::RolledBack(why) => (State::RolledBack, why.clone(), None),
        };
        let asking = Asking {
            digest: version.digest.clone(),
            version: version.version.clone(),
            from: from.clone(),
            state,
        };
        let mut inner = self.inner.lock().await;
        if inner.asking.len() >= MAX_ASKING && !inner.asking.contains_key(name) {
            inner.asking.pop_first();
        }
        inner.asking.insert(name.to_owned(), asking);
        drop(inner);
        self.tell_refused(name, version, told, &reason, from, rule);
    }

    /// Refuses before anything of the file is looked at.
    pub(crate) async fn refuse_at_once(
        &self,
        name: &str,
        version: &Version,
        broken: Broken,
        from: &Sender,
    ) -> SwapError {
        let refusal = broken.by(&format!("{name}.wasm"));
        self.refuse(name, version, refusal.clone(), from).await;
        SwapError::Refused(refusal)
    }

    /// Refuses for an error; what waits has been told already.
    pub(crate) async fn refuse_for(
        &self,
        name: &str,
        version: &Version,
        error: &SwapError,
        from: &Sender,
    ) {
        let refusal = match error {
            SwapError::Waiting { .. } => return,
            SwapError::Pinned(_) => return self.ask(name, version, Asked::Pinned, from).await,
            SwapError::Refused(refusal) => refusal.clone(),
            other => Rule::Stored
                .unmet(other.to_string())
                .by(&format!("{name}.wasm")),
        };
        self.refuse(name, version, refusal, from).await;
    }

    /// Says that a file is not taken: once, however often it is looked at.
    pub(crate) async fn refuse(
        &self,
        name: &str,
        version: &Version,
        refusal: Refusal,
        from: &Sender,
    ) {
        let state = Asked::Refused(refusal.clone());
        let (told, asks) = {
            let inner = self.inner.lock().await;
            let asking = inner.asking.get(name);
            let asking = asking.filter(|asking| asking.digest == version.digest);
            let told = asking.is_some_and(|asking| asking.state == state);
            (told, asking.is_some())
        };
        // Of one that was overtaken only what overtook it is shown, where something did.
        if refusal.rule == Rule::Overtaken && !(asks && self.underway.is_alone(name)) {
            let (told, rule) = (refusal.to_string(), Some(refusal.rule));
            self.tell_refused(name, version, State::Refused, &told, from, rule);
        } else {
            self.ask(name, version, state, from).await;
        }
        if told {
            return;
        }
        tracing::warn!(target: "plugins", digest = version.digest, "{refusal}; what serves is unchanged");
        let held = self.held().await;
        let mut book = held.book.clone();
        book.note_of(from, name, version, "refused", &refusal.to_string());
        // A history that cannot be written is one line poorer; the state is shown all the same.
        drop(self.record(held, book).await);
    }

    /// Keeps what asks for more until the operator grants it.
    pub(crate) async fn hold(&self, name: &str, lacks: Lacks, papers: Papers) -> SwapError {
        let waiting = Waiting::of(lacks, papers);
        let version = waiting.version.clone();
        let (told, from) = (waiting.more.to_string(), waiting.papers.from.clone());
        let held = self.held().await;
        let mut book = held.book.clone();
        let entry = book.plugins.entry(name.to_owned()).or_default();
        let before = entry.waiting.replace(waiting.clone());
        if before.as_ref() != Some(&waiting) {
            let is_new = before.is_none();
            if !book.has_room() || is_new && book.waiting() > MAX_WAITING {
                let broken = Rule::Stored.unmet(
                    "too much waits for the operator; `plugin grant` or `plugin remove` what does",
                );
                return SwapError::Refused(broken.by(&format!("{name}.wasm")));
            }
            let noted = format!("asks for more: {told}; `plugin grant {name}` takes it on");
            book.note_of(&from, name, &version, "waiting", &noted);
            tracing::warn!(target: "plugins", plugin = name, version = version.version, digest = version.digest, "waits, as it {noted}; what serves is unchanged");
            match self.record(held, book).await {
                Ok(held) => drop(held),
                Err(error) => return error,
            }
        } else {
            drop(held);
        }
        self.ask(name, &version, Asked::Waiting(told.clone()), &from)
            .await;
        SwapError::Waiting {
            name: name.to_owned(),
            version: version.version,
            more: told,
        }
    }

    /// Writes down that a candidate came while the plugin is pinned.
    pub(crate) async fn note_pinned(&self, name: &str, version: &Version, from: &Sender) {
        let mut inner = self.inner.lock().await;
        let why = "it waits for `plugin unpin`";
        inner.book.note_of(from, name, version, "pinned", why);
    }
}
