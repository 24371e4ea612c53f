//! `shoal check`, `plan`, `apply` and `status`.

use serde::Serialize;
use shoal_core::fleet::FleetSpec;
use shoal_core::name::FleetName;
use shoal_proto::convert::millis;
use shoal_proto::v1::{
    ApplyRequest, ApplyResponse, GetFleetStatusRequest, ListFleetsRequest, PlanRequest,
};

use super::fleet_file::load;
use super::{Shell, watch};
use crate::args::fleet::{ApplyArgs, CheckArgs, PlanArgs, StatusArgs};
use crate::client::{Client, ReplyError};
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::output::text::count;
use crate::view::fleet::{FleetView, FleetsView};
use crate::view::plan::PlanView;
use crate::view::rollout::{RolloutView, State};

#[derive(Debug, Serialize)]
struct CheckView {
    file: String,
    fleet: String,
    instances: Vec<String>,
}

pub(super) fn check(shell: &Shell, args: &CheckArgs) -> Result<Exit, Failure> {
    let spec = load(args.file.path())?;
    let file = args.file.path().display().to_string();
    let instances: Vec<String> = spec.instances.keys().map(ToString::to_string).collect();
    let said = format!("{file}: fleet {} with {}", spec.fleet, count(instances.len(), "instance"));
    let view = CheckView { file, fleet: spec.fleet.to_string(), instances };
    shell.console.result(said, &view)?;
    Ok(Exit::Done)
}

pub(super) async fn plan(shell: &Shell, args: &PlanArgs) -> Result<Exit, Failure> {
    let spec = load(args.file.path())?;
    let plan = ask_plan(&shell.client().await?, &spec).await?;
    shell.console.result(plan.text(), &plan)?;
    // Where the last rollout failed there is something to do, even if nothing differs.
    let something = plan.changes_anything || plan.retries;
    Ok(if something { Exit::Differs } else { Exit::Done })
}

async fn ask_plan(client: &Client, spec: &FleetSpec) -> Result<PlanView, Failure> {
    let fleet = spec.fleet.as_str();
    let request = client.ask(PlanRequest { spec: Some(spec.clone().into()) });
    let reply = client.fleets().plan(request).await;
    let reply = reply.map_err(client.refused(format!("plan fleet {fleet}")))?.into_inner();
    Ok(PlanView::read(fleet, reply).map_err(ReplyError::about(format!("fleet {fleet}")))?)
}

#[derive(Debug, Serialize)]
struct ApplyView {
    plan: PlanView,
    /// Absent with `--dry-run`.
    revision: Option<u64>,
    /// Whether this apply made the revision.
    changed: bool,
    /// With `--wait`, how the rollout ended.
    rollout: Option<RolloutView>,
}

pub(super) async fn apply(shell: &Shell, args: ApplyArgs) -> Result<Exit, Failure> {
    let spec = load(args.file.path())?;
    let client = shell.client().await?;
    let plan = ask_plan(&client, &spec).await?;
    shell.console.text(plan.text())?;
    let mut view = ApplyView { plan, revision: None, changed: false, rollout: None };
    if args.dry_run {
        shell.console.text("dry run: nothing was changed")?;
        return finish(shell, &view);
    }
    let fleet = spec.fleet.clone();
    let applied = send(&client, spec, &view.plan, &args).await?;
    view.revision = Some(applied.revision);
    view.changed = applied.changed;
    say_revision(shell, &fleet, &applied, args.wait)?;
    if !args.wait {
        return finish(shell, &view);
    }
    let limit = Some(args.timeout);
    let ended = watch::follow(shell, &client, &fleet, applied.revision, limit).await?;
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

async fn send(
    client: &Client,
    spec: FleetSpec,
    plan: &PlanView,
    args: &ApplyArgs,
) -> Result<ApplyResponse, Failure> {
    let doing = format!("apply fleet {}", spec.fleet);
    let request = ApplyRequest {
        spec: Some(spec.into()),
        base_revision: Some(plan.base_revision),
        timeout_ms: millis(args.timeout),
        source: source(args),
    };
    let reply = client.fleets().apply(client.ask(request)).await;
    Ok(reply.map_err(client.refused(doing))?.into_inner())
}

/// Where the spec comes from: what the user says, the commit that CI builds, or the file.
fn source(args: &ApplyArgs) -> String {
    let commit = || {
        let names = ["CI_COMMIT_SHA", "GITHUB_SHA"];
        names.iter().find_map(|name| std::env::var(name).ok()).filter(|commit| !commit.is_empty())
    };
    let file = || args.file.path().display().to_string();
    args.source.clone().or_else(commit).unwrap_or_else(file)
}

fn say_revision(
    shell: &Shell,
    fleet: &FleetName,
    applied: &ApplyResponse,
    wait: bool,
) -> Result<(), Failure> {
    let revision = applied.revision;
    if !applied.changed {
        return Ok(shell.console.text(format!("revision {revision} as before: nothing to do"))?);
    }
    shell.console.text(format!("revision {revision}"))?;
    if !wait {
        shell.console.note(format!("follow it with `shoal rollout watch {fleet}`"));
    }
    Ok(())
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
        && ended.state != State::Completed
        && fetch(client, fleet.as_str()).await?.ready
    {
        shell.console.note(format!("every instance of {fleet} is as wanted by now"));
        return Ok(Exit::Done);
    }
    watch::conclude(ended)?;
    Ok(shell.console.text(watch::success(ended)).map(|()| Exit::Done)?)
}

pub(super) async fn status(shell: &Shell, args: StatusArgs) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let (now, color) = (clock::now(), shell.console.color());
    let ready = match args.fleet {
        Some(fleet) => {
            let view = fetch(&client, fleet.as_str()).await?;
            shell.console.result(view.text(now, color), &view)?;
            view.ready
        }
        None => {
            let view = fetch_all(&client).await?;
            shell.console.result(view.table(now, color), &view)?;
            view.is_ready()
        }
    };
    Ok(if ready { Exit::Done } else { Exit::Differs })
}

async fn fetch(client: &Client, fleet: &str) -> Result<FleetView, Failure> {
    let request = client.ask(GetFleetStatusRequest { fleet: fleet.to_owned() });
    let reply = client.fleets().get_status(request).await;
    let reply = reply.map_err(client.refused(format!("show fleet {fleet}")))?.into_inner();
    Ok(FleetView::try_from(reply).map_err(ReplyError::about(format!("fleet {fleet}")))?)
}

async fn fetch_all(client: &Client) -> Result<FleetsView, Failure> {
    let reply = client.fleets().list(client.ask(ListFleetsRequest {})).await;
    let reply = reply.map_err(client.refused("list fleets"))?.into_inner();
    let mut fleets = Vec::new();
    for fleet in reply.fleets {
        fleets.push(fetch(client, &fleet.name).await?);
    }
    Ok(FleetsView { fleets })
}
