//! Fuzzing, led by coverage, on the pinned stable toolchain: the targets of `fuzz/` with libFuzzer, instrumented by LLVM's own pass.

use crate::{shell, test};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The targets, and the longest input each is given. What is longer is the business of tests: here many short ones find more.
const TARGETS: &[(&str, u32)] = &[("message", 16_384), ("uri", 4_096)];

/// What makes rustc count the edges that an input reaches and tell libFuzzer what is compared with what. The flags are stable ones.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Memory that a process may take, in megabytes; and seconds for one input.
const BOUNDS: [&str; 2] = ["-rss_limit_mb=256", "-timeout=5"];

/// `fuzz message|uri [--seconds N | --replay FILE]`.
pub fn fuzz(arguments: &[&str]) -> Result<(), String> {
    let [name, rest @ ..] = arguments else { return Err("fuzz takes message or uri".to_owned()) };
    let target = TARGETS.iter().find(|(known, _)| known == name);
    let (name, longest) = *target.ok_or_else(|| format!("no fuzz target '{name}'; there are message and uri"))?;
    match rest {
        [] => search(name, longest, 60),
        ["--seconds", seconds] => search(name, longest, seconds.parse().map_err(|e| format!("'{seconds}' is no number of seconds: {e}"))?),
        ["--replay", file] => {
            let file = fs::canonicalize(file).map_err(|e| format!("{file} cannot be read: {e}"))?;
            shell::run(Command::new(build(name)?).args(BOUNDS).arg(file))
        }
        other => Err(format!("fuzz {name} takes --seconds N or --replay FILE, not '{}'", other.join(" "))),
    }
}

/// Builds a target, into a folder of its own: nothing else is built with these flags.
fn build(name: &str) -> Result<PathBuf, String> {
    let (folder, triple) = (shell::target().join("fuzz"), test::host_target()?);
    let mut cargo = shell::cargo();
    // With a target named, the flags are kept from build scripts and macros.
    cargo.args(["build", "--quiet", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--bin", name, "--target", &triple]);
    cargo.env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS").arg("--target-dir").arg(&folder);
    shell::part("build the fuzz target", || shell::run(&mut cargo))?;
    Ok(folder.join(triple).join("release").join(name))
}

fn search(name: &str, longest: u32, seconds: u32) -> Result<(), String> {
    let binary = build(name)?;
    let (seeds, words) = (shell::root().join("fuzz/seeds").join(name), shell::root().join("fuzz/words").join(name));
    let (corpus, found) = (shell::target().join("fuzz/corpus").join(name), shell::root().join("out/fuzz").join(name));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let log = found.join("log");
    let stream = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let before = findings(&found)?;
    eprintln!("── fuzzing {name} for {seconds} s; {} tells how it goes", log.display());
    let mut fuzzer = Command::new(&binary);
    fuzzer.args(BOUNDS).args([format!("-max_total_time={seconds}"), format!("-max_len={longest}"), "-print_final_stats=1".to_owned()]);
    fuzzer.arg(format!("-dict={}", words.display())).arg(format!("-artifact_prefix={}/finding-", found.display()));
    fuzzer.arg(&corpus).arg(&seeds).stdout(Stdio::null()).stderr(stream);
    let status = fuzzer.status().map_err(|e| format!("{} cannot be started: {e}", binary.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log).map_err(|e| format!("{}: {e}", log.display()))?).into_owned();
    let new: Vec<PathBuf> = findings(&found)?.into_iter().filter(|file| !before.contains(file)).collect();
    for line in text.lines().filter(|line| line.contains("DONE ") || line.starts_with("stat::")) {
        println!("{}", line.trim());
    }
    if status.success() && new.is_empty() {
        println!("{name}: nothing found");
        return Ok(());
    }
    let tail: Vec<&str> = text.lines().rev().take(30).collect();
    tail.iter().rev().for_each(|line| eprintln!("{line}"));
    let replay = |file: &PathBuf| format!("\n  cargo xtask fuzz {name} --replay {}", file.display());
    Err(format!("{name}: something was found ({status}); again by{}", new.iter().map(replay).collect::<String>()))
}

fn findings(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let files = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(files.filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("finding-"))).collect())
}
