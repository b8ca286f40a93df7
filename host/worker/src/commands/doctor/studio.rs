//! The studio: whether it can be reached, and what its clock says.

use std::time::{Duration, SystemTime};

use worker_config::{IdentityFile, Paths, Settings, Studio};

use super::{Check, clock};
use crate::client::Client;

/// How long the studio may take to answer. Longer than any healthy one; a doctor is waited for.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn checks(paths: &Paths, settings: &Settings) -> Vec<Check> {
    let mut date = None;
    let mut checks = vec![worker(paths)];
    match &settings.studio {
        Studio::Embedded => {
            checks.push(Check::ok("studio", "the worker's own, inside"));
        }
        Studio::Remote(base) => {
            checks.push(match reach(&base.to_string()).await {
                Ok((status, told)) => {
                    date = told;
                    // Any answer will do: what stands at the root of a studio is its own business.
                    Check::ok("studio", format!("{base} answers (HTTP {status})"))
                }
                Err(why) => Check::failure(
                    "studio",
                    format!("{base} {why}"),
                    "check the address with `studio-worker config`, and the network; a proxy is not used",
                ),
            });
            checks.push(identity(&IdentityFile::remote(&paths.config, base)));
        }
    }
    checks.push(clock::check(SystemTime::now(), date.as_deref()));
    checks
}

fn worker(paths: &Paths) -> Check {
    match Client::find(paths) {
        Ok(Some(_)) => Check::ok("worker", "a worker runs with this configuration"),
        Ok(None) => Check::ok("worker", "no worker runs with this configuration"),
        Err(error) => Check::warning(
            "worker",
            format!("whether a worker runs cannot be told: {error}"),
            format!("remove {}", paths.discovery.display()),
        ),
    }
}

async fn reach(base: &str) -> Result<(u16, Option<String>), String> {
    let url = url::Url::parse(base).map_err(|error| error.to_string())?;
    let http = worker_egress::studio_client().map_err(|error| error.to_string())?;
    let answer = http.get(url).timeout(LIMIT).send().await.map_err(|error| {
        if error.is_timeout() {
            format!("does not answer within {} s", LIMIT.as_secs())
        } else {
            format!("cannot be reached: {}", innermost(&error))
        }
    })?;
    let date = answer.headers().get("date");
    let date = date
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    Ok((answer.status().as_u16(), date))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn identity(file: &IdentityFile) -> Check {
    match file.load() {
        Ok(stored) if stored.worker_id.is_some() => Check::ok("registration", "approved"),
        Ok(stored) if stored.registration_request_id.is_some() => Check::warning(
            "registration",
            "waits for the studio's approval",
            "approve the worker in the studio",
        ),
        Ok(_) => Check::warning(
            "registration",
            "not registered yet",
            "start the worker with `studio-worker run`; it asks by itself",
        ),
        Err(error) => Check::failure(
            "registration",
            error.to_string(),
            "mend config.toml, or forget the identity with `studio-worker register --reset`",
        ),
    }
}
