//! A one-line change of a running instance, from `shoal apply --wait` to its end, which comes
//! when the new container is proven healthy.
//!
//! An apply stops the old container first, so there are two peers: `systemctl start` of the same
//! systemd-nspawn command (the target is set against it), and `systemctl restart`, which does the
//! same work as an apply.

use anyhow::Result;
use shoal_lab::{Deployment, Suite};

use super::Run;
use super::bare::Bare;
use super::report::Row;
use super::stand;
use super::stats::Sample;

const ROUNDS: usize = 10;
/// Of the time that a bare start takes.
const MOST: f64 = 1.2;

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
    let instances = [("system", "a Debian that boots"), ("web", "a command, busybox's web server")];
    for (instance, what) in instances {
        rows.extend(of(&deployment, instance, what)?);
    }
    rows.extend(in_place(&deployment)?);
    Ok(rows)
}

/// A changed line of a file that a unit inside is told to read again.
fn in_place(deployment: &Deployment) -> Result<[Row; 2]> {
    let change = |round| FLEET.replace("@line", &format!("round {round}"));
    measured(deployment, "system", "a changed line of a file with `reload`, of a Debian", change)
}

fn of(deployment: &Deployment, instance: &str, what: &str) -> Result<[Row; 2]> {
    let mark = format!("@{instance}");
    let change = |round| FLEET.replace(&mark, &format!("round {round}"));
    measured(deployment, instance, &format!("a changed variable to {what}"), change)
}

fn measured(
    deployment: &Deployment,
    instance: &str,
    what: &str,
    change: impl Fn(usize) -> String,
) -> Result<[Row; 2]> {
    let bare = Bare::beside(deployment.lab().host(0), &format!("bench-{instance}"))?;
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
    let start = ("`systemctl start`", &Sample::of_times(&starts)?);
    let restart = ("`systemctl restart`", &Sample::of_times(&restarts)?);
    let what = format!("apply of {what}");
    Ok([
        Row::times(what.clone(), &applies, start, Some(MOST))?,
        Row::times(what, &applies, restart, None)?,
    ])
}
