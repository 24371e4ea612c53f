//! `shoal secret …`.

#[cfg(test)]
mod tests;
mod value;

use serde::Serialize;
use shoal_core::secret::SecretName;
use shoal_proto::v1::{
    GenerateSecretRequest, ListSecretsRequest, RemoveSecretRequest, SetSecretRequest,
    SetSecretResponse,
};

use super::Shell;
use crate::args::secret::{GenerateArgs, SecretCommand, SetArgs};
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::text::count;
use crate::view::secret::{KeptView, SecretsView};

pub(crate) use self::value::{ValueError, hidden};

pub(super) async fn run(shell: &Shell, command: SecretCommand) -> Result<Exit, Failure> {
    // Before a value is asked for: who can't get through need not type it.
    let client = shell.client().await?;
    match command {
        SecretCommand::Set(args) => set(shell, &client, args).await?,
        SecretCommand::Generate(args) => generate(shell, &client, args).await?,
        SecretCommand::List => list(shell, &client).await?,
        SecretCommand::Rm { name } => remove(shell, &client, &name).await?,
    }
    Ok(Exit::Done)
}

async fn set(shell: &Shell, client: &Client, args: SetArgs) -> Result<(), Failure> {
    let SetArgs { name, from_file, keep_newline } = args;
    let value = value::read(shell.console, &name, from_file, keep_newline).await?;
    let value = value.reveal().to_vec().into();
    let request = client.ask(SetSecretRequest { name: name.to_string(), value });
    let reply = client.secrets().set(request).await;
    let reply = reply.map_err(client.refused(format!("set secret {name}")))?.into_inner();
    say_kept(shell, &name, reply)
}

async fn generate(shell: &Shell, client: &Client, args: GenerateArgs) -> Result<(), Failure> {
    let GenerateArgs { name, length, if_absent } = args;
    let request = GenerateSecretRequest { name: name.to_string(), length, if_absent };
    let reply = client.secrets().generate(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("generate secret {name}")))?.into_inner();
    say_kept(shell, &name, reply)
}

fn say_kept(shell: &Shell, name: &SecretName, reply: SetSecretResponse) -> Result<(), Failure> {
    let view = KeptView::read(name, reply).map_err(ReplyError::about(format!("secret {name}")))?;
    shell.console.result(view.text(), &view)?;
    if let Some(next) = view.next() {
        shell.console.note(next);
    }
    Ok(())
}

async fn list(shell: &Shell, client: &Client) -> Result<(), Failure> {
    let reply = client.secrets().list(client.ask(ListSecretsRequest {})).await;
    let reply = reply.map_err(client.refused("list secrets"))?.into_inner();
    let view = SecretsView::read(reply.secrets).map_err(ReplyError::about("secrets"))?;
    Ok(shell.console.result(view.table(clock::now(), shell.console.color()), &view)?)
}

#[derive(Debug, Serialize)]
struct RemovedView {
    name: String,
    versions: u64,
}

async fn remove(shell: &Shell, client: &Client, name: &SecretName) -> Result<(), Failure> {
    let request = client.ask(RemoveSecretRequest { name: name.to_string() });
    let reply = client.secrets().remove(request).await;
    let reply = reply.map_err(client.refused(format!("remove secret {name}")))?.into_inner();
    let view = RemovedView { name: name.to_string(), versions: reply.versions };
    let versions = count(usize::try_from(view.versions).unwrap_or(usize::MAX), "version");
    Ok(shell.console.result(format!("removed {name} with {versions}"), &view)?)
}
