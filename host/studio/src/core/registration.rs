//! Who may be a worker here: requests, approvals, tokens.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use worker_wire::{Capabilities, ErrorCode, PollAnswer, RegisterAnswer, RegisterRequest};

use super::{Core, cut, now_ms};
use crate::options::Approval;
use crate::secrets;
use crate::store::{Change, Receipt, RequestRow, WorkerRow};

/// Window of the rate limit.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose calls are counted. Beyond it a new address waits, so that a flood of them takes no memory.
const CALLERS: usize = 4_096;

/// Decided requests that are kept for workers that poll again. More only grows the table.
const DECIDED: usize = 1_024;

/// Longest install id and other short texts of a request.
const TEXT_BYTES: usize = 128;

/// Why a register request is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegisterRefusal {
    #[error("installId must be 1 to 128 ASCII letters, digits or `-`")]
    BadInstallId,
    #[error("registrationSecretHash must be 64 lowercase hex digits")]
    BadHash,
    #[error("too many register requests; wait a minute")]
    TooMany,
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

/// What comes of a poll.
pub(crate) enum Poll {
    /// No such request.
    Unknown,
    /// The secret is not the request's.
    WrongSecret,
    /// The answer; a token is good once the receipt has come.
    Answer(PollAnswer, Option<Receipt>),
}

/// Why a request is not decided.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApprovalError {
    #[error("there is no such request")]
    Unknown,
    #[error("the request is decided already")]
    Decided,
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

impl Core {
    /// Takes a register request from `address`.
    pub(crate) fn register(
        &mut self,
        request: RegisterRequest,
        address: Option<IpAddr>,
    ) -> Result<(RegisterAnswer, Receipt), RegisterRefusal> {
        check_install_id(&request.install_id)?;
        secrets::hash_from_hex(&request.registration_secret_hash)
            .ok_or(RegisterRefusal::BadHash)?;
        let local = address.is_some_and(|address| address.to_canonical().is_loopback());
        let own = local && self.own_install.as_deref() == Some(request.install_id.as_str());
        if !own {
            self.count_call(address)?;
        }
        let from = address.map(|a| a.to_string()).unwrap_or_default();
        let existing = self.pending_of(&request.install_id, &from);
        if let Some((id, hash)) = existing {
            if hash == request.registration_secret_hash {
                return self.answer_existing(&id, &request.capabilities, own, local);
            }
            // The worker lost its secret, and could never poll for the old one.
            self.forget_request(&id);
        }
        if self.pending().len() >= self.limits.pending && !own {
            return Err(RegisterRefusal::TooMany);
        }
        let id = secrets::id("rr-").map_err(|_| RegisterRefusal::NoRandomness)?;
        let mut row = RequestRow {
            id: id.clone(),
            install_id: request.install_id,
            secret_hash: request.registration_secret_hash,
            address: from,
            capabilities: request.capabilities,
            user_agent: request.user_agent,
            created_at: now_ms(),
            worker: None,
            rejected: None,
        };
        cut(&mut row.user_agent, TEXT_BYTES);
        self.requests.insert(id.clone(), row);
        self.decide_at_once(&id, own, local)
    }

    fn answer_existing(
        &mut self,
        id: &str,
        capabilities: &Capabilities,
        own: bool,
        local: bool,
    ) -> Result<(RegisterAnswer, Receipt), RegisterRefusal> {
        if let Some(row) = self.requests.get_mut(id) {
            row.capabilities = capabilities.clone();
        }
        self.decide_at_once(id, own, local)
    }

    fn decide_at_once(
        &mut self,
        id: &str,
        own: bool,
        local: bool,
    ) -> Result<(RegisterAnswer, Receipt), RegisterRefusal> {
        let approved = match self.approve {
            Approval::Auto => local,
            Approval::OwnInstall => own,
            Approval::Manual => false,
        };
        if approved {
            self.approve(id)
                .map_err(|_| RegisterRefusal::NoRandomness)?;
        }
        let row = self
            .requests
            .get(id)
            .cloned()
            .ok_or(RegisterRefusal::NoRandomness)?;
        let receipt = self.store.commit(Change::Request(Box::new(row)));
        let status = if approved { "approved" } else { "pending" };
        Ok((
            RegisterAnswer {
                request_id: id.to_owned(),
                status: status.to_owned(),
            },
            receipt,
        ))
    }

    fn pending_of(&self, install_id: &str, address: &str) -> Option<(String, String)> {
        self.requests
            .values()
            .find(|row| {
                row.install_id == install_id
                    && row.address == address
                    && row.worker.is_none()
                    && row.rejected.is_none()
            })
            .map(|row| (row.id.clone(), row.secret_hash.clone()))
    }

    fn count_call(&mut self, address: Option<IpAddr>) -> Result<(), RegisterRefusal> {
        let address = address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        self.forget_callers();
        if self.callers.len() >= CALLERS && !self.callers.contains_key(&address) {
            return Err(RegisterRefusal::TooMany);
        }
        let limit = self.limits.register_per_minute;
        let calls = self.callers.entry(address).or_default();
        if calls.len() >= limit {
            return Err(RegisterRefusal::TooMany);
        }
        calls.push_back(Instant::now());
        Ok(())
    }

    /// Forgets calls that are older than the window.
    pub(crate) fn forget_callers(&mut self) {
        self.callers.retain(|_, calls| {
            calls.retain(|call| call.elapsed() < WINDOW);
            !calls.is_empty()
        });
    }

    /// Names the install whose requests are approved at once, and approves one that is waiting.
    pub(crate) fn set_own_install(&mut self, install_id: String) {
        let waiting: Vec<String> = self
            .requests
            .values()
            .filter(|row| row.install_id == install_id && row.worker.is_none())
            .filter(|row| row.rejected.is_none())
            .filter(|row| {
                let address: Option<IpAddr> = row.address.parse().ok();
                address.is_some_and(|address| address.to_canonical().is_loopback())
            })
            .map(|row| row.id.clone())
            .collect();
        self.own_install = Some(install_id);
        if self.approve == Approval::OwnInstall {
            for id in waiting {
                if let Err(error) = self.approve(&id) {
                    tracing::error!(%error, "the own worker could not be approved");
                }
            }
        }
    }

    /// Approves a request; its worker gets a token when it polls. An install that was approved before keeps its id.
    pub(crate) fn approve(&mut self, id: &str) -> Result<String, ApprovalError> {
        let row = self.requests.get(id).ok_or(ApprovalError::Unknown)?;
        if row.worker.is_some() || row.rejected.is_some() {
            return Err(ApprovalError::Decided);
        }
        let known = self
            .workers
            .values()
            .find(|worker| worker.install_id == row.install_id)
            .map(|worker| worker.id.clone());
        let worker = match known {
            Some(worker) => worker,
            None => secrets::id("w-").map_err(|_| ApprovalError::NoRandomness)?,
        };
        let approved = WorkerRow {
            id: worker.clone(),
            install_id: row.install_id.clone(),
            token_hash: None,
            capabilities: row.capabilities.clone(),
            approved_at: now_ms(),
        };
        self.store
            .record(Change::Worker(Box::new(approved.clone())));
        self.workers.insert(worker.clone(), approved);
        self.decide(id, |row| row.worker = Some(worker.clone()));
        Ok(worker)
    }

    /// Rejects a request.
    pub(crate) fn reject_request(
        &mut self,
        id: &str,
        mut reason: String,
    ) -> Result<(), ApprovalError> {
        let row = self.requests.get(id).ok_or(ApprovalError::Unknown)?;
        if row.worker.is_some() || row.rejected.is_some() {
            return Err(ApprovalError::Decided);
        }
        cut(&mut reason, 1_000);
        self.decide(id, |row| row.rejected = Some(reason));
        Ok(())
    }

    fn decide(&mut self, id: &str, decision: impl FnOnce(&mut RequestRow)) {
        if let Some(row) = self.requests.get_mut(id) {
            decision(row);
            self.store.record(Change::Request(Box::new(row.clone())));
        }
        self.forget_old_decisions();
    }

    fn forget_old_decisions(&mut self) {
        let mut decided: Vec<(i64, String)> = self
            .requests
            .values()
            .filter(|row| row.worker.is_some() || row.rejected.is_some())
            .map(|row| (row.created_at, row.id.clone()))
            .collect();
        let surplus = decided.len().saturating_sub(DECIDED);
        decided.sort();
        for (_, id) in decided.into_iter().take(surplus) {
            self.forget_request(&id);
        }
    }

    fn forget_request(&mut self, id: &str) {
        self.requests.remove(id);
        self.store.record(Change::NoRequest(id.to_owned()));
    }

    /// Answers a poll. Each one after the approval mints a fresh token, and only the newest is good.
    pub(crate) fn poll(&mut self, id: &str, secret: Option<&str>) -> Poll {
        let Some(row) = self.requests.get(id) else {
            return Poll::Unknown;
        };
        let known = secrets::hash_from_hex(&row.secret_hash)
            .zip(secret)
            .is_some_and(|(hash, secret)| secrets::matches(secret, &hash));
        if !known {
            return Poll::WrongSecret;
        }
        if let Some(reason) = row.rejected.clone() {
            return Poll::Answer(PollAnswer::Rejected { reason }, None);
        }
        let Some(worker_id) = row.worker.clone() else {
            return Poll::Answer(PollAnswer::Pending, None);
        };
        let (Some(worker), Ok(auth_token)) = (self.workers.get_mut(&worker_id), secrets::token())
        else {
            // Deleted since, or no randomness: the request is over, the worker files another one.
            return Poll::Unknown;
        };
        worker.token_hash = Some(hex::encode(secrets::hash(auth_token.expose())));
        let receipt = self.store.commit(Change::Worker(Box::new(worker.clone())));
        let answer = PollAnswer::Approved {
            worker_id,
            auth_token,
        };
        Poll::Answer(answer, Some(receipt))
    }

    /// Whether `token` is a worker's: `None` when there is no such worker.
    pub(crate) fn authenticate(&self, worker: &str, token: &str) -> Option<bool> {
        let row = self.workers.get(worker)?;
        let hash = row.token_hash.as_deref().and_then(secrets::hash_from_hex);
        Some(hash.is_some_and(|hash| secrets::matches(token, &hash)))
    }

    /// Removes a worker; its session ends, its job is released.
    pub(crate) fn delete_worker(&mut self, worker: &str) -> bool {
        if self.workers.remove(worker).is_none() {
            return false;
        }
        self.store.record(Change::NoWorker(worker.to_owned()));
        let requests: Vec<String> = self
            .requests
            .values()
            .filter(|row| row.worker.as_deref() == Some(worker))
            .map(|row| row.id.clone())
            .collect();
        for id in requests {
            self.forget_request(&id);
        }
        if let Some(no) = self.session_of(worker) {
            let message = "this worker was deleted".to_owned();
            self.close(no, ErrorCode::WorkerDeleted, message);
        }
        let kept: Vec<_> = self.kept_for(worker);
        for id in kept {
            self.end_reservation(&id, "its worker was deleted");
        }
        self.forget_shares(worker);
        self.dispatch();
        true
    }
}

fn check_install_id(id: &str) -> Result<(), RegisterRefusal> {
    let sound = !id.is_empty()
        && id.len() <= TEXT_BYTES
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if sound {
        Ok(())
    } else {
        Err(RegisterRefusal::BadInstallId)
    }
}
