//! What systemd-nspawn is told of the instance's network.

use std::ffi::OsString;

use shoal_core::spec::{Network, Settings};

/// The arguments for an instance's network.
pub(super) fn arguments(settings: &Settings) -> Vec<OsString> {
    let own = match &settings.network {
        Network::Host => return Vec::new(),
        Network::Private => "--private-network".into(),
        Network::Veth(_) => "--network-veth".into(),
        Network::Zone(zone, _) => format!("--network-zone={zone}").into(),
        Network::Bridge(bridge, _) => format!("--network-bridge={bridge}").into(),
    };
    vec![own, "--resolv-conf=off".into()]
}
