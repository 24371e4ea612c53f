//! The link of a container with a fixed address: both of its ends.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shoal_core::cause::chain;
use shoal_core::name::MachineName;
use shoal_core::spec::{InterfaceAddress, Link, Network, Settings};

use super::NetworkError;
use super::hold::{Hold, HoldError, Nspawn};
use super::note::{Note, bridge_of};
use crate::host::command::{self, CommandError};
use crate::paths::Paths;
use crate::record::Record;

/// The hidden verb of the agent's own binary that [`attend`] stands behind.
pub const VERB: &str = "instance-network";

/// The container's end of the link, as systemd-nspawn names it.
const INSIDE: &str = "host0";

/// What of the host's side gets an address: the gateway's, which the host then is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostSide {
    /// The other end of the link, or the bridge that it is on.
    pub(super) interface: String,
    address: InterfaceAddress,
}

/// What of the host's side gets an address, if any of it does.
pub(super) fn host_side(machine: &MachineName, settings: &Settings) -> Option<HostSide> {
    let interface = match &settings.network {
        Network::Host | Network::Private | Network::Bridge(..) => return None,
        // Where that is too long for an interface, it is another name of it.
        Network::Veth(_) => format!("ve-{machine}"),
        Network::Zone(zone, _) => bridge_of(zone),
    };
    let link = settings.network.link()?;
    let (ip, own) = link.gateway.zip(link.address)?;
    Some(HostSide { interface, address: InterfaceAddress { ip, prefix: own.prefix } })
}

/// Starts the helper as nobody's child: systemd-nspawn, which this process becomes, asks about no
/// children but its own.
pub(super) fn send_helper(machine: &MachineName) -> Result<(), NetworkError> {
    let program = "setsid";
    let not_run = |source| CommandError::NotRun { program: program.into(), source };
    let own = std::env::current_exe().map_err(not_run)?;
    let mut command = Command::new(program);
    command.arg("--fork").arg(&own).arg(VERB).arg(machine.as_str());
    let status = command.arg(std::process::id().to_string()).stdin(Stdio::null()).status();
    let status = status.map_err(not_run)?;
    if status.success() {
        return Ok(());
    }
    let line = format!("{program} --fork {} {VERB} {machine}", own.display());
    Err(CommandError::Failed { line, status, stderr: String::new() }.into())
}

/// The helper: waits for the container of `machine`, gives its link the addresses of its record,
/// and lets it go on. Where that can't be done, it says why and ends the container, so that
/// nothing runs without the network that it was to have. `nspawn` is the process that becomes
/// systemd-nspawn.
#[must_use]
pub fn attend(paths: &Paths, machine: &MachineName, nspawn: u32) -> ExitCode {
    let nspawn = match Nspawn::open(nspawn) {
        Ok(nspawn) => nspawn,
        // It has ended, and told why.
        Err(_) => return ExitCode::FAILURE,
    };
    match set_up(paths, machine, &nspawn) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: no network: {}", chain(&error));
            nspawn.kill();
            ExitCode::FAILURE
        }
    }
}

fn set_up(paths: &Paths, machine: &MachineName, nspawn: &Nspawn) -> Result<(), NetworkError> {
    let hold = Hold::taken()?;
    let settings = Record::load(paths, machine)?.spec.config.settings;
    let Some(leader) = hold.container(nspawn)? else { return Ok(()) };
    if let Some((link, address)) = settings.network.link().and_then(|l| Some((l, l.address?))) {
        let peer = in_network(leader, || set_up_inside(link, address))?;
        let peer = name_of(peer)?;
        let note = Note { link: Some(peer.clone()), ..Note::load(paths, machine)? };
        note.save(paths, machine)?;
        for line in host_lines(machine, &settings, &peer, bridges_are_filtered()) {
            ip(&line)?;
        }
    }
    Ok(hold.release()?)
}

/// Does `work` in the network of process `leader`, on a thread that goes there alone.
fn in_network<T: Send>(
    leader: u32,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let namespace = File::open(format!("/proc/{leader}/ns/net")).map_err(NetworkError::Enter)?;
    let go = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| NetworkError::Enter(e.into()))?;
        work()
    };
    std::thread::scope(|scope| {
        let ended = |_| Err(NetworkError::Enter(io::Error::other("its thread ended")));
        scope.spawn(go).join().unwrap_or_else(ended)
    })
}

/// Gives the container's end its address, and the way out; tells the number of the other end.
fn set_up_inside(link: &Link, address: InterfaceAddress) -> Result<u32, NetworkError> {
    for line in inside_lines(link, address) {
        ip(&line)?;
    }
    let shown = command::run("ip", &["-json", "link", "show", "dev", INSIDE])?;
    peer_of(&shown).ok_or_else(|| NetworkError::NoLink { what: format!("the peer of {INSIDE}") })
}

fn inside_lines(link: &Link, address: InterfaceAddress) -> Vec<String> {
    let mut lines = vec![
        format!("address add {} dev {INSIDE}{}", address, undoubted(address.ip)),
        format!("link set dev {INSIDE} up"),
    ];
    // Marked as what was set by hand, so that a network daemon inside leaves it alone.
    let route = |gateway| format!("route add default via {gateway} dev {INSIDE} proto static");
    lines.extend(link.gateway.map(route));
    lines
}

/// The check that no one else has an IPv6 address takes a second, in which it can't be used. It
/// was given to this one alone.
fn undoubted(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { " nodad" } else { "" }
}

/// What is to be done to the host's side, where `peer` is the other end of the link. A bridge of
/// the host is its own, and systemd-nspawn has joined it.
///
/// `filtered`: bridges of this host pass what they carry through the rules for ports. Then a call
/// by way of such a port to the caller itself does not leave the bridge, and a bridge sends
/// nothing back to where it came from unless it is told to.
fn host_lines(
    machine: &MachineName,
    settings: &Settings,
    peer: &str,
    filtered: bool,
) -> Vec<String> {
    let (own, bridged) = match &settings.network {
        Network::Host | Network::Private => return Vec::new(),
        Network::Bridge(..) => (None, true),
        Network::Veth(_) => (Some(peer.to_owned()), false),
        Network::Zone(zone, _) => (Some(bridge_of(zone)), true),
    };
    let mut lines = Vec::new();
    if let Some(interface) = own {
        // Replaced, not added: other instances of a zone may have done the same.
        lines.extend(host_side(machine, settings).map(|HostSide { address, .. }| {
            format!("address replace {address} dev {interface}{}", undoubted(address.ip))
        }));
        lines.push(format!("link set dev {interface} up"));
    }
    if bridged && filtered && !settings.ports.is_empty() {
        lines.push(format!("link set dev {peer} type bridge_slave hairpin on"));
    }
    lines
}

/// Whether what bridges carry passes through the kernel's rules.
fn bridges_are_filtered() -> bool {
    let on = |family| {
        let setting = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        fs::read_to_string(setting).is_ok_and(|value| value.trim() != "0")
    };
    on("iptables") || on("ip6tables")
}

/// Runs `ip` with the words of `line`.
fn ip(line: &str) -> Result<(), CommandError> {
    command::run("ip", &line.split(' ').collect::<Vec<_>>()).map(drop)
}

/// The number of the other end of a link, in what `ip -json link show` says of this one.
fn peer_of(shown: &str) -> Option<u32> {
    let links: serde_json::Value = serde_json::from_str(shown).ok()?;
    links[0]["link_index"].as_u64()?.try_into().ok()
}

/// The name of the interface of this number in our own network.
fn name_of(index: u32) -> Result<String, NetworkError> {
    let failed = |_| NetworkError::NoLink { what: format!("interface {index} of the host") };
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None);
    let socket = socket.map_err(|e| HoldError::Watch(e.into()))?;
    netdevice::index_to_name(&socket, index).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    fn link(address: &str, gateway: Option<&str>) -> Link {
        let (address, gateway) = (address.parse().ok(), gateway.map(|g| g.parse().unwrap()));
        Link { address, gateway }
    }

    #[test]
    fn the_containers_end_gets_its_address_and_the_way_out() {
        let link = link("10.0.0.24/24", Some("10.0.0.1"));
        let lines = inside_lines(&link, link.address.unwrap());
        let wanted = [
            "address add 10.0.0.24/24 dev host0",
            "link set dev host0 up",
            "route add default via 10.0.0.1 dev host0 proto static",
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn without_a_gateway_there_is_no_way_out_and_ipv6_does_not_wait() {
        let link = link("fd00::2/64", None);
        let lines = inside_lines(&link, link.address.unwrap());
        assert_eq!(lines, ["address add fd00::2/64 dev host0 nodad", "link set dev host0 up"]);
    }

    #[test]
    fn the_host_is_the_gateway_of_links_that_it_alone_has() {
        let machine: MachineName = "shop-main".parse().unwrap();
        let link = serde_json::json!({"address": "10.0.0.24/24", "gateway": "10.0.0.1"});
        let side = |network: serde_json::Value| host_side(&machine, &settings(&network, &[]));
        let veth = side(serde_json::json!({"veth": link})).unwrap();
        assert_eq!(veth.interface, "ve-shop-main");
        let zone = side(serde_json::json!({"zone": ["shop", link]})).unwrap();
        assert_eq!(zone.interface, "vz-shop");
        assert_eq!(side(serde_json::json!({"bridge": ["br0", link]})), None);
        assert_eq!(side(serde_json::json!({"veth": {"address": "10.0.0.24/24"}})), None);
    }

    #[test]
    fn the_hosts_side_is_brought_up_unless_it_is_the_hosts_own() {
        let machine: MachineName = "shop-main".parse().unwrap();
        let link = serde_json::json!({"address": "10.0.0.24/24", "gateway": "10.0.0.1"});
        let lines = |network: serde_json::Value, ports: &[&str], filtered| {
            host_lines(&machine, &settings(&network, ports), "v-peer", filtered)
        };
        let zone = serde_json::json!({"zone": ["shop", link]});
        let up = ["address replace 10.0.0.1/24 dev vz-shop", "link set dev vz-shop up"];
        assert_eq!(lines(zone.clone(), &[], true), up);
        assert_eq!(lines(zone.clone(), &["80"], false), up);
        let hairpin = "link set dev v-peer type bridge_slave hairpin on";
        assert_eq!(lines(zone, &["80"], true), [up[0], up[1], hairpin]);
        let veth = serde_json::json!({"veth": {"address": "10.0.0.24/24"}});
        assert_eq!(lines(veth, &["80"], true), ["link set dev v-peer up"]);
        let bridge = serde_json::json!({"bridge": ["br0", link]});
        assert_eq!(lines(bridge.clone(), &["80"], true), [hairpin]);
        assert!(lines(bridge, &["80"], false).is_empty());
    }

    #[test]
    fn the_other_end_is_known_by_its_number() {
        let shown = r#"[{"ifindex":2,"link_index":4,"ifname":"host0"}]"#;
        assert_eq!(peer_of(shown), Some(4));
        assert_eq!(peer_of("[{}]"), None);
        assert_eq!(peer_of(""), None);
        assert_eq!(name_of(1).unwrap(), "lo");
    }
}
