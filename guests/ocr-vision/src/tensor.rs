//! From bytes to what the models take: planes of floats from -1 to 1. Scaling to the right size comes before, in `resize`.

use crate::Picture;
use crate::picture::CHANNELS;

/// Bytes of one value.
const VALUE: usize = size_of::<f32>();

/// The picture as planes, blue first, then green, then red (the models were trained on OpenCV's order), each value
/// `(v / 255 - 0.5) / 0.5` as the 4 bytes of a little-endian float: what a tensor takes, without another copy. Each plane's
/// rows are `stride` values apart; what lies right of the picture is 0, the models' padding. `stride` below the width is
/// taken as the width. Length: `3 * height * stride` values.
pub fn planes(picture: &Picture, stride: usize) -> Vec<u8> {
    let row_bytes = stride.max(picture.width()) * VALUE;
    let plane_bytes = picture.height() * row_bytes;
    let mut bytes = vec![0; CHANNELS * plane_bytes];
    let (blue, rest) = bytes.split_at_mut(plane_bytes);
    let (green, red) = rest.split_at_mut(plane_bytes);
    let rows = blue.chunks_exact_mut(row_bytes).zip(green.chunks_exact_mut(row_bytes)).zip(red.chunks_exact_mut(row_bytes));
    for (y, ((blue, green), red)) in rows.enumerate() {
        for (plane, channel) in [(blue, 2), (green, 1), (red, 0)] {
            for (value, pixel) in plane.chunks_exact_mut(VALUE).zip(picture.row(y).chunks_exact(CHANNELS)) {
                value.copy_from_slice(&normalised(pixel[channel]).to_le_bytes());
            }
        }
    }
    bytes
}

fn normalised(byte: u8) -> f32 {
    f32::from(byte) * (2.0 / 255.0) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blue_comes_first_and_padding_is_zero() {
        let picture = Picture::from_rgb(1, 2, vec![255, 0, 51, 0, 255, 204]).unwrap();
        let expected = [-0.6, 0.0, 0.6, 0.0, -1.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0];
        let got: Vec<f32> = planes(&picture, 2).chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
    }
}
