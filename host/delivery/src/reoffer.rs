//! A job that is offered again while its product waits here.
//!
//! A studio takes a job back when a session ends, and may offer it to the same worker a moment later. What the worker made
//! then is still good: making it again would cost the time once more, and leave two products of one job.

use std::sync::Arc;
use std::time::Duration;

use worker_wire::StudioLink;

use crate::delivery::Delivery;
use crate::id::EntryId;
use crate::product::Kept;
use crate::redelivery::foreign;
use crate::row::Row;

/// How often a product that is being sent is looked at. Shorter would only load the disk; longer would hold up the job.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What waits for a job that is offered again.
#[derive(Clone, Debug)]
pub enum Waiting {
    /// Nothing: the job has to be done.
    Nothing,
    /// Its product, taken over by the session that offers the job again; [`Delivery::deliver`] sends it.
    Kept(Kept),
    /// It was being sent when the job was offered again, and the studio has it now.
    Delivered,
    /// It was being sent when the job was offered again, and the studio will not have it; it is kept aside.
    Refused {
        /// Why, in one line.
        reason: String,
    },
}

impl Delivery {
    /// The product of an earlier session that waits for a job.
    ///
    /// One that is being sent at this moment is waited for, as long as the session lasts: the studio's answer to it is the
    /// answer to this job. A failure is never taken over: the studio offers the job again to have it tried again.
    pub async fn waiting_for(self: &Arc<Self>, job: &str, link: &StudioLink) -> Waiting {
        let mut sent = None;
        loop {
            let Some(kept) = self.of_earlier_session(job, link).await else {
                return match sent {
                    Some(id) => self.verdict(id).await,
                    None => Waiting::Nothing,
                };
            };
            if !self.holds.is_held(&kept.id) || link.ended() {
                return Waiting::Kept(kept);
            }
            sent = Some(kept.id);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What became of a product that somebody sent and that is not in the spool any more.
    async fn verdict(self: &Arc<Self>, id: EntryId) -> Waiting {
        let aside = self.blocking(|spool| spool.aside().list()).await;
        let entries = match aside {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                return Waiting::Refused {
                    reason: format!("what became of its product cannot be read: {error}"),
                };
            }
            None => return Waiting::Nothing,
        };
        match entries.into_iter().find(|entry| entry.id == id) {
            Some(entry) => Waiting::Refused {
                reason: entry.reason,
            },
            None => Waiting::Delivered,
        }
    }

    async fn of_earlier_session(self: &Arc<Self>, job: &str, link: &StudioLink) -> Option<Kept> {
        for id in self.earlier_entries().await {
            let Some(kept) = self.load(&id).await else {
                continue;
            };
            let row = &kept.row;
            if row.job == job
                && row.failure.is_none()
                && !self.is_of(&kept, link)
                && foreign(row, link).is_none()
            {
                // Only here and not on disk: should this session end too, the product is an earlier one's again.
                let row = Row {
                    session: link.session(),
                    process: self.spool.process.to_string(),
                    ..Row::clone(row)
                };
                return Some(Kept {
                    id,
                    row: Arc::new(row),
                    bytes: kept.bytes.clone(),
                });
            }
        }
        None
    }
}
