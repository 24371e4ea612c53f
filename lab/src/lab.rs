//! A lab: a network and its test hosts, with one owner, put away when that owner is gone.
//!
//! All it has on disk is one directory, so that what a lost owner left can be found and removed:
//! `owner` (the process), `keep` (present: no owner, leave it alone), `base`, `hosts/<name>/`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::base::Suite;
use crate::cache::Cache;
use crate::host::Host;
use crate::network::{CONTROLLER_ADDR, MAX_HOSTS, Network};
use crate::process::Process;
use crate::teardown::{self, Watchdog};
use crate::{base, packages};

/// The environment variable that names another directory than [`DEFAULT_DIR`]; it must be on a
/// file system that can hold an overlay's upper layer.
const DIR_VARIABLE: &str = "SHOAL_LAB_DIR";
const DEFAULT_DIR: &str = "/var/lib/shoal-lab";

/// A network of test hosts. Dropping it removes it and everything in it, unless it is kept.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    base: PathBuf,
    network: Network,
    hosts: Vec<Host>,
    /// Absent when the lab is to outlive this process.
    watchdog: Option<Watchdog>,
}

impl Lab {
    /// A new lab without hosts, named after `name_hint` and some random digits.
    ///
    /// Needs root. Installs missing packages and makes the hosts' root, on first use; removes
    /// labs whose owners died.
    pub fn new(name_hint: &str) -> Result<Self> {
        Self::of(name_hint, Suite::default())
    }

    /// The same, with hosts that run `suite`.
    pub fn of(name_hint: &str, suite: Suite) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "a lab needs root: run this with sudo");
        packages::ensure()?;
        let base = base::root(&Cache::open()?, suite)?;
        let root = root_dir()?;
        let _lock = lock(&root)?;
        // Another lab's remains that stay are no reason not to have this one.
        sweep_in(&root).unwrap_or_else(|error| eprintln!("lab: {error:#}"));
        let name = format!("{}-{}", sanitise(name_hint), random_digits()?);
        let dir = root.join(&name);
        fs::create_dir_all(dir.join("hosts"))?;
        fs::write(dir.join("owner"), Process::current()?.to_string())?;
        fs::write(dir.join("base"), base.display().to_string())?;
        let watchdog = Some(Watchdog::start(&dir)?);
        let network = Network::of(&name);
        // From here on, whatever fails, the drop clears up.
        let lab = Self { name, dir, base, network, hosts: Vec::new(), watchdog };
        fs::create_dir_all(lab.dir().join("scratch"))?;
        lab.network.create()?;
        Ok(lab)
    }

    /// A lab that was [kept](Lab::keep), also by another process; dropping it leaves it running.
    pub fn open(name: &str) -> Result<Self> {
        let dir = existing(name)?;
        ensure!(dir.join("keep").exists(), "lab {name} belongs to another process");
        let base = PathBuf::from(fs::read_to_string(dir.join("base"))?);
        let mut hosts = Vec::new();
        for host in names_in(&dir.join("hosts"))? {
            hosts.push(Host::open(&dir, &base, &host)?);
        }
        hosts.sort_by_key(Host::index);
        let network = Network::of(name);
        Ok(Self { name: name.to_owned(), dir, base, network, hosts, watchdog: None })
    }

    /// The names of all labs on this machine, running or left over.
    pub fn list() -> Result<Vec<String>> {
        names_in(&root_dir()?)
    }

    /// Removes the lab `name` with everything in it, whoever owns it.
    pub fn destroy(name: &str) -> Result<()> {
        teardown::lab(&existing(name)?)
    }

    /// Removes what is left of labs whose owners are gone. [`Lab::new`] does it, too.
    pub fn sweep() -> Result<()> {
        let root = root_dir()?;
        let _lock = lock(&root)?;
        sweep_in(&root)
    }

    /// Leaves the lab running when this process ends, for [`Lab::open`] and [`Lab::destroy`].
    pub fn keep(&mut self) -> Result<()> {
        File::create(self.dir.join("keep"))
            .with_context(|| format!("could not mark the lab {} to be kept", self.name))?;
        self.watchdog = None;
        Ok(())
    }

    /// Its name: the hint and random digits.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An empty directory on a real file system for whatever a test likes; removed with the lab.
    pub fn dir(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// The address that hosts reach as `controller`: the lab's end of their network.
    pub fn controller_addr(&self) -> &'static str {
        CONTROLLER_ADDR
    }

    /// The name of its network namespace, for `nsenter --net=/run/netns/NAME`.
    pub fn netns(&self) -> &str {
        self.network.name()
    }

    /// A command that runs in the lab's network, for the controller and the command line. What is
    /// left of it when the lab ends is killed.
    pub fn netns_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.network.command(program)
    }

    /// Boots `count` more hosts at once, named h1, h2, …, and waits until all are up.
    pub fn boot_hosts(&mut self, count: usize) -> Result<()> {
        let first = self.hosts.len();
        for number in first + 1..=first + count {
            self.add(&format!("h{number}"))?;
        }
        std::thread::scope(|scope| {
            let boots: Vec<_> =
                self.hosts[first..].iter().map(|host| scope.spawn(|| host.start())).collect();
            boots.into_iter().try_for_each(|boot| match boot.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Boots one more host of this name and waits until it is up.
    pub fn boot_host(&mut self, name: &str) -> Result<&Host> {
        self.add(name)?;
        let host = &self.hosts[self.hosts.len() - 1];
        host.start()?;
        Ok(host)
    }

    /// The host at `position`, counted from 0 in the order of booting. Panics if there is none.
    pub fn host(&self, position: usize) -> &Host {
        &self.hosts[position]
    }

    /// All hosts, in the order of booting.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    fn add(&mut self, name: &str) -> Result<()> {
        ensure!(is_host_name(name), "`{name}` is not a host name of a-z, 0-9 and -");
        ensure!(
            self.hosts.iter().all(|host| host.name() != name),
            "there is a host {name} already"
        );
        let index = u8::try_from(self.hosts.len() + 1).unwrap_or(u8::MAX);
        ensure!(index <= MAX_HOSTS, "a lab holds at most {MAX_HOSTS} hosts");
        self.hosts.push(Host::new(&self.dir, &self.base, name, index)?);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.watchdog.is_none() {
            return;
        }
        let outcome = teardown::lab(&self.dir);
        if let Err(error) = outcome.and_then(|()| self.hosts.iter().try_for_each(Host::reap)) {
            eprintln!("lab: {error:#}");
        }
    }
}

fn root_dir() -> Result<PathBuf> {
    let dir = std::env::var_os(DIR_VARIABLE).unwrap_or_else(|| DEFAULT_DIR.into());
    fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
    Ok(fs::canonicalize(dir)?)
}

/// One lab at a time comes into being or is swept away.
fn lock(root: &Path) -> Result<File> {
    let path = root.join(".lock");
    let file = File::create(&path).with_context(|| format!("could not make {}", path.display()))?;
    file.lock().with_context(|| format!("could not lock {}", path.display()))?;
    Ok(file)
}

fn existing(name: &str) -> Result<PathBuf> {
    let dir = root_dir()?.join(name);
    if !is_host_name(name) || !dir.join("hosts").exists() {
        bail!("there is no lab {name}; there are: {}", Lab::list()?.join(" "));
    }
    Ok(dir)
}

fn sweep_in(root: &Path) -> Result<()> {
    for name in names_in(root)? {
        let dir = root.join(&name);
        if is_abandoned(&dir) {
            eprintln!("lab: removing {name}, whose owner is gone");
            teardown::lab(&dir)?;
        }
    }
    Ok(())
}

/// A kept lab never is: only [`Lab::destroy`] removes it.
fn is_abandoned(dir: &Path) -> bool {
    let owner = fs::read_to_string(dir.join("owner")).ok().and_then(|text| text.parse().ok());
    let owner_alive = owner.as_ref().is_some_and(Process::is_alive);
    !owner_alive && !dir.join("keep").exists()
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("could not read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 32
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Short, because names of machines and network namespaces are made of it.
fn sanitise(hint: &str) -> String {
    let name: String = hint
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(20)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "lab".to_owned() } else { name.to_owned() }
}

fn random_digits() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.chars().take(6).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_becomes_a_name_that_all_can_use() {
        assert_eq!(sanitise("Push: resumes!"), "push--resumes");
        assert_eq!(sanitise("../.."), "lab");
        assert_eq!(sanitise(&"x".repeat(99)).len(), 20);
    }

    #[test]
    fn only_a_lab_without_owner_is_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_abandoned(dir.path()));
        fs::write(dir.path().join("owner"), Process::current().unwrap().to_string()).unwrap();
        assert!(!is_abandoned(dir.path()));
        fs::write(dir.path().join("owner"), "1 0 earlier-boot").unwrap();
        assert!(is_abandoned(dir.path()));
        fs::write(dir.path().join("keep"), "").unwrap();
        assert!(!is_abandoned(dir.path()));
    }

    #[test]
    fn host_names_are_plain() {
        assert!(is_host_name("h1") && is_host_name("db-west"));
        for bad in ["", "H1", "../x", "a b", &"x".repeat(33)] {
            assert!(!is_host_name(bad), "{bad}");
        }
    }
}
