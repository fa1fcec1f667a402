//! The options that every command takes, and the configuration they lead to.

use super::failure::Failure;
use super::terminal::{is_no_color, note};
use crate::config::{CONFIG, Config, Overrides};
use crate::task_store::MAX_ANSWER;
use crate::telemetry;
use clap::{ArgAction, Args, ValueEnum};
use std::path::PathBuf;

/// The log filter where nobody chose one.
const DEFAULT_LOG: &str = "info";

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// The machine's configuration: a file (TOML, YAML), or a folder whose files are merged in the order of their names
    /// [default: wasm-worker.toml or .yaml, or else the folder config, where there is one]
    #[arg(long, global = true, value_name = "FILE", env = CONFIG)]
    pub config_file: Option<PathBuf>,
    /// Folder of the task store, compiled guests and objects [default: .wasm-worker]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Sets a key of the machine's configuration, such as worker.lease=30s; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = super::source::pair)]
    pub set: Vec<(String, String)>,
    /// Prints results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// More logs (-v: debug, -vv: everything), with every field also on a terminal
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Fewer logs (-q: warnings, -qq: errors)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
    /// Form of the logs on standard error
    #[arg(long, global = true, value_enum, value_name = "FORM")]
    pub log_format: Option<LogFormat>,
}

/// Form of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// JSON lines.
    Json,
}

/// How much a command logs where nobody chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chatter {
    /// A worker: every task.
    Service,
    /// A command that answers and ends, and says itself what went wrong: failures of the host only.
    Command,
}

impl Globals {
    /// What goes over the file. `flags` are `(dotted key, value)` of the command's own options.
    pub fn overrides(&self, flags: &[(&str, String)]) -> Result<Overrides, Failure> {
        let mut overrides = Overrides { file: self.config_file.clone(), ..Overrides::default() };
        let chosen = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        overrides.environment = chosen.filter(|(name, _)| name != CONFIG).collect();
        overrides.flags = self.flags(flags)?;
        Ok(overrides)
    }

    /// Reads the configuration and starts logging.
    pub fn open(&self, chatter: Chatter, flags: &[(&str, String)]) -> Result<Config, Failure> {
        let config = Config::load(&self.overrides(flags)?)?;
        let log = self.log(&config.log, chatter);
        telemetry::start(&log, config.log_json, is_no_color(), self.verbose > 0).map_err(Failure::usage)?;
        Ok(config)
    }

    fn flags(&self, own: &[(&str, String)]) -> Result<Vec<(String, String)>, Failure> {
        let mut flags = self.set.clone();
        if let Some(folder) = &self.data_dir {
            let text = folder.to_str().ok_or_else(|| Failure::usage(format!("--data-dir {} is not UTF-8", folder.display())))?;
            flags.push(("data_dir".to_owned(), text.to_owned()));
        }
        match self.log_format {
            Some(LogFormat::Json) => flags.push(("log_format".to_owned(), "json".to_owned())),
            Some(LogFormat::Text) => flags.push(("log_format".to_owned(), "text".to_owned())),
            None => {}
        }
        flags.extend(own.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Ok(flags)
    }

    fn log(&self, configured: &str, chatter: Chatter) -> String {
        let text = match (self.verbose, self.quiet) {
            (0, 0) if chatter == Chatter::Command && configured == DEFAULT_LOG => "error",
            (0, 0) => configured,
            // The libraries below say at debug what only their authors need.
            (1, _) => "info,wasm_worker=debug",
            (2.., _) => "debug,wasm_worker=trace",
            (0, 1) => "warn",
            (0, _) => "error",
        };
        text.to_owned()
    }
}

/// How much a list shows where nobody said: a screenful of people's lines, or for a machine as much as one answer of the store holds.
pub fn list_limit(asked: Option<u32>, json: bool) -> u32 {
    asked.unwrap_or(if json { MAX_ANSWER } else { 100 })
}

/// Says so where a list may have been cut, and nobody asked for that.
pub fn tell_if_cut(asked: Option<u32>, json: bool, shown: usize) {
    let limit = list_limit(asked, json).min(MAX_ANSWER);
    if shown >= limit as usize && asked.is_none_or(|asked| asked > limit) {
        note(&format!("{shown} shown; there may be more: --limit takes up to {MAX_ANSWER}, and filters narrow a list"));
    }
}
