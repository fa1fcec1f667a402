//! Where a machine's configuration comes from: a file, or a folder of them; then the environment; then flags. Later ones win.

use super::environment::{self, Told};
use super::section::{ConfigError, Problems};
use super::{file, queue, store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The files that are read where none is named: one of them, or else what lies in [`DEFAULT_FOLDER`].
const DEFAULT_FILES: &[&str] = &["wasm-worker.toml", "wasm-worker.yaml", "wasm-worker.yml"];

/// The folder whose files are read where none is named, and there is no file.
const DEFAULT_FOLDER: &str = "config";

/// What overrides the file: the environment and flags.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The file, or a folder whose `*.toml`, `*.yaml` and `*.yml` are merged in the order of their names. None: `wasm-worker.toml`, `.yaml`
    /// or `.yml` where one exists, or else the folder `config` where that exists.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// `(dotted key, value)` of flags; they win.
    pub flags: Vec<(String, String)>,
}

/// All that was written, in one table, and where each key of it came from.
pub(super) struct Sources {
    pub table: Table,
    pub problems: Problems,
    pub told: Told,
}

/// Reads them all.
pub(super) fn gather(overrides: &Overrides) -> Result<Sources, ConfigError> {
    let files = match &overrides.file {
        Some(named) if named.is_dir() => in_folder(named)?,
        Some(named) => vec![named.clone()],
        None => unnamed(Path::new("."))?,
    };
    let whole = if let [only] = files.as_slice() { only.display().to_string() } else { "configuration".to_owned() };
    let mut problems = Problems::new(&whole);
    let mut table = Table::new();
    let mut faults = Vec::new();
    for path in &files {
        let source = path.display().to_string();
        match file::read(path, &source) {
            Ok(read) => lay_file(&mut table, read, path, &source, &mut problems),
            Err(ConfigError(all)) => faults.extend(all),
        }
    }
    if !faults.is_empty() {
        return Err(ConfigError(faults));
    }
    let told = environment::lay_over(&mut table, &overrides.environment, &mut problems);
    for (key, value) in &overrides.flags {
        environment::set(&mut table, key, value);
        problems.set_origin(key, "command line".to_owned());
    }
    Ok(Sources { table, problems, told })
}

/// What is read in a folder where nobody names a file.
fn unnamed(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    // As people would write them: without the dot.
    let at = |name: &str| if folder == Path::new(".") { PathBuf::from(name) } else { folder.join(name) };
    let there: Vec<PathBuf> = DEFAULT_FILES.iter().map(|name| at(name)).filter(|path| path.is_file()).collect();
    match there.as_slice() {
        [first, second, ..] => {
            let text = format!("there is {} as well; keep one, or name one with --config-file", second.display());
            Err(ConfigError::of(&first.display().to_string(), text))
        }
        [_] => Ok(there),
        [] if at(DEFAULT_FOLDER).is_dir() => in_folder(&at(DEFAULT_FOLDER)),
        [] => Ok(Vec::new()),
    }
}

/// Files of configuration in a folder, in the order of their names; hidden ones are not meant.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let shown = folder.display().to_string();
    let entries = std::fs::read_dir(folder).map_err(|e| ConfigError::of(&shown, format!("cannot be read: {e}")))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_hidden = |path: &Path| path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let mut files: Vec<PathBuf> = paths.filter(|path| file::is_ours(path) && !is_hidden(path) && path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// Puts a file over what was read before. A path in it starts at its folder; a path from elsewhere starts where the user stands.
fn lay_file(table: &mut Table, mut read: Table, path: &Path, source: &str, problems: &mut Problems) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for key in ["data_dir", "inference.onnxruntime"] {
        anchor(&mut read, key, folder);
    }
    anchor_bucket(&mut read, folder);
    store::anchor(&mut read, folder);
    queue::anchor(&mut read, folder);
    note(&read, "", source, problems);
    merge(table, read);
}

/// Notes where every key of a table came from.
fn note(table: &Table, path: &str, source: &str, problems: &mut Problems) {
    for (key, value) in table {
        let key = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        problems.set_origin(&key, source.to_owned());
        if let Value::Table(inner) = value {
            note(inner, &key, source, problems);
        }
    }
}

fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// Makes a relative path start at a folder.
fn anchor(table: &mut Table, key: &str, folder: &Path) {
    match key.split_once('.') {
        Some((head, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(head) {
                anchor(inner, rest, folder);
            }
        }
        None => {
            if let Some(Value::String(text)) = table.get_mut(key)
                && Path::new(text.as_str()).is_relative()
            {
                *text = folder.join(text.as_str()).to_string_lossy().into_owned();
            }
        }
    }
}

/// The same for the bucket, where only what starts with a dot is a relative path.
fn anchor_bucket(table: &mut Table, folder: &Path) {
    if let Some(Value::Table(storage)) = table.get_mut("storage")
        && let Some(Value::String(text)) = storage.get_mut("bucket")
        && text.starts_with('.')
    {
        let path = folder.join(text.as_str());
        *text = std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn files_of_a_folder_are_merged_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        write(at, "c/20.yaml", "worker:\n  lease: 8s\n");
        write(at, "c/10.toml", "tenant = 'a'\n[worker]\nlease = '9s'\ngrace = '1s'");
        write(at, "c/.hidden.toml", "nonsense = 1");
        write(at, "c/notes.txt", "no configuration");
        let load = |environment: &[(&str, &str)]| {
            let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Config::load(&Overrides { file: Some(at.join("c")), environment, ..Overrides::default() })
        };
        let config = load(&[]).unwrap();
        assert_eq!((config.tenant.as_str(), config.worker.lease.as_secs(), config.worker.grace.as_secs()), ("a", 8, 1));
        let source = |key: &str| config.setting(key).unwrap().source.clone().unwrap();
        assert!(source("worker.lease").ends_with("20.yaml") && source("worker.grace").ends_with("10.toml"));
        write(at, "c/30.yml", "worker:\n  laese: 1s\n");
        write(at, "c/40.toml", "log_format = 'xml'");
        let text = load(&[("WASM_WORKER_GRACE", "soon")]).unwrap_err().to_string();
        for part in ["30.yml: worker.laese: unknown key", "40.toml: log_format", "variable WASM_WORKER_GRACE: worker.grace"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        write(at, "c/50.yaml", "worker: [");
        write(at, "c/60.toml", "worker = ");
        let text = load(&[]).unwrap_err().to_string();
        assert!(text.contains("50.yaml: ") && text.contains("60.toml: line 1"), "every file that cannot be read at once: {text}");
    }

    #[test]
    fn one_file_or_else_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert_eq!(unnamed(at).unwrap(), Vec::<PathBuf>::new());
        let inside = write(at, "config/a.yaml", "");
        assert_eq!(unnamed(at).unwrap(), [inside]);
        let file = write(at, "wasm-worker.yaml", "");
        assert_eq!(unnamed(at).unwrap(), [file]);
        write(at, "wasm-worker.toml", "");
        assert!(unnamed(at).unwrap_err().to_string().contains("--config-file"));
    }
}
