//! Sends products, in the session they came from and after a later welcome.

use std::fmt;
use std::sync::Arc;

use reqwest::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_wire::{StudioLink, WorkerFrame};

use crate::disk::DiskError;
use crate::event::{Event, Events};
use crate::holds::{Claim, Holds};
use crate::outcome::{Delivered, Interruption};
use crate::product::Kept;
use crate::row::Row;
use crate::spool::Spool;
use crate::timing::{Pauses, Timing};
use crate::upload::{self, Answer};

/// Why media is kept aside after a 409.
pub(crate) const TAKEN: &str =
    "the studio answered 409: another worker owns the job now, or it has a result already";

/// Why media is kept aside when its job is cancelled while the studio does not take it.
const CANCELLED: &str = "cancelled before the studio had the result";

/// Delivers what is in a spool. One per worker; shared by the runner and the session.
pub struct Delivery {
    pub(crate) spool: Spool,
    http: Client,
    events: Events,
    pub(crate) timing: Timing,
    pub(crate) holds: Arc<Holds>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("spool", &self.spool)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// Delivery with the waits of [`Timing::default`]. `http` must not follow redirects, which would take the
    /// bearer along, and should have a limit on connecting.
    pub fn new(spool: Spool, http: Client, events: Events) -> Arc<Self> {
        Self::with_timing(spool, http, events, Timing::default())
    }

    /// Delivery with other waits.
    pub fn with_timing(spool: Spool, http: Client, events: Events, timing: Timing) -> Arc<Self> {
        Arc::new(Self {
            spool,
            http,
            events,
            timing,
            holds: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The spool, to keep products in.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Delivers a job's product in the session that the job was accepted in, and returns as soon as its slot can be
    /// freed: for media, when the studio's answer is in. Retrying goes on while the session lives, at most
    /// [`Timing::slot`] long, and ends soon after `cancel`: media is then kept aside and the job failed. A frame is sent
    /// even then, since what a cancelled job has to say is that it failed. At most one result or `fail` is sent.
    pub async fn deliver(
        self: &Arc<Self>,
        kept: Kept,
        link: &StudioLink,
        cancel: &CancellationToken,
    ) -> Delivered {
        let Some(claim) = self.holds.claim(&kept.id) else {
            return Delivered::Later {
                because: Interruption::InHand,
            };
        };
        // A product of another session is not this one's to send.
        let own = self.is_of(&kept, link);
        let delivered = if link.ended() || !own {
            Delivered::Later {
                because: Interruption::SessionEnded,
            }
        } else if kept.row.media.is_some() {
            self.upload(&kept, link, cancel).await
        } else {
            self.send(&claim, &kept, link, cancel).await
        };
        drop(claim);
        if let Delivered::Later { because } = &delivered {
            self.say(Event::Later {
                job: kept.row.job.clone(),
            });
            if *because == Interruption::SessionEnded {
                // The next session may have been welcomed before this product was let go of.
                self.redeliver();
            }
        }
        delivered
    }

    /// Takes a product out of the spool without delivering it, for a job that was cancelled meanwhile.
    pub async fn keep_aside(self: &Arc<Self>, kept: &Kept, reason: &str) -> Delivered {
        self.to_aside(kept, reason.to_owned()).await
    }

    /// A session was welcomed: what earlier ones left in the spool is delivered through it.
    pub fn welcomed(self: &Arc<Self>, link: StudioLink) {
        self.holds.began(link);
        self.redeliver();
    }

    /// The studio has a JSON result.
    pub fn complete_ack(self: &Arc<Self>, job: &str) {
        self.acknowledged(job, false);
    }

    /// The studio has a failure.
    pub fn fail_ack(self: &Arc<Self>, job: &str) {
        self.acknowledged(job, true);
    }

    /// The session is over; what was not acknowledged waits for the next.
    pub fn session_ended(&self) {
        self.holds.ended();
    }

    /// Ends what runs in the background and waits for it. Everything undelivered is in the spool.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether a product is of a job that was accepted in this link's session.
    pub(crate) fn is_of(&self, kept: &Kept, link: &StudioLink) -> bool {
        kept.row.process == *self.spool.process && kept.row.session == link.session()
    }

    async fn upload(
        &self,
        kept: &Kept,
        link: &StudioLink,
        cancel: &CancellationToken,
    ) -> Delivered {
        let deadline = Instant::now() + self.timing.slot;
        let mut pauses = Pauses::new(self.timing);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let posting = self.post(kept, link);
            let Some(answer) = self.heeding(cancel, posting).await else {
                return self.cancelled(kept, link, cancel).await;
            };
            let (text, after) = match answer {
                Answer::Done => {
                    self.remove(kept).await;
                    self.say(Event::Uploaded {
                        job: kept.row.job.clone(),
                        attempts,
                        earlier: false,
                    });
                    return Delivered::Uploaded { attempts };
                }
                Answer::Taken if attempts == 1 => {
                    return self.give_up(kept, link, cancel, TAKEN.to_owned()).await;
                }
                // An earlier attempt may have got through and its answer lost: then the studio has the result, and a failure
                // would be a lie about it.
                Answer::Taken => return self.to_aside(kept, TAKEN.to_owned()).await,
                Answer::Refused { text } => return self.give_up(kept, link, cancel, text).await,
                Answer::Again { text, after } => (text, after),
            };
            if link.ended() {
                return later(Interruption::SessionEnded);
            }
            let pause = pauses.next(after);
            if Instant::now() + pause > deadline {
                return self.give_up(kept, link, cancel, text).await;
            }
            self.say(Event::Retrying {
                job: kept.row.job.clone(),
                cause: text,
                pause: Some(pause),
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = link.closed() => return later(Interruption::SessionEnded),
                () = cancel.cancelled() => {
                    return self.cancelled(kept, link, cancel).await;
                }
            }
        }
    }

    /// Media whose upload was cancelled; of a session that is over, the next one may still take it.
    async fn cancelled(
        &self,
        kept: &Kept,
        link: &StudioLink,
        cancel: &CancellationToken,
    ) -> Delivered {
        if link.ended() {
            return later(Interruption::SessionEnded);
        }
        let reason = CANCELLED.to_owned();
        self.give_up(kept, link, cancel, reason).await
    }

    /// What comes of something, unless it was cancelled and has used up its last words.
    async fn heeding<F: Future>(&self, cancel: &CancellationToken, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = async {
                cancel.cancelled().await;
                tokio::time::sleep(self.timing.last_words).await;
            } => None,
        }
    }

    /// Keeps media aside and tells the studio that this job came to nothing here. On disk first: the frame makes the
    /// studio offer the job again.
    async fn give_up(
        &self,
        kept: &Kept,
        link: &StudioLink,
        cancel: &CancellationToken,
        text: String,
    ) -> Delivered {
        let delivered = self.to_aside(kept, text.clone()).await;
        let frame = WorkerFrame::Fail {
            job_id: kept.row.job.clone(),
            error: text,
            retryable: true,
        };
        // Ended: the studio releases the job by itself.
        let _ = self.heeding(cancel, link.send(frame)).await;
        delivered
    }

    async fn send(
        &self,
        claim: &Claim,
        kept: &Kept,
        link: &StudioLink,
        cancel: &CancellationToken,
    ) -> Delivered {
        // A job that was cancelled fails of it, and that is what is being sent: room in the queue is waited for.
        match self
            .heeding(cancel, self.send_frame(claim, kept, link, false))
            .await
        {
            Some(Ok(())) => Delivered::Sent,
            Some(Err(because)) => later(because),
            None => {
                claim.unsent();
                later(Interruption::Cancelled)
            }
        }
    }

    pub(crate) async fn send_frame(
        &self,
        claim: &Claim,
        kept: &Kept,
        link: &StudioLink,
        earlier: bool,
    ) -> Result<(), Interruption> {
        let Some(frame) = frame(&kept.row) else {
            return Err(Interruption::SessionEnded);
        };
        let failure = kept.row.failure.is_some();
        claim.awaits(&kept.row.job, failure);
        if link.send(frame).await.is_err() {
            claim.unsent();
            return Err(Interruption::SessionEnded);
        }
        self.say(Event::Sent {
            job: kept.row.job.clone(),
            failure,
            earlier,
        });
        Ok(())
    }

    pub(crate) async fn post(&self, kept: &Kept, link: &StudioLink) -> Answer {
        let file = self.spool.media(&kept.id);
        upload::post(&self.http, link.account(), kept, &file, &self.timing).await
    }

    fn acknowledged(self: &Arc<Self>, job: &str, failure: bool) {
        let Some(id) = self.holds.acknowledged(job, failure) else {
            tracing::debug!(
                job,
                "an acknowledgement of nothing that was sent in this session"
            );
            return;
        };
        self.say(Event::Acknowledged {
            job: job.to_owned(),
        });
        let (this, job) = (Arc::clone(self), job.to_owned());
        self.tasks.spawn_blocking(move || {
            if let Err(error) = this.spool.remove(&id) {
                this.trouble(Some(&job), &error);
            }
            this.holds.gone(&id);
        });
    }

    pub(crate) async fn remove(&self, kept: &Kept) {
        let id = kept.id.clone();
        if let Some(Err(error)) = self.blocking(move |spool| spool.remove(&id)).await {
            self.trouble(Some(&kept.row.job), &error);
        }
    }

    pub(crate) async fn to_aside(&self, kept: &Kept, reason: String) -> Delivered {
        let (moving, why) = (kept.clone(), reason.clone());
        match self
            .blocking(move |spool| spool.set_aside(&moving, &why))
            .await
        {
            Some(Ok(dropped)) => {
                self.say(Event::KeptAside {
                    job: kept.row.job.clone(),
                    reason: reason.clone(),
                });
                dropped.into_iter().for_each(|event| self.say(event));
            }
            Some(Err(error)) => self.trouble(Some(&kept.row.job), &error),
            None => {}
        }
        Delivered::KeptAside { reason }
    }

    /// File work off the threads that serve the network; `None` only while the runtime shuts down.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let spool = self.spool.clone();
        tokio::task::spawn_blocking(move || work(&spool)).await.ok()
    }

    pub(crate) fn trouble(&self, job: Option<&str>, error: &DiskError) {
        self.say(Event::Trouble {
            job: job.map(str::to_owned),
            what: error.to_string(),
        });
    }

    pub(crate) fn say(&self, event: Event) {
        (self.events)(event);
    }
}

fn later(because: Interruption) -> Delivered {
    Delivered::Later { because }
}

/// The frame of a product that is no media.
fn frame(row: &Row) -> Option<WorkerFrame> {
    let job_id = row.job.clone();
    if let Some(failure) = &row.failure {
        return Some(WorkerFrame::Fail {
            job_id,
            error: failure.message.clone(),
            retryable: failure.retryable,
        });
    }
    let json = row.json.as_ref()?;
    Some(WorkerFrame::CompleteJson {
        job_id,
        result: json.clone(),
        prompt: row.prompt.clone(),
    })
}
