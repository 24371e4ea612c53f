//! One test host: an nspawn container that boots systemd, with a disk that survives its boots.
//!
//! Its disk is a directory of the lab: the upper layer of its root, and, bind-mounted from the
//! machine's real file system, /var/lib/shoal (overlays inside the host need a real one) and the
//! journal. /run and /tmp are fresh at each boot. The overlay lives in a mount namespace of the
//! container's own and ends with it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::base;
use crate::exec;
use crate::network::{self, BRIDGE, CONTROLLER_ADDR, Network, PREFIX};
use crate::process::{self, Process};
use crate::teardown;
use crate::wait::wait_until;

/// How long a boot or a shutdown may take; both take a second or two.
const DEADLINE: Duration = Duration::from_secs(90);

/// Where installed binaries really are in the host; a read-only mount of the host's `bin` folder.
const BINARIES: &str = "/usr/local/lib/shoal-lab";

/// The kernel's number of the cgroup v2 file system.
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;

/// Joins the host's cgroup, then mounts its root where only it sees it, and becomes the container.
/// Every step is an exec, so the process that was started is the container's supervisor.
const LAUNCH: &str = r#"
set -e
echo $$ >"$CGROUP/cgroup.procs"
exec unshare --mount --propagation slave sh -e -c '
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"
exec systemd-nspawn "$@"' nspawn "$@"
"#;

/// Joins a cgroup of the host, as a login there would, then its namespaces. What runs there could
/// not start a container otherwise, and would not count as the host's.
const ENTER: &str = r#"
echo $$ >"$1/cgroup.procs" || exit
leader=$2
shift 2
exec nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup -- "$@"
"#;

/// A test host of a [`Lab`](crate::Lab).
#[derive(Debug)]
pub struct Host {
    name: String,
    index: u8,
    addr: String,
    lab: PathBuf,
    base: PathBuf,
    network: Network,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    supervisor: Process,
    /// PID 1 of the host, as the machine numbers it.
    leader: u32,
    /// Absent when another process started the host.
    child: Option<Child>,
}

impl Running {
    fn has_ended(&mut self) -> bool {
        // Reaps it, too.
        let reaped =
            self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
        reaped || !self.supervisor.is_alive()
    }
}

impl Host {
    /// The host `name` of the lab at `lab`, not booted; its disk is made if it isn't there.
    pub(crate) fn new(lab: &Path, base: &Path, name: &str, index: u8) -> Result<Self> {
        let host = Self {
            name: name.to_owned(),
            index,
            addr: network::host_addr(index),
            lab: lab.to_owned(),
            base: base.to_owned(),
            network: Network::of(&name_of(lab)),
            running: Mutex::new(None),
        };
        if !host.disk().join("index").exists() {
            host.make_disk().with_context(|| format!("could not make the disk of {name}"))?;
        }
        Ok(host)
    }

    /// The host `name` of a lab that another process made, running or not.
    pub(crate) fn open(lab: &Path, base: &Path, name: &str) -> Result<Self> {
        let disk = lab.join("hosts").join(name);
        let index = fs::read_to_string(disk.join("index"))
            .with_context(|| format!("{} is not the disk of a test host", disk.display()))?;
        let host = Self::new(lab, base, name, index.trim().parse()?)?;
        if let Ok(text) = fs::read_to_string(disk.join("supervisor")) {
            let supervisor: Process = text.parse()?;
            if let Some(leader) = process::container_init(supervisor.pid)
                && supervisor.is_alive()
            {
                *host.running() = Some(Running { supervisor, leader, child: None });
            }
        }
        Ok(host)
    }

    /// Its host name, such as `h1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its place in the lab's network, counted from 1.
    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    /// Its IPv4 address in the lab's network.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// The directory of the machine that holds its disk; `disk().join("shoal")` is its
    /// /var/lib/shoal. To be looked at; write with [`Host::put_file`].
    pub fn disk(&self) -> PathBuf {
        self.lab.join("hosts").join(&self.name)
    }

    /// The PID of its systemd, as the machine numbers it; fails if it is not running.
    pub fn leader(&self) -> Result<u32> {
        let mut running = self.running();
        let boot = running.as_mut().and_then(|boot| (!boot.has_ended()).then_some(boot.leader));
        boot.with_context(|| format!("host {} is not running; start() it first", self.name))
    }

    /// Whether it is up, or on its way up or down.
    pub fn is_running(&self) -> bool {
        self.leader().is_ok()
    }

    /// A command to be run in the host, as root, with a clean environment; its standard streams
    /// are the caller's to set. Fails if the host is not running.
    pub fn command(&self, argv: &[&str]) -> Result<Command> {
        let leader = self.leader()?.to_string();
        let session = self.cgroup().join("payload/lab-session");
        fs::create_dir_all(&session)
            .with_context(|| format!("could not make the cgroup {}", session.display()))?;
        let mut command = Command::new("sh");
        command
            .args(["-c", ENTER, "enter"])
            .arg(session)
            .arg(leader)
            .args(argv)
            .env_clear()
            .envs([("PATH", exec::PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")])
            .current_dir("/");
        Ok(command)
    }

    /// Runs `argv` in the host with empty standard input; the caller judges the exit status.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        let output = self.command(argv)?.stdin(Stdio::null()).output();
        output.with_context(|| format!("could not run {argv:?} in host {}", self.name))
    }

    /// Runs a shell script in the host and returns its standard output. Failing is an error that
    /// shows both streams and the exit code.
    pub fn sh(&self, script: &str) -> Result<String> {
        let mut command = self.command(&["/bin/sh", "-c", script])?;
        let output = exec::checked(command.stdin(Stdio::null()))
            .with_context(|| format!("in host {}: {script}", self.name))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a file in the host, with its parent directories, and replaces it atomically.
    pub fn put_file(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let script = r#"mkdir -p "$(dirname "$1")" && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1""#;
        let mode = format!("{mode:o}");
        let mut command = self.command(&["/bin/sh", "-c", script, "put", path, &mode])?;
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let written = child.stdin.take().context("no pipe")?.write_all(bytes);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("could not write {path} in host {}: {}", self.name, said.trim());
        }
        written.with_context(|| format!("could not write {path} in host {}", self.name))
    }

    /// Makes the machine's file `source` the program `path` of the host, replacing an earlier one
    /// atomically; a running one keeps the file it was started from.
    ///
    /// The file is hard-linked where it can be, not copied: programs with debug information are
    /// large and hosts many. `path` becomes a symlink to it.
    pub fn install(&self, source: &Path, path: &str) -> Result<()> {
        let place = self.disk().join("bin").join(path.trim_start_matches('/'));
        let failed = || format!("could not install {} in host {}", source.display(), self.name);
        let source = fs::canonicalize(source).with_context(failed)?;
        link_or_copy(&source, &place).with_context(failed)?;
        let target = format!("{BINARIES}/{}", path.trim_start_matches('/'));
        let script =
            r#"mkdir -p "$(dirname "$2")" && ln -sfT "$1" "$2.new" && mv -T "$2.new" "$2""#;
        let output = self.run(&["/bin/sh", "-c", script, "install", &target, path])?;
        ensure!(
            output.status.success(),
            "{}: {}",
            failed(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Boots it, with the disk that it had, and waits until its systemd is up. An error if it is
    /// running already.
    pub fn start(&self) -> Result<()> {
        ensure!(!self.is_running(), "host {} is running already", self.name);
        // What an earlier boot may have left, when the host powered off by itself.
        teardown::release(&self.lab, &self.name)?;
        let child = self.spawn()?;
        let supervisor = Process::of(child.id())?;
        fs::write(self.disk().join("supervisor"), supervisor.to_string())?;
        let mut boot = Running { supervisor, leader: 0, child: Some(child) };
        self.wait_for_leader(&mut boot)?;
        *self.running() = Some(boot);
        self.wait_until_up()
    }

    /// Powers it off cleanly and waits until it is off.
    pub fn stop(&self) -> Result<()> {
        self.shut_down("poweroff")
    }

    /// Reboots it cleanly and waits until it is up again.
    pub fn reboot(&self) -> Result<()> {
        self.shut_down("reboot")?;
        self.start()
    }

    /// Pulls the plug: every process ends at once and nothing gets to say good-bye. What was
    /// written and not synced survives all the same, for the machine's kernel lives on.
    pub fn power_kill(&self) -> Result<()> {
        self.leader()?;
        teardown::note(&self.lab, &self.name)?;
        self.end()
    }

    /// Pulls its network cable: no packet gets to it or from it.
    pub fn cut_off(&self) -> Result<()> {
        self.set_cable(false)
    }

    /// Plugs the cable in again.
    pub fn reconnect(&self) -> Result<()> {
        self.set_cable(true)
    }

    /// What its boot and its systemd wrote to the console, over all boots.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.disk().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_cable(&self, up: bool) -> Result<()> {
        let port = self.sh("cat /sys/class/net/host0/iflink")?;
        self.network.set_port(port.trim().parse()?, up)
    }

    fn make_disk(&self) -> Result<()> {
        let disk = self.disk();
        for part in ["upper/etc", "work", "root", "shoal", "journal", "bin"] {
            fs::create_dir_all(disk.join(part))?;
        }
        let etc = disk.join("upper/etc");
        fs::write(etc.join("hostname"), format!("{}\n", self.name))?;
        fs::write(etc.join("hosts"), self.hosts_file())?;
        fs::write(etc.join("machine-id"), machine_id()?)?;
        let settings = disk.join("upper").join(base::SETTINGS.trim_start_matches('/'));
        fs::write(settings, format!("ADDRESS={}/{PREFIX}\n", self.addr))?;
        // Last: a disk that has it is whole.
        Ok(fs::write(disk.join("index"), self.index.to_string())?)
    }

    fn hosts_file(&self) -> String {
        let Self { name, addr, .. } = self;
        format!("127.0.0.1 localhost\n{addr} {name}\n{CONTROLLER_ADDR} controller\n")
    }

    fn spawn(&self) -> Result<Child> {
        let cgroup = self.cgroup();
        fs::create_dir_all(&cgroup)
            .with_context(|| format!("could not make the cgroup {}", cgroup.display()))?;
        let console =
            fs::File::options().create(true).append(true).open(self.disk().join("console.log"))?;
        // A session of its own: Ctrl-C and a closed terminal are the lab's affair, not the host's.
        let mut command = self.network.command("setsid");
        command
            .args(["sh", "-c", LAUNCH, "launch"])
            .args(self.nspawn_args())
            .env_clear()
            .env("PATH", exec::PATH)
            .env("CGROUP", cgroup)
            .env("BASE", &self.base)
            .env("DISK", self.disk())
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env("SYSTEMD_SECCOMP", "0")
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        command.spawn().with_context(|| format!("could not boot host {}", self.name))
    }

    fn cgroup(&self) -> PathBuf {
        cgroup_root().join("shoal-lab").join(name_of(&self.lab)).join(&self.name)
    }

    /// Unique on the machine, where several labs may run: nspawn keeps files under this name.
    fn machine(&self) -> String {
        format!("{}-{}", name_of(&self.lab), self.name)
    }

    fn nspawn_args(&self) -> Vec<String> {
        let disk = self.disk();
        let at = |part: &str| disk.join(part).display().to_string();
        let fixed = "--boot --register=no --keep-unit --capability=all --console=read-only \
                     --resolv-conf=off --timezone=off --link-journal=no --settings=no \
                     --bind=/dev/loop-control";
        let mut args: Vec<_> = fixed.split_whitespace().map(str::to_owned).collect();
        args.extend([
            format!("--directory={}", at("root")),
            format!("--machine={}", self.machine()),
            format!("--hostname={}", self.name),
            format!("--network-bridge={BRIDGE}"),
            format!("--bind={}:/var/lib/shoal", at("shoal")),
            format!("--bind={}:/var/log/journal", at("journal")),
            format!("--bind-ro={}:{BINARIES}", at("bin")),
        ]);
        args
    }

    fn wait_for_leader(&self, boot: &mut Running) -> Result<()> {
        wait_until("the host's first process", DEADLINE, || {
            boot.leader = process::container_init(boot.supervisor.pid).unwrap_or_default();
            Ok(boot.leader != 0 || boot.has_ended())
        })
        .and_then(|()| match boot.leader {
            0 => bail!("its container ended at once"),
            _ => Ok(()),
        })
        .with_context(|| self.boot_failure())
    }

    fn wait_until_up(&self) -> Result<()> {
        wait_until("its systemd to be up", DEADLINE, || {
            let output = self.run(&["systemctl", "is-system-running"]);
            // A host that ended is not going to come up: the check below says so.
            let Ok(output) = output else { return Ok(true) };
            let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            ensure!(matches!(&*state, "running" | "degraded"), "it is {state:?}");
            Ok(true)
        })
        .and_then(|()| self.leader().map(drop))
        .with_context(|| self.boot_failure())
    }

    fn boot_failure(&self) -> String {
        let console = self.console();
        let end = exec::tail(console.trim_end(), 2000);
        format!("host {} did not come up; its console ends with:\n{end}\n", self.name)
    }

    fn shut_down(&self, verb: &str) -> Result<()> {
        self.leader()?;
        teardown::note(&self.lab, &self.name)?;
        // Its status means nothing: the host may be down before it can say that it agrees.
        self.run(&["systemctl", "--no-block", verb])?;
        wait_until(&format!("{verb} of host {}", self.name), DEADLINE, || Ok(!self.is_running()))?;
        self.end()
    }

    /// Clears up behind a host that has ended, or is to.
    fn end(&self) -> Result<()> {
        teardown::release(&self.lab, &self.name)?;
        self.reap()
    }

    /// To be called when its processes have ended: until then it waits.
    pub(crate) fn reap(&self) -> Result<()> {
        if let Some(Running { child: Some(mut child), .. }) = self.running().take() {
            child.wait().with_context(|| format!("could not reap host {}", self.name))?;
        }
        Ok(())
    }
}

/// A lab is named by its directory.
fn name_of(lab: &Path) -> String {
    lab.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Cgroup v2, also where the machine mounts it beside v1.
///
/// Judged by its file system, and not by a file in it: anyone can make one of any name where a
/// tmpfs holds the trees of the old kind.
fn cgroup_root() -> &'static Path {
    let unified = Path::new("/sys/fs/cgroup");
    match rustix::fs::statfs(unified) {
        Ok(tree) if tree.f_type == CGROUP2 => unified,
        _ => Path::new("/sys/fs/cgroup/unified"),
    }
}

/// Random, in the form of /etc/machine-id.
fn machine_id() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.replace('-', ""))
}

fn link_or_copy(source: &Path, place: &Path) -> Result<()> {
    let dir = place.parent().context("a program needs a name")?;
    fs::create_dir_all(dir)?;
    let new = place.with_extension("new");
    if fs::hard_link(source, &new).is_err() {
        fs::copy(source, &new)?;
    }
    fs::rename(&new, place)?;
    // Renaming one link of a file over another link of the same file leaves both.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_can_be_installed_twice_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        fs::write(&one, "1").unwrap();
        fs::write(&two, "2").unwrap();
        let place = dir.path().join("usr/bin/agent");
        for source in [&one, &one, &two] {
            link_or_copy(source, &place).unwrap();
            assert_eq!(fs::read(source).unwrap(), fs::read(&place).unwrap());
        }
        assert_eq!(fs::read_dir(dir.path().join("usr/bin")).unwrap().count(), 1);
    }

    #[test]
    fn a_machine_id_is_32_hexadecimal_digits() {
        let id = machine_id().unwrap();
        assert_eq!(id.trim_end().len(), 32);
        assert!(id.trim_end().bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
}
