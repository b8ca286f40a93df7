//! The pattern that stands for a picture: four colours in square rings, with waves on them.
//!
//! A pixel's wave is `p = (sin(x/24) + cos(y/24)) · 12`, and each channel adds `p`, `0.7p` and
//! `1.3p`, cut off. What a pixel shows therefore depends on its ring and on which of some 140
//! intervals the sum of sine and cosine lies in. A table that is indexed by whole numbers knows the
//! interval of nearly every pixel; floats are added and compared only where an interval begins
//! close by. The colours of all intervals are worked out once per picture. The result is the same, bit for
//! bit, as doing it all for each pixel.

use std::collections::HashMap;

use crate::digest;

/// Parts of `p` that red, green and blue add.
const WEIGHTS: [f32; 3] = [1.0, 0.7, 1.3];
const HEIGHT_OF_WAVE: f32 = 12.0;
const WAVE_LENGTH: f32 = 24.0;
/// The sum of a sine and a cosine never goes beyond ±2.
const LOWEST: f32 = -2.0;

/// Whole numbers that stand for a sine or a cosine: so many to 1, and none below zero.
const POSITIONS_PER_UNIT: f32 = 1_048_576.0;
const SHIFT: f32 = 1.25;
/// How far the sum of two of them may be from the sum's own: each is cut off, which makes 2, and
/// what 32-bit floats round off is less than half of 1. The rest is for safety's sake.
const UNSURE: usize = 4;
/// A cell of the table spans 256 of them. Larger cells have more pixels looked at closely,
/// smaller ones cost cache.
const POSITION_BITS: u32 = 8;
const CELLS: usize = 1 << 15;
/// Stands for the level of a cell in which, or next to which, a level starts.
const LOOK_CLOSELY: u8 = u8::MAX;
/// Stands for the colour of such a cell. There are 1024 colours at most.
const UNKNOWN: u16 = u16::MAX;

/// Pixels between two looks at the sandbox's clock and fuel, which every turn of a loop takes. More makes longer code for nothing.
const UNROLLED: usize = 8;

const RINGS: usize = 4;
const LEVELS: usize = 256;

/// A colour, red first.
pub(crate) type Rgb = [u8; 3];

/// One picture, or one frame of a clip.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// Each colour that can occur, once.
    pub(crate) palette: Vec<Rgb>,
    /// Index into the palette, by ring and level; [`UNKNOWN`] at [`LOOK_CLOSELY`].
    colours: Box<[u16; RINGS * LEVELS]>,
    levels: Levels,
    columns: Vec<Line>,
    rows: Vec<Line>,
}

/// A column or a row.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Its sine or cosine.
    wave: f32,
    /// The same as a whole number.
    position: u32,
    /// 0 is the middle.
    ring: u32,
}

impl Pattern {
    /// `phase` moves the waves; 0 for a still picture.
    pub(crate) fn new(text: &str, width: u32, height: u32, phase: f32) -> Self {
        let levels = Levels::new();
        let (palette, colours) = colours(&digest::of(text), &levels);
        Self {
            palette,
            colours,
            levels,
            columns: lines(width, |place| (place / WAVE_LENGTH + phase).sin()),
            rows: lines(height, |place| (place / WAVE_LENGTH + phase).cos()),
        }
    }

    /// Fills a row with indices into the palette. Rows beyond the picture are left as they are.
    pub(crate) fn row(&self, y: usize, row: &mut [u16]) {
        let Some(line) = self.rows.get(y) else {
            return;
        };
        let mut several = row.chunks_exact_mut(UNROLLED);
        let mut columns = self.columns.chunks_exact(UNROLLED);
        for (pixels, columns) in several.by_ref().zip(columns.by_ref()) {
            for (pixel, column) in pixels.iter_mut().zip(columns) {
                *pixel = self.colour(*column, *line);
            }
        }
        let whole = self.columns.len() / UNROLLED * UNROLLED;
        let rest = self.columns.get(whole..).unwrap_or_default();
        for (pixel, column) in several.into_remainder().iter_mut().zip(rest) {
            *pixel = self.colour(*column, *line);
        }
    }

    #[inline]
    fn colour(&self, column: Line, line: Line) -> u16 {
        let ring = column.ring.max(line.ring) as usize;
        let cell = cell((column.position + line.position) as usize);
        let level = self.levels.cells.get(cell).copied().unwrap_or(LOOK_CLOSELY);
        match self.colour_of(ring, level.into()) {
            UNKNOWN => self.exactly(ring, cell, column.wave + line.wave),
            colour => colour,
        }
    }

    #[inline]
    fn colour_of(&self, ring: usize, level: usize) -> u16 {
        let place = ring * LEVELS + level;
        self.colours
            .get(place % (RINGS * LEVELS))
            .copied()
            .unwrap_or_default()
    }

    #[cold]
    fn exactly(&self, ring: usize, cell: usize, sum: f32) -> u16 {
        self.colour_of(ring, self.levels.exactly(cell, sum))
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "sizes are below 2^24, where 32-bit floats are exact"
)]
fn lines(length: u32, wave: impl Fn(f32) -> f32) -> Vec<Line> {
    (0..length)
        .map(|place| {
            // Twice the distance from the middle, so that it is whole for odd lengths too.
            let distance = (2 * place).abs_diff(length);
            let ring = (6 * distance / length).min(3);
            let wave = wave(place as f32);
            Line {
                wave,
                position: position(wave),
                ring,
            }
        })
        .collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sines and cosines are above -1.25, and cutting off is allowed for"
)]
fn position(wave: f32) -> u32 {
    ((wave + SHIFT) * POSITIONS_PER_UNIT) as u32
}

/// Where along the sum of sine and cosine the colour changes.
#[derive(Clone, Debug)]
struct Levels {
    /// Ascending: level n goes from the n-1st to below the n-th.
    starts: Vec<f32>,
    /// Level of each cell.
    cells: Box<[u8; CELLS]>,
    /// A level of each cell that none of its sums is below.
    floors: Box<[u8; CELLS]>,
}

impl Levels {
    fn new() -> Self {
        let mut starts: Vec<f32> = WEIGHTS
            .iter()
            .flat_map(|&weight| {
                let (lowest, highest) = (added(LOWEST, weight), added(-LOWEST, weight));
                (lowest + 1..=highest).map(move |value| first_that_reaches(value, weight))
            })
            .collect();
        starts.sort_by(f32::total_cmp);
        starts.dedup();
        let mut cells = Box::new([LOOK_CLOSELY; CELLS]);
        let mut floors = Box::new([0; CELLS]);
        let mut from = 0;
        for level in 0..=starts.len() {
            let number = u8::try_from(level).unwrap_or(LOOK_CLOSELY);
            // Both shifts, as in the sum of a column's position and a row's.
            let start = starts
                .get(level)
                .map(|start| position(start + SHIFT) as usize);
            let (sure, all) = start.map_or((CELLS, CELLS), |place| {
                (cell(place - UNSURE), cell(place + UNSURE) + 1)
            });
            for (table, end) in [(&mut cells, sure), (&mut floors, all)] {
                if let Some(own) = table.get_mut(from..end) {
                    own.fill(number);
                }
            }
            from = all;
        }
        Self {
            starts,
            cells,
            floors,
        }
    }

    /// For a sum that lies in that cell.
    fn exactly(&self, cell: usize, sum: f32) -> usize {
        let floor = usize::from(self.floors.get(cell).copied().unwrap_or_default());
        let above = self.starts.iter().skip(floor);
        floor + above.take_while(|start| **start <= sum).count()
    }

    /// A sum that lies in each level.
    fn samples(&self) -> impl Iterator<Item = f32> {
        std::iter::once(LOWEST).chain(self.starts.iter().copied())
    }
}

#[inline]
fn cell(position: usize) -> usize {
    (position >> POSITION_BITS) % CELLS
}

/// What a channel of this weight adds.
#[allow(
    clippy::cast_possible_truncation,
    reason = "cutting off is how the pattern is defined"
)]
fn added(sum: f32, weight: f32) -> i32 {
    (sum * HEIGHT_OF_WAVE * weight) as i32
}

/// The smallest sum at which a channel of this weight adds at least `value`.
fn first_that_reaches(value: i32, weight: f32) -> f32 {
    // Floats in the order of their size, so that halving the distance ends at two neighbours.
    let ordered = |float: f32| {
        let bits = float.to_bits();
        if bits >> 31 == 0 {
            bits | 0x8000_0000
        } else {
            !bits
        }
    };
    let float = |ordered: u32| {
        let bits = if ordered >> 31 == 1 {
            ordered & 0x7fff_ffff
        } else {
            !ordered
        };
        f32::from_bits(bits)
    };
    let (mut below, mut reached) = (ordered(LOWEST), ordered(-LOWEST));
    while reached - below > 1 {
        let middle = below + (reached - below) / 2;
        if added(float(middle), weight) >= value {
            reached = middle;
        } else {
            below = middle;
        }
    }
    float(reached)
}

/// The colours that occur, and which of them each ring shows at each level.
fn colours(digest: &[u8; 32], levels: &Levels) -> (Vec<Rgb>, Box<[u16; RINGS * LEVELS]>) {
    let mut palette: Vec<Rgb> = Vec::new();
    let mut known: HashMap<Rgb, u16> = HashMap::with_capacity(RINGS * LEVELS);
    let mut colours = Box::new([UNKNOWN; RINGS * LEVELS]);
    for (ring, base) in digest.chunks_exact(3).take(RINGS).enumerate() {
        for (level, sum) in levels.samples().enumerate() {
            let mut colour: Rgb = [0; 3];
            for ((channel, base), weight) in colour.iter_mut().zip(base).zip(WEIGHTS) {
                // A negative wave wraps to what is near white: that is the pattern's look.
                let [wave, ..] = added(sum, weight).to_le_bytes();
                *channel = base.saturating_add(wave);
            }
            let index = *known.entry(colour).or_insert_with(|| {
                palette.push(colour);
                u16::try_from(palette.len() - 1).unwrap_or(u16::MAX)
            });
            if let Some(slot) = colours.get_mut(ring * LEVELS + level) {
                *slot = index;
            }
        }
    }
    (palette, colours)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pattern as it is described, pixel by pixel.
    fn described(text: &str, x: u32, y: u32, phase: f32) -> Rgb {
        let digest = digest::of(text);
        let far = x.abs_diff(256).max(y.abs_diff(256));
        let ring = ((far as f32 / 256.0 * 6.0).floor() as usize).min(3);
        let p = ((x as f32 / 24.0 + phase).sin() + (y as f32 / 24.0 + phase).cos()) * 12.0;
        let channel = |index: usize, weight: f32| {
            digest[ring * 3 + index].saturating_add((p * weight) as i32 as u8)
        };
        [channel(0, 1.0), channel(1, 0.7), channel(2, 1.3)]
    }

    #[test]
    fn every_pixel_is_as_described() {
        for (text, phase) in [("a koi pond", 0.0), ("", 0.1), ("snow", 3.0), ("snow", 6.2)] {
            let pattern = Pattern::new(text, 512, 512, phase);
            let mut row = vec![0; 512];
            for y in 0..512 {
                pattern.row(y as usize, &mut row);
                for x in 0..512 {
                    let shown = pattern.palette[usize::from(row[x as usize])];
                    assert_eq!(
                        shown,
                        described(text, x, y, phase),
                        "{text} {x} {y} {phase}"
                    );
                }
            }
        }
    }

    #[test]
    fn levels_change_where_a_channel_does() {
        let levels = Levels::new();
        assert!(levels.starts.len() < usize::from(LOOK_CLOSELY));
        let channels = |sum: f32| WEIGHTS.map(|weight| added(sum, weight));
        for &start in &levels.starts {
            assert_ne!(channels(start), channels(start.next_down()), "{start}");
        }
        let samples: Vec<f32> = levels.samples().collect();
        let level = |wave: f32, other: f32| {
            let cell = cell((position(wave) + position(other)) as usize);
            match levels.cells[cell] {
                LOOK_CLOSELY => levels.exactly(cell, wave + other),
                level => usize::from(level),
            }
        };
        for number in -1000..=1000 {
            for other in [-1.0, -0.4321, 0.0, 0.123_456_7, 1.0] {
                let wave = number as f32 / 1000.0;
                let sample = samples[level(wave, other)];
                assert_eq!(channels(wave + other), channels(sample), "{wave} {other}");
            }
        }
        // Sums at and right beside each start, the hardest there are.
        for &start in &levels.starts {
            for sum in [start.next_down(), start, start.next_up()] {
                let half = sum / 2.0;
                let sample = samples[level(half, half)];
                assert_eq!(channels(half + half), channels(sample), "{sum}");
            }
        }
    }

    #[test]
    fn rings_are_square_whatever_the_size() {
        for length in [1, 2, 7, 512, 513] {
            let lines = lines(length, |_| 0.0);
            assert_eq!(lines.len(), length as usize);
            assert!(lines.iter().all(|line| (line.ring as usize) < RINGS));
        }
    }
}
