//! The sizes a picture takes before lines are looked for, and the way back to its own pixels.

use crate::{Picture, Quad, resize};

/// A longer side above this is scaled down first.
const LONGEST_SIDE: usize = 2000;
/// A shorter side below this is scaled up first.
const SHORTEST_SIDE: usize = 30;
/// A picture this many times wider than high, or wider, gets black bars above and below.
const WIDEST: f64 = 8.0;
/// The shorter side the detection model works at, at least.
const DETECTION_SIDE: f64 = 736.0;
/// The model halves its input five times.
const MULTIPLE: usize = 32;
/// Where scaling a thin picture up stops. The reference goes on without end; at this length the picture is less than
/// 8 pixels high for 2000 wide, and no text is that low.
const LONGEST_ENLARGED: usize = 8000;

/// The most pixels handed to the detection model: 96 MiB of floats, a page of `DETECTION_SIDE` that is 15 times as long.
/// The reference has no bound; a strip of 30 x 2000 would take it 433 MiB.
pub const MAX_DETECTION_PIXELS: usize = 8 * 1024 * 1024;

/// A picture at the size its lines are looked for and cut out, and how it got there.
#[derive(Debug)]
pub struct Page {
    /// Scaled, and between bars where it was very wide.
    pub picture: Picture,
    /// Original pixels per pixel, across and down.
    scale: [f32; 2],
    /// Height of the bar above, in pixels of `picture`.
    bar: usize,
    /// Width and height of the original.
    original: [usize; 2],
}

impl Page {
    /// Scales `original` down, then up, then adds bars, each only where it is needed.
    pub fn prepare(original: Picture) -> Self {
        let size = [original.width(), original.height()];
        let mut picture = original;
        if picture.width().max(picture.height()) > LONGEST_SIDE {
            let ratio = LONGEST_SIDE as f64 / picture.width().max(picture.height()) as f64;
            picture = scaled(&picture, ratio);
        }
        let (shorter, longer) = (picture.width().min(picture.height()), picture.width().max(picture.height()));
        if shorter < SHORTEST_SIDE {
            let ratio = SHORTEST_SIDE as f64 / shorter as f64;
            picture = scaled(&picture, ratio.min(LONGEST_ENLARGED as f64 / longer as f64));
        }
        let scale = [size[0] as f64 / picture.width() as f64, size[1] as f64 / picture.height() as f64].map(|s| s as f32);
        let bar = bar_height(picture.width(), picture.height());
        if bar > 0 {
            picture = picture.between_bars(bar);
        }
        Self { picture, scale, bar, original: size }
    }

    /// A box on `picture` as a box on the original, inside it.
    pub fn to_original(&self, quad: &Quad) -> Quad {
        let [width, height] = self.original.map(|side| side as f32);
        quad.map(|[x, y]| [(x * self.scale[0]).clamp(0.0, width), ((y - self.bar as f32) * self.scale[1]).clamp(0.0, height)])
    }
}

/// Both sides times `ratio`, to multiples of 32.
fn scaled(picture: &Picture, ratio: f64) -> Picture {
    resize(picture, to_multiple(picture.width() as f64 * ratio), to_multiple(picture.height() as f64 * ratio))
}

/// Truncated, then to the nearest multiple (a tie goes to the even one), but never 0, where the reference gives up.
fn to_multiple(side: f64) -> usize {
    let steps = (side.trunc() / MULTIPLE as f64).round_ties_even();
    (steps as usize).max(1) * MULTIPLE
}

/// Bars make the picture a quarter as high as it is wide; 0 where it needs none.
fn bar_height(width: usize, height: usize) -> usize {
    if height > SHORTEST_SIDE && width as f64 / height as f64 <= WIDEST {
        return 0;
    }
    let framed = 2 * ((width as f64 / WIDEST) as usize).max(SHORTEST_SIDE);
    framed.abs_diff(height) / 2
}

/// Width and height of the detection model's input for a page of this size, both multiples of 32: the shorter side at
/// least 736, and the whole at most `MAX_DETECTION_PIXELS`.
pub fn detection_size(width: usize, height: usize) -> (usize, usize) {
    let shorter = width.min(height).max(1) as f64;
    let ratio = (DETECTION_SIDE / shorter).max(1.0);
    let (wide, high) = (to_multiple(width as f64 * ratio), to_multiple(height as f64 * ratio));
    if wide * high <= MAX_DETECTION_PIXELS {
        return (wide, high);
    }
    let shrink = (MAX_DETECTION_PIXELS as f64 / (wide * high) as f64).sqrt();
    let down = |side: usize| (((side as f64 * shrink) as usize) / MULTIPLE).max(1) * MULTIPLE;
    (down(wide), down(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(width: usize, height: usize) -> Page {
        Page::prepare(Picture::black(width, height))
    }

    fn sides(page: &Page) -> (usize, usize) {
        (page.picture.width(), page.picture.height())
    }

    #[test]
    fn ordinary_pictures_stay_as_they_are() {
        assert_eq!(sides(&prepared(709, 132)), (709, 132));
        assert_eq!(sides(&prepared(2000, 1500)), (2000, 1500));
    }

    #[test]
    fn large_ones_are_capped_and_boxes_come_back() {
        let page = prepared(4000, 3000);
        assert_eq!(sides(&page), (1984, 1504));
        let corner = page.to_original(&[[1984.0, 1504.0]; 4])[0];
        assert_eq!(corner, [4000.0, 3000.0]);
        assert_eq!(page.to_original(&[[-5.0, 9999.0]; 4])[0], [0.0, 3000.0]);
    }

    #[test]
    fn very_wide_ones_get_bars() {
        let page = prepared(1000, 100);
        assert_eq!(sides(&page), (1000, 250));
        assert_eq!(page.to_original(&[[10.0, 75.0], [10.0, 100.0], [0.0, 0.0], [0.0, 0.0]])[1], [10.0, 25.0]);
    }

    #[test]
    fn thin_strips_stay_bounded() {
        for (width, height) in [(64_000_000, 1), (1, 64_000_000), (2000, 1), (1, 1), (40_000, 20)] {
            let page = prepared(width, height);
            let (wide, high) = sides(&page);
            assert!(wide <= LONGEST_ENLARGED && high <= LONGEST_ENLARGED, "{width} x {height}: {wide} x {high}");
            let (wide, high) = detection_size(wide, high);
            assert!(wide * high <= MAX_DETECTION_PIXELS && wide % 32 == 0 && high % 32 == 0);
        }
    }

    #[test]
    fn the_model_sees_736_at_least() {
        assert_eq!(detection_size(709, 132), (3968, 736));
        assert_eq!(detection_size(323, 430), (736, 992));
        assert_eq!(detection_size(1984, 1504), (1984, 1504));
    }
}
