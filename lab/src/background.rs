//! A command that runs beside the test that started it.

use std::fs;
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::deployment::Ran;

/// A command that runs, and is killed where this is dropped first.
#[derive(Debug)]
pub struct Background {
    line: String,
    child: Option<Child>,
}

impl Background {
    /// Starts `command`; both its outputs are kept for [`Background::wait`], as far as they are not
    /// the caller's.
    pub(crate) fn start(line: String, command: &mut Command, stdout: Stdio) -> Result<Self> {
        let child = command.stdout(stdout).stderr(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("could not start `{line}`"))?;
        Ok(Self { line, child: Some(child) })
    }

    /// Its process, as the machine numbers it.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it has ended")?.id())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it has ended")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Its standard error, to be read while it runs; [`Background::wait`] has none of it then.
    pub fn stderr(&mut self) -> Result<ChildStderr> {
        let child = self.child.as_mut().context("it has ended")?;
        child.stderr.take().context("its standard error was taken already")
    }

    /// Whether it has a connection open, or is about to.
    pub fn is_connecting(&self) -> Result<bool> {
        let dir = format!("/proc/{}/fd", self.pid()?);
        for file in fs::read_dir(dir)? {
            // One may be closed at this moment.
            let target = fs::read_link(file?.path()).unwrap_or_default();
            if target.to_string_lossy().starts_with("socket:") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Ran> {
        let child = self.child.take().context("it has ended")?;
        let output = child.wait_with_output();
        let output = output.with_context(|| format!("could not wait for `{}`", self.line))?;
        Ok(Ran::of(self.line.clone(), output))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
