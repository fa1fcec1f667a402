//! First step of the OCR pipeline: one picture in, one cut-out per text line out, and a task for each of them.
//!
//! The picture is PNG, JPEG or WebP. What was found is the result (`result.json`); the cut-outs are `crops/NNN.png`. Which of
//! them say anything is for the next step to find out. The geometry is in `ocr-vision`.

mod finding;

use finding::{Finding, Line};
use ocr_vision::{DetectionRules, Map, Page, Picture, cut_out, decode, detection_size, find_lines, planes, resize};
use schemars::JsonSchema;
use serde::Deserialize;
use wasm_worker_guest::context::{self, Progress};
use wasm_worker_guest::inference::{Element, Graph, Tensor};
use wasm_worker_guest::{Error, FanOut, Hooks, NextTask, Nothing, Output, Setup, Task, storage};

/// The detection model's short name in the pipeline file, and its input: `[1, 3, height, width]` floats, sides multiples of 32.
const MODEL: &str = "det";
const INPUT: &str = "x";

/// What counts as text. The defaults are those the models were published with.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Pixels the model is surer of than this are ink, 0 to 1.
    threshold: f32,
    /// Regions it is less sure of on average are dropped, 0 to 1.
    box_threshold: f64,
    /// How far regions grow to cover the whole line, as a multiple of area / perimeter, 0 to 10.
    unclip: f64,
}

impl Default for Config {
    fn default() -> Self {
        let DetectionRules { threshold, box_threshold, unclip } = DetectionRules::default();
        Self { threshold, box_threshold, unclip }
    }
}

impl Config {
    fn rules(&self) -> Result<DetectionRules, Error> {
        let bounds =
            [("/threshold", f64::from(self.threshold), 1.0), ("/box_threshold", self.box_threshold, 1.0), ("/unclip", self.unclip, 10.0)];
        let mut fault = Error::Invalid(Vec::new());
        for (pointer, value, most) in bounds {
            if !(0.0..=most).contains(&value) {
                fault = fault.and_invalid(pointer, format!("{value} is not between 0 and {most}"));
            }
        }
        match fault {
            Error::Invalid(all) if !all.is_empty() => Err(Error::Invalid(all)),
            _ => Ok(DetectionRules { threshold: self.threshold, box_threshold: self.box_threshold, unclip: self.unclip }),
        }
    }
}

struct Detect {
    model: Graph,
    rules: DetectionRules,
}

impl Hooks for Detect {
    type Config = Config;
    type Params = Nothing;
    const NAME: &str = "ocr-detect";

    fn load_pipeline(setup: Setup<Config>) -> Result<Self, Error> {
        Ok(Self { model: Graph::load(MODEL)?, rules: setup.config.rules()? })
    }

    fn process(&mut self, task: &Task<Nothing>) -> Result<Output, Error> {
        phase("decode");
        let file = task.read_input()?;
        let picture = decode(&file).map_err(|error| Error::invalid("", error.to_string()))?;
        drop(file);
        let (width, height) = (picture.width(), picture.height());
        let page = Page::prepare(picture);
        phase("detect");
        let lines = self.lines(&page)?;
        phase("cut");
        let finding = Finding { width, height, lines: cut_all(&page, &lines)? };
        Output::json(&finding)?.metrics(&finding.figures())
    }

    fn publish_next(&mut self, task: &Task<Nothing>, output: &Output) -> Result<FanOut, Error> {
        let finding: Finding = match &output.payload {
            Some(payload) => payload.parse()?,
            None => return Err(Error::fatal("no-result", "the output of process has no payload to publish lines from")),
        };
        let children: Result<Vec<NextTask>, Error> = finding.lines.iter().map(Line::task).collect();
        // The whole picture goes on to the step that puts the lines together, the way it came.
        let mut page = NextTask::new("page");
        page.input_uri = task.input_uri.clone();
        page.input = task.input.clone();
        Ok(FanOut::of(children?).then(page))
    }

    fn models() -> &'static [&'static str] {
        &[MODEL]
    }
}

impl Detect {
    fn lines(&self, page: &Page) -> Result<Vec<ocr_vision::Detected>, Error> {
        let (width, height) = detection_size(page.picture.width(), page.picture.height());
        let input = planes(&resize(&page.picture, width, height), width);
        let input = Tensor::from_bytes(&[1, 3, height as u32, width as u32], Element::F32, input)?;
        let output = self.model.compute(&[(INPUT, input)])?.only()?;
        let &[_, _, rows, columns] = output.dims() else {
            return Err(unexpected(format!("{:?}, expected 4 dimensions", output.dims())));
        };
        let values = output.as_f32()?;
        let map = Map::new(columns as usize, rows as usize, &values).map_err(|error| unexpected(error.to_string()))?;
        Ok(find_lines(&map, page, &self.rules))
    }
}

fn unexpected(what: String) -> Error {
    Error::fatal("model-output", format!("model '{MODEL}' gave {what}"))
}

/// Cuts every line out and stores it, in order.
fn cut_all(page: &Page, lines: &[ocr_vision::Detected]) -> Result<Vec<Line>, Error> {
    let mut kept = Vec::with_capacity(lines.len());
    let mut sizes = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        context::check_cancelled()?;
        let cut = cut_out(&page.picture, &line.quad);
        let crop = store(index, &cut)?;
        sizes.push((cut.width(), cut.height()));
        kept.push(Line { quad: page.to_original(&line.quad), score: line.score, index, crop, width: 0 });
    }
    for (line, width) in kept.iter_mut().zip(ocr_vision::batch_widths(&sizes)) {
        line.width = width;
    }
    Ok(kept)
}

fn store(index: usize, cut: &Picture) -> Result<String, Error> {
    let file = cut.to_png().map_err(|error| Error::fatal("encode", error.to_string()))?;
    Ok(storage::write(&format!("crops/{index:03}.png"), "image/png", &file)?)
}

fn phase(name: &str) {
    Progress::new(0).phase(name).send();
}

wasm_worker_guest::export!(Detect);

#[cfg(test)]
mod tests;
