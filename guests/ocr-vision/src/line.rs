//! What the angle and the recognition model take for one text line, and how wide that is.

use crate::tensor::planes;
use crate::{Picture, resize};

/// Height of both models' input.
pub const LINE_HEIGHT: usize = 48;
/// Width of the angle model's input.
pub const ANGLE_WIDTH: usize = 192;
/// The recognition model's input is at least this wide.
pub const MIN_LINE_WIDTH: usize = 320;
/// And at most this wide; longer lines are squeezed. 166 times the height: some 300 letters, more than a line of print has.
/// The reference has no bound, and the model's memory grows with the square of the width.
pub const MAX_LINE_WIDTH: usize = 8000;
/// The reference recognises this many lines at once.
const BATCH: usize = 6;

/// Width over height.
fn ratio(size: (usize, usize)) -> f64 {
    size.0 as f64 / size.1.max(1) as f64
}

/// Width of the recognition input for one line of `size` (width, height) by itself.
pub fn line_width(size: (usize, usize)) -> usize {
    width_of(ratio(size))
}

fn width_of(ratio: f64) -> usize {
    ((LINE_HEIGHT as f64 * ratio) as usize).clamp(MIN_LINE_WIDTH, MAX_LINE_WIDTH)
}

/// Width of the recognition input for each line of a page, given their sizes. The reference sorts lines by ratio, takes them
/// in batches of 6 and pads a batch to its widest line. The padding is not neutral: the model sees all of it at once, and
/// on a photo of print every third line came out with other blanks without it. So each line is told its batch's width.
pub fn batch_widths(sizes: &[(usize, usize)]) -> Vec<usize> {
    let mut by_ratio: Vec<usize> = (0..sizes.len()).collect();
    by_ratio.sort_by(|a, b| ratio(sizes[*a]).total_cmp(&ratio(sizes[*b])));
    let mut widths = vec![MIN_LINE_WIDTH; sizes.len()];
    for batch in by_ratio.chunks(BATCH) {
        let widest = batch.iter().map(|i| ratio(sizes[*i])).fold(0.0, f64::max);
        for i in batch {
            widths[*i] = width_of(widest);
        }
    }
    widths
}

/// The recognition model's input: `[1, 3, 48, width]` floats as bytes, the line at height 48 on the left, zeros behind it. A width outside
/// `MIN_LINE_WIDTH` to `MAX_LINE_WIDTH` is brought inside; the one used is returned.
pub fn line_input(line: &Picture, width: usize) -> (usize, Vec<u8>) {
    let width = width.clamp(MIN_LINE_WIDTH, MAX_LINE_WIDTH);
    (width, padded(line, width))
}

/// The angle model's input: `[1, 3, 48, 192]` floats as bytes, longer lines squeezed.
pub fn angle_input(line: &Picture) -> Vec<u8> {
    padded(line, ANGLE_WIDTH)
}

fn padded(line: &Picture, width: usize) -> Vec<u8> {
    let own = (LINE_HEIGHT as f64 * ratio((line.width(), line.height()))).ceil();
    planes(&resize(line, (own as usize).min(width), LINE_HEIGHT), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_share_the_width_of_their_batch() {
        let mut sizes = vec![(100, 10); 6];
        sizes.push((300, 10));
        assert_eq!(batch_widths(&sizes), [480, 480, 480, 480, 480, 480, 1440]);
        sizes[0] = (400, 10);
        assert_eq!(batch_widths(&sizes), [1920, 1440, 1440, 1440, 1440, 1440, 1440]);
        assert_eq!(batch_widths(&[(10, 10)]), [MIN_LINE_WIDTH]);
        assert_eq!(batch_widths(&[]), []);
        assert_eq!(line_width((2000, 4)), MAX_LINE_WIDTH);
    }

    #[test]
    fn the_line_stands_left_and_zeros_behind_it() {
        let white = Picture::from_rgb(20, 10, vec![255; 600]).unwrap();
        let (width, input) = line_input(&white, 0);
        assert_eq!((width, input.len()), (320, 4 * 3 * 48 * 320));
        let one = 1f32.to_le_bytes();
        let filled = |row: &[u8]| row[..4 * 96].chunks(4).all(|v| v == one) && row[4 * 96..].iter().all(|b| *b == 0);
        assert!(input.chunks(4 * 320).all(filled));
        assert_eq!(angle_input(&white).len(), 4 * 3 * 48 * 192);
    }
}
