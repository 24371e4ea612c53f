//! What was made on the host for a container's network, noted where the container's mounts are,
//! so that it is taken back also when systemd-nspawn could not: it takes back most of it by
//! itself where it is not killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use serde::{Deserialize, Serialize};
use shoal_core::cause::chain;
use shoal_core::name::MachineName;
use shoal_core::spec::InterfaceName;

use super::{NetworkError, ports, yielding};
use crate::files::{failed, make_private_dir, read_if_there, write_whole};
use crate::host::command;
use crate::paths::Paths;

/// The lock under which systemd-nspawn makes and removes the bridges of zones.
const ZONES: &str = "/run/systemd/nspawn-network-zone";

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Note {
    /// Rules for ports.
    pub(super) ports: bool,
    /// The host's end of the link.
    pub(super) link: Option<String>,
    /// The zone that it is in, whose bridge goes with its last member.
    pub(super) zone: Option<InterfaceName>,
    /// An interface that the host's own network daemon was asked to leave alone.
    pub(super) yielded: Option<String>,
}

impl Note {
    pub(super) fn save(&self, paths: &Paths, machine: &MachineName) -> Result<(), NetworkError> {
        make_private_dir(&paths.machine_run(machine))?;
        let bytes = serde_json::to_vec(self).expect("a note is plain data");
        Ok(write_whole(&path(paths, machine), &bytes)?)
    }

    pub(super) fn load(paths: &Paths, machine: &MachineName) -> Result<Self, NetworkError> {
        let path = path(paths, machine);
        let bytes = read_if_there(&path)?.unwrap_or_else(|| b"{}".to_vec());
        let damaged = |e: serde_json::Error| failed("understand", &path)(e.into());
        Ok(serde_json::from_slice(&bytes).map_err(damaged)?)
    }
}

fn path(paths: &Paths, machine: &MachineName) -> PathBuf {
    paths.machine_run(machine).join("network.json")
}

/// Takes back what was made for the network of `machine`. What can't be is told on standard
/// error, and keeps nothing else from being cleaned up or started: it leads nowhere, and the next
/// start makes it anew.
pub fn undo(paths: &Paths, machine: &MachineName) {
    let note = Note::load(paths, machine).unwrap_or_else(|error| {
        told(&error);
        Note::default()
    });
    if note.ports {
        ports::close(machine).unwrap_or_else(|error| told(&error));
    }
    if let Some(link) = &note.link {
        remove(link).unwrap_or_else(|error| told(&error));
    }
    if let Some(zone) = &note.zone {
        remove_zone(zone).unwrap_or_else(|error| told(&error));
    }
    if let Some(interface) = &note.yielded {
        yielding::forget(interface).unwrap_or_else(|error| told(&error));
    }
}

fn told(error: &NetworkError) {
    eprintln!("warning: {}", chain(error));
}

fn interface(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// Removes an interface if it is still there, with the other end of its link. The kernel does
/// that when the last process in the container's network is gone; a shell may be, for a while.
fn remove(name: &str) -> Result<(), NetworkError> {
    if interface(name).exists()
        && let Err(error) = command::run("ip", &["link", "delete", "dev", name])
        // It went by itself meanwhile.
        && interface(name).exists()
    {
        return Err(error.into());
    }
    Ok(())
}

/// Removes the bridge of a zone if it has no members any more.
fn remove_zone(zone: &InterfaceName) -> Result<(), NetworkError> {
    let bridge = bridge_of(zone);
    if !interface(&bridge).exists() {
        return Ok(());
    }
    let _lock = lock_zones()?;
    let members = fs::read_dir(interface(&bridge).join("brif"));
    if members.is_ok_and(|mut members| members.next().is_none()) { remove(&bridge) } else { Ok(()) }
}

/// The bridge that systemd-nspawn makes for a zone.
pub(super) fn bridge_of(zone: &InterfaceName) -> String {
    format!("vz-{zone}")
}

/// Takes systemd-nspawn's own lock, so that no container joins a bridge that is being removed.
/// Whoever has held it removes the file, so one that has no name any more is no lock.
fn lock_zones() -> Result<ZoneLock, NetworkError> {
    use std::os::unix::fs::MetadataExt;
    let path = Path::new(ZONES);
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(failed("open", path))?;
        fcntl_lock(&file, FlockOperation::LockExclusive)
            .map_err(|e| failed("lock", path)(e.into()))?;
        if file.metadata().map_err(failed("look at", path))?.nlink() > 0 {
            return Ok(ZoneLock(file));
        }
    }
}

/// Held until it is dropped.
#[derive(Debug)]
struct ZoneLock(#[expect(dead_code, reason = "it is the lock")] File);

impl Drop for ZoneLock {
    fn drop(&mut self) {
        // As systemd-nspawn does. It staying is harmless.
        let _ = fs::remove_file(ZONES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back_and_their_absence_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { run: dir.path().into(), ..Paths::default() };
        let machine: MachineName = "shop-main".parse().unwrap();
        assert_eq!(Note::load(&paths, &machine).unwrap(), Note::default());
        let note = Note {
            ports: true,
            link: Some("ve-shop-main".into()),
            zone: Some("shop".parse().unwrap()),
            yielded: Some("vz-shop".into()),
        };
        note.save(&paths, &machine).unwrap();
        assert_eq!(Note::load(&paths, &machine).unwrap(), note);
        fs::write(path(&paths, &machine), "x").unwrap();
        let why = Note::load(&paths, &machine).unwrap_err().to_string();
        assert!(why.contains("network.json"), "{why}");
    }

    #[test]
    fn what_is_not_there_need_not_be_removed() {
        assert!(remove("no-such-link").is_ok());
        assert!(remove_zone(&"no-such-zone".parse().unwrap()).is_ok());
    }
}
