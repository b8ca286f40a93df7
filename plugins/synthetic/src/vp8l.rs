//! Writes lossless WebP images of few colours.
//!
//! The pattern's pixels are indices into some hundred colours, and many follow one of the same colour.
//! So the writer uses three things of the format and no others: each colour is spelled out once,
//! is called by its slot in the colour cache from then on, and runs are copies of the pixel before.
//! One prefix code serves nearly every pixel, no transform has to be undone, and both writing
//! and reading are several times faster than with the general encoder, which has to find out
//! what is known here. How often each symbol occurs is counted on a sample of the rows, so that
//! the image is walked once and never held. Any image of up to 65,535 colours is written correctly; one of
//! many colours comes out larger than it need be.

mod prefix;

use crate::pattern::Rgb;
use prefix::{BitWriter, Bits, Code, LENGTH_SYMBOLS, Lengths, Packed, PrefixCode, prefix_code};

/// Slots of the colour cache, as a power of two; 11 is the most there is. Fewer slots, and colours
/// push each other out.
const CACHE_BITS: u8 = 11;
/// Prefix codes of lengths and of cache slots follow those of 256 greens.
const LENGTHS_AT: usize = 256;
const CACHE_AT: usize = LENGTHS_AT + 24;
const GREENS: usize = CACHE_AT + (1 << CACHE_BITS);
/// No row is as wide.
const WIDEST: usize = 1 << 14;
/// Longest copy that one length can say.
const LONGEST_COPY: u32 = 4096;
/// Longest run whose pixels are called one by one: more bits, but fewer symbols of two kinds in turns.
const LONGEST_SPELLED: u32 = 3;
/// Pixels between two looks at the sandbox's clock and fuel, which every turn of a loop takes. More makes longer code for nothing.
const UNROLLED: usize = 8;
/// Rows that are counted. More take time, fewer make codes that fit the image less.
const SAMPLED_ROWS: usize = 16;
/// In which order the lengths of the code for code lengths stand.
const LENGTH_ORDER: [usize; LENGTH_SYMBOLS] = [
    17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

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
    let mut runs = Runs::new();
    let slots: Vec<u16> = palette.iter().map(|colour| slot(*colour)).collect();
    let mut counts = Counts::of_palette(palette, &slots);
    for y in (0..height as usize).step_by((height as usize / SAMPLED_ROWS).max(1)) {
        row(y, &mut pixels);
        runs.walk(&pixels, &mut counts);
    }
    let codes = counts.codes();

    bytes.extend_from_slice(b"VP8L");
    let size_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    let image_at = bytes.len();
    let mut writer = BitWriter::new(bytes);
    write_head(&mut writer, width, height, &codes);
    let mut image = Image::new(&mut writer, pixels.len(), &codes, palette, &slots);
    for y in 0..height as usize {
        row(y, &mut pixels);
        runs.walk(&pixels, &mut image);
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

/// What runs of pixels go into: first the counts, then the image.
trait Symbols {
    /// The runs of a row: of each, its colour and its length.
    fn row(&mut self, runs: impl Iterator<Item = (u16, u32)>);
}

/// Finds the runs of a row.
struct Runs {
    /// Of each run, where it ends, and its colour in the lower half.
    ends: Box<[u32; WIDEST]>,
}

impl Runs {
    fn new() -> Self {
        Self {
            ends: Box::new([0; WIDEST]),
        }
    }

    /// Whether a pixel differs from the one before is as good as random, so it is counted, and never branched upon.
    #[inline]
    fn walk(&mut self, pixels: &[u16], symbols: &mut impl Symbols) {
        let mut count = 0;
        let mut before = pixels.first().copied().unwrap_or_default();
        let mut end = 0;
        let mut look = |colour: u16, ends: &mut [u32; WIDEST]| {
            count += usize::from(colour != before);
            before = colour;
            end += 1 << u16::BITS;
            if let Some(place) = ends.get_mut(count % WIDEST) {
                *place = end | u32::from(colour);
            }
        };
        let mut several = pixels.chunks_exact(UNROLLED);
        for pixels in several.by_ref() {
            for &colour in pixels {
                look(colour, &mut self.ends);
            }
        }
        for &colour in several.remainder() {
            look(colour, &mut self.ends);
        }
        let mut start = 0;
        let runs = self.ends.get(..=count).unwrap_or_default();
        symbols.row(runs.iter().map(|&run| {
            let colour = u16::try_from(run & u32::from(u16::MAX)).unwrap_or_default();
            let end = run >> u16::BITS;
            let length = end - start;
            start = end;
            (colour, length)
        }));
    }
}

/// How often each symbol occurs.
struct Counts<'a> {
    greens: Vec<u32>,
    reds: [u32; 256],
    blues: [u32; 256],
    palette: &'a [Rgb],
    cache: Cache<'a>,
}

/// The codes made of them: greens, lengths and slots; reds; blues.
struct Codes {
    greens: Code,
    reds: Code,
    blues: Code,
}

impl<'a> Counts<'a> {
    /// Every symbol that an image of this palette may need counts once: the sample may not have it.
    fn of_palette(palette: &'a [Rgb], slots: &'a [u16]) -> Self {
        let mut counts = Self {
            greens: vec![0; GREENS],
            reds: [0; 256],
            blues: [0; 256],
            palette,
            cache: Cache::new(slots),
        };
        for length in LENGTHS_AT..CACHE_AT {
            add(&mut counts.greens, length);
        }
        for colour in 0..palette.len() {
            let colour = u16::try_from(colour).unwrap_or(u16::MAX);
            counts.literal(colour);
            counts.call(colour);
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
}

#[inline]
fn add(counts: &mut [u32], symbol: usize) {
    if let Some(count) = counts.get_mut(symbol) {
        *count += 1;
    }
}

impl Counts<'_> {
    fn literal(&mut self, colour: u16) {
        let colour = self.palette.get(usize::from(colour));
        let [red, green, blue] = colour.copied().unwrap_or_default();
        add(&mut self.greens, green.into());
        add(&mut self.reds, red.into());
        add(&mut self.blues, blue.into());
    }

    fn call(&mut self, colour: u16) {
        let slot = usize::from(self.cache.slot_of(colour));
        add(&mut self.greens, CACHE_AT + slot);
    }
}

impl Symbols for Counts<'_> {
    fn row(&mut self, runs: impl Iterator<Item = (u16, u32)>) {
        for (colour, length) in runs {
            if !self.cache.holds(colour) {
                self.literal(colour);
                self.cache.insert(colour);
            } else if length <= LONGEST_SPELLED {
                for _ in 0..length {
                    self.call(colour);
                }
                continue;
            } else {
                self.call(colour);
            }
            for copied in copies(length - 1) {
                add(&mut self.greens, LENGTHS_AT + prefix_code(copied).symbol);
            }
        }
    }
}

/// What copies make up a length.
fn copies(length: u32) -> impl Iterator<Item = u32> {
    let whole = length / LONGEST_COPY;
    let rest = length % LONGEST_COPY;
    let rest = (rest > 0).then_some(rest);
    (0..whole).map(|_| LONGEST_COPY).chain(rest)
}

/// The image being written.
struct Image<'a, 'b> {
    writer: &'a mut BitWriter<'b>,
    width: usize,
    greens: &'a Code,
    /// Each colour, spelled out: green and red, then blue.
    literals: Vec<(Bits, Bits)>,
    /// Each colour, called by its slot.
    calls: Vec<Packed>,
    /// The same, but none where its slot does not hold it.
    held: Vec<Packed>,
    cache: Cache<'a>,
}

impl<'a, 'b> Image<'a, 'b> {
    fn new(
        writer: &'a mut BitWriter<'b>,
        width: usize,
        codes: &'a Codes,
        palette: &[Rgb],
        slots: &'a [u16],
    ) -> Self {
        let spelled = |[red, green, blue]: &Rgb| {
            let green = codes.greens.of_symbol((*green).into());
            let red = codes.reds.of_symbol((*red).into());
            (green.then(red), codes.blues.of_symbol((*blue).into()))
        };
        let called = |slot: &u16| {
            let symbol = CACHE_AT + usize::from(*slot);
            codes.greens.of_symbol(symbol).packed()
        };
        Self {
            writer,
            width,
            greens: &codes.greens,
            literals: palette.iter().map(spelled).collect(),
            calls: slots.iter().map(called).collect(),
            held: vec![Packed::default(); slots.len()],
            cache: Cache::new(slots),
        }
    }

    #[cold]
    fn spell(&mut self, colour: u16) {
        let place = usize::from(colour);
        let (green_and_red, blue) = self.literals.get(place).copied().unwrap_or_default();
        self.writer.write(green_and_red);
        self.writer.write(blue);
        let put_out = self.cache.insert(colour).map(usize::from);
        if let Some(held) = put_out.and_then(|place| self.held.get_mut(place)) {
            *held = Packed::default();
        }
        if let (Some(held), Some(call)) = (self.held.get_mut(place), self.calls.get(place)) {
            *held = *call;
        }
    }
}

impl Symbols for Image<'_, '_> {
    /// Most runs are short and of a colour that is held: one write each, with what the writer knows at hand.
    fn row(&mut self, runs: impl Iterator<Item = (u16, u32)>) {
        let mut position = self.writer.with_room_for(self.width);
        for (colour, length) in runs {
            let held = self.held.get(usize::from(colour)).copied();
            let held = held.unwrap_or_default().bits();
            match held {
                Some(call) if length <= LONGEST_SPELLED => {
                    position = self.writer.write_at(position, call.times(length));
                }
                held => {
                    self.writer.go_on_at(position);
                    self.call_and_copy(colour, held, length - 1);
                    position = self.writer.position();
                }
            }
        }
        self.writer.go_on_at(position);
    }
}

impl Image<'_, '_> {
    fn call_and_copy(&mut self, colour: u16, held: Option<Bits>, again: u32) {
        match held {
            Some(call) => self.writer.write(call),
            None => self.spell(colour),
        }
        for copied in copies(again) {
            let PrefixCode { symbol, extra } = prefix_code(copied);
            let length = self.greens.of_symbol(LENGTHS_AT + symbol);
            self.writer.write(length.then(extra));
        }
    }
}

fn write_head(writer: &mut BitWriter<'_>, width: u32, height: u32, codes: &Codes) {
    writer.put(0x2f, 8);
    writer.put(width - 1, 14);
    writer.put(height - 1, 14);
    // No alpha in use, version 0; then no transform.
    writer.put(0, 1 + 3 + 1);
    writer.put(1, 1);
    writer.put(u32::from(CACHE_BITS), 4);
    // One group of prefix codes for the whole image.
    writer.put(0, 1);
    write_code(writer, &codes.greens);
    write_code(writer, &codes.reds);
    write_code(writer, &codes.blues);
    // Alpha is always 255, and every copy is from the pixel before, which symbol 1 of the distances says.
    write_only_symbol(writer, 255);
    write_only_symbol(writer, 1);
}

/// The format's colour cache: which colours can be called by their slot now.
struct Cache<'a> {
    /// Slot of each colour.
    slots: &'a [u16],
    /// Colour that each slot holds.
    colours: Vec<Option<u16>>,
}

impl<'a> Cache<'a> {
    fn new(slots: &'a [u16]) -> Self {
        Self {
            slots,
            colours: vec![None; 1 << CACHE_BITS],
        }
    }

    fn holds(&self, colour: u16) -> bool {
        let slot = usize::from(self.slot_of(colour));
        self.colours.get(slot) == Some(&Some(colour))
    }

    /// Takes in a colour that was spelled out; the one that it puts out of its slot.
    fn insert(&mut self, colour: u16) -> Option<u16> {
        let slot = usize::from(self.slot_of(colour));
        self.colours.get_mut(slot)?.replace(colour)
    }

    fn slot_of(&self, colour: u16) -> u16 {
        let slot = self.slots.get(usize::from(colour)).copied();
        slot.unwrap_or_default()
    }
}

/// Where the format's colour cache keeps a colour.
fn slot([red, green, blue]: Rgb) -> u16 {
    let colour = u32::from_be_bytes([255, red, green, blue]);
    let slot = 0x1e35_a7bd_u32.wrapping_mul(colour) >> (32 - CACHE_BITS);
    u16::try_from(slot).unwrap_or_default()
}

fn write_code(writer: &mut BitWriter<'_>, code: &Code) {
    match code.only() {
        Some(symbol) if symbol < 256 => {
            return write_only_symbol(writer, u32::try_from(symbol).unwrap_or_default());
        }
        _ => writer.put(0, 1),
    }
    let packed = Lengths::of(code.lengths());
    // All nineteen lengths: four, and so many more.
    writer.put(15, 4);
    packed.write_code(writer, LENGTH_ORDER);
    // The lengths of the whole alphabet follow.
    writer.put(0, 1);
    packed.write(writer);
}

/// The short form of a code, for one symbol: of one bit where that holds it, else of eight.
fn write_only_symbol(writer: &mut BitWriter<'_>, symbol: u32) {
    let (form, bits) = if symbol < 2 { (0b001, 1) } else { (0b101, 8) };
    writer.put(form, 3);
    writer.put(symbol, bits);
}

#[cfg(test)]
mod tests;
