//! The header of what the program wrote: sound of known length, or a refusal.

use studio_plugin::Failure;

/// Bytes of the header that the program writes: RIFF, `fmt ` of 16 bytes, the head of `data`.
pub(crate) const HEADER: u32 = 44;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Format {
    /// Samples per second.
    pub(crate) rate: u32,
    /// Samples in all.
    pub(crate) samples: u64,
}

/// Reads the header and holds it against the file's size. A program that was ended, or that streams, leaves sizes in it
/// that mean nothing; players would show hours of sound.
pub(crate) fn check(head: &[u8], size: u64) -> Result<Format, Failure> {
    let known = head.get(..4) == Some(b"RIFF")
        && head.get(8..16) == Some(b"WAVEfmt ")
        && head.get(36..40) == Some(b"data");
    let (Some(rate), Some(block), Some(data)) = (
        number(head, 24, 4),
        number(head, 32, 2),
        number(head, 40, 4),
    ) else {
        return Err(broken("it ends within its header"));
    };
    if !known || rate == 0 || block == 0 {
        return Err(broken("it has another header than espeak-ng writes"));
    }
    let held = size.saturating_sub(u64::from(HEADER));
    if u64::from(data) != held {
        return Err(broken(&format!(
            "its header tells of {data} bytes of sound, and it holds {held}"
        )));
    }
    if data == 0 {
        return Err(broken("it holds no sound"));
    }
    Ok(Format {
        rate,
        samples: held / u64::from(block),
    })
}

/// A little-endian number of 2 or 4 bytes.
fn number(head: &[u8], at: usize, bytes: usize) -> Option<u32> {
    let field = head.get(at..at + bytes)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
    )
}

fn broken(why: &str) -> Failure {
    Failure::retryable(format!(
        "the WAV that espeak-ng wrote is not whole: {why}; try again, or install another release of espeak-ng"
    ))
}
