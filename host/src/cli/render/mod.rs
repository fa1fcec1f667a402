//! How nouns look to a person: tables, states, times, sizes, text that a guest wrote. No I/O.

pub mod json;
pub mod state;
pub mod table;
pub mod text;
pub mod time;
