//! A table whose rows a statement is given: `given($1)`, where the parameter names what the connection holds ready.
//!
//! In place of JSON, which SQLite would parse and search for every value: a fifth of a busy writer's time went there. Apart from the
//! connection's own statements nobody sees the table.
#![allow(unsafe_code, reason = "the traits of a virtual table are marked so: their types begin with SQLite's own struct, as `repr(C)`")]

use crate::task_store::sql::rows::{Rows, Value};
use rusqlite::ffi;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::vtab::{Context, Filters, IndexConstraintOp, IndexInfo, VTab, VTabConfig, VTabConnection, VTabCursor, eponymous_only_module};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// Columns that there are: `c0`, `c1`, …; no `{rows}` has more.
pub(super) const COLUMNS: usize = 32;

/// Rows that a statement is assumed to be given, where SQLite weighs plans: what it takes for JSON as well.
const SOME_ROWS: i64 = 25;

/// What the statement that runs is given.
#[derive(Clone, Default)]
pub(super) struct Ready(Arc<Mutex<Vec<Arc<Rows>>>>);

impl std::fmt::Debug for Ready {
    /// Not what tenants wrote.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").finish_non_exhaustive()
    }
}

impl Ready {
    /// Makes the table known to a connection.
    pub fn on(connection: &rusqlite::Connection) -> rusqlite::Result<Self> {
        let ready = Self::default();
        connection.create_module(c"given", eponymous_only_module::<Table>(), Some(ready.clone()))?;
        Ok(ready)
    }

    /// Holds rows ready, until [`Ready::clear`]; returns what names them.
    pub fn hold(&self, rows: Rows) -> i64 {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.push(Arc::new(rows));
        held.len() as i64 - 1
    }

    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn get(&self, name: i64) -> Option<Arc<Rows>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(name).ok().and_then(|at| held.get(at)).map(Arc::clone)
    }
}

/// The table.
#[repr(C)]
struct Table {
    base: ffi::sqlite3_vtab,
    ready: Ready,
}

// SAFETY: it begins with SQLite's struct.
unsafe impl<'vtab> VTab<'vtab> for Table {
    type Aux = Ready;
    type Cursor = Cursor<'vtab>;

    fn connect(db: &mut VTabConnection, ready: Option<&Ready>, _: &[&[u8]]) -> rusqlite::Result<(String, Self)> {
        db.config(VTabConfig::DirectOnly)?;
        let columns: String = (0..COLUMNS).map(|n| format!("c{n}, ")).collect();
        let table = Self { base: ffi::sqlite3_vtab::default(), ready: ready.cloned().unwrap_or_default() };
        Ok((format!("CREATE TABLE given({columns}name HIDDEN)"), table))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<()> {
        let names = |c: &rusqlite::vtab::IndexConstraint<'_>| {
            c.column() as usize == COLUMNS && c.is_usable() && c.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ
        };
        let Some(at) = info.constraints().position(|c| names(&c)) else {
            return Err(refused("no rows are named"));
        };
        let mut usage = info.constraint_usage(at);
        usage.set_argv_index(1);
        usage.set_omit(true);
        info.set_estimated_cost(1.0);
        info.set_estimated_rows(SOME_ROWS);
        Ok(())
    }

    fn open(&'vtab mut self) -> rusqlite::Result<Cursor<'vtab>> {
        let base = ffi::sqlite3_vtab_cursor::default();
        Ok(Cursor { base, ready: self.ready.clone(), name: -1, rows: Arc::default(), at: 0, table: PhantomData })
    }
}

/// A way through the rows.
#[repr(C)]
struct Cursor<'vtab> {
    base: ffi::sqlite3_vtab_cursor,
    ready: Ready,
    name: i64,
    rows: Arc<Rows>,
    at: usize,
    table: PhantomData<&'vtab Table>,
}

// SAFETY: it begins with SQLite's struct.
unsafe impl VTabCursor for Cursor<'_> {
    fn filter(&mut self, _: c_int, _: Option<&str>, args: &Filters<'_>) -> rusqlite::Result<()> {
        self.name = args.get(0)?;
        self.rows = self.ready.get(self.name).ok_or_else(|| refused("such rows are not held ready"))?;
        self.at = 0;
        Ok(())
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.at += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.rows.len()
    }

    fn column(&self, context: &mut Context, column: c_int) -> rusqlite::Result<()> {
        let value = match usize::try_from(column) {
            // Where a statement compares so many columns that SQLite looks at the name itself.
            Ok(COLUMNS) => Value::Int(self.name),
            Ok(place) => self.rows.value(self.at, place),
            Err(_) => Value::Null,
        };
        context.set_result(&ToSqlOutput::Borrowed(match value {
            Value::Null => ValueRef::Null,
            Value::Int(value) => ValueRef::Integer(value),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.at as i64)
    }
}

fn refused(why: &str) -> rusqlite::Error {
    rusqlite::Error::ModuleError(format!("given: {why}"))
}
