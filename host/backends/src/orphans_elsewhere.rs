//! Where processes cannot be asked for their mark, what left a program's group is not found.

use crate::marker::Mark;

pub(crate) fn end(_mark: &Mark, _group: i32) {}

pub(crate) fn end_all(_prefix: &str) -> usize {
    0
}
