//! `shoal version`: of this command, the controller, and the agent of each host.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shoal_proto::v1::GetVersionRequest;

use super::{Shell, host};
use crate::args::VersionArgs;
use crate::exit::{Exit, Failure};
use crate::output::table::details;
use crate::output::text::count;

const CLIENT: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Serialize)]
struct VersionView {
    client: &'static str,
    /// Absent where it was not asked, or did not answer.
    controller: Option<ControllerView>,
}

#[derive(Debug, Serialize)]
struct ControllerView {
    version: String,
    trust_domain: String,
    epoch: u64,
    /// Version of the agent, by host; of one that is offline, the last that was seen.
    agents: BTreeMap<String, String>,
    /// Hosts whose agents may be of another version by now.
    offline: BTreeSet<String>,
}

pub(super) async fn run(shell: &Shell, args: &VersionArgs) -> Result<Exit, Failure> {
    let asked = if args.client { Ok(None) } else { ask(shell).await.map(Some) };
    let (controller, outcome) = match asked {
        Ok(controller) => (controller, Ok(Exit::Done)),
        Err(failure) => (None, Err(failure)),
    };
    // Also where the controller can't be asked: that is when this command's version is wanted.
    let view = VersionView { client: CLIENT, controller };
    shell.console.result(view.text(), &view)?;
    outcome
}

async fn ask(shell: &Shell) -> Result<ControllerView, Failure> {
    let client = shell.client().await?;
    let reply = client.controller().get_version(client.ask(GetVersionRequest {})).await;
    let reply = reply.map_err(client.refused("ask for the version"))?.into_inner();
    let hosts = host::fetch(&client, None).await?.hosts;
    let offline = hosts.iter().filter(|host| !host.online).map(|host| host.name.clone()).collect();
    let agents =
        hosts.into_iter().filter_map(|host| Some((host.name, host.facts?.agent))).collect();
    let (version, trust_domain, epoch) = (reply.version, reply.trust_domain, reply.epoch);
    Ok(ControllerView { version, trust_domain, epoch, agents, offline })
}

impl VersionView {
    fn text(&self) -> String {
        let mut fields = vec![("Client", self.client.to_owned())];
        if let Some(controller) = &self.controller {
            let ControllerView { version, trust_domain, .. } = controller;
            fields.push(("Controller", format!("{version} ({trust_domain})")));
            fields.push(("Agents", controller.agents_text()));
        }
        details(&fields)
    }
}

impl ControllerView {
    /// A line for each version: they differ only during an upgrade. Hosts that are offline come
    /// last: what they had may not be what they have.
    fn agents_text(&self) -> String {
        let mut hosts: BTreeMap<(bool, &str), Vec<&str>> = BTreeMap::new();
        for (host, version) in &self.agents {
            hosts.entry((self.offline.contains(host), version)).or_default().push(host);
        }
        let line = |((offline, version), hosts): (&(bool, &str), &Vec<&str>)| {
            let on = if *offline { "when last seen, on" } else { "on" };
            match hosts.len() {
                0..=5 => format!("{version} {on} {}", hosts.join(", ")),
                many => format!("{version} {on} {}", count(many, "host")),
            }
        };
        hosts.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
