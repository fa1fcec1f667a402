//! The simulation with more seeds than an ordinary test run has, or with one seed and its whole history.

use crate::shell;

/// `simulate [--seeds N | --seed S]`.
pub fn simulate(arguments: &[&str]) -> Result<(), String> {
    let variable = match arguments {
        [] => None,
        ["--seeds", number] => Some(("SIMULATE_SEEDS", *number)),
        ["--seed", number] => Some(("SIMULATE_SEED", *number)),
        other => return Err(format!("simulate takes --seeds N or --seed S, not '{}'", other.join(" "))),
    };
    let mut cargo = shell::cargo();
    cargo.args(["test", "--release", "--workspace", "--test", "all", "--", "simulation::every_seed", "--nocapture"]);
    if let Some((name, number)) = variable {
        number.parse::<u64>().map_err(|e| format!("'{number}' is no number of seeds: {e}"))?;
        cargo.env(name, number);
    }
    shell::run(&mut cargo)
}
