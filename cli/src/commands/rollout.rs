//! `shoal rollout …`.

use serde::Serialize;
use shoal_core::name::FleetName;
use shoal_proto::convert::{Invalid, millis};
use shoal_proto::v1::{
    ControlRolloutRequest, ListRolloutsRequest, LockRequest, RolloutCommand as Verb, UndoRequest,
    UnlockRequest, WatchRolloutRequest,
};

use super::Shell;
use super::watch::{self, Goal, Patience};
use crate::args::rollout::{
    GoOnArgs, LockArgs, PauseArgs, RolloutCommand, SayArgs, ShowArgs, UndoArgs, UnlockArgs,
};
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::view::lock::LockView;
use crate::view::rollout::{RolloutView, RolloutsView};

pub(super) async fn run(shell: &Shell, command: RolloutCommand) -> Result<Exit, Failure> {
    let client = &shell.client().await?;
    match command {
        RolloutCommand::List { fleet } => list(shell, client, fleet).await?,
        RolloutCommand::Show(args) => show(shell, client, &args).await?,
        RolloutCommand::Watch(ShowArgs { fleet, revision }) => {
            let revision = revision.unwrap_or(0);
            let ended = watch::follow(shell, client, &fleet, revision, Patience::ToTheEnd).await?;
            shell.console.text(watch::conclude(&ended, Goal::Forward)?)?;
        }
        RolloutCommand::Pause(PauseArgs { say, hold }) => {
            let paused = control(client, Verb::Pause, &say, millis(hold)).await?;
            shell.console.result(said(Verb::Pause, &paused), &paused)?;
        }
        RolloutCommand::Abort(say) => {
            let aborted = control(client, Verb::Abort, &say, 0).await?;
            shell.console.result(said(Verb::Abort, &aborted), &aborted)?;
        }
        RolloutCommand::Resume(args) => go_on(shell, client, Verb::Resume, &args).await?,
        RolloutCommand::Promote(args) => go_on(shell, client, Verb::Promote, &args).await?,
        RolloutCommand::Undo(args) => undo(shell, client, args).await?,
        RolloutCommand::Lock(args) => lock(shell, client, args).await?,
        RolloutCommand::Unlock(args) => unlock(shell, client, &args).await?,
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

/// The first of what there is to watch is how it is now.
async fn show(shell: &Shell, client: &Client, args: &ShowArgs) -> Result<(), Failure> {
    let fleet = args.fleet.to_string();
    let doing = format!("show the rollout of {fleet}");
    let request = WatchRolloutRequest { fleet, revision: args.revision.unwrap_or(0) };
    let stream = client.rollouts().watch(client.ask(request)).await;
    let mut stream = stream.map_err(client.refused(&doing))?.into_inner();
    let first = stream.message().await.map_err(client.refused(&doing))?;
    let view = read(first)?;
    Ok(shell.console.result(view.text(clock::now(), shell.console.color()), &view)?)
}

fn read(rollout: Option<shoal_proto::v1::Rollout>) -> Result<RolloutView, ReplyError> {
    rollout
        .ok_or(Invalid::Missing("rollout"))
        .and_then(RolloutView::try_from)
        .map_err(ReplyError::about("a rollout"))
}

fn name(verb: Verb) -> &'static str {
    match verb {
        Verb::Pause => "pause",
        Verb::Resume => "resume",
        Verb::Promote => "promote",
        Verb::Abort => "abort",
        Verb::Unspecified => "change",
    }
}

/// What came of it, and what may be next.
fn said(verb: Verb, rollout: &RolloutView) -> String {
    let RolloutView { fleet, revision, .. } = rollout;
    let what = format!("the rollout of {fleet} revision {revision}");
    match verb {
        Verb::Pause => {
            let until = rollout.deadline.relative(clock::now());
            format!(
                "{what} is paused; it ends {until} unless `shoal rollout resume {fleet}` lets it go \
                 on before"
            )
        }
        Verb::Abort => format!("{what} is aborted; its hosts are left as they are"),
        Verb::Resume | Verb::Promote | Verb::Unspecified => format!("{what} goes on"),
    }
}

async fn control(
    client: &Client,
    verb: Verb,
    say: &SayArgs,
    hold_ms: u64,
) -> Result<RolloutView, Failure> {
    let SayArgs { fleet, reason } = say;
    let doing = format!("{} the rollout of {fleet}", name(verb));
    let request = ControlRolloutRequest {
        fleet: fleet.to_string(),
        command: verb.into(),
        reason: reason.clone(),
        hold_ms,
    };
    let reply = client.rollouts().control(client.ask(request)).await;
    Ok(read(reply.map_err(client.refused(doing))?.into_inner().rollout)?)
}

async fn go_on(shell: &Shell, client: &Client, verb: Verb, args: &GoOnArgs) -> Result<(), Failure> {
    let GoOnArgs { say, wait } = args;
    let goes_on = control(client, verb, say, 0).await?;
    if !wait.wait {
        return Ok(shell.console.result(said(verb, &goes_on), &goes_on)?);
    }
    shell.console.text(said(verb, &goes_on))?;
    let patience = Patience::Limited(wait.timeout);
    let ended = watch::follow(shell, client, &say.fleet, goes_on.revision, patience).await?;
    let verdict = watch::conclude(&ended, Goal::Forward);
    shell.console.result(verdict.as_deref().unwrap_or_default(), &ended)?;
    Ok(verdict.map(drop)?)
}

#[derive(Debug, Serialize)]
struct UndoView {
    /// The revision whose rollout is to be followed.
    revision: u64,
    to_revision: u64,
    /// Whether it is the unfinished rollout that goes back.
    in_place: bool,
    /// With `--wait`, how it ended.
    rollout: Option<RolloutView>,
}

async fn undo(shell: &Shell, client: &Client, args: UndoArgs) -> Result<(), Failure> {
    let UndoArgs { fleet, to_revision, data, wait, timeout, source } = args;
    let request = UndoRequest {
        fleet: fleet.to_string(),
        to_revision: to_revision.unwrap_or(0),
        timeout_ms: millis(timeout),
        source: source.unwrap_or_default(),
        data,
    };
    let reply = client.rollouts().undo(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("undo the rollout of {fleet}")))?;
    let shoal_proto::v1::UndoResponse { revision, to_revision, in_place } = reply.into_inner();
    let mut view = UndoView { revision, to_revision, in_place, rollout: None };
    shell.console.text(if in_place {
        format!("the rollout of {fleet} revision {revision} goes back to revision {to_revision}")
    } else {
        format!("revision {revision} says what revision {to_revision} said")
    })?;
    if !wait {
        shell.console.note(format!("follow it with `shoal rollout watch {fleet}`"));
        return finish(shell, &view);
    }
    let patience = Patience::Limited(timeout);
    let ended = watch::follow(shell, client, &fleet, revision, patience).await?;
    let verdict = watch::conclude(&ended, if in_place { Goal::Back } else { Goal::Forward });
    view.rollout = Some(ended);
    finish(shell, &view)?;
    Ok(shell.console.text(verdict?)?)
}

/// The document of an undo; people have read all of it by now.
fn finish(shell: &Shell, view: &UndoView) -> Result<(), Failure> {
    if shell.console.is_json() {
        shell.console.result("", view)?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct FleetLockView {
    fleet: String,
    lock: Option<LockView>,
}

async fn lock(shell: &Shell, client: &Client, args: LockArgs) -> Result<(), Failure> {
    let LockArgs { fleet, reason, hold } = args;
    let request = LockRequest { fleet: fleet.to_string(), reason, for_ms: millis(hold) };
    let reply = client.rollouts().lock(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("lock fleet {fleet}")))?.into_inner();
    let lock = reply.lock.map(LockView::from).ok_or(Invalid::Missing("lock"));
    let lock = lock.map_err(ReplyError::about("a lock"))?;
    let said = format!("fleet {fleet} is {}", lock.text(clock::now()));
    shell.console.note(format!("`shoal rollout unlock {fleet}` gives it back before"));
    let view = FleetLockView { fleet: fleet.to_string(), lock: Some(lock) };
    Ok(shell.console.result(said, &view)?)
}

async fn unlock(shell: &Shell, client: &Client, args: &UnlockArgs) -> Result<(), Failure> {
    let UnlockArgs { fleet, force } = args;
    let request = UnlockRequest { fleet: fleet.to_string(), force: *force };
    let reply = client.rollouts().unlock(client.ask(request)).await;
    let reply = reply.map_err(client.refused(format!("unlock fleet {fleet}")))?.into_inner();
    let said = match reply.was_locked {
        true => format!("fleet {fleet} is unlocked"),
        false => format!("fleet {fleet} was not locked"),
    };
    let view = FleetLockView { fleet: fleet.to_string(), lock: None };
    Ok(shell.console.result(said, &view)?)
}
