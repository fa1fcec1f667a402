//! The connection that writes, on the thread of whoever uses it: statements, their parameters, and rows as serde reads them.
//!
//! The writer has a thread of its own, so that nothing is won by the driver's, on which connections that only read live: each statement
//! would be a message to it and one back, and where both processors are busy both threads stand in line for every one of them, with the
//! write lock in hand.

use crate::task_store::sql::database::Arg;
use crate::task_store::sql::fault::Fault;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, OpenFlags};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::path::Path;
use std::time::Duration;

/// Statements that are kept prepared: all there are, in the combinations in which they are asked together.
const STATEMENTS: usize = 256;

/// See the head of this file.
#[derive(Debug)]
pub(in crate::task_store::sql) struct Connection(rusqlite::Connection);

impl Connection {
    /// Opens a file that exists. `spin` is SQLite's own wait for the write lock; each pragma is a name with its value.
    pub fn open(path: &Path, spin: Duration, pragmas: &[(&str, &str)]) -> Result<Self, Fault> {
        let inner = rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        inner.busy_timeout(spin)?;
        inner.set_prepared_statement_cache_capacity(STATEMENTS);
        let connection = Self(inner);
        for (name, value) in pragmas {
            drain(connection.prepared(&format!("PRAGMA {name} = {value}"), [])?)?;
        }
        Ok(connection)
    }

    /// All rows.
    pub fn rows<T: DeserializeOwned>(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<Vec<T>, Fault> {
        let mut statement = self.prepared(text, args)?;
        let names = names(&statement);
        let (mut rows, mut read) = (statement.raw_query(), Vec::new());
        while let Some(row) = rows.next()? {
            read.push(T::deserialize(Columns { names: &names, row })?);
        }
        Ok(read)
    }

    /// The first row of a statement that only reads, if there is one.
    pub fn row<T: DeserializeOwned>(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<Option<T>, Fault> {
        let mut statement = self.prepared(text, args)?;
        let names = names(&statement);
        let mut rows = statement.raw_query();
        Ok(rows.next()?.map(|row| T::deserialize(Columns { names: &names, row })).transpose()?)
    }

    /// For what returns no rows.
    pub fn execute(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<(), Fault> {
        drain(self.prepared(text, args)?)
    }

    /// A statement with its parameters, which are called `$1`, `$2`, …: SQLite numbers them as they come.
    fn prepared(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<CachedStatement<'_>, Fault> {
        let mut statement = self.0.prepare_cached(text)?;
        let args: Vec<Arg> = args.into_iter().collect();
        for place in 1..=statement.parameter_count() {
            let number = statement.parameter_name(place).and_then(|name| name.get(1..)?.parse::<usize>().ok()).unwrap_or(place);
            match args.get(number.wrapping_sub(1)) {
                Some(arg) => statement.raw_bind_parameter(place, arg)?,
                None => return Err(rusqlite::Error::InvalidParameterCount(args.len(), number).into()),
            }
        }
        Ok(statement)
    }
}

impl rusqlite::ToSql for Arg {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
        }))
    }
}

fn drain(mut statement: CachedStatement<'_>) -> Result<(), Fault> {
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    Ok(())
}

fn names(statement: &rusqlite::Statement<'_>) -> Vec<String> {
    statement.column_names().into_iter().map(str::to_owned).collect()
}

type Wrong = serde::de::value::Error;

/// A row: by name for a struct, in order for a tuple.
struct Columns<'r, 's> {
    names: &'r [String],
    row: &'r rusqlite::Row<'s>,
}

impl<'r> Columns<'r, '_> {
    fn values(&self) -> Result<Vec<(&'r str, Value<'r>)>, Wrong> {
        let value = |(n, name): (usize, &'r String)| Ok((name.as_str(), Value(self.row.get_ref(n).map_err(Wrong::custom)?)));
        self.names.iter().enumerate().map(value).collect()
    }
}

impl<'de> Deserializer<'de> for Columns<'_, '_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(MapDeserializer::new(self.values()?.into_iter()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_seq(SeqDeserializer::new(self.values()?.into_iter().map(|(_, value)| value)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple_struct
        map struct enum identifier ignored_any
    }
}

/// A value of a row. Flags are whole numbers.
struct Value<'r>(ValueRef<'r>);

impl<'de> IntoDeserializer<'de, Wrong> for Value<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            ValueRef::Null => visitor.visit_unit(),
            ValueRef::Integer(value) => visitor.visit_i64(value),
            ValueRef::Real(value) => visitor.visit_f64(value),
            ValueRef::Text(text) => visitor.visit_str(std::str::from_utf8(text).map_err(Wrong::custom)?),
            ValueRef::Blob(bytes) => visitor.visit_bytes(bytes),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            ValueRef::Integer(value) => visitor.visit_bool(value != 0),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            ValueRef::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple tuple_struct
        map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        text: Option<String>,
        flag: bool,
        number: i64,
    }

    #[test]
    fn rows_are_read_by_name_or_in_order_and_parameters_by_number() {
        let connection = Connection(rusqlite::Connection::open_in_memory().unwrap());
        let text = "SELECT $2 AS number, $1 AS text, $2 > 0 AS flag UNION ALL SELECT 0, NULL, 0";
        let args = || [Arg::from("a"), Arg::from(7)];
        let named: Vec<Named> = connection.rows(text, args()).unwrap();
        assert_eq!(named, [
            Named { text: Some("a".into()), flag: true, number: 7 },
            Named { text: None, flag: false, number: 0 }
        ]);
        let first: Option<(i64, String, bool)> = connection.row(text, args()).unwrap();
        assert_eq!(first, Some((7, "a".into(), true)));
        assert!(connection.rows::<(i64, String, bool)>(text, args()).is_err(), "NULL is no text");
        assert!(connection.rows::<Named>(text, [Arg::from("a")]).is_err(), "a value is missing");
    }
}
