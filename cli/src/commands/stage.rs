//! `shoal image stage` and `staged`.
//!
//! That hosts are to have the image is on record at the controller before this waits for anything:
//! what is begun goes on when it ends early.

mod follow;

use shoal_proto::convert::millis;
use shoal_proto::v1::{ListStagedRequest, StageImageRequest, UnstageImageRequest};

use self::follow::Followed;
use super::{Shell, interrupted};
use crate::args::image::StageArgs;
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::Failure;
use crate::view::staged::{StagedHost, StagedView, State};

/// Why not every host has the image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error(
        "not every host has {image}:{}\nthese go on trying; `shoal image staged {image}` shows how \
         far they are, `shoal image stage --cancel {image}` takes it back", indented(.hosts)
    )]
    Partial { image: String, hosts: Vec<String> },
    #[error(
        "the time is up, and not every host has {image}:{}\nwhat was begun goes on; `shoal image \
         staged {image}` shows how far it is", indented(.hosts)
    )]
    TimedOut { image: String, hosts: Vec<String> },
    #[error("{image} is not staged {}; `shoal image staged` lists what is", .place)]
    NotStaged { image: String, place: &'static str },
    #[error("interrupted; the hosts go on. `shoal image stage --cancel {image}` takes it back")]
    Interrupted { image: String },
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

pub(super) async fn run(shell: &Shell, args: StageArgs) -> Result<(), Failure> {
    let client = shell.client().await?;
    if args.cancel {
        return cancel(shell, &client, args).await;
    }
    let image = args.image.clone();
    let told = tell(&client, &args).await?;
    if args.no_wait {
        let hosts: Vec<&str> = told.staged.iter().map(|one| one.host.as_str()).collect();
        let said = format!("told {} to fetch {image}", hosts.join(", "));
        return Ok(shell.console.result(said, &told)?);
    }
    let followed = tokio::select! {
        followed = follow::follow(shell.console, &client, &image, told, args.timeout) => followed?,
        () = interrupted() => return Err(StageError::Interrupted { image }.into()),
    };
    let Followed { view, in_time } = followed;
    shell.console.result(view.table(clock::now(), shell.console.color()), &view)?;
    Ok(conclude(image, &view, in_time)?)
}

async fn tell(client: &Client, args: &StageArgs) -> Result<StagedView, Failure> {
    let image = &args.image;
    let request = StageImageRequest {
        name: image.clone(),
        hosts: args.hosts.iter().map(ToString::to_string).collect(),
        selector: args.selector.clone().map(String::from).unwrap_or_default(),
        keep_ms: millis(args.keep),
    };
    let reply = client.images().stage(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("stage {image}")))?.into_inner();
    read(image, reply.staged)
}

fn read(image: &str, staged: Vec<shoal_proto::v1::StagedImage>) -> Result<StagedView, Failure> {
    let view = StagedView::read(staged);
    Ok(view.map_err(ReplyError::about(format!("the staging of {image}")))?)
}

/// The worst that any host has to say.
fn conclude(image: String, view: &StagedView, in_time: bool) -> Result<(), StageError> {
    let missing: Vec<&StagedHost> = view.staged.iter().filter(|one| !one.is_there()).collect();
    let hosts = missing.iter().map(|one| format!("{}: {}", one.host, one.words())).collect();
    let undecided = |one: &&&StagedHost| matches!(one.state, State::Waiting | State::Going);
    match (missing.is_empty(), in_time || missing.iter().find(undecided).is_none()) {
        (true, _) => Ok(()),
        (false, true) => Err(StageError::Partial { image, hosts }),
        (false, false) => Err(StageError::TimedOut { image, hosts }),
    }
}

#[derive(Debug, serde::Serialize)]
struct CancelView {
    image: String,
    /// Where it was taken back.
    hosts: Vec<String>,
}

async fn cancel(shell: &Shell, client: &Client, args: StageArgs) -> Result<(), Failure> {
    let StageArgs { image, hosts, selector, .. } = args;
    let everywhere = hosts.is_empty() && selector.is_none();
    let request = UnstageImageRequest {
        name: image.clone(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        selector: selector.map(String::from).unwrap_or_default(),
    };
    let reply = client.images().unstage(client.ask(request)).await;
    let doing = format!("take back the staging of {image}");
    let hosts = reply.map_err(client.refused(doing))?.into_inner().hosts;
    if hosts.is_empty() {
        let place = if everywhere { "anywhere" } else { "on these hosts" };
        return Err(StageError::NotStaged { image, place }.into());
    }
    let said = format!("{image} is staged no longer on {}", hosts.join(", "));
    Ok(shell.console.result(said, &CancelView { image, hosts })?)
}

/// `shoal image staged`.
pub(super) async fn list(shell: &Shell, name: Option<String>) -> Result<(), Failure> {
    let client = shell.client().await?;
    let name = name.unwrap_or_default();
    let request = ListStagedRequest { name: name.clone() };
    let reply = client.images().list_staged(client.ask(request)).await;
    let reply = reply.map_err(client.refused("list what is staged"))?.into_inner();
    let view = read(&name, reply.staged)?;
    Ok(shell.console.result(view.table(clock::now(), shell.console.color()), &view)?)
}

#[cfg(test)]
mod tests;
