//! The one place that makes outbound requests.
//!
//! A URL in an offer is somebody else's text, and a worker sits in somebody's private network: whoever can make it ask
//! `http://169.254.169.254/` owns the machine's cloud account. So every URL is judged here, every name is resolved here,
//! every address is judged before it is connected to, and each redirect begins anew. What bounds a request is in
//! [`Policy`]. Which hosts a job may name at all is decided where the offer is known, not here.

mod address;
mod ask;
mod client;
mod credentials;
mod data_url;
mod download;
mod error;
mod exchange;
mod policy;
mod read;
mod resolve;
mod resume;
mod sink;
mod transfer;

pub use address::{AddressRefusal, check_address};
pub use client::{ClientError, studio_client, tls_config};
pub use credentials::{BadToken, Credential, is_at};
pub use download::{DownloadCounts, Downloaded, Egress, OnProgress, Wanted};
pub use error::{DownloadError, is_transient, shown_url};
pub use exchange::{Answered, Body, Exchange, ExchangeError, HeaderSet, Spill, method};
pub use policy::{Policy, UrlRefusal, check_url};
pub use read::{Reading, Received};
