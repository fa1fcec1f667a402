//! Image geometry for reading text with PP-OCR models: decode, scale, find lines, cut them out, turn scores into text.
//!
//! Pure: arrays in, values out. No storage, no models, no tasks; those belong to the three services that use it. Constants
//! and the order of steps are those of the Python package `rapidocr-onnxruntime` 1.4.4, and the arithmetic rounds as OpenCV
//! does, because a line box that is off by a pixel is read differently. Where the two part on purpose, the item says so.

mod border;
mod crop;
mod ctc;
mod decode;
mod detect;
mod draw;
mod grow;
mod hull;
mod jpeg;
mod line;
mod order;
mod page;
mod picture;
mod resize;
mod score;
mod tensor;

pub use border::{Map, MapError, borders};
pub use crop::cut_out;
pub use ctc::{LabelError, Labels, Reading, ScoreError};
pub use decode::{DecodeError, MAX_PIXELS, decode};
pub use detect::{Detected, DetectionRules, find_lines};
pub use draw::outline;
pub use grow::grow;
pub use hull::{Rectangle, convex_hull, smallest_rectangle};
pub use line::{ANGLE_WIDTH, LINE_HEIGHT, MAX_LINE_WIDTH, MIN_LINE_WIDTH, angle_input, batch_widths, line_input, line_width};
pub use order::{clockwise, reading_order};
pub use page::{MAX_DETECTION_PIXELS, Page, detection_size};
pub use picture::{EncodeError, Picture};
pub use resize::resize;
pub use score::mean_inside;
pub use tensor::planes;

/// Four corners of a text line in pixels, `[x, y]` each: top left, top right, bottom right, bottom left.
pub type Quad = [[f32; 2]; 4];
