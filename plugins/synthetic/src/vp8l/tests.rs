use super::prefix::code_lengths;
use super::*;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder};

fn webp(size: (u32, u32), palette: &[Rgb], pixels: &[u16]) -> Vec<u8> {
    let mut chunk = Vec::new();
    let width = size.0 as usize;
    append_chunk(&mut chunk, size, palette, |y, row| {
        row.copy_from_slice(&pixels[y * width..][..width]);
    });
    let mut bytes = b"RIFF".to_vec();
    bytes.extend_from_slice(&(chunk.len() as u32 + 4).to_le_bytes());
    bytes.extend_from_slice(b"WEBP");
    bytes.extend(chunk);
    bytes
}

fn reads_back(size: (u32, u32), palette: &[Rgb], pixels: &[u16]) {
    let bytes = webp(size, palette, pixels);
    let decoder = WebPDecoder::new(std::io::Cursor::new(&bytes)).unwrap();
    assert_eq!(decoder.dimensions(), size);
    let image = DynamicImage::from_decoder(decoder).unwrap().into_rgb8();
    for (pixel, index) in image.pixels().zip(pixels) {
        assert_eq!(pixel.0, palette[usize::from(*index)]);
    }
}

fn random(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *seed >> 8
}

#[test]
fn images_of_one_colour_and_of_one_pixel_read_back() {
    reads_back((1, 1), &[[1, 2, 3]], &[0]);
    reads_back((5000, 3), &[[0, 0, 0]], &[0; 15_000]);
    reads_back((2, 1), &[[9, 9, 9], [9, 8, 9]], &[0, 1]);
}

#[test]
fn random_images_of_any_number_of_colours_read_back() {
    let mut seed = 7;
    for colours in [2, 3, 17, 256, 300, 4000] {
        let palette: Vec<Rgb> = (0..colours)
            .map(|_| [(); 3].map(|()| (random(&mut seed) & 255) as u8))
            .collect();
        for size in [(1, 40), (40, 1), (37, 53), (16_383, 2)] {
            let pixels: Vec<u16> = (0..size.0 * size.1)
                .map(|_| (random(&mut seed) % colours) as u16)
                .collect();
            reads_back(size, &palette, &pixels);
        }
    }
}

#[test]
fn runs_of_every_length_read_back() {
    let palette = [[0, 0, 0], [255, 255, 255]];
    let mut pixels = Vec::new();
    for length in (1..=40).chain([63, 64, 65, 4095, 4096, 4097, 4098, 4099, 4100, 9000]) {
        let index = u16::from(pixels.last() == Some(&0));
        pixels.extend(std::iter::repeat_n(index, length));
    }
    // One row, so that no run is cut.
    let mut bytes = pixels.clone();
    bytes.truncate(16_383);
    reads_back((16_383, 1), &palette, &bytes);
    let width = 163;
    pixels.truncate(pixels.len() / width * width);
    reads_back(
        (width as u32, (pixels.len() / width) as u32),
        &palette,
        &pixels,
    );
}

#[test]
fn codes_are_complete_and_never_too_long() {
    // Fibonacci's numbers make the deepest tree there is.
    let mut counts = vec![1_u32, 1];
    while counts.len() < 40 {
        counts.push(counts[counts.len() - 1] + counts[counts.len() - 2]);
    }
    for longest in [7, 15] {
        let lengths = code_lengths(&counts, longest);
        assert!(lengths.iter().all(|length| (1..=longest).contains(length)));
        let filled: f64 = lengths
            .iter()
            .map(|length| 0.5_f64.powi(i32::from(*length)))
            .sum();
        assert_eq!(filled, 1.0);
    }
}

#[test]
fn lengths_are_coded_without_a_gap() {
    let mut expected = 1;
    for symbol in 0..24_usize {
        let bits = if symbol < 4 { 0 } else { (symbol - 2) / 2 };
        for extra in 0..1_u64 << bits {
            let found = prefix_code(expected);
            assert_eq!(
                (
                    found.symbol,
                    usize::from(found.extra.count),
                    found.extra.bits
                ),
                (symbol, bits, extra)
            );
            expected += 1;
        }
    }
    assert_eq!(expected, LONGEST_COPY + 1);
}
