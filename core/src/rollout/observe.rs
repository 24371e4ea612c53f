//! What is known of a rollout's hosts, taken in.

use std::time::Duration;

use super::{HostProgress, Outcome, Rollout, State};
use crate::agent_program::AgentVersion;
use crate::agent_upgrade;
use crate::infra::{self, Phase};
use crate::name::{FleetName, HostId, InfraVersion};
use crate::status::{self, HostStatus, InstanceStatus, Verdict};
use crate::time::Timestamp;

/// What is known of a host at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// Whether its agent is connected.
    pub online: bool,
    /// Its last status.
    pub status: Option<&'a HostStatus>,
    /// Whether it has all images of the revision there.
    pub staged: bool,
    /// Why it can't get one of them, where its agent says so.
    pub unstaged: Option<&'a str>,
    /// The infra version that it was told last, where the rollout is of the infra and brings one.
    pub infra: Option<&'a InfraVersion>,
    /// The agent that such a rollout brings.
    pub agent: Option<&'a AgentVersion>,
}

/// How long after its first failure an instance that fails again is called failed: agents try
/// again by themselves, and a service that needs two attempts at boot is no failure.
pub const FAILURE_PATIENCE: Duration = Duration::from_secs(15);

/// How long a host that was told and then went offline holds up its batch: agents reconnect, and
/// hosts reboot.
pub const OFFLINE_PATIENCE: Duration = Duration::from_secs(60);

/// Takes in what is known of each host.
pub(super) fn look<'a>(
    rollout: &mut Rollout,
    observe: impl Fn(&HostId) -> Observation<'a>,
    now: Timestamp,
) {
    let watched = matches!(rollout.state, State::Changing | State::Monitoring);
    let mut disturbed = false;
    for (id, host) in &mut rollout.hosts {
        let seen = observe(id);
        let proving = watched && host.batch == Some(rollout.batch);
        let worked = matches!(host.outcome, Outcome::Ready | Outcome::Back);
        connection(host, seen.online, now);
        host.staged |= seen.staged;
        let outcome = match (host.generation, host.back) {
            (Some(_), _) | (_, Some(_)) if !seen.online => gone(host, now),
            (_, Some(back)) => returning(&rollout.fleet, back, seen),
            // It waits to be told to go back.
            (Some(_), None) if host.returning => continue,
            (Some(generation), None) => {
                hear(host, generation, seen, now);
                known(&rollout.fleet, generation, seen)
            }
            (None, _) if !seen.online => Known::Now(Outcome::Offline),
            (None, _) if host.staging.is_some() && !host.staged => staging(seen),
            (None, _) => Known::Now(Outcome::Pending),
        };
        note(host, outcome, now);
        if restarted(host, &rollout.fleet, seen) && proving {
            host.outcome = Outcome::Changing("an instance was restarted; watched anew".into());
            disturbed = true;
        }
        let works = matches!(host.outcome, Outcome::Ready | Outcome::Back);
        if worked && !works && !proving {
            // It has its time anew: it took none of it to get where it was.
            host.since = Some(now);
        }
    }
    if disturbed {
        rollout.ready_since = None;
    }
}

fn connection(host: &mut HostProgress, online: bool, now: Timestamp) {
    match (online, host.offline_since) {
        (true, Some(left)) => {
            host.offline_since = None;
            // Its time stood still; one that was given up has it anew.
            let anew = host.outcome == Outcome::Offline;
            let shifted = |since: Timestamp| since.after(now.since(left)).min(now);
            host.since = host.since.map(|since| if anew { now } else { shifted(since) });
        }
        (false, None) => host.offline_since = Some(now),
        _ => {}
    }
}

/// A host's time begins anew when its agent first says that it has the revision: it may have
/// been cut off while nobody looked, as when the controller was down.
fn hear(host: &mut HostProgress, generation: u64, seen: Observation<'_>, now: Timestamp) {
    let heard = seen.status.is_some_and(|status| status.observed_generation >= generation);
    if heard && !host.heard {
        host.heard = true;
        host.since = Some(now);
    }
}

/// A host that gets the revision's images.
fn staging(seen: Observation<'_>) -> Known {
    match seen.unstaged {
        Some(why) => Known::Failing(format!("its images do not arrive: {why}")),
        None => Known::Now(Outcome::Staging),
    }
}

/// What a look says.
enum Known {
    /// This, as of now.
    Now(Outcome),
    /// A failure, which may pass.
    Failing(String),
}

/// A host that was told and is offline: it is waited for a while, unless it was offline then.
fn gone(host: &mut HostProgress, now: Timestamp) -> Known {
    let since = host.offline_since.unwrap_or(now);
    if host.outcome == Outcome::Offline {
        return Known::Now(Outcome::Offline);
    }
    if now.since(since) >= OFFLINE_PATIENCE {
        host.lost = true;
        return Known::Now(Outcome::Offline);
    }
    let why = "went offline; waits for it to return".to_owned();
    Known::Now(if host.back.is_some() { Outcome::GoingBack(why) } else { Outcome::Changing(why) })
}

fn known(fleet: &FleetName, generation: u64, seen: Observation<'_>) -> Known {
    let waiting = |why: &str| Known::Now(Outcome::Changing(why.into()));
    let Some(status) = seen.status else { return waiting("waits for the agent's first report") };
    if status.observed_generation < generation {
        return waiting("waits for the agent");
    }
    let of_fleet = |i: &&InstanceStatus| i.id.fleet == *fleet;
    let own = proven(status.instances.iter().filter(of_fleet));
    let (Some(wants), false) = (seen.infra, matches!(own, Known::Failing(_))) else { return own };
    if matches!(own, Known::Now(Outcome::Failed(_))) {
        return own;
    }
    let Some(infra) = &status.infra else {
        return waiting("its agent knows no infra versions; upgrade it");
    };
    let agent = agent(seen, status);
    if let Some(rejected @ Known::Now(Outcome::Failed(_))) = agent {
        return rejected;
    }
    if has(infra, wants) {
        return agent.unwrap_or(own);
    }
    match apps(fleet, seen) {
        failing @ Known::Failing(_) => failing,
        Known::Now(_) => Known::Now(Outcome::Changing(way(infra, wants))),
    }
}

/// What a host says of the agent that the rollout brings; `None` where it runs it, or none is
/// brought.
fn agent(seen: Observation<'_>, status: &HostStatus) -> Option<Known> {
    let wants = seen.agent?;
    let waiting = |why: String| Some(Known::Now(Outcome::Changing(why)));
    let Some(agent) = status.agent.as_ref().filter(|agent| agent.version == *wants) else {
        return waiting(format!("agent {wants}: waits for the host to begin"));
    };
    let why = agent.pending()?;
    match agent.phase {
        agent_upgrade::Phase::Rejected => Some(Known::Now(Outcome::Failed(why))),
        _ => waiting(why),
    }
}

/// What the apps on a host say together of the version that it was told.
fn apps(fleet: &FleetName, seen: Observation<'_>) -> Known {
    let (Some(_), Some(status)) = (seen.infra, seen.status) else {
        return Known::Now(Outcome::Ready);
    };
    let harmed = |i: &&InstanceStatus| i.id.fleet != *fleet && is_harmed(i);
    proven(status.instances.iter().filter(harmed))
}

/// What the states of these instances say together.
fn proven<'a>(instances: impl Iterator<Item = &'a InstanceStatus>) -> Known {
    let mut awaited = None;
    for instance in instances {
        match instance.verdict() {
            Verdict::Ready => {}
            Verdict::Failed(why) if instance.went_back.is_some() => {
                return Known::Now(Outcome::Failed(format!("{}: {why}", instance.id)));
            }
            Verdict::Failed(why) => return Known::Failing(format!("{}: {why}", instance.id)),
            Verdict::Waiting(why) => {
                awaited.get_or_insert(format!("{}: {why}", instance.id));
            }
        }
    }
    Known::Now(awaited.map_or(Outcome::Ready, Outcome::Changing))
}

/// Whether a host has got to the version, and has written it down.
fn has(infra: &infra::Status, wants: &InfraVersion) -> bool {
    let has = infra.has.as_ref() == Some(wants) && infra.wants.as_ref() == Some(wants);
    has && infra.phase == Phase::Done
}

/// Whether the version may be what an app fails of: its container was made under it, or may not
/// run here at all. One that its agent took back has a rollout of its own to answer for it.
fn is_harmed(app: &InstanceStatus) -> bool {
    app.went_back.is_none() && (app.current || app.state == status::State::Blocked)
}

/// How far a host is on its way to a version.
fn way(infra: &infra::Status, wants: &InfraVersion) -> String {
    let infra::Status { has, wants: goes_to, phase, waits, .. } = infra;
    if goes_to.as_ref() != Some(wants) {
        let goes_to = goes_to.as_ref().map_or("none".to_owned(), ToString::to_string);
        return format!("infra {wants}: its agent goes for {goes_to}");
    }
    match (phase, waits, has) {
        (Phase::Done, _, has) => {
            let has = has.as_ref().map_or("none".to_owned(), ToString::to_string);
            format!("infra {wants}: has {has} on record")
        }
        (phase, Some(waits), _) => format!("infra {wants} ({phase}): {waits}"),
        (phase, None, _) => format!("infra {wants} ({phase})"),
    }
}

/// The same, of a host that was told to go back. The version that it goes back to may be on record
/// all the time: so the apps that were made afresh under it have to be looked at, too.
fn returning(fleet: &FleetName, generation: u64, seen: Observation<'_>) -> Known {
    let known = match known(fleet, generation, seen) {
        Known::Now(Outcome::Ready) => apps(fleet, seen),
        other => other,
    };
    match known {
        Known::Now(Outcome::Ready) => Known::Now(Outcome::Back),
        Known::Now(Outcome::Changing(why)) => Known::Now(Outcome::GoingBack(why)),
        other => other,
    }
}

/// Takes a host's outcome; a failure counts only when it has lasted. Being started once more is
/// no end of it: what fails over and over does that all the time.
fn note(host: &mut HostProgress, known: Known, now: Timestamp) {
    let failing = matches!(known, Known::Failing(_));
    let outcome = match known {
        Known::Failing(why) => {
            let since = *host.failing_since.get_or_insert(now);
            if now.since(since) >= FAILURE_PATIENCE {
                Outcome::Failed(why)
            } else if host.back.is_some() {
                Outcome::GoingBack(why)
            } else if host.generation.is_none() {
                Outcome::Staging
            } else {
                Outcome::Changing(why)
            }
        }
        Known::Now(outcome) => outcome,
    };
    let untold = host.generation.is_none() && host.back.is_none() && !failing;
    if untold || matches!(outcome, Outcome::Ready | Outcome::Back) {
        host.failing_since = None;
    }
    // What was called failed is so until it is proved not to be.
    let proof = matches!(outcome, Outcome::Ready | Outcome::Back | Outcome::Failed(_));
    if proof || !matches!(host.outcome, Outcome::Failed(_)) {
        host.outcome = outcome;
    }
}

/// Whether a ready host's instances were restarted since they were last seen ready.
fn restarted(host: &mut HostProgress, fleet: &FleetName, seen: Observation<'_>) -> bool {
    let (Outcome::Ready, Some(status)) = (&host.outcome, seen.status) else { return false };
    let instances = status.instances.iter().filter(|i| i.id.fleet == *fleet);
    let count = instances.map(|i| i.restarts).fold(0, u32::saturating_add);
    let before = host.restarts.replace(count);
    before.is_some_and(|before| count > before)
}
