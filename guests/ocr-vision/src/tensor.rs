//! From bytes to what the models take: planes of floats from -1 to 1. Scaling to the right size comes before, in `resize`.

use crate::Picture;
use crate::picture::CHANNELS;

/// The picture as planes, blue first, then green, then red (the models were trained on OpenCV's order), each value
/// `(v / 255 - 0.5) / 0.5`. Each plane's rows are `stride` values apart; what lies right of the picture is 0, the models'
/// padding. `stride` below the width is taken as the width. Length: `3 * height * stride`.
pub fn planes(picture: &Picture, stride: usize) -> Vec<f32> {
    let stride = stride.max(picture.width());
    let mut values = vec![0.0; CHANNELS * picture.height() * stride];
    let (blue, rest) = values.split_at_mut(picture.height() * stride);
    let (green, red) = rest.split_at_mut(picture.height() * stride);
    let rows = blue.chunks_exact_mut(stride).zip(green.chunks_exact_mut(stride)).zip(red.chunks_exact_mut(stride));
    for (y, ((blue, green), red)) in rows.enumerate() {
        let outputs = blue.iter_mut().zip(green).zip(red);
        for (pixel, ((b, g), r)) in picture.row(y).chunks_exact(CHANNELS).zip(outputs) {
            *r = normalised(pixel[0]);
            *g = normalised(pixel[1]);
            *b = normalised(pixel[2]);
        }
    }
    values
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
        let got = planes(&picture, 2);
        assert_eq!(got.len(), expected.len());
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
    }
}
