//! Last step of the OCR pipeline: what the lines say, put together in reading order, and the picture with their boxes drawn.
//!
//! Runs once all lines of a picture have ended. A line whose task failed is missing from the text, logged and counted; the
//! page is still worth having.

use ocr_vision::{Quad, decode, outline};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasm_worker_guest::context::{self, Level};
use wasm_worker_guest::{End, Error, Hooks, Input, Nothing, Output, Setup, Task, storage};

/// Name of the drawing among the task's outputs.
const DRAWING: &str = "annotated.png";

/// The step's settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Lines with a lower score are left out, 0 to 1.
    text_score: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { text_score: 0.5 }
    }
}

/// What the recognition step says about a line.
#[derive(Debug, Deserialize)]
struct Line {
    text: String,
    score: f64,
    #[serde(rename = "box")]
    quad: Quad,
    index: u32,
}

/// The result: `result.json`.
#[derive(Debug, Serialize)]
struct Page {
    /// All lines, one under the other.
    text: String,
    lines: Vec<Kept>,
}

/// A line of the result.
#[derive(Debug, Serialize)]
struct Kept {
    /// Its corners in pixels of the upright picture, clockwise from the top left.
    #[serde(rename = "box")]
    quad: Quad,
    text: String,
    score: f64,
}

/// For `metrics.json`.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Lines in the result.
    lines: u32,
    /// Lines left out for their score.
    unsure: u32,
    /// Lines whose task did not end well, or left nothing to read.
    lost: u32,
}

struct Assemble {
    text_score: f64,
}

impl Hooks for Assemble {
    type Config = Config;
    type Params = Nothing;
    const NAME: &str = "ocr-assemble";

    fn load_pipeline(setup: Setup<Config>) -> Result<Self, Error> {
        let text_score = setup.config.text_score;
        if !(0.0..=1.0).contains(&text_score) {
            return Err(Error::invalid("/text_score", format!("{text_score} is not between 0 and 1")));
        }
        Ok(Self { text_score })
    }

    fn process(&mut self, task: &Task<Nothing>) -> Result<Output, Error> {
        let mut figures = Figures::default();
        let lines = self.lines(&mut figures);
        draw(task, &lines)?;
        let text = lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n");
        let lines = lines.into_iter().map(|Line { quad, text, score, .. }| Kept { quad, text, score }).collect();
        Output::json(&Page { text, lines })?.metrics(&figures)
    }
}

impl Assemble {
    /// The lines good enough, in the order the detection step gave them.
    fn lines(&self, figures: &mut Figures) -> Vec<Line> {
        let mut lines = Vec::new();
        for input in context::inputs() {
            match line_of(&input) {
                Err(reason) => {
                    figures.lost += 1;
                    context::log_with(
                        Level::Warn,
                        &format!("line {} is missing: {reason}", input.key),
                        &Fields { task_id: &input.task_id },
                    );
                }
                Ok(line) if line.score < self.text_score => figures.unsure += 1,
                Ok(line) => lines.push(line),
            }
        }
        lines.sort_by_key(|line| line.index);
        figures.lines = lines.len() as u32;
        lines
    }
}

/// Fields of a warning.
#[derive(Serialize)]
struct Fields<'a> {
    task_id: &'a str,
}

/// What a finished task says; else why it says nothing.
fn line_of(input: &Input) -> Result<Line, String> {
    match (input.end, &input.payload) {
        (End::Done, Some(payload)) => payload.parse().map_err(|error| error.to_string()),
        (End::Done, None) => Err("its task left no result".to_owned()),
        (End::Dead, _) => Err("its task failed".to_owned()),
        (End::Cancelled, _) => Err("its task was cancelled".to_owned()),
    }
}

/// Draws the boxes on the picture and stores it.
fn draw(task: &Task<Nothing>, lines: &[Line]) -> Result<(), Error> {
    let mut picture = decode(&task.read_input()?).map_err(|error| Error::invalid("", error.to_string()))?;
    for line in lines {
        outline(&mut picture, &line.quad);
    }
    let file = picture.to_png().map_err(|error| Error::fatal("encode", error.to_string()))?;
    storage::write(DRAWING, "image/png", &file)?;
    Ok(())
}

wasm_worker_guest::export!(Assemble);

#[cfg(test)]
mod tests;
