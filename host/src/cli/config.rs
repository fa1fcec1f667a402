//! `config`: what is in force and where it came from, whether it is right, and every variable there is.

use super::failure::{Exit, Failure};
use super::globals::Globals;
use super::render::table::{Rows, cell};
use super::render::text;
use super::source::Source;
use super::terminal::{Terminal, note, print, print_json};
use crate::config::{Config, ConfigError, ENVIRONMENT, MadeUp, Pipeline, Setting, Variable};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  wasm-worker config show                                 every key, its value, and what set it
  wasm-worker config show --json
  wasm-worker config check pipeline.toml                  every problem at once; exit 2 where there is one
  wasm-worker config env                                  every environment variable";

const SHOW_EXAMPLES: &str = "\
Examples:
  wasm-worker config show
  WASM_WORKER_LEASE=30s wasm-worker config show --set worker.grace=5s --json";

const CHECK_EXAMPLES: &str = "\
Examples:
  wasm-worker config check
  wasm-worker config check pipeline.yaml --json";

const ENV_EXAMPLES: &str = "\
Examples:
  wasm-worker config env
  wasm-worker config env --json";

/// Arguments of `config`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Shows every key as it is in force: its value, and the file, variable or flag it came from
    #[command(after_help = SHOW_EXAMPLES)]
    Show,
    /// Says everything that is wrong with the configuration, and with a pipeline on this machine; connects to nothing
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// A component (guest.wasm) or a pipeline file
        #[arg(value_name = "GUEST|PIPELINE")]
        source: Option<PathBuf>,
    },
    /// Lists every environment variable and the key it sets
    #[command(after_help = ENV_EXAMPLES)]
    Env,
}

/// Runs the command. It logs nothing, so that a bad log filter can be looked at too.
pub fn run(globals: &Globals, args: &ConfigArgs) -> Result<Exit, Failure> {
    match &args.command {
        ConfigCommand::Show => show(globals),
        ConfigCommand::Check { source } => check(globals, source.as_ref()),
        ConfigCommand::Env => env(globals),
    }
}

fn show(globals: &Globals) -> Result<Exit, Failure> {
    let config = Config::load(&globals.overrides(&[])?)?;
    if globals.json {
        let each = |s: &Setting| json!({"key": s.key, "value": s.value, "source": s.source, "default": s.source.is_none()});
        print_json(&config.settings.iter().map(each).collect::<Vec<_>>())?;
    } else {
        print(&settings(&config.settings, Terminal::detect()))?;
    }
    Ok(Exit::Done)
}

fn settings(settings: &[Setting], terminal: Terminal) -> String {
    let mut rows = Rows::new(terminal, &["KEY", "VALUE", "FROM"]);
    for setting in settings {
        let value = match &setting.value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text::line(text, 200),
            other => text::line(&other.to_string(), 200),
        };
        rows.row(vec![cell(text::line(&setting.key, 200)), cell(value), cell(setting.source.as_deref().unwrap_or("default"))]);
    }
    rows.render()
}

fn check(globals: &Globals, source: Option<&PathBuf>) -> Result<Exit, Failure> {
    let checked = Config::load(&globals.overrides(&[])?);
    let problems = match (&checked, source) {
        // A pipeline is read by itself where the machine's configuration is bad: its own problems are to be seen as well.
        (Err(ConfigError(problems)), Some(source)) => {
            let of_file = Pipeline::load(source, &MadeUp::default(), &Default::default()).err();
            problems.iter().cloned().chain(of_file.into_iter().flat_map(|ConfigError(problems)| problems)).collect()
        }
        (Err(ConfigError(problems)), None) => problems.clone(),
        (Ok(_), None) => Vec::new(),
        (Ok(config), Some(source)) => {
            let shown = source.display().to_string();
            let placed = Pipeline::load(source, &MadeUp::default(), &config.limits).and_then(|pipeline| pipeline.placed(config, &shown));
            let lone = Source { source: source.clone(), models: Vec::new(), config: Vec::new() };
            match placed {
                Err(ConfigError(problems)) => problems,
                // A file that is not there, and what else is no problem of a key.
                Ok(_) => lone.load(config).map(|_| Vec::new())?,
            }
        }
    };
    if globals.json {
        let each: Vec<Value> =
            problems.iter().map(|p| json!({"key": p.key, "value": p.value, "source": p.source, "expected": p.expected})).collect();
        print_json(&json!({"ok": problems.is_empty(), "problems": each}))?;
    }
    if !problems.is_empty() {
        let failure = Failure::from(ConfigError(problems));
        return if globals.json { Ok(Exit::Usage) } else { Err(failure) };
    }
    if !globals.json {
        note("the configuration is right; `wasm-worker doctor` tries what it names");
    }
    Ok(Exit::Done)
}

fn env(globals: &Globals) -> Result<Exit, Failure> {
    if globals.json {
        let each = |v: &Variable| json!({"name": v.name, "key": v.key, "from_file": v.from_file, "about": v.about});
        print_json(&ENVIRONMENT.iter().map(each).collect::<Vec<_>>())?;
        return Ok(Exit::Done);
    }
    let mut rows = Rows::new(Terminal::detect(), &["VARIABLE", "KEY", "WHAT IT IS"]);
    for variable in ENVIRONMENT {
        rows.row(vec![cell(variable.shown()), cell(variable.key.unwrap_or("-")), cell(variable.about)]);
    }
    print(&rows.render())?;
    Ok(Exit::Done)
}
