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
use prefix::{BitWriter, Bits, Code, LENGTH_SYMBOLS, Lengths, Packed, PrefixCode, prefix_code};

/// Slots of the colour cache, as a power of two; 11 is the most there is. Fewer slots, and colours
/// push each other out.
const CACHE_BITS: u8 = 11;
/// Prefix codes of lengths and of cache slots follow those of 256 greens.
const LENGTHS_AT: usize = 256;
const CACHE_AT: usize = LENGTHS_AT + 24;
const GREENS: usize = CACHE_AT + (1 << CACHE_BITS);
/// Longest copy that one length can say.
const LONGEST_COPY: usize = 4096;
/// A copy costs about as much as this many pixels.
const SHORTEST_COPY: usize = 3;
/// Pixels between two looks at the sandbox's clock and fuel, which every turn of a loop takes. More makes longer code for nothing.
const UNROLLED: usize = 4;
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
    let slots: Vec<u16> = palette.iter().map(|colour| slot(*colour)).collect();
    let mut counts = Counts::of_palette(palette, &slots);
    for y in (0..height as usize).step_by((height as usize / SAMPLED_ROWS).max(1)) {
        row(y, &mut pixels);
        walk(&pixels, &mut counts);
    }
    let codes = counts.codes();

    bytes.extend_from_slice(b"VP8L");
    let size_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    let image_at = bytes.len();
    let mut writer = BitWriter::new(bytes);
    write_head(&mut writer, width, height, &codes);
    let mut image = Image::new(&mut writer, &codes, palette, &slots);
    for y in 0..height as usize {
        row(y, &mut pixels);
        walk(&pixels, &mut image);
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
    /// A pixel: its colour by its slot of the cache where that holds it, else spelled out.
    fn pixel(&mut self, colour: u16);

    /// The pixel before, so many times again; at most [`LONGEST_COPY`].
    fn copy(&mut self, length: usize);
}

/// Turns a row into symbols.
#[inline]
fn walk(pixels: &[u16], symbols: &mut impl Symbols) {
    let mut run = Run::default();
    let mut several = pixels.chunks_exact(UNROLLED);
    for pixels in several.by_ref() {
        for &colour in pixels {
            run.go_on(colour, symbols);
        }
    }
    for &colour in several.remainder() {
        run.go_on(colour, symbols);
    }
    run.end(symbols);
}

/// Pixels of one colour, one after another.
#[derive(Default)]
struct Run {
    colour: Option<u16>,
    /// How often again.
    times: usize,
}

impl Run {
    #[inline]
    fn go_on(&mut self, colour: u16, symbols: &mut impl Symbols) {
        if self.colour == Some(colour) {
            self.times += 1;
            return;
        }
        if self.times > 0 {
            self.end(symbols);
        }
        self.colour = Some(colour);
        symbols.pixel(colour);
    }

    #[inline]
    fn end(&mut self, symbols: &mut impl Symbols) {
        if let Some(colour) = self.colour {
            repeat(colour, self.times, symbols);
        }
        self.times = 0;
    }
}

/// The pixel before, which is of that colour, so many times again.
#[inline]
fn repeat(colour: u16, mut times: usize, symbols: &mut impl Symbols) {
    while times >= SHORTEST_COPY {
        let length = times.min(LONGEST_COPY);
        symbols.copy(length);
        times -= length;
    }
    for _ in 0..times {
        symbols.pixel(colour);
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
    fn pixel(&mut self, colour: u16) {
        if self.cache.holds(colour) {
            self.call(colour);
        } else {
            self.literal(colour);
            self.cache.insert(colour);
        }
    }

    fn copy(&mut self, length: usize) {
        add(&mut self.greens, LENGTHS_AT + prefix_code(length).symbol);
    }
}

/// The image being written.
struct Image<'a, 'b> {
    writer: &'a mut BitWriter<'b>,
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
    #[inline]
    fn pixel(&mut self, colour: u16) {
        let held = self.held.get(usize::from(colour)).copied();
        match held.unwrap_or_default().bits() {
            Some(bits) => self.writer.write(bits),
            None => self.spell(colour),
        }
    }

    #[inline]
    fn copy(&mut self, length: usize) {
        let PrefixCode { symbol, extra } = prefix_code(length);
        let length = self.greens.of_symbol(LENGTHS_AT + symbol);
        self.writer.write(length.then(extra));
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
