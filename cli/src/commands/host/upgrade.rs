//! `shoal host upgrade`: one host, then two, four and so on, each followed to its end.
//!
//! What can be known beforehand is looked at for all hosts before anything is sent or said to any.
//! The order to a host is part of its desired state, so that it holds when this ends early.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use shoal_core::agent_upgrade::{AgentSpec, AgentStatus, Phase};
use shoal_proto::convert::{Invalid, millis};
use shoal_proto::v1::{
    AgentProgram, GetHostRequest, Host, ListHostsRequest, UpgradeAgentRequest, UpgradeAgentResponse,
};
use tokio::time::{Duration, Instant};

use crate::args::host::UpgradeArgs;
use crate::client::{Client, ReplyError};
use crate::commands::agent::{Program, known, push};
use crate::commands::{Shell, interrupted};
use crate::exit::Failure;
use crate::output::Console;
use crate::output::text::printable;

/// How often is looked how far the hosts are.
const PAUSE: Duration = Duration::from_millis(400);

/// Why not every host runs the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error(
        "nothing was sent: agent {version} is for {}, and these hosts are of another kind:{}\n\
         build or download it for them, `shoal agent push` it, and upgrade by its version",
        .there.join(", "), indented(.hosts)
    )]
    OtherProcessor { version: String, there: Vec<String>, hosts: Vec<String> },
    #[error(
        "there is no agent {version}, and no file of that name; `shoal agent list` shows the \
         versions that there are"
    )]
    Unknown { version: String },
    #[error("there is no such host; `shoal host list` shows the hosts and their labels")]
    NoHosts,
    #[error("agent {version} was rejected, and the agents before run on:{}", indented(.hosts))]
    Rejected { version: String, hosts: Vec<String>, none: bool },
    #[error(
        "the time is up, and agent {version} is not on every host:{}\nwhat was begun goes on; \
         `shoal host show HOST` tells how far it is", indented(.hosts)
    )]
    TimedOut { version: String, hosts: Vec<String> },
    #[error(
        "hosts are offline and get agent {version} when they are back:{}", indented(.hosts)
    )]
    Offline { version: String, hosts: Vec<String> },
    #[error(
        "the agents of these hosts are too old to upgrade themselves; do it as they were \
         installed, this once:{}", indented(.hosts)
    )]
    TooOld { hosts: Vec<String> },
    #[error(
        "interrupted: hosts that were told go on by themselves, the others stay as they are; run \
         the same command again to go on"
    )]
    Interrupted,
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// It runs the agent, which has proved itself.
    Confirmed,
    /// The agent was refused or put back.
    Rejected,
    /// It gets the agent when it is back.
    Offline,
    TimedOut,
    /// Its agent does not know of this.
    TooOld,
    /// Another host failed before.
    NotTried,
    /// Its agent may be any from now on.
    Released,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Offline => "offline",
            Self::TimedOut => "not there yet",
            Self::TooOld => "too old",
            Self::NotTried => "not tried",
            Self::Released => "released",
        })
    }
}

#[derive(Debug, Clone, Serialize)]
struct OneView {
    host: String,
    /// The version that ran before.
    before: String,
    outcome: Outcome,
    /// Why, or how far; may be empty.
    reason: String,
}

#[derive(Debug, Serialize)]
struct UpgradeView {
    /// Absent where the hosts were released.
    version: Option<String>,
    hosts: Vec<OneView>,
}

pub(super) async fn run(shell: &Shell, client: &Client, args: UpgradeArgs) -> Result<(), Failure> {
    let hosts = chosen(client, &args).await?;
    let going = async {
        let Some(agent) = &args.agent else { return release(client, &hosts).await };
        let version = bring(shell.console, client, agent, &hosts).await?;
        let mut upgrade = Upgrading { console: shell.console, client, args: &args, version };
        upgrade.run(&hosts).await
    };
    let view = tokio::select! {
        ended = going => ended?,
        () = interrupted() => return Err(UpgradeError::Interrupted.into()),
    };
    shell.console.result(text(&view), &view)?;
    conclude(&view)?;
    Ok(())
}

/// The hosts that are meant, those that are online first.
async fn chosen(client: &Client, args: &UpgradeArgs) -> Result<Vec<Host>, Failure> {
    let mut hosts = Vec::new();
    if args.names.is_empty() {
        let selector = args.selector.clone().map(String::from).unwrap_or_default();
        let reply = client.hosts().list(client.ask(ListHostsRequest { selector })).await;
        hosts = reply.map_err(client.refused("list hosts"))?.into_inner().hosts;
    }
    for name in &args.names {
        let host = look(client, name.as_str()).await?;
        if !hosts.iter().any(|known: &Host| known.id == host.id) {
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        return Err(UpgradeError::NoHosts.into());
    }
    hosts.sort_by_key(|host| !host.online);
    Ok(hosts)
}

async fn look(client: &Client, name: &str) -> Result<Host, Failure> {
    let request = client.ask(GetHostRequest { name: name.to_owned() });
    let reply = client.hosts().get(request).await;
    let reply = reply.map_err(client.refused(format!("see how host {name} is")))?.into_inner();
    let host = reply.host.ok_or(Invalid::Missing("host"));
    Ok(host.map_err(ReplyError::about(format!("host {name}")))?)
}

/// Makes sure that the controller has a program for each host; gives its version. Nothing is sent
/// where a host can't run it.
async fn bring(
    console: Console,
    client: &Client,
    agent: &str,
    hosts: &[Host],
) -> Result<String, Failure> {
    let path = Path::new(agent);
    let program = match agent.contains('/') || path.exists() {
        true => Some(Program::read(path)?),
        false => None,
    };
    let version = program.as_ref().map_or(agent, |program| program.about.version.as_str());
    let known = known(client).await?;
    let mut there: Vec<String> = of_version(&known, version);
    there.extend(program.as_ref().map(|program| program.about.architecture.to_owned()));
    there.sort();
    there.dedup();
    if there.is_empty() {
        return Err(UpgradeError::Unknown { version: version.to_owned() }.into());
    }
    let version = version.to_owned();
    let others = others(hosts, &there);
    if !others.is_empty() {
        return Err(UpgradeError::OtherProcessor { version, there, hosts: others }.into());
    }
    if let Some(program) = &program {
        push(console, client, program).await?;
    }
    Ok(version)
}

/// The kinds of processors that there are programs of this version for.
fn of_version(known: &[AgentProgram], version: &str) -> Vec<String> {
    let of = known.iter().filter(|program| program.version == version);
    of.map(|program| program.architecture.clone()).collect()
}

/// The hosts that can't run any of these.
fn others(hosts: &[Host], there: &[String]) -> Vec<String> {
    let kind = |host: &Host| {
        let facts = host.facts.as_ref().map(|facts| facts.architecture.clone());
        facts.filter(|kind| !kind.is_empty())
    };
    let other = |host: &Host| match kind(host) {
        Some(kind) if there.contains(&kind) => None,
        Some(kind) => Some(format!("{}: {}", host.name, printable(&kind))),
        None => Some(format!("{}: has never said which processor it has", host.name)),
    };
    hosts.iter().filter_map(other).collect()
}

async fn release(client: &Client, hosts: &[Host]) -> Result<UpgradeView, Failure> {
    let mut view = UpgradeView { version: None, hosts: Vec::new() };
    for host in hosts {
        let request = UpgradeAgentRequest { host: host.name.clone(), ..Default::default() };
        let reply = client.agents().upgrade(client.ask(request)).await;
        reply.map_err(client.refused(format!("release the agent of host {}", host.name)))?;
        let (before, reason) = (running(host), String::new());
        let outcome = Outcome::Released;
        view.hosts.push(OneView { host: host.name.clone(), before, outcome, reason });
    }
    Ok(view)
}

/// The version of the agent that a host has said that it runs.
fn running(host: &Host) -> String {
    host.facts.as_ref().map(|facts| printable(&facts.agent)).unwrap_or_default()
}

struct Upgrading<'a> {
    console: Console,
    client: &'a Client,
    args: &'a UpgradeArgs,
    version: String,
}

/// A host that was told.
struct Told {
    host: String,
    before: String,
    was_online: bool,
    told: UpgradeAgentResponse,
    /// What was said of it last.
    said: String,
    ended: Option<(Outcome, String)>,
}

impl Upgrading<'_> {
    async fn run(&mut self, hosts: &[Host]) -> Result<UpgradeView, Failure> {
        let mut view = UpgradeView { version: Some(self.version.clone()), hosts: Vec::new() };
        let (mut rest, mut at_once, mut failed) = (hosts, 1, false);
        while !rest.is_empty() && (!failed || self.args.keep_going) {
            let (now, later) = rest.split_at(at_once.min(rest.len()));
            let ended = self.group(now).await?;
            failed |= ended
                .iter()
                .any(|host| !matches!(host.outcome, Outcome::Confirmed | Outcome::Offline));
            view.hosts.extend(ended);
            (rest, at_once) = (later, at_once * 2);
        }
        let left = rest.iter().map(|host| OneView {
            host: host.name.clone(),
            before: running(host),
            outcome: Outcome::NotTried,
            reason: "another host failed before; --keep-going tries all".into(),
        });
        view.hosts.extend(left);
        Ok(view)
    }

    /// Tells some hosts, and follows them to their ends.
    async fn group(&self, hosts: &[Host]) -> Result<Vec<OneView>, Failure> {
        let mut group = Vec::new();
        for host in hosts {
            group.push(self.tell(host).await?);
        }
        let until = Instant::now() + self.args.timeout;
        while group.iter().any(|told| told.ended.is_none()) {
            for told in group.iter_mut().filter(|told| told.ended.is_none()) {
                self.follow(told).await?;
            }
            if Instant::now() >= until {
                let late = group.iter_mut().filter(|told| told.ended.is_none());
                late.for_each(|told| told.ended = Some((Outcome::TimedOut, told.said.clone())));
            } else if group.iter().any(|told| told.ended.is_none()) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let view = |told: Told| {
            let (outcome, reason) = told.ended.unwrap_or((Outcome::TimedOut, told.said));
            OneView { host: told.host, before: told.before, outcome, reason }
        };
        Ok(group.into_iter().map(view).collect())
    }

    async fn tell(&self, host: &Host) -> Result<Told, Failure> {
        let request = UpgradeAgentRequest {
            host: host.name.clone(),
            version: self.version.clone(),
            deadline_ms: millis(self.args.deadline),
        };
        let reply = self.client.agents().upgrade(self.client.ask(request)).await;
        let doing = format!("upgrade the agent of host {}", host.name);
        let told = reply.map_err(self.client.refused(doing))?.into_inner();
        let (before, was_online) = (running(host), host.online);
        let host = host.name.clone();
        Ok(Told { host, before, was_online, told, said: String::new(), ended: None })
    }

    async fn follow(&self, told: &mut Told) -> Result<(), Failure> {
        let host = match look(self.client, &told.host).await {
            Ok(host) => host,
            // It was told; a controller that restarts meanwhile does not change that.
            Err(Failure::Remote(error)) if error.is_lost() => return Ok(()),
            Err(error) => return Err(error),
        };
        let about = ReplyError::about(format!("host {}", told.host));
        let (said, ended) = judge(&host, told).map_err(about)?;
        if said != told.said {
            self.console.note(format!("{}: {said}", told.host));
            told.said = said;
        }
        told.ended = ended;
        Ok(())
    }
}

/// How far a host is, and how it ended where it has.
fn judge(host: &Host, told: &Told) -> Result<(String, Option<(Outcome, String)>), Invalid> {
    let UpgradeAgentResponse { generation, agent, changed: _ } = told.told.clone();
    let wanted = AgentSpec::try_from(agent.ok_or(Invalid::Missing("agent"))?)?;
    let status = host.status.clone().unwrap_or_default();
    let of_this = status.agent.map(AgentStatus::try_from).transpose()?;
    let of_this = of_this.filter(|status| status.is_about(&wanted));
    let ended =
        |outcome, why: String| Ok((format!("{outcome}{}", after(&why)), Some((outcome, why))));
    match &of_this {
        Some(AgentStatus { phase: Phase::Current, .. }) => {
            return ended(Outcome::Confirmed, String::new());
        }
        Some(AgentStatus { phase: Phase::Rejected, message, .. }) => {
            return ended(Outcome::Rejected, printable(message));
        }
        _ if !host.online && !told.was_online => {
            return ended(Outcome::Offline, String::new());
        }
        None if host.online && status.observed_generation >= generation => {
            return ended(Outcome::TooOld, format!("its agent is {}", running(host)));
        }
        _ => {}
    }
    let said = match of_this {
        // How far a transfer is would be a line for each look.
        Some(AgentStatus { phase: Phase::Fetching, .. }) => Phase::Fetching.to_string(),
        Some(AgentStatus { phase, message, .. }) => {
            format!("{phase}{}", after(&printable(&message)))
        }
        None => "told".to_owned(),
    };
    Ok((said, None))
}

/// `: why`, where there is a reason.
fn after(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

fn text(view: &UpgradeView) -> String {
    let line = |host: &OneView| {
        let OneView { host, before, outcome, reason: _ } = host;
        match (&view.version, outcome) {
            (Some(version), Outcome::Confirmed) if version == before => {
                format!("{host}: runs agent {version}")
            }
            (Some(version), Outcome::Confirmed) => {
                format!("{host}: runs agent {version}; it was {before}")
            }
            (_, Outcome::Released) => format!("{host}: keeps agent {before}, or any other"),
            (_, outcome) => format!("{host}: {outcome}; agent {before} runs there"),
        }
    };
    view.hosts.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The worst that any host has to say.
fn conclude(view: &UpgradeView) -> Result<(), UpgradeError> {
    let version = view.version.clone().unwrap_or_default();
    let are = |outcomes: &[Outcome]| -> Vec<String> {
        let those = view.hosts.iter().filter(|host| outcomes.contains(&host.outcome));
        those
            .map(|host| format!("{}: {}{}", host.host, host.outcome, after(&host.reason)))
            .collect()
    };
    let none = are(&[Outcome::Confirmed]).is_empty();
    if !are(&[Outcome::Rejected]).is_empty() {
        let left = [Outcome::Rejected, Outcome::TimedOut, Outcome::TooOld, Outcome::NotTried];
        return Err(UpgradeError::Rejected { version, hosts: are(&left), none });
    }
    let (old, late) = (are(&[Outcome::TooOld]), are(&[Outcome::TimedOut, Outcome::NotTried]));
    if !old.is_empty() {
        return Err(UpgradeError::TooOld { hosts: are(&[Outcome::TooOld, Outcome::NotTried]) });
    }
    if !late.is_empty() {
        return Err(UpgradeError::TimedOut { version, hosts: late });
    }
    let offline = are(&[Outcome::Offline]);
    if offline.is_empty() { Ok(()) } else { Err(UpgradeError::Offline { version, hosts: offline }) }
}

#[cfg(test)]
mod tests;
