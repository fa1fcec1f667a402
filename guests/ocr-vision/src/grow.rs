//! Growing a text region: the model marks the core of a line, and the line is that core plus a margin all round. Corners
//! are rounded on whole-number coordinates in the steps of the Clipper library (its round join at arc tolerance 0.25),
//! so that the rectangle drawn around the result has the same corners as the reference's.

use std::f64::consts::TAU;

use crate::Quad;

/// How far a rounded corner may lie inside the true circle, in pixels.
const ARC_TOLERANCE: f64 = 0.25;

/// Points of `quad` grown on all sides by area * `ratio` / perimeter; empty if it has no area on whole-number coordinates.
/// They are not in turn: take their hull.
pub fn grow(quad: &Quad, ratio: f64) -> Vec<[f64; 2]> {
    let exact = quad.map(|corner| corner.map(f64::from));
    let distance = area(&exact).abs() * ratio / perimeter(&exact);
    let mut corners: Vec<[f64; 2]> = exact.iter().map(|corner| corner.map(f64::trunc)).collect();
    corners.dedup();
    if corners.len() > 1 && corners.first() == corners.last() {
        corners.pop();
    }
    let turn = area(&corners);
    if corners.len() < 3 || turn == 0.0 || !distance.is_finite() {
        return Vec::new();
    }
    if turn < 0.0 {
        corners.reverse();
    }
    let arc = Arc::of(distance);
    let normals: Vec<[f64; 2]> = edges(&corners).map(|(a, b)| normal(a, b)).collect();
    let before = normals.iter().cycle().skip(normals.len() - 1);
    let mut points = Vec::new();
    for ((corner, after), before) in corners.iter().zip(&normals).zip(before) {
        arc.round(*corner, *before, *after, &mut points);
    }
    points
}

fn edges(corners: &[[f64; 2]]) -> impl Iterator<Item = ([f64; 2], [f64; 2])> {
    corners.iter().copied().zip(corners.iter().copied().cycle().skip(1))
}

/// Signed: positive when the corners turn from +x towards +y.
fn area(corners: &[[f64; 2]]) -> f64 {
    edges(corners).map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum::<f64>() / 2.0
}

fn perimeter(corners: &[[f64; 2]]) -> f64 {
    edges(corners).map(|(a, b)| (b[0] - a[0]).hypot(b[1] - a[1])).sum()
}

/// Points outwards of an edge of a polygon with positive area; length 1.
fn normal(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let length = dx.hypot(dy);
    [dy / length, -dx / length]
}

/// A circle as a polygon whose sides stay within the tolerance.
struct Arc {
    radius: f64,
    steps_per_radian: f64,
    /// Cosine and sine of one step.
    step: [f64; 2],
}

impl Arc {
    fn of(radius: f64) -> Self {
        let tolerance = ARC_TOLERANCE.min(radius * 0.25);
        let steps = (TAU / 2.0 / (1.0 - tolerance / radius).acos()).min(radius * TAU / 2.0);
        let (sine, cosine) = (TAU / steps).sin_cos();
        Self { radius, steps_per_radian: steps / TAU, step: [cosine, sine] }
    }

    /// The points around one corner, from the normal of the edge before it to that of the edge behind it.
    fn round(&self, corner: [f64; 2], before: [f64; 2], after: [f64; 2], points: &mut Vec<[f64; 2]>) {
        let out = |normal: [f64; 2]| [0, 1].map(|axis| (corner[axis] + normal[axis] * self.radius).round());
        let sine = (before[0] * after[1] - after[0] * before[1]).clamp(-1.0, 1.0);
        let cosine = before[0] * after[0] + before[1] * after[1];
        points.push(out(before));
        if (sine * self.radius).abs() < 1.0 && cosine > 0.0 {
            // Straight on: one point is enough.
            return;
        }
        let steps = (self.steps_per_radian * sine.atan2(cosine).abs()).round().max(1.0) as usize;
        let [cos, sin] = self.step;
        let mut normal = before;
        for _ in 1..steps {
            normal = [normal[0] * cos - normal[1] * sin, normal[0] * sin + normal[1] * cos];
            points.push(out(normal));
        }
        points.push(out(after));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hull::{convex_hull, smallest_rectangle};

    #[test]
    fn a_line_grows_by_area_over_perimeter() {
        // 100 x 20: 2000 * 1.6 / 240 is 13.3 on each side.
        let quad = [[10.0, 50.0], [110.0, 50.0], [110.0, 70.0], [10.0, 70.0]];
        for mut corners in [quad, [quad[3], quad[2], quad[1], quad[0]]] {
            let hull = convex_hull(grow(&corners, 1.6));
            let grown = smallest_rectangle(&hull).unwrap();
            corners.sort_by(|a, b| a[0].total_cmp(&b[0]));
            assert!((grown.short_side - 46.0).abs() <= 1.0, "{grown:?}");
            let left = grown.corners.iter().map(|c| c[0]).fold(f32::MAX, f32::min);
            assert!((left - -3.0).abs() <= 1.0, "{grown:?}");
        }
    }

    #[test]
    fn what_has_no_area_does_not_grow() {
        assert!(grow(&[[1.2, 1.3], [1.4, 1.3], [1.4, 1.6], [1.2, 1.6]], 1.6).is_empty());
        assert!(grow(&[[0.0; 2]; 4], 1.6).is_empty());
        assert!(grow(&[[f32::NAN; 2]; 4], 1.6).is_empty());
    }
}
