//! A decoded picture: rows of RGB bytes, top row first. Holds no metadata; orientation is already applied.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

/// Bytes per pixel.
pub(crate) const CHANNELS: usize = 3;

/// RGB, 8 bits a channel, rows from top to bottom without gaps. Both sides are at least 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// A picture that could not be written as PNG.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode a {width} x {height} picture as png: {reason}")]
pub struct EncodeError {
    width: usize,
    height: usize,
    reason: String,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} x {})", self.width, self.height)
    }
}

impl Picture {
    /// `rgb` holds `width * height * 3` bytes; none if it does not, or if a side is 0.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Option<Self> {
        let bytes = width.checked_mul(height)?.checked_mul(CHANNELS)?;
        (bytes > 0 && bytes == rgb.len()).then_some(Self { width, height, rgb })
    }

    /// A black picture. Sides of 0 become 1.
    pub fn black(width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self { width, height, rgb: vec![0; width * height * CHANNELS] }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// All bytes, row after row.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// All bytes, row after row, without a copy.
    pub(crate) fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// All bytes, to be changed in place.
    pub(crate) fn rgb_mut(&mut self) -> &mut [u8] {
        &mut self.rgb
    }

    /// The bytes of row `y`, which must exist.
    pub(crate) fn row(&self, y: usize) -> &[u8] {
        let stride = self.width * CHANNELS;
        &self.rgb[y * stride..][..stride]
    }

    /// The picture turned a quarter to the left (counter-clockwise).
    pub fn turned_left(&self) -> Self {
        let (width, height) = (self.height, self.width);
        let mut rgb = Vec::with_capacity(self.rgb.len());
        for y in 0..height {
            let x = self.width - 1 - y;
            for source in 0..width {
                rgb.extend_from_slice(&self.row(source)[x * CHANNELS..][..CHANNELS]);
            }
        }
        Self { width, height, rgb }
    }

    /// The picture turned by half.
    pub fn upside_down(&self) -> Self {
        let rgb = self.rgb.chunks_exact(CHANNELS).rev().flatten().copied().collect();
        Self { width: self.width, height: self.height, rgb }
    }

    /// The picture with `rows` black rows above and below it.
    pub(crate) fn between_bars(&self, rows: usize) -> Self {
        let mut framed = Self::black(self.width, self.height + 2 * rows);
        framed.rgb[rows * self.width * CHANNELS..][..self.rgb.len()].copy_from_slice(&self.rgb);
        framed
    }

    /// The picture as a PNG file, written for speed: crops live for a second, and an annotated page is looked at once.
    pub fn to_png(&self) -> Result<Vec<u8>, EncodeError> {
        let failed = |reason: String| EncodeError { width: self.width, height: self.height, reason };
        let width = u32::try_from(self.width).map_err(|e| failed(e.to_string()))?;
        let height = u32::try_from(self.height).map_err(|e| failed(e.to_string()))?;
        let mut file = Vec::new();
        PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Up)
            .write_image(&self.rgb, width, height, ExtendedColorType::Rgb8)
            .map_err(|e| failed(e.to_string()))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_by_one() -> Picture {
        Picture::from_rgb(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap()
    }

    #[test]
    fn bytes_must_fit_the_sides() {
        assert!(Picture::from_rgb(2, 1, vec![0; 5]).is_none());
        assert!(Picture::from_rgb(0, 1, vec![]).is_none());
        assert!(Picture::from_rgb(usize::MAX, 2, vec![]).is_none());
    }

    #[test]
    fn a_quarter_to_the_left_brings_the_right_end_to_the_top() {
        let turned = two_by_one().turned_left();
        assert_eq!((turned.width(), turned.height()), (1, 2));
        assert_eq!(turned.rgb(), [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn half_a_turn_swaps_the_ends() {
        assert_eq!(two_by_one().upside_down().rgb(), [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn png_comes_back_as_it_was() {
        let picture = two_by_one();
        assert_eq!(crate::decode(&picture.to_png().unwrap()).unwrap(), picture);
    }
}
