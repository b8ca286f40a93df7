//! `cargo plugins`: builds the components that the worker loads and its tests use, and keeps the
//! lock file that ties each component to its source.
//!
//! A component is committed beside its source, so that a fresh clone needs nothing but Rust to
//! run. What keeps the two together is `plugins/plugins.lock`: per component the digest of
//! everything it is made of, the digest of the file, and the compiler. `check` fails when they no longer agree.

mod check;
mod compile;
mod component;
mod error;
mod lock;
mod patched;
mod renamed;
mod source;
mod toolchain;
mod twin;
mod workspace;

use std::process::ExitCode;

use crate::compile::Compiler;
use crate::component::Component;
use crate::error::BuildError;
use crate::lock::Lock;
use crate::workspace::Workspace;

const USAGE: &str = "\
usage: cargo plugins <command>

  build [--force] [NAME…]   build components whose source changed; all when none is named
  check [--sources]         fail when a component is not the one its source makes;
                            with --sources compare digests alone, build nothing
  list                      name every component and the file it is written to";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), BuildError> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(BuildError::Usage { usage: USAGE });
    };
    let (options, names): (Vec<&str>, Vec<&str>) = rest
        .iter()
        .map(String::as_str)
        .partition(|argument| argument.starts_with('-'));
    match (command.as_str(), options.as_slice(), names.as_slice()) {
        ("build", [], names) => build(names, false),
        ("build", ["--force"], names) => build(names, true),
        ("check", [], []) => check::check(true),
        ("check", ["--sources"], []) => check::check(false),
        ("list", [], []) => list(),
        ("help" | "--help" | "-h", ..) => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(BuildError::Usage { usage: USAGE }),
    }
}

fn build(names: &[&str], force: bool) -> Result<(), BuildError> {
    let workspace = Workspace::read()?;
    let components = workspace.components()?;
    let chosen = choose(&components, names)?;
    let compiler = Compiler::find()?;
    // Entries of components that are gone go with them.
    Lock::update(&workspace, |lock| lock.keep_only(&components))?;
    for component in chosen {
        let source = source::digest(&workspace, component)?;
        let lock = Lock::read(&workspace)?;
        if !force && lock.is_current(&workspace, component, &source, compiler.version()) {
            println!("{:<28} up to date", component.name);
            continue;
        }
        let bytes = compiler.compile(&workspace, component)?;
        component.write(&workspace, &bytes)?;
        // Saved at once: a later component that fails must not cost what was built.
        Lock::update(&workspace, |lock| {
            lock.record(component, source, &bytes, compiler.version());
        })?;
        println!("{:<28} {} bytes", component.name, bytes.len());
    }
    Ok(())
}

fn choose<'a>(
    components: &'a [Component],
    names: &[&str],
) -> Result<Vec<&'a Component>, BuildError> {
    for name in names {
        if !components
            .iter()
            .any(|component| component.answers_to(name))
        {
            return Err(BuildError::NoSuchComponent {
                name: (*name).to_owned(),
                known: components
                    .iter()
                    .map(|component| component.name.clone())
                    .collect(),
            });
        }
    }
    Ok(components
        .iter()
        .filter(|component| names.is_empty() || names.iter().any(|name| component.answers_to(name)))
        .collect())
}

fn list() -> Result<(), BuildError> {
    for component in Workspace::read()?.components()? {
        println!("{:<28} {}", component.name, component.file.display());
    }
    Ok(())
}
