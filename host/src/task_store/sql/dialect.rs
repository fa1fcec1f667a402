//! One text for two databases: statements are written once, and what the databases say differently stands in braces.
//!
//! | written | SQLite | Postgres |
//! |---|---|---|
//! | `{rows $1 id:int owner:text}` | rows (`rows.rs`), as a table: `sqlite/given.rs` | a JSON array of arrays, as a table |
//! | `{ints $1}`, `{texts $1}` | values, as a table with the column `value` | a JSON array, as a table with the column `value` |
//! | `{json a b}` | these columns | all rows as one JSON array of arrays of these columns |
//! | `{now}` | the database's clock in Unix milliseconds | the same |
//! | `{max}`, `{min}` | `max`, `min` of several values | `greatest`, `least` |
//! | `{limit $1}` | `LIMIT $1 + 0`: at a bare parameter the planner looks, and prepares the statement again each time | `LIMIT $1` |
//! | `{join}` | `CROSS JOIN`, which keeps the order of tables | `JOIN` |
//! | `{index tasks_ready}` | `INDEXED BY tasks_ready` | nothing: its planner has statistics |
//! | `{skip locked t}` | nothing: there is one writer | `FOR NO KEY UPDATE OF t SKIP LOCKED` |
//!
//! Connections to SQLite that only read take and give JSON, as Postgres does. Parameters are `$1`, `$2`, … Whole numbers are BIGINT,
//! flags are 0 and 1.

use std::sync::OnceLock;

/// Which database a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Of the connection that writes, which is given rows as they are, and hands them over so.
    Sqlite,
    /// Of those that only read.
    SqliteReader,
    Postgres,
}

/// A statement, expanded once for each database that it is used on.
pub(super) struct Statement {
    sqlite: &'static str,
    postgres: &'static str,
    for_sqlite: OnceLock<String>,
    for_sqlite_reader: OnceLock<String>,
    for_postgres: OnceLock<String>,
}

impl Statement {
    pub const fn new(text: &'static str) -> Self {
        Self::pair(text, text)
    }

    /// For the rare statement that the databases do in different ways.
    pub const fn pair(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres, for_sqlite: OnceLock::new(), for_sqlite_reader: OnceLock::new(), for_postgres: OnceLock::new() }
    }

    /// What the database is told.
    pub fn text(&'static self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Sqlite => self.for_sqlite.get_or_init(|| expand(self.sqlite, dialect)),
            Dialect::SqliteReader => self.for_sqlite_reader.get_or_init(|| expand(self.sqlite, dialect)),
            Dialect::Postgres => self.for_postgres.get_or_init(|| expand(self.postgres, dialect)),
        }
    }
}

/// A statement that is used in one place.
macro_rules! sql {
    ($text:expr) => {{
        static STATEMENT: $crate::task_store::sql::dialect::Statement = $crate::task_store::sql::dialect::Statement::new($text);
        &STATEMENT
    }};
}
pub(super) use sql;

/// The text with everything in braces replaced. What is not known stays, so that the database refuses it.
pub(super) fn expand(text: &str, dialect: Dialect) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (directive, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(&replacement(directive, dialect).unwrap_or_else(|| format!("{{{directive}}}")));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn replacement(directive: &str, dialect: Dialect) -> Option<String> {
    use Dialect::{Postgres, Sqlite, SqliteReader};
    let mut words = directive.split_whitespace();
    let name = words.next()?;
    Some(match (name, dialect) {
        ("rows", Sqlite) => table(words, |n, column, _| format!("c{n} AS {column}"), "given")?,
        // `jsonb_each` hands elements on in binary: `json_each` would write each as text again, for every column to parse.
        ("rows", SqliteReader) => table(words, |n, column, _| format!("value->>{n} AS {column}"), "jsonb_each")?,
        // Binary as well: text would be parsed again for every column.
        ("rows", Postgres) => table(words, |n, column, kind| format!("(value->>{n})::{kind} AS {column}"), "jsonb_array_elements")?,
        ("ints" | "texts", Sqlite) => format!("(SELECT c0 AS value FROM given({}))", words.next()?),
        ("ints" | "texts", SqliteReader) => format!("(SELECT value FROM json_each({}))", words.next()?),
        ("ints", Postgres) => format!("(SELECT value::bigint AS value FROM json_array_elements_text({}::json))", words.next()?),
        ("texts", Postgres) => format!("(SELECT value FROM json_array_elements_text({}::json))", words.next()?),
        ("json", Sqlite) => words.collect::<Vec<_>>().join(", "),
        ("json", SqliteReader) => format!("json_group_array(json_array({}))", words.collect::<Vec<_>>().join(", ")),
        ("json", Postgres) => {
            format!("coalesce(json_agg(json_build_array({})), '[]')::text", words.collect::<Vec<_>>().join(", "))
        }
        ("now", Sqlite | SqliteReader) => "CAST(unixepoch('subsec') * 1000 + 0.5 AS INTEGER)".to_owned(),
        ("now", Postgres) => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)".to_owned(),
        ("version", Sqlite | SqliteReader) => "'SQLite ' || sqlite_version()".to_owned(),
        ("version", Postgres) => "'PostgreSQL ' || current_setting('server_version')".to_owned(),
        ("max" | "min", Sqlite | SqliteReader) => name.to_owned(),
        ("max", Postgres) => "greatest".to_owned(),
        ("min", Postgres) => "least".to_owned(),
        ("limit", Sqlite | SqliteReader) => format!("LIMIT {} + 0", words.next()?),
        ("limit", Postgres) => format!("LIMIT {}", words.next()?),
        ("join", Sqlite | SqliteReader) => "CROSS JOIN".to_owned(),
        ("join", Postgres) => "JOIN".to_owned(),
        ("index", Sqlite | SqliteReader) => format!("INDEXED BY {}", words.next()?),
        ("skip", Postgres) => format!("FOR NO KEY UPDATE OF {} SKIP LOCKED", words.nth(1)?),
        ("index", Postgres) | ("skip", Sqlite | SqliteReader) => String::new(),
        _ => return None,
    })
}

fn table<'a>(mut words: impl Iterator<Item = &'a str>, column: impl Fn(usize, &str, &str) -> String, function: &str) -> Option<String> {
    let parameter = words.next()?;
    let cast = if function == "jsonb_array_elements" { "::jsonb" } else { "" };
    let columns: Vec<String> = columns(words).enumerate().map(|(n, (name, kind))| column(n, name, kind)).collect();
    Some(format!("(SELECT {} FROM {function}({parameter}{cast}))", columns.join(", ")))
}

/// Names and types, as Postgres calls them.
fn columns<'a>(words: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, &'static str)> {
    words.filter_map(|word| {
        let (name, kind) = word.split_once(':')?;
        Some((name, if kind == "int" { "bigint" } else { "text" }))
    })
}

#[cfg(test)]
mod tests {
    use super::{Dialect, expand};

    #[test]
    fn braces_become_what_each_database_understands() {
        let text =
            "UPDATE t SET a = {max}(t.a, $2) FROM {rows $1 id:int name:text} c WHERE t.id = c.id OR t.id IN {ints $3} {skip locked t}";
        assert_eq!(
            expand(text, Dialect::Sqlite),
            "UPDATE t SET a = max(t.a, $2) FROM (SELECT c0 AS id, c1 AS name FROM given($1)) c WHERE t.id = c.id \
             OR t.id IN (SELECT c0 AS value FROM given($3)) "
        );
        assert_eq!(
            expand(text, Dialect::SqliteReader),
            "UPDATE t SET a = max(t.a, $2) FROM (SELECT value->>0 AS id, value->>1 AS name FROM jsonb_each($1)) c WHERE t.id = c.id \
             OR t.id IN (SELECT value FROM json_each($3)) "
        );
        assert_eq!(
            expand(text, Dialect::Postgres),
            "UPDATE t SET a = greatest(t.a, $2) FROM (SELECT (value->>0)::bigint AS id, (value->>1)::text AS name \
             FROM jsonb_array_elements($1::jsonb)) c WHERE t.id = c.id \
             OR t.id IN (SELECT value::bigint AS value FROM json_array_elements_text($3::json)) FOR NO KEY UPDATE OF t SKIP LOCKED"
        );
        assert_eq!(expand("{json a b}", Dialect::Sqlite), "a, b");
        assert_eq!(expand("{json a b}", Dialect::SqliteReader), "json_group_array(json_array(a, b))");
        assert_eq!(expand("{json a b}", Dialect::Postgres), "coalesce(json_agg(json_build_array(a, b)), '[]')::text");
        assert_eq!(expand("{unknown} {", Dialect::Sqlite), "{unknown} {}");
    }
}
