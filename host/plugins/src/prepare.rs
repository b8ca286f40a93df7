//! The stages of one file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use crate::call::{Budget, Code, Export, WrongShape};
use crate::compiled;
use crate::contract::{
    Build, Candidate as EngineCandidate, Description, Failure, Job, Next, Outcome, Product,
    Progress, Provenance, Rejection, WorkerState,
};
use crate::describe;
use crate::examine::{self, World};
use crate::fault::CallError;
use crate::folder::Folder;
use crate::generation::{Engine, EngineExports, Finisher, Identity, Plugin, Router};
use crate::grants::Asked;
use crate::names;
use crate::refusal::{Broken, Rule};
use crate::room::{MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES, Room};
use crate::sandbox::Sandbox;
use crate::wasi;

/// A file that may become a plugin.
pub(crate) struct Candidate {
    /// Its name, fit to be shown.
    pub(crate) file: String,
    pub(crate) bytes: Bytes,
}

/// Where a file's bytes are.
pub(crate) enum Bytes {
    InFolder(Arc<Folder>, PathBuf),
    Embedded(&'static [u8]),
}

/// A plugin that answered about itself.
#[derive(Debug, Clone)]
pub enum Plugged {
    /// Decides how a job is done.
    Engine(Arc<Engine>),
    /// Decides who takes an offer.
    Router(Arc<Router>),
    /// Works on products.
    Finisher(Arc<Finisher>),
}

impl Plugged {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Engine(one) => one.identity(),
            Self::Router(one) => one.identity(),
            Self::Finisher(one) => one.identity(),
        }
    }

    /// What it asks for.
    pub fn asked(&self) -> &Asked {
        match self {
            Self::Engine(one) => one.asked(),
            Self::Router(one) => one.asked(),
            Self::Finisher(one) => one.asked(),
        }
    }

    /// Which of the contract's worlds it lives in.
    pub fn world(&self) -> World {
        match self {
            Self::Engine(_) => World::Engine,
            Self::Router(_) => World::Router,
            Self::Finisher(_) => World::Finisher,
        }
    }

    /// It, where it is an engine.
    pub fn engine(&self) -> Option<&Arc<Engine>> {
        match self {
            Self::Engine(one) => Some(one),
            _ => None,
        }
    }
}

/// A plugin that was compiled and linked, and of which nothing has run yet.
pub(crate) struct Prepared {
    pub(crate) plugin: Plugin,
    pub(crate) world: World,
}

/// A file's stem, if it is a plugin's name.
pub(crate) fn stem(file: &str) -> Result<&str, Broken> {
    match file.strip_suffix(".wasm") {
        Some(stem) if names::is_plugin_name(stem) => Ok(stem),
        _ => Err(Rule::Name.broken(
            "a plugin's file is named by lower-case letters, digits and hyphens, at most 64, and ends in .wasm",
        )),
    }
}

/// The name inside must be the file's: one that lies would be granted what another was granted.
pub(crate) fn check_name(stem: &str, inside: Option<&str>) -> Result<(), Broken> {
    match inside {
        Some(inside) if inside != stem => Err(Rule::Metadata.broken(format!(
            "its metadata says that it is `{}`; name the file {}.wasm or correct the metadata",
            names::one_line(inside, 64),
            names::one_line(inside, 64)
        ))),
        _ => Ok(()),
    }
}

/// The compiled form: sealed from before, else validated and compiled now.
pub(crate) fn component(
    sandbox: &Sandbox,
    digest: &str,
    bytes: &[u8],
) -> Result<Component, Broken> {
    let engine = sandbox.engine();
    if let Some(component) = sandbox
        .cache
        .as_ref()
        .and_then(|cache| cache.load(engine, digest))
    {
        // These very bytes were validated before they were compiled.
        return Ok(component);
    }
    examine::validate(bytes)?;
    sandbox.compiling();
    let code = compiled::compile(engine, sandbox.compiler.as_ref(), bytes)?;
    if let Some(cache) = &sandbox.cache {
        cache.store(digest, &code);
    }
    compiled::adopt(engine, &code)
}

pub(crate) fn check_counts(component: &Component) -> Result<(), Broken> {
    let Some(needs) = component.resources_required() else {
        return Err(Rule::Imports
            .broken("imports a whole module or component; a plugin brings all its own"));
    };
    let too_many = |what: &str, found: u64, limit: usize| {
        Err(Rule::Counts.broken(format!("has {found} {what}; at most {limit} are taken")))
    };
    if needs.num_memories as usize > MAX_MEMORIES {
        return too_many("memories", u64::from(needs.num_memories), MAX_MEMORIES);
    }
    if needs.num_tables as usize > MAX_TABLES {
        return too_many("tables", u64::from(needs.num_tables), MAX_TABLES);
    }
    match needs.max_initial_table_size {
        Some(size) if size > MAX_TABLE_ELEMENTS as u64 => {
            too_many("table elements", size, MAX_TABLE_ELEMENTS)
        }
        _ => Ok(()),
    }
}

/// Behind the right names there may be more than the contract has.
pub(crate) fn check_imports(component: &Component) -> Result<(), Broken> {
    let engine = component.engine();
    for (name, import) in component.component_type().imports(engine) {
        if name.starts_with("wasi:") {
            // By name allowed only where the operator says so, and met by an empty context.
            continue;
        }
        let ComponentItem::ComponentInstance(instance) = import.ty else {
            return Err(Rule::Imports.broken(format!("imports `{name}`, which is no interface")));
        };
        for (item, export) in instance.exports(engine) {
            let is_log = name.starts_with("studio:worker/log@") && item == "write";
            let fits = match export.ty {
                ComponentItem::Type(_) => true,
                ComponentItem::ComponentFunc(_) => is_log,
                _ => false,
            };
            if !fits {
                return Err(Rule::Imports.broken(format!(
                    "imports `{}` from `{name}`; a plugin may import nothing but the function `write` of studio:worker/log",
                    names::one_line(item, 64)
                )));
            }
        }
    }
    Ok(())
}

pub(crate) fn link(
    sandbox: &Sandbox,
    component: &Component,
    empty_wasi: bool,
) -> Result<InstancePre<Room>, Broken> {
    let linked = if empty_wasi {
        wasi::link(sandbox.linker(), component).and_then(|linker| linker.instantiate_pre(component))
    } else {
        sandbox.linker().instantiate_pre(component)
    };
    linked.map_err(|error| {
        Rule::Shape.broken(format!(
            "an import has another shape than the contract's: {error:#}"
        ))
    })
}

pub(crate) fn shape(wrong: WrongShape) -> Broken {
    Rule::Shape.broken(wrong.0)
}

fn probing(error: CallError) -> Broken {
    match error.is_plugins_fault() {
        true => Rule::Probe.broken(error.to_string()),
        false => Rule::Probe.unmet(error.to_string()),
    }
}

/// Instantiates it under its real limits and asks what it is. A component of the wrong shape links and fails here.
pub(crate) async fn probe(prepared: Prepared) -> Result<Plugged, Broken> {
    match prepared.world {
        World::Engine => engine(prepared.plugin)
            .await
            .map(|one| Plugged::Engine(Arc::new(one))),
        World::Router => router(prepared.plugin)
            .await
            .map(|one| Plugged::Router(Arc::new(one))),
        World::Finisher => finisher(prepared.plugin)
            .await
            .map(|one| Plugged::Finisher(Arc::new(one))),
    }
}

async fn engine(plugin: Plugin) -> Result<Engine, Broken> {
    let code = &plugin.code;
    let exports = EngineExports {
        describe: code.export("describe").map_err(shape)?,
        builds: code.export("builds").map_err(shape)?,
        compose: code.export("compose").map_err(shape)?,
        subject: code.export("subject").map_err(shape)?,
        step: code.export("step").map_err(shape)?,
        read_progress: code.export("read-progress").map_err(shape)?,
    };
    check_shapes(code, move |store, instance| {
        exports
            .describe
            .check::<(), (Description,)>(store, instance)?;
        exports
            .builds
            .check::<(&str, &str), (Result<Vec<Build>, Failure>,)>(store, instance)?;
        exports
            .compose
            .check::<(&str, &str, &str), (Result<(String, String), Failure>,)>(store, instance)?;
        exports
            .subject
            .check::<(&Job,), (String,)>(store, instance)?;
        exports
            .step
            .check::<(&Job, &[Outcome]), (Result<Next, Failure>,)>(store, instance)?;
        exports
            .read_progress
            .check::<(&str, u64, &[String]), ((u64, Option<Progress>),)>(store, instance)
    })
    .await?;
    let (description,): (Description,) = ask(code, exports.describe).await?;
    describe::description(&description, &plugin.grants)?;
    Ok(Engine {
        plugin,
        description,
        exports,
    })
}

async fn router(plugin: Plugin) -> Result<Router, Broken> {
    let route = plugin.code.export("route").map_err(shape)?;
    check_shapes(&plugin.code, move |store, instance| {
        route.check::<(&str, &[EngineCandidate], &WorkerState), (Result<String, Rejection>,)>(
            store, instance,
        )
    })
    .await?;
    Ok(Router { plugin, route })
}

async fn finisher(plugin: Plugin) -> Result<Finisher, Broken> {
    let code = &plugin.code;
    let finish = code.export("finish").map_err(shape)?;
    let accepting = code.export("accepts").map_err(shape)?;
    check_shapes(code, move |store, instance| {
        accepting.check::<(), (Vec<(String, u64)>,)>(store, instance)?;
        finish.check::<(&Job, &Product, &Provenance), (Result<Product, Failure>,)>(store, instance)
    })
    .await?;
    let (accepts,): (Vec<(String, u64)>,) = ask(code, accepting).await?;
    describe::accepts(&accepts)?;
    Ok(Finisher {
        plugin,
        accepts,
        finish,
    })
}

async fn check_shapes(
    code: &Arc<Code>,
    check: impl FnOnce(&mut Store<Room>, wasmtime::component::Instance) -> Result<(), WrongShape>
    + Send
    + 'static,
) -> Result<(), Broken> {
    let found = code
        .run("instantiate", move |code, abandoned| {
            code.check_shapes(abandoned, check)
        })
        .await;
    found.map_err(probing)?.map_err(shape)
}

async fn ask<R>(code: &Arc<Code>, export: Export) -> Result<R, Broken>
where
    R: wasmtime::component::ComponentNamedList + wasmtime::component::Lift + Send + 'static,
{
    let answer = code
        .run(export.name, move |code, abandoned| {
            code.call(export, Budget::quick(code.limits()), 0, abandoned, ())
        })
        .await;
    answer.map_err(probing)
}

/// The folder and name of one file.
pub(crate) fn split(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let name = PathBuf::from(path.file_name()?);
    let folder = path.parent()?;
    let here = Path::new(".");
    let folder = if folder.as_os_str().is_empty() {
        here
    } else {
        folder
    };
    Some((folder.to_owned(), name))
}
