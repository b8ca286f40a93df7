//! What a program is and what it says of itself, remembered.
//!
//! Hashing a large binary and asking it for help take time. Digests are kept by the file's identity and modification, answers
//! by digest and question, for a day: a program may tell of more than itself.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::answers::{Answers, COUNTS};
use crate::ending::RunError;
use crate::environment::library_dir;
use crate::invocation::Invocation;
use crate::run::run;
use crate::sandbox::SandboxPolicy;

/// Remembered digests and answers; beyond this all are forgotten. A worker has some dozen programs.
const REMEMBERED: usize = 1024;

/// Bounds of a probe.
#[derive(Debug, Clone)]
pub struct ProbeLimits {
    /// Time on the clock. A program that loads its GPU's driver to print its help takes some seconds.
    pub timeout: Duration,
    /// Most bytes of each stream.
    pub bytes: usize,
    /// What the program may reach while it answers; its scratch folder is a new one for each question, whatever is named
    /// here. None: whatever the worker's user may.
    pub sandbox: Option<SandboxPolicy>,
    /// Most memory that it may hold meanwhile. None: no bound.
    pub memory_bytes: Option<u64>,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            bytes: 1 << 20,
            sandbox: None,
            memory_bytes: None,
        }
    }
}

/// How long an answer that is due again counts on when the question fails. Shorter starts a program that loads a GPU's driver
/// beside a job that needs it; longer is late to hear what changed around the program.
const ASK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// Most bytes that a program may write while it answers. More is no answer.
const WRITTEN: u64 = 16 << 20;

/// Largest file that a program may make while it answers. Sound libraries lay out 64 MiB of memory as a file at their start and
/// write to little of it: with less such a program is ended before it says anything.
const LARGEST_FILE: u64 = 512 << 20;

/// Why a program's digest cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The system refused.
    #[error("{} cannot be read: {source}", .path.display())]
    Io {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The worker is going down.
    #[error("the worker is stopping")]
    Stopping,
}

/// Why a program does not say what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It cannot be read.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no folder to run it in.
    #[error("{}: {source}; a program is asked for help in a folder made there, so check its permissions and the disk", .path.display())]
    Folder {
        /// Where one was to be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("{} does not answer {question} within {} s: run it by hand to see why", .program.display(), .after.as_secs_f32())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The arguments.
        question: String,
        /// How long was waited.
        after: Duration,
    },
    /// It crashed. A missing library or GPU driver is the usual cause.
    #[error("{} was ended by signal {signal} when asked {question}: {said}", .program.display())]
    Crashed {
        /// The program.
        program: PathBuf,
        /// The arguments.
        question: String,
        /// The signal.
        signal: i32,
        /// Its last line.
        said: String,
    },
    /// The loader found no library, or the like: exit 127 or 126 and nothing on standard output.
    #[error("{} cannot run here: {said}", .program.display())]
    Broken {
        /// The program.
        program: PathBuf,
        /// Its last line.
        said: String,
    },
    /// It printed more than is kept.
    #[error("{} answers {question} with more than {limit} bytes", .program.display())]
    TooLong {
        /// The program.
        program: PathBuf,
        /// The arguments.
        question: String,
        /// The limit.
        limit: usize,
    },
}

impl ProbeError {
    /// Whether it says nothing about the program, only about the moment: another time the same file may answer as before. A
    /// crash counts: a driver that is busy with a job and a machine short of memory end a program that way.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Run(error) => error.is_passing(),
            Self::Folder { .. } | Self::TimedOut { .. } | Self::Crashed { .. } => true,
            Self::Digest(_) | Self::Broken { .. } | Self::TooLong { .. } => false,
        }
    }
}

/// What makes a file the same file with the same content, as far as a glance tells.
type Identity = (u64, u64, u64, i64, i64);
/// A digest and the arguments.
type Question = (String, Vec<OsString>);

/// Digests and answers of the programs on this machine.
#[derive(Debug)]
pub struct Programs {
    work: PathBuf,
    kept: Answers,
    digests: Mutex<HashMap<Identity, String>>,
    /// With the time until which each counts.
    answers: Mutex<HashMap<Question, (String, Instant)>>,
}

impl Programs {
    /// `work` is a directory in which each question gets a folder of its own.
    #[must_use]
    pub fn new(work: PathBuf) -> Self {
        Self::with_answers(work, None)
    }

    /// The same, with a folder in which answers outlive the worker.
    #[must_use]
    pub fn with_answers(work: PathBuf, answers: Option<PathBuf>) -> Self {
        Self {
            work,
            kept: Answers::new(answers),
            digests: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    /// SHA-256 of a program in hexadecimal, computed anew only when the file changed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn digest(&self, path: &Path) -> Result<String, DigestError> {
        let path = path.to_owned();
        let io = |source| DigestError::Io {
            path: path.clone(),
            source,
        };
        let metadata = tokio::fs::metadata(&path).await.map_err(io)?;
        let seen = identity(&metadata);
        if let Some(digest) = get(&self.digests, &seen) {
            return Ok(digest);
        }
        let file = path.clone();
        let hashed = tokio::task::spawn_blocking(move || hash(&file))
            .await
            .map_err(|_| DigestError::Stopping)?;
        let (identity, digest) = hashed.map_err(io)?;
        put(&self.digests, identity, digest.clone());
        Ok(digest)
    }

    /// What a program prints when it is run with `args`: standard output, then standard error, without terminal
    /// sequences. Its exit code does not matter, since some programs fail when asked for help. Asked once a day per digest; where
    /// that fails for a reason that may pass, what the same file answered before counts on, with a warning.
    ///
    /// # Errors
    /// When it cannot be run, crashes, or says nothing in time, and never said anything before.
    pub async fn probe(
        &self,
        program: &Path,
        args: &[String],
        limits: &ProbeLimits,
        cancel: &CancellationToken,
    ) -> Result<String, ProbeError> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let key = (self.digest(program).await?, args.clone());
        let now = Instant::now();
        if let Some((answer, until)) = get(&self.answers, &key)
            && now < until
        {
            return Ok(answer);
        }
        let known = self.kept.get(&key.0, &args, limits.bytes);
        let (answer, counts) = match known {
            Some((answer, age)) if age < COUNTS => (answer, COUNTS.saturating_sub(age)),
            known => match self.ask(program, args, limits, cancel).await {
                Ok(answer) => {
                    self.kept.put(&key.0, &key.1, &answer);
                    (answer, COUNTS)
                }
                Err(error) => (earlier(program, known, error)?, ASK_AGAIN),
            },
        };
        put(&self.answers, key, (answer.clone(), now + counts));
        Ok(answer)
    }

    /// What a program of this digest answered before. It is not run.
    #[must_use]
    pub fn remembered(
        &self,
        digest: &str,
        args: &[String],
        limits: &ProbeLimits,
    ) -> Option<String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let known = self.kept.get(digest, &args, limits.bytes);
        known.map(|(answer, _)| answer)
    }

    async fn ask(
        &self,
        program: &Path,
        args: Vec<OsString>,
        limits: &ProbeLimits,
        cancel: &CancellationToken,
    ) -> Result<String, ProbeError> {
        let question = || {
            args.iter()
                .map(|a| a.to_string_lossy())
                .collect::<Vec<_>>()
                .join(" ")
        };
        // Its own, so that programs that owe each other nothing do not meet there; gone with the answer.
        let dir = tempfile::Builder::new()
            .prefix("probe-")
            .tempdir_in(&self.work)
            .map_err(|source| ProbeError::Folder {
                path: self.work.clone(),
                source,
            })?;
        let place = dir.path().to_owned();
        let mut invocation = Invocation::new(
            program.to_owned(),
            args.clone(),
            place.clone(),
            limits.timeout,
        );
        invocation.sandbox = limits.sandbox.clone().map(|policy| SandboxPolicy {
            scratch: place.clone(),
            ..policy
        });
        invocation.written = vec![place];
        invocation.limits.written_bytes = WRITTEN;
        invocation.limits.file_bytes = Some(LARGEST_FILE);
        invocation.limits.memory_bytes = limits.memory_bytes;
        // One more than allowed, so that too much can be told from just enough.
        invocation.limits.tail_bytes = limits.bytes.saturating_add(8 * 1024);
        invocation.limits.tail_lines = usize::MAX;
        invocation.limits.grace = Duration::from_secs(1);
        invocation.library_dir = library_dir(program);
        let (lines, _) = mpsc::channel(1);
        let exit = run(&invocation, lines, cancel).await?;
        let program = program.to_owned();
        if exit.timed_out || exit.cancelled {
            return Err(ProbeError::TimedOut {
                program,
                question: question(),
                after: limits.timeout,
            });
        }
        if exit.stdout_tail.len() > limits.bytes || exit.stderr_tail.len() > limits.bytes {
            return Err(ProbeError::TooLong {
                program,
                question: question(),
                limit: limits.bytes,
            });
        }
        let said = exit
            .stderr_tail
            .lines()
            .next_back()
            .unwrap_or("it says nothing")
            .to_owned();
        if let Some(signal) = exit.signal {
            return Err(ProbeError::Crashed {
                program,
                question: question(),
                signal,
                said,
            });
        }
        if matches!(exit.code, Some(126 | 127)) && exit.stdout_tail.is_empty() {
            return Err(ProbeError::Broken { program, said });
        }
        let both = [exit.stdout_tail, exit.stderr_tail];
        Ok(both
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n"))
    }
}

/// What the same file answered before, where asking it anew failed and may go better another time.
fn earlier(
    program: &Path,
    known: Option<(String, Duration)>,
    error: ProbeError,
) -> Result<String, ProbeError> {
    match known {
        Some((answer, age)) if error.is_passing() => {
            tracing::warn!(
                target: "job",
                program = %program.display(),
                age_secs = age.as_secs(),
                "{error}; what it answered before counts on"
            );
            Ok(answer)
        }
        _ => Err(error),
    }
}

fn identity(metadata: &std::fs::Metadata) -> Identity {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
}

/// The digest, under the identity that the file had when it was opened.
fn hash(path: &Path) -> io::Result<(Identity, String)> {
    let mut file = File::open(path)?;
    let identity = identity(&file.metadata()?);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((identity, hex::encode(hasher.finalize()))),
            length => hasher.update(buffer.get(..length).unwrap_or_default()),
        }
    }
}

fn get<K: std::hash::Hash + Eq, V: Clone>(map: &Mutex<HashMap<K, V>>, key: &K) -> Option<V> {
    map.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(key)
        .cloned()
}

fn put<K: std::hash::Hash + Eq, V>(map: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= REMEMBERED {
        map.clear();
    }
    map.insert(key, value);
}
