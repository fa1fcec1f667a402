//! `doctor`: tries every place outside that the configuration names, and says what to do about what fails.

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals};
use super::render::text;
use super::source::Source;
use super::terminal::{Terminal, print, print_json};
use crate::app::{Finding, Verdict, examine};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  wasm-worker doctor
  wasm-worker doctor pipeline.toml                        its guests, models and queues too
  QUEUE_URL=redis://host?stream=pages wasm-worker doctor --json

Nothing is taken from a queue; the one object that is written is removed again. The task store's schema is brought up to date, as every
command does. Exit 1 where something fails.";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// A component (guest.wasm) or a pipeline file, whose guests, models and queues are looked at as well
    #[arg(value_name = "GUEST|PIPELINE")]
    source: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &DoctorArgs) -> Result<Exit, Failure> {
    let config = globals.open(Chatter::Command, &[])?;
    let source = args.source.clone().map(|source| Source { source, models: Vec::new(), config: Vec::new() });
    let pipeline = source.map(|source| source.load(&config)).transpose()?;
    let findings = examine(&config, pipeline.as_ref()).await;
    let is_well = findings.iter().all(|finding| finding.verdict != Verdict::Fail);
    if globals.json {
        print_json(&json!({"ok": is_well, "findings": findings}))?;
    } else {
        print(&render(&findings, Terminal::detect()))?;
    }
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

fn render(findings: &[Finding], terminal: Terminal) -> String {
    let mut out = String::new();
    for finding in findings {
        let (word, colour) = match finding.verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Fail => ("FAIL", "1;31"),
            Verdict::Skipped => ("-", "33"),
        };
        let word = if terminal.colours { format!("\u{1b}[{colour}m{word:<4}\u{1b}[0m") } else { format!("{word:<4}") };
        out.push_str(&format!("{word}  {}\n", text::line(&finding.what, 300)));
        for row in text::plain(&finding.detail).lines() {
            out.push_str(&format!("      {row}\n"));
        }
        if let Some(help) = &finding.help {
            out.push_str(&format!("      help: {}\n", text::line(help, 500)));
        }
    }
    let count = |verdict: Verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    out.push_str(&format!("\n{} ok, {} failed, {} skipped\n", count(Verdict::Ok), count(Verdict::Fail), count(Verdict::Skipped)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_followed_by_what_to_do() {
        let failed = Finding {
            what: "bucket s3://b/".into(),
            verdict: Verdict::Fail,
            detail: "BUCKET: away\u{1b}[2J".into(),
            help: Some("check BUCKET".into()),
        };
        let well = Finding { what: "versions".into(), verdict: Verdict::Ok, detail: "1".into(), help: None };
        let text = render(&[failed, well], Terminal { shows_results: false, shows_progress: false, colours: false });
        let shown = "FAIL  bucket s3://b/\n      BUCKET: away\\u{1b}[2J\n      help: check BUCKET\nok    versions\n      1\n\n1 ok, 1 failed, 0 skipped\n";
        assert_eq!(text, shown);
    }
}
