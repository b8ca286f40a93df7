//! The worker's end of the studio protocol: registration, the WebSocket, heartbeats, reconnects.
//!
//! [`run`] is the whole of it: it registers when there is no identity yet, connects, serves, and connects again until
//! it is told to stop or the studio says something that only an operator can mend. It knows no job: what an offer means
//! and whether it is taken is the business of the [`WorkerSide`] behind it.
//!
//! Nothing is spawned. A session is three futures (reading, writing, deciding about offers) polled by one task, so when
//! `run` returns or is dropped, nothing of it is left. Every wait on the network has a limit, all of them in
//! [`Timing`]. What a studio sends is bounded before it is read, and nothing it says can end the process except the four
//! cases in [`SessionError`].

mod backoff;
mod connect;
mod context;
mod end;
mod errors;
mod http;
mod identity;
mod incoming;
mod logs;
mod offers;
mod options;
mod registration;
mod run;
mod serve;
mod states;
mod text;
mod worker_side;
mod writer;

pub use errors::{SaveError, SessionError, TransportError};
pub use http::Transport;
pub use identity::{Identity, IdentityStore};
pub use logs::{LOG_LINE_BYTES, LOG_QUEUE_LINES, LogShipper};
pub use options::{SessionOptions, Timing};
pub use run::run;
pub use states::{HeartbeatMark, RegistrationState, SessionState, States};
pub use worker_side::{Answer, BoxFuture, WorkerSide};
