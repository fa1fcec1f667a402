//! Scaling by bilinear interpolation, rounding as OpenCV's 8-bit `INTER_LINEAR` does: weights in 1/2048, rows kept at that
//! precision until the vertical pass. Exact halving averages 2 x 2 pixels, as OpenCV does in its place.

use crate::Picture;
use crate::picture::CHANNELS;

/// Weights add up to this.
const ONE: i32 = 2048;

/// Where an output column or row takes its two inputs, and the second one's weight. The first has `ONE` minus that.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// `picture` at `width` x `height`. Sides of 0 become 1.
pub fn resize(picture: &Picture, width: usize, height: usize) -> Picture {
    let (width, height) = (width.max(1), height.max(1));
    if (width, height) == (picture.width(), picture.height()) {
        return picture.clone();
    }
    if (width * 2, height * 2) == (picture.width(), picture.height()) {
        return halved(picture);
    }
    let columns = taps(picture.width(), width, true);
    let rows = taps(picture.height(), height, false);
    let mut output = Picture::black(width, height);
    let stride = width * CHANNELS;
    // Neighbouring output rows share input rows: the last two stretched ones are kept with their number.
    let mut kept = [(usize::MAX, vec![0i32; stride]), (usize::MAX, vec![0i32; stride])];
    for (target, tap) in output.rgb_mut().chunks_exact_mut(stride).zip(rows) {
        if kept[0].0 != tap.first && kept[1].0 == tap.first {
            kept.swap(0, 1);
        }
        for (slot, number) in kept.iter_mut().zip([tap.first, tap.second]) {
            if slot.0 != number {
                stretch(picture.row(number), &columns, &mut slot.1);
                slot.0 = number;
            }
        }
        blend(&kept[0].1, &kept[1].1, tap.weights, target);
    }
    output
}

/// `edge_weights`: at the borders columns drop the missing neighbour, rows repeat the last one; the sums differ in rounding.
fn taps(from: usize, to: usize, edge_weights: bool) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let last = from - 1;
    let tap = |index: usize| {
        let position = ((index as f64 + 0.5) * scale - 0.5) as f32;
        let whole = position.floor();
        let mut part = position - whole;
        if edge_weights && (whole < 0.0 || whole >= last as f32) {
            part = 0.0;
        }
        let weights = [1.0 - part, part].map(|w| (w * ONE as f32).round_ties_even() as i32);
        let whole = whole as i64;
        let inside = |at: i64| usize::try_from(at).unwrap_or(0).min(last);
        Tap { first: inside(whole), second: inside(whole + 1), weights }
    };
    (0..to).map(tap).collect()
}

/// One input row at the output's width, each value times `ONE`.
fn stretch(row: &[u8], columns: &[Tap], output: &mut [i32]) {
    for (target, tap) in output.chunks_exact_mut(CHANNELS).zip(columns) {
        let first = &row[tap.first * CHANNELS..][..CHANNELS];
        let second = &row[tap.second * CHANNELS..][..CHANNELS];
        for channel in 0..CHANNELS {
            target[channel] = i32::from(first[channel]) * tap.weights[0] + i32::from(second[channel]) * tap.weights[1];
        }
    }
}

/// Two stretched rows into bytes. The shifts drop the same bits as OpenCV's vector code, so that results agree to the bit.
fn blend(upper: &[i32], lower: &[i32], weights: [i32; 2], output: &mut [u8]) {
    for ((target, a), b) in output.iter_mut().zip(upper).zip(lower) {
        let sum = (((a >> 4) * weights[0]) >> 16) + (((b >> 4) * weights[1]) >> 16);
        *target = ((sum + 2) >> 2) as u8;
    }
}

fn halved(picture: &Picture) -> Picture {
    let mut output = Picture::black(picture.width() / 2, picture.height() / 2);
    let stride = output.width() * CHANNELS;
    for (y, target) in output.rgb_mut().chunks_exact_mut(stride).enumerate() {
        let pairs = picture.row(2 * y).chunks_exact(2 * CHANNELS).zip(picture.row(2 * y + 1).chunks_exact(2 * CHANNELS));
        for (pixel, (upper, lower)) in target.chunks_exact_mut(CHANNELS).zip(pairs) {
            for channel in 0..CHANNELS {
                let four = [upper[channel], upper[channel + CHANNELS], lower[channel], lower[channel + CHANNELS]];
                pixel[channel] = ((four.iter().map(|v| u16::from(*v)).sum::<u16>() + 2) >> 2) as u8;
            }
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, values: &[u8]) -> Picture {
        Picture::from_rgb(width, height, values.iter().flat_map(|v| [*v; 3]).collect()).unwrap()
    }

    #[test]
    fn doubling_a_step_gives_quarter_weights() {
        assert_eq!(resize(&grey(2, 1, &[0, 100]), 4, 1), grey(4, 1, &[0, 25, 75, 100]));
        assert_eq!(resize(&grey(1, 2, &[0, 100]), 1, 4), grey(1, 4, &[0, 25, 75, 100]));
    }

    #[test]
    fn halving_averages_four_pixels() {
        assert_eq!(resize(&grey(2, 2, &[10, 20, 30, 41]), 1, 1), grey(1, 1, &[25]));
    }

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        let flat = grey(7, 5, &[255; 35]);
        for (width, height) in [(1, 1), (3, 9), (14, 10), (100, 2)] {
            assert!(resize(&flat, width, height).rgb().iter().all(|v| *v == 255), "{width} x {height}");
        }
    }
}
