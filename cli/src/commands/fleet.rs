//! `shoal check` and `status`.

use serde::Serialize;
use shoal_proto::v1::{GetFleetStatusRequest, ListFleetsRequest};

use super::Shell;
use super::fleet_file::load;
use crate::args::fleet::{CheckArgs, StatusArgs};
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::text::count;
use crate::view::fleet::{FleetView, FleetsView};

#[derive(Debug, Serialize)]
struct CheckView {
    file: String,
    fleet: String,
    /// Of an infra file: its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    infra: Option<String>,
    instances: Vec<String>,
}

pub(super) fn check(shell: &Shell, args: &CheckArgs) -> Result<Exit, Failure> {
    let spec = load(args.file.path())?;
    let file = args.file.path().display().to_string();
    let instances: Vec<String> = spec.instances.keys().map(ToString::to_string).collect();
    let infra = spec.infra.map(|infra| infra.version.to_string());
    let what = match &infra {
        Some(version) => format!("infra version {version}"),
        None => format!("fleet {}", spec.fleet),
    };
    let said = format!("{file}: {what} with {}", count(instances.len(), "instance"));
    let view = CheckView { file, fleet: spec.fleet.to_string(), infra, instances };
    shell.console.result(said, &view)?;
    Ok(Exit::Done)
}

pub(super) async fn status(shell: &Shell, args: StatusArgs) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let (now, color) = (clock::now(), shell.console.color());
    let ready = match args.fleet {
        Some(fleet) => {
            let view = fetch(&client, fleet.as_str()).await?;
            shell.console.result(view.text(now, color), &view)?;
            view.ready
        }
        None => {
            let view = fetch_all(&client).await?;
            shell.console.result(view.table(now, color), &view)?;
            view.is_ready()
        }
    };
    Ok(if ready { Exit::Done } else { Exit::Differs })
}

/// A fleet as it is now.
pub(super) async fn fetch(client: &Client, fleet: &str) -> Result<FleetView, Failure> {
    let request = client.ask(GetFleetStatusRequest { fleet: fleet.to_owned() });
    let reply = client.fleets().get_status(request).await;
    let reply = reply.map_err(client.refused(format!("show fleet {fleet}")))?.into_inner();
    Ok(FleetView::try_from(reply).map_err(ReplyError::about(format!("fleet {fleet}")))?)
}

async fn fetch_all(client: &Client) -> Result<FleetsView, Failure> {
    let reply = client.fleets().list(client.ask(ListFleetsRequest {})).await;
    let reply = reply.map_err(client.refused("list fleets"))?.into_inner();
    let mut fleets = Vec::new();
    for fleet in reply.fleets {
        fleets.push(fetch(client, &fleet.name).await?);
    }
    Ok(FleetsView { fleets })
}
