//! Mutants: deliberate breaks of the product, each of which some test must notice.
//!
//! The product has no switches for this. The sources are copied to `target/mutants/`, every break of [`list::MUTANTS`] is written
//! into the copy behind a switch that an environment variable sets, the copy is built once, and the tests run once per break:
//! the simulation until its first violation, or the conformance suite of the task stores. What `list.rs` holds is exact text; where
//! a text is not found once, the list has fallen behind the code, and that is an error too.

mod list;

use crate::shell;
use list::{By, Edit, MUTANTS, Mutant, REWRITE};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The variable that names the break that is on.
const SWITCH: &str = "WASM_WORKER_MUTANT";

/// Seeds a break may take to be noticed by the simulation.
const SEEDS: &str = "2000";

/// Longest that the tests may take over one break: some make a loop endless, and that is noticed too.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the copy consists of, from the workspace's root.
const COPIED: &[&str] = &["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "host", "sdk-guest", "tests", "xtask", "wit"];

/// The copy's own file: which break is on.
const SWITCH_FILE: &str = "\
//! Which deliberate break is on.
#![allow(missing_docs, dead_code)]
use std::sync::OnceLock;

static ON: OnceLock<String> = OnceLock::new();

pub fn on() -> &'static str {
    ON.get_or_init(|| std::env::var(\"WASM_WORKER_MUTANT\").unwrap_or_default())
}

pub fn is(name: &str) -> bool {
    on() == name
}

const REWRITES: &[(&str, &str, &str)] = &[
@REWRITES@];

/// A statement, broken where the break that is on says so.
pub fn rewrite(sql: &str) -> std::borrow::Cow<'_, str> {
    REWRITES.iter().filter(|(name, ..)| is(name)).fold(sql.into(), |sql, (_, from, to)| sql.replace(from, to).into())
}
";

/// `mutants [NAME]`.
pub fn mutants(arguments: &[&str]) -> Result<(), String> {
    let wanted: Vec<&Mutant> = MUTANTS.iter().filter(|m| arguments.first().is_none_or(|name| m.name.contains(name))).collect();
    if wanted.is_empty() {
        return Err(format!("no mutant has '{}' in its name", arguments.join(" ")));
    }
    let copy = shell::target().join("mutants");
    shell::part("copy the sources and write the breaks into them", || write_copy(&copy))?;
    let tests = shell::part("build the broken copy", || build(&copy))?;
    let mut survivors = Vec::new();
    println!("{:<34} {:<58} {:<12} {:>7}  noticed as", "mutant", "what it breaks", "by", "took");
    for mutant in wanted {
        let began = Instant::now();
        let noticed = notice(mutant, &tests, &copy)?;
        let took = began.elapsed().as_secs_f64();
        let how = noticed.as_deref().unwrap_or("NOT NOTICED");
        println!("{:<34} {:<58} {:<12} {took:>6.1}s  {how}", mutant.name, mutant.breaks, mutant.by.name());
        if noticed.is_none() {
            survivors.push(mutant.name);
        }
    }
    if survivors.is_empty() { Ok(()) } else { Err(format!("not noticed by any test: {}", survivors.join(", "))) }
}

/// The test programs of the copy.
struct Tests {
    simulation: PathBuf,
    conformance: PathBuf,
}

/// Runs the tests that are to notice it, with the break on. Returns the first line that tells what was noticed.
fn notice(mutant: &Mutant, tests: &Tests, copy: &Path) -> Result<Option<String>, String> {
    let (program, filter, folder) = match mutant.by {
        By::Simulation => (&tests.simulation, "simulation::", copy.join("tests")),
        By::Conformance => (&tests.conformance, "task_store::sql::", copy.join("host")),
    };
    let mut command = Command::new(program);
    command.current_dir(folder).arg(filter).arg("--nocapture").env(SWITCH, mutant.name).env("SIMULATE_SEEDS", SEEDS);
    command.env("SIMULATE_ONLY_VIOLATIONS", "1").env("RUST_BACKTRACE", "0");
    // To a file: a pipe that nobody reads would hold the tests up.
    let log = copy.with_extension("log");
    let file = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let too = file.try_clone().map_err(|e| e.to_string())?;
    let mut child = command.stdout(file).stderr(too).spawn().map_err(|e| format!("{}: {e}", program.display()))?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
            return Ok(Some(format!("the tests did not end within {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if status.success() {
        return Ok(None);
    }
    let text = fs::read(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    Ok(Some(told(mutant, &String::from_utf8_lossy(&text))))
}

/// The line of a test's output that says what was wrong.
fn told(mutant: &Mutant, text: &str) -> String {
    let first = match mutant.by {
        By::Simulation => text.lines().map(str::trim).find(|l| l.starts_with("seed ")),
        By::Conformance => text.lines().map(str::trim).find(|l| l.starts_with("test ") && l.ends_with("FAILED")),
    };
    first.unwrap_or("the tests failed").chars().take(90).collect()
}

fn write_copy(copy: &Path) -> Result<(), String> {
    let root = shell::root();
    let fresh = copy.with_extension("new");
    remove(&fresh)?;
    for name in COPIED {
        copy_all(&root.join(name), &fresh.join(name))?;
    }
    write_edit(&fresh, "(all of SQL)", &REWRITE)?;
    let mut rewrites = String::new();
    for mutant in MUTANTS {
        mutant.edits.iter().try_for_each(|edit| write_edit(&fresh, mutant.name, edit))?;
        for (from, to) in mutant.sql {
            check_stands(&fresh.join("host/src/task_store/sql"), mutant.name, from)?;
            rewrites.push_str(&format!("    ({:?}, {from:?}, {to:?}),\n", mutant.name));
        }
    }
    let lib = fresh.join("host/src/lib.rs");
    let text = fs::read_to_string(&lib).map_err(|e| e.to_string())?;
    fs::write(&lib, format!("{text}\npub mod mutant;\n")).map_err(|e| e.to_string())?;
    fs::write(fresh.join("host/src/mutant.rs"), SWITCH_FILE.replace("@REWRITES@", &rewrites)).map_err(|e| e.to_string())?;
    take_over(&fresh, copy)
}

fn write_edit(copy: &Path, mutant: &str, edit: &Edit) -> Result<(), String> {
    let path = copy.join(edit.file);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", edit.file))?;
    let found = text.matches(edit.find).count();
    if found != 1 {
        return Err(format!("mutant '{mutant}': its text stands {found} times in {}, not once:\n{}", edit.file, edit.find));
    }
    fs::write(&path, text.replace(edit.find, edit.replace)).map_err(|e| format!("{}: {e}", edit.file))
}

/// A statement's text must stand in some statement, or its break would break nothing.
fn check_stands(folder: &Path, mutant: &str, sql: &str) -> Result<(), String> {
    // Statements within `sql!` go over lines that end with a backslash.
    let unfolded = |text: String| text.split("\\\n").map(str::trim_start).collect::<String>();
    for file in files(folder)? {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        if text.contains(sql) || unfolded(text).contains(sql) {
            return Ok(());
        }
    }
    Err(format!("mutant '{mutant}': its text stands in no statement:\n{sql}"))
}

/// Files that have not changed keep their times, so that nothing is built twice.
fn take_over(fresh: &Path, copy: &Path) -> Result<(), String> {
    let there = |path: &Path| fs::read(path).ok();
    for file in files(fresh)? {
        let to = copy.join(file.strip_prefix(fresh).map_err(|e| e.to_string())?);
        if there(&file) != there(&to) {
            copy_all(&file, &to)?;
        }
    }
    for file in files(copy)? {
        let source = fresh.join(file.strip_prefix(copy).map_err(|e| e.to_string())?);
        if !source.exists() {
            fs::remove_file(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        }
    }
    remove(fresh)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(found) };
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn copy_all(from: &Path, to: &Path) -> Result<(), String> {
    if from.is_file() {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        return fs::copy(from, to).map(drop).map_err(|e| format!("{}: {e}", from.display()));
    }
    for file in files(from)? {
        copy_all(&file, &to.join(file.strip_prefix(from).map_err(|e| e.to_string())?))?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<(), String> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display())) } else { Ok(()) }
}

/// Builds the test programs of the copy, with the dependencies that are built already. Our own crate is not optimised: it is built for one run.
fn build(copy: &Path) -> Result<Tests, String> {
    let mut cargo = shell::cargo();
    cargo.current_dir(copy).env("CARGO_TARGET_DIR", std::path::absolute(shell::target()).map_err(|e| e.to_string())?);
    cargo.args(["test", "--release", "--workspace", "--lib", "--test", "all", "--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(["--config", "profile.release.package.wasm-worker.opt-level=1"]);
    cargo.args(["--config", "profile.release.package.wasm-worker-tests.opt-level=1"]);
    let text = shell::output(&mut cargo)?;
    let program = |wanted: &str, kind: &str| {
        text.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|m| m["target"]["name"] == wanted && m["target"]["kind"][0] == kind && m["profile"]["test"] == true)
            .find_map(|m| m["executable"].as_str().map(PathBuf::from))
            .ok_or_else(|| format!("cargo names no test program '{wanted}'"))
    };
    Ok(Tests { simulation: program("all", "test")?, conformance: program("wasm_worker", "lib")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it, a text that has moved on shows only when the breaks are built, at the very end of a test run.
    #[test]
    fn every_break_finds_its_text() {
        let copy = std::env::temp_dir().join(format!("mutants-{}", std::process::id()));
        let written = write_copy(&copy);
        remove(&copy).and_then(|()| remove(&copy.with_extension("new"))).unwrap();
        written.unwrap();
    }
}
