//! Hosts.

pub(crate) mod drain;
pub(crate) mod token;
mod transfer;

use std::collections::BTreeMap;

use serde::Serialize;
use shoal_core::agent_upgrade::{AgentSpec, AgentStatus, Phase};
use shoal_core::host::Cordon;
use shoal_core::infra::Status;
use shoal_core::policy::Policy;
use shoal_core::time::Timestamp;
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1;

use self::transfer::TransferView;
use super::infra::HostStateView;
use crate::output::size::bytes;
use crate::output::table::{Cell, Table, Tone, details};
use crate::output::text::printable;
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct HostsView {
    pub(crate) hosts: Vec<HostView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct HostView {
    pub(crate) name: String,
    id: String,
    labels: BTreeMap<String, String>,
    pub(crate) online: bool,
    /// Since when it is online, or is not.
    since: Option<At>,
    pub(crate) last_heard: Option<At>,
    enrolled: At,
    certificate_expires: At,
    /// Of the desired state, and the one that the last status reflects.
    pub(crate) generation: u64,
    pub(crate) observed_generation: Option<u64>,
    instances: usize,
    /// Digests of the images that are staged.
    images: Vec<String>,
    /// Images on their way, and those that came last.
    transfers: Vec<TransferView>,
    retained: Vec<RetainedView>,
    problems: Vec<String>,
    /// Absent where the host has none and is to have none.
    pub(crate) infra: Option<HostStateView>,
    /// Why it takes no new instances; absent where it does.
    pub(crate) cordon: Option<CordonView>,
    /// The agent that it is to run; absent where it may be any.
    agent: Option<WantedAgentView>,
    pub(crate) facts: Option<FactsView>,
}

/// The agent that a host is to run, and how far it is with that.
#[derive(Debug, Serialize)]
pub(crate) struct WantedAgentView {
    version: String,
    digest: String,
    /// Absent where the host has not said so yet.
    phase: Option<Phase>,
    /// Why, or how far; may be empty.
    message: String,
}

impl WantedAgentView {
    fn read(wanted: v1::AgentSpec, told: Option<v1::AgentStatus>) -> Result<Self, Invalid> {
        let wanted = AgentSpec::try_from(wanted)?;
        let told = told.map(AgentStatus::try_from).transpose()?;
        let told = told.filter(|told| told.is_about(&wanted));
        Ok(Self {
            version: wanted.version.to_string(),
            digest: wanted.digest.to_string(),
            phase: told.as_ref().map(|told| told.phase),
            message: told.map(|told| told.message).unwrap_or_default(),
        })
    }

    /// `0.3.0: confirmed`.
    fn text(&self) -> String {
        let Self { version, phase, message, .. } = self;
        let how = phase.map_or_else(|| "not told yet".to_owned(), |phase| phase.to_string());
        let why = if message.is_empty() { String::new() } else { format!(": {message}") };
        printable(&format!("{version}: {how}{why}"))
    }
}

/// Why a host takes no new instances.
#[derive(Debug, Serialize)]
pub(crate) struct CordonView {
    by: String,
    reason: String,
    since: At,
    /// Whether it keeps none either.
    drains: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RetainedView {
    pub(crate) machine: String,
    pub(crate) volumes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FactsView {
    os: String,
    kernel: String,
    architecture: String,
    systemd: String,
    cpus: u32,
    memory_bytes: u64,
    disk_total_bytes: u64,
    disk_free_bytes: u64,
    idmapped_squashfs: bool,
    pub(crate) agent: String,
    boot_id: String,
    /// How other hosts reach it.
    address: Option<String>,
    max_files: u64,
    max_tasks: u64,
    /// What its root allows, as in its policy.toml.
    policy: Policy,
}

impl TryFrom<v1::HostFacts> for FactsView {
    type Error = Invalid;

    fn try_from(wire: v1::HostFacts) -> Result<Self, Invalid> {
        let v1::HostFacts {
            os,
            kernel,
            architecture,
            systemd,
            cpus,
            memory,
            disk_total,
            disk_free,
            idmapped_squashfs,
            agent,
            boot_id,
            address,
            max_files,
            max_tasks,
            policy,
        } = wire;
        let policy = policy.map(Policy::try_from).transpose()?.unwrap_or_default();
        Ok(Self {
            os,
            kernel,
            architecture,
            systemd,
            cpus,
            memory_bytes: memory,
            disk_total_bytes: disk_total,
            disk_free_bytes: disk_free,
            idmapped_squashfs,
            agent,
            boot_id,
            address,
            max_files,
            max_tasks,
            policy,
        })
    }
}

impl From<v1::Cordon> for CordonView {
    fn from(wire: v1::Cordon) -> Self {
        let v1::Cordon { by, reason, since_ms, drains } = wire;
        Self { by, reason, since: At::new(since_ms), drains }
    }
}

impl CordonView {
    /// `cordoned (ann: bad disk)`.
    pub(crate) fn text(&self) -> String {
        let Self { by, reason, drains, since: _ } = self;
        let (by, reason) = (by.clone(), reason.clone());
        let cordon = Cordon { by, reason, since: Timestamp::default(), drains: *drains };
        printable(&cordon.to_string())
    }
}

impl From<v1::RetainedData> for RetainedView {
    fn from(wire: v1::RetainedData) -> Self {
        let v1::RetainedData { machine, volumes } = wire;
        Self { machine, volumes }
    }
}

impl TryFrom<v1::Host> for HostView {
    type Error = Invalid;

    fn try_from(wire: v1::Host) -> Result<Self, Invalid> {
        let v1::Host {
            id,
            name,
            labels,
            facts,
            online,
            since_ms,
            last_heard_ms,
            enrolled_ms,
            generation,
            certificate_expires_ms,
            status,
            cordon,
            agent,
        } = wire;
        let observed_generation = status.as_ref().map(|status| status.observed_generation);
        let v1::HostStatus {
            observed_generation: _,
            instances,
            images,
            retained,
            problems,
            agent: told,
            infra,
            transfers,
            serves: _,
        } = status.unwrap_or_default();
        let infra = infra.map(Status::try_from).transpose()?;
        let images = images.iter().map(|image| Ok(digest("images", image)?.to_string()));
        Ok(Self {
            name,
            id,
            labels,
            online,
            since: At::unless_never(since_ms),
            last_heard: At::unless_never(last_heard_ms),
            enrolled: At::new(enrolled_ms),
            certificate_expires: At::new(certificate_expires_ms),
            generation,
            observed_generation,
            instances: instances.len(),
            images: images.collect::<Result<_, Invalid>>()?,
            transfers: transfers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            retained: retained.into_iter().map(Into::into).collect(),
            problems,
            infra: infra.map(Into::into),
            cordon: cordon.map(Into::into),
            agent: agent.map(|agent| WantedAgentView::read(agent, told)).transpose()?,
            facts: facts.map(FactsView::try_from).transpose()?,
        })
    }
}

impl HostsView {
    pub(crate) fn read(hosts: Vec<v1::Host>) -> Result<Self, Invalid> {
        let hosts: Result<_, _> = hosts.into_iter().map(HostView::try_from).collect();
        Ok(Self { hosts: hosts? })
    }

    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let header = &["HOST", "STATUS", "SINCE", "INSTANCES", "OS", "AGENT", "LABELS", "PROBLEMS"];
        let mut table = Table::new(header);
        for host in &self.hosts {
            let facts = |field: fn(&FactsView) -> &str| host.facts.as_ref().map_or("", field);
            let problems = Cell::toned(host.problems.len(), problem_tone(&host.problems));
            table.row(vec![
                (&host.name).into(),
                host.status(),
                host.since.map_or(String::new(), |since| since.ago(now)).into(),
                host.instances.into(),
                facts(|facts| &facts.os).into(),
                facts(|facts| &facts.agent).into(),
                host.labels(",").into(),
                problems,
            ]);
        }
        table.render(color, "No hosts. `shoal host token create` shows how to enrol one.")
    }
}

impl HostView {
    /// `KEY=VALUE` for each label.
    pub(crate) fn labels(&self, between: &str) -> String {
        let labels: Vec<String> =
            self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.join(between)
    }

    fn status(&self) -> Cell {
        let (state, tone) = match (self.online, self.last_heard) {
            (true, _) => ("online", Tone::Good),
            (false, Some(_)) => ("offline", Tone::Bad),
            (false, None) => ("never seen", Tone::Waiting),
        };
        match &self.cordon {
            None => Cell::toned(state, tone),
            // It is how someone wants it, and still the first thing to know of it.
            Some(CordonView { drains, .. }) => {
                let cordon = if *drains { "drained" } else { "cordoned" };
                let tone = if self.online { Tone::Waiting } else { tone };
                Cell::toned(format!("{state}, {cordon}"), tone)
            }
        }
    }

    pub(crate) fn details(&self, now: Timestamp) -> String {
        let when =
            |at: Option<At>| at.map_or("never".into(), |at| format!("{at} ({})", at.ago(now)));
        let status = match self.since {
            Some(_) if self.online => format!("online since {}", when(self.since)),
            Some(_) => format!("offline since {}", when(self.since)),
            None => "never seen".to_owned(),
        };
        let expiry = self.certificate_expires;
        let observed = match self.observed_generation {
            Some(observed) if observed == self.generation => "reached".to_owned(),
            Some(observed) => format!("the host is at {observed}"),
            None => "no status yet".to_owned(),
        };
        let mut fields = vec![
            ("Name", self.name.clone()),
            ("Id", self.id.clone()),
            ("Labels", self.labels("\n")),
            ("Status", status),
        ];
        if let Some(cordon) = &self.cordon {
            let since = when(Some(cordon.since));
            fields.push(("Cordon", format!("{} since {since}", cordon.text())));
        }
        if let Some(agent) = &self.agent {
            fields.push(("Agent wanted", agent.text()));
        }
        fields.extend([
            ("Last heard", when(self.last_heard)),
            ("Enrolled", when(Some(self.enrolled))),
            ("Certificate", format!("expires {expiry} ({})", expiry.relative(now))),
            ("Generation", format!("{} ({observed})", self.generation)),
            ("Instances", self.instances.to_string()),
        ]);
        fields.extend(self.infra.as_ref().map(|infra| ("Infra", infra.text(now))));
        fields.extend([("Images staged", self.images.len().to_string())]);
        let coming: Vec<String> = self.transfers.iter().filter_map(TransferView::text).collect();
        if !coming.is_empty() {
            fields.push(("Images coming", coming.join("\n")));
        }
        fields.extend([
            ("Retained data", self.retained()),
            ("Problems", self.problems.iter().map(|p| printable(p)).collect::<Vec<_>>().join("\n")),
        ]);
        if let Some(facts) = &self.facts {
            fields.extend(facts.fields());
        }
        details(&fields)
    }

    fn retained(&self) -> String {
        self.retained.iter().map(RetainedView::text).collect::<Vec<_>>().join("\n")
    }
}

impl RetainedView {
    /// `shop-db: var, log`.
    pub(crate) fn text(&self) -> String {
        let Self { machine, volumes } = self;
        printable(&format!("{machine}: {}", volumes.join(", ")))
    }
}

/// What is said of data that outlives its instances on a host; nothing where there is none.
pub(crate) fn stays(host: &str, retained: &[RetainedView]) -> Vec<String> {
    let mut lines = Vec::new();
    if !retained.is_empty() {
        lines.push(format!("data volumes that stay on {host} (how large they are is not known):"));
    }
    lines.extend(retained.iter().map(|data| format!("  {}", data.text())));
    lines
}

impl FactsView {
    fn fields(&self) -> Vec<(&'static str, String)> {
        let idmapped = if self.idmapped_squashfs {
            "yes".to_owned()
        } else {
            "no: this kernel can't give images a user namespace".to_owned()
        };
        let disk =
            format!("{} free of {}", bytes(self.disk_free_bytes), bytes(self.disk_total_bytes));
        vec![
            ("OS", self.os.clone()),
            ("Kernel", self.kernel.clone()),
            ("Architecture", self.architecture.clone()),
            ("systemd", self.systemd.clone()),
            ("CPUs", self.cpus.to_string()),
            ("Memory", bytes(self.memory_bytes)),
            ("Disk", disk),
            ("Idmapped squashfs", idmapped),
            ("Agent", self.agent.clone()),
            ("Address", self.address.clone().unwrap_or_else(|| "not known yet".to_owned())),
            ("Boot id", self.boot_id.clone()),
        ]
    }
}

fn problem_tone(problems: &[String]) -> Tone {
    if problems.is_empty() { Tone::Faint } else { Tone::Bad }
}

#[cfg(test)]
mod tests;
