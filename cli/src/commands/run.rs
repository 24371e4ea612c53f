//! `shoal start`, `stop`, `restart`, `pause` and `unpause`: recorded as desired state, then waited for.

use std::time::Duration;

use serde::Serialize;
use shoal_core::name::InstanceId;
use shoal_core::rollout::FAILURE_PATIENCE;
use shoal_core::status::{HostStatus, State, Verdict};
use shoal_proto::convert::Invalid;
use shoal_proto::v1::{GetHostRequest, RunTarget, RunVerb, SetRunRequest};
use tokio::time::Instant;

use super::Shell;
use crate::args::instance::RunArgs;
use crate::client::{Client, ReplyError};
use crate::exit::{Exit, Failure};

/// The shortest and the longest time that hosts are left alone before they are asked again whether
/// it is done.
const PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(400));
/// In between, it is this part of what they have been waited for already: so what is seen late is
/// hardly later than it is.
const PART: u32 = 32;

/// Why an instance is not as the operator wants it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("no host runs {instance}, so there is nothing to {verb}; see `shoal ps`")]
    NoTarget { instance: String, verb: &'static str },
    #[error("cannot {verb} {instance}: {}; `shoal logs {instance}@{first}` says more", .hosts.join("; "))]
    Failed { instance: String, verb: &'static str, hosts: Vec<String>, first: String },
    #[error(
        "not done in time, {verb} {instance}: {}; it is recorded and goes on", .hosts.join("; ")
    )]
    TimedOut { instance: String, verb: &'static str, hosts: Vec<String> },
    #[error(
        "cannot {verb} {instance} now: {}; it is recorded, and done when the agent is back",
        .hosts.join("; ")
    )]
    Offline { instance: String, verb: &'static str, hosts: Vec<String> },
}

#[derive(Debug, Serialize)]
struct RunView {
    instance: String,
    hosts: Vec<HostRunView>,
}

#[derive(Debug, Clone, Serialize)]
struct HostRunView {
    host: String,
    generation: u64,
    changed: bool,
    outcome: Outcome,
    reason: Option<String>,
}

/// How one host's part of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// Recorded, and not (yet) waited for.
    Recorded,
    Done,
    Offline,
    Failed,
    TimedOut,
}

pub(super) async fn run(shell: &Shell, args: RunArgs, verb: RunVerb) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = SetRunRequest {
        instance: args.target.instance.to_string(),
        host: args.target.host_name(),
        verb: verb.into(),
    };
    let doing = format!("{} {}", name(verb), args.target);
    let reply = client.instances().set_run(client.ask(request)).await;
    let reply = reply.map_err(client.refused(doing))?.into_inner();
    let mut hosts: Vec<HostRunView> = reply.targets.into_iter().map(recorded).collect();
    if hosts.is_empty() {
        let instance = args.target.to_string();
        return Err(RunError::NoTarget { instance, verb: name(verb) }.into());
    }
    if !args.no_wait {
        wait(&client, &args, verb, &mut hosts).await?;
    }
    let view = RunView { instance: args.target.instance.to_string(), hosts };
    shell.console.result(text(&view, verb), &view)?;
    conclude(&view, verb)?;
    Ok(Exit::Done)
}

fn name(verb: RunVerb) -> &'static str {
    match verb {
        RunVerb::Start => "start",
        RunVerb::Stop => "stop",
        RunVerb::Restart => "restart",
        RunVerb::Pause => "pause",
        RunVerb::Unpause => "unpause",
        RunVerb::Unspecified => "change",
    }
}

fn recorded(target: RunTarget) -> HostRunView {
    let RunTarget { host, generation, changed } = target;
    HostRunView { host, generation, changed, outcome: Outcome::Recorded, reason: None }
}

/// Waits until each host has done it, can't, or the time is over.
async fn wait(
    client: &Client,
    args: &RunArgs,
    verb: RunVerb,
    hosts: &mut [HostRunView],
) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let patient = started.elapsed() < FAILURE_PATIENCE;
        for host in hosts.iter_mut().filter(|host| host.outcome == Outcome::Recorded) {
            look(client, &args.target.instance, verb, patient, host).await?;
        }
        if hosts.iter().all(|host| host.outcome != Outcome::Recorded) {
            return Ok(());
        }
        if started.elapsed() >= args.timeout {
            let late = hosts.iter_mut().filter(|host| host.outcome == Outcome::Recorded);
            late.for_each(|host| host.outcome = Outcome::TimedOut);
            return Ok(());
        }
        tokio::time::sleep(pause_after(started.elapsed())).await;
    }
}

/// How long to wait for the next look after having waited for so long.
fn pause_after(waited: Duration) -> Duration {
    (waited / PART).clamp(PAUSES.0, PAUSES.1)
}

async fn look(
    client: &Client,
    instance: &InstanceId,
    verb: RunVerb,
    patient: bool,
    host: &mut HostRunView,
) -> Result<(), Failure> {
    let doing = format!("see how host {} is", host.host);
    let reply = client.hosts().get(client.ask(GetHostRequest { name: host.host.clone() })).await;
    let reply = match reply.map_err(client.refused(doing)) {
        Ok(reply) => reply.into_inner(),
        // It is recorded; a controller that restarts meanwhile does not change that.
        Err(error) if error.is_lost() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let about = || ReplyError::about(format!("host {}", host.host));
    let wire = reply.host.ok_or(Invalid::Missing("host")).map_err(about())?;
    if !wire.online {
        host.outcome = Outcome::Offline;
        host.reason = Some("the host is offline".to_owned());
        return Ok(());
    }
    let status = wire.status.map(HostStatus::try_from).transpose().map_err(about())?;
    let (outcome, reason) = judge(status.as_ref(), host.generation, instance, verb, patient);
    (host.outcome, host.reason) = (outcome, reason);
    Ok(())
}

/// How far a host is that reported `status`.
fn judge(
    status: Option<&HostStatus>,
    generation: u64,
    instance: &InstanceId,
    verb: RunVerb,
    patient: bool,
) -> (Outcome, Option<String>) {
    let waits = |why: &str| (Outcome::Recorded, Some(why.to_owned()));
    let Some(status) = status.filter(|status| status.observed_generation >= generation) else {
        return waits("waits for the agent");
    };
    let Some(instance) = status.instances.iter().find(|found| found.id == *instance) else {
        return waits("the host has not said anything of it yet");
    };
    match (instance.verdict(), verb) {
        (_, RunVerb::Stop) if instance.state == State::Stopped => (Outcome::Done, None),
        (_, RunVerb::Stop) => waits(&instance.state.to_string()),
        // Hands off, or not: that is so as soon as the agent knows of it.
        (_, RunVerb::Pause | RunVerb::Unpause) => (Outcome::Done, None),
        (Verdict::Ready, _) if instance.state == State::Stopped => waits("still stopped"),
        (Verdict::Ready, _) => (Outcome::Done, None),
        (Verdict::Failed(why), _) if !patient => (Outcome::Failed, Some(why)),
        (Verdict::Failed(why) | Verdict::Waiting(why), _) => (Outcome::Recorded, Some(why)),
    }
}

fn text(view: &RunView, verb: RunVerb) -> String {
    let done = match verb {
        RunVerb::Start => "started",
        RunVerb::Stop => "stopped",
        RunVerb::Restart => "restarted",
        RunVerb::Pause => "paused",
        RunVerb::Unpause => "unpaused",
        RunVerb::Unspecified => "changed",
    };
    let line = |host: &HostRunView| {
        let what = match (host.outcome, host.changed) {
            (Outcome::Done, true) => done.to_owned(),
            (Outcome::Done, false) => format!("{done} (it was already)"),
            (Outcome::Recorded, _) => format!("will be {done}"),
            (Outcome::Offline, _) => format!("will be {done} when the host is back"),
            (Outcome::Failed, _) => "failed".to_owned(),
            (Outcome::TimedOut, _) => format!("not {done} yet"),
        };
        format!("{}@{}: {what}", view.instance, host.host)
    };
    view.hosts.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The worst that any host has to say.
fn conclude(view: &RunView, verb: RunVerb) -> Result<(), RunError> {
    let (instance, verb) = (view.instance.clone(), name(verb));
    let those = |outcome| -> Vec<String> {
        let those = view.hosts.iter().filter(|host| host.outcome == outcome);
        let line = |host: &HostRunView| match &host.reason {
            Some(why) => format!("{}: {why}", host.host),
            None => host.host.clone(),
        };
        those.map(line).collect()
    };
    let (failed, late, offline) =
        (those(Outcome::Failed), those(Outcome::TimedOut), those(Outcome::Offline));
    let first = view.hosts.iter().find(|host| host.outcome == Outcome::Failed);
    // The logs of one are enough to begin with.
    if let Some(first) = first.map(|host| host.host.clone()) {
        return Err(RunError::Failed { instance, verb, hosts: failed, first });
    }
    if !late.is_empty() {
        return Err(RunError::TimedOut { instance, verb, hosts: late });
    }
    if !offline.is_empty() {
        return Err(RunError::Offline { instance, verb, hosts: offline });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
