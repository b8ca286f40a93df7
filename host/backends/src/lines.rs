//! Lines out of whatever a program prints.
//!
//! Programs draw progress bars with carriage returns and colours, break characters between two writes, and print binary
//! where one asked for text. What comes out here is text without control characters, in lines of bounded length. A line
//! that ends in a carriage return is one that the next replaces, as on a terminal: everybody who follows sees each state
//! of the bar, while the tail that is kept for the error holds the last state only.

use std::collections::VecDeque;

/// Longest line in bytes; a longer one is split. Larger would let a program that prints no line ends use that much memory
/// per stream; smaller splits messages that people read.
const LINE_BYTES: usize = 4096;

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A line feed, or the length limit, or the end of the stream.
    Stays,
    /// A carriage return: what is printed next stands in its place.
    Replaced,
}

/// Splits a stream of bytes at `\n` and `\r`.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    current: Vec<u8>,
    after_return: bool,
}

impl Splitter {
    /// Feeds bytes; `line` gets each line that they complete. A line feed right after a carriage return only says that
    /// the line before it stays: `line` is called with none.
    pub(crate) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(Option<String>, Ending)) {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return && self.current.is_empty() => line(None, Ending::Stays),
                b'\n' => line(Some(self.take()), Ending::Stays),
                b'\r' if self.current.is_empty() => {}
                b'\r' => line(Some(self.take()), Ending::Replaced),
                _ => {
                    self.current.push(byte);
                    if self.current.len() >= LINE_BYTES {
                        line(Some(self.take()), Ending::Stays);
                    }
                }
            }
        }
    }

    /// What stands on the unfinished line.
    pub(crate) fn partial(&self) -> Option<String> {
        (!self.current.is_empty()).then(|| clean(&self.current))
    }

    fn take(&mut self) -> String {
        clean(&std::mem::take(&mut self.current))
    }
}

/// The last lines of a stream.
#[derive(Debug)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    max_lines: usize,
    max_bytes: usize,
    replaceable: bool,
}

impl Tail {
    pub(crate) fn new(max_lines: usize, max_bytes: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            max_lines,
            max_bytes,
            replaceable: false,
        }
    }

    pub(crate) fn push(&mut self, line: Option<&str>, ending: Ending) {
        if let Some(line) = line {
            if self.replaceable
                && let Some(replaced) = self.lines.pop_back()
            {
                self.bytes -= replaced.len() + 1;
            }
            self.bytes += line.len() + 1;
            self.lines.push_back(line.to_owned());
        }
        self.replaceable = ending == Ending::Replaced;
        while self.lines.len() > self.max_lines || self.bytes > self.max_bytes {
            let Some(dropped) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= dropped.len() + 1;
        }
    }

    pub(crate) fn text(&self) -> String {
        self.lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Text without terminal sequences and control characters; what is not UTF-8 is replaced; a tab is a space.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut rest),
            '\t' => out.push(' '),
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {}
            c => out.push(c),
        }
    }
    out
}

/// Passes over what follows an escape character: `[…letter`, `]…` up to its end, or a single character.
fn skip_sequence(rest: &mut std::str::Chars<'_>) {
    match rest.next() {
        Some('[') => {
            for c in rest.by_ref() {
                if matches!(c, '\u{40}'..='\u{7e}') {
                    break;
                }
            }
        }
        Some(']') => {
            while let Some(c) = rest.next() {
                if c == '\u{7}' {
                    break;
                }
                if c == '\u{1b}' {
                    rest.next();
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> (Vec<String>, String) {
        let mut splitter = Splitter::default();
        let mut tail = Tail::new(200, 65536);
        let mut all = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line, ending| {
                tail.push(line.as_deref(), ending);
                all.extend(line);
            });
        }
        if let Some(rest) = splitter.partial() {
            tail.push(Some(&rest), Ending::Stays);
        }
        (all, tail.text())
    }

    #[test]
    fn a_progress_bar_leaves_its_last_state_in_the_tail() {
        let (all, tail) = split(&[b"load\n\r|=  | 1/3\r|== | 2/3\r|===| 3/3\ndone\n"]);
        assert_eq!(all, ["load", "|=  | 1/3", "|== | 2/3", "|===| 3/3", "done"]);
        assert_eq!(tail, "load\n|===| 3/3\ndone");
    }

    #[test]
    fn windows_line_ends_stay_even_when_split() {
        let (all, tail) = split(&[b"one\r", b"\ntwo\r\n\r\nthree"]);
        assert_eq!(all, ["one", "two"]);
        assert_eq!(tail, "one\ntwo\nthree");
    }

    #[test]
    fn blank_lines_stay() {
        assert_eq!(split(&[b"a\n\nb\n"]).1, "a\n\nb");
    }

    #[test]
    fn characters_split_between_reads_are_whole_and_others_replaced() {
        let (all, _) = split(&[b"gr\xc3", b"\xbcn \xff!\n"]);
        assert_eq!(all, ["grün \u{fffd}!"]);
    }

    #[test]
    fn terminal_sequences_are_gone() {
        let (all, _) = split(&[
            b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;u\x1b\\y\x1b(z\0\x08\n\x1b[\n\x1b\n",
        ]);
        assert_eq!(all, ["red xyz", "", ""]);
    }

    #[test]
    fn a_line_without_end_is_split_and_the_tail_bounded() {
        let long = vec![b'x'; 3 * LINE_BYTES + 5];
        let (all, _) = split(&[&long, b"\n"]);
        let lengths: Vec<usize> = all.iter().map(String::len).collect();
        assert_eq!(lengths, [LINE_BYTES, LINE_BYTES, LINE_BYTES, 5]);
        let mut tail = Tail::new(3, 10);
        for line in ["1", "2", "3", "4"] {
            tail.push(Some(line), Ending::Stays);
        }
        assert_eq!(tail.text(), "2\n3\n4");
        tail.push(Some("123456789"), Ending::Stays);
        assert_eq!(tail.text(), "123456789");
        tail.push(Some("longer than all of it"), Ending::Stays);
        assert_eq!(tail.text(), "");
    }
}
