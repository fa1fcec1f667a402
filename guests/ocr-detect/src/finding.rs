//! What the detection step says it found: its result, and the source of the tasks that follow.

use ocr_vision::Quad;
use serde::{Deserialize, Serialize};
use wasm_worker_guest::{Error, NextTask};

/// The result: `result.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Pixels in a row of the upright picture, its EXIF orientation applied.
    pub width: usize,
    /// Its rows.
    pub height: usize,
    /// From top to bottom, and from left to right.
    pub lines: Vec<Line>,
}

/// One text line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// Its corners in pixels of the upright picture, clockwise from the top left.
    #[serde(rename = "box")]
    pub quad: Quad,
    /// How sure the model is that it is text, 0 to 1.
    pub score: f64,
    /// Its place in reading order, from 0.
    pub index: usize,
    /// Where its cut-out is.
    pub crop: String,
    /// How wide the recognition input is to be made, in pixels at height 48.
    pub width: usize,
}

/// What the next step gets as params.
#[derive(Serialize)]
struct Params<'a> {
    #[serde(rename = "box")]
    quad: &'a Quad,
    index: usize,
    width: usize,
}

/// For `metrics.json`.
#[derive(Serialize)]
pub struct Figures {
    lines: usize,
    pixels: usize,
}

impl Finding {
    /// How much there was to look at, and how much was found.
    pub fn figures(&self) -> Figures {
        Figures { lines: self.lines.len(), pixels: self.width * self.height }
    }
}

impl Line {
    /// The task that reads it. Keys sort in reading order.
    pub fn task(&self) -> Result<NextTask, Error> {
        let params = Params { quad: &self.quad, index: self.index, width: self.width };
        NextTask::new(format!("{:03}", self.index)).input_uri(&self.crop).params(&params)
    }
}
