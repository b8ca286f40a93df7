//! A clip: an animated WebP of the picture's pattern with its waves moving.
//!
//! Frames are written a few per step into files that the host keeps, and the host joins them, so
//! that no step nears its limit and the whole clip is never in the plugin's memory.

use std::f32::consts::TAU;

use studio_plugin::{Context, Failure, File, Finished, Part, VideoTask};

use crate::pattern::Pattern;
use crate::vp8l;

/// Frames per second where none are asked for.
const FPS: u32 = 8;
/// Pixels to a side where 0 is asked for.
const SIDE: u32 = 512;
/// More frames than this, or more pixels over all of them, are refused: rendering them would
/// occupy the worker for longer than a smoke test is worth.
const MOST_FRAMES: u32 = 240;
const MOST_PIXELS: u64 = 64_000_000;
/// The longest side that decoders take, one less than the format could say.
const LONGEST_SIDE: u32 = 16_383;
/// Pixels rendered in one step. More nears the step's limit, fewer costs more steps: the largest
/// clip takes 16, and a frame larger than this a step of its own.
const PIXELS_PER_STEP: u64 = 4_000_000;

/// What is to be rendered, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    width: u32,
    height: u32,
    frames: u32,
    fps: u32,
}

impl Plan {
    fn of(task: &VideoTask) -> Result<Self, Failure> {
        let fps = task.fps.unwrap_or(FPS);
        if fps == 0 || task.seconds <= 0.0 {
            return Err(Failure::permanent(
                "task.seconds and task.fps must be more than 0; ask for a clip that lasts",
            ));
        }
        let side = |asked: u32| if asked == 0 { SIDE } else { asked };
        let (width, height) = (side(task.width), side(task.height));
        if width > LONGEST_SIDE || height > LONGEST_SIDE {
            return Err(Failure::permanent(format!(
                "{width}x{height} is too large: WebP's longest side is {LONGEST_SIDE} pixels"
            )));
        }
        let frames = frames(task.seconds, fps).ok_or_else(|| {
            Failure::permanent(format!(
                "{} seconds at {fps} frames a second are more than {MOST_FRAMES} frames, the most \
                 that this engine renders; ask for a shorter clip or fewer frames a second",
                task.seconds
            ))
        })?;
        let pixels = u64::from(frames) * u64::from(width) * u64::from(height);
        if pixels > MOST_PIXELS {
            return Err(Failure::permanent(format!(
                "{frames} frames of {width}x{height} are {pixels} pixels, and this engine renders \
                 at most {MOST_PIXELS}; ask for a smaller or shorter clip"
            )));
        }
        Ok(Self {
            width,
            height,
            frames,
            fps,
        })
    }

    fn frames_per_step(self) -> u32 {
        let frame = u64::from(self.width) * u64::from(self.height);
        u32::try_from(PIXELS_PER_STEP / frame)
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// One `ANMF` chunk per frame.
    fn render(self, text: &str, frames: std::ops::Range<u32>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in frames {
            self.append_frame(&mut bytes, text, number);
        }
        bytes
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "at most 240 frames, exact in 32 bits"
    )]
    fn append_frame(self, bytes: &mut Vec<u8>, text: &str, number: u32) {
        let phase = number as f32 / self.frames as f32 * TAU;
        let pattern = Pattern::new(text, self.width, self.height, phase);
        bytes.extend_from_slice(b"ANMF");
        let size_at = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        let frame_at = bytes.len();
        push_24(bytes, 0);
        push_24(bytes, 0);
        push_24(bytes, self.width - 1);
        push_24(bytes, self.height - 1);
        push_24(bytes, self.milliseconds(number));
        // Over what was there before, not mixed with it.
        bytes.push(0b10);
        vp8l::append_chunk(
            bytes,
            (self.width, self.height),
            &pattern.palette,
            |y, row| {
                pattern.row(y, row);
            },
        );
        let size = u32::try_from(bytes.len() - frame_at).unwrap_or(u32::MAX);
        if let Some(slot) = bytes.get_mut(size_at..frame_at) {
            slot.copy_from_slice(&size.to_le_bytes());
        }
    }

    /// How long a frame is shown, rounded so that the clip as a whole keeps its time.
    fn milliseconds(self, number: u32) -> u32 {
        let at = |frame: u32| u64::from(frame) * 1000 / u64::from(self.fps);
        u32::try_from(at(number + 1) - at(number)).unwrap_or(0xff_ffff)
    }

    /// Everything before the first frame.
    fn head(self, frames: u64) -> Vec<u8> {
        let mut bytes = b"RIFF".to_vec();
        let rest = 4 + (8 + 10) + (8 + 6) + frames;
        bytes.extend_from_slice(&u32::try_from(rest).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(b"WEBPVP8X");
        bytes.extend_from_slice(&10_u32.to_le_bytes());
        // Animated, and nothing else.
        bytes.extend_from_slice(&[0b10, 0, 0, 0]);
        push_24(&mut bytes, self.width - 1);
        push_24(&mut bytes, self.height - 1);
        bytes.extend_from_slice(b"ANIM");
        bytes.extend_from_slice(&6_u32.to_le_bytes());
        // White behind it; played for ever.
        bytes.extend_from_slice(&[255, 255, 255, 255, 0, 0]);
        bytes
    }
}

/// Whole frames, at least one; none when there are too many.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to lie between 0 and the largest number of frames"
)]
fn frames(seconds: f32, fps: u32) -> Option<u32> {
    let frames = (f64::from(seconds) * f64::from(fps)).round().max(1.0);
    (frames <= f64::from(MOST_FRAMES)).then_some(frames as u32)
}

fn push_24(bytes: &mut Vec<u8>, value: u32) {
    let [low, middle, high, _] = value.to_le_bytes();
    bytes.extend_from_slice(&[low, middle, high]);
}

/// Renders a few frames per step, then has the host join them behind their head.
pub(crate) async fn make(context: &Context, task: &VideoTask) -> Result<Finished, Failure> {
    let plan = Plan::of(task)?;
    let mut rendered: Vec<File> = Vec::new();
    let mut next = 0;
    while next < plan.frames {
        let until = plan.frames.min(next.saturating_add(plan.frames_per_step()));
        let name = format!("frames-{next:03}");
        let file = context
            .write(name, || vec![plan.render(&task.prompt, next..until)])
            .await?;
        rendered.push(file);
        next = until;
    }
    let size = rendered.iter().map(|file| file.size).sum();
    let joined = context
        .write("clip.webp", || {
            let head = Part::Bytes(plan.head(size));
            std::iter::once(head)
                .chain(rendered.iter().map(Part::from))
                .collect()
        })
        .await?;
    Ok(Finished::media(&joined, "webp")
        .fact("width", plan.width)
        .fact("height", plan.height)
        .fact("frames", plan.frames)
        .fact("fps", plan.fps))
}

#[cfg(test)]
mod tests;
