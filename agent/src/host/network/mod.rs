//! Networks of instances: fixed addresses, and ports of the host that lead to them.
//!
//! systemd-nspawn makes the link ([`crate::host::container`] tells it which), so that the network
//! belongs to the container's user namespace. What is left is done here, by the unit alone, with
//! neither agent nor controller up:
//!
//! - [`check`], before anything is made: what the host lacks for the network that is wanted;
//! - [`begin`], right before systemd-nspawn: [`ports`], and for a fixed address a [`hold`] on the
//!   container, and a helper that outlives it;
//! - [`attend`], the helper: gives both ends of the link their addresses, then lets the container
//!   go on. So the address is there before the first instruction inside, whatever that is;
//! - [`undo`], after the container: what was made for it, found by a note beside its mounts.
//!
//! Nothing here is done to a bridge of the host, and nothing masquerades an instance's own calls:
//! those are the host's.

mod addresses;
mod hold;
mod link;
mod note;
mod ports;
mod yielding;

use std::path::Path;

use shoal_core::name::MachineName;
use shoal_core::spec::{InterfaceName, Network, Settings, Start};

pub use self::addresses::addresses;
pub use self::link::{VERB, attend};
pub use self::note::undo;

use self::hold::{Hold, HoldError};
use self::note::Note;
use self::ports::PortsError;
use super::command::CommandError;
use crate::files::FileError;
use crate::paths::Paths;
use crate::record::RecordError;

/// Why an instance could not be given its network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The host does not have the bridge.
    #[error(
        "bridge {bridge} is not on this host; make it with `ip link add {bridge} type bridge` and \
         `ip link set {bridge} up`, and for good in the host's own network configuration"
    )]
    NoBridge {
        /// The bridge.
        bridge: InterfaceName,
    },
    /// The interface of that name is something else.
    #[error("{bridge} is an interface of this host, but not a bridge; name one in the fleet file")]
    NotABridge {
        /// The interface.
        bridge: InterfaceName,
    },
    /// Its ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The container can't be held back.
    #[error("can't hold the container back until its network is there")]
    Hold(#[from] HoldError),
    /// The container's network can't be entered.
    #[error("can't enter the container's network")]
    Enter(#[source] std::io::Error),
    /// The link is not as systemd-nspawn makes it.
    #[error("{what} is not there; systemd-nspawn should have made it")]
    NoLink {
        /// What is missing.
        what: String,
    },
    /// A system tool.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Whether the host has what the network of `settings` needs. Changes nothing.
///
/// # Errors
/// What is missing or in the way.
pub fn check(settings: &Settings) -> Result<(), NetworkError> {
    if let Network::Bridge(bridge, _) = &settings.network {
        check_bridge(bridge, Path::new("/sys/class/net"))?;
    }
    Ok(ports::check(settings)?)
}

fn check_bridge(bridge: &InterfaceName, interfaces: &Path) -> Result<(), NetworkError> {
    let interface = interfaces.join(bridge.as_str());
    if interface.join("bridge").exists() {
        return Ok(());
    }
    let bridge = bridge.clone();
    Err(match interface.exists() {
        true => NetworkError::NotABridge { bridge },
        false => NetworkError::NoBridge { bridge },
    })
}

/// Makes what has to be there before systemd-nspawn is, and sends out the helper where one is
/// needed. To be called by the process that then becomes systemd-nspawn, and when all else is
/// ready: from here on the container is held back until the helper lets it go.
///
/// # Errors
/// Where something can't be made; [`undo`] takes back what was.
pub fn begin(
    paths: &Paths,
    machine: &MachineName,
    settings: &Settings,
) -> Result<(), NetworkError> {
    let Some(link) = settings.network.link() else { return Ok(()) };
    let mut note = Note::default();
    if !settings.ports.is_empty() {
        note.ports = true;
        note.save(paths, machine)?;
        ports::open(paths, machine, settings)?;
    }
    if link.address.is_none() {
        return Ok(());
    }
    if let Network::Zone(zone, _) = &settings.network {
        note.zone = Some(zone.clone());
    }
    note.yielded = link::host_side(machine, settings).map(|side| side.interface);
    note.save(paths, machine)?;
    if let Some(interface) = &note.yielded {
        yielding::ask(interface)?;
    }
    let hold = Hold::take()?;
    hold.aside(|| link::send_helper(machine))?
}

/// What a booted instance's own systemd-networkd, if it has one, is told of the link: the name of
/// the file, its place inside, what is in it. Otherwise it would take the fixed address away and
/// ask for another. It is told to keep what it finds, and not what to find: of systemd 252, one
/// that has an address to set which is there already may fail over it.
#[must_use]
pub fn file(settings: &Settings) -> Option<(&'static str, &'static str, String)> {
    let link = settings.network.link().filter(|_| settings.start == Start::Boot)?;
    // IPv6 does not work without addresses of its own making.
    let own = if link.address?.ip.is_ipv4() { "no" } else { "ipv6" };
    let text = format!(
        "[Match]\nName=host0\nKind=veth\n\n\
         [Network]\nKeepConfiguration=yes\nDHCP=no\nLinkLocalAddressing={own}\n\
         IPv6AcceptRA=no\n"
    );
    Some(("host0.network", "/etc/systemd/network/10-shoal-host0.network", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn settings(network: &serde_json::Value, ports: &[&str]) -> Settings {
        let value = serde_json::json!({"start": "boot", "network": network, "ports": ports});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_missing_bridge_is_told_with_the_way_to_make_it() {
        let interfaces = tempfile::tempdir().unwrap();
        let bridge: InterfaceName = "br1".parse().unwrap();
        let why = || check_bridge(&bridge, interfaces.path()).unwrap_err().to_string();
        assert!(why().starts_with("bridge br1 is not on this host; make it with `ip link add br1"));
        std::fs::create_dir(interfaces.path().join("br1")).unwrap();
        assert!(why().starts_with("br1 is an interface of this host, but not a bridge"));
        std::fs::create_dir(interfaces.path().join("br1/bridge")).unwrap();
        assert!(check_bridge(&bridge, interfaces.path()).is_ok());
    }

    #[test]
    fn networkd_inside_is_told_to_keep_a_fixed_address() {
        let link = |address: &str, gateway: &str| serde_json::json!({"bridge": ["br0", {"address": address, "gateway": gateway}]});
        let (_, path, text) = file(&settings(&link("10.0.0.24/24", "10.0.0.1"), &[])).unwrap();
        assert_eq!(path, "/etc/systemd/network/10-shoal-host0.network");
        assert!(text.contains("[Network]\nKeepConfiguration=yes\nDHCP=no\n"), "{text}");
        assert!(text.contains("LinkLocalAddressing=no"), "{text}");
        let (.., text) = file(&settings(&link("fd00::2/64", "fd00::1"), &[])).unwrap();
        assert!(text.contains("LinkLocalAddressing=ipv6"), "{text}");
        assert_eq!(file(&settings(&serde_json::json!({"veth": {}}), &[])), None);
        assert_eq!(file(&settings(&serde_json::json!("host"), &[])), None);
        let mut command = settings(&link("10.0.0.24/24", "10.0.0.1"), &[]);
        command.start = Start::Command(vec!["x".into()]);
        assert_eq!(file(&command), None);
    }
}
