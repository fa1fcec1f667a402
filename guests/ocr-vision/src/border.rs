//! From the detection model's map to the outlines of its regions: threshold, dilation by one pixel to the right and down,
//! then the hull of every region and of every hole in one, as OpenCV's `findContours` (list mode) would hand them over.
//! Borders are not traced: only their hulls are needed, and those follow from the runs of each row.

use crate::hull::convex_hull;

/// The detection model's output for one picture: how surely each pixel is text, 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    width: usize,
    height: usize,
    values: &'a [f32],
}

/// Values that do not make a map.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a map of {width} x {height} cannot have {values} values")]
pub struct MapError {
    width: usize,
    height: usize,
    values: usize,
}

impl<'a> Map<'a> {
    /// `values` in rows, `width * height` of them, at least one.
    pub fn new(width: usize, height: usize, values: &'a [f32]) -> Result<Self, MapError> {
        let fits = width.checked_mul(height).is_some_and(|n| n > 0 && n == values.len());
        let fits = fits && u32::try_from(values.len()).is_ok();
        if fits { Ok(Self { width, height, values }) } else { Err(MapError { width, height, values: values.len() }) }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The values of row `y`, which must exist.
    pub(crate) fn row(&self, y: usize) -> &[f32] {
        &self.values[y * self.width..][..self.width]
    }
}

/// A stretch of equal pixels in one row: `start..end`.
#[derive(Clone, Copy, Debug)]
struct Run {
    row: u32,
    start: u32,
    end: u32,
    ink: bool,
}

/// Convex hulls of all regions above `threshold` and of all holes in them (for a hole: of the ink around it). At most
/// `limit` of them, those whose border starts furthest down, then furthest right: the ones OpenCV lists first.
pub fn borders(map: &Map, threshold: f32, limit: usize) -> Vec<Vec<[f64; 2]>> {
    let (runs, mut sets) = label(map, threshold);
    let mut members: Vec<(u32, u32)> = (0..runs.len() as u32).map(|i| (sets.root(i + 1), i)).collect();
    members.retain(|(root, _)| *root != OUTSIDE);
    members.sort_unstable();
    let mut regions: Vec<&[(u32, u32)]> = members.chunk_by(|a, b| a.0 == b.0).collect();
    regions.sort_unstable_by_key(|region| std::cmp::Reverse(start(&runs[region[0].1 as usize])));
    regions.truncate(limit);
    regions.into_iter().map(|region| hull_of(region.iter().map(|(_, i)| &runs[*i as usize]))).collect()
}

/// Where a scan from the top left meets a border: a hole's begins at the ink to its left.
fn start(run: &Run) -> (u32, u32) {
    (run.row, if run.ink { 2 * run.start } else { (2 * run.start).saturating_sub(1) })
}

fn hull_of<'r>(runs: impl Iterator<Item = &'r Run>) -> Vec<[f64; 2]> {
    let mut points = Vec::new();
    for run in runs {
        let (y, left, right) = (f64::from(run.row), f64::from(run.start), f64::from(run.end - 1));
        if run.ink {
            points.extend([[left, y], [right, y]]);
        } else {
            // The ink that touches this piece of the hole from all four sides.
            points.extend([[left - 1.0, y], [right + 1.0, y]]);
            points.extend([[left, y - 1.0], [right, y - 1.0], [left, y + 1.0], [right, y + 1.0]]);
        }
    }
    convex_hull(points)
}

/// The set of everything that is not inside a region.
const OUTSIDE: u32 = 0;

/// Which runs belong together; run `i` is element `i + 1`, element 0 is the outside.
struct Sets {
    parent: Vec<u32>,
}

impl Sets {
    fn root(&mut self, mut of: u32) -> u32 {
        while self.parent[of as usize] != of {
            let up = self.parent[of as usize];
            self.parent[of as usize] = self.parent[up as usize];
            of = up;
        }
        of
    }

    /// The smaller number becomes the root, so that a set's root is its first run, and the outside stays the outside.
    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b) as usize] = a.min(b);
    }
}

/// All runs of the thresholded and dilated map, row by row, each row covered from end to end, and the sets they form:
/// ink joins over sides and corners, blanks over sides only, blanks at the picture's edge join the outside.
fn label(map: &Map, threshold: f32) -> (Vec<Run>, Sets) {
    let width = map.width();
    let mut runs: Vec<Run> = Vec::new();
    let mut sets = Sets { parent: vec![OUTSIDE] };
    let (mut above, mut row, mut ink) = (vec![0u8; width], vec![0u8; width], vec![0u8; width]);
    let mut previous = 0..0;
    for y in 0..map.height() {
        widened(map.row(y), threshold, &mut row);
        for ((both, a), b) in ink.iter_mut().zip(&above).zip(&row) {
            *both = a | b;
        }
        std::mem::swap(&mut above, &mut row);
        let first = runs.len();
        let mut start = 0;
        for piece in ink.chunk_by(|a, b| a == b) {
            let end = start + piece.len();
            let element = sets.parent.len() as u32;
            sets.parent.push(element);
            let run = Run { row: y as u32, start: start as u32, end: end as u32, ink: piece[0] == 1 };
            let at_edge = start == 0 || end == width || y == 0 || y + 1 == map.height();
            if !run.ink && at_edge {
                sets.join(element, OUTSIDE);
            }
            runs.push(run);
            start = end;
        }
        join_rows(&runs, previous, first..runs.len(), &mut sets);
        previous = first..runs.len();
    }
    (runs, sets)
}

/// 1 where the value or its left neighbour is above the threshold.
fn widened(values: &[f32], threshold: f32, output: &mut [u8]) {
    output[0] = u8::from(values[0] > threshold);
    for (target, pair) in output[1..].iter_mut().zip(values.windows(2)) {
        *target = u8::from(pair[0] > threshold) | u8::from(pair[1] > threshold);
    }
}

/// Joins the runs of one row (`lower`) with those of the row above it, both covering the whole width.
fn join_rows(runs: &[Run], upper: std::ops::Range<usize>, lower: std::ops::Range<usize>, sets: &mut Sets) {
    let (mut i, mut j) = (upper.start, lower.start);
    let mut join_if = |i: usize, j: usize, kind_counts: bool| {
        if i < upper.end && j < lower.end && runs[i].ink == runs[j].ink && (kind_counts || runs[i].ink) {
            sets.join(i as u32 + 1, j as u32 + 1);
        }
    };
    while i < upper.end && j < lower.end {
        join_if(i, j, true);
        let (a, b) = (runs[i].end, runs[j].end);
        if a == b {
            // Two boundaries above each other: ink may touch over the corner.
            join_if(i, j + 1, false);
            join_if(i + 1, j, false);
        }
        i += usize::from(a <= b);
        j += usize::from(b <= a);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Borders of a drawing: `#` is ink. One pixel wide strokes come out 2 wide, by the dilation.
    fn borders_of(rows: &[&str]) -> Vec<Vec<[f64; 2]>> {
        let values: Vec<f32> = rows.iter().flat_map(|row| row.bytes().map(|b| if b == b'#' { 0.9 } else { 0.1 })).collect();
        borders(&Map::new(rows[0].len(), rows.len(), &values).unwrap(), 0.3, 1000)
    }

    fn extent(hull: &[[f64; 2]]) -> [f64; 4] {
        let of = |axis: usize| hull.iter().map(move |p| p[axis]);
        let low = |axis| of(axis).fold(f64::MAX, f64::min);
        let high = |axis| of(axis).fold(f64::MIN, f64::max);
        [low(0), low(1), high(0), high(1)]
    }

    #[test]
    fn a_pixel_grows_right_and_down() {
        let found = borders_of(&["....", ".#..", "....", "...."]);
        assert_eq!(found.iter().map(|h| extent(h)).collect::<Vec<_>>(), [[1.0, 1.0, 2.0, 2.0]]);
    }

    #[test]
    fn corners_connect_ink() {
        // After dilation the two blocks touch at a corner only.
        let found = borders_of(&["#....", ".....", "..#..", "....."]);
        assert_eq!(found.len(), 1);
        assert_eq!(extent(&found[0]), [0.0, 0.0, 3.0, 3.0]);
    }

    #[test]
    fn a_ring_has_an_outer_and_an_inner_border() {
        let found = borders_of(&["......", ".####.", ".#..#.", ".#..#.", ".####.", "......"]);
        let extents: Vec<_> = found.iter().map(|h| extent(h)).collect();
        assert_eq!(extents, [[2.0, 2.0, 4.0, 4.0], [1.0, 1.0, 5.0, 5.0]]);
    }

    #[test]
    fn a_bay_open_to_the_edge_is_no_hole() {
        assert_eq!(borders_of(&["######", "#....#", "#....#"]).len(), 1);
    }

    #[test]
    fn lower_regions_come_first_and_the_limit_cuts() {
        let values = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let map = Map::new(3, 5, &values).unwrap();
        let found = borders(&map, 0.3, 1);
        assert_eq!(found.len(), 1);
        assert_eq!(extent(&found[0])[1], 4.0);
    }

    #[test]
    fn values_must_fit() {
        assert!(Map::new(2, 2, &[0.0; 3]).is_err());
        assert!(Map::new(0, 0, &[]).is_err());
    }
}
