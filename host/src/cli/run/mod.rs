//! `run`: one job from its input to its result, or a worker that serves a pipeline.

mod job;
mod serve;

use super::failure::{Exit, Failure};
use super::globals::Globals;
use super::source::Source;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  One file in, one result out:
    wasm-worker run guests/ocr/pipeline.toml --input picture.png
    wasm-worker run resize.wasm --input photo.jpg --params '{\"width\": 640}' --output out/
    wasm-worker run detect.wasm --model det=det.onnx --config threshold=0.3 --input page.png --json

  A worker, until Ctrl-C or SIGTERM; it finishes what it runs, or hands it back:
    wasm-worker run pipeline.toml --concurrency 4
    wasm-worker run pipeline.toml --until-empty

With --input or --params it is one job: exit 0 when the job is DONE, 1 when it failed, 130 when it was interrupted.";

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, after_help = "`wasm-worker run --help` has examples.")]
pub struct RunArgs {
    #[command(flatten)]
    source: Source,
    /// Which library runs models: for every model that does not name one itself
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<Backend>,

    /// The file to work on. The job may read this one file
    #[arg(long, value_name = "FILE|URI", help_heading = "One job")]
    input: Option<String>,
    /// Parameters, a JSON object, or @FILE
    #[arg(long, value_name = "JSON|@FILE", help_heading = "One job")]
    params: Option<String>,
    /// Folder for its outputs; new or empty [default: below the data folder]
    #[arg(long, value_name = "DIR", help_heading = "One job")]
    output: Option<PathBuf>,
    /// The function, where the guest has several
    #[arg(long, value_name = "NAME", help_heading = "One job")]
    function: Option<String>,

    /// Tasks at once [default: number of cores]
    #[arg(long, value_name = "N", help_heading = "Worker")]
    concurrency: Option<u32>,
    /// Ends when no task of the pipeline waits or runs
    #[arg(long, help_heading = "Worker", conflicts_with_all = ["input", "params"])]
    until_empty: bool,
    /// Ends after this many runs of tasks
    #[arg(long, value_name = "N", help_heading = "Worker", conflicts_with_all = ["input", "params"])]
    max_tasks: Option<u64>,
}

/// What runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// ONNX Runtime where it is found, else rten
    Auto,
    /// The embedded one
    Rten,
    /// ONNX Runtime
    Onnxruntime,
}

impl Backend {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rten => "rten",
            Self::Onnxruntime => "onnxruntime",
        }
    }
}

impl RunArgs {
    /// Its options as keys of the machine's configuration.
    fn flags(&self) -> Vec<(&'static str, String)> {
        let backend = self.backend.map(|b| ("inference.backend", b.name().to_owned()));
        let concurrency = self.concurrency.map(|n| ("worker.concurrency", n.to_string()));
        backend.into_iter().chain(concurrency).collect()
    }
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &RunArgs) -> Result<Exit, Failure> {
    if args.input.is_some() || args.params.is_some() {
        return job::run(globals, args).await;
    }
    for (flag, given) in [("--output", args.output.is_some()), ("--function", args.function.is_some())] {
        if given {
            let message = format!("{flag} belongs to one job, and there is neither --input nor --params");
            return Err(Failure::usage(message).help("add --input FILE, or --params '{}' for a job without one"));
        }
    }
    serve::run(globals, args).await
}
