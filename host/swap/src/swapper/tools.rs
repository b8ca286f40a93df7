//! Single files, for comparing by hand.

use std::path::Path;
use std::sync::Arc;

use worker_plugins::{Engine, Origin, PluginSet, ReadOnce, Refusal, Rule, Sandbox};

use super::prepare;

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
    let probed = prepare(sandbox, &set, read.unstored(), Origin::Operator, false)
        .await
        .map_err(by)?;
    let plugged = probed.map(worker_plugins::Probed::into_plugged);
    let engine = plugged.as_ref().and_then(|one| one.engine().cloned());
    engine.ok_or_else(|| by(Rule::World.broken("is no engine, or disabled in plugins.toml")))
}
