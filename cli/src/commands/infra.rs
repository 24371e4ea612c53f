//! `shoal infra …`.

use shoal_core::infra::FLEET;

use super::apply;
use super::fleet::fetch;
use super::fleet_file::Kind;
use super::{Shell, host};
use crate::args::infra::InfraCommand;
use crate::client::Client;
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::view::fleet::FleetView;
use crate::view::infra::InfraView;

pub(super) async fn run(shell: &Shell, command: InfraCommand) -> Result<Exit, Failure> {
    match command {
        InfraCommand::Plan(args) => apply::plan(shell, args.file.path(), Kind::Infra, None).await,
        InfraCommand::Apply(args) => {
            apply::apply(shell, args.file.path(), Kind::Infra, &args.how, None).await
        }
        InfraCommand::Status => status(shell).await,
    }
}

async fn status(shell: &Shell) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let fleet = fetch_infra(&client).await?;
    let view = InfraView::new(fleet.as_ref(), host::fetch(&client, None).await?);
    shell.console.result(view.text(clock::now(), shell.console.color()), &view)?;
    Ok(if view.ready { Exit::Done } else { Exit::Differs })
}

/// The infra's fleet; `None` where nobody has applied one.
async fn fetch_infra(client: &Client) -> Result<Option<FleetView>, Failure> {
    match fetch(client, FLEET).await {
        Ok(fleet) => Ok(Some(fleet)),
        Err(Failure::Remote(refused)) if refused.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}
