//! The order of a box's corners, and of the boxes on a page.

use crate::Quad;

/// Boxes whose tops differ by less than this many pixels stand in one row.
const ROW_HEIGHT: f32 = 10.0;

/// The corners from the top left one clockwise: the two on the left, the two on the right, each pair from top to bottom.
pub fn clockwise(mut corners: Quad) -> Quad {
    corners.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let [left, right] = [[corners[0], corners[1]], [corners[2], corners[3]]].map(|mut pair| {
        pair.sort_by(|a, b| a[1].total_cmp(&b[1]));
        pair
    });
    [left[0], right[0], right[1], left[1]]
}

/// Sorts items from top to bottom and, within a row, from left to right, by the first corner of their box. A neighbour
/// swap, not a true sort: rows lean, and each box is compared with the one before it only.
pub fn reading_order<T>(items: &mut [T], corner: impl Fn(&T) -> [f32; 2]) {
    items.sort_by(|a, b| {
        let ([ax, ay], [bx, by]) = (corner(a), corner(b));
        ay.total_cmp(&by).then(ax.total_cmp(&bx))
    });
    for last in 1..items.len() {
        for at in (1..=last).rev() {
            let ([x, y], [left_x, left_y]) = (corner(&items[at]), corner(&items[at - 1]));
            if (y - left_y).abs() >= ROW_HEIGHT || x >= left_x {
                break;
            }
            items.swap(at - 1, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_go_round_from_the_top_left() {
        let expected = [[1.0, 2.0], [9.0, 1.0], [10.0, 5.0], [2.0, 6.0]];
        for turn in 0..4 {
            let mut corners = expected;
            corners.rotate_left(turn);
            assert_eq!(clockwise(corners), expected);
        }
    }

    #[test]
    fn a_leaning_row_is_read_from_the_left() {
        let mut corners = vec![[300.0, 8.0], [10.0, 40.0], [100.0, 12.0], [5.0, 16.0]];
        reading_order(&mut corners, |c| *c);
        assert_eq!(corners, [[5.0, 16.0], [100.0, 12.0], [300.0, 8.0], [10.0, 40.0]]);
    }
}
