//! `shoal host token list` and `revoke`.

use serde::Serialize;
use shoal_proto::v1::{ListTokensRequest, RevokeTokenRequest};

use crate::client::Client;
use crate::clock;
use crate::commands::Shell;
use crate::exit::Failure;
use crate::view::host::token::TokensView;

pub(super) async fn list(shell: &Shell, client: &Client, all: bool) -> Result<(), Failure> {
    let reply = client.hosts().list_tokens(client.ask(ListTokensRequest { all })).await;
    let reply = reply.map_err(client.refused("list join tokens"))?.into_inner();
    let now = clock::now();
    let view = TokensView::read(reply.tokens, now);
    Ok(shell.console.result(view.table(now, shell.console.color()), &view)?)
}

#[derive(Debug, Serialize)]
struct RevokedView {
    id: String,
}

pub(super) async fn revoke(shell: &Shell, client: &Client, id: String) -> Result<(), Failure> {
    let request = client.ask(RevokeTokenRequest { id: id.clone() });
    let reply = client.hosts().revoke_token(request).await;
    reply.map_err(client.refused(format!("revoke join token {id}")))?;
    let said = format!("join token {id} is good for nothing any more");
    Ok(shell.console.result(said, &RevokedView { id })?)
}
