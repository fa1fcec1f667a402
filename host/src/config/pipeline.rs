//! The pipeline file, TOML or YAML: models, steps, and how one leads to the next. Relative paths start at the file's folder.

use super::file;
use super::queue::{self, QueueAt};
use super::section::{ConfigError, Problems, Section};
use super::store::StoreAt;
use crate::task::accept::Accept;
use crate::task::id;
use crate::task::limits::Limits;
use crate::task::media;
use crate::task::message::nearest;
use crate::task::retry::RetryPolicy;
use crate::task::uri::Uri;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A pipeline, checked.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its name: what tasks in the store are told apart by.
    pub name: String,
    /// The step that a submitted task runs first.
    pub entry: String,
    /// Models by their short names.
    pub models: BTreeMap<String, ModelDecl>,
    /// Steps that are run here, in the order of the file.
    pub steps: Vec<Step>,
    /// Steps that others run.
    pub elsewhere: Vec<Elsewhere>,
    /// Whether it was made up around a component, and has no file.
    pub is_made_up: bool,
}

/// A step that is not run here: a table with a `queue` and without a `guest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its name.
    pub name: String,
    /// What carries its messages.
    pub queue: QueueAt,
    /// Whether another system reads that queue: its tasks have no rows here. Workers of ours do otherwise.
    pub foreign: bool,
    /// Attempts before a task is given up; none: the worker's default.
    pub max_attempts: Option<u32>,
}

/// A model that steps may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDecl {
    /// The file.
    pub path: PathBuf,
    /// Expected SHA-256, lower-case hex.
    pub sha256: Option<String>,
    /// `auto`, `rten` or `onnxruntime`.
    pub backend: String,
}

/// What a step is given besides its task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Objects and prefixes it may read.
    pub read: Vec<Uri>,
    /// Names of secrets, taken from the environment when the worker starts.
    pub secrets: Vec<String>,
}

/// What a `retry` table says; the rest is the machine's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepRetry {
    /// Upper bound of the first wait.
    pub first: Option<Duration>,
    /// Upper bound of any wait.
    pub max: Option<Duration>,
}

impl StepRetry {
    /// The policy, with `default` for what is not said; what is said wins over a default that contradicts it.
    pub fn over(self, default: RetryPolicy) -> RetryPolicy {
        let max = self.max.unwrap_or_else(|| default.max.max(self.first.unwrap_or_default()));
        RetryPolicy { first: self.first.unwrap_or(default.first).min(max), max }
    }
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The component.
    pub guest: PathBuf,
    /// Functions of the guest it may be asked for.
    pub functions: Vec<String>,
    /// Short names of models it may load.
    pub models: Vec<String>,
    /// Kinds of input it takes.
    pub accept: Accept,
    /// Where its tasks wait.
    pub queue: QueueAt,
    /// The store that `queue` names, where it is the table of one.
    pub table: Option<StoreAt>,
    /// Default step of its children.
    pub next: Option<String>,
    /// Default step of its fan-in.
    pub then: Option<String>,
    /// Step by outcome.
    pub transitions: BTreeMap<String, String>,
    /// Tasks of this step at once in one worker; none: only the worker's own bound.
    pub concurrency: Option<u32>,
    /// Attempts before a task is given up; none: the worker's default.
    pub max_attempts: Option<u32>,
    /// Waits between attempts, where they are not the worker's default.
    pub retry: StepRetry,
    /// Whether the guest may load models from its own bytes.
    pub allow_model_bytes: bool,
    /// Bounds.
    pub limits: Limits,
    /// Grants.
    pub grant: Grant,
    /// Handed to `load-pipeline`.
    pub config: Map<String, Value>,
}

/// A pipeline of one step, made up from flags: `run guest.wasm --model det=FILE --config KEY=VALUE`.
#[derive(Debug, Clone, Default)]
pub struct MadeUp {
    /// `(short name, file)`.
    pub models: Vec<(String, PathBuf)>,
    /// `(key, value)`; a value that parses as JSON is taken as such, else as text.
    pub config: Vec<(String, String)>,
}

impl Pipeline {
    /// Reads a pipeline file, or makes one up around a component. `defaults` are the machine's own limits.
    pub fn load(path: &Path, made_up: &MadeUp, defaults: &Limits) -> Result<Self, ConfigError> {
        let source = path.display().to_string();
        let absolute = std::path::absolute(path).map_err(|e| ConfigError::of(&source, e.to_string()))?;
        if !file::is_ours(&absolute) {
            return Self::around_guest(&absolute, made_up, defaults);
        }
        if !made_up.models.is_empty() || !made_up.config.is_empty() {
            return Err(ConfigError::of(
                &source,
                "--model and --config make up a pipeline around a .wasm file; a pipeline file has its own tables",
            ));
        }
        let table = file::read(&absolute, &source)?;
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        Self::of(table, &source, folder, defaults)
    }

    /// Reads what a pipeline file that stands in `folder` says.
    fn of(table: toml::Table, source: &str, folder: &Path, defaults: &Limits) -> Result<Self, ConfigError> {
        let problems = Problems::new(source);
        let pipeline = read(Section::new(table, &problems), folder, defaults, &problems);
        problems.finish(pipeline)
    }

    fn around_guest(guest: &Path, made_up: &MadeUp, defaults: &Limits) -> Result<Self, ConfigError> {
        let stem = guest.file_stem().and_then(|s| s.to_str()).unwrap_or("guest");
        let name = id::check("name", stem).map_or_else(|_| "guest".to_owned(), |()| stem.to_owned());
        let mut models = BTreeMap::new();
        for (model, file) in &made_up.models {
            let path = std::path::absolute(file).map_err(|e| ConfigError::of("--model", e.to_string()))?;
            models.insert(model.clone(), ModelDecl { path, sha256: None, backend: "auto".to_owned() });
        }
        let config = made_up
            .config
            .iter()
            .map(|(key, text)| (key.clone(), serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))));
        let step = Step {
            name: name.clone(),
            guest: guest.to_owned(),
            functions: Vec::new(),
            models: models.keys().cloned().collect(),
            accept: Accept::default(),
            queue: QueueAt::Table,
            table: None,
            next: None,
            then: None,
            transitions: BTreeMap::new(),
            concurrency: None,
            max_attempts: None,
            retry: StepRetry::default(),
            allow_model_bytes: false,
            limits: defaults.clone(),
            grant: Grant::default(),
            config: config.collect(),
        };
        Ok(Self { entry: name.clone(), name, models, steps: vec![step], elsewhere: Vec::new(), is_made_up: true })
    }

    /// The same for one job that is run here: no other worker is to take its tasks out of a queue.
    #[must_use]
    pub fn at_home(mut self) -> Self {
        self.steps.iter_mut().for_each(|step| step.queue = QueueAt::Table);
        self
    }

    /// The same for a rehearsal: what would go elsewhere is waited for by nobody.
    #[must_use]
    pub fn by_itself(mut self) -> Self {
        for step in &mut self.elsewhere {
            // A name without an address: nothing is opened for it.
            (step.foreign, step.queue) = (true, QueueAt::Named(step.name.clone()));
        }
        self.at_home()
    }

    /// The step of that name.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|s| s.name == name)
    }
}

fn read(mut root: Section<'_>, folder: &Path, defaults: &Limits, problems: &Problems) -> Pipeline {
    let name = root.text("name").unwrap_or_else(|| "pipeline".to_owned());
    if let Err(e) = id::check("name", &name) {
        root.fault("name", &name, e);
    }
    let models: BTreeMap<String, ModelDecl> =
        root.sections("models").into_iter().map(|(name, section)| (name, read_model(section, folder))).collect();
    let (mut steps, mut elsewhere) = (Vec::new(), Vec::new());
    for (name, section) in root.sections("steps") {
        match read_step(name, section, folder, defaults) {
            Read::Here(step) => steps.push(*step),
            Read::Elsewhere(step) => elsewhere.push(step),
            Read::Neither => {}
        }
    }
    let entry = root.text("entry");
    if steps.is_empty() {
        problems.add("steps", "", "a pipeline has at least one [steps.NAME] table with a guest");
    }
    let known: Vec<&str> = steps.iter().map(|s| s.name.as_str()).chain(elsewhere.iter().map(|s| s.name.as_str())).collect();
    let check = |key: String, step: &str| {
        if !known.contains(&step) {
            problems.add(&key, &format!("\"{step}\""), format!("no such step; this pipeline has {}", known.join(", ")));
        }
    };
    if let Some(entry) = &entry {
        check("entry".to_owned(), entry);
        if elsewhere.iter().any(|s| s.name == *entry) {
            problems.add("entry", &format!("\"{entry}\""), "is run elsewhere; expected a step with a guest");
        }
    }
    for step in &steps {
        let path = format!("steps.{}", step.name);
        for (key, target) in [("next", &step.next), ("then", &step.then)] {
            if let Some(target) = target {
                check(format!("{path}.{key}"), target);
            }
        }
        for (outcome, target) in &step.transitions {
            check(format!("{path}.transitions.{outcome}"), target);
        }
        for model in step.models.iter().filter(|m| !models.contains_key(*m)) {
            let have = models.keys().cloned().collect::<Vec<_>>().join(", ");
            problems.add(&format!("{path}.models"), &format!("\"{model}\""), format!("no such model; declared are: {have}"));
        }
    }
    let entry = entry.or_else(|| steps.first().map(|s| s.name.clone())).unwrap_or_default();
    Pipeline { name, entry, models, steps, elsewhere, is_made_up: false }
}

fn read_model(mut section: Section<'_>, folder: &Path) -> ModelDecl {
    let source = section.text("source");
    let path = match &source {
        None => {
            section.fault("source", "", "is missing; expected \"file:PATH\"");
            PathBuf::new()
        }
        Some(text) => text.strip_prefix("file:").map(|path| folder.join(path)).unwrap_or_else(|| {
            section.fault("source", text, "expected \"file:PATH\" (other sources are not built in yet)");
            PathBuf::new()
        }),
    };
    let sha256 = section.text("sha256").map(|s| s.to_ascii_lowercase());
    if let Some(bad) = sha256.as_ref().filter(|s| s.len() != 64 || !s.bytes().all(|b| b.is_ascii_hexdigit())) {
        section.fault("sha256", bad, "expected 64 hex digits");
    }
    let backend = section.choice("backend", &[("auto", "auto"), ("rten", "rten"), ("onnxruntime", "onnxruntime")]).unwrap_or("auto");
    section.choice("device", &[("cpu", ())]);
    ModelDecl { path, sha256, backend: backend.to_owned() }
}

/// What a step's table turned out to be.
enum Read {
    Here(Box<Step>),
    Elsewhere(Elsewhere),
    /// Nothing that can be gone on with; the problem is reported.
    Neither,
}

fn read_step(name: String, mut section: Section<'_>, folder: &Path, defaults: &Limits) -> Read {
    if let Err(e) = id::check("step", &name) {
        section.fault("", &name, e);
    }
    let written = section.secret("queue").map(|text| {
        let mut text = text;
        super::store::anchor_text(&mut text, folder);
        queue::parse(&text).map_err(|e| section.fault("queue", &queue::shown(&text), e))
    });
    let is_bad = matches!(written, Some(Err(())));
    let written = written.and_then(Result::ok);
    let foreign = section.flag("foreign");
    let max_attempts = section.number("max_attempts", 1, 1000).map(|n| n as u32);
    let Some(guest) = section.text("guest") else {
        return match written.map(|written| written.at) {
            Some(queue @ (QueueAt::Broker(_) | QueueAt::Named(_))) => {
                Read::Elsewhere(Elsewhere { name, queue, foreign: foreign.unwrap_or(false), max_attempts })
            }
            None if is_bad => {
                section.leave();
                Read::Neither
            }
            None | Some(QueueAt::Table) => {
                let text = "is missing; expected the path of a component, or beside a broker's `queue` none where others run this step";
                section.fault("guest", "", text);
                section.leave();
                Read::Neither
            }
        };
    };
    if foreign == Some(true) {
        section.fault("foreign", "true", "says that another system runs this step, and it has a guest; leave one of them out");
    }
    let (queue, table) = written.map_or((QueueAt::Table, None), |written| (written.at, written.store));
    Read::Here(Box::new(Step {
        guest: folder.join(guest),
        functions: section.texts("functions"),
        models: section.texts("models"),
        accept: read_accept(&mut section),
        queue,
        table,
        next: section.text("next"),
        then: section.text("then"),
        transitions: section.text_map("transitions").into_iter().collect(),
        concurrency: section.number("concurrency", 1, 4096).map(|n| n as u32),
        max_attempts,
        retry: read_retry(section.section("retry"), RetryPolicy::default()),
        allow_model_bytes: section.flag("allow_model_bytes").unwrap_or(false),
        limits: read_limits(section.section("limits"), defaults),
        grant: read_grant(section.section("grant"), folder),
        config: match section.json("config") {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        },
        name,
    }))
}

/// Kinds of input, by extension or content type.
fn read_accept(section: &mut Section<'_>) -> Accept {
    let names = section.texts("accept");
    Accept::of(names.iter().map(String::as_str)).unwrap_or_else(|unknown| {
        let known: Vec<&str> = media::extensions().collect();
        let near = nearest(unknown, &known).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
        section.fault("accept", unknown, format!("no such type of file{near}; known are: {}", known.join(", ")));
        Accept::default()
    })
}

/// Reads a `limits` table over `defaults`; also used for the machine's own.
pub(super) fn read_limits(mut section: Section<'_>, defaults: &Limits) -> Limits {
    let d = defaults;
    let count = |section: &mut Section<'_>, key, default: u32| section.number_or(key, 1, u64::from(u32::MAX), u64::from(default)) as u32;
    Limits {
        memory: section.size_or("memory", d.memory),
        wall: section.duration_or("wall", d.wall),
        cancel_grace: section.duration_or("cancel_grace", d.cancel_grace),
        payload: section.size_or("payload", d.payload),
        read: section.size_or("read", d.read),
        output: section.size_or("output", d.output),
        files: count(&mut section, "files", d.files),
        children: count(&mut section, "children", d.children),
        hops: count(&mut section, "hops", d.hops),
        log: section.size_or("log", d.log),
        tensors: section.size_or("tensors", d.tensors),
        resources: count(&mut section, "resources", d.resources),
        recycle_after: count(&mut section, "recycle_after", d.recycle_after),
    }
}

/// Reads a `retry` table; also used for the machine's own. `defaults` are those that are shown.
pub(super) fn read_retry(mut section: Section<'_>, defaults: RetryPolicy) -> StepRetry {
    let retry = StepRetry { first: section.duration("first"), max: section.duration("max") };
    let shown = |time: Duration| humantime::format_duration(time).to_string();
    if let (Some(first), Some(max)) = (retry.first, retry.max)
        && first > max
    {
        section.fault("first", &shown(first), format!("is longer than max, {}", shown(max)));
    }
    let policy = retry.over(defaults);
    section.settle("first", retry.first, policy.first, |time| Value::from(shown(*time)));
    section.settle("max", retry.max, policy.max, |time| Value::from(shown(*time)));
    retry
}

fn read_grant(mut section: Section<'_>, folder: &Path) -> Grant {
    let mut read = Vec::new();
    for text in section.texts("read") {
        match granted(&text, folder) {
            Ok(uri) => read.push(uri),
            Err(e) => section.fault("read", &text, e),
        }
    }
    Grant { read, secrets: section.texts("secrets") }
}

/// A full address, or a path from the pipeline file's folder; a folder (with `/` at its end) grants what lies below.
fn granted(text: &str, folder: &Path) -> Result<Uri, String> {
    if text.contains("://") {
        return Uri::parse(text);
    }
    let path = folder.join(text.strip_prefix("file:").unwrap_or(text));
    if text.ends_with('/') { Uri::of_folder(&path) } else { Uri::of_file(&path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Pipeline, ConfigError> {
        Pipeline::of(file::parse(text, false, "p.toml")?, "p.toml", Path::new("/p"), &Limits::default())
    }

    #[test]
    fn a_pipeline_as_people_write_it() {
        let pipeline = parse(
            r#"
            name = "ocr"
            [models.det]
            source = "file:models/det.onnx"
            [steps.detect]
            guest = "d.wasm"
            models = ["det"]
            next = "read"
            then = "join"
            limits = { memory = "1GiB", wall = "20s" }
            grant = { read = ["models/labels.txt", "s3://bucket/x/"] }
            config = { threshold = 0.3 }
            [steps.read]
            guest = "r.wasm"
            [steps.join]
            guest = "j.wasm"
            "#,
        )
        .unwrap();
        assert_eq!(pipeline.entry, "detect");
        assert_eq!(pipeline.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["detect", "read", "join"]);
        let step = pipeline.step("detect").unwrap();
        assert_eq!(step.grant.read[0].as_str(), "file:///p/models/labels.txt");
        assert_eq!((step.limits.memory, step.limits.wall.as_secs()), (1 << 30, 20));
        assert_eq!(pipeline.models["det"].path, Path::new("/p/models/det.onnx"));
    }

    #[test]
    fn waits_of_a_step_stand_over_the_machines() {
        let pipeline = parse(
            "[steps.a]\nguest = 'a.wasm'\nmax_attempts = 2\nretry = { first = '2s', max = '10s' }\n\
             [steps.b]\nguest = 'b.wasm'\nretry = { max = '500ms' }\n\
             [steps.c]\nguest = 'c.wasm'\nretry = { first = '1h' }\n[steps.d]\nguest = 'd.wasm'",
        )
        .unwrap();
        let policy = |first, max| RetryPolicy { first: Duration::from_millis(first), max: Duration::from_millis(max) };
        let over: Vec<RetryPolicy> = pipeline.steps.iter().map(|s| s.retry.over(RetryPolicy::default())).collect();
        assert_eq!(over, [policy(2_000, 10_000), policy(500, 500), policy(3_600_000, 3_600_000), policy(1_000, 300_000)]);
        assert_eq!(pipeline.steps.iter().map(|s| s.max_attempts).collect::<Vec<_>>(), [Some(2), None, None, None]);
        let text = parse("[steps.a]\nguest = 'a.wasm'\nretry = { first = '1m', max = '30s', factor = 2 }").unwrap_err().to_string();
        assert!(text.contains("steps.a.retry.first = 1m: is longer than max, 30s") && text.contains("steps.a.retry.factor"), "{text}");
    }

    #[test]
    fn every_problem_is_named() {
        let text = parse("nmae = 'x'\n[steps.a]\nguest = 'a.wasm'\nnext = 'b'\nmodels = ['m']\nlimits = { wall = 'long' }")
            .unwrap_err()
            .to_string();
        for part in ["did you mean 'name'?", "steps.a.next", "no such model", "steps.a.limits.wall"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
