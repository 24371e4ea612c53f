//! What a run ran on, for those who compare: nothing that tells whose machine it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use shoal_lab::Host;
use shoal_lab::deployment::Programs;

/// The line over each table: date, machine, versions; `source` says what the programs were built
/// from.
///
/// # Errors
/// Where the machine does not tell.
pub(super) fn line(source: &str, programs: &Programs, others: &[String]) -> Result<String> {
    let date = output(Command::new("date").args(["-u", "+%F"]))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpu = cpu(&fs::read_to_string("/proc/cpuinfo")?);
    let version = output(Command::new(programs.path("shoal")).arg("--version"))?;
    let version = version.trim().trim_start_matches("shoal ").to_owned();
    let mut parts =
        vec![format!("Linux {}", upstream(&kernel)), cpu, format!("Shoal {version} ({source})")];
    parts.extend_from_slice(others);
    Ok(format!("{}: {}.", date.trim(), parts.join("; ")))
}

/// The systemd of a host, such as `systemd 252`.
///
/// # Errors
/// Where it does not tell.
pub(super) fn systemd(host: &Host) -> Result<String> {
    let text = host.sh("systemctl --version")?;
    let mut words = text.split_whitespace();
    let version = words.nth(1).context("systemctl --version says nothing")?;
    Ok(format!("systemd {version}"))
}

/// The commit that is checked out in a repository, and whether anything was changed since.
pub(super) fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(root));
    let Ok(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "commit not known".to_owned();
    };
    let clean = git(&["status", "--porcelain"]).is_ok_and(|changes| changes.trim().is_empty());
    format!("{}{}", commit.trim(), if clean { "" } else { " and changes" })
}

/// The kernel's version without what its packager put behind it.
fn upstream(release: &str) -> &str {
    release.trim().split('-').next().unwrap_or_default()
}

/// The model of the first CPU, and how many there are.
fn cpu(info: &str) -> String {
    let models: Vec<&str> = info
        .lines()
        .filter_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim())
        .collect();
    match models.first() {
        Some(model) => format!("{} × {model}", models.len()),
        None => "an unknown CPU".to_owned(),
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_without_its_names() {
        assert_eq!(upstream("6.18.44-vendor-9\n"), "6.18.44");
        let info =
            "processor\t: 0\nmodel name\t: Fast CPU\n\nprocessor\t: 1\nmodel name\t: Fast CPU\n";
        assert_eq!(cpu(info), "2 × Fast CPU");
        assert_eq!(cpu(""), "an unknown CPU");
    }
}
