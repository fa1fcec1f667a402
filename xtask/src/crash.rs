//! The kill loop, for as long as one likes. The loop itself stands in `tests/src/crash/`; the test command runs a short one.

use crate::{guests, shell};

/// Stores that the loop knows.
const STORES: &[&str] = &["sqlite", "postgres"];

/// Brokers that it knows; their tasks are kept in Postgres.
const QUEUES: &[&str] = &["redis", "sqs"];

/// Kills of each store, and with each broker, where nobody says how many.
const KILLS: &str = "1000";
const BROKER_KILLS: &str = "300";

const USAGE: &str = "crash takes --kills N, --store NAME or --queue NAME, and --seed N";

/// `crash [--kills N] [--store NAME | --queue NAME] [--seed N]`. Without a store or a queue: each store, one after the other.
pub fn crash(arguments: &[&str]) -> Result<(), String> {
    let (mut kills, mut seed, mut runs) = (None, None, None);
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = *words.next().ok_or(USAGE)?;
        match *flag {
            "--kills" => kills = Some(value),
            "--seed" => seed = Some(value),
            "--store" | "--queue" if runs.is_some() => return Err(format!("one store or one queue at a time; {USAGE}")),
            "--store" if STORES.contains(&value) => runs = Some((vec![value], KILLS)),
            "--queue" if QUEUES.contains(&value) => runs = Some((vec![value], BROKER_KILLS)),
            "--store" => return Err(format!("no store '{value}'; there are {}", STORES.join(", "))),
            "--queue" => return Err(format!("no queue '{value}'; there are {}", QUEUES.join(", "))),
            _ => return Err(format!("unknown option '{flag}'; {USAGE}")),
        }
    }
    let (runs, usual) = runs.unwrap_or_else(|| (STORES.to_vec(), KILLS));
    let kills = kills.unwrap_or(usual);
    for number in [Some(kills), seed].into_iter().flatten() {
        number.parse::<u64>().map_err(|_| format!("'{number}' is no number; {USAGE}"))?;
    }
    guests::guests()?;
    shell::build()?;
    // Thousands of kills leave thousands of outputs: not in a memory file system, and where a failed run can be looked at.
    let folder = shell::target().join("crash");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for name in runs {
        let mut command = shell::cargo();
        command.args(["test", "--release", "--workspace", "--test", "all", "--", "--exact", "--nocapture", "--test-threads", "1"]);
        command.arg(format!("crash::{name}_survives")).env("CRASH_KILLS", kills).env("TMPDIR", &folder);
        command.envs(seed.map(|seed| ("CRASH_SEED", seed)));
        shell::run(&mut command)?;
    }
    Ok(())
}
