//! A rollout over two hundred agents beside what its own gates take: nothing but the time that its
//! batches need until they are healthy, and the time for which they are watched.
//!
//! The agents are simulated, in one process with a real controller, over the real wire: two
//! hundred hosts that boot would measure the machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Run;
use super::report::{Row, Target, spread};
use super::stats::Sample;

/// How much longer than its gates a rollout may take.
const MOST: f64 = 1.02;

const TEST: &[&str] = &[
    "test",
    "--release",
    "--locked",
    "-p",
    "shoal-controller",
    "--test",
    "simulation",
    "--",
    "--ignored",
    "--nocapture",
    "over_two_hundred_agents",
];

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let (took, floor) = read(&simulate(run.root)?)?;
    let (took, floor) = (Sample::of_times(&took)?, Sample::of_times(&floor)?);
    let ratio = took.over(&floor)?;
    let what = "rollout over 200 simulated agents, in 4 batches";
    let gates = "health gates (1 s each) and monitor times (2 s each)";
    let row = Row::times(what, &took, (gates, &floor), None)?;
    let target = Some(Target::at_most(ratio.median(), MOST, "at most 2 % more"));
    Ok(vec![Row { ratio: spread(&ratio, |value| format!("{value:.3}")), target, ..row }])
}

/// What the simulation prints.
fn simulate(root: &Path) -> Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(TEST)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "the simulation failed: {said}");
    Ok(said)
}

/// How long each rollout took, and how long its gates did: lines of `rollout`, and the two in
/// microseconds.
fn read(said: &str) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let times = |line: &str| -> Result<(Duration, Duration)> {
        let (took, floor) =
            line.split_once(' ').with_context(|| format!("one of two: {line:?}"))?;
        Ok((Duration::from_micros(took.parse()?), Duration::from_micros(floor.parse()?)))
    };
    // The first one may stand behind the name of the test.
    let lines = said.lines().filter_map(|line| Some(line.split_once("rollout ")?.1));
    let all: Result<Vec<_>> = lines.map(|line| times(line.trim())).collect();
    Ok(all?.into_iter().unzip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_simulation_prints_is_read() {
        let said = "running 1 test\ntest over ... rollout 12100000 12000000\n\
                    rollout 12200000 12000000\nok\n";
        let (took, floor) = read(said).unwrap();
        let ms = |times: &[Duration]| times.iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!((ms(&took), ms(&floor)), (vec![12_100, 12_200], vec![12_000, 12_000]));
        assert!(read("rollout 1\n").is_err() && read("").unwrap().0.is_empty());
    }
}
