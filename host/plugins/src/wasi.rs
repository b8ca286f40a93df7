//! An empty context for components whose toolchain brings WASI imports.
//!
//! Some languages' runtimes import half of WASI without using it. Where the operator says so, such imports meet what stands
//! here: no arguments, no environment, no folders, clocks that stand still, randomness that is a function of the job, output that goes
//! nowhere and input that has ended. Everything else (opening files, sockets, waiting) traps when it is called. Nothing here can block,
//! so the clock that ends overlong calls reaches a guest wherever it is.
//!
//! It is written by hand because a real implementation, even with nothing granted, opens files, waits and keeps threads.

use wasmtime::StoreContextMut;
use wasmtime::component::{
    Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
};

use crate::room::Room;

/// The most random bytes that one call gets.
const MAX_RANDOM_BYTES: u64 = 64 * 1024;
/// Bytes that a stream to nowhere takes at once.
const WRITE_BYTES: u64 = 64 * 1024;

/// Every resource of the empty context: none of them holds anything.
type Nothing = Resource<()>;
type Store<'a> = StoreContextMut<'a, Room>;
type Streamed<T> = Result<T, StreamError>;

#[derive(ComponentType, Lower, Lift)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(
        dead_code,
        reason = "the type has this case; streams to nowhere do not fail"
    )]
    Failed(Nothing),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lower, Lift)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// A linker that meets every WASI import of `component`, under the very version it asks for.
pub(crate) fn link(bare: &Linker<Room>, component: &Component) -> wasmtime::Result<Linker<Room>> {
    let mut linker = bare.clone();
    let names: Vec<String> = component
        .component_type()
        .imports(component.engine())
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("wasi:"))
        .collect();
    for name in names {
        let interface = name
            .split_once('@')
            .map_or(name.as_str(), |(interface, _)| interface);
        let mut instance = linker.instance(&name)?;
        match interface {
            "wasi:cli/environment" => environment(&mut instance)?,
            "wasi:cli/stdin" => stream_getter(&mut instance, "input-stream", "get-stdin")?,
            "wasi:cli/stdout" => stream_getter(&mut instance, "output-stream", "get-stdout")?,
            "wasi:cli/stderr" => stream_getter(&mut instance, "output-stream", "get-stderr")?,
            "wasi:cli/terminal-stdin" => {
                no_terminal(&mut instance, "terminal-input", "get-terminal-stdin")?
            }
            "wasi:cli/terminal-stdout" => {
                no_terminal(&mut instance, "terminal-output", "get-terminal-stdout")?
            }
            "wasi:cli/terminal-stderr" => {
                no_terminal(&mut instance, "terminal-output", "get-terminal-stderr")?
            }
            "wasi:clocks/wall-clock" => wall_clock(&mut instance)?,
            "wasi:clocks/monotonic-clock" => monotonic_clock(&mut instance)?,
            "wasi:filesystem/preopens" => preopens(&mut instance)?,
            "wasi:io/streams" => streams(&mut instance)?,
            "wasi:random/random" => random(&mut instance, "get-random-bytes", "get-random-u64")?,
            "wasi:random/insecure" => random(
                &mut instance,
                "get-insecure-random-bytes",
                "get-insecure-random-u64",
            )?,
            "wasi:random/insecure-seed" => seed(&mut instance)?,
            _ => {}
        }
    }
    // All resources stand for the same type, `()`, so what is filled in here fits what is defined above.
    linker.define_unknown_imports_as_traps(component)?;
    Ok(linker)
}

fn environment(instance: &mut LinkerInstance<'_, Room>) -> wasmtime::Result<()> {
    instance.func_wrap("get-environment", |_: Store<'_>, (): ()| {
        Ok((Vec::<(String, String)>::new(),))
    })?;
    instance.func_wrap("get-arguments", |_: Store<'_>, (): ()| {
        Ok((Vec::<String>::new(),))
    })?;
    instance.func_wrap("initial-cwd", |_: Store<'_>, (): ()| Ok((None::<String>,)))
}

fn nothing(instance: &mut LinkerInstance<'_, Room>, name: &str) -> wasmtime::Result<()> {
    instance.resource(name, ResourceType::host::<()>(), |_, _| Ok(()))
}

fn stream_getter(
    instance: &mut LinkerInstance<'_, Room>,
    resource: &str,
    getter: &str,
) -> wasmtime::Result<()> {
    nothing(instance, resource)?;
    instance.func_wrap(getter, |_: Store<'_>, (): ()| Ok((Nothing::new_own(0),)))
}

fn no_terminal(
    instance: &mut LinkerInstance<'_, Room>,
    resource: &str,
    getter: &str,
) -> wasmtime::Result<()> {
    nothing(instance, resource)?;
    instance.func_wrap(getter, |_: Store<'_>, (): ()| Ok((None::<Nothing>,)))
}

fn wall_clock(instance: &mut LinkerInstance<'_, Room>) -> wasmtime::Result<()> {
    let still = || Datetime {
        seconds: 0,
        nanoseconds: 0,
    };
    instance.func_wrap("now", move |_: Store<'_>, (): ()| Ok((still(),)))?;
    instance.func_wrap("resolution", |_: Store<'_>, (): ()| {
        Ok((Datetime {
            seconds: 1,
            nanoseconds: 0,
        },))
    })
}

fn monotonic_clock(instance: &mut LinkerInstance<'_, Room>) -> wasmtime::Result<()> {
    instance.func_wrap("now", |_: Store<'_>, (): ()| Ok((0_u64,)))?;
    instance.func_wrap("resolution", |_: Store<'_>, (): ()| {
        Ok((1_000_000_000_u64,))
    })
}

fn preopens(instance: &mut LinkerInstance<'_, Room>) -> wasmtime::Result<()> {
    nothing(instance, "descriptor")?;
    instance.func_wrap("get-directories", |_: Store<'_>, (): ()| {
        Ok((Vec::<(Nothing, String)>::new(),))
    })
}

fn streams(instance: &mut LinkerInstance<'_, Room>) -> wasmtime::Result<()> {
    nothing(instance, "input-stream")?;
    nothing(instance, "output-stream")?;
    for name in [
        "[method]input-stream.read",
        "[method]input-stream.blocking-read",
    ] {
        instance.func_wrap(name, |_: Store<'_>, _: (Nothing, u64)| {
            Ok((Streamed::<Vec<u8>>::Err(StreamError::Closed),))
        })?;
    }
    instance.func_wrap(
        "[method]output-stream.check-write",
        |_: Store<'_>, _: (Nothing,)| Ok((Streamed::Ok(WRITE_BYTES),)),
    )?;
    for name in [
        "[method]output-stream.write",
        "[method]output-stream.blocking-write-and-flush",
    ] {
        instance.func_wrap(name, |_: Store<'_>, _: (Nothing, Vec<u8>)| {
            Ok((Streamed::Ok(()),))
        })?;
    }
    for name in [
        "[method]output-stream.flush",
        "[method]output-stream.blocking-flush",
    ] {
        instance.func_wrap(name, |_: Store<'_>, _: (Nothing,)| Ok((Streamed::Ok(()),)))?;
    }
    Ok(())
}

fn random(
    instance: &mut LinkerInstance<'_, Room>,
    bytes: &str,
    number: &str,
) -> wasmtime::Result<()> {
    instance.func_wrap(bytes, |mut store: Store<'_>, (length,): (u64,)| {
        if length > MAX_RANDOM_BYTES {
            return Err(wasmtime::Error::msg("asked for too many random bytes"));
        }
        let room = store.data_mut();
        let bytes: Vec<u8> = (0..length)
            .map(|_| (next(&mut room.entropy) >> 56) as u8)
            .collect();
        Ok((bytes,))
    })?;
    instance.func_wrap(number, |mut store: Store<'_>, (): ()| {
        Ok((next(&mut store.data_mut().entropy),))
    })
}

fn seed(instance: &mut LinkerInstance<'_, Room>) -> wasmtime::Result<()> {
    instance.func_wrap("insecure-seed", |mut store: Store<'_>, (): ()| {
        let entropy = &mut store.data_mut().entropy;
        Ok(((next(entropy), next(entropy)),))
    })
}

/// SplitMix64: equal entropy gives equal numbers, which keeps the plugin a function of its arguments.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
