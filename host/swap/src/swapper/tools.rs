//! Single files, for comparing by hand.

use std::path::Path;
use std::sync::Arc;

use worker_plugins::{Engine, Kept, PluginSet, ReadOnce, Refusal, Rule, Sandbox, Stored, Terms};

use super::enter::terms;
use super::{Options, Place, book_path, prepare};
use crate::book::Book;

/// The engine in a file, under the `plugins.toml` beside it, or under `else_by` where there is none.
pub async fn engine_of(
    sandbox: &Arc<Sandbox>,
    path: &Path,
    else_by: &Arc<PluginSet>,
) -> Result<Arc<Engine>, Refusal> {
    let (own, else_by) = (path.to_owned(), else_by.clone());
    let shown = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let read = tokio::task::spawn_blocking(move || {
        let folder = own.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let set = match folder.join("plugins.toml").is_file() {
            true => PluginSet::folder(folder)
                .map(Arc::new)
                .map_err(|error| Rule::Granted.broken(error.to_string()))?,
            false => else_by,
        };
        ReadOnce::at(&own, set.policy()).map(|read| (read, set))
    });
    let by = |broken: worker_plugins::Broken| broken.by(&shown);
    let (read, set) = match read.await {
        Ok(read) => read.map_err(by)?,
        Err(_) => return Err(by(Rule::Readable.broken("reading it was interrupted"))),
    };
    let terms = Terms::of_operator(read.signature().map(str::to_owned));
    let probed = prepare(sandbox, &set, read.unstored(), terms)
        .await
        .map_err(by)?;
    let plugged = probed.map(worker_plugins::Probed::into_plugged);
    let engine = plugged.as_ref().and_then(|one| one.engine().cloned());
    engine.ok_or_else(|| by(Rule::World.broken("is no engine, or disabled in plugins.toml")))
}

/// The engine that serves under a name, from the store; nothing of it is changed, so that a worker may run meanwhile.
pub async fn active_engine(options: &Options, name: &str) -> Result<Arc<Engine>, Refusal> {
    let (own, wanted) = (options.clone(), name.to_owned());
    let file = format!("{name}.wasm");
    let stored = tokio::task::spawn_blocking(move || {
        let unreadable = |why: String| Rule::Readable.broken(why);
        let set = match &own.place {
            Place::Folder(path) => PluginSet::folder(path),
            Place::Embedded => PluginSet::embedded(own.embedded),
        };
        let set = set.map_err(|error| unreadable(error.to_string()))?;
        let book = Book::peek(&book_path(&own.state));
        let book = book.map_err(|error| unreadable(error.to_string()))?;
        let entry = book.plugins.get(&wanted).cloned().unwrap_or_default();
        let active = entry.active.clone();
        let active = active.ok_or_else(|| unreadable("no version of it serves".to_owned()))?;
        let kept = Kept::beside(&own.state.join("files"));
        let stored = Stored::again(&kept, &wanted, &active.digest)?;
        let papers = entry.papers_of(&active.digest);
        let terms = terms(&own.place, &papers, &papers.from);
        Ok::<_, worker_plugins::Broken>((Arc::new(set), stored, terms))
    });
    let by = |broken: worker_plugins::Broken| broken.by(&file);
    let (set, stored, terms) = match stored.await {
        Ok(stored) => stored.map_err(by)?,
        Err(_) => return Err(by(Rule::Readable.broken("reading it was interrupted"))),
    };
    let sandbox = &options.sandbox;
    let probed = prepare(sandbox, &set, stored, terms);
    let plugged = probed.await.map_err(by)?;
    let plugged = plugged.map(worker_plugins::Probed::into_plugged);
    let engine = plugged.as_ref().and_then(|one| one.engine().cloned());
    engine.ok_or_else(|| by(Rule::World.broken("is no engine, or disabled in plugins.toml")))
}
