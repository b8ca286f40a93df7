//! The outer loop: an account, a session, and what to do when it ends.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_wire::LogLevel;

use crate::{
    Identity, RegistrationState, SessionError, SessionOptions, SessionState, backoff, connect,
    context::Context,
    end::End,
    registration,
    serve::{Served, serve},
};

/// Registers if needed, connects, serves, and connects again, until `stop` or an end that connecting again cannot
/// mend. After `stop` the frames already queued and the waiting log lines are still sent, within
/// [`crate::Timing::close`].
pub async fn run(options: SessionOptions, stop: CancellationToken) -> Result<(), SessionError> {
    let context = Context { options };
    let outcome = supervise(&context, &stop).await;
    let state = match &outcome {
        Ok(()) => SessionState::Stopped,
        Err(SessionError::AuthFailed { reason }) => SessionState::AuthFailed {
            reason: reason.clone(),
        },
        Err(error) => SessionState::Fatal {
            reason: error.to_string(),
        },
    };
    if let Err(error) = &outcome {
        context.error(error.to_string());
    }
    context.options.states.set_session(state);
    outcome
}

/// Failures in a row, since the last welcome.
#[derive(Default)]
struct Streak {
    failures: u32,
    revocations: u32,
}

async fn supervise(context: &Context, stop: &CancellationToken) -> Result<(), SessionError> {
    let mut identity = context.options.identity.load().normalised();
    let mut streak = Streak::default();
    loop {
        let Some(account) = registration::account(context, &mut identity, stop).await? else {
            return Ok(());
        };
        context.options.states.set_session(SessionState::Connecting);
        let opened = stop.run_until_cancelled(connect::open(context, &account));
        let served = match opened.await {
            None => return Ok(()),
            Some(Ok(socket)) => serve(context, &account, socket, stop).await,
            Some(Err(end)) => Served {
                welcomed: false,
                end,
            },
        };
        if served.welcomed {
            streak = Streak::default();
        }
        let pause = match served.end {
            End::Stopped => return Ok(()),
            End::AuthFailed { reason } => return Err(SessionError::AuthFailed { reason }),
            End::Fatal { code, message } => return Err(SessionError::Fatal { code, message }),
            End::Revoked { cause } => revoked(context, &mut identity, &mut streak, &cause).await,
            End::Disconnected { cause } => reconnect(context, &mut streak, cause, None)?,
            End::Duplicate { cause } => {
                let least = context.options.timing.duplicate;
                reconnect(context, &mut streak, cause, Some(least))?
            }
        };
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return Ok(());
        }
    }
}

/// Counts a failed attempt; gives the pause before the next, at least `least`.
fn reconnect(
    context: &Context,
    streak: &mut Streak,
    cause: String,
    least: Option<Duration>,
) -> Result<Duration, SessionError> {
    let options = &context.options;
    streak.failures = streak.failures.saturating_add(1);
    if let Some(attempts) = options.reconnect_attempts
        && streak.failures > attempts.get()
    {
        context.error(format!("giving up after {attempts} reconnect attempts"));
        return Err(SessionError::ReconnectCap { attempts, cause });
    }
    let (first, cap) = (options.timing.backoff_first, options.timing.backoff_cap);
    let pause = backoff::pause(streak.failures, first, cap).max(least.unwrap_or_default());
    let attempt = streak.failures;
    let hint = if least.is_some() {
        "; is a second worker running under this identity?"
    } else {
        ""
    };
    context.warn(format!(
        "disconnected ({cause}){hint}; reconnect attempt {attempt} in {}ms",
        pause.as_millis()
    ));
    let state = SessionState::Reconnecting { attempt };
    options.states.set_session(state);
    Ok(pause)
}

/// Forgets an identity that the studio removed. The first time the new registration begins at once; a studio that
/// approves and removes in turn is slowed down like any failing one.
async fn revoked(
    context: &Context,
    identity: &mut Identity,
    streak: &mut Streak,
    cause: &str,
) -> Duration {
    context.say(
        LogLevel::Error,
        format!(
            "the studio removed this worker ({cause}); forgetting its identity and registering anew"
        ),
    );
    *identity = Identity::default();
    if let Err(error) = context.save(identity).await {
        context.error(format!("{error}; the old identity is still on disk"));
    }
    let options = &context.options;
    options.states.set_registration(RegistrationState::Pristine);
    streak.revocations = streak.revocations.saturating_add(1);
    match streak.revocations {
        1 => Duration::ZERO,
        more => backoff::pause(
            more - 1,
            options.timing.backoff_first,
            options.timing.backoff_cap,
        ),
    }
}
