//! What became of one delivery.

/// Answer of [`Delivery::deliver`](crate::Delivery::deliver): in every case the job's slot is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The studio has the media.
    Uploaded {
        /// Attempts that it took.
        attempts: u32,
    },
    /// The frame is on its way; the product stays in the spool until the studio acknowledges it.
    Sent,
    /// The studio will not have it. A `fail` frame was sent where the job is still this worker's.
    KeptAside {
        /// Why, in one line.
        reason: String,
    },
    /// It stays in the spool and is taken up again after the next welcome.
    Later {
        /// What came between.
        because: Interruption,
    },
}

/// Why a product stays in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The session that the job came from is over.
    SessionEnded,
    /// It was cancelled, and its frame found no room in the session's queue.
    Cancelled,
    /// A redelivery has it in hand already.
    InHand,
}
