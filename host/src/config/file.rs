//! Files of configuration: TOML, and YAML by its extension. What is written in them is read elsewhere.

use super::section::ConfigError;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use toml::Table;

/// Largest file read, bytes: far above any that people write, far below what hurts. Aliases in YAML cannot multiply it without
/// end either: its reader keeps a budget.
const MAX_FILE: u64 = 4 << 20;

/// Whether a file is YAML by its name; it is TOML otherwise.
pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

/// Whether a file is one of configuration by its name.
pub(super) fn is_ours(path: &Path) -> bool {
    is_yaml(path) || path.extension().is_some_and(|e| e == "toml")
}

/// Reads a file.
pub(super) fn read(path: &Path, source: &str) -> Result<Table, ConfigError> {
    let text = text(path, MAX_FILE).map_err(|e| ConfigError::of(source, e))?;
    parse(&text, is_yaml(path), source)
}

/// The text of a file of at most `max` bytes.
pub(super) fn text(path: &Path, max: u64) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(max + 1).read_to_string(&mut text));
    match file {
        Err(e) => Err(format!("cannot be read: {e}")),
        Ok(_) if text.len() as u64 > max => Err(format!("has more than {max} bytes")),
        Ok(_) => Ok(text),
    }
}

/// Parses a text. Errors quote none of it: it may hold passwords.
pub(super) fn parse(text: &str, is_yaml: bool, source: &str) -> Result<Table, ConfigError> {
    if is_yaml {
        let options = serde_saphyr::options! { with_snippet: false };
        let read: Result<Option<Table>, _> = serde_saphyr::from_str_with_options(text, options);
        return read.map(Option::unwrap_or_default).map_err(|e| ConfigError::of(source, e.to_string()));
    }
    text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ConfigError::of(source, format!("line {}: {}", before.matches('\n').count() + 1, e.message()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_in_both_languages() {
        let toml = parse("tenant = 't'\n[worker]\nlease = '9s'\nconcurrency = 3", false, "x").unwrap();
        let yaml = parse("# like this\ntenant: t\nworker:\n  lease: 9s\n  concurrency: 3\n", true, "x").unwrap();
        assert_eq!(toml, yaml);
        let steps = parse("steps:\n  z: {guest: a.wasm}\n  a: {guest: b.wasm}\n", true, "x").unwrap();
        let names: Vec<&String> = steps["steps"].as_table().unwrap().keys().collect();
        assert_eq!(names, ["z", "a"], "in the order of the file");
        assert_eq!(parse("", true, "x").unwrap(), Table::new());
        assert_eq!(parse("# nothing\n", true, "x").unwrap(), Table::new());
    }

    #[test]
    fn a_slip_has_a_line_and_no_secret() {
        for (text, is_yaml) in [("a = 1\ndsn = 'postgres://u:secret@h", false), ("a: 1\ndsn: 'postgres://u:secret@h\n", true)] {
            let error = parse(text, is_yaml, "c").unwrap_err().to_string();
            assert!(error.starts_with("c: ") && error.contains("line 2") && !error.contains("secret"), "{error}");
        }
        assert!(parse("a: 1\na: 2\n", true, "c").is_err(), "a key that is there twice");
        assert!(parse("a:\n", true, "c").is_err(), "a key without a value");
    }

    #[test]
    fn aliases_cannot_fill_the_memory() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let row = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{row}]\n"));
        }
        let error = parse(&bomb, true, "bomb").unwrap_err().to_string();
        assert!(error.len() < 500, "{error}");
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        assert!(text(Path::new("/dev/zero"), 1000).unwrap_err().contains("more than 1000"));
        assert!(text(Path::new("/no/such"), 1000).unwrap_err().contains("cannot be read"));
    }
}
