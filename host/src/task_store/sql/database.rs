//! A connection to either database, and the few ways in which statements are put to it.

use super::dialect::{Dialect, Statement, expand};
use super::fault::Fault;
use super::rows::Rows;
use super::sqlite;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, FromRow, SqlSafeStr};

/// A value for a parameter.
#[derive(Debug, Clone)]
pub(super) enum Arg {
    Int(i64),
    Text(String),
    Rows(Rows),
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<String> for Arg {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&String> for Arg {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<Rows> for Arg {
    fn from(rows: Rows) -> Self {
        Self::Rows(rows)
    }
}

/// A statement that hands its rows over by `{json}`, with values for its parameters.
pub(super) type Asked = (&'static Statement, Vec<Arg>);

/// Values for `$1`, `$2`, …
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        [$($crate::task_store::sql::database::Arg::from($value)),*]
    };
}
pub(super) use args;

/// What a row of either database can be read as.
pub(super) trait Row: DeserializeOwned + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T> Row for T where T: DeserializeOwned + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// A connection, for statements.
#[derive(Debug)]
pub(super) enum Db<'c> {
    /// The one that writes.
    Sqlite(&'c mut sqlite::Connection),
    /// One that only reads.
    SqliteReader(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// Binds values and runs one method of the query.
macro_rules! put {
    ($connection:expr, $query:expr, $args:expr, $text:path, $method:ident) => {{
        let mut query = $query;
        for arg in $args {
            query = match arg {
                Arg::Int(value) => query.bind(value),
                Arg::Text(value) => query.bind($text(value)),
                Arg::Rows(rows) => query.bind($text(rows.to_json()?)),
            };
        }
        query.$method(&mut **$connection).await
    }};
}

impl Db<'_> {
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::SqliteReader(_) => Dialect::SqliteReader,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// All rows.
    pub async fn rows<T: Row>(&mut self, statement: &'static Statement, args: impl IntoIterator<Item = Arg>) -> Result<Vec<T>, Fault> {
        let text = statement.text(self.dialect());
        self.fetch(text, args).await
    }

    /// The first row of a statement that only reads, if there is one.
    pub async fn row<T: Row>(&mut self, statement: &'static Statement, args: impl IntoIterator<Item = Arg>) -> Result<Option<T>, Fault> {
        let text = statement.text(self.dialect());
        self.first(text, args).await
    }

    async fn first<T: Row>(&mut self, text: impl SqlSafeStr, args: impl IntoIterator<Item = Arg>) -> Result<Option<T>, Fault> {
        Ok(match self {
            Self::Sqlite(connection) => connection.row(text.into_sql_str().as_str(), args)?,
            Self::SqliteReader(connection) => put!(connection, sqlx::query_as(text), args, std::convert::identity, fetch_optional)?,
            Self::Postgres(connection) => put!(connection, sqlx::query_as(text), args, storable, fetch_optional)?,
        })
    }

    /// The one row of a statement that always has one.
    pub async fn one<T: Row>(&mut self, statement: &'static Statement, args: impl IntoIterator<Item = Arg>) -> Result<T, Fault> {
        let row = self.row(statement, args).await?;
        row.ok_or_else(|| Fault::from(sqlx::Error::RowNotFound))
    }

    /// All rows of a statement that hands them over by `{json}`: where a driver passes rows on one by one, column by column, most of the
    /// time of a statement with many of them would go there.
    pub async fn json<T: DeserializeOwned>(
        &mut self,
        statement: &'static Statement,
        args: impl IntoIterator<Item = Arg>,
    ) -> Result<Vec<T>, Fault> {
        let asked: Asked = (statement, args.into_iter().collect());
        let (rows,) = self.json_of([asked]).await?;
        Ok(rows)
    }

    /// All rows of several such statements, a list of their lists: one way to the database and back for all of them.
    pub async fn json_of<T: DeserializeOwned>(&mut self, asked: impl IntoIterator<Item = Asked>) -> Result<T, Fault> {
        let dialect = self.dialect();
        if let Self::Sqlite(connection) = self {
            return connection.lists(asked.into_iter().map(|(statement, args)| (statement.text(dialect), args)));
        }
        let (mut text, mut args) = ("SELECT '['".to_owned(), Vec::new());
        for (n, (statement, values)) in asked.into_iter().enumerate() {
            text.push_str(if n == 0 { " || (" } else { " || ',' || (" });
            push_renumbered(&mut text, statement.text(dialect), args.len());
            text.push(')');
            args.extend(values);
        }
        text.push_str(" || ']'");
        let lists: Option<(String,)> = self.first(AssertSqlSafe(text), args).await?;
        let (lists,) = lists.ok_or(sqlx::Error::RowNotFound)?;
        Ok(serde_json::from_str(&lists)?)
    }

    /// All rows of a statement that was put together.
    pub async fn select<T: Row>(&mut self, query: Query) -> Result<Vec<T>, Fault> {
        let text = expand(&query.text, self.dialect());
        self.fetch(AssertSqlSafe(text), query.args).await
    }

    /// For what returns no rows.
    pub async fn execute(&mut self, statement: &'static Statement, args: impl IntoIterator<Item = Arg>) -> Result<(), Fault> {
        let text = statement.text(self.dialect());
        match self {
            Self::Sqlite(connection) => connection.execute(text, args)?,
            Self::SqliteReader(connection) => put!(connection, sqlx::query(text), args, std::convert::identity, execute).map(|_| ())?,
            Self::Postgres(connection) => put!(connection, sqlx::query(text), args, storable, execute).map(|_| ())?,
        }
        Ok(())
    }

    async fn fetch<T: Row>(&mut self, text: impl SqlSafeStr, args: impl IntoIterator<Item = Arg>) -> Result<Vec<T>, Fault> {
        Ok(match self {
            Self::Sqlite(connection) => connection.rows(text.into_sql_str().as_str(), args)?,
            Self::SqliteReader(connection) => put!(connection, sqlx::query_as(text), args, std::convert::identity, fetch_all)?,
            Self::Postgres(connection) => put!(connection, sqlx::query_as(text), args, storable, fetch_all)?,
        })
    }
}

/// Appends a statement whose parameters count from `before` on.
fn push_renumbered(to: &mut String, statement: &str, before: usize) {
    let mut pieces = statement.split('$');
    to.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = piece.split_at(digits);
        to.push('$');
        match number.parse::<usize>() {
            Ok(number) => to.push_str(&(number + before).to_string()),
            // No parameter: a piece of text.
            Err(_) => to.push_str(number),
        }
        to.push_str(rest);
    }
}

/// A statement that is put together from fixed pieces and values.
#[derive(Debug)]
pub(super) struct Query {
    text: String,
    args: Vec<Arg>,
}

impl Query {
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), args: Vec::new() }
    }

    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// A parameter with its value.
    pub fn bind(&mut self, value: impl Into<Arg>) -> &mut Self {
        self.args.push(value.into());
        self.text.push_str(&format!("${}", self.args.len()));
        self
    }
}

/// Postgres stores no NUL, neither as it is nor escaped in JSON: it becomes the sign for what cannot be shown.
fn storable(mut text: String) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if !text.contains("\\u0000") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let length = if escape.starts_with("\\u0000") { 6 } else { 1 + escape.chars().nth(1).map_or(0, char::len_utf8) };
        let (escape, after) = escape.split_at(length);
        out.push_str(if length == 6 { "\u{fffd}" } else { escape });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{push_renumbered, storable};

    #[test]
    fn parameters_count_on_from_those_before() {
        let mut text = "SELECT $1;".to_owned();
        push_renumbered(&mut text, "UPDATE t SET a = $2 WHERE b = $10 AND c = '$' || $1", 3);
        assert_eq!(text, "SELECT $1;UPDATE t SET a = $5 WHERE b = $13 AND c = '$' || $4");
    }

    #[test]
    fn nul_is_replaced_and_what_only_looks_like_it_is_not() {
        for text in ["a\0b", "\\", "\\u0000", "\\\u{e9}"] {
            let stored = storable(serde_json::to_string(&[text]).unwrap());
            let read: Vec<String> = serde_json::from_str(&stored).unwrap();
            assert_eq!(read, [text.replace('\0', "\u{fffd}")]);
        }
        assert_eq!(storable("a\0b\\".to_owned()), "a\u{fffd}b\\");
    }
}
