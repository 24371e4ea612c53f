//! The agent at rest: a host that has what it should have, and a minute in which nothing happens.

use std::time::Duration;

use anyhow::Result;
use shoal_lab::{Host, Suite};

use super::Run;
use super::report::{Row, Target, spread};
use super::stand;
use super::stats::Sample;
use super::usage::{self, AGENT, HOST};

const SPAN: Duration = Duration::from_secs(12);
const SPANS: usize = 5;
/// Megabytes.
const MOST_MEMORY: f64 = 20.0;
/// Percent of one CPU: `top` shows less than this as 0.0.
const MOST_CPU: f64 = 0.05;

const FLEET: &str = r#"
fleet = "bench"
[instance.system]
image = "debian:1"
hosts = "role=web"
boot = true
[instance.system.health]
unit = "multi-user.target"
[instance.web]
image = "box:1"
hosts = "role=web"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
[instance.web.health]
tcp = "127.0.0.1:8080"
"#;

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let deployment = stand::open(&run.programs, "agent", Suite::Bookworm, 1)?;
    let host = deployment.lab().host(0);
    run.met(host)?;
    stand::push_box(&deployment)?;
    stand::push_debian(&deployment)?;
    stand::apply(&deployment, FLEET)?;
    settle(host)?;
    let [agent, with] = usage::shares(host, [AGENT, HOST], SPAN, SPANS)?;
    let memory = memory(host)?;
    host.sh("systemctl stop shoal-agent")?;
    let [without] = usage::shares(host, [HOST], SPAN, SPANS)?;
    Ok(vec![memory, cpu(&agent, &with), whole(&with, &without)?])
}

/// The first passes after a start read and report more than those at rest.
fn settle(host: &Host) -> Result<()> {
    host.sh("systemctl restart shoal-agent")?;
    std::thread::sleep(SPAN);
    Ok(())
}

fn memory(host: &Host) -> Result<Row> {
    let agent = usage::resident(host, AGENT)?;
    let init = usage::resident(host, "init")?;
    let bus = usage::resident(host, "dbus.service")?;
    Ok(Row {
        what: "resident memory of the agent, 2 instances".into(),
        n: 1,
        ours: format!("{agent:.1} MB"),
        against: format!("the host's systemd: {init:.1} MB (its D-Bus daemon: {bus:.1} MB)"),
        ratio: format!("{:.2}", agent / init),
        target: Some(Target::at_most(agent, MOST_MEMORY, "under 20 MB")),
    })
}

fn percent(value: f64) -> String {
    format!("{value:.2} %")
}

fn cpu(agent: &Sample, host: &Sample) -> Row {
    Row {
        what: "CPU of the agent at rest, 2 instances with health checks".into(),
        n: agent.n(),
        ours: spread(agent, percent),
        against: format!("the whole host meanwhile: {}", spread(host, percent)),
        ratio: format!("{:.2}", agent.median() / host.median()),
        target: Some(Target::at_most(agent.median(), MOST_CPU, "under 0.05 % of a CPU")),
    }
}

/// What else an agent costs: systemd and D-Bus answer its questions.
fn whole(with: &Sample, without: &Sample) -> Result<Row> {
    let ratio = with.over(without)?;
    Ok(Row {
        what: "CPU of the whole host at rest".into(),
        n: with.n(),
        ours: spread(with, percent),
        against: format!("the agent stopped: {}", spread(without, percent)),
        ratio: spread(&ratio, |value| format!("{value:.2}")),
        target: None,
    })
}
