//! Second step of the OCR pipeline: one cut-out text line in, its text out. A line that stands on its head is turned first.
//!
//! Lines that say nothing come out as empty text with score 0; whether a score is good enough is for the last step to judge.

use ocr_vision::{ANGLE_WIDTH, LINE_HEIGHT, Labels, Picture, Quad, angle_input, decode, line_input, line_width};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasm_worker_guest::inference::{Element, Graph, Tensor};
use wasm_worker_guest::{Error, Hooks, Output, Setup, Task, storage};

/// The models' short names in the pipeline file, and the input both take: `[1, 3, 48, width]` floats.
const ANGLE: &str = "cls";
const TEXT: &str = "rec";
const INPUT: &str = "x";

/// Among the addresses the step may read, the list of characters is the first that ends so.
const LABELS_FILE: &str = "labels.txt";
/// The host's list of those addresses among the extras of the setup: a JSON array, in the order of `grant.read`.
const GRANTS: &str = "grants";

/// The step's settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Address of the list of characters, one per line, in the order of the model's classes. By default the first address
    /// ending in `labels.txt` that the step is granted to read.
    labels: Option<String>,
    /// A line is turned when the angle model is surer than this that it stands on its head, 0 to 1.
    turn_threshold: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { labels: None, turn_threshold: 0.9 }
    }
}

/// What the detection step knows about the line. All of it may be left out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Params {
    /// Its corners on the picture, handed through.
    #[serde(rename = "box")]
    quad: Option<Quad>,
    /// Its place in reading order, handed through.
    index: u32,
    /// Width of the recognition input in pixels at height 48: lines recognised together in the reference share one. By
    /// default the line's own.
    width: Option<u32>,
}

/// What a line says: `result.json`.
#[derive(Debug, Serialize)]
struct Line {
    text: String,
    /// Mean certainty of its characters, 0 to 1.
    score: f64,
    #[serde(rename = "box")]
    quad: Option<Quad>,
    index: u32,
}

struct Recognize {
    angle: Graph,
    text: Graph,
    turn_threshold: f32,
    labels_uri: String,
    /// Read at the first task, when storage is at hand.
    labels: Option<Labels>,
}

impl Hooks for Recognize {
    type Config = Config;
    type Params = Params;
    const NAME: &str = "ocr-recognize";

    fn load_pipeline(setup: Setup<Config>) -> Result<Self, Error> {
        let labels_uri = labels_uri(&setup)?;
        let turn_threshold = setup.config.turn_threshold;
        if !(0.0..=1.0).contains(&turn_threshold) {
            return Err(Error::invalid("/turn_threshold", format!("{turn_threshold} is not between 0 and 1")));
        }
        Ok(Self { angle: Graph::load(ANGLE)?, text: Graph::load(TEXT)?, turn_threshold, labels_uri, labels: None })
    }

    fn process(&mut self, task: &Task<Params>) -> Result<Output, Error> {
        let file = task.read_input()?;
        let mut line = decode(&file).map_err(|error| Error::invalid("", error.to_string()))?;
        if self.stands_on_its_head(&line)? {
            line = line.upside_down();
        }
        let reading = self.read(&line, task.params.width)?;
        Output::json(&Line { text: reading.text, score: reading.score, quad: task.params.quad, index: task.params.index })
    }

    fn models() -> &'static [&'static str] {
        &[ANGLE, TEXT]
    }
}

/// From the config, else from the grants.
fn labels_uri(setup: &Setup<Config>) -> Result<String, Error> {
    if let Some(uri) = &setup.config.labels {
        return Ok(uri.clone());
    }
    let granted = setup.extras.iter().find(|(name, _)| name == GRANTS).map_or("[]", |(_, json)| json);
    let granted = wasm_worker_guest::Payload::Json(granted.to_owned()).parse::<Vec<String>>()?;
    granted.into_iter().find(|uri| uri.ends_with(LABELS_FILE)).ok_or_else(|| {
        Error::fatal("labels-missing", format!("step '{}' needs the list of characters: grant it to read a {LABELS_FILE}", setup.step))
    })
}

impl Recognize {
    fn stands_on_its_head(&self, line: &Picture) -> Result<bool, Error> {
        let scores = run(&self.angle, angle_input(line), ANGLE_WIDTH)?.as_f32()?;
        match scores[..] {
            [upright, turned] => Ok(turned > upright && turned > self.turn_threshold),
            _ => Err(Error::fatal("model-output", format!("model '{ANGLE}' gave {} scores, expected 2", scores.len()))),
        }
    }

    fn read(&mut self, line: &Picture, width: Option<u32>) -> Result<ocr_vision::Reading, Error> {
        let width = width.map_or_else(|| line_width((line.width(), line.height())), |width| width as usize);
        let (width, input) = line_input(line, width);
        let output = run(&self.text, input, width)?;
        let classes = output.dims().last().map_or(0, |classes| *classes as usize);
        let read = self.labels()?.read(&output.as_f32()?, classes);
        read.map_err(|error| Error::fatal("model-output", format!("model '{TEXT}': {error}")))
    }

    fn labels(&mut self) -> Result<&Labels, Error> {
        if self.labels.is_none() {
            let parsed = Labels::parse(&storage::read(&self.labels_uri)?);
            self.labels = Some(parsed.map_err(|error| Error::fatal("labels", format!("{}: {error}", self.labels_uri)))?);
        }
        self.labels.as_ref().ok_or_else(|| Error::fatal("labels", "not read"))
    }
}

/// Runs a model of one input and one output on a line of height 48.
fn run(model: &Graph, input: Vec<u8>, width: usize) -> Result<Tensor, Error> {
    let input = Tensor::from_bytes(&[1, 3, LINE_HEIGHT as u32, width as u32], Element::F32, input)?;
    Ok(model.compute(&[(INPUT, input)])?.only()?)
}

wasm_worker_guest::export!(Recognize);

#[cfg(test)]
mod tests;
