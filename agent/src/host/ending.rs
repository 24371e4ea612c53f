//! How a unit ended, in plain words, from what systemd tells its `ExecStopPost` (systemd.exec(5),
//! "Environment Variables Set or Propagated by the Service Manager").

use std::process::{Command, Stdio};

/// How a unit ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// systemd's word for it: `success`, `exit-code`, `signal`, `timeout` …
    pub result: String,
    /// How its main process ended: `exited`, `killed`, `dumped`; empty where there was none.
    pub code: String,
    /// Its exit code, or the name of its signal, without `SIG`.
    pub status: String,
    /// Whether it was told to.
    pub told: Told,
}

/// Who told a unit to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Told {
    /// Nobody.
    #[default]
    No,
    /// Shoal.
    ByShoal,
    /// Someone on the host, through systemd.
    ByHand,
    /// The host, which shuts down.
    ByShutdown,
}

impl Ending {
    /// Of the unit whose `ExecStopPost` this process is; `None` where it is none.
    #[must_use]
    pub fn of_this_unit(unit: &str, stopped_by_shoal: bool) -> Option<Self> {
        let variable = |name| std::env::var(name).ok();
        Some(Self {
            result: variable("SERVICE_RESULT")?,
            code: variable("EXIT_CODE").unwrap_or_default(),
            status: variable("EXIT_STATUS").unwrap_or_default(),
            told: if stopped_by_shoal { Told::ByShoal } else { told(unit) },
        })
    }

    /// Whether it was wanted and went as it should.
    #[must_use]
    pub fn is_as_wanted(&self) -> bool {
        self.told == Told::ByShoal && self.result == "success"
    }

    /// For people.
    #[must_use]
    pub fn reason(&self) -> String {
        match (self.result.as_str(), self.told) {
            ("oom-kill", _) => "out of memory".into(),
            ("watchdog", _) => "its watchdog heard nothing".into(),
            ("protocol", _) => "ended before it was up".into(),
            ("resources", _) => "systemd could not start it".into(),
            ("timeout", Told::No) => "start timed out".into(),
            ("timeout", _) => "did not stop in time and was killed".into(),
            ("success", Told::ByShoal) => "stopped".into(),
            ("success", Told::ByHand) => "stopped on the host".into(),
            ("success", Told::ByShutdown) => "the host shut down".into(),
            (result, _) => self.process().unwrap_or_else(|| result.to_owned()),
        }
    }

    /// How the main process ended, which is systemd-nspawn's.
    fn process(&self) -> Option<String> {
        match (self.code.as_str(), self.status.as_str()) {
            ("exited", "133") => Some("rebooted from inside".into()),
            // What stands for a program that could not give a code of its own.
            ("exited", "255") => Some("killed by a signal".into()),
            ("exited", code) => Some(format!("exit code {code}")),
            ("killed", signal) => Some(format!("killed by SIG{signal}")),
            ("dumped", signal) => Some(format!("crashed with SIG{signal}")),
            _ => None,
        }
    }
}

/// Who told `unit` to end: then systemd has a job for it. Asked by `systemctl`, since the bus may
/// be gone before the last instance is.
fn told(unit: &str) -> Told {
    if systemctl(&["is-system-running"]) == "stopping" {
        return Told::ByShutdown;
    }
    let job = systemctl(&["show", "--property=Job", "--value", unit]);
    if matches!(job.as_str(), "" | "0") { Told::No } else { Told::ByHand }
}

/// What systemctl says, whatever its exit code: that of `is-system-running` is another answer.
fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).stdin(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_have_plain_words() {
        let reason = |result: &str, code: &str, status: &str, told| {
            let ending =
                Ending { result: result.into(), code: code.into(), status: status.into(), told };
            ending.reason()
        };
        for (result, code, status, told, expected) in [
            ("success", "exited", "0", Told::No, "exit code 0"),
            ("success", "exited", "133", Told::No, "rebooted from inside"),
            ("success", "exited", "255", Told::No, "killed by a signal"),
            ("success", "exited", "0", Told::ByHand, "stopped on the host"),
            ("success", "exited", "0", Told::ByShoal, "stopped"),
            ("success", "exited", "255", Told::ByShutdown, "the host shut down"),
            ("exit-code", "exited", "3", Told::No, "exit code 3"),
            ("exit-code", "exited", "3", Told::ByHand, "exit code 3"),
            ("signal", "killed", "KILL", Told::No, "killed by SIGKILL"),
            ("core-dump", "dumped", "SEGV", Told::No, "crashed with SIGSEGV"),
            ("oom-kill", "killed", "KILL", Told::No, "out of memory"),
            ("timeout", "killed", "TERM", Told::No, "start timed out"),
            ("timeout", "killed", "KILL", Told::ByHand, "did not stop in time and was killed"),
            ("resources", "", "", Told::No, "systemd could not start it"),
            ("exec-condition", "", "", Told::No, "exec-condition"),
        ] {
            assert_eq!(reason(result, code, status, told), expected);
        }
    }
}
