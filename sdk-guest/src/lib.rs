//! Services for `wasm-worker`: three typed hooks, compiled to one WebAssembly component.
//!
//! A service implements [`Hooks`] and hands itself to [`export!`]. The host decodes and checks the task, leases it, and calls the
//! hooks; the service reads and writes through [`storage`], runs models through [`inference`], and answers with an [`Output`]
//! and the tasks that follow. It holds no credentials and opens no connection.
//!
//! ```
//! use std::collections::BTreeMap;
//! use wasm_worker_guest::{Error, FanOut, Hooks, NextTask, Nothing, Output, Setup, Task};
//!
//! /// Counts the words of a text, then hands each long one to the next step.
//! struct Words;
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct Params {
//!     /// Words of at least this many letters go on.
//!     long: usize,
//! }
//!
//! impl Hooks for Words {
//!     type Config = Nothing;
//!     type Params = Params;
//!     const NAME: &str = "words";
//!
//!     fn load_pipeline(_: Setup<Nothing>) -> Result<Self, Error> {
//!         Ok(Words)
//!     }
//!
//!     fn process(&mut self, task: &Task<Params>) -> Result<Output, Error> {
//!         let text = String::from_utf8_lossy(&task.read_input()?).into_owned();
//!         Output::json(&text.split_whitespace().collect::<Vec<_>>())
//!     }
//!
//!     fn publish_next(&mut self, task: &Task<Params>, output: &Output) -> Result<FanOut, Error> {
//!         let words: Vec<String> = output.payload.as_ref().map_or(Ok(vec![]), |p| p.parse())?;
//!         let long = words.iter().enumerate().filter(|(_, word)| word.len() >= task.params.long);
//!         let child = |(at, word)| NextTask::new(format!("{at:04}")).params(&BTreeMap::from([("name", word)]));
//!         Ok(FanOut::of(long.map(child).collect::<Result<Vec<_>, Error>>()?))
//!     }
//! }
//!
//! wasm_worker_guest::export!(Words);
//!
//! # fn main() -> Result<(), Error> {
//! // Away from WebAssembly the same hooks run on a host in memory:
//! use wasm_worker_guest::testing::{Host, Message};
//! let host = Host::new();
//! host.put("mem://in/a.txt", "to be or not to be, that is the question");
//! let message = Message::new().input_uri("mem://in/a.txt").params(serde_json::json!({ "long": 4 }));
//! let run = host.run::<Words>(serde_json::json!({}), message)?;
//! assert_eq!(run.json()[9], "question");
//! assert_eq!(run.next.tasks.iter().map(|t| &t.key[..]).collect::<Vec<_>>(), ["0006", "0009"]);
//! # Ok(())
//! # }
//! ```
//!
//! The crate of a service has `crate-type = ["cdylib"]`, depends on `serde` and `schemars` for its types, and builds with
//! `cargo build --release --target wasm32-wasip2`.
//!
//! Left out: async hooks, HTTP, and anything the standard library does by itself in a component (clocks, randomness, standard output).

pub mod bindings;
pub mod context;
mod description;
mod error;
mod export;
mod hooks;
pub mod inference;
mod json;
mod output;
mod outside;
mod payload;
pub mod storage;
mod task;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod wire;

pub use description::{Description, Function, HOST_RANGE, SCHEMA_VERSION};
pub use error::{Error, Violation};
pub use hooks::{Hooks, Nothing};
pub use output::{FanOut, NextTask, Output};
pub use payload::Payload;
pub use task::{End, Input, Object, Setup, Task};

/// What [`export!`] expands to needs; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::exports::wasm_worker::pipeline::discovery::Guest as DiscoveryExport;
    pub use crate::bindings::exports::wasm_worker::pipeline::hooks::Guest as HooksExport;
    pub use crate::bindings::wasm_worker::pipeline::types as wire;
    pub use crate::export::{describe, load_pipeline, process, publish_next};
}
