//! Where tasks are kept: `store.dsn`, `DB_DSN`. What may hold a password is never shown.

use super::section::Section;
use serde_json::Value as Json;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where tasks are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    /// A SQLite file.
    File(PathBuf),
    /// A Postgres database.
    Server(Dsn),
}

/// `postgres://user:password@host:port/database`. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn(String);

impl Dsn {
    /// All of it, for whoever connects.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

/// What the file, the environment and flags say; none: a SQLite file in the data directory.
pub(super) fn read_at(store: &mut Section<'_>) -> Option<StoreAt> {
    let text = store.secret("dsn");
    let text = store.note("dsn", text, |text| Json::from(masked(text)))?;
    match StoreAt::parse(&text) {
        Some(at) => at,
        None => {
            store.fault("dsn", &masked(&text), "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH");
            None
        }
    }
}

impl StoreAt {
    /// `postgres://…`, `sqlite:PATH`; `sqlite:` alone is the file in the data directory, `Some(None)`. None: it is no store.
    pub(super) fn parse(text: &str) -> Option<Option<Self>> {
        match text.split_once(':')? {
            ("postgres" | "postgresql", rest) if rest.starts_with("//") => Some(Some(Self::Server(Dsn(text.to_owned())))),
            ("sqlite", rest) => {
                let path = Path::new(rest.strip_prefix("//").unwrap_or(rest));
                let named = !path.as_os_str().is_empty();
                Some(named.then(|| Self::File(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))))
            }
            _ => None,
        }
    }
}

/// Makes a relative path of `sqlite:PATH` in the file start at the file's folder.
pub(super) fn anchor(table: &mut Table, folder: &Path) {
    if let Some(Value::Table(store)) = table.get_mut("store")
        && let Some(Value::String(text)) = store.get_mut("dsn")
    {
        anchor_text(text, folder);
    }
}

/// The same for one text.
pub(super) fn anchor_text(text: &mut String, folder: &Path) {
    if let Some(path) = text.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest))
        && !path.is_empty()
        && Path::new(path).is_relative()
    {
        *text = format!("sqlite:{}", folder.join(path).display());
    }
}

/// The text with everything between the scheme and the host hidden; only the scheme where that cannot be told apart.
pub(super) fn masked(text: &str) -> String {
    // What follows a question mark may be a user or a password as well.
    let place = text.split('?').next().unwrap_or_default();
    match place.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((_, place)))) => format!("{scheme}://…@{place}"),
        Some((scheme, None)) => format!("{scheme}://…"),
        None => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::StoreAt;
    use crate::config::{Config, Overrides};
    use std::path::{Path, PathBuf};

    fn load(file: &Path, variable: Option<&str>) -> Result<Option<StoreAt>, String> {
        let environment = variable.map(|value| ("DB_DSN".to_owned(), value.to_owned())).into_iter().collect();
        let overrides = Overrides { file: Some(file.to_owned()), environment, ..Overrides::default() };
        Config::load(&overrides).map(|config| config.store).map_err(|e| e.to_string())
    }

    #[test]
    fn one_variable_says_where_tasks_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "").unwrap();
        assert_eq!(load(&file, None).unwrap(), None);
        assert_eq!(load(&file, Some("sqlite:")).unwrap(), None);
        assert_eq!(load(&file, Some("sqlite:/a/b.db")).unwrap(), Some(StoreAt::File(PathBuf::from("/a/b.db"))));
        assert_eq!(load(&file, Some("sqlite:///a/b.db")).unwrap(), Some(StoreAt::File(PathBuf::from("/a/b.db"))));
        let server = load(&file, Some("postgres://u:secret@h:1/d?password=secret")).unwrap().unwrap();
        let StoreAt::Server(dsn) = &server else { panic!("{server:?}") };
        assert_eq!(dsn.reveal(), "postgres://u:secret@h:1/d?password=secret");
        assert_eq!(format!("{server:?}"), "Server(postgres://…@h:1/d)");
        assert_eq!(super::masked("postgres://h/d?user=me@srv&password=secret"), "postgres://…");
        std::fs::write(&file, "[store]\ndsn = 'sqlite:tasks.db'").unwrap();
        assert_eq!(load(&file, None).unwrap(), Some(StoreAt::File(folder.path().join("tasks.db"))), "from the file's own folder");
    }

    #[test]
    fn a_slip_shows_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "").unwrap();
        for written in ["mysql://u:secret@h/d", "u:secret@h/d", "postgres:secret", "://secret"] {
            let error = load(&file, Some(written)).unwrap_err();
            assert!(error.contains("postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH"), "{error}");
            assert!(error.contains("environment variable DB_DSN") && !error.contains("secret"), "{error}");
        }
    }
}
