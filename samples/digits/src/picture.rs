//! A PNG of any size as the 8x8 grid of intensities that the model was trained on.

use std::io::Cursor;
use std::ops::Range;

use png::{Decoder, Transformations};
use shoal_sdk::Error;

const GRID: usize = 8;
const SIDE_PIXELS_MAX: u32 = 2048;

/// Averages a picture, bright ink on a dark ground, down to 8 rows of 8 values from 0 to 1.
///
/// # Errors
/// [`Error::BadInput`] for what is no PNG, or one with a side over 2048 pixels.
pub(crate) fn shrink(png: &[u8]) -> Result<Vec<f32>, Error> {
    let picture = Picture::decode(png)?;
    let cells = 0..GRID * GRID;
    Ok(cells
        .map(|cell| picture.mean_intensity(cell / GRID, cell % GRID))
        .collect())
}

/// Pixels row by row, one byte for each of their channels.
struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    samples: Vec<u8>,
}

impl Picture {
    fn decode(png: &[u8]) -> Result<Self, Error> {
        let mut decoder = Decoder::new(Cursor::new(png));
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(not_a_png)?;
        // Before the pixels are decoded: a small file can claim a picture that no memory holds.
        let (width, height) = reader.info().size();
        if width.max(height) > SIDE_PIXELS_MAX {
            let message = format!(
                "body: expected sides of at most {SIDE_PIXELS_MAX} pixels, got {width}x{height}"
            );
            return Err(Error::bad_field("body", message));
        }
        let mut samples = vec![0; reader.output_buffer_size().expect("the sides are limited")];
        let frame = reader.next_frame(&mut samples).map_err(not_a_png)?;
        let channels = frame.color_type.samples();
        Ok(Self {
            width: width as usize,
            height: height as usize,
            channels,
            samples,
        })
    }

    fn mean_intensity(&self, row: usize, column: usize) -> f32 {
        let (ys, xs) = (span(row, self.height), span(column, self.width));
        let pixels = ys.len() * xs.len();
        let sum: f32 = ys
            .flat_map(|y| xs.clone().map(move |x| self.intensity(x, y)))
            .sum();
        sum / pixels as f32
    }

    /// 0 to 1, of grey or RGB, with or without alpha: what is transparent is dark.
    fn intensity(&self, x: usize, y: usize) -> f32 {
        let start = (y * self.width + x) * self.channels;
        let (colours, alpha) = match &self.samples[start..start + self.channels] {
            [grey, alpha] => (&[*grey][..], *alpha),
            [colours @ .., alpha] if colours.len() == 3 => (colours, *alpha),
            colours => (colours, u8::MAX),
        };
        let sum: f32 = colours.iter().map(|&colour| f32::from(colour)).sum();
        sum / colours.len() as f32 / 255.0 * f32::from(alpha) / 255.0
    }
}

/// The pixels, of `length`, that the grid's cell `index` covers: one at least, so that small pictures grow.
fn span(index: usize, length: usize) -> Range<usize> {
    let start = index * length / GRID;
    start..((index + 1) * length / GRID).max(start + 1)
}

fn not_a_png(error: png::DecodingError) -> Error {
    Error::bad_field("body", format!("body: expected a PNG: {error}"))
}

#[cfg(test)]
mod tests {
    use png::{ColorType, Encoder};

    use super::*;

    fn encode(width: u32, height: u32, color: ColorType, samples: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder
            .write_header()
            .unwrap()
            .write_image_data(samples)
            .unwrap();
        bytes
    }

    #[test]
    fn the_sample_picture_shrinks_to_the_row_it_was_made_from() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../models/digits/fixture.json")).unwrap();
        let grid = shrink(include_bytes!("../../models/digits/seven.png")).unwrap();
        let expected = fixture["images"][19].as_array().unwrap();
        assert_eq!(grid.len(), expected.len());
        for (found, expected) in grid.iter().zip(expected) {
            // The picture holds 256 steps of intensity.
            assert!((f64::from(*found) - expected.as_f64().unwrap()).abs() <= 0.5 / 255.0 + 1e-6);
        }
    }

    #[test]
    fn every_colour_type_gives_the_same_intensity() {
        let pictures = [
            (ColorType::Grayscale, vec![51; 64]),
            (ColorType::GrayscaleAlpha, [102, 128].repeat(64)),
            (ColorType::Rgb, [0, 51, 102].repeat(64)),
            (ColorType::Rgba, [255, 51, 0, 128].repeat(64)),
        ];
        for (color, samples) in pictures {
            let grid = shrink(&encode(8, 8, color, &samples)).unwrap();
            assert!(
                grid.iter().all(|value| (value - 0.2).abs() < 0.002),
                "{color:?}: {grid:?}"
            );
        }
    }

    #[test]
    fn a_picture_smaller_than_the_grid_grows() {
        let grid = shrink(&encode(2, 1, ColorType::Grayscale, &[0, 255])).unwrap();
        assert_eq!(grid, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0].repeat(8));
    }

    #[test]
    fn sides_are_limited() {
        assert!(shrink(&encode(2048, 1, ColorType::Grayscale, &[0; 2048])).is_ok());
        let refused = shrink(&encode(2049, 1, ColorType::Grayscale, &[0; 2049])).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "body: expected sides of at most 2048 pixels, got 2049x1"
        );
    }

    #[test]
    fn what_is_no_png_is_the_clients_fault() {
        let whole = include_bytes!("../../models/digits/seven.png");
        for bytes in [&b""[..], b"GIF89a", &whole[..whole.len() / 2]] {
            assert!(matches!(shrink(bytes), Err(Error::BadInput { .. })));
        }
    }
}
