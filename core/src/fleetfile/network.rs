//! `network`, `address`, `gateway` and `ports` of an instance.

use std::collections::BTreeMap;
use std::net::IpAddr;

use toml::de::DeValue;

use crate::spec::{InterfaceAddress, InterfaceName, Link, Network, Port, Protocol};

use super::problem::short;
use super::report::Report;
use super::table::{Item, Section};

/// Characters that a zone's name may have: its bridge is `vz-` and the name.
const LONGEST_ZONE: usize = 12;

const NETWORKS: &str = "\"private\", \"host\", \"veth\", \"zone:NAME\" or \"bridge:NAME\"";

/// The network as it is written, its address still to be looked at.
pub(super) struct Found<'t> {
    /// The network; a link of it has its gateway and no address yet.
    pub(super) network: Network,
    /// Where the address is given.
    pub(super) address: Option<Item<'t>>,
}

/// Reads the network; `None` where it is wrong.
pub(super) fn read<'t>(section: &mut Section<'t>, report: &mut Report<'_>) -> Option<Found<'t>> {
    let network = section.take("network");
    let (address, gateway) = (section.take("address"), section.take("gateway"));
    let mut network = network.map_or(Some(Network::Private), |item| kind(&item, report))?;
    for item in [&address, &gateway].into_iter().flatten() {
        if network.link().is_none() {
            let message = format!("`{}` has no place with network = \"{network}\"", item.shown());
            let help = "give it with \"veth\", \"zone:NAME\" or \"bridge:NAME\"";
            report.error_help(&item.key, message, help);
        }
    }
    if let (Some(item), None, Some(_)) = (&gateway, &address, network.link()) {
        let help = "add the instance's own address = \"10.0.0.24/24\"";
        report.error_help(&item.key, "`gateway` needs an `address` beside it", help);
    }
    let to = gateway.as_ref().and_then(|item| item.parsed::<IpAddr>("\"10.0.0.1\"", report));
    if let Some(link) = network.link_mut() {
        link.gateway = to;
    }
    let whole = network.link().is_none_or(|_| to.is_some() == gateway.is_some());
    whole.then_some(Found { network, address })
}

fn kind(item: &Item<'_>, report: &mut Report<'_>) -> Option<Network> {
    let text = item.text("\"private\"", report)?;
    let named = |prefix: &str| text.strip_prefix(prefix);
    let link = Link::default;
    match text {
        "host" => return Some(Network::Host),
        "private" => return Some(Network::Private),
        "veth" => return Some(Network::Veth(link())),
        _ => {}
    }
    if let Some(name) = named("zone:") {
        let name = interface(item, name, report)?;
        if name.as_str().len() > LONGEST_ZONE {
            item.wrong(format!("a zone's name has at most {LONGEST_ZONE} characters"), report);
            return None;
        }
        return Some(Network::Zone(name, link()));
    }
    if let Some(name) = named("bridge:") {
        return interface(item, name, report).map(|name| Network::Bridge(name, link()));
    }
    let text = short(text, 80);
    item.wrong(format!("there is no network {text:?}; write {NETWORKS}"), report);
    None
}

fn interface(item: &Item<'_>, name: &str, report: &mut Report<'_>) -> Option<InterfaceName> {
    name.parse().map_err(|error| item.wrong(error, report)).ok()
}

/// Reads the address where it is plain, and checks it against the gateway.
pub(super) fn plain_address(
    address: &Item<'_>,
    gateway: Option<IpAddr>,
    report: &mut Report<'_>,
) -> Option<InterfaceAddress> {
    let read: InterfaceAddress = address.parsed("\"10.0.0.24/24\"", report)?;
    if let Some(gateway) = gateway.filter(|gateway| !read.reaches(*gateway)) {
        address.wrong(format!("gateway {gateway} is not in the network of {read}"), report);
        return None;
    }
    if gateway == Some(read.ip) {
        address.wrong("is the gateway's own; give the instance another", report);
        return None;
    }
    Some(read)
}

/// Reads `ports`.
pub(super) fn ports(
    item: &Item<'_>,
    found: Option<&Found<'_>>,
    report: &mut Report<'_>,
) -> Option<Vec<Port>> {
    let network = found.map(|found| &found.network);
    let DeValue::Array(array) = item.value() else {
        item.wrong_type("a list of ports, such as [\"8001:80/tcp\"]", report);
        return None;
    };
    if network == Some(&Network::Private) {
        let help = "write network = \"veth\", or one of the others that have a link";
        let message = "`ports` can't lead into network = \"private\", which has no link";
        report.error_help(&item.key, message, help);
        return None;
    }
    if found.is_some_and(|found| found.network.link().is_some() && found.address.is_none()) {
        let help = "add address = \"10.0.0.24/24\": a port has to lead somewhere";
        report.error_help(&item.key, "`ports` need an `address` beside them", help);
    }
    let mut taken: BTreeMap<(u16, Protocol), Port> = BTreeMap::new();
    let mut sound = true;
    for element in item.elements(array) {
        let port = element.parsed::<Port>("\"8001:80/tcp\"", report);
        let port = port.filter(|port| fits(*port, network, &element, report));
        let Some(port) = port else {
            sound = false;
            continue;
        };
        if taken.insert((port.host, port.protocol), port).is_some() {
            element.wrong(format!("port {}/{} is given twice", port.host, port.protocol), report);
            sound = false;
        }
    }
    sound.then(|| taken.into_values().collect())
}

/// In the host's network a port is only told of: there is nothing between it and the program.
fn fits(port: Port, network: Option<&Network>, item: &Item<'_>, report: &mut Report<'_>) -> bool {
    let fits = network != Some(&Network::Host) || port.host == port.inside;
    if !fits {
        let message = "in network = \"host\" a port can't be another inside; have the program \
                       listen on the one that is wanted";
        item.wrong(message, report);
    }
    fits
}
