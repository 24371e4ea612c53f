//! `shoal host remove`.

use serde::Serialize;
use shoal_core::name::HostName;
use shoal_proto::v1::{RemoveHostRequest, RemoveHostResponse};

use crate::client::Client;
use crate::commands::Shell;
use crate::exit::Failure;
use crate::output::text::{count, printable};
use crate::view::host::{RetainedView, stays};

/// Instances that are named; of more there is a number.
const NAMED: usize = 10;

#[derive(Debug, Serialize)]
struct RemovedView {
    host: String,
    /// Those that it had, or was to have.
    instances: Vec<String>,
    /// Fleets that place instances there until they are applied again.
    fleets: Vec<String>,
    /// Data volumes whose instances are gone.
    retained: Vec<RetainedView>,
}

pub(super) async fn run(
    shell: &Shell,
    client: &Client,
    name: &HostName,
    force: bool,
) -> Result<(), Failure> {
    let request = RemoveHostRequest { name: name.to_string(), force };
    let reply = client.hosts().remove(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("remove host {name}")))?.into_inner();
    let RemoveHostResponse { instances, fleets, retained } = reply;
    let retained = retained.into_iter().map(Into::into).collect();
    let view = RemovedView { host: name.to_string(), instances, fleets, retained };
    Ok(shell.console.result(view.text(), &view)?)
}

impl RemovedView {
    fn text(&self) -> String {
        let Self { host, instances, fleets, retained } = self;
        let mut lines = vec![format!(
            "host {host} is removed: its certificate is refused from now on, and its name is free"
        )];
        if !instances.is_empty() {
            let named = match instances.len() {
                0..=NAMED => instances.join(", "),
                many => count(many, "instance"),
            };
            lines.push(printable(&format!(
                "what it had runs on there until someone stops it, and nobody is told of it: {named}"
            )));
        }
        lines.extend(stays(host, retained));
        if !fleets.is_empty() {
            lines.push(format!(
                "apply again, to place what was there elsewhere: {}",
                fleets.join(", ")
            ));
        }
        lines.push(format!("how to clean {host} itself, should it still run: docs/hosts.md, Leaving"));
        lines.join("\n")
    }
}
