//! The local API's socket: the control routes always, the embedded studio's where there is one.

use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use worker_config::{DaemonLock, LockError, Paths, Settings};
use worker_studio::{Studio, guard};
use worker_wire::Secret;

use crate::cli::Failure;
use crate::control::{self, Control};
use crate::output;

/// Takes the lock of a configuration; none where another worker has it, which is said and is no failure: a service
/// manager that starts a second one must not start it again and again.
pub(crate) fn lock(paths: &Paths) -> Result<Option<DaemonLock>, Failure> {
    match DaemonLock::take(&paths.lock) {
        Ok(lock) => Ok(Some(lock)),
        Err(held @ LockError::Held { .. }) => {
            output::line(&format!("{held}; nothing to do"))?;
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}

/// Binds the socket: the asked-for address, or, where only the usual port was meant, any free one.
pub(crate) async fn listen(settings: &Settings) -> Result<TcpListener, Failure> {
    let mut address = settings.listen.address;
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error)
            if error.kind() == std::io::ErrorKind::AddrInUse && settings.listen.else_any_port =>
        {
            tracing::info!(target: "worker", port = address.port(), "the usual port is taken; any free one serves");
            address.set_port(0);
            TcpListener::bind(address)
                .await
                .map_err(|e| Failure::new(format!("cannot listen on {address}: {e}")))
        }
        Err(error) => Err(Failure::new(format!("cannot listen on {address}: {error}"))
            .with_hint("set `listen` or `local_api_port` in config.toml to a free address")),
    }
}

/// Base URL of a bound socket, as commands on this machine reach it.
pub(crate) fn url_of(listener: &TcpListener) -> Result<String, Failure> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(format!("http://{address}"))
}

/// All routes of a worker.
pub(crate) fn router(
    studio: Option<&Arc<Studio>>,
    token: &Secret,
    control: Arc<Control>,
) -> Router {
    let guarded = guard::protect(control::guarded_routes(control.clone()), token);
    let open = guard::no_browsers(control::open_routes(control));
    let own = open.merge(guarded);
    match studio {
        Some(studio) => own.merge(studio.router()),
        None => own,
    }
}
