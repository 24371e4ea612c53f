//! A hundred instances of one image on one host.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoal_lab::{Deployment, Host, Suite};

use super::Run;
use super::report::{Row, Target, spread, time};
use super::stand::{self, bash, timed_in};
use super::stats::Sample;
use super::usage::{self, AGENT, HOST};

const ALL: usize = 100;
/// Milliseconds.
const LONGEST_PASS: f64 = 100.0;
const LIMIT_TEXT: &str = "under 100 ms";
/// How much more memory an agent of a hundred instances may have than one of ten, which has done
/// everything once.
const MOST_GROWTH: f64 = 1.25;
const SPAN: Duration = Duration::from_secs(15);
const SPANS: usize = 4;
/// Two lines of the agent's log that are further apart than this are of different passes, seconds.
const APART: f64 = 1.0;

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let deployment = stand::open(&run.programs, "hundred", Suite::Bookworm, 1)?;
    let host = deployment.lab().host(0);
    run.met(host)?;
    stand::push_box(&deployment)?;
    let mut rows = vec![growth(&deployment, host)?, mounts(host)?];
    rows.extend(at_rest(host)?);
    rows.push(all_at_once(&deployment, host)?);
    Ok(rows)
}

fn fleet(count: usize) -> String {
    let instance = |number| {
        format!(
            "[instance.i{number}]\nimage = \"box:1\"\nhosts = \"role=web\"\n\
             command = [\"/bin/sleep\", \"infinity\"]\n"
        )
    };
    let instances: String = (1..=count).map(instance).collect();
    format!("fleet = \"bench\"\n[instance]\n{instances}")
}

fn units() -> Vec<String> {
    (1..=ALL).map(|number| format!("shoal-instance@bench-i{number}.service")).collect()
}

/// The agent's memory while the instances become more.
fn growth(deployment: &Deployment, host: &Host) -> Result<Row> {
    let counts = [0, 10, 50, ALL];
    let mut memory = Vec::new();
    for count in counts {
        if count > 0 {
            stand::apply(deployment, &fleet(count))?;
        }
        memory.push(usage::resident(host, AGENT)?);
    }
    let [_, ten, _, hundred] = memory[..] else { anyhow::bail!("four counts were measured") };
    let shown: Vec<String> = memory.iter().map(|megabytes| format!("{megabytes:.1}")).collect();
    Ok(Row {
        what: "resident memory of the agent with 0, 10, 50 and 100 instances".into(),
        n: 1,
        ours: format!("{} MB", shown.join(", ")),
        against: "the agent with 10".into(),
        ratio: format!("{:.2}", hundred / ten),
        target: Some(Target::at_most(hundred / ten, MOST_GROWTH, "flat: ratio at most 1.25")),
    })
}

/// How often the image is mounted for the hundred.
fn mounts(host: &Host) -> Result<Row> {
    let script =
        "awk '$5 ~ \"^/run/shoal/images/\" { n++ } END { print n + 0 }' /proc/self/mountinfo";
    let mounts: f64 = host.sh(script)?.trim().parse().context("the number of mounts")?;
    ensure!(mounts > 0.0, "no image is mounted below /run/shoal/images");
    Ok(Row {
        what: "mounts of the image of 100 instances".into(),
        n: 1,
        ours: format!("{mounts}"),
        against: "one for each instance: 100".into(),
        ratio: format!("{:.2}", mounts / 100.0),
        target: Some(Target::at_most(mounts, 1.0, "one mount")),
    })
}

/// Passes of the agent, and its CPU, while nothing happens. The agent tells of its passes where
/// its log is to show them.
fn at_rest(host: &Host) -> Result<[Row; 2]> {
    let setting = b"[Service]\nEnvironment=SHOAL_LOG=info,shoal_agent=debug\n";
    host.put_file("/etc/systemd/system/shoal-agent.service.d/bench.conf", setting, 0o644)?;
    host.sh("systemctl daemon-reload && systemctl restart shoal-agent")?;
    std::thread::sleep(SPAN);
    let since = host.sh("date +%s")?;
    let [agent, whole] = usage::shares(host, [AGENT, HOST], SPAN, SPANS)?;
    let query = "journalctl --unit=shoal-agent --output=short-unix --no-pager --since=@";
    let lines = host.sh(&format!("{query}{}", since.trim()))?;
    Ok([pass(host, &passes(&lines))?, cpu(&agent, &whole)])
}

fn pass(host: &Host, passes: &[f64]) -> Result<Row> {
    let what = "a pass with nothing to do over 100 instances";
    if passes.is_empty() {
        return Ok(Row::missing(what, "the agent's log tells no `took_ms`", LIMIT_TEXT));
    }
    let ours = Sample::of(passes.to_vec())?;
    let mut listings = Vec::new();
    for _ in passes {
        listings.push(timed_in(host, &["systemctl", "list-units", "shoal-instance@*"])?);
    }
    let listings = Sample::of_times(&listings)?;
    let ratio = ours.over(&listings)?;
    Ok(Row {
        what: what.into(),
        n: ours.n(),
        ours: spread(&ours, time),
        against: format!("`systemctl list-units` of them: {}", spread(&listings, time)),
        ratio: spread(&ratio, |value| format!("{value:.2}")),
        target: Some(Target::at_most(ours.median(), LONGEST_PASS, LIMIT_TEXT)),
    })
}

/// How long each pass took, in milliseconds: from the beginning of its first observation to the
/// end of its last one.
fn passes(log: &str) -> Vec<f64> {
    let mut passes: Vec<(f64, f64)> = Vec::new();
    for (end, took) in log.lines().filter_map(observation) {
        let begin = end - took / 1e3;
        match passes.last_mut() {
            Some((_, last)) if begin - *last < APART => *last = end,
            _ => passes.push((begin, end)),
        }
    }
    // The first and the last may be cut off.
    let whole = passes.len().saturating_sub(1);
    passes[..whole].iter().skip(1).map(|(begin, end)| (end - begin) * 1e3).collect()
}

/// When an observation ended, in seconds, and how long it took, in milliseconds.
fn observation(line: &str) -> Option<(f64, f64)> {
    let (_, rest) = line.split_once("took_ms=")?;
    let end = line.split_whitespace().next()?.parse().ok()?;
    Some((end, rest.split_whitespace().next()?.parse().ok()?))
}

fn cpu(agent: &Sample, whole: &Sample) -> Row {
    let percent = |value: f64| format!("{value:.2} %");
    Row {
        what: "CPU of the agent at rest with 100 instances".into(),
        n: agent.n(),
        ours: spread(agent, percent),
        against: format!("the whole host meanwhile: {}", spread(whole, percent)),
        ratio: format!("{:.2}", agent.median() / whole.median()),
        target: None,
    }
}

/// From none to a hundred by one apply, and by systemd alone.
fn all_at_once(deployment: &Deployment, host: &Host) -> Result<Row> {
    stand::apply(deployment, &fleet(0))?;
    let ours = stand::apply(deployment, &fleet(ALL))?;
    host.sh("systemctl stop shoal-agent")?;
    let units = units();
    let systemctl = |verb| -> Vec<&str> {
        ["systemctl", verb].into_iter().chain(units.iter().map(String::as_str)).collect()
    };
    bash(host, "\"$@\"", &systemctl("stop"))?;
    let bare = timed_in(host, &systemctl("start"))?;
    let peer = ("`systemctl start` of the same units, all at once", &Sample::of_times(&[bare])?);
    let what = "apply of 100 new instances until all run";
    Row::times(what, &Sample::of_times(&[ours])?, peer, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
1000.500 h1 shoal-agent[1]: DEBUG x: observed the host took_ms=40 machines=100
1005.040 h1 shoal-agent[1]: DEBUG x: observed the host took_ms=40 machines=100
1005.050 h1 shoal-agent[1]:  INFO x: something else
1005.090 h1 shoal-agent[1]: DEBUG x: observed the host took_ms=45 machines=100
1010.130 h1 shoal-agent[1]: DEBUG x: observed the host took_ms=30 machines=100
1015.200 h1 shoal-agent[1]: DEBUG x: observed the host took_ms=30 machines=100
";

    #[test]
    fn a_pass_is_all_its_observations_and_the_outermost_may_be_cut_off() {
        let passes: Vec<i32> = passes(LOG)
            .iter()
            .map(|ms| ms.round().to_string())
            .map(|ms| ms.parse().unwrap())
            .collect();
        assert_eq!(passes, [90, 30]);
        assert!(super::passes("1.0 h1 x: nothing of that kind\n").is_empty());
    }

    #[test]
    fn a_fleet_of_none_takes_all_away() {
        assert_eq!(fleet(0), "fleet = \"bench\"\n[instance]\n");
        assert_eq!(fleet(ALL).matches("box:1").count(), 100);
    }
}
