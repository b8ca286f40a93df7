//! A job that is offered again while its product waits here.
//!
//! A studio takes a job back when a session ends, and may offer it to the same worker a moment later. What the worker made
//! then is still good: making it again would cost the time once more, and leave two products of one job.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use worker_wire::StudioLink;

use crate::delivery::Delivery;
use crate::product::Kept;
use crate::redelivery::foreign;
use crate::row::Row;

/// How often a product that is being sent is looked at. Shorter would only load the disk; longer would hold up the job.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Delivery {
    /// The product of an earlier session that waits for a job, taken over by the session that offers the job again;
    /// [`Delivery::deliver`] sends it. `None`: nothing waits, and the job has to be done.
    ///
    /// A product that is being sent at this moment is waited for, at most [`crate::Timing::slot`]. When that took it
    /// away there is nothing to deliver any more. A failure is never taken over: the studio offers the job again to have it
    /// tried again.
    pub async fn waiting_for(self: &Arc<Self>, job: &str, link: &StudioLink) -> Option<Kept> {
        let deadline = Instant::now() + self.timing.slot;
        loop {
            let kept = self.of_earlier_session(job, link).await?;
            if !self.holds.is_held(&kept.id) || Instant::now() >= deadline || link.ended() {
                return Some(kept);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
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
                });
            }
        }
        None
    }
}
