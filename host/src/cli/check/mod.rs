//! `check`: the contract's checklist, run for real against a guest, or against every guest of a pipeline.
//!
//! What can be seen without a task comes first; then the hooks run apart from any store, twice; then one job runs through
//! a task store and a folder of its own, which are gone afterwards.

mod manifest;
mod rehearsal;
mod report;
mod sample;
mod trial;

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals};
use super::input;
use super::inspect::why;
use super::render::text;
use super::signals;
use super::source::Source;
use super::terminal::{Terminal, print, print_json};
use crate::app::{App, AppError, Submission};
use crate::config::{Config, Pipeline, Step};
use crate::guest::{Component, ComponentError, GuestFault, StepGuest, WasmGuests};
use crate::inference::Models;
use crate::task::hooks::{HookError, Output, Payload};
use crate::task::message::Message;
use crate::task::schema::ParamsSchema;
use crate::task::uri::Uri;
use clap::Args;
use rehearsal::{Rehearsal, Sample};
use report::{Item, Report, Verdict};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use trial::Trial;

const EXAMPLES: &str = "\
Examples:
  wasm-worker check hello.wasm
  wasm-worker check resize.wasm --input photo.jpg --params '{\"width\": 640}'
  wasm-worker check detect.wasm --model det=det.onnx --input page.png
  wasm-worker check pipeline.toml --input page.png

Without --params the sample is made from the schema that the guest describes. Steps that follow others are checked with the tasks
that the real run gives them. Exit 1 if any line says FAIL; skipped lines say why.";

/// What a run of the hooks shows.
const RUN_ITEMS: [Item; 5] = [Item::Process, Item::Outputs, Item::Result, Item::Idempotent, Item::PublishNext];

/// Id of the job that is run, and of its first task: the store it runs in has no other.
const JOB: &str = "check";

/// Longest that a job which is out of time may go on.
const GRACE: Duration = Duration::from_secs(1);

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, after_help = "`wasm-worker check --help` has examples.")]
pub struct CheckArgs {
    #[command(flatten)]
    source: Source,
    /// The sample: a file to work on
    #[arg(long, value_name = "FILE|URI")]
    input: Option<String>,
    /// The sample: parameters, a JSON object, or @FILE [default: made from the guest's own schema]
    #[arg(long, value_name = "JSON|@FILE")]
    params: Option<String>,
    /// The sample: the function, where the guest has several
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Longest time for the real run of the job
    #[arg(long, value_name = "TIME", default_value = "5min", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// The checks of one pipeline.
struct Check<'a> {
    args: &'a CheckArgs,
    app: App,
    pipeline: Pipeline,
    report: Report,
    /// What each step's guest says of itself.
    manifests: HashMap<String, Value>,
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &CheckArgs) -> Result<Exit, Failure> {
    let config = globals.open(Chatter::Command, &[])?;
    let mut pipeline = args.source.load(&config)?.by_itself();
    // One attempt: a failure is to be seen, not waited out.
    pipeline.steps.iter_mut().for_each(|step| step.max_attempts = Some(1));
    let input = args.input.as_deref().map(input::input).transpose()?;
    let params = args.params.as_deref().map(input::params).transpose()?;
    let folder = Scratch::new()?;
    let app = App::open(apart(config, &folder)?).await?;
    let mut check = Check { args, app, pipeline, report: Report::default(), manifests: HashMap::new() };
    let interrupted = signals::listen("interrupted")?;
    tokio::select! {
        done = check.all(input, params) => done?,
        () = interrupted.cancelled() => return Ok(Exit::Interrupted),
    }
    let steps: Vec<String> = check.pipeline.steps.iter().map(|s| s.name.clone()).collect();
    check.report.sort(&steps);
    let report = check.report;
    if globals.json {
        let [passed, failed, skipped] = [Verdict::Pass, Verdict::Fail, Verdict::Skipped].map(|v| report.count(v));
        print_json(&json!({"passed": passed, "failed": failed, "skipped": skipped, "items": report.lines}))?;
    } else {
        print(&report.render(Terminal::detect()))?;
    }
    Ok(if report.count(Verdict::Fail) > 0 { Exit::Failed } else { Exit::Done })
}

/// A folder of its own, removed at the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("wasm-worker-check-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).map_err(|e| Failure::failed(format!("{} cannot be made: {e}", folder.display())))?;
        let folder = folder.canonicalize().map_err(|e| Failure::failed(format!("{} cannot be read: {e}", folder.display())))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the folder of the check could not be removed");
        }
    }
}

/// The machine's configuration, with a store and objects that nobody else sees.
fn apart(config: Config, folder: &Scratch) -> Result<Config, Failure> {
    let bucket = Uri::of_folder(&folder.0.join("objects")).map_err(Failure::failed)?;
    let data_dir = folder.0.join("data");
    let mut config = Config { data_dir, bucket, store: None, normal_durability: true, ..config };
    config.worker.max_attempts = 1;
    config.worker.grace = GRACE;
    Ok(config)
}

impl Check<'_> {
    async fn all(&mut self, input: Option<Uri>, params: Option<Map<String, Value>>) -> Result<(), Failure> {
        let guests = self.take().await?;
        let entry = self.pipeline.entry.clone();
        let skip_store = |check: &mut Self, why: &str| check.report.add(None, Item::Store, Verdict::Skipped, why);
        let Some(guests) = guests else {
            skip_store(self, "not every guest can be loaded");
            return Ok(());
        };
        let submission = match self.submission(input, params) {
            Ok(submission) => submission,
            Err(why) => {
                for step in self.names() {
                    self.report.skip(&step, &RUN_ITEMS, &why);
                }
                skip_store(self, &why);
                return Ok(());
            }
        };
        let sample = self.root_sample(&submission)?;
        if let Err(why) = self.rehearse(&guests, &entry, &sample).await {
            for step in self.names() {
                self.report.skip(&step, &RUN_ITEMS, &why);
            }
            skip_store(self, &why);
            return Ok(());
        }
        match trial::run(&self.app, &self.pipeline, submission, self.args.timeout).await {
            Err(why) => {
                for step in self.names() {
                    self.report.skip(&step, &RUN_ITEMS, "the real run gave it no task");
                }
                self.report.add(None, Item::Store, Verdict::Fail, why);
            }
            Ok(trial) => self.judge(&guests, &trial).await,
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        self.pipeline.steps.iter().map(|s| s.name.clone()).collect()
    }

    /// Loads every guest; none if one is not taken, or its `load-pipeline` fails.
    async fn take(&mut self) -> Result<Option<Arc<WasmGuests>>, Failure> {
        let (engine, models) = (self.app.engine()?, self.app.models());
        let mut guests = Vec::new();
        for step in self.pipeline.steps.clone() {
            let component = match Component::load(&engine, &step.guest).await {
                Ok(component) => component,
                Err(error) => {
                    self.not_taken(&step.name, &error);
                    continue;
                }
            };
            self.report.add(Some(&step.name), Item::Component, Verdict::Pass, "");
            self.report.add(Some(&step.name), Item::Hooks, Verdict::Pass, "");
            self.report.add(Some(&step.name), Item::Imports, Verdict::Pass, "");
            let manifest = self.describe(&step, &component).await;
            self.manifests.extend(manifest.map(|manifest| (step.name.clone(), manifest)));
            if let Some(setup) = self.setup(&models, &step).await {
                guests.push(StepGuest { component, setup });
            }
        }
        let ready = WasmGuests::new(engine, self.app.services(), models, guests.clone());
        let mut all = guests.len() == self.pipeline.steps.len();
        for guest in guests {
            all &= self.load(&ready, &guest.setup.step).await;
        }
        Ok(all.then_some(ready))
    }

    fn not_taken(&mut self, step: &str, error: &ComponentError) {
        let failed = match error {
            ComponentError::Unreadable { .. } | ComponentError::Unfit { .. } => Item::Component,
            ComponentError::UnknownImport { .. } => Item::Imports,
            ComponentError::MissingHooks { .. } => Item::Hooks,
            ComponentError::WrongTypes { what, .. } if what.contains("import") => Item::Imports,
            ComponentError::WrongTypes { .. } => Item::Hooks,
        };
        if failed != Item::Component {
            self.report.add(Some(step), Item::Component, Verdict::Pass, "");
        }
        self.report.add(Some(step), failed, Verdict::Fail, error.to_string());
        let rest = [Item::Hooks, Item::Imports, Item::Describe, Item::Load];
        self.report.skip(step, &rest, "the component is not taken");
        self.report.skip(step, &RUN_ITEMS, "the component is not taken");
    }

    async fn describe(&mut self, step: &Step, component: &Arc<Component>) -> Option<Value> {
        let (verdict, why, manifest) = match component.describe().await {
            Err(fault) => (Verdict::Fail, why(&fault), None),
            Ok(None) => (Verdict::Skipped, "the guest exports no `describe`, which is optional".to_owned(), None),
            Ok(Some(manifest)) => {
                let faults = manifest::faults(&manifest, &step.config, &step.models);
                (if faults.is_empty() { Verdict::Pass } else { Verdict::Fail }, faults.join("\n"), Some(manifest))
            }
        };
        self.report.add(Some(&step.name), Item::Describe, verdict, why);
        manifest
    }

    async fn setup(&mut self, models: &Arc<Models>, step: &Step) -> Option<crate::guest::StepSetup> {
        match self.app.setup_of(models, &self.pipeline, step).await {
            Ok(setup) => Some(setup),
            Err(error) => {
                let what = if matches!(error, AppError::Model { .. }) { "a model cannot be loaded: " } else { "" };
                self.report.add(Some(&step.name), Item::Load, Verdict::Fail, format!("{what}{error}"));
                self.report.skip(&step.name, &RUN_ITEMS, "load-pipeline was not run");
                None
            }
        }
    }

    async fn load(&mut self, guests: &Arc<WasmGuests>, step: &str) -> bool {
        match guests.fresh(step).await {
            Ok(_) => {
                self.report.add(Some(step), Item::Load, Verdict::Pass, "");
                true
            }
            Err(fault) => {
                self.report.add(Some(step), Item::Load, Verdict::Fail, why(&fault));
                self.report.skip(step, &RUN_ITEMS, "load-pipeline failed");
                false
            }
        }
    }

    /// The job of the sample; an error says why there is none.
    fn submission(&self, input: Option<Uri>, params: Option<Map<String, Value>>) -> Result<Submission, String> {
        let manifest = self.manifests.get(&self.pipeline.entry);
        let schema = manifest::function(manifest, self.args.function.as_deref()).and_then(|f| f.get("params"));
        let params = match (params, schema) {
            (Some(params), _) => params,
            (None, None) => Map::new(),
            (None, Some(schema)) => {
                sample::params_of(schema).ok_or("no sample can be made from the schema of params; give one with --params")?
            }
        };
        Ok(Submission {
            input,
            params,
            function: self.args.function.clone(),
            job_id: Some(JOB.to_owned()),
            max_attempts: Some(1),
            ..Submission::default()
        })
    }

    fn root_sample(&self, submission: &Submission) -> Result<Sample, Failure> {
        let prefix = self.app.config.bucket.join("rehearsal/").map_err(Failure::failed)?;
        let mut message = Message::new(JOB, JOB, submission.params.clone());
        message.input_uri = submission.input.as_ref().map(|uri| uri.as_str().to_owned());
        message.function = submission.function.clone();
        Ok(Sample { message, job_prefix: prefix.clone(), prefix, is_root: true, input_count: 0 })
    }

    /// Runs a step's hooks twice on a sample and judges them. An error says why there is nothing to go on with.
    async fn rehearse(&mut self, guests: &Arc<WasmGuests>, step: &str, sample: &Sample) -> Result<(), String> {
        let Some(spec) = self.pipeline.step(step).cloned() else { return Err(format!("no step '{step}'")) };
        let faults = self.schema_faults(step, &sample.message);
        if !faults.is_empty() {
            let why = format!("the sample does not fit the schema of params: {faults}");
            self.report.add(Some(step), Item::Process, Verdict::Fail, &why);
            return Err(why);
        }
        let first = rehearsal::rehearse(&self.app, guests, &self.pipeline, &spec, sample, 1).await;
        let second = rehearsal::rehearse(&self.app, guests, &self.pipeline, &spec, sample, 2).await;
        let (first, second) = match (first, second) {
            (Ok(first), Ok(second)) => (first, second),
            (Err(fault), _) | (_, Err(fault)) => {
                self.report.add(Some(step), Item::Process, Verdict::Fail, why(&fault));
                return Err("process did not run".to_owned());
            }
        };
        self.judge_outputs(step, &first);
        match &first.process {
            Err(fault) => {
                let (verdict, told) = typed(fault);
                self.report.add(Some(step), Item::Process, verdict, told);
                let hint = if self.args.params.is_none() || self.args.input.is_none() {
                    "; give a sample that works with --input and --params"
                } else {
                    ""
                };
                Err(format!("process made nothing to look at{hint}"))
            }
            Ok(output) => {
                self.report.add(Some(step), Item::Process, Verdict::Pass, "");
                self.judge_result(step, sample, output);
                let differences = rehearsal::differences(&first, &second);
                self.verdict(step, Item::Idempotent, &differences);
                let faults = first.published.as_ref().map(|p| p.faults()).unwrap_or_default();
                self.verdict(step, Item::PublishNext, &faults);
                Ok(())
            }
        }
    }

    fn verdict(&mut self, step: &str, item: Item, faults: &[String]) {
        let verdict = if faults.is_empty() { Verdict::Pass } else { Verdict::Fail };
        self.report.add(Some(step), item, verdict, faults.join("\n"));
    }

    fn judge_outputs(&mut self, step: &str, run: &Rehearsal) {
        if !run.refused.is_empty() {
            self.verdict(step, Item::Outputs, &run.refused);
        } else if run.process.is_ok() {
            let names: Vec<&str> = run.entries.iter().take(5).map(|e| e.name.as_str()).collect();
            let more = if run.entries.len() > names.len() { ", …" } else { "" };
            self.report.add(Some(step), Item::Outputs, Verdict::Pass, format!("{}{more}", names.join(", ")));
        }
    }

    fn schema_faults(&self, step: &str, message: &Message) -> String {
        let manifest = self.manifests.get(step);
        let schema = manifest::function(manifest, message.function.as_deref()).and_then(|f| f.get("params"));
        let Some(Ok(schema)) = schema.map(ParamsSchema::compile) else { return String::new() };
        crate::task::pointer::join(&schema.check(&Value::Object(message.params.clone())))
    }

    fn judge_result(&mut self, step: &str, sample: &Sample, output: &Output) {
        let manifest = self.manifests.get(step);
        let schema = manifest::function(manifest, sample.message.function.as_deref()).and_then(|f| f.get("output"));
        let (verdict, why) = match (schema.map(ParamsSchema::compile), &output.payload) {
            (None, _) => (Verdict::Skipped, "the guest describes no schema of its result".to_owned()),
            (Some(Err(e)), _) => (Verdict::Fail, e),
            (Some(Ok(schema)), Some(Payload::Json(text))) => match serde_json::from_str(text) {
                Err(e) => (Verdict::Fail, format!("the result is no JSON: {e}")),
                Ok(value) => {
                    let faults = schema.check(&value);
                    let shown: Vec<String> =
                        faults.iter().map(|v| format!("{}: {}", manifest::below_params(&v.pointer), v.message)).collect();
                    (if faults.is_empty() { Verdict::Pass } else { Verdict::Fail }, shown.join("\n"))
                }
            },
            (Some(Ok(_)), _) => (Verdict::Fail, "a schema is described, and the task returned no JSON".to_owned()),
        };
        self.report.add(Some(step), Item::Result, verdict, why);
    }

    /// The real run, and rehearsals of the other steps with the tasks it gave them.
    async fn judge(&mut self, guests: &Arc<WasmGuests>, trial: &Trial) {
        let faults = trial.faults(&self.app).await;
        if faults.is_empty() {
            self.report.add(None, Item::Store, Verdict::Pass, trial.summary());
        } else {
            self.report.add(None, Item::Store, Verdict::Fail, faults.join("\n"));
        }
        for step in self.names().into_iter().filter(|step| *step != self.pipeline.entry).collect::<Vec<_>>() {
            let why = match trial.sample(&self.app, &step).await {
                Some(sample) => self.rehearse(guests, &step, &sample).await.err(),
                None => Some("the real run gave it no task that ended DONE".to_owned()),
            };
            if let Some(why) = why {
                self.report.skip(&step, &RUN_ITEMS, &why);
            }
        }
    }
}

/// A typed error is an answer; a trap, a limit or a broken answer is not.
fn typed(fault: &GuestFault) -> (Verdict, String) {
    match fault {
        GuestFault::Hook(HookError::Cancelled) => (Verdict::Fail, "answered `cancelled`, though nobody cancelled".to_owned()),
        GuestFault::Hook(_) => (Verdict::Pass, format!("answered a typed error: {}", why(fault))),
        _ => (Verdict::Fail, why(fault)),
    }
}
