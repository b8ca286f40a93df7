//! How a command speaks: results on standard output, failures on standard error.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Why a command failed: one line for the operator, and what to do about it where that is known.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure in one line.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// The failure that an error says. Errors of this program name their cause themselves.
    pub(crate) fn from_error(error: impl fmt::Display) -> Self {
        Self::new(error.to_string())
    }

    /// Adds what to do.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_error(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", one_line(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// Says a failure on standard error. Where that is closed there is nobody to tell.
pub(crate) fn report(failure: &Failure) {
    let _ = writeln!(io::stderr(), "{failure}");
}

/// Standard output, or whatever stands for it in tests. A reader that has gone, as `head` goes, is no failure: what is
/// written after that goes nowhere.
pub(crate) struct Output<W = io::Stdout> {
    to: W,
    closed: bool,
}

impl Output {
    /// Standard output.
    pub(crate) fn standard() -> Self {
        Self::to(io::stdout())
    }
}

impl<W: Write> Output<W> {
    /// Any writer.
    pub(crate) fn to(to: W) -> Self {
        Self { to, closed: false }
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        self.tolerate(|to| writeln!(to, "{line}"))
    }

    /// Writes a value as JSON, for scripts.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(text)
    }

    fn tolerate(&mut self, write: impl FnOnce(&mut W) -> io::Result<()>) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        match write(&mut self.to).and_then(|()| self.to.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(e) => Err(Failure::new(format!(
                "cannot write to standard output: {e}"
            ))),
            Ok(()) => Ok(()),
        }
    }
}

/// Text for a terminal: control characters, which could hide what is said, become spaces.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone(usize);

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let mut output = Output::to(Gone(0));
        assert!(output.line("one").is_ok() && output.line("two").is_ok());
        assert_eq!(output.to.0, 1, "nothing is tried after the first");
    }

    #[test]
    fn a_full_disk_is_one() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Output::to(Full).line("one").is_err());
    }

    #[test]
    fn a_failure_is_one_line_and_its_hint_another() {
        let failure = Failure::new("it\nbroke\u{1b}[2J").with_hint("mend it");
        assert_eq!(failure.to_string(), "error: it broke [2J\nhint: mend it");
    }
}
