//! Drawing boxes on a picture, for a person to see what was read where. No text: that would need a font.

use crate::picture::CHANNELS;
use crate::score::stroke;
use crate::{Picture, Quad};

/// Red, as seen on paper and photos alike.
const INK: [u8; CHANNELS] = [230, 30, 30];
/// The stroke is one pixel wide per this many pixels of the shorter side, at least `THINNEST`.
const SIDE_PER_PIXEL: usize = 500;
const THINNEST: usize = 2;

/// Draws the outline of `quad`, given in the picture's pixels; what lies outside the picture is left out.
pub fn outline(picture: &mut Picture, quad: &Quad) {
    let brush = (picture.width().min(picture.height()) / SIDE_PER_PIXEL).max(THINNEST) as i64;
    // Corners far outside would make the stroke long: a box of ours is never outside, so nothing is lost.
    let limits = [picture.width() as f32, picture.height() as f32];
    let corners = quad.map(|corner| [0, 1].map(|axis| corner[axis].clamp(0.0, limits[axis]) as i64));
    for (i, from) in corners.iter().enumerate() {
        stroke(*from, corners[(i + 1) % corners.len()], |[x, y]| dab(picture, [x, y], brush));
    }
}

/// A square of ink around a point.
fn dab(picture: &mut Picture, at: [i64; 2], brush: i64) {
    let span = |centre: i64, side: usize| {
        let low = (centre - brush / 2).clamp(0, side as i64) as usize;
        let high = (centre - brush / 2 + brush).clamp(0, side as i64) as usize;
        low..high
    };
    let (columns, rows, stride) = (span(at[0], picture.width()), span(at[1], picture.height()), picture.width() * CHANNELS);
    for y in rows {
        let row = &mut picture.rgb_mut()[y * stride..][..stride];
        for pixel in row[columns.start * CHANNELS..columns.end * CHANNELS].chunks_exact_mut(CHANNELS) {
            pixel.copy_from_slice(&INK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inked(picture: &Picture, x: usize, y: usize) -> bool {
        picture.row(y)[x * CHANNELS..][..CHANNELS] == INK
    }

    #[test]
    fn sides_are_drawn_and_the_inside_is_not() {
        let mut picture = Picture::black(40, 30);
        outline(&mut picture, &[[5.0, 5.0], [30.0, 5.0], [30.0, 20.0], [5.0, 20.0]]);
        assert!(inked(&picture, 5, 5) && inked(&picture, 17, 5) && inked(&picture, 30, 12) && inked(&picture, 5, 20));
        assert!(!inked(&picture, 17, 12) && !inked(&picture, 2, 2));
    }

    #[test]
    fn boxes_off_the_picture_do_no_harm() {
        let mut picture = Picture::black(4, 4);
        outline(&mut picture, &[[-1e30, -5.0], [1e30, f32::NAN], [f32::INFINITY, 9.0], [0.0, 9.0]]);
        assert_eq!(picture.rgb().len(), 48);
    }
}
