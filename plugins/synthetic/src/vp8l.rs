//! Writes lossless WebP images of few colours.
//!
//! The pattern's pixels are indices into some hundred colours, and runs of one colour are long.
//! So the writer uses three things of the format and no others: each colour is spelled out once,
//! is called by its slot in the colour cache from then on, and runs are copies of the pixel before.
//! One prefix code serves nearly every pixel, no transform has to be undone, and both writing
//! and reading are several times faster than with the general encoder, which has to find out
//! what is known here. How often each symbol occurs is counted on a sample of the rows, so that
//! the image is walked once and never held. Any image of up to 65,535 colours is written correctly; one of
//! many colours comes out larger than it need be.

mod prefix;

use crate::pattern::Rgb;
use prefix::{BitWriter, Code, write_only_symbol};

/// Slots of the colour cache, as a power of two; 11 is the most there is. Fewer slots, and colours
/// push each other out.
const CACHE_BITS: u8 = 11;
/// Prefix codes of lengths and of cache slots follow those of 256 greens.
const LENGTHS_AT: u16 = 256;
const CACHE_AT: u16 = LENGTHS_AT + 24;
const GREENS: usize = CACHE_AT as usize + (1 << CACHE_BITS);
/// Longest copy that one length can say.
const LONGEST_COPY: usize = 4096;
/// A copy costs about as much as this many pixels.
const SHORTEST_COPY: usize = 3;
/// Rows that are counted. More take time, fewer make codes that fit the image less.
const SAMPLED_ROWS: usize = 64;

/// Appends a `VP8L` chunk: its head, the image and the padding.
///
/// `row` fills the n-th row with indices into the palette. Width and height are 1 to 16,383.
pub(crate) fn append_chunk(
    bytes: &mut Vec<u8>,
    (width, height): (u32, u32),
    palette: &[Rgb],
    mut row: impl FnMut(usize, &mut [u16]),
) {
    let mut pixels = vec![0; width as usize];
    let step = (height as usize / SAMPLED_ROWS).max(1);
    let mut counts = Counts::of_palette(palette);
    let mut cache = Cache::new(palette);
    for y in (0..height as usize).step_by(step) {
        row(y, &mut pixels);
        walk(&pixels, &mut cache, &mut counts);
    }
    let codes = counts.codes();

    bytes.extend_from_slice(b"VP8L");
    let size_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    let image_at = bytes.len();
    // A guess from the sample; a little more than it, since growing would copy.
    bytes.reserve(counts.cost(&codes) / 7 * step + GREENS + 1024);
    let mut writer = BitWriter::new(bytes);
    write_head(&mut writer, width, height, &codes);
    let mut image = Image {
        writer: &mut writer,
        codes: &codes,
        palette,
    };
    let mut cache = Cache::new(palette);
    for y in 0..height as usize {
        row(y, &mut pixels);
        walk(&pixels, &mut cache, &mut image);
    }
    writer.finish();
    let size = bytes.len() - image_at;
    if let Some(slot) = bytes.get_mut(size_at..image_at) {
        slot.copy_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    }
    if size % 2 == 1 {
        bytes.push(0);
    }
}

/// What a row's symbols go into: first the counts, then the image.
trait Symbols {
    /// A copy's length or a slot of the cache, with extra bits.
    fn symbol(&mut self, symbol: u16, extra: u16, bits: u8);

    /// A colour spelled out.
    fn literal(&mut self, index: u16);
}

/// Turns a row into symbols.
#[inline]
fn walk(pixels: &[u16], cache: &mut Cache, symbols: &mut impl Symbols) {
    let (mut last, mut call, mut times) = (None, 0, 0);
    for &index in pixels {
        if last == Some(index) {
            times += 1;
            continue;
        }
        repeat(call, times, symbols);
        times = 0;
        last = Some(index);
        call = cache.call(index);
        if call == 0 {
            symbols.literal(index);
            cache.insert(index);
            call = cache.call(index);
        } else {
            symbols.symbol(call, 0, 0);
        }
    }
    repeat(call, times, symbols);
}

/// The pixel before, which the cache calls so, that many times again.
#[inline]
fn repeat(call: u16, mut times: usize, symbols: &mut impl Symbols) {
    while times >= SHORTEST_COPY {
        let length = times.min(LONGEST_COPY);
        let (symbol, bits, extra) = length_code(length);
        symbols.symbol(LENGTHS_AT + symbol, extra, bits);
        times -= length;
    }
    for _ in 0..times {
        symbols.symbol(call, 0, 0);
    }
}

/// How often each symbol occurs.
struct Counts {
    greens: Vec<u32>,
    reds: Vec<u32>,
    blues: Vec<u32>,
    palette: Vec<Rgb>,
    extra_bits: usize,
}

/// The codes made of them: greens, lengths and slots; reds; blues.
struct Codes {
    greens: Code,
    reds: Code,
    blues: Code,
}

impl Counts {
    /// Every symbol that an image of this palette may need counts once: the sample may not have it.
    fn of_palette(palette: &[Rgb]) -> Self {
        let mut counts = Self {
            greens: vec![0; GREENS],
            reds: vec![0; 256],
            blues: vec![0; 256],
            palette: palette.to_vec(),
            extra_bits: 0,
        };
        for length in LENGTHS_AT..CACHE_AT {
            count(&mut counts.greens, length);
        }
        for &[red, green, blue] in palette {
            count(&mut counts.greens, green.into());
            count(
                &mut counts.greens,
                CACHE_AT + cache_slot([red, green, blue]),
            );
            count(&mut counts.reds, red.into());
            count(&mut counts.blues, blue.into());
        }
        counts
    }

    fn codes(&self) -> Codes {
        Codes {
            greens: Code::of(&self.greens),
            reds: Code::of(&self.reds),
            blues: Code::of(&self.blues),
        }
    }

    /// In bits.
    fn cost(&self, codes: &Codes) -> usize {
        codes.greens.cost(&self.greens)
            + codes.reds.cost(&self.reds)
            + codes.blues.cost(&self.blues)
            + self.extra_bits
    }
}

#[inline]
fn count(counts: &mut [u32], symbol: u16) {
    if let Some(count) = counts.get_mut(usize::from(symbol)) {
        *count += 1;
    }
}

impl Symbols for Counts {
    #[inline]
    fn symbol(&mut self, symbol: u16, _: u16, bits: u8) {
        count(&mut self.greens, symbol);
        self.extra_bits += usize::from(bits);
    }

    fn literal(&mut self, index: u16) {
        let [red, green, blue] = colour(&self.palette, index);
        count(&mut self.greens, green.into());
        count(&mut self.reds, red.into());
        count(&mut self.blues, blue.into());
    }
}

/// The image being written.
struct Image<'a, 'b> {
    writer: &'a mut BitWriter<'b>,
    codes: &'a Codes,
    palette: &'a [Rgb],
}

impl Symbols for Image<'_, '_> {
    #[inline]
    fn symbol(&mut self, symbol: u16, extra: u16, bits: u8) {
        self.codes.greens.put(self.writer, symbol.into());
        if bits > 0 {
            self.writer.write(extra.into(), bits);
        }
    }

    fn literal(&mut self, index: u16) {
        let [red, green, blue] = colour(self.palette, index);
        self.codes.greens.put(self.writer, green.into());
        self.codes.reds.put(self.writer, red.into());
        self.codes.blues.put(self.writer, blue.into());
    }
}

fn colour(palette: &[Rgb], index: u16) -> Rgb {
    palette.get(usize::from(index)).copied().unwrap_or_default()
}

fn write_head(writer: &mut BitWriter<'_>, width: u32, height: u32, codes: &Codes) {
    writer.write(0x2f, 8);
    writer.write(width - 1, 14);
    writer.write(height - 1, 14);
    // No alpha in use, version 0; then no transform.
    writer.write(0, 1 + 3 + 1);
    writer.write(1, 1);
    writer.write(u32::from(CACHE_BITS), 4);
    // One group of prefix codes for the whole image.
    writer.write(0, 1);
    codes.greens.write(writer);
    codes.reds.write(writer);
    codes.blues.write(writer);
    // Alpha is always 255, and every copy is from the pixel before, which is distance code 1.
    write_only_symbol(writer, 255);
    write_only_symbol(writer, 1);
}

/// The format's colour cache: which colours can be called by a symbol now.
struct Cache {
    /// Slot of each colour.
    slots: Vec<u16>,
    /// Symbol that calls each colour; 0 for those that have to be spelled out.
    calls: Vec<u16>,
    /// Colour that each slot holds.
    held: Vec<Option<u16>>,
}

impl Cache {
    fn new(palette: &[Rgb]) -> Self {
        Self {
            slots: palette.iter().map(|colour| cache_slot(*colour)).collect(),
            calls: vec![0; palette.len()],
            held: vec![None; 1 << CACHE_BITS],
        }
    }

    #[inline]
    fn call(&self, index: u16) -> u16 {
        self.calls
            .get(usize::from(index))
            .copied()
            .unwrap_or_default()
    }

    /// Takes in a colour that was spelled out, and puts out the one in its slot.
    fn insert(&mut self, index: u16) {
        let slot = self
            .slots
            .get(usize::from(index))
            .copied()
            .unwrap_or_default();
        let Some(held) = self.held.get_mut(usize::from(slot)) else {
            return;
        };
        if let Some(call) = held.and_then(|before| self.calls.get_mut(usize::from(before))) {
            *call = 0;
        }
        *held = Some(index);
        if let Some(call) = self.calls.get_mut(usize::from(index)) {
            *call = CACHE_AT + slot;
        }
    }
}

/// Where the format's colour cache keeps a colour.
fn cache_slot([red, green, blue]: Rgb) -> u16 {
    let colour = u32::from_be_bytes([255, red, green, blue]);
    let slot = 0x1e35_a7bd_u32.wrapping_mul(colour) >> (32 - CACHE_BITS);
    u16::try_from(slot).unwrap_or_default()
}

/// Symbol, number of extra bits and their value, for a length of 1 to 4096.
fn length_code(length: usize) -> (u16, u8, u16) {
    let value = u16::try_from(length - 1).unwrap_or(u16::MAX);
    if value < 4 {
        return (value, 0, 0);
    }
    // The two highest bits make the symbol, the rest is written as it is.
    let highest = u16::try_from(value.ilog2()).unwrap_or_default();
    let symbol = 2 * highest + (value >> (highest - 1) & 1);
    let bits = extra_bits(symbol);
    (symbol, bits, value & ((1 << bits) - 1))
}

fn extra_bits(symbol: u16) -> u8 {
    if symbol < 4 {
        return 0;
    }
    u8::try_from((symbol - 2) / 2).unwrap_or_default()
}

#[cfg(test)]
mod tests;
