//! The engine that all plugins of a process share, and its settings.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmparser::WasmFeatures;
use wasmtime::component::{Linker, WasmStr};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreContextMut,
};

use crate::compiled::{Cache, CacheError};
use crate::compiler::Compiler;
use crate::contract::Level;
use crate::guests::Guests;
use crate::room::{MAX_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES, Room};

/// The most memory that any plugin can be granted. Larger lets one plugin take more of the machine; smaller refuses pictures of
/// many pixels.
const MAX_MEMORY_BYTES: usize = 1 << 30;

/// The call stack of a guest inside its thread's own. Guests keep their data elsewhere, so this bounds recursion alone.
pub(crate) const STACK_BYTES: usize = 512 * 1024;

/// What stays mapped of a memory between two calls. Less makes each fresh instance fault its pages in anew, which costs more than the
/// rest of a small call; more is memory that an idle worker holds, once for each slot of the pool in use.
const MEMORY_KEPT_BYTES: usize = 4 << 20;
const TABLE_KEPT_BYTES: usize = 16 * 1024;

/// Fuel for one log line, and for each byte of it: a call that only logs ends by fuel, as it would if reading the line were its own work.
const LOG_FUEL: u64 = 2_000;
const LOG_FUEL_PER_BYTE: u64 = 1;

/// How a sandbox is set up.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Where compiled plugins are kept between runs; none compiles them at each start.
    pub cache_dir: Option<PathBuf>,
    /// Compiles in child processes; none compiles in this one, which is for tests and tools.
    pub compiler: Option<Compiler>,
    /// Threads that guests run on, besides one that a job may lend: offers, subjects, readers of progress, and plugins that are
    /// looked at while they serve.
    pub guest_threads: NonZeroUsize,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            compiler: None,
            guest_threads: NonZeroUsize::MIN.saturating_add(1),
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This machine cannot run guests as they have to be run.
    #[error("this machine cannot run plugins: {reason}")]
    Engine {
        /// Why, in the engine's words.
        reason: String,
    },
    /// The threads could not be started.
    #[error("cannot start the threads that plugins run on")]
    Threads {
        /// The system's error.
        source: std::io::Error,
    },
    /// The folder of compiled plugins cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Everything that plugins run in. One for each process: a second one would have threads and reserved memory of its own.
pub struct Sandbox {
    engine: Engine,
    linker: Linker<Room>,
    pub(crate) guests: Guests,
    pub(crate) cache: Option<Cache>,
    pub(crate) compiler: Option<Compiler>,
    compiled: AtomicUsize,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Sets up engine, threads and cache. Does not read or run any plugin.
    pub fn new(options: SandboxOptions) -> Result<Arc<Self>, SandboxError> {
        let failed = |error: wasmtime::Error| SandboxError::Engine {
            reason: format!("{error:#}"),
        };
        let engine = Engine::new(&config(options.guest_threads)).map_err(failed)?;
        let linker = log_linker(&engine).map_err(failed)?;
        let guests = Guests::start(options.guest_threads, engine.weak())
            .map_err(|source| SandboxError::Threads { source })?;
        let cache = match options.cache_dir {
            Some(dir) => Some(Cache::open(dir, &engine)?),
            None => None,
        };
        Ok(Arc::new(Self {
            engine,
            linker,
            guests,
            cache,
            compiler: options.compiler,
            compiled: AtomicUsize::new(0),
        }))
    }

    /// Removes compiled forms that an interrupted process left half-written. One that somebody is at this moment writing is written
    /// again another time.
    pub fn clear_unfinished(&self) {
        if let Some(cache) = &self.cache {
            cache.clear();
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Plugins compiled so far; those whose compiled form was found do not count.
    pub fn compiled(&self) -> usize {
        self.compiled.load(Ordering::Relaxed)
    }

    /// Counts one that is about to be compiled, and says so, once: a cold start would otherwise be silent for seconds.
    pub(crate) fn compiling(&self) {
        if self.compiled.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::info!(target: "plugins", "compiling plugins; each version is compiled once, which takes seconds");
        }
    }

    /// What every plugin may import: the log.
    pub(crate) fn linker(&self) -> &Linker<Room> {
        &self.linker
    }
}

/// An engine that makes the same code and reserves no memory for instances: for processes that only compile.
pub(crate) fn compiling_engine() -> wasmtime::Result<Engine> {
    let mut config = config(NonZeroUsize::MIN);
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    Engine::new(&config)
}

fn config(threads: NonZeroUsize) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        // Equal arguments give equal answers on every machine, or a journal could not be replayed on another.
        .cranelift_nan_canonicalization(true)
        .memory_init_cow(true)
        // All that a 32-bit address reaches is reserved, so that guard pages stand in for bounds checks: a fifth of the time of guests
        // that compute pixels. It costs address space, not memory.
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        // Backtraces need a symbol table that stripped guests do not have.
        .wasm_backtrace_max_frames(None)
        .native_unwind_info(false)
        // Off, although not compiled in: another crate's features could turn them on.
        .concurrency_support(false)
        .shared_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_features(WasmFeatures::THREADS, false)
        .wasm_features(WasmFeatures::GC, false)
        .wasm_features(WasmFeatures::STACK_SWITCHING, false)
        .wasm_features(WasmFeatures::CM_ASYNC, false)
        .wasm_features(WasmFeatures::CM_ERROR_CONTEXT, false)
        .wasm_features(WasmFeatures::CM_GC, false)
        // Components composed of several have several memories.
        .wasm_multi_memory(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(threads)));
    config
}

fn pool(threads: NonZeroUsize) -> PoolingAllocationConfig {
    // One instance lives per thread, one on the thread that a job lends, and one more for a call that is being dropped while the
    // next begins.
    let instances = u32::try_from(threads.get()).unwrap_or(64).clamp(1, 64) + 2;
    let each = |count: usize| instances * u32::try_from(count).unwrap_or(32);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(each(MAX_INSTANCES))
        .total_memories(each(MAX_MEMORIES))
        .total_tables(each(MAX_TABLES))
        .max_core_instances_per_component(MAX_INSTANCES as u32)
        .max_memories_per_component(MAX_MEMORIES as u32)
        .max_tables_per_component(MAX_TABLES as u32)
        .max_memories_per_module(MAX_MEMORIES as u32)
        .max_tables_per_module(MAX_TABLES as u32)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(MAX_MEMORY_BYTES)
        // Slots that keep a plugin's pages: one for each plugin that is called in turns.
        .max_unused_warm_slots(8)
        .linear_memory_keep_resident(MEMORY_KEPT_BYTES)
        .table_keep_resident(TABLE_KEPT_BYTES);
    pool
}

fn log_linker(engine: &Engine) -> wasmtime::Result<Linker<Room>> {
    let mut linker = Linker::new(engine);
    linker.instance("studio:worker/log@1.0.0")?.func_wrap(
        "write",
        |mut store: StoreContextMut<'_, Room>, (level, message): (Level, WasmStr)| {
            let open = store.data_mut().log.is_open();
            let mut cost = LOG_FUEL;
            if open {
                // Copied, because the log is part of the store that the text lies in.
                let text = message.to_str(&store)?.into_owned();
                cost += LOG_FUEL_PER_BYTE * text.len() as u64;
                store.data_mut().log.write(level, &text);
            }
            let fuel = store.get_fuel()?;
            store.set_fuel(fuel.saturating_sub(cost))
        },
    )?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    #[test]
    fn what_a_child_compiles_fits_this_engine() {
        let of = |engine: &Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let own = Engine::new(&config(NonZeroUsize::MIN)).unwrap();
        assert_eq!(of(&own), of(&compiling_engine().unwrap()));
    }
}
