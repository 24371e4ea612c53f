//! A one-line change of a running instance, from `shoal apply --wait` to its end, which comes
//! when the new container is proven healthy.
//!
//! There are two peers: `systemctl start` of the same systemd-nspawn command, and `systemctl
//! restart`, which does the work that an apply does: it stops the old container first. The same
//! target is set against both.

use std::time::Duration;

use anyhow::Result;
use shoal_lab::{Deployment, Suite};

use super::Run;
use super::bare::Bare;
use super::report::Row;
use super::stand;
use super::stats::Sample;

const ROUNDS: usize = 10;
/// Of the time that the peer takes.
const MOST: f64 = 1.2;
/// Where the web server of [`FLEET`] answers.
const PORT: u16 = 8080;

const FLEET: &str = r#"
fleet = "bench"
[instance.system]
image = "debian:1"
hosts = "role=web"
boot = true
env = { MARK = "@system" }
[instance.system.files."/etc/mark"]
content = "@line"
reload = "dbus.service"
[instance.system.health]
unit = "multi-user.target"
[instance.web]
image = "box:1"
hosts = "role=web"
command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]
env = { MARK = "@web" }
[instance.web.health]
tcp = "127.0.0.1:8080"
"#;

pub(super) fn measure(run: &mut Run<'_>) -> Result<Vec<Row>> {
    let deployment = stand::open(&run.programs, "apply", Suite::Bookworm, 1)?;
    run.met(deployment.lab().host(0))?;
    stand::push_box(&deployment)?;
    stand::push_debian(&deployment)?;
    stand::apply(&deployment, FLEET)?;
    let mut rows = Vec::new();
    rows.extend(of(&deployment, "system", None, "a Debian that boots")?);
    rows.extend(of(&deployment, "web", Some(PORT), "a command, busybox's web server")?);
    rows.extend(in_place(&deployment)?);
    Ok(rows)
}

/// A changed line of a file that a unit inside is told to read again.
fn in_place(deployment: &Deployment) -> Result<[Row; 2]> {
    let change = |round| FLEET.replace("@line", &format!("round {round}"));
    let what = "a changed line of a file with `reload`, of a Debian";
    measured(deployment, "system", None, what, change)
}

fn of(deployment: &Deployment, instance: &str, port: Option<u16>, what: &str) -> Result<[Row; 2]> {
    let mark = format!("@{instance}");
    let change = |round| FLEET.replace(&mark, &format!("round {round}"));
    measured(deployment, instance, port, &format!("a changed variable to {what}"), change)
}

fn measured(
    deployment: &Deployment,
    instance: &str,
    port: Option<u16>,
    what: &str,
    change: impl Fn(usize) -> String,
) -> Result<[Row; 2]> {
    let bare = Bare::beside(deployment.lab().host(0), &format!("bench-{instance}"), port)?;
    let (mut applies, mut starts, mut restarts) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms caches up and does not count.
    for round in 0..=ROUNDS {
        let apply = stand::apply(deployment, &change(round))?;
        let start = bare.start()?;
        let restart = bare.restart()?;
        bare.stop()?;
        if round > 0 {
            applies.push(apply);
            starts.push(start);
            restarts.push(restart);
        }
    }
    let applies = Sample::of_times(&applies)?;
    let until = if port.is_some() { " until it answers" } else { "" };
    let against = |verb: &str, times: &[Duration]| {
        let peer = (&*format!("`systemctl {verb}`{until}"), &Sample::of_times(times)?);
        Row::times(format!("apply of {what}"), &applies, peer, Some(MOST))
    };
    Ok([against("start", &starts)?, against("restart", &restarts)?])
}
