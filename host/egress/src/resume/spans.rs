//! Which bytes of a file are there.

use serde::{Deserialize, Serialize};

/// Half-open ranges, in order, with gaps between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// Notes that the bytes from `start` up to `end` are there.
    pub(crate) fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // What touches the new range becomes part of it.
        let (mut low, mut high) = (start, end);
        self.0.retain(|&(from, to)| {
            let apart = to < start || from > end;
            if !apart {
                low = low.min(from);
                high = high.max(to);
            }
            apart
        });
        let at = self.0.partition_point(|&(from, _)| from < low);
        self.0.insert(at, (low, high));
    }

    /// Number of bytes that are there.
    pub(crate) fn covered(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }

    /// Number of bytes that are there from the beginning without a gap.
    pub(crate) fn prefix(&self) -> u64 {
        match self.0.first() {
            Some(&(0, to)) => to,
            _ => 0,
        }
    }

    /// The end of the last range.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, |&(_, to)| to)
    }

    /// What is missing of a file of `total` bytes, in order.
    pub(crate) fn gaps(&self, total: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = 0;
        for &(from, to) in &self.0 {
            if from > at {
                gaps.push((at, from.min(total)));
            }
            at = at.max(to);
        }
        if at < total {
            gaps.push((at, total));
        }
        gaps
    }

    /// Whether it describes part of a file of `total` bytes: read from a disk, it may say anything.
    pub(crate) fn is_valid(&self, total: u64) -> bool {
        let mut at = None;
        self.0.iter().all(|&(from, to)| {
            let fine = from < to && to <= total && at.is_none_or(|at| at < from);
            at = Some(to);
            fine
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_gaps_are_what_is_missing() {
        let mut spans = Spans::default();
        assert_eq!(spans.gaps(10), [(0, 10)]);
        for (start, end) in [(4, 6), (0, 2), (8, 9), (5, 5)] {
            spans.add(start, end);
        }
        assert_eq!((spans.covered(), spans.prefix(), spans.end()), (5, 2, 9));
        assert_eq!(spans.gaps(10), [(2, 4), (6, 8), (9, 10)]);
        spans.add(2, 4);
        assert_eq!(spans.prefix(), 6);
        spans.add(1, 10);
        assert_eq!(spans, Spans(vec![(0, 10)]));
        assert!(spans.gaps(10).is_empty());
    }

    #[test]
    fn nonsense_is_told_apart() {
        for bad in [
            vec![(0, 11)],
            vec![(2, 2)],
            vec![(3, 2)],
            vec![(0, 3), (3, 5)],
            vec![(4, 5), (0, 1)],
            vec![(0, 4), (2, 6)],
        ] {
            assert!(!Spans(bad.clone()).is_valid(10), "{bad:?}");
        }
        assert!(Spans(vec![(0, 3), (4, 10)]).is_valid(10));
        assert!(Spans::default().is_valid(0));
    }
}
