//! The effects that an engine can await.

use std::rc::Rc;

use crate::executor::{Rounds, Wait, bug};
use crate::log::{self, Level};
use crate::shapes::Value;
use crate::{
    Call, Command, Download, Effect, Exit, Failure, File, Outcome, Part, Range, Request, Response,
};

/// Hands out the effects of one step. Cheap to clone, so that branches can own one each.
///
/// Each method asks the host for one effect and waits for its outcome. What the host could not or
/// would not do comes back as `Err`, to be passed on with `?` or answered in another way.
/// Nothing happens until the returned future is awaited.
#[derive(Clone, Debug)]
pub struct Context {
    rounds: Rc<Rounds>,
}

impl Context {
    pub(crate) fn new(rounds: Rc<Rounds>) -> Self {
        Self { rounds }
    }

    /// Downloads files, all or none; in the order of the downloads.
    ///
    /// # Errors
    ///
    /// The host's refusal, or what went wrong with the first download that failed.
    pub async fn fetch(
        &self,
        downloads: impl IntoIterator<Item = Download>,
    ) -> Result<Vec<File>, Failure> {
        let downloads: Vec<Download> = downloads.into_iter().collect();
        let count = downloads.len();
        match self.perform(|| Effect::Fetch(downloads)).await? {
            Outcome::Files(files) if files.len() == count => Ok(files),
            Outcome::Files(files) => Err(bug(&format!(
                "{} files came for {count} downloads",
                files.len()
            ))),
            other => Err(mismatch("a fetch", &other)),
        }
    }

    /// Runs a native program to its end. A program that failed is an `Ok`: its [`Exit`] tells.
    ///
    /// # Errors
    ///
    /// The host's refusal, or why the program could not be started.
    pub async fn run(&self, command: Command) -> Result<Exit, Failure> {
        self.run_with(|| command).await
    }

    /// As [`Context::run`], for a command that is costly to put together.
    ///
    /// # Errors
    ///
    /// As [`Context::run`].
    pub async fn run_with(&self, command: impl FnOnce() -> Command) -> Result<Exit, Failure> {
        match self.perform(|| Effect::Run(command())).await? {
            Outcome::Exited(exit) => Ok(exit),
            other => Err(mismatch("a run", &other)),
        }
    }

    /// One exchange with a native server that the host keeps warm.
    ///
    /// # Errors
    ///
    /// The host's refusal, or why server or exchange failed. A status that is not 2xx is an `Ok`.
    pub async fn call(&self, call: Call) -> Result<Response, Failure> {
        match self.perform(|| Effect::Call(call)).await? {
            Outcome::Responded(response) => Ok(response),
            Outcome::TimedOut((_, failure)) => Err(failure),
            other => Err(mismatch("a call", &other)),
        }
    }

    /// One exchange with a granted host on the network.
    ///
    /// # Errors
    ///
    /// The host's refusal, or why the exchange failed. A status that is not 2xx is an `Ok`.
    pub async fn http(&self, request: Request) -> Result<Response, Failure> {
        match self.perform(|| Effect::Http(request)).await? {
            Outcome::Responded(response) => Ok(response),
            Outcome::TimedOut((_, failure)) => Err(failure),
            other => Err(mismatch("a request", &other)),
        }
    }

    /// Brings bytes of a file into the plugin; fewer where the file ends before.
    ///
    /// # Errors
    ///
    /// The host's refusal, or why the file could not be read.
    pub async fn read(&self, file: &File, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        let range = Range {
            file: file.id,
            offset,
            length,
        };
        match self.perform(|| Effect::Read(range)).await? {
            Outcome::Bytes(bytes) => Ok(bytes),
            other => Err(mismatch("a read", &other)),
        }
    }

    /// Makes a file of the job from parts, joined.
    ///
    /// `parts` runs once over the whole job: in the step that asks for the file. This is the
    /// place for heavy computing, since everything outside runs again at each step.
    ///
    /// # Errors
    ///
    /// The host's refusal (a name with a slash, a scratch that is full).
    pub async fn write<P: Into<Part>>(
        &self,
        name: impl Into<String>,
        parts: impl FnOnce() -> Vec<P>,
    ) -> Result<File, Failure> {
        let name = name.into();
        let effect = || {
            let parts = parts().into_iter().map(Into::into).collect();
            Effect::Write((name, parts))
        };
        match self.perform(effect).await? {
            Outcome::Files(files) => match <[File; 1]>::try_from(files) {
                Ok([file]) => Ok(file),
                Err(files) => Err(bug(&format!("{} files came for one write", files.len()))),
            },
            other => Err(mismatch("a write", &other)),
        }
    }

    /// Lets that many milliseconds pass.
    ///
    /// # Errors
    ///
    /// The host's refusal.
    pub async fn wait(&self, milliseconds: u32) -> Result<(), Failure> {
        match self.perform(|| Effect::Wait(milliseconds)).await? {
            Outcome::Waited => Ok(()),
            other => Err(mismatch("a wait", &other)),
        }
    }

    /// An effect by name, for what a later host can do besides.
    ///
    /// # Errors
    ///
    /// The host's refusal, among others because it does not know the name; or an answer that is no JSON.
    pub async fn other(&self, name: impl Into<String>, request: Value) -> Result<Value, Failure> {
        let effect = (name.into(), request.to_string());
        match self.perform(|| Effect::Other(effect)).await? {
            Outcome::Other(answer) => serde_json::from_str(&answer)
                .map_err(|error| Failure::permanent(format!("the host answered no JSON: {error}"))),
            other => Err(mismatch("an effect by name", &other)),
        }
    }

    /// Any effect, with its raw outcome.
    ///
    /// `make` runs only while the outcome is missing, once over the whole job; what it computes
    /// can reach the rest of the job through the effect alone.
    ///
    /// # Errors
    ///
    /// What the host could not or would not do. A call or a request that had no answer in its time is an `Ok` here.
    pub async fn perform(&self, make: impl FnOnce() -> Effect) -> Result<Outcome, Failure> {
        // Boxed, so that a closure that borrows across the await need not be `Unpin`.
        let make = Box::new(make);
        match Wait::new(Rc::clone(&self.rounds), make).await {
            Outcome::Failed(failure) => Err(failure),
            outcome => Ok(outcome),
        }
    }

    /// Writes a line to the log the first time the plugin gets here, and not in later steps.
    pub fn note(&self, level: Level, message: &str) {
        if self.rounds.is_live() {
            log::write(level, message);
        }
    }
}

fn mismatch(asked: &str, outcome: &Outcome) -> Failure {
    let got = match outcome {
        Outcome::Files(_) => "files",
        Outcome::Exited(_) => "an exit",
        Outcome::Responded(_) => "a response",
        Outcome::Bytes(_) => "bytes",
        Outcome::Waited => "a wait's end",
        Outcome::Other(_) => "the answer of an effect by name",
        Outcome::Failed(_) => "a failure",
        Outcome::TimedOut(_) => "a time that is over",
    };
    bug(&format!(
        "{asked} was answered with {got}; another version of the plugin made this history, \
         or the plugin is not deterministic"
    ))
}
