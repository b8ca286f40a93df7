//! Looking at the folder: what is new there, what has settled, what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use worker_plugins::{PluginSet, Print};

use super::{Asked, Inner, Place, SwapError, Swapper};
use crate::book::{Entry, Version};
use crate::parcel::Sender;
use crate::watch::Watch;

/// How long a file rests that could not be taken for a reason that may pass; twice as long each time, up to the longest. Shorter keeps the
/// disk and the compiler busy with it; longer lets it wait when the reason is over.
const REST: Duration = Duration::from_secs(3);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// How much longer than a file's own rest a file must be gone, and a policy the same: editors delete and write anew.
const GONE_FACTOR: u32 = 10;

#[derive(Default)]
struct Looks {
    /// How each file looked, and since when.
    prints: BTreeMap<String, (Print, Instant)>,
    gone: BTreeMap<String, Instant>,
    /// Entries that are no regular files, told once.
    odd: BTreeSet<String>,
    /// Whether the last look failed.
    blind: bool,
    policy: Option<(Arc<PluginSet>, Instant)>,
    /// What came by renaming since the last look: whole as it is.
    renamed: BTreeSet<String>,
    /// Files that may be taken another time as they are: when, and how long they rest then.
    resting: BTreeMap<String, (Instant, Duration)>,
}

/// What became of reading a file.
enum Read {
    /// It changed meanwhile.
    Changed,
    /// It is decided about until it changes.
    Decided,
    /// It may be taken another time as it is.
    Rests,
}

impl Swapper {
    /// Watches the folder until `stop`. The built-in set is looked at once: a newer worker brings newer plugins.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = Looks::default();
        let Place::Folder(folder) = self.options.place.clone() else {
            let set = self.inner.lock().await.set.clone();
            for file in set.names().map(str::to_owned).collect::<Vec<_>>() {
                self.read(&set, &file, None).await;
            }
            return;
        };
        let mut watch = Watch::new(&folder);
        let mut unsettled = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = watch.next(unsettled) => {}
            }
            let opened = folder.clone();
            let set = tokio::task::spawn_blocking(move || PluginSet::folder(&opened)).await;
            unsettled = match set {
                Ok(Ok(set)) => {
                    if std::mem::take(&mut looks.blind) {
                        self.trouble(None).await;
                    }
                    looks.renamed = watch.renamed();
                    self.look(Arc::new(set), &mut looks, watch.settled()).await
                }
                Ok(Err(error)) => {
                    looks.blind = true;
                    self.trouble(Some(error.to_string())).await;
                    false
                }
                Err(_) => return,
            };
        }
    }

    /// Says what is wrong with the folder, once, and that it is over.
    async fn trouble(&self, trouble: Option<String>) {
        let mut inner = self.inner.lock().await;
        if inner.trouble != trouble {
            match &trouble {
                Some(why) => {
                    tracing::warn!(target: "plugins", "{why}; what serves goes on unchanged");
                }
                None => {
                    tracing::info!(target: "plugins", "the plugin folder and its plugins.toml are in order again")
                }
            }
            inner.trouble = trouble;
        }
    }

    /// One look. Whether something has to be looked at again soon.
    async fn look(
        self: &Arc<Self>,
        set: Arc<PluginSet>,
        looks: &mut Looks,
        settled: Duration,
    ) -> bool {
        let now = Instant::now();
        let mut unsettled = self.look_at_policy(&set, looks, settled, now).await;
        let handled = {
            let mut inner = self.inner.lock().await;
            let rested = looks.resting.iter().filter(|(_, (until, _))| *until <= now);
            for (file, _) in rested {
                inner.handled.remove(file);
            }
            inner.handled.clone()
        };
        looks.resting.retain(|file, _| set.is_there(file));
        for file in set.names() {
            let Some(print) = set.print(file) else {
                if looks.odd.insert(file.to_owned()) {
                    self.read(&set, file, None).await;
                }
                continue;
            };
            looks.odd.remove(file);
            if handled.get(file) == Some(&print) {
                looks.prints.remove(file);
                continue;
            }
            let seen = looks.prints.get(file).filter(|(seen, _)| *seen == print);
            let since = seen.map_or(now, |(_, since)| *since);
            looks.prints.insert(file.to_owned(), (print.clone(), since));
            let rest = now.duration_since(since);
            // Of a pair that does not fit, one half may be on its way.
            let patience = match print.is_signed()
                && rest < settled * GONE_FACTOR
                && is_torn(&set, file).await
            {
                true => settled * GONE_FACTOR,
                // By renaming it came whole.
                false if looks.renamed.contains(file) => Duration::ZERO,
                false => settled,
            };
            if rest < patience {
                unsettled = true;
                continue;
            }
            match self.read(&set, file, Some(&print)).await {
                Read::Changed => {
                    looks.prints.remove(file);
                    unsettled = true;
                }
                Read::Decided => drop(looks.resting.remove(file)),
                Read::Rests => looks.rests(file),
            }
        }
        self.look_for_gone(&set, looks, settled * GONE_FACTOR, now)
            .await
            || unsettled
    }

    /// Reads a settled file and decides about it.
    async fn read(
        self: &Arc<Self>,
        set: &Arc<PluginSet>,
        file: &str,
        print: Option<&Print>,
    ) -> Read {
        let (opened, name) = (set.clone(), file.to_owned());
        let read = tokio::task::spawn_blocking(move || (opened.read(&name), opened.print(&name)));
        let Ok((read, after)) = read.await else {
            return Read::Decided;
        };
        if after.as_ref() != print {
            return Read::Changed;
        }
        if let Some(print) = print {
            let mut inner = self.inner.lock().await;
            inner.handled.insert(file.to_owned(), print.clone());
        }
        match read {
            // Every outcome is noted and shown by `take` itself.
            Ok(Some(read)) => match self.take(read, Sender::Folder).await {
                Err(error) if may_pass(&error) => Read::Rests,
                Ok(_) | Err(_) => Read::Decided,
            },
            Ok(None) => Read::Decided,
            Err(broken) => {
                let name = file.strip_suffix(".wasm").unwrap_or(file);
                let version = Version {
                    digest: String::new(),
                    version: String::new(),
                };
                let passing = broken.passing;
                self.refuse(name, &version, broken.by(file), &Sender::Folder)
                    .await;
                match passing {
                    true => Read::Rests,
                    false => Read::Decided,
                }
            }
        }
    }

    async fn look_for_gone(
        &self,
        set: &Arc<PluginSet>,
        looks: &mut Looks,
        settled: Duration,
        now: Instant,
    ) -> bool {
        let (mut unsettled, mut gone, mut withdrawn) = (false, Vec::new(), Vec::new());
        {
            let mut inner = self.inner.lock().await;
            inner.handled.retain(|file, _| set.is_there(file));
            // What was refused and is gone has nothing more to tell.
            let asked = inner.asking.keys().cloned().collect::<Vec<_>>();
            for name in asked {
                let file = format!("{name}.wasm");
                if set.is_there(&file) {
                    continue;
                }
                let asking = inner.asking.get(&name);
                let asking = asking.filter(|asking| asking.from == Sender::Folder);
                match asking.map(|asking| (&asking.state, &asking.digest)) {
                    Some((Asked::Refused(_), _)) => drop(inner.asking.remove(&name)),
                    Some((Asked::Waiting(_), _)) => {
                        inner.asking.remove(&name);
                        withdrawn.push(name);
                    }
                    // At a download.
                    Some((Asked::Checking, digest)) => self.underway.withdraw(&name, digest),
                    _ => {}
                }
            }
            for (name, entry) in &inner.book.plugins {
                let file = format!("{name}.wasm");
                if !entry.is_a_file() || entry.active.is_none() || set.is_there(&file) {
                    looks.gone.remove(name);
                    continue;
                }
                let since = *looks.gone.entry(name.clone()).or_insert(now);
                if now.duration_since(since) < settled {
                    unsettled = true;
                } else {
                    gone.push(name.clone());
                }
            }
        }
        for name in withdrawn {
            self.forget_waiting(&name).await;
        }
        for name in gone {
            let reason = "its file is gone from the folder";
            let held = self.held().await;
            if !held.book.plugins.get(&name).is_some_and(Entry::is_a_file) {
                // Something came another way meanwhile.
                continue;
            }
            if let Err(error) = self.take_out(held, &name, reason, true).await {
                // The only router, say, goes on serving.
                let told = format!("{name}.wasm is gone and its plugin goes on serving: {error}");
                self.trouble(Some(told)).await;
            }
        }
        unsettled
    }

    /// A changed `plugins.toml`: what serves is granted anew by it.
    async fn look_at_policy(
        &self,
        set: &Arc<PluginSet>,
        looks: &mut Looks,
        settled: Duration,
        now: Instant,
    ) -> bool {
        {
            let mut inner = self.inner.lock().await;
            if set.same_policy(&inner.set) {
                inner.set = set.clone();
                inner.unapplied = None;
                looks.policy = None;
                return false;
            }
            let serves = self.serving.current().id().to_owned();
            let tried = inner.unapplied.as_ref();
            if tried.is_some_and(|(tried, with)| set.same_policy(tried) && *with == serves) {
                // It would end as before, until something else serves.
                looks.policy = None;
                return false;
            }
        }
        match &looks.policy {
            Some((seen, since)) if seen.same_policy(set) => {
                if now.duration_since(*since) < settled {
                    return true;
                }
            }
            _ => {
                looks.policy = Some((set.clone(), now));
                return true;
            }
        }
        looks.policy = None;
        if let Err(error) = self.grant_anew(set.clone()).await {
            self.trouble(Some(format!(
                "the new plugins.toml cannot be applied to what serves: {error}"
            )))
            .await;
        }
        false
    }
}

impl Looks {
    /// A file is looked at again as it is, after a rest.
    fn rests(&mut self, file: &str) {
        let before = self.resting.get(file).map(|(_, rest)| *rest);
        let rest = before.map_or(REST, |rest| (rest * 2).min(LONGEST_REST));
        let until = Instant::now() + rest;
        self.resting.insert(file.to_owned(), (until, rest));
    }
}

/// Whether an error says nothing of the file.
fn may_pass(error: &SwapError) -> bool {
    match error {
        SwapError::Refused(refusal) => refusal.passing,
        SwapError::Kept(_) | SwapError::Book(_) | SwapError::Interrupted => true,
        _ => false,
    }
}

/// Whether a file and its signature do not belong together.
async fn is_torn(set: &Arc<PluginSet>, file: &str) -> bool {
    let (set, file) = (set.clone(), file.to_owned());
    let torn = tokio::task::spawn_blocking(move || set.is_torn(&file));
    torn.await.unwrap_or(false)
}

impl Inner {
    /// Has every file of the folder be decided about once more.
    pub(crate) fn forget_handled(&mut self) {
        self.handled.clear();
    }
}
