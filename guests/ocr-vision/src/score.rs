//! How sure the model is of a region: the mean of its map over a rectangle, border pixels included.

use crate::Quad;
use crate::border::Map;

/// Mean of the map over the pixels of `quad` that lie on it, its corners truncated to pixels as OpenCV's `fillPoly` gets
/// them in the reference; 0 where there are none.
pub fn mean_inside(map: &Map, quad: &Quad) -> f64 {
    let along = |axis: usize| quad.iter().map(move |corner| corner[axis]);
    let bounds = |axis: usize, side: usize| {
        let last = (side - 1) as f32;
        let low = along(axis).fold(f32::MAX, f32::min).floor().clamp(0.0, last);
        let high = along(axis).fold(f32::MIN, f32::max).ceil().clamp(0.0, last);
        (low as usize, high as usize)
    };
    let ((left, right), (top, bottom)) = (bounds(0, map.width()), bounds(1, map.height()));
    let corners = quad.map(|[x, y]| [(x - left as f32) as i64, (y - top as f32) as i64]);
    let spans = spans(&corners, (bottom + 1).saturating_sub(top));
    let (mut sum, mut count) = (0.0, 0usize);
    for (y, (first, last)) in spans.into_iter().enumerate() {
        let (first, last) = (first.max(0), last.min(right as i64 - left as i64));
        if first <= last {
            let pixels = &map.row(top + y)[left + first as usize..=left + last as usize];
            sum += pixels.iter().map(|v| f64::from(*v)).sum::<f64>();
            count += pixels.len();
        }
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// For each of `rows` rows the first and last pixel of a convex outline; first > last where it does not reach.
fn spans(corners: &[[i64; 2]; 4], rows: usize) -> Vec<(i64, i64)> {
    let mut spans = vec![(i64::MAX, i64::MIN); rows];
    for (i, from) in corners.iter().enumerate() {
        stroke(*from, corners[(i + 1) % corners.len()], |[x, y]| {
            if let Some(span) = usize::try_from(y).ok().and_then(|y| spans.get_mut(y)) {
                *span = (span.0.min(x), span.1.max(x));
            }
        });
    }
    spans
}

/// The pixels of a straight line, from its left end to its right one (Bresenham's algorithm, ties to the longer axis).
pub(crate) fn stroke(a: [i64; 2], b: [i64; 2], mut plot: impl FnMut([i64; 2])) {
    let ([mut x, mut y], to) = if a[0] <= b[0] { (a, b) } else { (b, a) };
    let (dx, dy) = (to[0] - x, (to[1] - y).abs());
    let down = (to[1] - y).signum();
    let steep = dy > dx;
    let (long, short) = if steep { (dy, dx) } else { (dx, dy) };
    let mut error = long - 2 * short;
    for _ in 0..=long {
        plot([x, y]);
        let both = error < 0;
        error += if both { 2 * long - 2 * short } else { -2 * short };
        if steep || both {
            y += down;
        }
        if !steep || both {
            x += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_takes_border_pixels_in() {
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let map = Map::new(4, 4, &values).unwrap();
        assert_eq!(mean_inside(&map, &[[1.0, 1.0], [2.9, 1.0], [2.9, 2.0], [1.0, 2.0]]), 7.5);
    }

    #[test]
    fn what_lies_off_the_map_does_not_count() {
        let map = Map::new(2, 2, &[1.0; 4]).unwrap();
        assert_eq!(mean_inside(&map, &[[-9.0, -9.0], [9.0, -9.0], [9.0, 9.0], [-9.0, 9.0]]), 1.0);
        assert_eq!(mean_inside(&map, &[[f32::NAN; 2]; 4]), 0.0);
    }

    #[test]
    fn a_stroke_reaches_both_ends() {
        for (a, b) in [([0, 0], [5, 2]), ([5, 2], [0, 0]), ([3, 3], [3, -4]), ([0, 9], [4, 0])] {
            let mut seen = Vec::new();
            stroke(a, b, |p| seen.push(p));
            assert!(seen.contains(&a) && seen.contains(&b), "{seen:?}");
        }
    }
}
