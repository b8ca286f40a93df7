//! From no identity to an approved one.
//!
//! The worker makes an install id and a secret, saves them, asks to be registered with the secret's hash, and polls
//! with the secret itself until an operator decides. Only what is saved may be asked with: a worker that lost its
//! secret could never collect the approval.

use std::sync::Arc;

use reqwest::header::HeaderValue;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use worker_wire::{PollAnswer, RegisterAnswer, RegisterRequest, Secret, StudioAccount};

use crate::{
    Identity, RegistrationState, SessionError, SessionState,
    context::{Context, now},
    http::{CallError, call},
    text::{is_path_segment, one_line},
};

/// Characters of the operator's reason that are kept.
const REASON_CHARS: usize = 1000;

/// One registration, from the first look at the identity to an account.
pub(crate) struct Registration<'a> {
    context: &'a Context,
    identity: &'a mut Identity,
    /// When the present request was first seen pending.
    since: Option<String>,
    /// What failed last, so that the same failure is said once and not every 30 s.
    complaint: Option<String>,
}

/// What one round brought.
enum Round {
    Approved(StudioAccount),
    /// Poll at once: the studio said that the answer is there.
    Again,
    /// Nothing yet.
    Wait,
}

/// The account to connect with, registering first where there is none. `None` when told to stop.
pub(crate) async fn account(
    context: &Context,
    identity: &mut Identity,
    stop: &CancellationToken,
) -> Result<Option<Arc<StudioAccount>>, SessionError> {
    if stop.is_cancelled() {
        return Ok(None);
    }
    if let Some(account) = known(context, identity) {
        context
            .options
            .states
            .set_registration(RegistrationState::Approved);
        return Ok(Some(Arc::new(account)));
    }
    let registration = Registration {
        context,
        identity,
        since: None,
        complaint: None,
    };
    let account = stop.run_until_cancelled(registration.finish()).await;
    let Some(account) = account else {
        context.info("stopped while waiting for approval".to_owned());
        return Ok(None);
    };
    account.map(|account| Some(Arc::new(account)))
}

fn known(context: &Context, identity: &Identity) -> Option<StudioAccount> {
    Some(StudioAccount {
        base: context.options.base.clone(),
        worker_id: identity.worker_id.clone()?,
        token: identity.auth_token.clone()?,
    })
}

impl Registration<'_> {
    async fn finish(mut self) -> Result<StudioAccount, SessionError> {
        let waiting = SessionState::WaitingForApproval { since: now() };
        self.context.options.states.set_session(waiting);
        // A repeated "again" is taken at its word once per period, so that a confused studio is not hammered.
        let mut again = true;
        loop {
            let round = match self.request() {
                Some((request, secret)) => self.poll(request, secret).await?,
                None => self.ask().await?,
            };
            match round {
                Round::Approved(account) => return Ok(account),
                Round::Again if again => again = false,
                Round::Again | Round::Wait => {
                    tokio::time::sleep(self.context.options.timing.poll).await;
                    again = true;
                }
            }
        }
    }

    /// The request to poll for, when it and its secret are both there and usable.
    fn request(&self) -> Option<(String, Secret)> {
        let id = self.identity.registration_request_id.clone()?;
        let secret = self.identity.registration_secret.clone()?;
        (is_path_segment(&id) && is_sendable(&secret)).then_some((id, secret))
    }

    /// Files a request.
    async fn ask(&mut self) -> Result<Round, SessionError> {
        self.since = None;
        let (install_id, secret) = self.prepare()?;
        // Nothing may leave the machine before it is safe on disk.
        if let Err(error) = self.context.save(self.identity).await {
            self.complain(format!("cannot ask for registration: {error}"));
            return Ok(Round::Wait);
        }
        if self.complaint.is_none() {
            self.context.info(format!(
                "asking {} to register this worker",
                self.context.options.base
            ));
        }
        let mut capabilities = self.context.capabilities();
        capabilities.auto_enabled = true;
        let body = RegisterRequest {
            install_id,
            registration_secret_hash: hex::encode(Sha256::digest(secret.expose())),
            capabilities,
            user_agent: format!("studio-worker/{}", self.context.options.agent_version),
        };
        let url = self.context.options.base.http("/workers/register-request");
        let http = &self.context.options.transport.http;
        let request = http.post(url).json(&body);
        let answer = call::<RegisterAnswer>("register-request", request, &secret).await;
        match answer {
            Ok(answer) => Ok(self.asked(answer).await),
            Err(error) => {
                self.complain(error.to_string());
                Ok(Round::Wait)
            }
        }
    }

    /// Makes sure that there is an install id and a secret that go together, and no request.
    fn prepare(&mut self) -> Result<(String, Secret), SessionError> {
        let whole = self.identity.registration_request_id.is_none();
        let install_id = match &self.identity.install_id {
            Some(id) => id.clone(),
            None => new_install_id()?,
        };
        let secret = match &self.identity.registration_secret {
            // Left by a stop between saving it and getting an answer: the studio may know its hash already.
            Some(secret) if whole && self.identity.install_id.is_some() && is_sendable(secret) => {
                secret.clone()
            }
            _ => new_secret()?,
        };
        if !whole {
            self.context.warn(
                "the saved registration request cannot be polled; asking for a new one".to_owned(),
            );
        }
        *self.identity = Identity {
            install_id: Some(install_id.clone()),
            registration_secret: Some(secret.clone()),
            ..Identity::default()
        };
        Ok((install_id, secret))
    }

    async fn asked(&mut self, answer: RegisterAnswer) -> Round {
        if !is_path_segment(&answer.request_id) {
            self.complain("register-request failed: the studio gave an unusable requestId".into());
            return Round::Wait;
        }
        self.complaint = None;
        self.identity.registration_request_id = Some(answer.request_id.clone());
        self.save_or_say().await;
        let next = match answer.status.as_str() {
            "approved" => "",
            _ => "; approve this worker in the studio's dashboard",
        };
        self.context.info(format!(
            "registration request {} is {}{next}",
            answer.request_id,
            one_line(&answer.status, 40)
        ));
        self.pending(answer.request_id);
        if answer.status == "approved" {
            Round::Again
        } else {
            Round::Wait
        }
    }

    async fn poll(&mut self, request: String, secret: Secret) -> Result<Round, SessionError> {
        if self.since.is_none() {
            self.context
                .info(format!("polling registration request {request}"));
            self.pending(request.clone());
        }
        let route = format!("/workers/register-requests/{request}");
        let options = &self.context.options;
        let call = call::<PollAnswer>(
            "register-poll",
            options
                .transport
                .http
                .get(options.base.http(&route))
                .bearer_auth(secret.expose()),
            &secret,
        );
        match call.await {
            Ok(PollAnswer::Pending) => {
                tracing::debug!(request, "still waiting for approval");
                self.complaint = None;
                Ok(Round::Wait)
            }
            Ok(PollAnswer::Approved {
                worker_id,
                auth_token,
            }) => Ok(self.approved(worker_id, auth_token).await),
            Ok(PollAnswer::Rejected { reason }) => Err(self.rejected(&reason).await),
            Err(CallError::Status { status: 404, .. }) => {
                self.context.warn(format!(
                    "the studio no longer knows registration request {request}; asking again"
                ));
                self.identity.forget_request();
                self.save_or_say().await;
                self.since = None;
                self.context
                    .options
                    .states
                    .set_registration(RegistrationState::Pristine);
                Ok(Round::Wait)
            }
            Err(error) => {
                self.complain(error.to_string());
                Ok(Round::Wait)
            }
        }
    }

    async fn approved(&mut self, worker_id: String, token: Secret) -> Round {
        if !is_path_segment(&worker_id) || !is_sendable(&token) {
            self.complain("register-poll failed: the studio gave an unusable identity".to_owned());
            return Round::Wait;
        }
        self.identity.forget_request();
        self.identity.worker_id = Some(worker_id.clone());
        self.identity.auth_token = Some(token.clone());
        self.save_or_say().await;
        self.context
            .info(format!("registration approved; this worker is {worker_id}"));
        let options = &self.context.options;
        options.states.set_registration(RegistrationState::Approved);
        Round::Approved(StudioAccount {
            base: options.base.clone(),
            worker_id,
            token,
        })
    }

    async fn rejected(&mut self, reason: &str) -> SessionError {
        let reason = one_line(reason, REASON_CHARS);
        self.identity.forget_request();
        self.save_or_say().await;
        let state = RegistrationState::Rejected {
            reason: reason.clone(),
        };
        self.context.options.states.set_registration(state);
        SessionError::Rejected { reason }
    }

    fn pending(&mut self, request_id: String) {
        let since = self.since.get_or_insert_with(now).clone();
        let state = RegistrationState::Pending { request_id, since };
        self.context.options.states.set_registration(state);
    }

    /// Saves what the studio has already answered. Where that fails the session goes on from memory: the answer
    /// cannot be asked for again.
    async fn save_or_say(&self) {
        if let Err(error) = self.context.save(self.identity).await {
            self.context.error(format!(
                "{error}; going on without, so the next start will have to register again"
            ));
        }
    }

    fn complain(&mut self, text: String) {
        if self.complaint.as_ref() != Some(&text) {
            self.context.warn(format!("{text}; trying again"));
            self.complaint = Some(text);
        }
    }
}

/// Whether a secret can stand in an `Authorization` header.
fn is_sendable(secret: &Secret) -> bool {
    !secret.is_empty() && HeaderValue::from_str(secret.expose()).is_ok()
}

/// 16 random bytes in the usual grouping. Not marked as a version 4 UUID: studios know it in this form.
fn new_install_id() -> Result<String, SessionError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(SessionError::Randomness)?;
    let digits = hex::encode(bytes);
    let mut id = String::with_capacity(36);
    for (place, digit) in digits.chars().enumerate() {
        if matches!(place, 8 | 12 | 16 | 20) {
            id.push('-');
        }
        id.push(digit);
    }
    Ok(id)
}

fn new_secret() -> Result<Secret, SessionError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(SessionError::Randomness)?;
    Ok(Secret::new(hex::encode(bytes)))
}
