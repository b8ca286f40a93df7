//! One session, from the upgrade to the close.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use tokio::time;
use tokio_util::sync::CancellationToken;
use worker_wire::{Capabilities, Extensions, LinkOutlet, StudioAccount, StudioLink, Welcome};

use crate::{
    SessionState, connect::Socket, context::Context, end::End, incoming::Incoming, offers::Offers,
    text::one_line, writer::Writer,
};

/// Sessions of this process so far. Links carry the number, so that nothing of an earlier session can be taken for
/// this one's.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// A session that is over.
pub(crate) struct Served {
    /// Whether the studio welcomed it.
    pub(crate) welcomed: bool,
    pub(crate) end: End,
}

/// Serves one socket: `hello`, the gate, then reading, writing and deciding side by side, and the close.
pub(crate) async fn serve(
    context: &Context,
    account: &Arc<StudioAccount>,
    socket: Socket,
    stop: &CancellationToken,
) -> Served {
    let (sink, stream) = socket.split();
    let mut incoming = Incoming::new(context, &account.token, stream);
    let mut writer = Writer::new(context, sink);
    let entered = stop.run_until_cancelled(enter(context, account, &mut incoming, &mut writer));
    let served = match entered.await {
        None => Served {
            welcomed: false,
            end: End::Stopped,
        },
        Some(Err(end)) => Served {
            welcomed: false,
            end,
        },
        Some(Ok(welcome)) => Served {
            welcomed: true,
            end: opened(context, account, &welcome, &mut incoming, &mut writer, stop).await,
        },
    };
    let timing = &context.options.timing;
    let goodbye = async {
        if matches!(served.end, End::Stopped) && served.welcomed {
            writer.flush_everything().await?;
        }
        writer
            .close(served.end.close_reason(served.welcomed))
            .await?;
        if served.end.is_said_by_worker() {
            // The other side's close shows that it has read what was sent.
            let _ = time::timeout(timing.linger, incoming.drain()).await;
        }
        Ok::<_, End>(())
    };
    match time::timeout(timing.close, goodbye).await {
        Ok(Ok(())) => {}
        Ok(Err(end)) => tracing::debug!(?end, "the session ended without a close"),
        Err(_) => tracing::debug!("the session's close was not taken in time"),
    }
    served
}

/// Says `hello` and waits at the gate.
async fn enter(
    context: &Context,
    account: &StudioAccount,
    incoming: &mut Incoming<'_>,
    writer: &mut Writer<'_>,
) -> Result<Welcome, End> {
    let capabilities = context.capabilities();
    context.info(advertisement(&capabilities));
    if capabilities.vram_total_gb > 0.0
        && capabilities.vram_threshold_gb > capabilities.vram_total_gb
    {
        context.warn(format!(
            "the memory threshold of {:.1} GB is more than the {:.1} GB that this machine has; \
             lower it with `studio-worker set-threshold`",
            capabilities.vram_threshold_gb, capabilities.vram_total_gb
        ));
    }
    if capabilities.only_when_idle && capabilities.user_presence.is_none() {
        context.warn(
            "`only_when_idle` is true, but this worker does not measure whether somebody uses the computer: a studio that \
             honours the setting offers it nothing; set it to false"
                .to_owned(),
        );
    }
    if let Err(end) = writer.hello(account.token.clone(), capabilities).await {
        return Err(last_word(incoming.welcome(), context.options.timing.linger, end).await);
    }
    incoming.welcome().await
}

/// Serves a welcomed session until it ends.
async fn opened(
    context: &Context,
    account: &Arc<StudioAccount>,
    welcome: &Welcome,
    incoming: &mut Incoming<'_>,
    writer: &mut Writer<'_>,
    stop: &CancellationToken,
) -> End {
    let options = &context.options;
    let extensions = Extensions::from_wire(&welcome.extensions);
    let number = SESSIONS.fetch_add(1, Ordering::Relaxed) + 1;
    let (link, outlet) = StudioLink::open(account.clone(), extensions, number);
    context.info(format!(
        "server welcomed {}",
        one_line(&welcome.worker_id, 100)
    ));
    options.states.set_session(SessionState::Connected);
    let mut open = Open {
        outlet,
        _ended: Ended { context },
    };
    options.worker.welcomed(link.clone());
    let (offers, queue) = Offers::new(context, link);
    let end = tokio::select! {
        // In this order, so that nothing new is begun after a stop, and the studio's word comes before a failed write.
        biased;
        () = stop.cancelled() => End::Stopped,
        end = incoming.serve(&offers) => end,
        end = offers.decide(queue) => end,
        end = writer.serve(&mut open.outlet) => {
            let reading = async { Err::<(), _>(incoming.serve(&offers).await) };
            last_word(reading, options.timing.linger, end).await
        }
    };
    if matches!(end, End::Stopped) {
        writer.take_rest(&mut open.outlet);
    }
    end
}

/// After a write failed: what the studio said before it hung up explains more than the failure does.
async fn last_word<T>(
    reading: impl Future<Output = Result<T, End>>,
    limit: Duration,
    failure: End,
) -> End {
    match time::timeout(limit, reading).await {
        Ok(Err(said)) if !matches!(said, End::Disconnected { .. }) => said,
        _ => failure,
    }
}

/// An open session as the worker sees it. The fields go in this order: the link ends, then the worker hears of it,
/// also when the whole session is dropped.
struct Open<'a> {
    outlet: LinkOutlet,
    _ended: Ended<'a>,
}

struct Ended<'a> {
    context: &'a Context,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.context.options.worker.ended();
    }
}

fn advertisement(capabilities: &Capabilities) -> String {
    format!(
        "advertising engine={}, vram={:.1}/{:.1}GB threshold, auto_enabled={}, kinds={:?}, engines={:?}, {} model(s)={:?}",
        capabilities.engine,
        capabilities.vram_total_gb,
        capabilities.vram_threshold_gb,
        capabilities.auto_enabled,
        capabilities.task_kinds,
        capabilities.model_engines,
        capabilities.supported_models.len(),
        capabilities.supported_models,
    )
}
