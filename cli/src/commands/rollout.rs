//! `shoal rollout …`.

use shoal_core::name::FleetName;
use shoal_proto::v1::ListRolloutsRequest;

use super::{Shell, watch};
use crate::args::fleet::RolloutCommand;
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::view::rollout::RolloutsView;

pub(super) async fn run(shell: &Shell, command: RolloutCommand) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    match command {
        RolloutCommand::List { fleet } => list(shell, &client, fleet).await?,
        RolloutCommand::Watch { fleet, revision } => {
            let ended = watch::follow(shell, &client, &fleet, revision.unwrap_or(0), None).await?;
            watch::conclude(&ended)?;
            shell.console.text(watch::success(&ended))?;
        }
    }
    Ok(Exit::Done)
}

async fn list(shell: &Shell, client: &Client, fleet: Option<FleetName>) -> Result<(), Failure> {
    let fleet = fleet.map(String::from).unwrap_or_default();
    let reply = client.rollouts().list(client.ask(ListRolloutsRequest { fleet })).await;
    let reply = reply.map_err(client.refused("list rollouts"))?.into_inner();
    let view = RolloutsView::read(reply.rollouts).map_err(ReplyError::about("rollouts"))?;
    Ok(shell.console.result(view.table(clock::now(), shell.console.color()), &view)?)
}
