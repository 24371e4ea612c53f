//! Which instance on which host is meant: `FLEET/INSTANCE`, and a host where one is named.

use shoal_core::name::{HostId, HostName, InstanceId};

use super::listing::View;
use crate::inventory::meant;
use crate::refusal::Refusal;

/// One instance on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The instance.
    pub(super) id: InstanceId,
    /// The host.
    pub(super) host: HostId,
    /// Its name.
    pub(super) host_name: HostName,
}

/// How an instance has to be on a host to be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    /// Wanted there.
    Wanted,
    /// Wanted, or still there.
    AtAll,
}

/// Every host where the instance `name` is, or the one named `host`. Never none.
///
/// # Errors
/// There is no such instance or host, or that host does not have it; with the name that may have
/// been meant.
pub(super) fn targets(
    hosts: &[View],
    name: &str,
    host: Option<&str>,
    there: There,
) -> Result<Vec<Target>, Refusal> {
    let id: InstanceId = name.parse().map_err(|error| Refusal::Invalid(format!("{error}")))?;
    let has = |view: &&View| match there {
        There::Wanted => view.wants(&id),
        There::AtAll => view.has(&id),
    };
    let with: Vec<&View> = hosts.iter().filter(has).collect();
    if with.is_empty() {
        return Err(unknown_instance(hosts, &id));
    }
    let target = |view: &View| Target {
        id: id.clone(),
        host: view.host.id.clone(),
        host_name: view.host.name.clone(),
    };
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return Ok(with.into_iter().map(target).collect());
    };
    match with.iter().find(|view| view.host.name.as_str() == host) {
        Some(view) => Ok(vec![target(view)]),
        None => Err(not_on(hosts, &id, host, &with)),
    }
}

/// The one target, where there must be one.
///
/// # Errors
/// There are several; all are named.
pub(super) fn only(mut targets: Vec<Target>) -> Result<Target, Refusal> {
    match targets.pop() {
        Some(target) if targets.is_empty() => Ok(target),
        last => {
            targets.extend(last);
            let names: Vec<String> = targets
                .iter()
                .map(|target| format!("{}@{}", target.id, target.host_name))
                .collect();
            Err(Refusal::Precondition(format!(
                "several hosts run it; name one of {}",
                names.join(", ")
            )))
        }
    }
}

fn unknown_instance(hosts: &[View], id: &InstanceId) -> Refusal {
    let known: Vec<String> =
        hosts.iter().flat_map(|view| view.ids()).map(ToString::to_string).collect();
    let meant = meant(&id.to_string(), known.iter().map(String::as_str));
    Refusal::NotFound(format!("there is no instance {id}{meant}; `shoal ps` shows all"))
}

fn not_on(hosts: &[View], id: &InstanceId, host: &str, with: &[&View]) -> Refusal {
    let names: Vec<&str> = with.iter().map(|view| view.host.name.as_str()).collect();
    let names = names.join(", ");
    if hosts.iter().any(|view| view.host.name.as_str() == host) {
        return Refusal::NotFound(format!("{id} does not run on host {host}; it runs on {names}"));
    }
    let meant = meant(host, with.iter().map(|view| view.host.name.as_str()));
    Refusal::NotFound(format!("there is no host {host}{meant}; {id} runs on {names}"))
}
