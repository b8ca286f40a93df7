//! A second of a tone, as WAV.

use std::f32::consts::PI;

use studio_plugin::{Finished, TtsTask};

use crate::digest;

const RATE: u32 = 22_050;
/// One second.
const SAMPLES: u32 = RATE;
const BYTES_PER_SAMPLE: u16 = 2;

/// The tone that stands for the words.
pub(crate) fn make(task: &TtsTask) -> Finished {
    let [first, ..] = digest::of(&task.text);
    let frequency = 220.0 + f32::from(first) * 660.0 / 255.0;
    Finished::media(tone(frequency), "wav")
        .fact("sample-rate", RATE)
        .fact("samples", SAMPLES)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "22,050 is exact in 32 bits, and cutting off is how the sample is defined"
)]
fn tone(frequency: f32) -> Vec<u8> {
    let data = SAMPLES * u32::from(BYTES_PER_SAMPLE);
    let mut bytes = header(data);
    for number in 0..SAMPLES {
        let angle = number as f32 / RATE as f32 * (2.0 * PI) * frequency;
        let sample = (angle.sin() * 0.4 * 32767.0) as i16;
        bytes.extend_from_slice(&sample.to_le_bytes());
    }
    bytes
}

/// RIFF, one `fmt ` chunk of 16-bit mono PCM, and the head of `data`.
fn header(data: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(44 + data as usize);
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + data).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt ");
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    let (pcm, channels) = (1_u16, 1_u16);
    bytes.extend_from_slice(&pcm.to_le_bytes());
    bytes.extend_from_slice(&channels.to_le_bytes());
    bytes.extend_from_slice(&RATE.to_le_bytes());
    bytes.extend_from_slice(&(RATE * u32::from(BYTES_PER_SAMPLE)).to_le_bytes());
    bytes.extend_from_slice(&BYTES_PER_SAMPLE.to_le_bytes());
    bytes.extend_from_slice(&16_u16.to_le_bytes());
    bytes.extend_from_slice(b"data");
    bytes.extend_from_slice(&data.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_finds_one_second_of_the_tone() {
        let bytes = tone(440.0);
        let mut reader = hound::WavReader::new(bytes.as_slice()).unwrap();
        let spec = reader.spec();
        assert_eq!(
            (spec.channels, spec.sample_rate, spec.bits_per_sample),
            (1, 22_050, 16)
        );
        let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
        assert_eq!(samples.len(), 22_050);
        assert_eq!(samples[0], 0);
        let loudest = samples
            .iter()
            .map(|sample| sample.unsigned_abs())
            .max()
            .unwrap();
        assert!((13_000..=13_106).contains(&loudest), "{loudest}");
        let crossings = samples
            .windows(2)
            .filter(|pair| pair[0] < 0 && pair[1] >= 0)
            .count();
        assert!((439..=440).contains(&crossings), "{crossings}");
    }

    #[test]
    fn the_pitch_follows_the_words() {
        let task = |text: &str| TtsTask {
            text: text.to_owned(),
            voice: "default".to_owned(),
            speed: None,
            language: None,
            ext: "mp3".to_owned(),
            extra: serde_json::Map::new(),
        };
        assert_eq!(make(&task("a")), make(&task("a")));
        assert_ne!(make(&task("a")).output, make(&task("b")).output);
    }
}
