//! Shoal's own programs in a lab, put there the way its README tells a user to.
//!
//! Way in: [`Deployment::new`] for a running fleet of enrolled hosts; [`Programs`] for where the
//! programs come from.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::background::Background;
use crate::host::Host;
use crate::lab::Lab;
use crate::network::CONTROLLER_ADDR;
use crate::wait::wait_until;

/// How long a daemon may take to come up, or a host to show as online.
const PATIENCE: Duration = Duration::from_secs(30);

/// The arguments with which a lab's controller is made.
pub const INIT: &[&str] = &[
    "init",
    "--dir",
    "controller",
    "--trust-domain",
    "lab.test",
    "--address",
    CONTROLLER_ADDR,
    "--address",
    "controller",
    "--context-out",
    "context.toml",
];

/// The arguments with which it runs.
pub const RUN: &[&str] = &["run", "--dir", "controller"];

/// Where Shoal's programs and unit files are on this machine.
#[derive(Debug, Clone)]
pub struct Programs {
    built: PathBuf,
    units: PathBuf,
}

impl Programs {
    /// The programs built beside the running one (a test, or xtask), and the units in `deploy/`.
    ///
    /// # Errors
    /// Where they are not built; the message says how to.
    pub fn beside_this_one() -> Result<Self> {
        let this = std::env::current_exe()?;
        let beside = |dir: &&Path| dir.join("shoal-agent").exists();
        let built = this.ancestors().skip(1).take(2).find(beside).with_context(|| {
            format!("shoal-agent is not beside {}; run cargo build --workspace", this.display())
        })?;
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
        Ok(Self { built: built.to_owned(), units })
    }

    /// Those of another build, such as `target/release` for benches.
    ///
    /// # Errors
    /// Where one of them is not there.
    pub fn built_at(dir: &Path) -> Result<Self> {
        for name in ["shoal", "shoal-agent", "shoal-controller"] {
            let path = dir.join(name);
            ensure!(path.exists(), "{} is missing; build it first", path.display());
        }
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
        Ok(Self { built: dir.to_owned(), units })
    }

    /// One of them.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.built.join(name)
    }

    /// Puts the agent and its units onto a host.
    pub fn install_agent(&self, host: &Host) -> Result<()> {
        host.install(&self.path("shoal-agent"), "/usr/bin/shoal-agent")?;
        for unit in ["shoal-agent.service", "shoal-instance@.service"] {
            let bytes = fs::read(self.units.join(unit))?;
            host.put_file(&format!("/etc/systemd/system/{unit}"), &bytes, 0o644)?;
        }
        host.sh("systemctl daemon-reload").map(drop)
    }
}

/// A lab with a controller and hosts that have joined it.
#[derive(Debug)]
pub struct Deployment {
    programs: Programs,
    controller: Option<Child>,
    dir: PathBuf,
    // Last, so that it is dropped last: it ends whatever is left.
    lab: Lab,
}

impl Deployment {
    /// Boots `hosts` hosts, starts a controller and has the hosts join it with the label
    /// `role=web`.
    pub fn new(hint: &str, hosts: usize) -> Result<Self> {
        let mut deployment = Self::without_hosts(hint)?;
        deployment.lab.boot_hosts(hosts)?;
        for position in 0..hosts {
            deployment.join(position, &["role=web"])?;
        }
        Ok(deployment)
    }

    /// Starts a controller in a lab that has no hosts yet.
    pub fn without_hosts(hint: &str) -> Result<Self> {
        Self::in_lab(Lab::new(hint)?)
    }

    /// Makes a controller and starts it in `lab`.
    pub fn in_lab(lab: Lab) -> Result<Self> {
        Self::with(lab, Programs::beside_this_one()?)
    }

    /// Makes a controller of these programs and starts it in `lab`; its hosts get these, too.
    pub fn with(lab: Lab, programs: Programs) -> Result<Self> {
        let dir = lab.dir();
        let mut deployment = Self { programs, controller: None, dir, lab };
        crate::exec::checked(&mut deployment.controller_command(INIT))?;
        deployment.start_controller()?;
        Ok(deployment)
    }

    /// A lab without a controller yet: the first thing to run is [`INIT`].
    pub fn bare(lab: Lab) -> Result<Self> {
        let (programs, dir) = (Programs::beside_this_one()?, lab.dir());
        Ok(Self { programs, controller: None, dir, lab })
    }

    /// `shoal-controller` with `arguments`, in the lab's network and the deployment's directory.
    #[must_use]
    pub fn controller_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.netns_command(self.programs.path("shoal-controller"));
        command.args(arguments).current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    /// The lab below.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab below, to boot more hosts.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// The programs in use.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The directory in which its commands run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The controller's directory.
    #[must_use]
    pub fn controller_dir(&self) -> PathBuf {
        self.dir.join("controller")
    }

    /// The admin's context file.
    #[must_use]
    pub fn context(&self) -> PathBuf {
        self.dir.join("context.toml")
    }

    /// The controller's log.
    #[must_use]
    pub fn controller_log(&self) -> PathBuf {
        self.dir.join("controller.log")
    }

    /// Starts the controller and waits until it serves.
    pub fn start_controller(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.controller_log())?;
        let mut command = self.controller_command(RUN);
        command.stdout(log.try_clone()?).stderr(log);
        self.controller = Some(command.spawn()?);
        wait_until("the controller serves", PATIENCE, || Ok(self.shoal(&["version"])?.success()))
    }

    /// The controller's process, as the machine numbers it.
    pub fn controller_pid(&self) -> Result<u32> {
        Ok(self.controller.as_ref().context("the controller is not running")?.id())
    }

    /// Kills the controller with SIGKILL.
    pub fn kill_controller(&mut self) -> Result<()> {
        let mut child = self.controller.take().context("the controller is not running")?;
        child.kill()?;
        child.wait().map(drop).map_err(Into::into)
    }

    /// Ends the controller with SIGTERM and waits for it; it must exit with 0.
    pub fn stop_controller(&mut self) -> Result<()> {
        let mut child = self.controller.take().context("the controller is not running")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let status = child.wait()?;
        ensure!(status.success(), "the controller ended with {status}");
        Ok(())
    }

    /// Holds the controller up: until [`Deployment::resume_controller`] it keeps its connections
    /// and does nothing.
    pub fn pause_controller(&self) -> Result<()> {
        self.signal_controller(Signal::STOP)
    }

    /// Lets it go on.
    pub fn resume_controller(&self) -> Result<()> {
        self.signal_controller(Signal::CONT)
    }

    fn signal_controller(&self, signal: Signal) -> Result<()> {
        let child = self.controller.as_ref().context("the controller is not running")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Leaves the controller running when this is dropped, for a lab that is kept.
    pub fn leave_controller(&mut self) {
        self.controller = None;
    }

    /// Installs the agent on a host, has it join with `labels`, and waits until it is online.
    pub fn join(&self, position: usize, labels: &[&str]) -> Result<()> {
        let host = self.lab.host(position);
        self.programs.install_agent(host)?;
        let token = self.token(host.name(), labels)?;
        host.run(&["shoal-agent", "join", "--controller", "controller", "--token", &token])?;
        host.sh("systemctl enable --now shoal-agent")?;
        self.wait_online(host.name())
    }

    /// A join token for a host of this name.
    pub fn token(&self, host: &str, labels: &[&str]) -> Result<String> {
        let mut arguments = vec!["host", "token", "create", "--name", host, "-o", "json"];
        for label in labels {
            arguments.extend(["--label", label]);
        }
        let text = self.shoal(&arguments)?.ok()?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        Ok(value["token"].as_str().context("no token in the answer")?.to_owned())
    }

    /// Waits until the controller shows the host as online.
    pub fn wait_online(&self, host: &str) -> Result<()> {
        wait_until(&format!("{host} is online"), PATIENCE, || self.is_online(host))
    }

    /// Whether the controller shows the host as online.
    pub fn is_online(&self, host: &str) -> Result<bool> {
        Ok(self.json(&["host", "show", host])?["online"] == true)
    }

    /// `shoal` with `arguments`, in the lab's network, as the admin.
    #[must_use]
    pub fn shoal_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.netns_command(self.programs.path("shoal"));
        command.args(arguments).env("SHOAL_CONFIG", self.context()).current_dir(&self.dir);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `shoal` to its end.
    pub fn shoal(&self, arguments: &[&str]) -> Result<Ran> {
        let output = self.shoal_command(arguments).output()?;
        Ok(Ran::of(format!("shoal {}", arguments.join(" ")), output))
    }

    /// Starts `shoal` beside the test. Its standard output goes to `stdout`; where that is a pipe,
    /// what is written to it is kept until its end.
    pub fn spawn(&self, arguments: &[&str], stdout: Stdio) -> Result<Background> {
        let line = format!("shoal {}", arguments.join(" "));
        Background::start(line, &mut self.shoal_command(arguments), stdout)
    }

    /// Runs `shoal` with `-o json`, which must succeed, and reads what it prints.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let text = self.shoal(&[arguments, &["-o", "json"]].concat())?.ok()?;
        serde_json::from_str(&text)
            .with_context(|| format!("{arguments:?} printed no JSON: {text}"))
    }

    /// Pushes an image file under `name`, such as `box:1`.
    pub fn push(&self, image: &Path, name: &str) -> Result<()> {
        self.shoal(&["image", "push", &image.display().to_string(), name])?.ok().map(drop)
    }

    /// Writes `fleet.toml`, applies it, whatever is under way, and waits until all its hosts are
    /// ready.
    pub fn apply(&self, fleet: &str) -> Result<()> {
        self.file("fleet.toml", fleet)?;
        self.shoal(&["apply", "--wait", "--replace", "--timeout", "90s"])?.ok().map(drop)
    }

    /// The first process of a machine's container, as its host numbers it.
    pub fn container(&self, position: usize, machine: &str) -> Result<u32> {
        let show = format!("machinectl show {machine} --property=Leader --value");
        self.lab.host(position).sh(&show)?.trim().parse().context("machined knows no leader")
    }

    /// Puts a file into the directory that `shoal` runs in, and gives its path.
    pub fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        Ok(path)
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- controller log\n{}", tail(&self.controller_log()));
            for host in self.lab.hosts() {
                let log =
                    host.sh("journalctl --no-pager -n 60 -u shoal-agent -u 'shoal-instance@*'");
                eprintln!("--- {}\n{}", host.name(), log.unwrap_or_default());
            }
        }
        if let Some(mut child) = self.controller.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A command that ran to its end.
#[derive(Debug)]
pub struct Ran {
    line: String,
    output: Output,
}

impl Ran {
    /// The command `line`, which has ended so.
    pub(crate) fn of(line: String, output: Output) -> Self {
        Self { line, output }
    }

    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.output.status.success()
    }

    /// Its exit code as a shell tells it: 128 and the signal's number where a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        let status = self.output.status;
        status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(-1)
    }

    /// What it wrote to standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// What it wrote to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Its standard output, where it exited with 0.
    ///
    /// # Errors
    /// Otherwise, with everything that it said.
    pub fn ok(&self) -> Result<String> {
        if !self.success() {
            bail!(
                "`{}` exited with {}: {}{}",
                self.line,
                self.code(),
                self.stdout(),
                self.stderr()
            );
        }
        Ok(self.stdout())
    }

    /// Its standard error, where it exited with `code`.
    ///
    /// # Errors
    /// Otherwise, with everything that it said.
    pub fn fails_with(&self, code: i32) -> Result<String> {
        let got = self.code();
        if got != code {
            bail!(
                "`{}` exited with {got}, not {code}: {}{}",
                self.line,
                self.stdout(),
                self.stderr()
            );
        }
        Ok(self.stderr())
    }
}
