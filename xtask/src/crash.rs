//! The kill loop, for as long as one likes. The loop itself stands in `tests/src/crash/`; the test command runs a short one.

use crate::{guests, shell};

/// Stores that the loop knows.
const STORES: &[&str] = &["sqlite", "postgres"];

/// Kills of each store where nobody says how many.
const KILLS: &str = "1000";

const USAGE: &str = "crash takes --kills N, --store NAME and --seed N";

/// `crash [--kills N] [--store NAME] [--seed N]`. Without a store: each of them, one after the other.
pub fn crash(arguments: &[&str]) -> Result<(), String> {
    let (mut kills, mut seed, mut stores) = (KILLS, None, STORES.to_vec());
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = *words.next().ok_or(USAGE)?;
        match *flag {
            "--kills" => kills = value,
            "--seed" => seed = Some(value),
            "--store" if STORES.contains(&value) => stores = vec![value],
            "--store" => return Err(format!("no store '{value}'; there are {}", STORES.join(", "))),
            _ => return Err(format!("unknown option '{flag}'; {USAGE}")),
        }
    }
    for number in [Some(kills), seed].into_iter().flatten() {
        number.parse::<u64>().map_err(|_| format!("'{number}' is no number; {USAGE}"))?;
    }
    guests::guests()?;
    shell::build()?;
    // Thousands of kills leave thousands of outputs: not in a memory file system, and where a failed run can be looked at.
    let folder = shell::target().join("crash");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for store in stores {
        let mut command = shell::cargo();
        command.args(["test", "--release", "--workspace", "--test", "all", "--", "--exact", "--nocapture", "--test-threads", "1"]);
        command.arg(format!("crash::{store}_survives")).env("CRASH_KILLS", kills).env("TMPDIR", &folder);
        command.envs(seed.map(|seed| ("CRASH_SEED", seed)));
        shell::run(&mut command)?;
    }
    Ok(())
}
