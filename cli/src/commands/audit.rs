//! `shoal audit`.

use shoal_proto::v1::ListAuditRequest;

use super::Shell;
use crate::args::AuditArgs;
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::view::audit::AuditView;

pub(super) async fn run(shell: &Shell, args: &AuditArgs) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = client.ask(ListAuditRequest { limit: args.limit });
    let reply = client.controller().list_audit(request).await;
    let view = AuditView::from(reply.map_err(client.refused("list what was done"))?.into_inner());
    shell.console.result(view.table(clock::now(), shell.console.color()), &view)?;
    Ok(Exit::Done)
}
