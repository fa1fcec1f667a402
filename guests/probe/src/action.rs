//! What a task can ask of the probe: `params.action`, and the fields that each action takes.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// The step's config: what `load-pipeline` does.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// See [`Load`].
    #[serde(default)]
    pub load: Load,
    /// Sleep this long first, milliseconds.
    #[serde(default)]
    pub load_sleep_ms: u64,
}

/// How `load-pipeline` ends.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Load {
    /// Well.
    #[default]
    Ok,
    /// Never.
    Loop,
    /// In a panic.
    Trap,
    /// With a retryable error, code `probe-load`.
    Retry,
    /// With a fatal error, code `probe-load`.
    Fatal,
}

/// A file to write. Byte `i` is `i % 251`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSpec {
    /// Its name, checked by nobody but the host.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its media type.
    #[serde(default = "octets")]
    pub content_type: String,
    /// Write it in pieces of this size through `storage.create`; at once, through `storage.write`, where this is none.
    pub piece: Option<u64>,
    /// Drop the writer instead of finishing it.
    #[serde(default)]
    pub abort: bool,
}

/// A tensor as the guest hands it over: nothing checks that its fields agree.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorSpec {
    /// Which input of the model it is.
    pub name: String,
    /// Sizes.
    pub dims: Vec<u32>,
    /// `f16`, `f32`, `f64`, `bf16`, `u8`, `i32` or `i64`.
    pub element: String,
    /// The first elements, rounded to the type (for `f16` and `bf16`: its bits).
    #[serde(default)]
    pub values: Vec<f64>,
    /// Cut or fill with zeros to this many bytes; else to what `dims` and `element` ask for (at most 64 MiB).
    pub bytes: Option<usize>,
}

/// Which hook an action strikes in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hook {
    /// `process`.
    #[default]
    Process,
    /// `publish-next`.
    PublishNext,
}

/// Children to make. The names are `c0000`, `c0001`, and so on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FanOutSpec {
    /// How many.
    pub n: u32,
    /// Their step; none leaves it to the pipeline file.
    pub step: Option<String>,
    /// Their params; none makes child `i` answer `{"value": i}`.
    pub child: Option<Value>,
    /// Params of the `then` task, key `then`; none means no `then`.
    pub then: Option<Value>,
    /// Its step; none leaves it to the pipeline file.
    pub then_step: Option<String>,
    /// Address that each child is given.
    pub input_uri: Option<String>,
    /// Delay of each, milliseconds.
    pub delay_ms: Option<u64>,
    /// Priority of each.
    pub priority: Option<u8>,
    /// Labels on each, `l0` to `l<n>`, each with 100 bytes.
    #[serde(default)]
    pub labels: u32,
    /// All children get the key `c0000`.
    #[serde(default)]
    pub same_key: bool,
    /// Keys end with `-<attempt>`, so that each attempt names other children.
    #[serde(default)]
    pub keys_by_attempt: bool,
}

/// What the task is to do. An action that a host call refuses, where the text says "reports", answers
/// `{"error": {"code", "message"}}`; otherwise the hook fails with that error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Action {
    /// Answers nothing.
    None,
    /// Answers `value`.
    Json { value: Value },
    /// Answers that many bytes (byte `i` is `i % 251`) of that type.
    Body { content_type: String, bytes: usize },
    /// Answers these texts unchecked: payload as JSON, metrics, outcome.
    Raw { payload: Option<String>, metrics: Option<String>, outcome: Option<String> },
    /// Answers nothing, with these figures.
    Metrics { figures: Value },
    /// Answers the task and the setup as they came.
    Echo,
    /// Answers how many tasks this instance has begun, and what the last `count` left here; leaves `leave`.
    Count { leave: Option<String> },

    /// Writes files; answers their addresses by name.
    Write { files: Vec<FileSpec> },
    /// Writes 4 bytes under `name`; reports.
    WriteName { name: String },
    /// Tries to write from `publish-next`; fails with the code of the refusal, or with `late-write-accepted`.
    WriteLate,
    /// Reads the whole object at `uri`, or the task's input; reports, else `{bytes, fnv, text}`: size, FNV-1a 64 in hex, first 256 bytes.
    Read { uri: Option<String> },
    /// The same through `storage.open`, in pieces.
    Stream { uri: Option<String>, piece: usize },
    /// Opens `readers` readers of `uri`, or of the task's input, and `writers` writers, `w0` and so on, and keeps all of them open; with
    /// `close` each is dropped before the next is opened. Reports, else `{"opened"}`.
    Open {
        uri: Option<String>,
        #[serde(default)]
        readers: u32,
        #[serde(default)]
        writers: u32,
        #[serde(default)]
        close: bool,
    },

    /// Answers `{"value": 0}` and makes children.
    FanOut(FanOutSpec),
    /// A tree: `width` children to `step` with one level less, each level gathered by a `sum` in `then_step` where that is given.
    /// A leaf (depth 0) answers `{"value": 1}`, so a gathered tree sums to `width` to the power of `depth`.
    Chain { depth: u32, width: u32, step: Option<String>, then_step: Option<String> },
    /// For a `then` task: `{sum, count, keys, ends, outcomes, files}` of its inputs, in their order; `value` in payloads is summed as `sum`
    /// is, and `files` lists the addresses of their outputs, which are read through with `read_outputs` (`bytes` is the total).
    Sum {
        #[serde(default)]
        read_outputs: bool,
    },
    /// Names an outcome, and makes `n` children without a step.
    Outcome { name: String, n: u32 },

    /// Retryable, code `probe-retry`, for the first `times` attempts; answers `{"attempt"}` then.
    Retry { times: u32, after_ms: Option<u64> },
    /// Invalid, with `n` violations at `/probe/<i>`.
    Invalid { n: u32 },
    /// Fatal, with that code.
    Fatal { code: String, message: String },
    /// Fatal, code `probe-text`, with a message of so many bytes.
    ErrorText { bytes: usize },
    /// Panics.
    Trap { hook: Hook },
    /// Runs for ever.
    Loop { hook: Hook },

    /// Computes for that long by the clock; answers the rounds done.
    Spin { ms: u64 },
    /// A fixed amount of work, whatever the clock says. See `README.md` for the time that a round takes.
    Compute { rounds: u64 },
    /// Sleeps.
    Sleep { ms: u64 },
    /// Takes memory, 1 MiB at a time, and touches it. Refused: traps, or with `polite` answers `{"taken"}`.
    Allocate {
        bytes: u64,
        #[serde(default)]
        polite: bool,
    },
    /// Calls itself until the stack ends.
    Recurse,

    /// Logs `lines` lines of `bytes` bytes, or of `text` where that is given.
    Log { lines: u32, bytes: usize, text: Option<String> },
    /// Tells `done` of `total`, phase `probe`.
    Progress { done: u64, total: u64 },
    /// Asks `is-cancelled` every `poll_ms` until it is true, then answers `cancelled`, or `{"polls"}` with `answer`.
    UntilCancelled {
        poll_ms: u64,
        #[serde(default)]
        answer: bool,
    },
    /// Emits `chunks` JSON chunks `{"index", "text"}` with a text of `bytes` bytes; reports, else `{"emitted"}`.
    Emit { chunks: u32, bytes: usize },
    /// Answers `{"secret"}`: the secret of that name, or null.
    Secret { name: String },
    /// Writes to standard output and standard error, `times` times.
    Print {
        stdout: String,
        stderr: String,
        #[serde(default = "once")]
        times: u32,
    },

    /// Answers `{variables, arguments}` of the process environment.
    Environment,
    /// Reads a file by `std::fs`; reports (code: the kind of I/O error), else `{"bytes"}`.
    OpenFile { path: String },
    /// Opens a TCP connection by `std::net`; reports (code: the kind of I/O error), else `{"connected": true}`.
    Connect { address: String },

    /// Loads a model by name; reports, else `{"loaded": true}`.
    LoadModel { name: String },
    /// Loads a model from the bytes at `uri`, or from 16 zeros, for `cpu`, `gpu` or `tpu`; reports, else `{"loaded": true}`.
    LoadBytes { uri: Option<String>, target: Option<String> },
    /// Runs a model `times` times; reports, else the last `{outputs: [{name, dims, element, bytes, head}]}`, `head` being up to 8 elements.
    Infer {
        model: String,
        inputs: Vec<TensorSpec>,
        #[serde(default = "once")]
        times: u32,
    },
    /// Makes `count` tensors of `bytes` bytes with the host and keeps them all; answers `{"held"}`.
    HoldTensors { count: u32, bytes: usize },
}

fn octets() -> String {
    "application/octet-stream".to_owned()
}

fn once() -> u32 {
    1
}
