//! Instances: what is wanted, what was observed, and whether the two agree.

use serde::Serialize;
use shoal_core::name::{InstanceId, InstanceName};
use shoal_core::spec::{InstanceSpec, RunState};
use shoal_core::status::{Health, InstanceStatus, LastExit, State, Verdict};
use shoal_core::time::Timestamp;
use shoal_proto::convert::Invalid;
use shoal_proto::v1;

use super::host::RetainedView;
use crate::output::table::{Cell, Table, Tone};
use crate::output::text::{count, printable};
use crate::output::time::At;

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct InstancesView {
    pub(crate) instances: Vec<InstanceView>,
}

/// One instance on one host.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct InstanceView {
    pub(crate) host: String,
    pub(crate) host_online: bool,
    pub(crate) host_last_heard: Option<At>,
    /// `FLEET/INSTANCE`.
    pub(crate) instance: String,
    /// `running`, `stopped`, or `absent`.
    wanted: &'static str,
    /// What the host last said; `unknown` where it is offline or has said nothing.
    state: String,
    health: Option<String>,
    since: Option<At>,
    image: Option<String>,
    digest: Option<String>,
    revision: Option<u64>,
    restarts: Option<u32>,
    message: Option<String>,
    /// Why the agent took it back to the last configuration that was healthy.
    went_back: Option<String>,
    /// Whether the agent keeps its hands off, or is about to.
    paused: bool,
    /// What was found not to be as it should.
    drift: Vec<String>,
    /// How it ended the last time that it did without being told to.
    last_exit: Option<LastExitView>,
    /// Of its own network, as seen inside.
    addresses: Vec<String>,
    /// Whether it is proven to be as wanted.
    pub(crate) ready: bool,
    /// Why it is not.
    pub(crate) not_ready_because: Option<String>,
}

/// How a container ended.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct LastExitView {
    time: At,
    reason: String,
}

impl From<LastExit> for LastExitView {
    fn from(exit: LastExit) -> Self {
        let LastExit { at, reason } = exit;
        Self { time: At::new(at.0), reason }
    }
}

impl TryFrom<v1::Instance> for InstanceView {
    type Error = Invalid;

    fn try_from(wire: v1::Instance) -> Result<Self, Invalid> {
        let v1::Instance { host, host_online, host_last_heard_ms, wanted, observed } = wire;
        let wanted: Option<InstanceSpec> = wanted.map(TryInto::try_into).transpose()?;
        let observed: Option<InstanceStatus> = observed.map(TryInto::try_into).transpose()?;
        let instance = match (&wanted, &observed) {
            (Some(wanted), _) => wanted.id.to_string(),
            (None, Some(observed)) => observed.id.to_string(),
            (None, None) => return Err(Invalid::Missing("wanted")),
        };
        let because = why_not_ready(host_online, wanted.as_ref(), observed.as_ref());
        let trusted = observed.as_ref().filter(|_| host_online);
        let pinned = wanted.as_ref().map(|wanted| &wanted.config.image);
        Ok(Self {
            host,
            host_online,
            host_last_heard: At::unless_never(host_last_heard_ms),
            instance,
            wanted: wanted.as_ref().map_or("absent", |wanted| run_name(wanted.run)),
            state: trusted.map_or("unknown".to_owned(), |observed| observed.state.to_string()),
            health: trusted.and_then(|observed| health_name(observed.health)),
            since: trusted.map(|observed| At::new(observed.since.0)),
            image: observed
                .as_ref()
                .map(|observed| observed.image.to_string())
                .or_else(|| pinned.map(|image| image.reference.to_string())),
            digest: observed
                .as_ref()
                .map(|observed| observed.digest.to_string())
                .or_else(|| pinned.map(|image| image.digest.to_string())),
            revision: observed.as_ref().map(|observed| observed.revision),
            restarts: observed.as_ref().map(|observed| observed.restarts),
            paused: wanted.is_some_and(|wanted| wanted.paused)
                || observed.as_ref().is_some_and(|observed| observed.paused),
            drift: observed.as_ref().map(|o| o.drift.clone()).unwrap_or_default(),
            addresses: observed.as_ref().map(addresses).unwrap_or_default(),
            last_exit: observed.as_ref().and_then(|o| o.last_exit.clone()).map(Into::into),
            went_back: observed.as_ref().and_then(|o| o.went_back.clone()),
            message: observed.and_then(|observed| observed.message),
            ready: because.is_none(),
            not_ready_because: because,
        })
    }
}

fn addresses(observed: &InstanceStatus) -> Vec<String> {
    observed.addresses.iter().map(ToString::to_string).collect()
}

fn run_name(run: RunState) -> &'static str {
    match run {
        RunState::Running => "running",
        RunState::Stopped => "stopped",
    }
}

/// `None` where nothing is checked.
fn health_name(health: Health) -> Option<String> {
    (health != Health::None).then(|| health.to_string())
}

/// Why an instance is not proven to be as wanted; `None` where it is.
fn why_not_ready(
    online: bool,
    wanted: Option<&InstanceSpec>,
    observed: Option<&InstanceStatus>,
) -> Option<String> {
    if !online {
        return Some("the host is offline".to_owned());
    }
    let Some(wanted) = wanted else { return Some("it is being removed".to_owned()) };
    let Some(observed) = observed else {
        return Some("the host has not said anything of it yet".to_owned());
    };
    // What runs then may be of an earlier revision, and the host knows the newer one all the same.
    if observed.revision < wanted.revision && observed.went_back.is_none() {
        return Some(format!("the host does not know revision {} yet", wanted.revision));
    }
    match (observed.verdict(), wanted.run, observed.state) {
        (Verdict::Ready, RunState::Running, State::Stopped) => Some("it is stopped".to_owned()),
        (Verdict::Ready, RunState::Stopped, State::Running) => Some("it still runs".to_owned()),
        (Verdict::Ready, _, _) => None,
        (Verdict::Waiting(why) | Verdict::Failed(why), _, _) => Some(why),
    }
}

impl InstancesView {
    pub(crate) fn read(instances: Vec<v1::Instance>) -> Result<Self, Invalid> {
        let instances: Result<_, _> = instances.into_iter().map(InstanceView::try_from).collect();
        Ok(Self { instances: instances? })
    }

    /// Those that are wanted and not proven to be as wanted.
    pub(crate) fn not_ready(&self) -> impl Iterator<Item = &InstanceView> {
        self.instances.iter().filter(|instance| instance.is_wanted() && !instance.ready)
    }

    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        // A column only where there is anything to say in it.
        let notes: Vec<String> =
            self.instances.iter().map(|instance| instance.note(Some(now))).collect();
        let has_notes = notes.iter().any(|note| !note.is_empty());
        let header = if has_notes { &HEADER[..] } else { &HEADER[..HEADER.len() - 1] };
        let mut table = Table::new(header);
        for (instance, note) in self.instances.iter().zip(notes) {
            let mut row = vec![
                (&instance.instance).into(),
                (&instance.host).into(),
                instance.state_cell(),
                instance.health_cell(),
                instance.restarts.map(|restarts| restarts.to_string()).unwrap_or_default().into(),
                instance.image.clone().unwrap_or_default().into(),
                instance.when(now).into(),
            ];
            row.extend(has_notes.then(|| note.into()));
            table.row(row);
        }
        table.render(color, "No instances.")
    }

    /// A line for each that is not as wanted.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complain = |instance: &InstanceView| {
            let why = instance.not_ready_because.as_deref().unwrap_or_default();
            format!("{}: {}", instance.name(), printable(why))
        };
        self.not_ready().map(complain).collect()
    }
}

/// The columns of a table of instances; the last may be left out.
const HEADER: [&str; 8] =
    ["INSTANCE", "HOST", "STATE", "HEALTH", "RESTARTS", "IMAGE", "SINCE", "MESSAGE"];

impl InstanceView {
    /// `FLEET/INSTANCE@HOST`.
    pub(crate) fn name(&self) -> String {
        format!("{}@{}", self.instance, self.host)
    }

    /// How it is, in one line that differs exactly where that does.
    pub(crate) fn line(&self) -> String {
        let mut parts = vec![self.state_text()];
        parts.extend(self.health.clone());
        parts.extend(
            self.restarts
                .map(|restarts| count(usize::try_from(restarts).unwrap_or(usize::MAX), "restart")),
        );
        if !self.host_online {
            parts.push("host offline".to_owned());
        }
        let note = self.note(None);
        let note = if note.is_empty() { note } else { format!(": {}", printable(&note)) };
        format!("{}{note}", parts.join(", "))
    }

    /// What is to be said besides: why it is not as wanted, what was found, or how it last ended.
    /// With its age where the time is given.
    fn note(&self, now: Option<Timestamp>) -> String {
        if !self.host_online {
            return String::new();
        }
        let why = self.not_ready_because.as_ref().filter(|_| self.is_wanted()).cloned();
        let drift =
            || (!self.drift.is_empty()).then(|| format!("drift: {}", self.drift.join("; ")));
        let ended = self.last_exit.as_ref().map(|LastExitView { time, reason }| match now {
            Some(now) => format!("{reason}, {}", time.ago(now)),
            None => reason.clone(),
        });
        match (why.or_else(drift), ended, &self.last_exit) {
            (Some(why), Some(ended), Some(exit)) if !why.contains(&exit.reason) => {
                format!("{why}; last exit: {ended}")
            }
            (Some(why), _, _) => why,
            (None, ended, _) => ended.unwrap_or_default(),
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted != "absent"
    }

    fn state_cell(&self) -> Cell {
        let tone = match self.state.as_str() {
            "running" if !self.paused => Tone::Good,
            "failed" | "blocked" | "degraded" => Tone::Bad,
            _ if self.paused => Tone::Waiting,
            "unknown" | "stopped" => Tone::Faint,
            _ => Tone::Waiting,
        };
        Cell::toned(self.state_text(), tone)
    }

    fn state_text(&self) -> String {
        let paused = if self.paused { " (paused)" } else { "" };
        let leaving = if self.is_wanted() { "" } else { " (being removed)" };
        format!("{}{paused}{leaving}", self.state)
    }

    fn health_cell(&self) -> Cell {
        let health = self.health.as_deref().unwrap_or_default();
        let tone = match health {
            "healthy" => Tone::Good,
            "unhealthy" => Tone::Bad,
            "" => Tone::Faint,
            _ => Tone::Waiting,
        };
        Cell::toned(health, tone)
    }

    /// Since when it is so; of a host that is offline, when it was last heard.
    fn when(&self, now: Timestamp) -> String {
        if self.host_online {
            return self.since.map_or(String::new(), |since| since.ago(now));
        }
        match self.host_last_heard {
            Some(heard) => format!("offline, last seen {}", heard.ago(now)),
            None => "never seen".to_owned(),
        }
    }
}

/// Data volumes whose instances are gone.
#[derive(Debug, Serialize)]
pub(crate) struct DataView {
    data: Vec<HostDataView>,
}

#[derive(Debug, Serialize)]
struct HostDataView {
    host: String,
    /// `FLEET/INSTANCE`; absent where the machine's name could be that of several.
    instance: Option<String>,
    #[serde(flatten)]
    data: RetainedView,
}

impl DataView {
    /// `fleets` are the names of all that there are or were.
    pub(crate) fn read(
        retained: Vec<v1::HostRetained>,
        fleets: &[String],
    ) -> Result<Self, Invalid> {
        let read = |wire| {
            let v1::HostRetained { host, data } = wire;
            let data: RetainedView = data.ok_or(Invalid::Missing("data"))?.into();
            Ok(HostDataView { host, instance: instance_of(&data.machine, fleets), data })
        };
        Ok(Self { data: retained.into_iter().map(read).collect::<Result<_, Invalid>>()? })
    }

    pub(crate) fn table(&self, color: bool) -> String {
        let mut table = Table::new(&["HOST", "INSTANCE", "VOLUME"]);
        for HostDataView { host, instance, data } in &self.data {
            let RetainedView { machine, volumes } = data;
            let name = instance.clone().unwrap_or_else(|| format!("machine {machine}"));
            for volume in volumes {
                table.row(vec![host.into(), (&name).into(), volume.into()]);
            }
        }
        table.render(color, "No data without an instance.")
    }
}

/// The one instance that a machine can be of, by its name.
fn instance_of(machine: &str, fleets: &[String]) -> Option<String> {
    let of = |fleet: &String| {
        let rest = machine.strip_prefix(fleet.as_str())?.strip_prefix('-')?;
        let (fleet, instance) = (fleet.parse().ok()?, rest.parse::<InstanceName>().ok()?);
        Some(InstanceId { fleet, instance }.to_string())
    };
    let mut found = fleets.iter().filter_map(of);
    let only = found.next()?;
    found.next().is_none().then_some(only)
}
