//! What benchmarks are run on: a lab with Shoal in it, and its hosts' own clocks.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shoal_lab::deployment::Programs;
use shoal_lab::images::{self, DebianRecipe};
use shoal_lab::{Deployment, Host, Lab, Suite};

/// A controller, and `hosts` hosts of `suite` that have joined it with the label `role=web`, all
/// with these programs.
pub(super) fn open(
    programs: &Programs,
    hint: &str,
    suite: Suite,
    hosts: usize,
) -> Result<Deployment> {
    let lab = Lab::of(&format!("bench {hint}"), suite)?;
    let mut deployment = Deployment::with(lab, programs.clone())?;
    deployment.lab_mut().boot_hosts(hosts)?;
    for position in 0..hosts {
        deployment.join(position, &["role=web"])?;
    }
    Ok(deployment)
}

/// Pushes `box:1`, which runs commands.
pub(super) fn push_box(deployment: &Deployment) -> Result<()> {
    deployment.push(&images::busybox_image("bench")?, "box:1")
}

/// Pushes `debian:1`, which boots. It has a D-Bus daemon, without which nobody outside can ask
/// it whether it is up, and the peers wait for that.
pub(super) fn push_debian(deployment: &Deployment) -> Result<()> {
    let recipe = DebianRecipe { name: "bench", packages: &["dbus"], revision: "1" };
    deployment.push(&images::debian_image(recipe, |_| Ok(()))?, "debian:1")
}

/// How long `shoal` with these arguments takes, from its start to its end.
///
/// # Errors
/// Where it does not end with 0.
pub(super) fn timed(deployment: &Deployment, arguments: &[&str]) -> Result<Duration> {
    let mut command = deployment.shoal_command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let output = command.output()?;
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`shoal {}`: {}", arguments.join(" "), said.trim());
    Ok(took)
}

/// Applies `fleet` and waits until all of it is healthy; how long that took.
pub(super) fn apply(deployment: &Deployment, fleet: &str) -> Result<Duration> {
    deployment.file("fleet.toml", fleet)?;
    timed(deployment, &["apply", "--wait", "--timeout", "5m"])
}

/// Runs a bash script in a host, with arguments, and gives what it printed.
pub(super) fn bash(host: &Host, script: &str, arguments: &[&str]) -> Result<String> {
    let words = [&["bash", "-euc", script, "bench"][..], arguments].concat();
    let output = host.run(&words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let first = script.trim().lines().next().unwrap_or_default();
    ensure!(
        output.status.success(),
        "in host {}: `{first} …` {arguments:?} ended with {}: {}",
        host.name(),
        output.status,
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How long a command takes in a host, by the host's clock, so that getting in does not count.
pub(super) fn timed_in(host: &Host, words: &[&str]) -> Result<Duration> {
    let script = r#"began=$(date +%s%N); "$@" >&2; echo $(($(date +%s%N) - began))"#;
    let nanoseconds = bash(host, script, words)?;
    let nanoseconds = nanoseconds.trim().parse();
    nanoseconds.map(Duration::from_nanos).with_context(|| format!("the time of {words:?}"))
}
