//! WAV: parsed whole, its sound kept, everything said about it replaced by the record.

use studio_plugin::Failure;

use crate::broken;
use crate::provenance::Record;
use crate::riff::{Chunk, Chunks, Writer, write};

/// What the format chunk says.
struct Format {
    channels: u16,
    rate: u32,
    block: u16,
}

/// The same sound without the program's words, with the record; what follows the end is cut off.
pub(crate) fn rewrite(wav: &[u8], record: &Record) -> Result<Vec<u8>, Failure> {
    let mut out = Writer::new(b"WAVE", wav.len() + 4096);
    let mut format = None;
    let mut sound = false;
    for chunk in Chunks::of_file("wav", wav, b"WAVE")? {
        let Chunk { name, content } = chunk?;
        match &name {
            b"fmt " if format.is_none() => format = Some(Format::read(content)?),
            b"data" if !sound => {
                let format = format
                    .as_ref()
                    .ok_or_else(|| broken("wav", "its data comes before its format"))?;
                format.check(content)?;
                sound = true;
            }
            b"fmt " | b"data" => return Err(broken("wav", "it has a second format or data chunk")),
            // How many samples a compressed one has.
            b"fact" => {}
            _ => continue,
        }
        out.chunk(name, content);
    }
    if !sound {
        return Err(broken("wav", "it has no data"));
    }
    out.chunk(*b"LIST", &info(record));
    Ok(out.finish())
}

impl Format {
    fn read(content: &[u8]) -> Result<Self, Failure> {
        let short = |at: usize| {
            content
                .get(at..at + 2)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u16::from_le_bytes)
        };
        let long = |at: usize| {
            content
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u32::from_le_bytes)
        };
        let read = || {
            Some(Self {
                channels: short(2)?,
                rate: long(4)?,
                block: short(12)?,
            })
        };
        match read() {
            Some(format)
                if content.len() >= 16
                    && format.channels > 0
                    && format.rate > 0
                    && format.block > 0 =>
            {
                Ok(format)
            }
            _ => Err(broken("wav", "its format is not valid")),
        }
    }

    fn check(&self, data: &[u8]) -> Result<(), Failure> {
        if data.is_empty() {
            return Err(broken("wav", "it holds no sound"));
        }
        if !data.len().is_multiple_of(usize::from(self.block)) {
            return Err(broken(
                "wav",
                format!(
                    "its {} bytes of sound are no whole number of {}-byte samples",
                    data.len(),
                    self.block
                ),
            ));
        }
        Ok(())
    }
}

/// The list of words that players show: the program, and everything else as a comment.
fn info(record: &Record) -> Vec<u8> {
    let mut list = b"INFO".to_vec();
    for (name, text) in [(*b"ISFT", record.software()), (*b"ICMT", record.line())] {
        let mut content = text.into_bytes();
        content.push(0);
        write(&mut list, name, &content);
    }
    list
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::contains;

    /// A hundred samples, written by another library.
    pub(crate) fn wav() -> Vec<u8> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 22_050,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut out = std::io::Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut out, spec).unwrap();
        for sample in 0..100_i16 {
            writer.write_sample(sample * 300).unwrap();
        }
        writer.finalize().unwrap();
        out.into_inner()
    }

    fn samples(wav: &[u8]) -> Vec<i16> {
        hound::WavReader::new(wav)
            .unwrap()
            .into_samples()
            .map(Result::unwrap)
            .collect()
    }

    fn with(chunks: &[([u8; 4], &[u8])]) -> Vec<u8> {
        let mut out = Writer::new(b"WAVE", 0);
        for (name, content) in chunks {
            out.chunk(*name, content);
        }
        out.finish()
    }

    const FORMAT: ([u8; 4], &[u8]) = (
        *b"fmt ",
        &[1, 0, 1, 0, 0x22, 0x56, 0, 0, 0x44, 0xac, 0, 0, 2, 0, 16, 0],
    );

    #[test]
    fn sound_stays_and_words_are_replaced() {
        let data: Vec<u8> = (0..100_i16)
            .flat_map(|sample| (sample * 300).to_le_bytes())
            .collect();
        let mut before = with(&[
            FORMAT,
            (*b"LIST", b"INFOICMT\x07\0\0\0secret\0\0"),
            (*b"data", &data),
            (*b"id3 ", b"secret"),
        ]);
        before.extend_from_slice(b"secret");
        let after = rewrite(&before, &Record::default()).unwrap();
        assert_eq!(samples(&after), samples(&wav()));
        assert!(!contains(&after, "secret") && contains(&after, "ISFT"));
        assert_eq!(
            after.len(),
            8 + usize::try_from(u32::from_le_bytes(after[4..8].try_into().unwrap())).unwrap()
        );
        assert_eq!(
            samples(&rewrite(&wav(), &Record::default()).unwrap()),
            samples(&wav())
        );
    }

    #[test]
    fn what_is_not_whole_says_so() {
        let cut = wav();
        for (bytes, said) in [
            (cut[..cut.len() - 1].to_vec(), "ends inside a chunk"),
            (with(&[]), "no data"),
            (with(&[(*b"data", &[0, 0])]), "before its format"),
            (with(&[FORMAT]), "no data"),
            (with(&[FORMAT, (*b"data", b"")]), "no sound"),
            (with(&[FORMAT, (*b"data", b"abc")]), "3 bytes of sound"),
            (with(&[FORMAT, FORMAT]), "second"),
            (
                with(&[FORMAT, (*b"data", b"ab"), (*b"data", b"ab")]),
                "second",
            ),
            (
                with(&[(*b"fmt ", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]),
                "format is not valid",
            ),
            (with(&[(*b"fmt ", &[1, 0])]), "format is not valid"),
        ] {
            let failure = rewrite(&bytes, &Record::default()).unwrap_err();
            assert!(failure.message.contains(said), "{}", failure.message);
            assert!(failure.retryable);
        }
    }
}
