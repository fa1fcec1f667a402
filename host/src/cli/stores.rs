//! The stores as commands open them: one that only looks, or acts on what is there, never makes a data directory.

use super::failure::Failure;
use super::globals::{Chatter, Globals};
use super::terminal::{note, print_json};
use crate::app::App;
use serde::Serialize;
use std::path::PathBuf;

/// What was found.
pub enum Stores {
    /// They are there.
    Open(Box<App>),
    /// Nothing was ever submitted here: there is no such file.
    None(PathBuf),
}

impl Stores {
    /// Reads the configuration, and opens the stores where there are any.
    pub async fn find(globals: &Globals) -> Result<Self, Failure> {
        let config = globals.open(Chatter::Command, &[])?;
        let file = App::database(&config).unwrap_or_default();
        Ok(App::existing(config).await?.map_or(Self::None(file), |app| Self::Open(Box::new(app))))
    }

    /// The stores, for a command that names something in them.
    pub fn require(self) -> Result<App, Failure> {
        match self {
            Self::Open(app) => Ok(*app),
            Self::None(file) => Err(Failure::failed(format!("nothing was submitted yet: no task store at {}", file.display()))
                .help("--data-dir names another folder, DB_DSN another store; `wasm-worker submit` makes one")),
        }
    }

    /// The stores, for a command that lists; none after it was told that there is nothing, with `empty` for machines.
    pub fn or_tell<T: Serialize>(self, json: bool, empty: &T) -> Result<Option<App>, Failure> {
        match self {
            Self::Open(app) => Ok(Some(*app)),
            Self::None(file) => {
                if json {
                    print_json(empty)?;
                }
                note(&format!("nothing was submitted yet: no task store at {}", file.display()));
                Ok(None)
            }
        }
    }
}
