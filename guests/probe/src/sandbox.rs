//! What a program would try outside the contract, by the standard library alone.

use crate::report;
use serde_json::{Map, Value, json};
use std::io::{self, Write as _};
use wasm_worker_guest::{Error, Output};

pub(crate) fn print(stdout: &str, stderr: &str, times: u32) -> Result<Output, Error> {
    for _ in 0..times {
        // A host that takes no more is none of the guest's business, and `println!` would panic.
        let _ = writeln!(io::stdout(), "{stdout}");
        let _ = writeln!(io::stderr(), "{stderr}");
    }
    Ok(Output::none())
}

pub(crate) fn environment() -> Result<Output, Error> {
    let text = |value: std::ffi::OsString| Value::String(value.to_string_lossy().into_owned());
    let variables: Map<_, _> = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), text(value))).collect();
    let arguments: Vec<_> = std::env::args_os().map(text).collect();
    Output::json(&json!({ "variables": variables, "arguments": arguments }))
}

pub(crate) fn open_file(path: &str) -> Result<Output, Error> {
    report(std::fs::read(path).map(|bytes| json!({ "bytes": bytes.len() })).map_err(parts))
}

pub(crate) fn connect(address: &str) -> Result<Output, Error> {
    report(std::net::TcpStream::connect(address).map(|_| json!({ "connected": true })).map_err(parts))
}

fn parts(error: io::Error) -> (io::ErrorKind, String) {
    (error.kind(), error.to_string())
}
