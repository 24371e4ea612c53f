//! `shoal host …`.

mod cordon;
pub(crate) mod drain;
mod removal;
mod tokens;
pub(crate) mod upgrade;

use serde::Serialize;
use shoal_core::label::Selector;
use shoal_core::name::HostName;
use shoal_proto::convert::millis;
use shoal_proto::v1::{
    CreateTokenRequest, GetHostRequest, Host, LabelHostRequest, ListHostsRequest,
};

use super::Shell;
use crate::args::host::{HostCommand, TokenArgs, TokenCommand};
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::time::At;
use crate::target::LabelEdit;
use crate::view::host::{HostView, HostsView};

/// Why there is nothing to do it to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("no host matches {selector:?}; see `shoal host list` for the hosts and their labels")]
    NoMatch { selector: String },
}

/// The port for agents that `shoal-agent join` takes where none is given.
const LINK_PORT: u16 = 7443;

pub(super) async fn run(shell: &Shell, command: HostCommand) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    match command {
        HostCommand::Token(TokenCommand::Create(args)) => token(shell, &client, args).await?,
        HostCommand::Token(TokenCommand::List { all }) => tokens::list(shell, &client, all).await?,
        HostCommand::Token(TokenCommand::Revoke { id }) => {
            tokens::revoke(shell, &client, id).await?;
        }
        HostCommand::List { selector } => list(shell, &client, selector).await?,
        HostCommand::Show { name } => show(shell, &client, &name).await?,
        HostCommand::Label { name, edits } => label(shell, &client, &name, edits).await?,
        HostCommand::Cordon { hosts, reason } => {
            cordon::cordon(shell, &client, hosts, reason).await?;
        }
        HostCommand::Uncordon { hosts } => cordon::uncordon(shell, &client, hosts).await?,
        HostCommand::Upgrade(args) => upgrade::run(shell, &client, args).await?,
        HostCommand::Drain(args) => drain::run(shell, &client, args).await?,
        HostCommand::Remove { name, force } => {
            removal::run(shell, &client, &name, force).await?;
        }
    }
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct TokenView {
    token: String,
    expires: At,
    /// The command to run on the host.
    join: String,
}

async fn token(shell: &Shell, client: &Client, args: TokenArgs) -> Result<(), Failure> {
    let TokenArgs { name, labels, ttl } = args;
    let request = CreateTokenRequest {
        host_name: name.map(String::from),
        labels: labels.into_iter().collect(),
        ttl_ms: millis(ttl),
    };
    let reply = client.hosts().create_token(client.ask(request)).await;
    let reply = reply.map_err(client.refused("make a join token"))?.into_inner();
    let address = client.address();
    let enrol_port = u16::try_from(reply.enrol_port).unwrap_or_default();
    let mut join = format!("shoal-agent join --controller {}", address.with_port(enrol_port));
    if address.port() != LINK_PORT {
        join = format!("{join} --link-port {}", address.port());
    }
    let view = TokenView {
        join: format!("{join} --token {}", reply.token),
        token: reply.token,
        expires: At::new(reply.expires_ms),
    };
    let expires = view.expires.relative(clock::now());
    shell.console.note(format!("run this on the host, as root (the token expires {expires}):"));
    shell.console.note(format!("  {}", view.join));
    Ok(shell.console.result(&view.token, &view)?)
}

/// Asks for the hosts that a selector picks.
pub(super) async fn fetch(
    client: &Client,
    selector: Option<Selector>,
) -> Result<HostsView, Failure> {
    let selector = selector.map(String::from).unwrap_or_default();
    let reply = client.hosts().list(client.ask(ListHostsRequest { selector })).await;
    let reply = reply.map_err(client.refused("list hosts"))?.into_inner();
    Ok(HostsView::read(reply.hosts).map_err(ReplyError::about("hosts"))?)
}

async fn list(shell: &Shell, client: &Client, selector: Option<Selector>) -> Result<(), Failure> {
    let view = fetch(client, selector).await?;
    Ok(shell.console.result(view.table(clock::now(), shell.console.color()), &view)?)
}

async fn show(shell: &Shell, client: &Client, name: &HostName) -> Result<(), Failure> {
    let request = client.ask(GetHostRequest { name: name.to_string() });
    let reply = client.hosts().get(request).await;
    let reply = reply.map_err(client.refused(format!("show host {name}")))?.into_inner();
    let view = read(name, reply.host)?;
    Ok(shell.console.result(view.details(clock::now()), &view)?)
}

async fn label(
    shell: &Shell,
    client: &Client,
    name: &HostName,
    edits: Vec<LabelEdit>,
) -> Result<(), Failure> {
    let mut request = LabelHostRequest { name: name.to_string(), ..Default::default() };
    for edit in edits {
        match edit {
            LabelEdit::Set(key, value) => {
                request.set.insert(key, value);
            }
            LabelEdit::Remove(key) => request.remove.push(key),
        }
    }
    let reply = client.hosts().label(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("label host {name}")))?.into_inner();
    let view = read(name, reply.host)?;
    let labels = view.labels(", ");
    let said = if labels.is_empty() {
        format!("{name} has no labels now")
    } else {
        format!("{name}: {labels}")
    };
    Ok(shell.console.result(said, &view)?)
}

fn read(name: &HostName, host: Option<Host>) -> Result<HostView, ReplyError> {
    host.ok_or(shoal_proto::convert::Invalid::Missing("host"))
        .and_then(HostView::try_from)
        .map_err(ReplyError::about(format!("host {name}")))
}
