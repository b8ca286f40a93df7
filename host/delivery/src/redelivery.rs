//! Delivers through a new session what earlier ones left in the spool.

use std::sync::Arc;
use std::time::Duration;

use worker_wire::{Extension, StudioLink};

use crate::delivery::{Delivery, TAKEN};
use crate::event::Event;
use crate::id::EntryId;
use crate::product::Kept;
use crate::recover;
use crate::row::Row;
use crate::spool::Spool;
use crate::timing::Pauses;
use crate::upload::Answer;

/// Why a frame of an earlier session is kept aside.
const UNACKNOWLEDGED: &str = "its session ended before the studio acknowledged it, and this studio takes no results \
                              of an earlier session";

/// What an earlier session's product came to.
enum Settled {
    Yes,
    /// The studio cannot take it now; `after` is what it asked for.
    NotYet(Option<Duration>),
}

impl Delivery {
    /// Starts delivering what earlier sessions left, if a session runs.
    pub(crate) fn redeliver(self: &Arc<Self>) {
        let Some(link) = self.holds.link() else {
            return;
        };
        let (this, stop) = (Arc::clone(self), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = this.redeliver_all(&link) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Rounds over the spool, each product once a round, until none is left that the studio may take later.
    async fn redeliver_all(self: &Arc<Self>, link: &StudioLink) {
        let mut pauses = Pauses::new(self.timing);
        loop {
            let (mut open, mut asked) = (false, None);
            for id in self.earlier_entries().await {
                if link.ended() {
                    return;
                }
                if let Settled::NotYet(after) = self.redeliver_one(&id, link).await {
                    open = true;
                    asked = asked.max(after);
                }
            }
            if !open {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next(asked)) => {}
                () = link.closed() => return,
            }
        }
    }

    pub(crate) async fn earlier_entries(self: &Arc<Self>) -> Vec<EntryId> {
        match self.blocking(Spool::entries).await {
            Some(Ok(ids)) => ids,
            Some(Err(error)) => {
                self.trouble(None, &error);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    async fn redeliver_one(self: &Arc<Self>, id: &EntryId, link: &StudioLink) -> Settled {
        // Looked at before it is claimed: a product of this very session is its slot's, which must not find it in hand.
        match self.load(id).await {
            Some(kept) if !self.is_of(&kept, link) => {}
            _ => return Settled::Yes,
        }
        let Some(claim) = self.holds.claim(id) else {
            return Settled::Yes;
        };
        // Whoever had it in hand before may have delivered it.
        let Some(kept) = self.load(id).await else {
            return Settled::Yes;
        };
        let row = &kept.row;
        if let Some(reason) = foreign(row, link) {
            self.to_aside(&kept, reason).await;
            return Settled::Yes;
        }
        if row.media.is_some() {
            return self.upload_once(&kept, link).await;
        }
        if link.speaks(Extension::Resume) {
            // Ended: the next welcome finds it.
            let _ = self.send_frame(&claim, &kept, link, true).await;
        } else {
            self.to_aside(&kept, UNACKNOWLEDGED.to_owned()).await;
        }
        Settled::Yes
    }

    /// One attempt for media of an earlier session. No frame is ever sent for it: the job may be another worker's.
    async fn upload_once(&self, kept: &Kept, link: &StudioLink) -> Settled {
        let job = || kept.row.job.clone();
        match self.post(kept, link).await {
            Answer::Done => {
                self.remove(kept).await;
                self.say(Event::Uploaded {
                    job: job(),
                    attempts: 1,
                    earlier: true,
                });
            }
            Answer::Taken => {
                self.to_aside(kept, TAKEN.to_owned()).await;
            }
            Answer::Refused { text } => {
                self.to_aside(kept, text).await;
            }
            Answer::Again { text, after } => {
                self.say(Event::Retrying {
                    job: job(),
                    cause: text,
                    pause: after,
                });
                return Settled::NotYet(after);
            }
        }
        Settled::Yes
    }

    pub(crate) async fn load(self: &Arc<Self>, id: &EntryId) -> Option<Kept> {
        let wanted = id.clone();
        match self.blocking(move |spool| spool.load(&wanted)).await? {
            Ok(kept) => kept,
            Err(error) => {
                self.trouble(None, &error);
                let id = id.clone();
                if recover::is_spoiled(&error)
                    && let Some(Err(error)) = self
                        .blocking(move |spool| {
                            recover::set_spoiled_aside(spool, &id, "its row cannot be read")
                        })
                        .await
                {
                    self.trouble(None, &error);
                }
                None
            }
        }
    }
}

/// Why a product cannot go through this link at all.
pub(crate) fn foreign(row: &Row, link: &StudioLink) -> Option<String> {
    let account = link.account();
    let base = account.base.to_string();
    if row.studio != base {
        Some(format!(
            "it was made for {}, and the worker now serves {base}",
            row.studio
        ))
    } else if row.worker_id != account.worker_id {
        Some(format!(
            "it was made by worker {}, and this worker is now {}",
            row.worker_id, account.worker_id
        ))
    } else {
        None
    }
}
