//! The binary `wasm-worker`: all of it is in the library's `cli`.

fn main() -> std::process::ExitCode {
    wasm_worker::cli::main()
}
