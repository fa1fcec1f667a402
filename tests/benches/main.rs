//! Benchmarks, started by `cargo xtask bench NAME`. Each prints medians and, beside them, the same work by a peer or by the bare
//! minimum, measured in the same run and in turn: these figures are ratios, as machines are noisy.

mod boundary;
mod ocr;
mod pickup;
mod queue;
#[path = "../src/servers/mod.rs"]
mod servers;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["boundary"] => boundary::measure(),
        ["ocr", picture, python, library] => ocr::measure(picture, python, library),
        ["queue", rest @ ..] => queue::measure(rest),
        [queue::ONE_RUN, rest @ ..] => queue::run_here(rest),
        ["pickup", rest @ ..] => pickup::measure(rest),
        [pickup::SUBMIT, folder, seconds] => pickup::submit(folder, seconds),
        [pickup::WRITE, file, seconds] => pickup::write(file, seconds),
        // `cargo test --all-targets` runs benches without words.
        [] => println!("run `cargo xtask bench NAME`"),
        other => panic!("unknown benchmark {other:?}"),
    }
}

/// The middle of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
