//! Probation: what a new version's first jobs say about it.

use std::collections::VecDeque;

/// Jobs that a new version has to do before it is trusted. More keeps the way back open longer; fewer trusts sooner.
pub(crate) const JOBS: u32 = 10;
/// The same when too few journals could be replayed through it beforehand.
pub(crate) const JOBS_UNSHADOWED: u32 = 20;
/// Failures below which a rate says nothing.
const MIN_FAILURES: u32 = 2;
/// By how much the share of failed jobs may exceed the version before it.
const JUMP: f64 = 0.4;
/// Jobs that a version's own rate is taken over.
const REMEMBERED: usize = 20;

/// How jobs of a trusted version went of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Whether it failed, and by which programs.
    jobs: VecDeque<(bool, Vec<(String, String)>)>,
}

impl Record {
    /// Adds a job.
    pub(crate) fn add(&mut self, failed: bool, programs: &[(String, String)]) {
        self.jobs.push_back((failed, programs.to_vec()));
        if self.jobs.len() > REMEMBERED {
            self.jobs.pop_front();
        }
    }

    /// The share of failed jobs among those with these programs; 0 where there was none.
    fn rate(&self, programs: &[(String, String)]) -> f64 {
        let same: Vec<bool> = self
            .jobs
            .iter()
            .filter(|(_, used)| used == programs)
            .map(|(failed, _)| *failed)
            .collect();
        match same.len() {
            0 => 0.0,
            count => same.iter().filter(|failed| **failed).count() as f64 / count as f64,
        }
    }
}

/// A version on probation.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    /// Jobs left.
    pub(crate) left: u32,
    before: Record,
    /// The programs that it began with: what fails after a program was replaced is held against the program.
    programs: Option<Vec<(String, String)>>,
    jobs: u32,
    failures: u32,
}

/// What a job says of a version on probation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It goes on.
    GoOn,
    /// It is trusted from now on.
    Passed,
    /// It fails more than the version before.
    Worse(String),
}

impl Trial {
    pub(crate) fn new(left: u32, before: Record) -> Self {
        Self {
            left,
            before,
            programs: None,
            jobs: 0,
            failures: 0,
        }
    }

    /// A job that ended by an answer of the plugin's.
    pub(crate) fn job(&mut self, failed: bool, programs: &[(String, String)]) -> Word {
        let began = self.programs.get_or_insert_with(|| programs.to_vec());
        if began.as_slice() == programs {
            self.jobs += 1;
            self.failures += u32::from(failed);
            let before = self.before.rate(programs);
            let now = f64::from(self.failures) / f64::from(self.jobs);
            if failed && self.failures >= MIN_FAILURES && now > before + JUMP {
                return Word::Worse(format!(
                    "{} of its first {} jobs failed, where {:.0} % did before",
                    self.failures,
                    self.jobs,
                    before * 100.0
                ));
            }
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            Word::Passed
        } else {
            Word::GoOn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(digest: &str) -> Vec<(String, String)> {
        vec![("program".to_owned(), digest.to_owned())]
    }

    #[test]
    fn failing_more_than_before_is_worse() {
        let mut before = Record::default();
        (0..10).for_each(|_| before.add(false, &programs("a")));
        let mut trial = Trial::new(JOBS, before);
        assert_eq!(trial.job(true, &programs("a")), Word::GoOn, "one is none");
        assert!(matches!(trial.job(true, &programs("a")), Word::Worse(_)));
    }

    #[test]
    fn failing_as_much_as_before_is_no_worse() {
        let mut before = Record::default();
        (0..10).for_each(|_| before.add(true, &programs("a")));
        let mut trial = Trial::new(3, before);
        assert_eq!(trial.job(true, &programs("a")), Word::GoOn);
        assert_eq!(trial.job(true, &programs("a")), Word::GoOn);
        assert_eq!(trial.job(true, &programs("a")), Word::Passed);
    }

    #[test]
    fn a_replaced_program_is_not_held_against_the_plugin() {
        let mut trial = Trial::new(JOBS, Record::default());
        assert_eq!(trial.job(false, &programs("a")), Word::GoOn);
        for _ in 0..5 {
            assert_eq!(trial.job(true, &programs("b")), Word::GoOn);
        }
    }
}
