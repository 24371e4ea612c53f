//! Why a fleet can't be placed, in words for its user.

use std::fmt;
use std::net::IpAddr;

use crate::host::Cordon;
use crate::image::ImageRef;
use crate::name::{HostName, InstanceId, InstanceName, MachineName};
use crate::policy::Refused;
use crate::secret::SecretName;
use crate::spec::{HostPath, InterfaceAddress, InvalidValue, Protocol};

/// Why a fleet can't be placed. All reasons are found at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplaceable {
    /// No tag of this name is known.
    #[error(
        "instance {instance}: image {image} is not known; push it with \
         `shoal image push rootfs.squashfs {image}`, or see `shoal image list`"
    )]
    UnknownImage {
        /// The instance that wants it.
        instance: InstanceName,
        /// The image.
        image: ImageRef,
    },
    /// No secret of this name is kept.
    #[error(
        "instance {instance}: secret {secret} is not known; make it with \
         `shoal secret set {secret}` or `shoal secret generate {secret}`, or see \
         `shoal secret list`"
    )]
    UnknownSecret {
        /// The instance that names it.
        instance: InstanceName,
        /// The secret.
        secret: SecretName,
    },
    /// The selector picks nothing.
    #[error(
        "instance {instance}: no host matches {hosts:?}; see `shoal host list` for the hosts and \
         their labels"
    )]
    NoHost {
        /// The instance.
        instance: InstanceName,
        /// Its `hosts`.
        hosts: String,
    },
    /// More are wanted than hosts match.
    #[error(
        "instance {instance}: count = {count}, and only {} {hosts:?}; lower the count, or label \
         more hosts (see `shoal host list`)", matching(*.matches)
    )]
    TooFewHosts {
        /// The instance.
        instance: InstanceName,
        /// Its `hosts`.
        hosts: String,
        /// How many it wants.
        count: u32,
        /// How many there are.
        matches: usize,
    },
    /// Enough match, and too many of them are cordoned.
    #[error(
        "instance {instance}: count = {count}, and of the hosts that match {hosts:?} only {open} \
         may have it: {}; lower the count, label more hosts, or let them have it again with \
         `shoal host uncordon`", few(.cordoned)
    )]
    TooFewOpen {
        /// The instance.
        instance: InstanceName,
        /// Its `hosts`.
        hosts: String,
        /// How many it wants.
        count: u32,
        /// How many may have it.
        open: usize,
        /// Those that match and may not.
        cordoned: Vec<Cordoned>,
    },
    /// A host is named that is not enrolled.
    #[error("instance {instance}: host {host} is not enrolled; see `shoal host list`")]
    UnknownHost {
        /// The instance.
        instance: InstanceName,
        /// The name.
        host: HostName,
    },
    /// Two instances would meet in one machine name.
    #[error(
        "instance {instance}: its machine would be named {machine}, as that of {other} is; \
         rename the fleet or the instance"
    )]
    SameMachine {
        /// The instance.
        instance: InstanceName,
        /// The name of both.
        machine: MachineName,
        /// The other.
        other: InstanceId,
    },
    /// It comes after something that is not there.
    #[error("instance {instance}: `after` names {after}, {}", unknown(.after, .meant.as_ref()))]
    AfterUnknown {
        /// The instance.
        instance: InstanceName,
        /// What it comes after.
        after: InstanceId,
        /// What may have been meant.
        meant: Option<InstanceId>,
    },
    /// It comes after itself, at a remove or not.
    #[error(
        "instance {instance}: no instance of a ring can be the first to start: {}; take one of \
         these out of an `after`", joined(.ring, " after ")
    )]
    AfterItself {
        /// The instance.
        instance: InstanceName,
        /// From it back to it.
        ring: Vec<InstanceId>,
    },
    /// It can't be on some hosts.
    #[error("instance {instance} on {hosts}: {problem}")]
    OnHosts {
        /// The instance.
        instance: InstanceName,
        /// Where.
        hosts: Hosts,
        /// Why.
        problem: Box<OnHost>,
    },
}

impl Unplaceable {
    /// The instance that it is about.
    #[must_use]
    pub fn instance(&self) -> &InstanceName {
        match self {
            Self::UnknownImage { instance, .. }
            | Self::UnknownSecret { instance, .. }
            | Self::NoHost { instance, .. }
            | Self::TooFewHosts { instance, .. }
            | Self::TooFewOpen { instance, .. }
            | Self::UnknownHost { instance, .. }
            | Self::SameMachine { instance, .. }
            | Self::AfterUnknown { instance, .. }
            | Self::AfterItself { instance, .. }
            | Self::OnHosts { instance, .. } => instance,
        }
    }
}

/// Why an instance can't be on a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnHost {
    /// A text does not render there.
    #[error("{what}{}: {problem}", line.map_or(String::new(), |line| format!(" line {line}")))]
    Template {
        /// What is rendered: `template of file /etc/x`, `env.X`, `address`.
        what: String,
        /// The line in it, from 1, where it is known.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// What the address renders to is none.
    #[error("address renders to something else: {0}")]
    NoAddress(InvalidValue),
    /// There is no link to give the address to.
    #[error(
        "there is nothing to give an address to; write network = \"bridge:NAME\", \"zone:NAME\" or \"veth\""
    )]
    NoLink,
    /// The gateway can't be reached.
    #[error("gateway {gateway} is not in the network of address {address}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The address.
        address: InterfaceAddress,
    },
    /// Two overrides disagree.
    #[error(
        "variable {var} has different values for {first:?} and for {second:?}, and the host \
         matches both; narrow one of them, or set it for the host by its name"
    )]
    Overrides {
        /// The variable.
        var: String,
        /// The hosts of one.
        first: String,
        /// The hosts of the other.
        second: String,
    },
    /// The host can't do it, or its policy does not allow it.
    #[error("{problem}{}", restart(.problem))]
    Refused {
        /// What, and what to do about it.
        problem: Refused,
    },
    /// It takes no new instances.
    #[error("the host is {cordon}; let it have them again with `shoal host uncordon`")]
    Closed {
        /// Why.
        cordon: Cordon,
    },
    /// A port has two owners.
    #[error(
        "port {port}/{protocol} of the host is also that of {other}; give one of them another \
         port or another host"
    )]
    Port {
        /// The host's port.
        port: u16,
        /// What it carries.
        protocol: Protocol,
        /// The other.
        other: InstanceId,
    },
    /// A path has an owner that wants it alone.
    #[error(
        "it mounts {path} of the host and {other} mounts {theirs}, and not both leave it to \
         others: write shared = true where it may be written by both, or use another path or host"
    )]
    Mount {
        /// Its path of the host.
        path: HostPath,
        /// The other.
        other: InstanceId,
        /// The other's path of the host.
        theirs: HostPath,
    },
    /// An address has two owners.
    #[error(
        "address {address} is also that of {other} in the same network; give one of them another"
    )]
    Address {
        /// The address.
        address: IpAddr,
        /// The other.
        other: InstanceId,
    },
}

/// A host that takes no new instances, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cordoned {
    /// The host.
    pub host: HostName,
    /// Why.
    pub cordon: Cordon,
}

impl fmt::Display for Cordoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.host, self.cordon)
    }
}

/// One host or several, of which a few are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts(pub Vec<HostName>);

/// Hosts that are named before the rest is only counted.
const NAMED: usize = 3;

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(hosts) = self;
        let (named, rest) = hosts.split_at(hosts.len().min(NAMED));
        let named = joined(named, ", ");
        match (hosts.len(), rest.len()) {
            (1, _) => write!(f, "host {named}"),
            (_, 0) => write!(f, "hosts {named}"),
            (_, rest) => write!(f, "hosts {named} and {rest} more"),
        }
    }
}

fn joined<T: fmt::Display>(items: &[T], by: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(by)
}

fn few(cordoned: &[Cordoned]) -> String {
    let named = joined(&cordoned[..cordoned.len().min(NAMED)], ", ");
    match cordoned.len().saturating_sub(NAMED) {
        0 => named,
        rest => format!("{named}, and {rest} more"),
    }
}

fn matching(hosts: usize) -> String {
    match hosts {
        1 => "1 host matches".to_owned(),
        hosts => format!("{hosts} hosts match"),
    }
}

fn unknown(after: &InstanceId, meant: Option<&InstanceId>) -> String {
    let meant = meant.map(|id| format!(" (did you mean {id}?)")).unwrap_or_default();
    let fleet = &after.fleet;
    format!("and there is no such instance{meant}; fleet {fleet} must be applied with it first")
}

/// Agents read their host's policy when they start; its size they can't change.
fn restart(refused: &Refused) -> &'static str {
    match refused {
        Refused::TooMuch(_) => "",
        _ => "; the agent there reads its policy when it starts: `systemctl restart shoal-agent`",
    }
}
