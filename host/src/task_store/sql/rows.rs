//! Rows that go to a statement: what `{rows}`, `{ints}` and `{texts}` stand for, before a database has a say in it.
//!
//! SQLite's writer is given them as they are (`sqlite/given.rs`). Others get a list of lists in JSON, and take it apart.

use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};

#[derive(Debug, Clone)]
enum Cell {
    Null,
    Int(i64),
    /// A piece of the texts.
    Text(usize, usize),
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Value<'r> {
    Null,
    Int(i64),
    Text(&'r str),
}

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    /// Values of each row; 0 for a list of values that are no rows.
    width: usize,
    cells: Vec<Cell>,
    /// All texts, one after the other.
    texts: String,
}

impl Rows {
    /// Appends a row. All of them are of one type.
    pub fn push<T: Put>(&mut self, row: &T) {
        self.width = T::WIDTH;
        row.put(self);
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.cells.len() / self.width.max(1)
    }

    /// Roughly the bytes they take.
    pub fn bytes(&self) -> usize {
        self.texts.len() + self.cells.len() * size_of::<i64>()
    }

    /// What stands in a row at a place; nothing where neither is.
    pub fn value(&self, row: usize, place: usize) -> Value<'_> {
        match self.cells.get(row * self.width.max(1) + place) {
            Some(Cell::Int(value)) if place < self.width.max(1) => Value::Int(*value),
            Some(Cell::Text(from, to)) if place < self.width.max(1) => Value::Text(self.texts.get(*from..*to).unwrap_or_default()),
            _ => Value::Null,
        }
    }

    /// For a database that takes JSON.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    fn text(&mut self, text: &str) {
        let from = self.texts.len();
        self.texts.push_str(text);
        self.cells.push(Cell::Text(from, self.texts.len()));
    }
}

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.len()))?;
        for row in 0..self.len() {
            match self.width {
                0 => list.serialize_element(&self.value(row, 0))?,
                width => list.serialize_element(&(0..width).map(|place| self.value(row, place)).collect::<Vec<_>>())?,
            }
        }
        list.end()
    }
}

/// What can stand in a row, or is one.
pub(super) trait Put {
    /// Values that a row of these has; 0 for what is a value itself.
    const WIDTH: usize = 0;

    /// Appends its values.
    fn put(&self, to: &mut Rows);
}

impl<T: Put + ?Sized> Put for &T {
    const WIDTH: usize = T::WIDTH;

    fn put(&self, to: &mut Rows) {
        T::put(self, to);
    }
}

impl<T: Put> Put for Option<T> {
    fn put(&self, to: &mut Rows) {
        match self {
            Some(value) => value.put(to),
            None => to.cells.push(Cell::Null),
        }
    }
}

impl Put for str {
    fn put(&self, to: &mut Rows) {
        to.text(self);
    }
}

impl Put for String {
    fn put(&self, to: &mut Rows) {
        to.text(self);
    }
}

macro_rules! whole_numbers {
    ($($kind:ty),*) => {
        $(impl Put for $kind {
            fn put(&self, to: &mut Rows) {
                to.cells.push(Cell::Int(i64::try_from(*self).unwrap_or(i64::MAX)));
            }
        })*
    };
}

whole_numbers!(i64, u8, u32, u64, usize);

macro_rules! tuples {
    ($(($($name:ident),+),)*) => {
        $(impl<$($name: Put),+> Put for ($($name,)+) {
            const WIDTH: usize = [$(stringify!($name)),+].len();

            #[allow(non_snake_case)]
            fn put(&self, to: &mut Rows) {
                let ($($name,)+) = self;
                $($name.put(to);)+
            }
        })*
    };
}

tuples! {
    (A),
    (A, B),
    (A, B, C),
    (A, B, C, D),
    (A, B, C, D, E),
    (A, B, C, D, E, F),
}

/// A struct that goes to a statement as a row of `{rows}`: the values of its fields, in the order in which the statement
/// names its columns.
macro_rules! columns {
    ($(#[$about:meta])* $vis:vis struct $name:ident<$life:lifetime> { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        $vis struct $name<$life> {
            $($(#[$doc])* $field: $kind,)*
        }

        impl $crate::task_store::sql::rows::Put for $name<'_> {
            const WIDTH: usize = [$(stringify!($field)),*].len();

            fn put(&self, to: &mut $crate::task_store::sql::rows::Rows) {
                $($crate::task_store::sql::rows::Put::put(&self.$field, to);)*
            }
        }
    };
}
pub(super) use columns;

/// All of them.
pub(super) fn array<T: Put>(rows: &[T]) -> Rows {
    let mut all = Rows::default();
    rows.iter().for_each(|row| all.push(row));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_values_and_lists_are_flat() {
        let rows = array(&[(1_i64, "a\"", Some("b".to_owned())), (u64::MAX as i64, "", None)]);
        assert_eq!((rows.len(), rows.value(0, 2), rows.value(1, 2), rows.value(1, 3)), (2, Value::Text("b"), Value::Null, Value::Null));
        assert_eq!((rows.value(1, 0), rows.value(2, 0), rows.value(0, 3)), (Value::Int(-1), Value::Null, Value::Null));
        assert_eq!(rows.to_json().unwrap(), r#"[[1,"a\"","b"],[-1,"",null]]"#);
        assert_eq!(array(&[5_u64, u64::MAX]).to_json().unwrap(), format!("[5,{}]", i64::MAX));
        assert_eq!(array(&["x"]).to_json().unwrap(), r#"["x"]"#);
        assert_eq!(array(&[(7_u8,)]).to_json().unwrap(), "[[7]]");
        assert_eq!(array::<(i64, &str)>(&[]).to_json().unwrap(), "[]");
    }
}
