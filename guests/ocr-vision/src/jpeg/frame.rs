//! A picture being decoded: its components, their blocks, and the way from coefficients to pixels at the end.

use super::samples::{Plane, inverse_transform, to_rgb};
use crate::Picture;

/// One of the picture's components.
pub struct Component {
    pub id: u8,
    /// Blocks per unit, across and down: 1 or 2.
    pub across: usize,
    pub down: usize,
    /// Blocks that carry samples of the picture.
    pub columns: usize,
    pub rows: usize,
    /// Blocks in a row of storage, which holds whole units.
    pub stride: usize,
    /// Samples that belong to the picture.
    width: usize,
    height: usize,
    /// Whether it has half the picture's samples across, and down.
    halved: (bool, bool),
    quantisation: usize,
    /// The steps, taken over at its first scan: later tables may replace them.
    pub steps: Option<[i32; 64]>,
    /// Coefficients of every block in natural order, not yet multiplied by their steps.
    pub blocks: Vec<[i16; 64]>,
}

impl Component {
    /// The table its steps are in.
    pub fn table(&self) -> usize {
        self.quantisation
    }
}

/// A picture: sizes and components.
pub struct Frame {
    width: usize,
    height: usize,
    pub progressive: bool,
    pub components: Vec<Component>,
    /// Units across and down.
    pub units: (usize, usize),
}

impl Frame {
    /// From the body of a start-of-frame segment (T.81, B.2.2).
    pub fn parse(body: &[u8], progressive: bool, max_pixels: usize) -> Option<Self> {
        let &[8, h1, h0, w1, w0, count, ref list @ ..] = body else { return None };
        let (height, width) = (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
        let count = usize::from(count);
        let specified: Vec<&[u8]> = list.chunks_exact(3).take(count).collect();
        if width == 0 || height == 0 || width * height > max_pixels || specified.len() != count {
            return None;
        }
        let factors: Vec<(usize, usize)> = specified.iter().map(|c| (usize::from(c[1] >> 4), usize::from(c[1] & 15))).collect();
        let full = match factors[..] {
            // The only component is its own unit, whatever its factors.
            [_] => (1, 1),
            [luma @ ((1, 1) | (2, 1) | (2, 2)), (1, 1), (1, 1)] => luma,
            _ => return None,
        };
        if count == 3 && specified.iter().map(|c| c[0]).eq(*b"RGB") {
            return None;
        }
        let units = (width.div_ceil(8 * full.0), height.div_ceil(8 * full.1));
        let component = |(spec, factors): (&&[u8], &(usize, usize))| {
            let (across, down) = if count == 1 { (1, 1) } else { *factors };
            let (own_width, own_height) = ((width * across).div_ceil(full.0), (height * down).div_ceil(full.1));
            Component {
                id: spec[0],
                across,
                down,
                columns: own_width.div_ceil(8),
                rows: own_height.div_ceil(8),
                stride: units.0 * across,
                width: own_width,
                height: own_height,
                halved: (across < full.0, down < full.1),
                quantisation: usize::from(spec[2]),
                steps: None,
                blocks: vec![[0; 64]; units.0 * across * units.1 * down],
            }
        };
        let components = specified.iter().zip(&factors).map(component).collect();
        Some(Self { width, height, progressive, components, units })
    }

    /// The pixels. None if a component never came.
    pub fn into_picture(self) -> Option<Picture> {
        let (width, height) = (self.width, self.height);
        let planes: Option<Vec<Plane>> = self.components.into_iter().map(plane).collect();
        let rgb = to_rgb(&planes?, width, height)?;
        Picture::from_rgb(width, height, rgb)
    }
}

/// The samples of a component; its coefficients are gone after this.
fn plane(component: Component) -> Option<Plane> {
    let steps = component.steps?;
    let stride = component.stride * 8;
    let mut samples = vec![0u8; component.blocks.len() * 64];
    for (row, blocks) in samples.chunks_exact_mut(8 * stride).zip(component.blocks.chunks_exact(component.stride)) {
        for (column, block) in blocks.iter().enumerate() {
            inverse_transform(block, &steps, &mut row[column * 8..], stride);
        }
    }
    Some(Plane { samples, stride, width: component.width, height: component.height, halved: component.halved })
}
