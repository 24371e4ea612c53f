//! `shoal ps` and `shoal data …`.

use shoal_core::label::Selector;
use shoal_core::name::FleetName;
use shoal_proto::v1::{ListInstancesRequest, ListInstancesResponse};

use super::Shell;
use crate::args::instance::{DataCommand, PsArgs};
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::view::instance::{DataView, InstancesView};

pub(super) async fn ps(shell: &Shell, args: PsArgs) -> Result<Exit, Failure> {
    let PsArgs { fleet, selector } = args;
    let client = shell.client().await?;
    let reply = list(&client, fleet, selector).await?;
    let view = InstancesView::read(reply.instances).map_err(ReplyError::about("instances"))?;
    shell.console.result(view.table(clock::now(), shell.console.color()), &view)?;
    Ok(Exit::Done)
}

pub(super) async fn data(shell: &Shell, command: DataCommand) -> Result<Exit, Failure> {
    let DataCommand::List { selector } = command;
    let client = shell.client().await?;
    let reply = list(&client, None, selector).await?;
    let view = DataView::read(reply.retained).map_err(ReplyError::about("data"))?;
    shell.console.result(view.table(shell.console.color()), &view)?;
    Ok(Exit::Done)
}

async fn list(
    client: &Client,
    fleet: Option<FleetName>,
    selector: Option<Selector>,
) -> Result<ListInstancesResponse, Failure> {
    let request = ListInstancesRequest {
        fleet: fleet.map(String::from).unwrap_or_default(),
        selector: selector.map(String::from).unwrap_or_default(),
    };
    let reply = client.instances().list(client.ask(request)).await;
    Ok(reply.map_err(client.refused("list instances"))?.into_inner())
}
