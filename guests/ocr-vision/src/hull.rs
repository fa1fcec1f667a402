//! Convex hulls, and the smallest rectangle around one. Works on any finite points; scaling and rounding are the caller's.

/// A rectangle at any angle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rectangle {
    /// Its corners, in turn.
    pub corners: [[f32; 2]; 4],
    /// Its shorter side.
    pub short_side: f32,
}

/// The corners of the convex hull, in turn, without points in the middle of a side. Fewer than 3 where the points allow
/// no more.
pub fn convex_hull(mut points: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    points.sort_unstable_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    points.dedup();
    if points.len() < 3 {
        return points;
    }
    let mut hull = half(points.iter());
    let back = half(points.iter().rev());
    // Each half ends where the other begins.
    hull.pop();
    hull.extend(back);
    hull.pop();
    hull
}

/// One side of the hull of sorted points: every turn goes the same way.
fn half<'p>(points: impl Iterator<Item = &'p [f64; 2]>) -> Vec<[f64; 2]> {
    let mut chain: Vec<[f64; 2]> = Vec::new();
    for point in points {
        while let [.., a, b] = chain[..] {
            if cross(a, b, *point) > 0.0 {
                break;
            }
            chain.pop();
        }
        chain.push(*point);
    }
    chain
}

/// Twice the signed area of the triangle `a`, `b`, `c`.
fn cross(a: [f64; 2], b: [f64; 2], c: [f64; 2]) -> f64 {
    (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
}

/// The rectangle of smallest area around a convex hull: one of its sides lies on a side of the hull. None for fewer than
/// 3 corners, around which it would have no area. Takes time with the square of the corners, of which there are few: a
/// hull of whole-number points in a box of side n has on the order of n^(2/3).
pub fn smallest_rectangle(hull: &[[f64; 2]]) -> Option<Rectangle> {
    if hull.len() < 3 {
        return None;
    }
    let next = hull.iter().cycle().skip(1);
    let candidates = hull.iter().zip(next).filter_map(|(from, to)| Aligned::around(hull, *from, *to));
    // Of equal ones the last, as OpenCV's loop keeps it.
    let best = candidates.reduce(|best, other| if other.area() <= best.area() { other } else { best })?;
    Some(best.rectangle())
}

/// The hull's extent along a direction and across it.
struct Aligned {
    along: [f64; 2],
    low: [f64; 2],
    high: [f64; 2],
}

impl Aligned {
    fn around(hull: &[[f64; 2]], from: [f64; 2], to: [f64; 2]) -> Option<Self> {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let length = dx.hypot(dy);
        if length <= 0.0 || !length.is_finite() {
            return None;
        }
        let mut it = Self { along: [dx / length, dy / length], low: [f64::MAX; 2], high: [f64::MIN; 2] };
        let [u, v] = it.along;
        for point in hull {
            let seen = [point[0] * u + point[1] * v, point[1] * u - point[0] * v];
            it.low = [it.low[0].min(seen[0]), it.low[1].min(seen[1])];
            it.high = [it.high[0].max(seen[0]), it.high[1].max(seen[1])];
        }
        Some(it)
    }

    fn sides(&self) -> [f64; 2] {
        [self.high[0] - self.low[0], self.high[1] - self.low[1]]
    }

    fn area(&self) -> f64 {
        self.sides()[0] * self.sides()[1]
    }

    fn rectangle(&self) -> Rectangle {
        let at = |u: f64, v: f64| [(u * self.along[0] - v * self.along[1]) as f32, (u * self.along[1] + v * self.along[0]) as f32];
        let ([low_u, low_v], [high_u, high_v]) = (self.low, self.high);
        let corners = [at(low_u, low_v), at(high_u, low_v), at(high_u, high_v), at(low_u, high_v)];
        Rectangle { corners, short_side: self.sides()[0].min(self.sides()[1]) as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_inside_and_on_sides_are_left_out() {
        let points = vec![[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [2.0, 2.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]];
        assert_eq!(convex_hull(points).len(), 4);
    }

    #[test]
    fn a_line_has_no_rectangle() {
        assert_eq!(smallest_rectangle(&convex_hull(vec![[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])), None);
        assert_eq!(smallest_rectangle(&[]), None);
    }

    #[test]
    fn a_diamond_is_taken_at_its_own_angle() {
        let hull = convex_hull(vec![[0.0, 4.0], [8.0, 12.0], [12.0, 8.0], [4.0, 0.0]]);
        let found = smallest_rectangle(&hull).unwrap();
        assert!((found.short_side - 32f32.sqrt()).abs() < 1e-5);
        for corner in found.corners {
            assert!(hull.iter().any(|p| (p[0] as f32 - corner[0]).hypot(p[1] as f32 - corner[1]) < 1e-5), "{corner:?}");
        }
    }
}
