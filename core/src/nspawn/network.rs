//! `[Network]`: which network the container is in, and its ports.

use crate::spec::{InterfaceName, Port};

use super::draft::Draft;
use super::settings::Settings;

const NETWORK: &str = "Network";

/// Characters that the kernel takes; a zone's bridge has `vz-` before its name.
const LONGEST_INTERFACE: usize = 15;
const LONGEST_ZONE: usize = LONGEST_INTERFACE - 3;

/// Keys that a fleet file has nothing for, and what to do instead.
const LEFT: &[(&str, &str)] = &[
    (
        "VirtualEthernetExtra",
        "an instance has one link; put it on a bridge: network = \"bridge:NAME\"",
    ),
    (
        "Interface",
        "interfaces of the host stay there; put them on a bridge: network = \"bridge:NAME\"",
    ),
    ("MACVLAN", "put the interface on a bridge of the host: network = \"bridge:NAME\""),
    ("IPVLAN", "put the interface on a bridge of the host: network = \"bridge:NAME\""),
];

/// Carries the section over. Any key but `Port` takes the place of the link that
/// `systemd-nspawn@.service` gives to a container whose file says nothing.
pub(super) fn carry(settings: &mut Settings, draft: &mut Draft) {
    let private = settings.flag(NETWORK, "Private");
    let veth = settings.flag(NETWORK, "VirtualEthernet");
    let zone = named(settings, "Zone", LONGEST_ZONE);
    let bridge = named(settings, "Bridge", LONGEST_INTERFACE);
    let others: Vec<_> = LEFT
        .iter()
        .flat_map(|(key, why)| {
            settings.several(NETWORK, key).into_iter().map(move |assignment| (assignment, *why))
        })
        .collect();
    let on = |flag: &Option<(bool, _)>| matches!(flag, Some((true, _)));
    let nothing_said = private.is_none() && veth.is_none() && others.is_empty();
    draft.network = match (&bridge, &zone) {
        (Some(bridge), _) => format!("bridge:{bridge}"),
        (None, Some(zone)) => format!("zone:{zone}"),
        (None, None) if on(&veth) => "veth".to_owned(),
        (None, None) if nothing_said => {
            let why = "the file says nothing, and systemd-nspawn@.service gives a link to the host \
                       then; if the container was started otherwise, network = \"host\" may be right";
            settings.general("network", why);
            "veth".to_owned()
        }
        (None, None) if on(&private) || !others.is_empty() => "private".to_owned(),
        (None, None) => "host".to_owned(),
    };
    for (assignment, why) in others {
        settings.note(&assignment, why);
    }
    if bridge.is_some() && zone.is_some() {
        settings.general("Zone", "the container is on a bridge, so its zone was left out");
    }
    ports(settings, draft);
}

/// The name of a zone or bridge.
fn named(settings: &mut Settings, key: &str, longest: usize) -> Option<InterfaceName> {
    let assignment = settings.last(NETWORK, key)?;
    if assignment.value.len() > longest {
        settings.note(&assignment, format!("the name has more than {longest} characters"));
        return None;
    }
    let name = assignment.value.parse();
    name.map_err(|error: crate::spec::InvalidValue| settings.note(&assignment, error.to_string()))
        .ok()
}

fn ports(settings: &mut Settings, draft: &mut Draft) {
    for assignment in settings.several(NETWORK, "Port") {
        let value = &assignment.value;
        let (protocol, numbers) = match value.split_once(':') {
            Some((protocol @ ("tcp" | "udp"), numbers)) => (protocol, numbers),
            _ => ("tcp", value.as_str()),
        };
        let port = format!("{numbers}/{protocol}").parse::<Port>();
        match port {
            Ok(_) if matches!(draft.network.as_str(), "host" | "private") => {
                let why = format!(
                    "a port leads to a container with a link, and this one's network is {}",
                    draft.network
                );
                settings.note(&assignment, why);
            }
            Ok(port) if draft.leads(&port) => {
                let why =
                    "the port of the host is taken by one above, and systemd-nspawn ignores it";
                settings.note(&assignment, why);
            }
            Ok(port) => draft.ports.push(port),
            Err(error) => settings.note(&assignment, error.to_string()),
        }
    }
    if !draft.ports.is_empty() {
        let why = "ports lead to an instance with a fixed address, so they are in a comment: write \
                   the instance's own `address`, and take the # away";
        settings.general("Port", why);
    }
}
