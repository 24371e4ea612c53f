//! Ports of the host that lead to an instance: rules of the kernel's, in a table of the instance's
//! own, so that all of them come and go at once.
//!
//! docs/decisions/0008-ports.md says why not by systemd-nspawn's `--port`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use shoal_core::name::MachineName;
use shoal_core::spec::{InterfaceAddress, Port, Protocol, Settings};

use super::{NetworkError, addresses};
use crate::files::failed;
use crate::host::command;
use crate::paths::{Paths, text};

/// Whether the kernel passes on what is for others.
const FORWARDING_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARDING_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Why ports of the host can't lead to an instance.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// There is nowhere to lead to.
    #[error(
        "ports can lead only to an instance with a fixed address; give its `address` in the fleet \
         file"
    )]
    NoAddress,
    /// A port has an owner.
    #[error(
        "port {port}/{protocol} of this host is in use by another program, which would get no \
         calls any more; see `ss -lnp`, and stop that program or give the instance another port"
    )]
    Taken {
        /// The host's port.
        port: u16,
        /// What is carried.
        protocol: Protocol,
    },
}

/// Whether the ports of `settings` can lead to the instance.
///
/// # Errors
/// What is in the way.
pub(super) fn check(settings: &Settings) -> Result<(), PortsError> {
    let Some(link) = settings.network.link().filter(|_| !settings.ports.is_empty()) else {
        return Ok(());
    };
    let to = link.address.ok_or(PortsError::NoAddress)?;
    let own = addresses(std::process::id());
    let own = own.into_iter().filter(|own| own.is_ipv4() == to.ip.is_ipv4());
    for (ip, port) in own.flat_map(|own| settings.ports.iter().map(move |port| (own, port))) {
        if is_taken(SocketAddr::new(ip, port.host), port.protocol) {
            return Err(PortsError::Taken { port: port.host, protocol: port.protocol });
        }
    }
    Ok(())
}

/// Whether a program of the host listens at `address`. One that listens to the host alone does
/// not count: its callers are not led elsewhere.
fn is_taken(address: SocketAddr, protocol: Protocol) -> bool {
    let listened = match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    listened.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

/// Makes the ports of `settings` lead to the instance.
///
/// # Errors
/// Where the kernel's rules can't be made.
pub(super) fn open(
    paths: &Paths,
    machine: &MachineName,
    settings: &Settings,
) -> Result<(), NetworkError> {
    let link = settings.network.link();
    let Some((link, address)) = link.and_then(|link| Some((link, link.address?))) else {
        return Err(PortsError::NoAddress.into());
    };
    forward(machine, address)?;
    let own = addresses(std::process::id());
    // The host is, or is about to be, the gateway of a link that it alone has.
    let is_host =
        |gateway| super::link::host_side(machine, settings).is_some() || own.contains(&gateway);
    let answers_here = link.gateway.is_some_and(is_host);
    let rules = rules(machine, address, &settings.ports, answers_here);
    let file = paths.machine_run(machine).join("ports.nft");
    fs::write(&file, rules).map_err(failed("write", &file))?;
    command::run("nft", &["--file", &text(&file)])?;
    Ok(())
}

/// Takes the rules away, where there are any.
pub(super) fn close(machine: &MachineName) -> Result<(), NetworkError> {
    let table = table(machine);
    // Made, if it is not there, so that it can be deleted.
    let rules = format!("add table {table}; delete table {table}");
    command::run("nft", &[&rules])?;
    Ok(())
}

fn table(machine: &MachineName) -> String {
    format!("inet shoal-{machine}")
}

/// Has the host pass on what comes in for the instance.
fn forward(machine: &MachineName, address: InterfaceAddress) -> Result<(), NetworkError> {
    let path = PathBuf::from(if address.ip.is_ipv4() { FORWARDING_V4 } else { FORWARDING_V6 });
    let now = fs::read_to_string(&path).map_err(failed("read", &path))?;
    if now.trim() != "0" {
        return Ok(());
    }
    if address.ip.is_ipv6() {
        // It would also have the host ignore what routers tell it, its own way out included.
        eprintln!(
            "warning: net.ipv6.conf.all.forwarding is off, so other hosts can't reach the ports \
             of {machine}; set it with sysctl, and net.ipv6.conf.all.accept_ra=2 where this host \
             has its own addresses from a router"
        );
        return Ok(());
    }
    write_setting(&path, "1")?;
    eprintln!("net.ipv4.ip_forward was off; switched on, since {machine} has ports");
    Ok(())
}

fn write_setting(path: &Path, value: &str) -> Result<(), NetworkError> {
    Ok(fs::write(path, value).map_err(failed("write", path))?)
}

/// The rules, as nft(8) reads them; replaces those that are there in one step.
///
/// `answers_here`: what the instance answers comes back through this host. Where it does not, or
/// where the caller is a neighbour that it answers directly, the host calls in its own name.
fn rules(
    machine: &MachineName,
    to: InterfaceAddress,
    ports: &[Port],
    answers_here: bool,
) -> String {
    let (table, ip) = (table(machine), to.ip);
    let (family, proto, loopback, place) = match ip {
        IpAddr::V4(_) => ("ip", "ipv4", "127.0.0.0/8", ip.to_string()),
        IpAddr::V6(_) => ("ip6", "ipv6", "::1", format!("[{ip}]")),
    };
    let mut leads = String::new();
    for Port { host, inside, protocol } in ports {
        let _ = writeln!(
            leads,
            "    meta nfproto {proto} fib daddr type local {protocol} dport {host} \
             dnat {family} to {place}:{inside}"
        );
    }
    let neighbours = if answers_here { format!("{family} saddr {to} ") } else { String::new() };
    format!(
        "add table {table}\n\
         delete table {table}\n\
         table {table} {{\n\
         \x20 chain from-outside {{\n\
         \x20   type nat hook prerouting priority dstnat; policy accept;\n\
         {leads}\
         \x20 }}\n\
         \x20 chain from-host {{\n\
         \x20   type nat hook output priority -100; policy accept;\n\
         \x20   {family} daddr {loopback} accept\n\
         {leads}\
         \x20 }}\n\
         \x20 chain answers {{\n\
         \x20   type nat hook postrouting priority srcnat; policy accept;\n\
         \x20   ct status dnat {neighbours}{family} daddr {ip} masquerade\n\
         \x20 }}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    fn shown(address: &str, ports: &[&str], answers_here: bool) -> String {
        let ports: Vec<Port> = ports.iter().map(|port| port.parse().unwrap()).collect();
        let machine = "shop-main".parse().unwrap();
        rules(&machine, address.parse().unwrap(), &ports, answers_here)
    }

    #[test]
    fn each_port_leads_to_its_own_inside() {
        let wanted = "\
add table inet shoal-shop-main
delete table inet shoal-shop-main
table inet shoal-shop-main {
  chain from-outside {
    type nat hook prerouting priority dstnat; policy accept;
    meta nfproto ipv4 fib daddr type local tcp dport 8001 dnat ip to 10.0.0.24:80
    meta nfproto ipv4 fib daddr type local udp dport 53 dnat ip to 10.0.0.24:53
  }
  chain from-host {
    type nat hook output priority -100; policy accept;
    ip daddr 127.0.0.0/8 accept
    meta nfproto ipv4 fib daddr type local tcp dport 8001 dnat ip to 10.0.0.24:80
    meta nfproto ipv4 fib daddr type local udp dport 53 dnat ip to 10.0.0.24:53
  }
  chain answers {
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr 10.0.0.24/24 ip daddr 10.0.0.24 masquerade
  }
}
";
        assert_eq!(shown("10.0.0.24/24", &["8001:80/tcp", "53/udp"], true), wanted);
    }

    #[test]
    fn where_answers_do_not_come_back_here_the_host_calls_in_its_own_name() {
        let rules = shown("fd00::2/64", &["80"], false);
        let lead = "meta nfproto ipv6 fib daddr type local tcp dport 80 dnat ip6 to [fd00::2]:80";
        assert!(rules.contains(lead), "{rules}");
        assert!(rules.contains("    ct status dnat ip6 daddr fd00::2 masquerade"), "{rules}");
        assert!(rules.contains("ip6 daddr ::1 accept"), "{rules}");
    }

    #[test]
    fn ports_need_a_fixed_address_unless_they_are_the_hosts_own() {
        let veth = settings(&serde_json::json!({"veth": {}}), &["8001:80"]);
        assert!(matches!(check(&veth), Err(PortsError::NoAddress)));
        assert!(check(&settings(&serde_json::json!("host"), &["80"])).is_ok());
        assert!(check(&settings(&serde_json::json!({"veth": {}}), &[])).is_ok());
    }

    #[test]
    fn a_port_that_a_program_listens_on_is_taken() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        assert!(is_taken(address, Protocol::Tcp));
        drop(tcp);
        assert!(!is_taken(address, Protocol::Tcp));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(is_taken(udp.local_addr().unwrap(), Protocol::Udp));
    }
}
