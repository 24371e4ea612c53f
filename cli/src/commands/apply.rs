//! `shoal plan` and `apply`, and the same of `shoal infra`.

use std::path::Path;

use serde::Serialize;
use shoal_core::fleet::FleetSpec;
use shoal_core::name::FleetName;
use shoal_proto::convert::millis;
use shoal_proto::v1::{ApplyRequest, ApplyResponse, OfflineHosts, PlanRequest, Recreate};

use super::fleet::fetch;
use super::fleet_file::{Kind, load_kind};
use super::locked::{Attempts, LockError};
use super::watch::{self, Goal, Patience};
use super::{Shell, interrupted};
use crate::args::fleet::ApplyOptions;
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::OutputError;
use crate::view::fleet::FleetView;
use crate::view::plan::PlanView;
use crate::view::rollout::{RolloutView, State};

pub(super) async fn plan(
    shell: &Shell,
    path: &Path,
    kind: Kind,
    recreate: Option<Recreate>,
) -> Result<Exit, Failure> {
    let spec = load_kind(path, kind, "plan")?;
    let (plan, fleet) = ask_plan(&shell.client().await?, &spec, recreate).await?;
    note_locks(shell, fleet.as_ref(), kind);
    shell.console.result(plan.text(), &plan)?;
    // Where the last rollout failed there is something to do, even if nothing differs.
    let something = plan.changes_anything || plan.retries;
    Ok(if something { Exit::Differs } else { Exit::Done })
}

/// What would change, with what is to be made afresh; and the fleet as it is, where there is one.
async fn ask_plan(
    client: &Client,
    spec: &FleetSpec,
    recreate: Option<Recreate>,
) -> Result<(PlanView, Option<FleetView>), Failure> {
    let fleet = spec.fleet.as_str();
    let request = client.ask(PlanRequest { spec: Some(spec.clone().into()), recreate });
    let reply = client.fleets().plan(request).await;
    let reply = reply.map_err(client.refused(format!("plan fleet {fleet}")))?.into_inner();
    let plan = PlanView::read(spec, reply).map_err(ReplyError::about(format!("fleet {fleet}")))?;
    // What there is to say besides; a plan is one without it, too.
    let now = if plan.base_revision > 0 { fetch(client, fleet).await.ok() } else { None };
    let before = now.as_ref().and_then(|now| now.rollout.as_ref()?.policy.as_ref());
    Ok((plan.with_policy(&spec.rollout, before), now))
}

/// Says who keeps others from applying.
fn note_locks(shell: &Shell, fleet: Option<&FleetView>, kind: Kind) {
    let notes = fleet.map(|fleet| fleet.locked_notes(clock::now(), kind.apply()));
    let notes = notes.unwrap_or_default();
    notes.iter().for_each(|note| shell.console.note(note));
}

#[derive(Debug, Serialize)]
struct ApplyView {
    plan: PlanView,
    /// Absent with `--dry-run`.
    revision: Option<u64>,
    /// Whether this apply made the revision.
    changed: bool,
    /// With `--wait`, how the rollout ended, or is where it is held.
    rollout: Option<RolloutView>,
}

pub(super) async fn apply(
    shell: &Shell,
    path: &Path,
    kind: Kind,
    how: &ApplyOptions,
    recreate: Option<Recreate>,
) -> Result<Exit, Failure> {
    let spec = load_kind(path, kind, "apply")?;
    let fleet = spec.fleet.clone();
    let client = shell.client().await?;
    let (plan, now) = ask_plan(&client, &spec, recreate.clone()).await?;
    shell.console.text(plan.text())?;
    if how.dry_run {
        note_locks(shell, now.as_ref(), kind);
        shell.console.text("dry run: nothing was changed")?;
        return finish(shell, &ApplyView { plan, revision: None, changed: false, rollout: None });
    }
    let source = source(how, path);
    let sending = Sending { client: &client, spec: &spec, source, how, recreate };
    let (applied, plan) = send(shell, &sending, plan).await?;
    let ApplyResponse { revision, changed, .. } = applied;
    let mut view = ApplyView { plan, revision: Some(revision), changed, rollout: None };
    let under_way = now.is_some_and(|now| now.is_under_way(revision));
    say_revision(shell, &applied, under_way)?;
    if !how.wait && (changed || under_way) {
        shell.console.note(format!("follow it with `shoal rollout watch {fleet}`"));
    }
    if !how.wait {
        return finish(shell, &view);
    }
    let patience = Patience::Limited(how.timeout);
    let ended = watch::follow(shell, &client, &fleet, revision, patience).await?;
    let verdict = conclude(shell, &client, &fleet, &applied, &ended).await;
    view.rollout = Some(ended);
    finish(shell, &view)?;
    verdict
}

/// The document of an apply; people have read all of it by now.
fn finish(shell: &Shell, view: &ApplyView) -> Result<Exit, Failure> {
    if shell.console.is_json() {
        shell.console.result("", view)?;
    }
    Ok(Exit::Done)
}

/// What is to be applied, and how.
struct Sending<'a> {
    client: &'a Client,
    spec: &'a FleetSpec,
    source: String,
    how: &'a ApplyOptions,
    /// What is to be made afresh.
    recreate: Option<Recreate>,
}

/// Applies what was planned. Where the fleet is locked, plans and tries again for as long as the
/// user said, until Ctrl-C.
async fn send(
    shell: &Shell,
    sending: &Sending<'_>,
    plan: PlanView,
) -> Result<(ApplyResponse, PlanView), Failure> {
    if sending.how.lock_wait.is_none() {
        return Ok((send_once(sending, &plan).await?, plan));
    }
    tokio::select! {
        biased;
        sent = send_when_free(shell, sending, plan) => sent,
        () = interrupted() => {
            Err(LockError::Interrupted { fleet: sending.spec.fleet.to_string() }.into())
        }
    }
}

async fn send_when_free(
    shell: &Shell,
    sending: &Sending<'_>,
    mut plan: PlanView,
) -> Result<(ApplyResponse, PlanView), Failure> {
    let mut attempts = Attempts::new(shell.console, sending.how.lock_wait);
    loop {
        let failure = match send_once(sending, &plan).await {
            Ok(applied) => return Ok((applied, plan)),
            Err(failure) => failure,
        };
        if !attempts.again(&failure).await {
            return Err(failure);
        }
        let (by_now, _) = ask_plan(sending.client, sending.spec, sending.recreate.clone()).await?;
        if by_now != plan {
            shell.console.text(by_now.text())?;
        }
        plan = by_now;
    }
}

async fn send_once(sending: &Sending<'_>, plan: &PlanView) -> Result<ApplyResponse, Failure> {
    let Sending { client, spec, source, how, recreate } = sending;
    let doing = format!("apply fleet {}", spec.fleet);
    let offline = if how.skip_offline { OfflineHosts::Skip } else { OfflineHosts::Wait };
    let request = ApplyRequest {
        spec: Some((*spec).clone().into()),
        base_revision: Some(plan.base_revision),
        timeout_ms: millis(how.timeout),
        source: source.clone(),
        offline: offline.into(),
        replace: how.replace,
        recreate: recreate.clone(),
    };
    let reply = client.fleets().apply(client.ask(request)).await;
    Ok(reply.map_err(client.refused(doing))?.into_inner())
}

/// Where the spec comes from: what the user says, the commit that CI builds, or the file.
fn source(how: &ApplyOptions, path: &Path) -> String {
    let commit = || {
        let names = ["CI_COMMIT_SHA", "GITHUB_SHA"];
        names.iter().find_map(|name| std::env::var(name).ok()).filter(|commit| !commit.is_empty())
    };
    how.source.clone().or_else(commit).unwrap_or_else(|| path.display().to_string())
}

fn say_revision(
    shell: &Shell,
    applied: &ApplyResponse,
    under_way: bool,
) -> Result<(), OutputError> {
    let revision = applied.revision;
    shell.console.text(match (applied.changed, under_way) {
        (true, _) => format!("revision {revision}"),
        (false, true) => format!("revision {revision} as before: its rollout is under way"),
        (false, false) => format!("revision {revision} as before: nothing to do"),
    })
}

/// What the end of the rollout means. Where this apply changed nothing, the rollout may be long
/// over, and hosts may have caught up since: then what counts is how the fleet is now.
async fn conclude(
    shell: &Shell,
    client: &Client,
    fleet: &FleetName,
    applied: &ApplyResponse,
    ended: &RolloutView,
) -> Result<Exit, Failure> {
    if !applied.changed
        && ended.is_over()
        && ended.state != State::Completed
        && fetch(client, fleet.as_str()).await?.ready
    {
        shell.console.note(format!("every instance of {fleet} is as wanted by now"));
        return Ok(Exit::Done);
    }
    let said = watch::conclude(ended, Goal::Forward)?;
    Ok(shell.console.text(said).map(|()| Exit::Done)?)
}
