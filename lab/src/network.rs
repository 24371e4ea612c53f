//! The network of a lab: one namespace with a bridge; nothing in it reaches beyond it.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec;

/// The address of the namespace itself, where the controller listens; hosts know it as `controller`.
pub const CONTROLLER_ADDR: &str = "10.77.0.1";
/// The prefix length of the lab's network.
pub(crate) const PREFIX: u8 = 24;
pub(crate) const BRIDGE: &str = "br0";

/// How many hosts the addresses reach for.
pub(crate) const MAX_HOSTS: u8 = 200;

/// The address of the host with this index, which counts from 1.
pub(crate) fn host_addr(index: u8) -> String {
    format!("10.77.0.{}", 10 + index)
}

#[derive(Debug, Clone)]
pub(crate) struct Network {
    netns: String,
}

impl Network {
    /// The network of the lab `lab`, which may not be there yet.
    pub(crate) fn of(lab: &str) -> Self {
        Self { netns: format!("shoal-{lab}") }
    }

    pub(crate) fn name(&self) -> &str {
        &self.netns
    }

    pub(crate) fn create(&self) -> Result<()> {
        exec::run("ip", ["netns", "add", &self.netns])?;
        self.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        self.ip(&["addr", "add", &format!("{CONTROLLER_ADDR}/{PREFIX}"), "dev", BRIDGE])?;
        self.ip(&["link", "set", BRIDGE, "up"])?;
        self.ip(&["link", "set", "lo", "up"]).map(drop)
    }

    /// Runs `program` in the namespace. Not `ip netns exec`: that mounts a /sys without cgroups.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        command
    }

    /// Pulls or plugs the cable of the bridge's port with the interface number `port`.
    pub(crate) fn set_port(&self, port: u64, up: bool) -> Result<()> {
        let links = self.ip(&["-json", "link", "show"])?;
        let name = link_name(&links, port)?;
        self.ip(&["link", "set", "dev", &name, if up { "up" } else { "down" }]).map(drop)
    }

    fn ip(&self, args: &[&str]) -> Result<String> {
        exec::run("ip", [&["-n", &self.netns], args].concat())
    }
}

/// The name of the interface with the number `index` in the output of `ip -json link`.
fn link_name(links: &str, index: u64) -> Result<String> {
    let links: serde_json::Value = serde_json::from_str(links).context("`ip -json link`")?;
    let link = links.as_array().into_iter().flatten().find(|link| link["ifindex"] == index);
    let name = link.and_then(|link| link["ifname"].as_str());
    Ok(name.with_context(|| format!("no interface {index} among {links}"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_start_at_eleven() {
        assert_eq!(host_addr(1), "10.77.0.11");
        assert_eq!(host_addr(MAX_HOSTS), "10.77.0.210");
    }

    #[test]
    fn a_port_is_found_by_its_number() {
        let links = r#"[{"ifindex":1,"ifname":"lo"},{"ifindex":3,"ifname":"vb-x"}]"#;
        assert_eq!(link_name(links, 3).unwrap(), "vb-x");
        assert!(link_name(links, 4).unwrap_err().to_string().contains("no interface 4"));
    }
}
