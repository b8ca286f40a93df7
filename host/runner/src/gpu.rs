//! The GPU as capabilities and admission have it. Its memory may become known, and the operator's threshold may change,
//! while the worker runs.

use std::sync::{Mutex, PoisonError};

/// What is known of the largest GPU, and how much of it a job may ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuMemory {
    /// As its driver calls it; none where it is not known.
    pub name: Option<String>,
    /// Its memory, in GiB; 0 where it is not known, as studios have it.
    pub total_gb: f32,
    /// The largest job to take.
    pub threshold: Threshold,
}

/// The largest job to take, in GiB of GPU memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// The operator said so: it holds whatever the GPU has.
    Set(f32),
    /// Nobody said anything: this much, and never more than the GPU has, since a studio that is told more offers jobs which
    /// can only be turned away.
    AtMost(f32),
}

impl GpuMemory {
    /// The largest job to take, in GiB.
    pub fn threshold_gb(&self) -> f32 {
        match self.threshold {
            Threshold::Set(gigabytes) => gigabytes,
            Threshold::AtMost(gigabytes) if self.total_gb > 0.0 => gigabytes.min(self.total_gb),
            Threshold::AtMost(gigabytes) => gigabytes,
        }
    }
}

/// The same, shared by everybody who goes by it.
#[derive(Debug)]
pub(crate) struct Live(Mutex<GpuMemory>);

impl Live {
    pub(crate) fn new(gpu: GpuMemory) -> Self {
        Self(Mutex::new(gpu))
    }

    pub(crate) fn now(&self) -> GpuMemory {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut GpuMemory)) -> GpuMemory {
        let mut gpu = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut gpu);
        gpu.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_threshold_is_never_more_than_the_gpu_has() {
        let gpu = |total_gb, threshold| GpuMemory {
            name: None,
            total_gb,
            threshold,
        };
        let rows = [
            (gpu(8.0, Threshold::AtMost(12.0)), 8.0),
            (gpu(24.0, Threshold::AtMost(12.0)), 12.0),
            (gpu(0.0, Threshold::AtMost(12.0)), 12.0),
            (gpu(8.0, Threshold::Set(12.0)), 12.0),
            (gpu(8.0, Threshold::Set(0.0)), 0.0),
        ];
        for (gpu, expected) in rows {
            assert_eq!(gpu.threshold_gb(), expected, "{gpu:?}");
        }
    }
}
