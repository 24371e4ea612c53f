//! How much memory and CPU a service of a host uses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use shoal_lab::Host;

use super::stand::bash;
use super::stats::Sample;

/// The agent's service.
pub(super) const AGENT: &str = "shoal-agent.service";
/// The whole of a host: its control group is the root of the tree that it sees.
pub(super) const HOST: &str = "";

/// The resident memory of a service's main process, in megabytes; of systemd itself for `init`.
///
/// # Errors
/// Where it does not run.
pub(super) fn resident(host: &Host, service: &str) -> Result<f64> {
    let script = r#"
        pid=1
        [ "$1" = init ] || pid=$(systemctl show "$1" --property=MainPID --value)
        sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$pid/status""#;
    let text = bash(host, script, &[service])?;
    let kib: f64 = text.trim().parse().with_context(|| format!("the memory of {service}"))?;
    Ok(kib * 1024.0 / 1e6)
}

/// The CPU time that a service, or the [`HOST`], has used so far. All its processes count, also
/// those that have ended.
///
/// # Errors
/// Where there is no such service.
pub(super) fn cpu(host: &Host, service: &str) -> Result<Duration> {
    let script = r#"
        group=/sys/fs/cgroup/system.slice/$1
        [ -n "$1" ] || group=/sys/fs/cgroup
        sed -n 's/^usage_usec //p' "$group/cpu.stat""#;
    let text = bash(host, script, &[service])?;
    let micros = text.trim().parse().with_context(|| format!("the CPU time of {service:?}"))?;
    Ok(Duration::from_micros(micros))
}

/// The share of one CPU, in percent, that each of `services` uses over each of `times` spans of
/// this length.
///
/// # Errors
/// Where one of them can't be looked at.
pub(super) fn shares<const N: usize>(
    host: &Host,
    services: [&str; N],
    span: Duration,
    times: usize,
) -> Result<[Sample; N]> {
    let mut shares: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for _ in 0..times {
        let began = Instant::now();
        let before = look(host, services)?;
        std::thread::sleep(span);
        let after = look(host, services)?;
        let passed = began.elapsed().as_secs_f64();
        for (share, (before, after)) in shares.iter_mut().zip(before.iter().zip(&after)) {
            share.push(after.saturating_sub(*before).as_secs_f64() / passed * 100.0);
        }
    }
    let mut samples = Vec::new();
    for share in shares {
        samples.push(Sample::of(share)?);
    }
    samples.try_into().ok().context("one for each service")
}

fn look<const N: usize>(host: &Host, services: [&str; N]) -> Result<Vec<Duration>> {
    services.iter().map(|service| cpu(host, service)).collect()
}
