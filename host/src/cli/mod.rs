//! The command line: arguments to one function per subcommand to an exit code.
//!
//! Results go to standard output, logs and progress to standard error. Nothing here decides what happens to a task.

mod check;
mod config;
mod dlq;
mod doctor;
mod failure;
mod globals;
mod input;
mod inspect;
mod jobs;
mod jsonl;
mod new;
mod progress;
mod prune;
mod record;
mod render;
mod run;
mod signals;
mod source;
mod stores;
mod submit;
mod tasks;
mod terminal;

use clap::{Parser, Subcommand};
use failure::{Exit, Failure};
use globals::Globals;
use std::process::ExitCode;
use std::time::Duration;

const EXAMPLES: &str = "\
Start here:
  wasm-worker new hello                                   write a guest of your own
  wasm-worker check hello.wasm --params '{}'              run the contract's checklist against it
  wasm-worker run hello.wasm --params '{}'                one job, from input to result
  wasm-worker run pipeline.toml                           a worker, until Ctrl-C
  wasm-worker submit pipeline.toml a.png b.png --wait     jobs for it
  wasm-worker jobs list                                   what became of them

Exit codes: 0 done, 1 failed, 2 wrong usage, input or configuration, 130 interrupted.";

/// Runs queued tasks through WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "wasm-worker", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one job to its result, or serves a pipeline as a worker
    Run(run::RunArgs),
    /// Submits jobs for a worker to run
    Submit(submit::SubmitArgs),
    /// Lists, shows, seals and cancels jobs
    Jobs(jobs::JobsArgs),
    /// Lists, shows and cancels tasks, and shows their logs
    Tasks(tasks::TasksArgs),
    /// Lists, shows, redrives and purges dead letters
    Dlq(dlq::DlqArgs),
    /// Removes jobs that ended long ago
    Prune(prune::PruneArgs),
    /// Shows what a component is: digest, imports, exports, manifest
    Inspect(inspect::InspectArgs),
    /// Runs the contract's checklist against a guest or a pipeline
    Check(check::CheckArgs),
    /// Writes the project of a new guest
    New(new::NewArgs),
    /// Shows and checks the configuration, and lists every environment variable
    Config(config::ConfigArgs),
    /// Tries queues, bucket, task store and models, and says what to do about what fails
    Doctor(doctor::DoctorArgs),
}

/// The program: parses the arguments, runs the command, and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with code 0. Whoever closed the pipe does not want the rest.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    // Two threads at least: one command may hold one of them, and signals are served by another.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return end(Err(Failure::failed(format!("threads cannot be started: {e}")))),
    };
    // On a thread of the runtime: whatever wakes it there is a matter between two of those threads and not of the system.
    let ended = runtime.block_on(async { tokio::spawn(async move { dispatch(&cli).await }).await });
    let ended = ended.unwrap_or_else(|failed| match failed.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(failed) => Err(Failure::failed(format!("the command was given up: {failed}"))),
    });
    // A model run that nobody waits for any more must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(200));
    end(ended)
}

async fn dispatch(cli: &Cli) -> Result<Exit, Failure> {
    let globals = &cli.globals;
    match &cli.command {
        Command::Run(args) => run::run(globals, args).await,
        Command::Submit(args) => submit::run(globals, args).await,
        Command::Jobs(args) => jobs::run(globals, args).await,
        Command::Tasks(args) => tasks::run(globals, args).await,
        Command::Dlq(args) => dlq::run(globals, args).await,
        Command::Prune(args) => prune::run(globals, args).await,
        Command::Inspect(args) => inspect::run(globals, args).await,
        Command::Check(args) => check::run(globals, args).await,
        Command::New(args) => new::run(globals, args),
        Command::Config(args) => config::run(globals, args),
        Command::Doctor(args) => doctor::run(globals, args).await,
    }
}

fn end(ended: Result<Exit, Failure>) -> ExitCode {
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            terminal::note(failure.to_string().trim_end());
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["wasm-worker"].iter().chain(words))
    }

    #[test]
    fn arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_as_people_write_them() {
        for words in [
            &["run", "g.wasm", "--model", "det=d.onnx", "--config", "threshold=0.3", "--input", "a.png", "--json"][..],
            &["run", "p.toml", "--until-empty", "--concurrency", "4", "--set", "worker.lease=9s", "-v"],
            &["--data-dir", "d", "submit", "p.toml", "a", "b", "--wait", "--priority", "9"],
            &["submit", "p.toml", "--jsonl", "-", "--repeat", "3"],
            &["jobs", "list", "--state", "failed"],
            &["tasks", "list", "--state", "DEAD", "--limit", "100000", "--json"],
            &["dlq", "redrive", "--code", "trap", "--dry-run"],
            &["dlq", "redrive", "--id", "7", "--step", "s"],
            &["dlq", "show", "7"],
            &["dlq", "show", "--id", "7"],
            &["dlq", "purge", "--all", "--dry-run"],
            &["jobs", "seal", "j"],
            &["jobs", "cancel", "a", "b"],
            &["jobs", "cancel", "--pipeline", "p"],
            &["tasks", "cancel", "a", "b"],
            &["tasks", "cancel", "--job", "j", "--state", "queued"],
            &["prune", "--older-than", "7days", "--json"],
            &["submit", "p.toml", "--feed", "--job-tasks", "3", "--job-id", "j", "a", "b"],
            &["submit", "p.toml", "--feed", "--seal", "a"],
            &["check", "p.toml", "--input", "a.png", "--timeout", "30s"],
            &["inspect", "g.wasm", "--json"],
            &["new", "hello", "--dir", "d"],
            &["config", "show", "--json"],
            &["config", "check", "p.yaml"],
            &["doctor", "p.toml", "--json"],
        ] {
            if let Err(error) = parse(words) {
                panic!("{words:?}: {error}");
            }
        }
    }

    /// Every command that does something shows how, where `--help` is asked.
    #[test]
    fn every_help_has_examples() {
        fn check(command: &mut clap::Command, path: &str) {
            let leaf = command.get_subcommands().next().is_none();
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:") || help.contains("Start here:"), "{path} has no examples");
            let named = help.lines().filter(|line| line.trim_start().starts_with("wasm-worker ")).count();
            assert!(named > 0 && (!leaf || help.contains(path)), "{path}: its examples are another's");
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                check(sub, &path);
            }
        }
        let mut all = Cli::command();
        all.build();
        check(&mut all, "wasm-worker");
    }

    #[test]
    fn slips_are_refused() {
        for words in [
            &["run"][..],
            &["run", "g.wasm", "--model", "det"],
            &["run", "g.wasm", "--backend", "tensorflow"],
            &["run", "g.wasm", "--input", "a", "--until-empty"],
            &["submit", "p.toml", "a.png", "--jsonl", "x"],
            &["submit", "p.toml", "--priority", "10"],
            &["tasks", "list", "--state", "SLEEPING"],
            &["dlq", "redrive", "--all", "--job", "x"],
            &["dlq", "purge", "--all", "--id", "7"],
            &["dlq", "show"],
            &["jobs", "cancel"],
            &["jobs", "cancel", "a", "--all"],
            &["tasks", "cancel"],
            &["tasks", "cancel", "a", "--job", "j"],
            &["prune", "--older-than", "old"],
            &["submit", "p.toml", "a", "--seal"],
            &["submit", "p.toml", "a", "--job-tasks", "3"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
