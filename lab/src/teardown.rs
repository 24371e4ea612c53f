//! Putting a lab away: the script that does it, and the watchdog that runs it in any event.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::exec;

/// One implementation, in shell, because it also has to run when this process was killed.
const SCRIPT: &str = include_str!("teardown.sh");

/// Ends all processes of the lab at `dir` and removes every trace of it. Twice is harmless.
pub(crate) fn lab(dir: &Path) -> Result<()> {
    script(dir, &["lab"])
}

/// To be called while `host` still runs: remembers what [`release`] will need.
pub(crate) fn note(dir: &Path, host: &str) -> Result<()> {
    script(dir, &["note", host])
}

/// Kills what is left of `host` and detaches its loop devices, as a real machine's end would.
pub(crate) fn release(dir: &Path, host: &str) -> Result<()> {
    script(dir, &["kill", host])?;
    script(dir, &["detach", host])
}

/// A process that tears the lab down as soon as this one is gone, however it went.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// In a session of its own, so that neither Ctrl-C nor a closed terminal reaches it.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let child = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, "shoal-lab", "watch"])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start the lab's watchdog")?;
        Ok(Self(child))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Closes the pipe first: the watchdog then finds the lab gone, or marked to be kept.
        let _ended = self.0.wait();
    }
}

fn script(dir: &Path, args: &[&str]) -> Result<()> {
    let (verb, rest) = args.split_first().context("a teardown without a verb")?;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "shoal-lab", verb]).arg(dir).args(rest).current_dir("/");
    exec::checked(&mut command)
        .with_context(|| format!("could not put away {} ({verb})", dir.display()))
        .map(drop)
}
