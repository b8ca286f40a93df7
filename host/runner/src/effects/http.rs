//! Requests to hosts that the operator granted, with secrets that the host puts in.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;
use worker_egress::{Answered, Egress, Exchange, ExchangeError, Spill};
use worker_files::JobFiles;
use worker_plugins::SecretGrant;
use worker_plugins::contract::{Failure, Request, Response};

use super::Refused;
use super::perform::Tools;
use super::request::{self, Sender, Terms, not_answered};
use super::urls::on_granted_host;
use crate::journal::bare_url;

/// How long a request takes that names no time: an answer that is not there after a minute is not coming.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Sender for Egress {
    async fn send(
        &self,
        exchange: &Exchange,
        spill: Spill<'_>,
        cancel: &CancellationToken,
    ) -> Result<Answered, ExchangeError> {
        self.exchange(exchange, spill, cancel).await
    }
}

pub(super) async fn http(
    tools: &Tools<'_>,
    request: Request,
    files: &JobFiles,
) -> Result<Response, Failure> {
    let grants = tools.engine.grants();
    // An offer's URLs are for fetching only: a request could carry the job's text there.
    if !on_granted_host(&request.target, &grants.hosts) {
        return Err(Refused::ForeignHost {
            url: bare_url(&request.target).unwrap_or_else(|| "not a URL".to_owned()),
        }
        .into());
    }
    let egress = &tools.shared.egress;
    let url = egress.check(&request.target).map_err(not_answered)?;
    let plugin = &tools.engine.identity().name;
    let secret = |name: &str| {
        if !grants.secrets.iter().any(|grant| fits(grant, name, &url)) {
            return Err(Refused::ForeignSecret { name: short(name) });
        }
        let value = tools.shared.secrets.get(plugin, name);
        value
            .map(|secret| secret.expose().to_owned())
            .ok_or_else(|| Refused::MissingSecret {
                name: short(name),
                plugin: plugin.clone(),
            })
    };
    let terms = Terms {
        url: url.clone(),
        timeout: TIMEOUT,
        longest: tools.shared.settings.programs.timeout,
        inline: tools.engine.limits().memory_bytes / 4,
        largest: tools.shared.settings.files.file_bytes,
        secret: &secret,
    };
    let cancel = &tools.reservation.cancel;
    request::perform(egress.as_ref(), request, &terms, files, cancel).await
}

fn short(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_graphic)
        .take(64)
        .collect()
}

/// Whether the secret `name` may go to `url` by this grant.
fn fits(grant: &SecretGrant, name: &str, url: &Url) -> bool {
    grant.name == name && worker_egress::is_at(url, &grant.host, &grant.path_prefix)
}
