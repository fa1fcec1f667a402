//! From coefficients to pixels: inverse cosine transform, colour to full size, colour to RGB. Whole-number arithmetic with
//! the roundings of libjpeg's accurate method, which is what makes the pixels agree.

use crate::picture::CHANNELS;

/// The samples of one component, in rows of `stride`; `width` x `height` of them belong to the picture.
pub struct Plane {
    pub samples: Vec<u8>,
    pub stride: usize,
    pub width: usize,
    pub height: usize,
    /// Whether it has half the picture's samples across, and down.
    pub halved: (bool, bool),
}

impl Plane {
    /// Row `y`, the last one for rows below it.
    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y.min(self.height - 1) * self.stride..][..self.width]
    }
}

/// Constants have this many binary digits, results between the passes `BETWEEN` more than coefficients.
const DIGITS: u32 = 13;
const BETWEEN: u32 = 2;

/// `value` with `DIGITS` binary digits.
const fn fixed(value: f64) -> i32 {
    (value * (1 << DIGITS) as f64 + 0.5) as i32
}

/// One block of samples into `output`, rows `stride` apart: Loeffler, Ligtenberg and Moschytz' transform with 11
/// multiplications ("Practical fast 1-D DCT algorithms", 1989), on columns, then on rows.
pub fn inverse_transform(block: &[i16; 64], steps: &[i32; 64], output: &mut [u8], stride: usize) {
    let mut middle = [0i32; 64];
    for column in 0..8 {
        let input = std::array::from_fn(|row| i32::from(block[row * 8 + column]).wrapping_mul(steps[row * 8 + column]));
        for (row, value) in transform(input).into_iter().enumerate() {
            middle[row * 8 + column] = rounded(value, DIGITS - BETWEEN);
        }
    }
    for (row, target) in middle.as_chunks::<8>().0.iter().zip(output.chunks_mut(stride)) {
        for (sample, value) in target.iter_mut().zip(transform(*row)) {
            // 3 digits more for the two passes' scale of 8; the samples' middle is 128.
            *sample = rounded(value, DIGITS + BETWEEN + 3).saturating_add(128).clamp(0, 255) as u8;
        }
    }
}

fn rounded(value: i32, digits: u32) -> i32 {
    value.wrapping_add(1 << (digits - 1)) >> digits
}

/// One pass over 8 values; results carry `DIGITS` more binary digits. Wraps on values no encoder makes.
fn transform(v: [i32; 8]) -> [i32; 8] {
    let times = |a: i32, b: i32| a.wrapping_mul(b);
    let sum = |a: i32, b: i32| a.wrapping_add(b);
    let less = |a: i32, b: i32| a.wrapping_sub(b);
    // Even part: a rotation of 2 and 6, sum and difference of 0 and 4.
    let turn = times(sum(v[2], v[6]), const { fixed(0.541196100) });
    let low = sum(turn, times(v[6], const { -fixed(1.847759065) }));
    let high = sum(turn, times(v[2], const { fixed(0.765366865) }));
    let (plus, minus) = (times(sum(v[0], v[4]), 1 << DIGITS), times(less(v[0], v[4]), 1 << DIGITS));
    let even = [sum(plus, high), sum(minus, low), less(minus, low), less(plus, high)];
    // Odd part: four rotations that share products.
    let shared = times(sum(sum(v[7], v[3]), sum(v[5], v[1])), const { fixed(1.175875602) });
    let outer = times(sum(v[7], v[1]), const { -fixed(0.899976223) });
    let inner = times(sum(v[5], v[3]), const { -fixed(2.562915447) });
    let threes = sum(shared, times(sum(v[7], v[3]), const { -fixed(1.961570560) }));
    let fives = sum(shared, times(sum(v[5], v[1]), const { -fixed(0.390180644) }));
    let odd = [
        sum(times(v[1], const { fixed(1.501321110) }), sum(outer, fives)),
        sum(times(v[3], const { fixed(3.072711026) }), sum(inner, threes)),
        sum(times(v[5], const { fixed(2.053119869) }), sum(inner, fives)),
        sum(times(v[7], const { fixed(0.298631336) }), sum(outer, threes)),
    ];
    std::array::from_fn(|i| if i < 4 { sum(even[i], odd[i]) } else { less(even[7 - i], odd[7 - i]) })
}

/// RGB bytes from one plane of grey, or from luma and two of colour. None for other numbers of planes.
pub fn to_rgb(planes: &[Plane], width: usize, height: usize) -> Option<Vec<u8>> {
    let mut rgb = vec![0; width * height * CHANNELS];
    let rows = rgb.chunks_exact_mut(width * CHANNELS).enumerate();
    match planes {
        [grey] => {
            for (y, target) in rows {
                for (pixel, value) in target.chunks_exact_mut(CHANNELS).zip(grey.row(y)) {
                    pixel.fill(*value);
                }
            }
        }
        [luma, blue, red] => {
            let mut colour = [Full::of(blue), Full::of(red)];
            for (y, target) in rows {
                let [cb, cr] = colour.each_mut().map(|plane| plane.row(y));
                let samples = luma.row(y).iter().zip(cb).zip(cr);
                for (pixel, ((y, cb), cr)) in target.chunks_exact_mut(CHANNELS).zip(samples) {
                    pixel.copy_from_slice(&colour_of(*y, *cb, *cr));
                }
            }
        }
        _ => return None,
    }
    Some(rgb)
}

/// ITU-R BT.601 as JFIF takes it, with 16 binary digits.
fn colour_of(y: u8, cb: u8, cr: u8) -> [u8; CHANNELS] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91_881 * cr + HALF) >> 16);
    let green = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// A colour plane at the picture's size, row by row: each new sample lies a quarter of the way to the neighbour.
struct Full<'p> {
    plane: &'p Plane,
    /// The row being made, with room for one sample more than the picture is wide.
    row: Vec<u8>,
    /// Rows mixed, times 4.
    mixed: Vec<i32>,
}

impl<'p> Full<'p> {
    fn of(plane: &'p Plane) -> Self {
        Self { plane, row: vec![0; 2 * plane.width], mixed: vec![0; plane.width] }
    }

    /// Row `y` of the picture.
    fn row(&mut self, y: usize) -> &[u8] {
        // Too narrow to have neighbours on both sides: repeated.
        let narrow = self.plane.width <= 2;
        match self.plane.halved {
            (false, _) => return self.plane.row(y),
            (true, high) if narrow => {
                let row = self.plane.row(if high { y / 2 } else { y });
                self.row.iter_mut().enumerate().for_each(|(x, target)| *target = row[x / 2]);
            }
            (true, false) => {
                let row = self.plane.row(y);
                self.mixed.iter_mut().zip(row).for_each(|(mixed, value)| *mixed = i32::from(*value));
                stretch(&self.mixed, [1, 2], 2, &mut self.row);
            }
            (true, true) => {
                let near = self.plane.row(y / 2);
                let far = self.plane.row(if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 });
                for (mixed, (near, far)) in self.mixed.iter_mut().zip(near.iter().zip(far)) {
                    *mixed = 3 * i32::from(*near) + i32::from(*far);
                }
                stretch(&self.mixed, [8, 7], 4, &mut self.row);
            }
        }
        &self.row
    }
}

/// Two samples from each: three parts of it and one of the neighbour. What is added before the last `digits` are cut off differs
/// from left to right, so that roundings do not all go one way.
fn stretch(values: &[i32], add: [i32; 2], digits: u32, output: &mut [u8]) {
    let last = values.len() - 1;
    for (x, pair) in output.chunks_exact_mut(2).enumerate() {
        let own = 3 * values[x];
        let (left, right) = (values[x.saturating_sub(1)], values[(x + 1).min(last)]);
        pair[0] = ((own + left + add[0]) >> digits) as u8;
        pair[1] = ((own + right + add[1]) >> digits) as u8;
    }
}
