//! One call of one export, in an instance of its own.
//!
//! A fresh instance costs some microseconds and buys that no call can leave anything to the next, and that after a
//! trap there is nothing to repair. Fuel judges a call; the clock is the backstop, so much looser that it bites only where the machine
//! is overloaded. Both cover instantiation too, which runs the component's start functions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower,
};
use wasmtime::{Store, Trap, UpdateDeadline};

use crate::cpu;
use crate::fault::{CallError, Fault};
use crate::grants::Limits;
use crate::guests::{Abandoned, Refused};
use crate::names::one_line;
use crate::room::{Log, MAX_TABLE_ELEMENTS, Meter, Over, Room, Stopped};
use crate::sandbox::{STACK_BYTES, Sandbox};

/// Fuel for what a limit calls a millisecond of an idle core. One unit is about one instruction, so code differs: measured on a 2.5 GHz
/// core, a chain of square roots or an empty loop burns 0.6 million a millisecond, plain arithmetic 5, pixels 12, block copies (counted by
/// the byte) 60. Larger lets bad code run longer than its limit says, now up to eight times, well inside the deadline; smaller would stop
/// good code before its time.
pub const FUEL_PER_MS: u64 = 5_000_000;

/// How much longer than its fuel is worth a call may take, and the least it may: a machine whose cores compute a picture gives a guest
/// a fraction of one.
const DEADLINE_FACTOR: u32 = 20;
const MIN_DEADLINE: Duration = Duration::from_secs(1);

/// What every function but `step` and `finish` may return, in bytes of host memory. A prompt of a megabyte fits.
const QUICK_RETURN_BYTES: u64 = 4 << 20;

/// Handles to resources in one instance; only the empty WASI context has any.
const MAX_HANDLES: usize = 1_024;

/// How much a trap's text may say.
const MAX_REASON_BYTES: usize = 300;

/// An exported function, and what a call of it may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) fuel_ms: u32,
    pub(crate) returned_bytes: u64,
}

impl Budget {
    pub(crate) fn quick(limits: &Limits) -> Self {
        Self {
            fuel_ms: limits.quick_ms,
            returned_bytes: QUICK_RETURN_BYTES,
        }
    }

    pub(crate) fn step(limits: &Limits) -> Self {
        Self {
            fuel_ms: limits.step_ms,
            returned_bytes: limits.returned_bytes,
        }
    }

    pub(crate) fn finish(limits: &Limits) -> Self {
        Self {
            fuel_ms: limits.finish_ms,
            returned_bytes: limits.returned_bytes,
        }
    }

    fn deadline(self) -> Duration {
        (Duration::from_millis(u64::from(self.fuel_ms)) * DEADLINE_FACTOR).max(MIN_DEADLINE)
    }
}

/// A linked component, ready to be instantiated.
pub(crate) struct Code {
    sandbox: Arc<Sandbox>,
    plugin: Arc<str>,
    pre: InstancePre<Room>,
    interface: ComponentExportIndex,
    limits: Limits,
}

/// An export, found in a component.
#[derive(Clone, Copy)]
pub(crate) struct Export {
    pub(crate) name: &'static str,
    index: ComponentExportIndex,
}

impl Export {
    /// Checks that it has these parameters and results; calls nothing.
    pub(crate) fn check<P, R>(
        &self,
        store: &mut Store<Room>,
        instance: wasmtime::component::Instance,
    ) -> Result<(), WrongShape>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        match instance.get_typed_func::<P, R>(store, self.index) {
            Ok(_) => Ok(()),
            Err(error) => Err(WrongShape(format!(
                "its `{}` has another shape than the contract's: {error:#}",
                self.name
            ))),
        }
    }
}

/// Why a component's exports cannot be used.
pub(crate) struct WrongShape(pub(crate) String);

impl Code {
    pub(crate) fn new(
        sandbox: &Arc<Sandbox>,
        plugin: &str,
        pre: InstancePre<Room>,
        interface: &str,
        limits: Limits,
    ) -> Result<Self, WrongShape> {
        let interface = pre
            .component()
            .get_export_index(None, interface)
            .ok_or_else(|| WrongShape(format!("exports no interface `{interface}`")))?;
        Ok(Self {
            sandbox: Arc::clone(sandbox),
            plugin: plugin.into(),
            pre,
            interface,
            limits,
        })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn export(&self, name: &'static str) -> Result<Export, WrongShape> {
        let component: &Component = self.pre.component();
        match component.get_export_index(Some(&self.interface), name) {
            Some(index) => Ok(Export { name, index }),
            None => Err(WrongShape(format!("exports no function `{name}`"))),
        }
    }

    /// Checks that an export has the shape of the contract; needs an instance, in which nothing is called.
    pub(crate) fn check_shapes(
        &self,
        abandoned: &Abandoned,
        check: impl FnOnce(&mut Store<Room>, wasmtime::component::Instance) -> Result<(), WrongShape>,
    ) -> Result<Result<(), WrongShape>, CallError> {
        let mut store = self.store(Budget::quick(&self.limits), 0, abandoned, "instantiate")?;
        match self.pre.instantiate(&mut store) {
            Ok(instance) => Ok(check(&mut store, instance)),
            Err(error) => Err(self.fault(
                &store,
                "instantiate",
                Budget::quick(&self.limits),
                false,
                &error,
            )),
        }
    }

    /// Calls an export on this thread, which must be a guest thread or one that was lent.
    pub(crate) fn call<P, R>(
        &self,
        export: Export,
        budget: Budget,
        entropy: u64,
        abandoned: &Abandoned,
        parameters: P,
    ) -> Result<R, CallError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        self.measured(export, budget, entropy, abandoned, parameters, &mut 0)
    }

    /// The same, and adds the fuel that it took to `spent`. Equal calls take equal fuel on every machine.
    pub(crate) fn measured<P, R>(
        &self,
        export: Export,
        budget: Budget,
        entropy: u64,
        abandoned: &Abandoned,
        parameters: P,
        spent: &mut u64,
    ) -> Result<R, CallError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        let mut store = self.store(budget, entropy, abandoned, export.name)?;
        let full = store.get_fuel().unwrap_or(0);
        let mut ran = false;
        let answer = self.pre.instantiate(&mut store).and_then(|instance| {
            let function = instance.get_typed_func::<P, R>(&mut store, export.index)?;
            ran = true;
            function.call(&mut store, parameters)
        });
        store.data().log.close();
        *spent += full.saturating_sub(store.get_fuel().unwrap_or(0));
        answer.map_err(|error| self.fault(&store, export.name, budget, ran, &error))
    }

    /// Makes a call on a guest thread and waits for it. Dropping the future ends the call.
    pub(crate) async fn run<R: Send + 'static>(
        self: &Arc<Self>,
        export: &'static str,
        work: impl FnOnce(&Self, &Abandoned) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        let code = Arc::clone(self);
        let work = move |abandoned: &Abandoned| work(&code, abandoned);
        self.answer(export, self.sandbox.guests.run(work).await)
    }

    /// Makes a call on this thread where it was lent to guests, else as [`Code::run`] does.
    pub(crate) async fn run_here<R: Send + 'static>(
        self: &Arc<Self>,
        export: &'static str,
        work: impl FnOnce(&Self, &Abandoned) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        let code = Arc::clone(self);
        let work = move |abandoned: &Abandoned| work(&code, abandoned);
        self.answer(export, self.sandbox.guests.run_here(work).await)
    }

    fn answer<R>(
        &self,
        export: &'static str,
        answer: Result<Result<R, CallError>, Refused>,
    ) -> Result<R, CallError> {
        answer.unwrap_or_else(|refused| {
            let reason = refused.to_string();
            Err(self.error(export, Fault::Host { reason }, None))
        })
    }

    pub(crate) fn error(
        &self,
        export: &'static str,
        fault: Fault,
        said: Option<String>,
    ) -> CallError {
        CallError {
            plugin: self.plugin.to_string(),
            export,
            fault,
            said,
        }
    }

    fn store(
        &self,
        budget: Budget,
        entropy: u64,
        abandoned: &Abandoned,
        export: &'static str,
    ) -> Result<Store<Room>, CallError> {
        let memory = usize::try_from(self.limits.memory_bytes).unwrap_or(usize::MAX);
        let room = Room {
            meter: Meter::new(memory),
            log: Log::new(Arc::clone(&self.plugin)),
            deadline: Instant::now() + budget.deadline(),
            abandoned: abandoned.clone(),
            stopped: None,
            entropy,
        };
        let mut store = Store::new(self.sandbox.engine(), room);
        store.limiter(|room| &mut room.meter);
        store.set_hostcall_fuel(usize::try_from(budget.returned_bytes).unwrap_or(usize::MAX));
        store.set_max_component_handles(MAX_HANDLES);
        store.set_epoch_deadline(1);
        let allowed = Duration::from_millis(u64::from(budget.fuel_ms));
        let before = cpu::of_this_thread();
        store.epoch_deadline_callback(move |mut store| {
            let room = store.data_mut();
            room.stopped = if room.abandoned.is_set() {
                Some(Stopped::Abandoned)
            } else if Instant::now() < room.deadline {
                None
            } else if cpu::spent_since(before, allowed) {
                // Slow as the machine was, the call has had all the computing that its limit allows.
                Some(Stopped::UsedUp)
            } else {
                Some(Stopped::Deadline)
            };
            Ok(match room.stopped {
                Some(_) => UpdateDeadline::Interrupt,
                None => UpdateDeadline::Continue(1),
            })
        });
        store
            .set_fuel(u64::from(budget.fuel_ms) * FUEL_PER_MS)
            .map_err(|error| {
                self.error(
                    export,
                    Fault::Host {
                        reason: error.to_string(),
                    },
                    None,
                )
            })?;
        Ok(store)
    }

    fn fault(
        &self,
        store: &Store<Room>,
        export: &'static str,
        budget: Budget,
        ran: bool,
        error: &wasmtime::Error,
    ) -> CallError {
        let room = store.data();
        let reason = || one_line(&format!("{:#}", error), MAX_REASON_BYTES);
        let fault = match (room.stopped, room.meter.over, error.downcast_ref::<Trap>()) {
            (Some(Stopped::Abandoned), _, _) => Fault::Cancelled,
            (Some(Stopped::Deadline), _, _) => Fault::Deadline {
                limit_ms: u64::try_from(budget.deadline().as_millis()).unwrap_or(u64::MAX),
            },
            (Some(Stopped::UsedUp), _, _) => Fault::Fuel {
                limit_ms: u64::from(budget.fuel_ms),
            },
            (None, Some(Over::Memory), _) => Fault::Memory {
                limit_mib: self.limits.memory_bytes >> 20,
            },
            (None, Some(Over::Tables), _) => Fault::Tables {
                limit: MAX_TABLE_ELEMENTS,
            },
            (None, None, Some(Trap::OutOfFuel)) => Fault::Fuel {
                limit_ms: u64::from(budget.fuel_ms),
            },
            (None, None, Some(Trap::StackOverflow)) => Fault::Stack {
                limit_kib: STACK_BYTES / 1024,
            },
            // Guests keep their data stack at the lower end of their memory, so deep recursion may end here.
            (None, None, Some(Trap::MemoryOutOfBounds)) => Fault::Trap(
                "it reached outside its memory: a defect, or recursion beyond its own stack's limit"
                    .to_owned(),
            ),
            (None, None, Some(trap)) => Fault::Trap(trap.to_string()),
            (None, None, None) if error.is::<wasmtime::PoolConcurrencyLimitError>() => {
                Fault::Host { reason: reason() }
            }
            (None, None, None) if ran => Fault::Transfer {
                limit_mib: budget.returned_bytes >> 20,
                reason: reason(),
            },
            (None, None, None) => Fault::Instantiate(reason()),
        };
        self.error(export, fault, room.log.said.clone())
    }
}
