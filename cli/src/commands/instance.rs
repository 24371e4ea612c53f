//! `shoal ps` and `shoal data …`.

mod live;

use shoal_core::label::Selector;
use shoal_proto::v1::{ListFleetsRequest, ListInstancesRequest};

use super::chosen::{Choice, ask};
use super::{Shell, interrupted};
use crate::args::instance::{DataCommand, PsArgs};
use crate::client::ReplyError;
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::reader;
use crate::view::instance::{DataView, InstancesView};

pub(super) async fn ps(shell: &Shell, args: PsArgs) -> Result<Exit, Failure> {
    let PsArgs { targets, selector, watch } = args;
    let choice = Choice { scopes: targets, selector };
    let client = shell.client().await?;
    let found = choice.list(&client).await?;
    if watch {
        return tokio::select! {
            ended = live::watch(shell.console, &client, &choice) => ended,
            gone = reader::gone() => Err(gone.into()),
            () = interrupted() => Ok(Exit::Interrupted),
        };
    }
    let view = InstancesView::read(found).map_err(ReplyError::about("instances"))?;
    shell.console.result(view.table(clock::now(), shell.console.color()), &view)?;
    Ok(Exit::Done)
}

pub(super) async fn data(shell: &Shell, command: DataCommand) -> Result<Exit, Failure> {
    let DataCommand::List { selector } = command;
    let client = shell.client().await?;
    let selector: Option<Selector> = selector;
    let selector = selector.map(String::from).unwrap_or_default();
    let retained =
        ask(&client, ListInstancesRequest { fleet: String::new(), selector }).await?.retained;
    let fleets = client.fleets().list(client.ask(ListFleetsRequest {})).await;
    let fleets = fleets.map_err(client.refused("list fleets"))?.into_inner().fleets;
    let fleets: Vec<String> = fleets.into_iter().map(|fleet| fleet.name).collect();
    let view = DataView::read(retained, &fleets).map_err(ReplyError::about("data"))?;
    shell.console.result(view.table(shell.console.color()), &view)?;
    Ok(Exit::Done)
}
