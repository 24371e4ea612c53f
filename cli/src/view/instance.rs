//! Instances: what is wanted, what was observed, and whether the two agree.

use serde::Serialize;
use shoal_core::spec::{InstanceSpec, RunState};
use shoal_core::status::{Health, InstanceStatus, State, Verdict};
use shoal_core::time::Timestamp;
use shoal_proto::convert::Invalid;
use shoal_proto::v1;

use super::host::RetainedView;
use crate::output::table::{Cell, Table, Tone};
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct InstancesView {
    pub(crate) instances: Vec<InstanceView>,
}

/// One instance on one host.
#[derive(Debug, Serialize)]
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
    /// Whether it is proven to be as wanted.
    pub(crate) ready: bool,
    /// Why it is not.
    pub(crate) not_ready_because: Option<String>,
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
            message: observed.and_then(|observed| observed.message),
            ready: because.is_none(),
            not_ready_because: because,
        })
    }
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
    if observed.revision < wanted.revision {
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
        let header = &["HOST", "INSTANCE", "IMAGE", "DIGEST", "STATE", "HEALTH", "SINCE"];
        let mut table = Table::new(header);
        for instance in &self.instances {
            let digest = instance.digest.as_deref().unwrap_or_default();
            table.row(vec![
                (&instance.host).into(),
                (&instance.instance).into(),
                instance.image.clone().unwrap_or_default().into(),
                digest.get(..12).unwrap_or(digest).into(),
                instance.state_cell(),
                instance.health_cell(),
                instance.when(now).into(),
            ]);
        }
        table.render(color, "No instances.")
    }

    /// A line for each that is not as wanted.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complain = |instance: &InstanceView| {
            let InstanceView { instance, host, not_ready_because, .. } = instance;
            let why = not_ready_because.as_deref().unwrap_or_default();
            format!("{instance}@{host}: {}", crate::output::text::printable(why))
        };
        self.not_ready().map(complain).collect()
    }
}

impl InstanceView {
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted != "absent"
    }

    fn state_cell(&self) -> Cell {
        let tone = match self.state.as_str() {
            "running" => Tone::Good,
            "failed" | "blocked" => Tone::Bad,
            "unknown" | "stopped" => Tone::Faint,
            _ => Tone::Waiting,
        };
        let leaving = if self.is_wanted() { "" } else { " (being removed)" };
        Cell::toned(format!("{}{leaving}", self.state), tone)
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
    #[serde(flatten)]
    data: RetainedView,
}

impl DataView {
    pub(crate) fn read(retained: Vec<v1::HostRetained>) -> Result<Self, Invalid> {
        let read = |wire| {
            let v1::HostRetained { host, data } = wire;
            Ok(HostDataView { host, data: data.ok_or(Invalid::Missing("data"))?.into() })
        };
        Ok(Self { data: retained.into_iter().map(read).collect::<Result<_, Invalid>>()? })
    }

    pub(crate) fn table(&self, color: bool) -> String {
        let mut table = Table::new(&["HOST", "MACHINE", "VOLUME"]);
        for HostDataView { host, data: RetainedView { machine, volumes } } in &self.data {
            for volume in volumes {
                table.row(vec![host.into(), machine.into(), volume.into()]);
            }
        }
        table.render(color, "No data without an instance.")
    }
}
