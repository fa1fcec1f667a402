//! Cutting a text line out of a page: a perspective warp that makes its box upright, by bicubic interpolation as OpenCV 5
//! computes it (weights in single precision at the exact position, the page's edge repeated outwards).

use crate::picture::CHANNELS;
use crate::{Picture, Quad};

/// A cut this many times higher than wide is taken for text that runs upwards or downwards.
const TALL: f64 = 1.5;
/// The free parameter of the cubic kernel.
const SHARPNESS: f32 = -0.75;

/// The content of `quad`, corners clockwise from the top left; turned a quarter to the left where it is tall. Its sides are
/// the longer ones of each pair, in whole pixels, at least 1.
pub fn cut_out(page: &Picture, quad: &Quad) -> Picture {
    let length = |a: usize, b: usize| (quad[a][0] - quad[b][0]).hypot(quad[a][1] - quad[b][1]);
    let limit = page.width() + page.height();
    let width = (length(0, 1).max(length(2, 3)) as usize).clamp(1, limit);
    let height = (length(0, 3).max(length(1, 2)) as usize).clamp(1, limit);
    let mut cut = Picture::black(width, height);
    if let Some(transform) = from_rectangle(width as f64, height as f64, quad) {
        warp(page, &transform, &mut cut);
    }
    if height as f64 / width as f64 >= TALL { cut.turned_left() } else { cut }
}

/// The projective map that takes the corners of a `width` x `height` rectangle to `quad`, row by row; none where three
/// corners lie on a line. Closed form over the unit square (Heckbert, "Fundamentals of Texture Mapping", 1989, 2.2.2).
fn from_rectangle(width: f64, height: f64, quad: &Quad) -> Option<[f64; 9]> {
    let [p0, p1, p2, p3] = quad.map(|corner| corner.map(f64::from));
    let [sum_x, sum_y] = [0, 1].map(|axis| p0[axis] - p1[axis] + p2[axis] - p3[axis]);
    let [right_x, right_y] = [0, 1].map(|axis| p1[axis] - p2[axis]);
    let [left_x, left_y] = [0, 1].map(|axis| p3[axis] - p2[axis]);
    let scale = right_x * left_y - left_x * right_y;
    if scale == 0.0 || !scale.is_finite() {
        return None;
    }
    let g = (sum_x * left_y - left_x * sum_y) / scale;
    let h = (right_x * sum_y - sum_x * right_y) / scale;
    let across = [0, 1].map(|axis| (p1[axis] - p0[axis] + g * p1[axis]) / width);
    let down = [0, 1].map(|axis| (p3[axis] - p0[axis] + h * p3[axis]) / height);
    Some([across[0], down[0], p0[0], across[1], down[1], p0[1], g / width, h / height, 1.0])
}

fn warp(page: &Picture, transform: &[f64; 9], cut: &mut Picture) {
    let [xx, xy, x0, yx, yy, y0, wx, wy, w0] = *transform;
    let stride = cut.width() * CHANNELS;
    for (row, target) in cut.rgb_mut().chunks_exact_mut(stride).enumerate() {
        let v = row as f64;
        let start = [xy * v + x0, yy * v + y0, wy * v + w0];
        for (column, pixel) in target.chunks_exact_mut(CHANNELS).enumerate() {
            let u = column as f64;
            let weight = wx * u + start[2];
            let scale = if weight == 0.0 { 0.0 } else { 1.0 / weight };
            sample(page, (xx * u + start[0]) * scale, (yx * u + start[1]) * scale, pixel);
        }
    }
}

/// The page's colour at `x`, `y`.
fn sample(page: &Picture, x: f64, y: f64, pixel: &mut [u8]) {
    let (left, top) = (x.floor(), y.floor());
    let (across, down) = ((x - left) as f32, (y - top) as f32);
    let inside = |at: f64, step: i64, side: usize| (at as i64).saturating_add(step).clamp(0, side as i64 - 1) as usize;
    if across == 0.0 && down == 0.0 {
        let at = inside(left, 0, page.width()) * CHANNELS;
        pixel.copy_from_slice(&page.row(inside(top, 0, page.height()))[at..at + CHANNELS]);
        return;
    }
    let columns = [-1, 0, 1, 2].map(|step| inside(left, step, page.width()) * CHANNELS);
    let weights = cubic(across);
    let mut sums = [0.0f32; CHANNELS];
    for (step, share) in [-1, 0, 1, 2].into_iter().zip(cubic(down)) {
        let row = page.row(inside(top, step, page.height()));
        for (column, weight) in columns.iter().zip(weights) {
            let colour = &row[*column..*column + CHANNELS];
            for (sum, value) in sums.iter_mut().zip(colour) {
                *sum += f32::from(*value) * (weight * share);
            }
        }
    }
    for (target, sum) in pixel.iter_mut().zip(sums) {
        *target = sum.round_ties_even() as u8;
    }
}

/// Weights of the four pixels around a position `t` behind the second one, 0 to 1.
fn cubic(t: f32) -> [f32; 4] {
    let near = |d: f32| ((SHARPNESS + 2.0) * d - (SHARPNESS + 3.0)) * d * d + 1.0;
    let far = |d: f32| ((SHARPNESS * d - 5.0 * SHARPNESS) * d + 8.0 * SHARPNESS) * d - 4.0 * SHARPNESS;
    let first = [far(t + 1.0), near(t), near(1.0 - t)];
    [first[0], first[1], first[2], 1.0 - first[0] - first[1] - first[2]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Picture {
        Picture::from_rgb(40, 30, (0..30 * 40).flat_map(|i| [(i % 40) as u8 * 6, (i / 40) as u8 * 8, 7]).collect()).unwrap()
    }

    #[test]
    fn an_upright_box_is_a_plain_copy() {
        let cut = cut_out(&page(), &[[3.0, 5.0], [23.0, 5.0], [23.0, 15.0], [3.0, 15.0]]);
        assert_eq!((cut.width(), cut.height()), (20, 10));
        assert_eq!(cut.row(0), &page().row(5)[9..69]);
        assert_eq!(cut.row(9), &page().row(14)[9..69]);
    }

    #[test]
    fn a_tall_box_is_turned_left() {
        let cut = cut_out(&page(), &[[3.0, 5.0], [13.0, 5.0], [13.0, 25.0], [3.0, 25.0]]);
        assert_eq!((cut.width(), cut.height()), (20, 10));
        assert_eq!(cut.row(0)[..3], page().row(5)[36..39]);
    }

    #[test]
    fn a_leaning_box_follows_its_sides() {
        let cut = cut_out(&page(), &[[5.0, 5.0], [29.0, 12.0], [27.0, 19.0], [3.0, 12.0]]);
        assert_eq!((cut.width(), cut.height()), (25, 7));
        let (first, last) = (&cut.row(0)[..2], &cut.row(6)[72..74]);
        assert!(first[0].abs_diff(30) <= 3 && first[1].abs_diff(40) <= 4, "{first:?}");
        assert!(last[0].abs_diff(27 * 6 - 6) <= 9 && last[1].abs_diff(19 * 8 - 8) <= 9, "{last:?}");
    }

    #[test]
    fn boxes_without_sense_give_a_picture_all_the_same() {
        for quad in [[[7.0, 7.0]; 4], [[f32::NAN; 2]; 4], [[0.0, 0.0], [1e30, 0.0], [1e30, 9.0], [0.0, 9.0]]] {
            let cut = cut_out(&page(), &quad);
            assert!(cut.width() <= 70 && cut.height() <= 70);
        }
    }

    #[test]
    fn half_a_pixel_overshoots_as_the_kernel_does() {
        let mut step = Picture::black(9, 1);
        step.rgb_mut()[12..15].fill(255);
        let mut seen = [0; CHANNELS];
        for (x, expected) in [(3.0, 0), (3.5, 151), (3.7, 212), (4.0, 255), (4.3, 212), (5.5, 0)] {
            sample(&step, x, 0.0, &mut seen);
            assert_eq!(seen, [expected; CHANNELS], "{x}");
        }
    }
}
