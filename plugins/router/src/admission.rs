//! Whether a job fits the memory there is. Measured before the job is accepted: a job that was
//! taken and then ran out of memory has cost one of its attempts.

use studio_plugin::{Rejection, WorkerState};

use crate::offer::Offer;

/// Device memory left to the desktop and the driver. Less, and a model that just fits fails while
/// it computes; more, and small cards are refused what they can do.
const DEVICE_RESERVE_GIB: f32 = 1.0;

/// Main memory left to everything else. Less has taken whole desktops down.
const HOST_RESERVE_GIB: f32 = 4.0;

const BYTES_PER_GIB: f32 = 1_073_741_824.0;

/// What cannot be measured is no reason to refuse.
pub(crate) fn check(offer: &Offer, engine: &str, worker: &WorkerState) -> Result<(), Rejection> {
    let refused = |reason: String| Err(Rejection::new("insufficient_memory", reason));
    // A job that asks for no device memory fits any card, however full.
    let needed = offer.vram_gb.unwrap_or(0.0);
    if needed > worker.vram_threshold_gb {
        return refused(format!(
            "insufficient device memory: needs {} GiB, the operator allows {} GiB",
            decimals(needed),
            decimals(worker.vram_threshold_gb)
        ));
    }
    if let Some(free) = worker.device_free_gb
        && needed > 0.0
        && needed > free - DEVICE_RESERVE_GIB
        && !can_be_freed(offer, engine, worker)
    {
        return refused(format!(
            "insufficient device memory: needs {} GiB, {} GiB free ({} GiB kept in reserve)",
            decimals(needed),
            decimals(free),
            decimals(DEVICE_RESERVE_GIB)
        ));
    }
    if let (Some(bytes), Some(available)) = (offer.host_bytes, worker.host_available_gb) {
        let needed = gib(bytes);
        if needed > available - HOST_RESERVE_GIB {
            return refused(format!(
                "insufficient host memory: needs {} GiB, {} GiB available ({} GiB kept in reserve)",
                decimals(needed),
                decimals(available),
                decimals(HOST_RESERVE_GIB)
            ));
        }
    }
    Ok(())
}

/// Whether what is in use may be this very model, or a server that the host ends to make room:
/// in both cases the measured figure says too little.
fn can_be_freed(offer: &Offer, engine: &str, worker: &WorkerState) -> bool {
    let is_warm = worker
        .warm
        .iter()
        .any(|(plugin, model)| plugin == engine && *model == offer.model);
    let total_suffices = offer.vram_gb.unwrap_or(0.0) <= worker.vram_total_gb - DEVICE_RESERVE_GIB;
    is_warm || (!worker.warm.is_empty() && total_suffices)
}

/// Two decimals, as the historic texts have them. By hand, because the general formatting of
/// floats would be a tenth of this component.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are positive, and beyond the range the largest number is as good"
)]
fn decimals(gib: f32) -> String {
    let hundredths = (f64::from(gib.max(0.0)) * 100.0).round_ties_even() as u64;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "compared with a figure of two decimals"
)]
fn gib(bytes: u64) -> f32 {
    bytes as f32 / BYTES_PER_GIB
}

#[cfg(test)]
mod tests {
    use super::decimals;

    #[test]
    fn figures_are_formatted_as_by_the_general_way() {
        for number in 0..200_000 {
            let gib = number as f32 / 777.0;
            assert_eq!(decimals(gib), format!("{gib:.2}"));
        }
        assert_eq!(decimals(f32::NAN), "0.00");
    }
}
