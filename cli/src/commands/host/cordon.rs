//! `shoal host cordon` and `uncordon`.

use serde::Serialize;
use shoal_core::name::HostName;
use shoal_proto::v1::{CordonHostRequest, UncordonHostRequest};

use super::{HostError, fetch, read};
use crate::args::host::SomeHosts;
use crate::client::Client;
use crate::commands::Shell;
use crate::exit::Failure;
use crate::view::host::CordonView;

#[derive(Debug, Serialize)]
struct CordonedView {
    hosts: Vec<OneView>,
}

#[derive(Debug, Serialize)]
struct OneView {
    host: String,
    /// Whether it was not so before.
    changed: bool,
    cordon: Option<CordonView>,
    /// Fleets whose next apply puts instances there again.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleets: Option<Vec<String>>,
}

/// The hosts that are meant; there is one at least.
async fn chosen(client: &Client, hosts: SomeHosts) -> Result<Vec<HostName>, Failure> {
    let SomeHosts { names, selector } = hosts;
    let Some(selector) = selector else { return Ok(names) };
    let found = fetch(client, Some(selector.clone())).await?.hosts;
    let names: Vec<HostName> = found.into_iter().filter_map(|host| host.name.parse().ok()).collect();
    if names.is_empty() {
        return Err(HostError::NoMatch { selector: selector.to_string() }.into());
    }
    Ok(names)
}

pub(super) async fn cordon(
    shell: &Shell,
    client: &Client,
    hosts: SomeHosts,
    reason: Option<String>,
) -> Result<(), Failure> {
    let reason = reason.unwrap_or_default();
    let mut view = CordonedView { hosts: Vec::new() };
    for name in chosen(client, hosts).await? {
        let request = CordonHostRequest { name: name.to_string(), reason: reason.clone() };
        let reply = client.hosts().cordon(client.ask(request)).await;
        let reply = reply.map_err(client.refused(format!("cordon host {name}")))?.into_inner();
        let cordon = read(&name, reply.host)?.cordon;
        let (host, changed) = (name.to_string(), reply.changed);
        let one = OneView { host, changed, cordon, fleets: None };
        shell.console.text(said_cordoned(&one))?;
        view.hosts.push(one);
    }
    finish(shell, &view)
}

pub(super) async fn uncordon(
    shell: &Shell,
    client: &Client,
    hosts: SomeHosts,
) -> Result<(), Failure> {
    let mut view = CordonedView { hosts: Vec::new() };
    for name in chosen(client, hosts).await? {
        let request = UncordonHostRequest { name: name.to_string() };
        let reply = client.hosts().uncordon(client.ask(request)).await;
        let reply = reply.map_err(client.refused(format!("uncordon host {name}")))?.into_inner();
        let cordon = read(&name, reply.host)?.cordon;
        let (host, changed, fleets) = (name.to_string(), reply.changed, Some(reply.fleets));
        let one = OneView { host, changed, cordon, fleets };
        shell.console.text(said_uncordoned(&one))?;
        view.hosts.push(one);
    }
    finish(shell, &view)
}

/// The document; people have read all of it by now.
fn finish(shell: &Shell, view: &CordonedView) -> Result<(), Failure> {
    if shell.console.is_json() {
        shell.console.result("", view)?;
    }
    Ok(())
}

fn said_cordoned(one: &OneView) -> String {
    let OneView { host, changed, cordon, .. } = one;
    let how = cordon.as_ref().map_or_else(|| "cordoned".to_owned(), CordonView::text);
    if *changed {
        format!("host {host} is {how}: what runs there stays, and nothing new comes")
    } else {
        format!("host {host} is {how} as before")
    }
}

fn said_uncordoned(one: &OneView) -> String {
    let OneView { host, changed, fleets, .. } = one;
    let state = match changed {
        true => format!("host {host} takes instances again"),
        false => format!("host {host} was not cordoned"),
    };
    match fleets.as_deref().unwrap_or_default() {
        [] => state,
        fleets => format!(
            "{state}; they come back with the next `shoal apply` of {}",
            fleets.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let one = |changed, fleets: Option<&[&str]>, reason: Option<&str>| {
            let cordon = reason.map(|reason| shoal_proto::v1::Cordon {
                by: "spiffe://x/user/ann".into(),
                reason: reason.into(),
                since_ms: 1,
                drains: false,
            });
            OneView {
                host: "h2".into(),
                changed,
                cordon: cordon.map(Into::into),
                fleets: fleets.map(|fleets| fleets.iter().map(ToString::to_string).collect()),
            }
        };
        let said = [
            said_cordoned(&one(true, None, Some("bad disk"))),
            said_cordoned(&one(false, None, Some(""))),
            said_uncordoned(&one(true, Some(&["shop", "wiki"]), None)),
            said_uncordoned(&one(true, Some(&[]), None)),
            said_uncordoned(&one(false, Some(&[]), None)),
        ];
        assert_eq!(
            said,
            [
                "host h2 is cordoned (ann: bad disk): what runs there stays, and nothing new comes",
                "host h2 is cordoned (ann) as before",
                "host h2 takes instances again; they come back with the next `shoal apply` of \
                 shop, wiki",
                "host h2 takes instances again",
                "host h2 was not cordoned",
            ]
        );
    }
}
