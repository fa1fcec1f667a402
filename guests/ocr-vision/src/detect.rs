//! From the detection model's map to the text lines of a page, in reading order. Runs no model.

use crate::border::{Map, borders};
use crate::grow::grow;
use crate::hull::{convex_hull, smallest_rectangle};
use crate::order::{clockwise, reading_order};
use crate::score::mean_inside;
use crate::{Page, Quad};

/// Regions beyond this many are not looked at.
const MAX_CANDIDATES: usize = 1000;
/// A region whose shorter side on the map is below this is noise.
const MIN_SIDE: f32 = 3.0;
/// A line whose shorter side after growing is below this is noise.
const MIN_GROWN_SIDE: f32 = MIN_SIDE + 2.0;
/// A line of this many pixels or fewer on the page, either way, cannot be read.
const UNREADABLE: i32 = 3;

/// What counts as text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectionRules {
    /// Map values above this are ink, 0 to 1.
    pub threshold: f32,
    /// Regions with a lower mean are dropped, 0 to 1.
    pub box_threshold: f64,
    /// How far regions grow, as a multiple of area / perimeter.
    pub unclip: f64,
}

impl Default for DetectionRules {
    /// The reference's: 0.3, 0.5, 1.6.
    fn default() -> Self {
        Self { threshold: 0.3, box_threshold: 0.5, unclip: 1.6 }
    }
}

/// One text line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detected {
    /// Where it is, in pixels of the page (not of the original).
    pub quad: Quad,
    /// Mean of the map inside, 0 to 1.
    pub score: f64,
}

/// The text lines on `page`, top to bottom and left to right. `map` covers the page at any scale.
pub fn find_lines(map: &Map, page: &Page, rules: &DetectionRules) -> Vec<Detected> {
    let size = [page.picture.width(), page.picture.height()];
    let hulls = borders(map, rules.threshold, MAX_CANDIDATES);
    let mut lines: Vec<Detected> = hulls.iter().filter_map(|hull| line_of(hull, map, size, rules)).collect();
    // The reference meets them in this order, and its sort keeps it for equal corners.
    reading_order(&mut lines, |line| line.quad[0]);
    lines
}

fn line_of(hull: &[[f64; 2]], map: &Map, size: [usize; 2], rules: &DetectionRules) -> Option<Detected> {
    let core = smallest_rectangle(hull).filter(|core| core.short_side >= MIN_SIDE)?;
    let score = mean_inside(map, &core.corners);
    if score < rules.box_threshold {
        return None;
    }
    let grown = smallest_rectangle(&convex_hull(grow(&core.corners, rules.unclip)))?;
    if grown.short_side < MIN_GROWN_SIDE {
        return None;
    }
    let scales = [(map.width(), size[0]), (map.height(), size[1])];
    let quad = clockwise(grown.corners.map(|corner| on_page(corner, scales)));
    readable(&quad).then_some(Detected { quad, score })
}

/// A point on the map as a pixel of the page: nearest, ties to even, and not beyond the last one.
fn on_page(corner: [f32; 2], scales: [(usize, usize); 2]) -> [f32; 2] {
    [0, 1].map(|axis| {
        let (from, to) = scales[axis];
        (corner[axis] / from as f32 * to as f32).round_ties_even().clamp(0.0, (to - 1) as f32)
    })
}

fn readable(quad: &Quad) -> bool {
    let length = |a: [f32; 2], b: [f32; 2]| (a[0] - b[0]).hypot(a[1] - b[1]) as i32;
    length(quad[0], quad[1]) > UNREADABLE && length(quad[0], quad[3]) > UNREADABLE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;

    fn map_with(blocks: &[[usize; 4]], value: f32) -> Vec<f32> {
        let mut values = vec![0.0; 200 * 100];
        for [left, top, right, bottom] in blocks {
            for y in *top..*bottom {
                values[y * 200 + left..y * 200 + right].fill(value);
            }
        }
        values
    }

    fn lines(values: &[f32]) -> Vec<Detected> {
        let page = Page::prepare(Picture::black(400, 200));
        find_lines(&Map::new(200, 100, values).unwrap(), &page, &DetectionRules::default())
    }

    #[test]
    fn blocks_become_lines_at_the_pages_scale() {
        let found = lines(&map_with(&[[120, 21, 180, 31], [20, 20, 80, 30]], 0.9));
        assert_eq!(found.len(), 2);
        assert!(found[0].quad[0][0] < found[1].quad[0][0], "left one first: {found:?}");
        let [left, top] = found[0].quad[0];
        // 60 x 10 after dilation, grown by 600 * 1.6 / 140 = 6.9, times 2.
        assert!((left - 26.0).abs() <= 2.0 && (top - 26.0).abs() <= 2.0, "{found:?}");
        assert!(found[0].score > 0.8 && found[0].score <= 0.9);
    }

    #[test]
    fn faint_and_tiny_regions_are_no_lines() {
        assert_eq!(lines(&map_with(&[[20, 20, 80, 30]], 0.4)), []);
        assert_eq!(lines(&map_with(&[[20, 20, 22, 22]], 0.9)), []);
        assert_eq!(lines(&map_with(&[], 0.9)), []);
        assert_eq!(lines(&[f32::NAN; 20_000]), []);
    }
}
