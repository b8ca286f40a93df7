//! Why a job has no product, and how that is said.

use worker_plugins::CallError;
use worker_plugins::contract::Failure;

use crate::finish::FinishError;
use crate::tally::Outcome;

/// Longest error text that goes to the studio, in bytes. Longer texts have broken dashboards.
const MAX_ERROR_TEXT: usize = 2000;

/// Why a job has no product.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error("{}", .0.message)]
    Failed(Failure),
    /// Its programs did not come, which is no plugin's fault.
    #[error("{}", .0.message)]
    Programs(Failure),
    #[error(transparent)]
    Fault(#[from] CallError),
    #[error(transparent)]
    Finish(#[from] FinishError),
    #[error("plugin `{plugin}` did not finish the job within its limit of {limit} steps")]
    TooManySteps { plugin: String, limit: u32 },
    #[error("plugin `{plugin}` asked for nothing and did not finish")]
    NothingAsked { plugin: String },
    #[error("the job's files cannot be kept: {0}")]
    Scratch(String),
    #[error("the system's randomness is not available: {0}")]
    Entropy(String),
    #[error("cancelled by the studio")]
    Cancelled,
    #[error("the worker is stopping")]
    Shutdown,
}

impl JobError {
    /// How such an end is counted.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(_) | Self::Programs(_) | Self::Finish(FinishError::Refused { .. }) => {
                Outcome::Failed
            }
            Self::Fault(_)
            | Self::Finish(
                FinishError::Fault(_) | FinishError::Unusable(_) | FinishError::Extension { .. },
            )
            | Self::TooManySteps { .. }
            | Self::NothingAsked { .. } => Outcome::Broke,
            Self::Cancelled => Outcome::Cancelled,
            Self::Scratch(_) | Self::Entropy(_) | Self::Shutdown => Outcome::Interrupted,
        }
    }

    /// Whether the studio should offer the job again.
    pub(super) fn retryable(&self) -> bool {
        match self {
            Self::Failed(failure) | Self::Programs(failure) => failure.retryable,
            Self::Fault(fault) | Self::Finish(FinishError::Fault(fault)) => {
                !fault.is_plugins_fault()
            }
            Self::Finish(FinishError::Refused { retryable, .. }) => *retryable,
            Self::Finish(FinishError::Unusable(_) | FinishError::Extension { .. })
            | Self::TooManySteps { .. }
            | Self::NothingAsked { .. } => false,
            Self::Cancelled => false,
            Self::Scratch(_) | Self::Entropy(_) | Self::Shutdown => true,
        }
    }
}

/// One line, bounded, without control characters.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if line.len() > MAX_ERROR_TEXT {
        let mut end = MAX_ERROR_TEXT;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_bounded_line() {
        let line = one_line(&format!("a\nb\t\u{1b}[31mc {}", "é".repeat(4000)));
        assert!(
            line.starts_with("a b [31mc é") && line.ends_with('…'),
            "{line}"
        );
        assert!(line.len() <= MAX_ERROR_TEXT + '…'.len_utf8());
    }
}
