//! `studio`: the embedded studio on its own, for other workers to connect to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use worker_config::{Discovery, Listen, Paths, Settings};
use worker_plugins::Serving;
use worker_studio::{Approval as Approve, Studio, StudioOptions};

use crate::cli::{Approval, Failure, Output};
use crate::compose::EngineComposer;
use crate::signals::Stop;
use crate::{assemble, local};

/// What `studio` was asked for.
pub(crate) struct Options {
    pub(crate) paths: Paths,
    pub(crate) settings: Settings,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) plugins: Option<PathBuf>,
    pub(crate) approval: Approval,
}

/// Serves until it is told to stop. It loads plugins only to compose tasks from people's words: jobs run elsewhere.
pub(crate) async fn run(options: Options, stop: Stop) -> Result<(), Failure> {
    let Options {
        paths,
        mut settings,
        listen,
        plugins,
        approval,
    } = options;
    let Some(_lock) = local::lock(&paths)? else {
        return Ok(());
    };
    if let Some(address) = listen {
        settings.listen = Listen {
            address,
            else_any_port: false,
        };
    }
    let generation = assemble::would_serve(&paths, plugins.as_deref()).await?;
    let listener = local::listen(&settings).await?;
    let url = local::url_of(&listener)?;
    let token = worker_config::local_api_token(&paths, &settings)?;
    let studio = Studio::open(StudioOptions {
        dir: paths.studio.clone(),
        token: token.clone(),
        approve: match approval {
            Approval::Automatic => Approve::Auto,
            Approval::Manual => Approve::Manual,
        },
        limits: worker_studio::Limits::default(),
        timing: worker_studio::Timing::default(),
        compose: Arc::new(EngineComposer(Serving::new(generation))),
    })
    .await?;
    let _discovery = Discovery {
        url: url.clone(),
        token,
    }
    .announce(&paths.discovery)?;
    let mut output = Output::standard();
    output.line(format_args!("studio-worker {} studio", crate::VERSION))?;
    output.line(format_args!("  studio   {url}"))?;
    output.line(format_args!("  config   {}", paths.config.display()))?;
    output.line(format_args!(
        "  workers  set api_base_url = \"{url}\" in their config.toml"
    ))?;
    let server_stop = CancellationToken::new();
    let server = tokio::spawn(worker_studio::serve(
        listener,
        studio.router(),
        server_stop.clone(),
    ));
    stop.finish.cancelled().await;
    server_stop.cancel();
    // The server bounds its own end.
    let _ = server.await;
    studio.close().await;
    Ok(())
}
