//! `new`: writes the project of a guest that builds, passes `check`, and stands outside this repository.
//!
//! The SDK and the contract are copied into it, because neither is published; the texts of the project are in `template/`.

use super::failure::{Exit, Failure};
use super::globals::Globals;
use super::terminal::{print, print_json};
use clap::Args;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The guest SDK and the contract: paths from the repository's root, and texts.
const VENDORED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/vendored.rs"));

/// The project's own files; `{name}` stands for its name, `{module}` for the same with underscores.
const TEMPLATE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
    ("rust-toolchain.toml", include_str!("template/rust-toolchain.toml.txt")),
    (".cargo/config.toml", include_str!("template/cargo-config.toml.txt")),
    (".gitignore", "/target\n/.wasm-worker\n"),
    ("README.md", include_str!("template/README.md.txt")),
    ("src/lib.rs", include_str!("template/lib.rs.txt")),
];

/// Longest name: it becomes a file name and a task's step.
const MAX_NAME: usize = 64;

/// Names that cargo refuses for a package, or that would hide a crate the project uses.
const TAKEN: &[&str] =
    &["test", "core", "std", "alloc", "proc_macro", "serde", "schemars", "wasm_worker_guest", "build", "deps", "examples", "incremental"];

/// Words of the language, which cannot name a crate.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum", "extern",
    "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv",
    "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use",
    "virtual", "where", "while", "yield",
];

/// Arguments of `new`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wasm-worker new thumbnails\n  cd thumbnails && cargo build --release")]
pub struct NewArgs {
    /// Name of the guest: lower-case letters, digits, '-' and '_'
    name: String,
    /// Folder to write; new or empty [default: one of that name]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
pub fn run(globals: &Globals, args: &NewArgs) -> Result<Exit, Failure> {
    check_name(&args.name).map_err(|why| Failure::usage(why).help("a good name is, say, thumbnails or page-reader"))?;
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let files = files(&args.name);
    write(&folder, &files)?;
    let component = format!("target/wasm32-wasip2/release/{}.wasm", module(&args.name));
    if globals.json {
        let names: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        print_json(&json!({"name": args.name, "folder": folder, "component": component, "files": names}))?;
        return Ok(Exit::Done);
    }
    let shown = folder.display();
    print(&format!(
        "wrote {shown}: the service is in {shown}/src/lib.rs\n\nnext:\n  cd {} && cargo build --release\n  wasm-worker check {component}\n  wasm-worker run {component} --params '{{\"name\": \"you\"}}'\n",
        quoted(&folder)
    ))?;
    Ok(Exit::Done)
}

fn check_name(name: &str) -> Result<(), String> {
    let shown: String = name.chars().take(80).collect::<String>().escape_debug().to_string();
    let head = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let body = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if !head || !body || name.len() > MAX_NAME {
        return Err(format!("name '{shown}' must be 1 to {MAX_NAME} lower-case letters, digits, '-' or '_', starting with a letter"));
    }
    if TAKEN.contains(&module(name).as_str()) {
        return Err(format!("name '{shown}' is taken by Rust itself or by a crate the project uses"));
    }
    if KEYWORDS.contains(&name) {
        return Err(format!("name '{shown}' is a word of the language"));
    }
    Ok(())
}

fn module(name: &str) -> String {
    name.replace('-', "_")
}

/// Every file of the project: path and text.
fn files(name: &str) -> Vec<(String, String)> {
    let fill = |text: &str| text.replace("{name}", name).replace("{module}", &module(name));
    let own = TEMPLATE.iter().map(|(path, text)| ((*path).to_owned(), fill(text)));
    let vendored = VENDORED.iter().map(|(path, text)| (format!("vendor/{path}"), (*text).to_owned()));
    own.chain(vendored).collect()
}

fn write(folder: &Path, files: &[(String, String)]) -> Result<(), Failure> {
    let fault = |path: &Path, e: std::io::Error| Failure::failed(format!("{} cannot be written: {e}", path.display()));
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(false) => {}
        Ok(true) => {
            return Err(
                Failure::usage(format!("{} is not empty", folder.display())).help("choose another name, or another folder with --dir")
            );
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Failure::usage(format!("{} cannot be used: {e}", folder.display())).help("choose another folder with --dir")),
    }
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| fault(parent, e))?;
        }
        fs::write(&path, text).map_err(|e| fault(&path, e))?;
    }
    Ok(())
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_'));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cargo_would_refuse_are_refused_here() {
        for bad in ["", "9lives", "a b", "Ä", "a/b", "..", "Upper", "test", "fn", "wasm-worker-guest", "-a", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "page-reader", "a_1"] {
            check_name(good).unwrap();
        }
    }

    #[test]
    fn a_project_is_complete_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("p");
        write(&project, &files("page-reader")).unwrap();
        let manifest: toml::Table = fs::read_to_string(project.join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("page-reader"));
        for path in ["vendor/sdk-guest/src/lib.rs", "vendor/wit/pipeline.wit", "vendor/wit/deps/wasi-nn/wasi-nn.wit", ".cargo/config.toml"]
        {
            assert!(project.join(path).is_file(), "{path}");
        }
        let sdk: toml::Table = fs::read_to_string(project.join("vendor/sdk-guest/Cargo.toml")).unwrap().parse().unwrap();
        assert!(!sdk["package"].as_table().unwrap().values().any(toml::Value::is_table), "the SDK inherits from a workspace it leaves");
        assert!(fs::read_to_string(project.join("README.md")).unwrap().contains("page_reader.wasm"));
        assert!(write(&project, &files("page-reader")).unwrap_err().to_string().contains("is not empty"));
    }

    #[test]
    fn a_folder_is_quoted_where_a_shell_would_stumble() {
        assert_eq!(quoted(Path::new("a/b-c")), "a/b-c");
        assert_eq!(quoted(Path::new("it's here")), r"'it'\''s here'");
    }
}
