//! The connection that writes, on the thread of whoever uses it: statements, their parameters, and rows as serde reads them.
//!
//! The writer has a thread of its own, so that nothing is won by the driver's, on which connections that only read live: each statement
//! would be a message to it and one back, and where both processors are busy both threads stand in line for every one of them, with the
//! write lock in hand.

use super::given::Ready;
use crate::task_store::StoreError;
use crate::task_store::sql::database::Arg;
use crate::task_store::sql::fault::Fault;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, OpenFlags};
use serde::de::value::{MapDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// Statements that are kept prepared: more than there are.
const STATEMENTS: usize = 256;

/// See the head of this file.
#[derive(Debug)]
pub(in crate::task_store::sql) struct Connection {
    inner: rusqlite::Connection,
    /// Rows that the statement which runs is given.
    ready: Ready,
}

impl Connection {
    /// Opens a file that exists. `spin` is SQLite's own wait for the write lock; each pragma is a name with its value.
    pub fn open(path: &Path, spin: Duration, pragmas: &[(&str, &str)]) -> Result<Self, Fault> {
        let inner = rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        inner.busy_timeout(spin)?;
        inner.set_prepared_statement_cache_capacity(STATEMENTS);
        let connection = Self { ready: Ready::on(&inner)?, inner };
        for (name, value) in pragmas {
            connection.execute(&format!("PRAGMA {name} = {value}"), [])?;
        }
        Ok(connection)
    }

    /// Whether a transaction has begun and not ended.
    pub fn is_in_transaction(&self) -> bool {
        !self.inner.is_autocommit()
    }

    /// All rows.
    pub fn rows<T: DeserializeOwned>(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<Vec<T>, Fault> {
        let mut statement = self.prepared(text, args)?;
        let names = names(&statement);
        let (mut rows, mut read) = (statement.raw_query(), Vec::new());
        while let Some(row) = rows.next()? {
            read.push(T::deserialize(Columns { names: &names, row }).map_err(|error| unreadable(text, &error))?);
        }
        Ok(read)
    }

    /// The first row of a statement that only reads, if there is one.
    pub fn row<T: DeserializeOwned>(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<Option<T>, Fault> {
        let mut statement = self.prepared(text, args)?;
        let names = names(&statement);
        let mut rows = statement.raw_query();
        let read = rows.next()?.map(|row| T::deserialize(Columns { names: &names, row }));
        read.transpose().map_err(|error| unreadable(text, &error))
    }

    /// All rows of several statements, a list of their lists. A row is read in the order of its columns, whatever they are called.
    pub fn lists<'t, T: DeserializeOwned>(&self, mut asked: impl Iterator<Item = (&'t str, Vec<Arg>)>) -> Result<T, Fault> {
        let mut fault = None;
        let read = T::deserialize(SeqAccessDeserializer::new(Lists { connection: self, asked: &mut asked, fault: &mut fault }));
        match (fault, read, asked.next()) {
            (None, Ok(read), None) => Ok(read),
            (Some(fault), ..) => Err(fault),
            (None, Err(error), _) => Err(unreadable("several statements", &error)),
            (None, Ok(_), Some((text, _))) => Err(unreadable(text, &Wrong::custom("nothing is there to take its rows"))),
        }
    }

    /// For what returns no rows.
    pub fn execute(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<(), Fault> {
        let mut statement = self.prepared(text, args)?;
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// A statement with its parameters, which are called `$1`, `$2`, …: SQLite numbers them as they come.
    fn prepared(&self, text: &str, args: impl IntoIterator<Item = Arg>) -> Result<CachedStatement<'_>, Fault> {
        let mut statement = self.inner.prepare_cached(text)?;
        self.ready.clear();
        let held = |arg| match arg {
            Arg::Rows(rows) => Arg::Int(self.ready.hold(rows)),
            other => other,
        };
        let args: Vec<Arg> = args.into_iter().map(held).collect();
        for place in 1..=statement.parameter_count() {
            let number = statement.parameter_name(place).and_then(|name| name.get(1..)?.parse::<usize>().ok()).unwrap_or(place);
            match args.get(number.wrapping_sub(1)) {
                Some(Arg::Text(text)) => statement.raw_bind_parameter(place, text)?,
                Some(Arg::Int(value)) => statement.raw_bind_parameter(place, value)?,
                Some(Arg::Rows(_)) | None => return Err(rusqlite::Error::InvalidParameterCount(args.len(), number).into()),
            }
        }
        Ok(statement)
    }
}

/// What [`Connection::lists`] reads: the next list is the next statement's.
struct Lists<'c, I> {
    connection: &'c Connection,
    asked: I,
    /// What went wrong.
    fault: &'c mut Option<Fault>,
}

impl<'t, 'de, I: Iterator<Item = (&'t str, Vec<Arg>)>> SeqAccess<'de> for Lists<'_, I> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Some((text, args)) = self.asked.next() else { return Ok(None) };
        let read = self.connection.prepared(text, args).and_then(|mut statement| {
            let mut fault = None;
            let list = List { columns: statement.column_count(), rows: statement.raw_query(), fault: &mut fault };
            let read = seed.deserialize(SeqAccessDeserializer::new(list));
            fault.map_or_else(|| read.map_err(|error| unreadable(text, &error)), Err)
        });
        // The fault itself is kept beside: an error of serde's is but a text.
        read.map(Some).map_err(|fault| {
            *self.fault = Some(fault);
            Wrong::custom("the statement failed")
        })
    }
}

/// The rows of one of them.
struct List<'l, 's> {
    columns: usize,
    rows: rusqlite::Rows<'s>,
    fault: &'l mut Option<Fault>,
}

impl<'de> SeqAccess<'de> for List<'_, '_> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        match self.rows.next() {
            Ok(Some(row)) => {
                let mut cells = Cells { columns: 0..self.columns, row };
                let read = seed.deserialize(SeqAccessDeserializer::new(&mut cells))?;
                if cells.columns.is_empty() { Ok(Some(read)) } else { Err(Wrong::custom("more columns than are read")) }
            }
            Ok(None) => Ok(None),
            Err(error) => {
                *self.fault = Some(error.into());
                Err(Wrong::custom("the statement failed"))
            }
        }
    }
}

/// A row that is not what the program takes it for: somebody else has written it.
fn unreadable(text: &str, error: &Wrong) -> Fault {
    let head: String = text.split_whitespace().flat_map(|word| [word, " "]).collect::<String>().chars().take(80).collect();
    Fault::Store(StoreError::Invalid(format!("value of a row: {error} (of: {}…)", head.trim_end())))
}

/// The values of a row, in order.
struct Cells<'r, 's> {
    columns: Range<usize>,
    row: &'r rusqlite::Row<'s>,
}

impl<'de> SeqAccess<'de> for Cells<'_, '_> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Some(column) = self.columns.next() else { return Ok(None) };
        seed.deserialize(Value(self.row.get_ref(column).map_err(Wrong::custom)?)).map(Some)
    }
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
        visitor.visit_seq(Cells { columns: 0..self.names.len(), row: self.row })
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
    use crate::task_store::sql::rows::array;
    use serde::Deserialize;

    fn memory() -> Connection {
        let inner = rusqlite::Connection::open_in_memory().unwrap();
        Connection { ready: Ready::on(&inner).unwrap(), inner }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        text: Option<String>,
        flag: bool,
        number: i64,
    }

    #[test]
    fn rows_are_read_by_name_or_in_order_and_parameters_by_number() {
        let connection = memory();
        let text = "SELECT $2 AS number, $1 AS text, $2 > 0 AS flag UNION ALL SELECT 0, NULL, 0";
        let args = || [Arg::from("a"), Arg::from(7_i64)];
        let named: Vec<Named> = connection.rows(text, args()).unwrap();
        assert_eq!(named, [Named { text: Some("a".into()), flag: true, number: 7 }, Named { text: None, flag: false, number: 0 }]);
        let first: Option<(i64, String, bool)> = connection.row(text, args()).unwrap();
        assert_eq!(first, Some((7, "a".into(), true)));
        let wrong = connection.rows::<(i64, String, bool)>(text, args());
        assert!(matches!(&wrong, Err(Fault::Store(StoreError::Invalid(text))) if text.contains("(of: SELECT $2 AS")), "{wrong:?}");
        assert!(connection.rows::<Named>(text, [Arg::from("a")]).is_err(), "a value is missing");
    }

    #[test]
    fn statements_are_given_rows_and_hand_over_lists() {
        let connection = memory();
        let given = "SELECT a.c0, a.c1, b.c0 FROM given($1) a CROSS JOIN given($2) b WHERE a.c0 = b.c0 ORDER BY a.c0";
        let args = || vec![Arg::from(array(&[(1_i64, Some("x")), (2, None), (3, Some(""))])), Arg::from(array(&[3_i64, 1]))];
        let wanted = vec![(1, Some("x".to_owned()), 1), (3, Some(String::new()), 3)];
        type Joined = (i64, Option<String>, i64);
        let both: (Vec<Joined>, Vec<(i64,)>) =
            connection.lists([(given, args()), ("SELECT 5 UNION ALL SELECT 6", vec![])].into_iter()).unwrap();
        assert_eq!(both, (wanted.clone(), vec![(5,), (6,)]));
        assert_eq!(connection.rows::<Joined>(given, args()).unwrap(), wanted);
        let none = connection.rows::<(i64,)>("SELECT c0 FROM given($1)", [Arg::from(array::<(i64, &str)>(&[]))]).unwrap();
        assert!(none.is_empty());
        // Nothing but what is held ready now, and only by name.
        let refused = ["SELECT c0 FROM given(1)", "SELECT c0 FROM given", "SELECT c0 FROM given WHERE name > 0"];
        for text in refused {
            assert!(connection.rows::<(i64,)>(text, []).is_err(), "{text}");
        }
        // What is left over is no less wrong than what is missing.
        assert!(connection.lists::<(Vec<(i64,)>,)>([("SELECT 1", vec![]), ("SELECT 2", vec![])].into_iter()).is_err());
        assert!(connection.lists::<(Vec<(i64,)>,)>([("SELECT 1, 2", vec![])].into_iter()).is_err());
        assert!(connection.lists::<(Vec<(i64, i64)>,)>([("SELECT 1", vec![])].into_iter()).is_err());
        let failing: Result<(Vec<(i64,)>,), _> = connection.lists([("SELECT abs(-9223372036854775807 - 1)", vec![])].into_iter());
        assert!(matches!(&failing, Err(Fault::Store(StoreError::Invalid(text))) if text.contains("overflow")), "{failing:?}");
    }
}
