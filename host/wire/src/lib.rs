//! The studio protocol as both sides speak it: frames, capabilities, registration, URL rules, close codes.
//!
//! The session and the embedded studio are the two ends of this one module, so a change to a frame cannot reach
//! only one of them. Reading is more tolerant than writing: an unknown frame, field or word never ends a session.

mod account;
mod api_base;
mod capabilities;
mod claim;
mod codes;
mod frames;
mod link;
mod log_entry;
mod media;
mod registration;
mod updates;

pub use account::{Secret, StudioAccount};
pub use api_base::{ApiBase, ApiBaseError};
pub use capabilities::{Capabilities, PluginState, PluginUsed, ServedBy, UserPresence};
pub use claim::{Claim, ClaimError, JobId, JobIdError, MAX_NAMED_BYTES};
pub use codes::{CloseCode, ErrorCode, reject};
pub use frames::{FrameError, ServerFrame, Welcome, WorkerFrame};
pub use link::{Extension, Extensions, LinkOutlet, SessionEnded, StudioLink};
pub use log_entry::{LogEntry, LogLevel, timestamp};
pub use media::media_type_of;
pub use registration::{PollAnswer, RegisterAnswer, RegisterRequest};
pub use updates::{
    PluginStatus, PluginUpdate, UpdateError, is_digest, is_plugin_name, is_update_id,
    state as plugin_state,
};

/// Sub-protocol offered and required at the WebSocket upgrade.
pub const SUBPROTOCOL: &str = "studio-worker-v1";

/// Largest message either side accepts, in bytes. Smaller would refuse an offer that carries inline pictures;
/// larger would let one frame take that much memory before anything has looked at it.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Largest single WebSocket frame, in bytes; a message may be several.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
