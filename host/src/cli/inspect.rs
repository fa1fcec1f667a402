//! `inspect`: what a component is, without running a task of it.

use super::failure::{Exit, Failure};
use super::globals::{Chatter, Globals};
use super::render::text;
use super::terminal::{print, print_json};
use crate::guest::{Component, EngineConfig, GuestEngine, GuestFault, Inspection};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  wasm-worker inspect guest.wasm
  wasm-worker inspect guest.wasm --json | jq .manifest.functions";

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    /// A component (guest.wasm)
    #[arg(value_name = "GUEST")]
    guest: PathBuf,
}

/// Runs the command.
pub async fn run(globals: &Globals, args: &InspectArgs) -> Result<Exit, Failure> {
    globals.open(Chatter::Command, &[])?;
    if args.guest.extension().is_some_and(|e| e == "toml") {
        return Err(Failure::usage(format!("{} is no component", args.guest.display())).help("name the .wasm file of one of its steps"));
    }
    let engine = GuestEngine::start(&EngineConfig::for_cores(1)).map_err(|e| Failure::failed(e.to_string()))?;
    let component = Component::load(&engine, &args.guest)
        .await
        .map_err(|e| Failure::usage(e.to_string()).help("name a component (.wasm), built for wasm32-wasip2"))?;
    let seen = component.inspect().await.map_err(|fault| {
        let why = format!("{}: describe failed: {}", args.guest.display(), why(&fault));
        Failure::failed(text::plain(&why)).help("`wasm-worker check` tries the guest hook by hook")
    })?;
    if globals.json {
        print_json(&json!({
            "file": args.guest,
            "digest": seen.digest,
            "size": seen.size,
            "imports": seen.imports,
            "exports": seen.exports,
            "manifest": seen.manifest,
        }))?;
    } else {
        print(&render(&seen))?;
    }
    Ok(Exit::Done)
}

/// A guest's fault in a few words.
pub fn why(fault: &GuestFault) -> String {
    use crate::task::hooks::HookError;
    use crate::task::pointer::join;
    match fault {
        GuestFault::Hook(HookError::Retryable { code, message, .. }) => format!("retryable: {code}: {message}"),
        GuestFault::Hook(HookError::Fatal { code, message }) => format!("fatal: {code}: {message}"),
        GuestFault::Hook(HookError::Invalid(violations)) => format!("invalid: {}", join(violations)),
        GuestFault::Hook(HookError::Cancelled) => "cancelled".to_owned(),
        GuestFault::Guest(error) | GuestFault::Host(error) => format!("{}: {}", error.code, error.message),
        GuestFault::Stopped => "stopped".to_owned(),
    }
}

fn render(seen: &Inspection) -> String {
    let mut out = format!("digest   sha256:{}\nsize     {}\n", seen.digest, text::size(seen.size));
    for (what, names) in [("imports", &seen.imports), ("exports", &seen.exports)] {
        out.push_str(&format!("\n{what}\n"));
        for name in names {
            out.push_str(&format!("  {}\n", text::line(name, 200)));
        }
    }
    match &seen.manifest {
        None => out.push_str("\nno manifest: the guest does not export `describe`\n"),
        Some(manifest) => {
            out.push_str(&format!("\nmanifest\n{}\n", text::plain(&indented(manifest))));
        }
    }
    out
}

fn indented(value: &Value) -> String {
    format!("{value:#}").lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_of_itself_cannot_steer_the_terminal() {
        let seen = Inspection {
            digest: "ab".into(),
            size: 2048,
            imports: vec!["wasi:cli/x\u{1b}[2J".into()],
            exports: vec![],
            manifest: Some(json!({"name": "\u{202e}x"})),
        };
        let text = render(&seen);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        assert!(text.contains("2.0 KiB"), "{text}");
    }
}
