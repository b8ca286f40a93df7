//! Makes a pure step function of an `async fn`, by replaying the history into its awaits.
//!
//! The future is made anew at each step and polled in **rounds**. Effects awaited during one poll
//! register in the order in which they are met, and the n-th effect ever registered belongs to the
//! n-th outcome of the history. When the history holds the outcomes of all effects of a round,
//! they are delivered together and the future is polled again; the first round without outcomes is
//! what the plugin wants done now. Rounds are what makes branches that go on side by side
//! deterministic: an outcome is never seen before the others of its round.
//!
//! The host appends whole rounds, so a history that ends inside one, one that goes on after the
//! plugin has finished, and an outcome of another kind than its effect's belong to another version of the
//! plugin or to a defect in it. All are failures that no retry cures.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use crate::{Effect, Failure, Finished, Next, Outcome};

/// What the futures of one step share.
#[derive(Debug)]
pub(crate) struct Rounds {
    outcomes: RefCell<Vec<Option<Outcome>>>,
    given: usize,
    /// Effects registered so far.
    registered: Cell<usize>,
    /// Outcomes that may be taken: those of the rounds that are complete.
    delivered: Cell<usize>,
    /// The effects of the round that has no outcomes.
    wanted: RefCell<Vec<Effect>>,
    /// For combinators that poll only what was woken.
    sleepers: RefCell<Vec<Waker>>,
}

impl Rounds {
    fn new(history: Vec<Outcome>) -> Self {
        Self {
            given: history.len(),
            outcomes: RefCell::new(history.into_iter().map(Some).collect()),
            registered: Cell::new(0),
            delivered: Cell::new(0),
            wanted: RefCell::default(),
            sleepers: RefCell::default(),
        }
    }

    /// Whether the plugin is past everything that has been done, on to something new.
    pub(crate) fn is_live(&self) -> bool {
        self.delivered.get() == self.given
    }

    /// Registers an effect; `make` runs only when its outcome is missing.
    fn register(&self, make: impl FnOnce() -> Effect) -> usize {
        let slot = self.registered.get();
        self.registered.set(slot + 1);
        if slot >= self.given {
            let effect = make();
            self.wanted.borrow_mut().push(effect);
        }
        slot
    }

    fn take(&self, slot: usize) -> Option<Outcome> {
        if slot >= self.delivered.get() {
            return None;
        }
        self.outcomes.borrow_mut().get_mut(slot)?.take()
    }

    fn deliver(&self, upto: usize) {
        self.delivered.set(upto);
        for sleeper in self.sleepers.take() {
            sleeper.wake();
        }
    }
}

/// Waits for one effect. Registers it when it is first polled, not when it is made.
pub(crate) struct Wait<M> {
    rounds: Rc<Rounds>,
    make: Option<M>,
    slot: usize,
}

impl<M> Wait<M> {
    pub(crate) fn new(rounds: Rc<Rounds>, make: M) -> Self {
        Self {
            rounds,
            make: Some(make),
            slot: 0,
        }
    }
}

impl<M: FnOnce() -> Effect + Unpin> Future for Wait<M> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        if let Some(make) = this.make.take() {
            this.slot = this.rounds.register(make);
        } else if let Some(outcome) = this.rounds.take(this.slot) {
            return Poll::Ready(outcome);
        }
        let waker = task.waker().clone();
        this.rounds.sleepers.borrow_mut().push(waker);
        Poll::Pending
    }
}

/// Runs one step: what to do next, given what has been done.
///
/// `run` gets the [`crate::Context`] whose awaits the history answers.
///
/// # Errors
///
/// The plugin's own failure, or one that says in which way plugin and history do not fit.
pub fn step<F>(
    history: Vec<Outcome>,
    run: impl FnOnce(crate::Context) -> F,
) -> Result<Next, Failure>
where
    F: Future<Output = Result<Finished, Failure>>,
{
    let rounds = Rc::new(Rounds::new(history));
    let mut future = pin!(run(crate::Context::new(Rc::clone(&rounds))));
    let mut task = TaskContext::from_waker(Waker::noop());
    loop {
        let poll = future.as_mut().poll(&mut task);
        let (delivered, registered) = (rounds.delivered.get(), rounds.registered.get());
        match poll {
            Poll::Ready(Err(failure)) => return Err(failure),
            Poll::Ready(Ok(finished)) => return ended(&rounds, finished),
            Poll::Pending if registered == delivered => {
                return Err(bug(
                    "it waits for something that is not an effect; only what Context offers can be awaited",
                ));
            }
            Poll::Pending if registered <= rounds.given => rounds.deliver(registered),
            Poll::Pending if delivered == rounds.given => {
                return Ok(Next::Perform(rounds.wanted.take()));
            }
            Poll::Pending => {
                return Err(bug(&format!(
                    "the history holds {} outcomes, which ends inside a round of {} effects; \
                     another version of the plugin made it, or the plugin is not deterministic",
                    rounds.given,
                    registered - delivered
                )));
            }
        }
    }
}

fn ended(rounds: &Rounds, finished: Finished) -> Result<Next, Failure> {
    let abandoned = rounds.registered.get() - rounds.delivered.get();
    if abandoned > 0 {
        return Err(bug(&format!(
            "it finished while {abandoned} of its effects were not waited for; await them or do not start them"
        )));
    }
    let left = rounds.given - rounds.delivered.get();
    if left > 0 {
        return Err(bug(&format!(
            "it finished with {left} outcomes of its history unused; \
             another version of the plugin made it, or the plugin is not deterministic"
        )));
    }
    Ok(Next::Finish(finished))
}

pub(crate) fn bug(what: &str) -> Failure {
    Failure::permanent(format!("plugin bug: {what}"))
}
