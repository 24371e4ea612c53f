//! The infra: what version each host has, and how far it is on its way to another.

use std::collections::BTreeSet;

use serde::Serialize;
use shoal_core::infra::{Mode, Phase, Status};
use shoal_core::time::Timestamp;

use super::fleet::FleetView;
use super::host::{HostView, HostsView};
use crate::output::table::{Cell, Table, Tone};
use crate::output::text::printable;
use crate::output::time::At;

/// All hosts that have an infra or are to have one.
#[derive(Debug, Serialize)]
pub(crate) struct InfraView {
    /// The newest revision of the infra; absent where nobody has applied one.
    revision: Option<u64>,
    /// Whether every host is proven to have what is wanted.
    pub(crate) ready: bool,
    hosts: Vec<HostInfraView>,
    /// Where not all hosts are to have that revision, or not yet.
    behind: Option<String>,
}

#[derive(Debug, Serialize)]
struct HostInfraView {
    host: String,
    online: bool,
    last_heard: Option<At>,
    #[serde(flatten)]
    infra: HostStateView,
    ready: bool,
    not_ready_because: Option<String>,
}

/// What a host says of its infra.
#[derive(Debug, Default, Serialize)]
pub(crate) struct HostStateView {
    /// The version that it has written down.
    has: Option<String>,
    since: Option<At>,
    /// The version that it is being brought to.
    wants: Option<String>,
    /// How it gets there. Absent where nothing is wanted.
    mode: Option<Mode>,
    /// Absent where the host has not said anything yet.
    phase: Option<Phase>,
    /// What it waits for.
    waits: Option<String>,
    /// Revisions of the infra from before which it has the data.
    snapshots: Vec<u64>,
}

impl From<Status> for HostStateView {
    fn from(status: Status) -> Self {
        let Status { has, since, wants, phase, waits, snapshots } = status;
        let mode = wants.as_ref().map(|wants| match Mode::of(has.as_ref(), wants, None) {
            // A host that has no version has nothing to take a snapshot of.
            Mode::New if phase == Phase::Data => Mode::Restore,
            mode => mode,
        });
        Self {
            has: has.map(|has| has.to_string()),
            since: since.map(|since| At::new(since.0)),
            wants: wants.map(|wants| wants.to_string()),
            mode,
            phase: Some(phase),
            waits,
            snapshots,
        }
    }
}

impl HostStateView {
    /// All of it, of one host.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let Self { has, since, wants, mode, phase, waits, snapshots } = self;
        let since = since.map(|since| format!(" since {since} ({})", since.ago(now)));
        let has_it = format!("{}{}", named(has.as_ref()), since.unwrap_or_default());
        let mut text = match (wants, mode, phase) {
            (Some(wants), Some(mode), Some(phase)) if *phase != Phase::Done => {
                let why = waits.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
                format!("{} -> {wants} ({mode}): {phase}{why}", named(has.as_ref()))
            }
            (Some(_), ..) => has_it,
            (None, ..) => format!("{has_it}; none is wanted any more"),
        };
        if !snapshots.is_empty() {
            let revisions: Vec<String> = snapshots.iter().map(ToString::to_string).collect();
            text += &format!("\ndata kept from before revision {}", revisions.join(", "));
        }
        text.lines().map(printable).collect::<Vec<_>>().join("\n")
    }
}

fn named(version: Option<&String>) -> &str {
    version.map_or("none", String::as_str)
}

impl HostInfraView {
    fn new(host: HostView) -> Self {
        let because = why_not_ready(&host);
        Self {
            host: host.name,
            online: host.online,
            last_heard: host.last_heard,
            infra: host.infra.unwrap_or_default(),
            ready: because.is_none(),
            not_ready_because: because,
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let HostStateView { has, since, wants, mode, phase, waits: _, snapshots: _ } = &self.infra;
        let tone = match (self.ready, self.online) {
            (true, _) => Tone::Good,
            (false, true) => Tone::Waiting,
            (false, false) => Tone::Bad,
        };
        let text = |it: Option<&String>| Cell::from(it.map_or("", String::as_str));
        vec![
            (&self.host).into(),
            text(has.as_ref()),
            text(wants.as_ref()),
            mode.map_or_else(|| "".into(), Cell::from),
            Cell::toned(phase.map_or("unknown".to_owned(), |phase| phase.to_string()), tone),
            since.map_or_else(|| "".into(), |since| since.ago(now).into()),
            text(self.not_ready_because.as_ref()),
        ]
    }
}

/// Why a host is not proven to have what is wanted; `None` where it is.
fn why_not_ready(host: &HostView) -> Option<String> {
    if !host.online {
        return Some("the host is offline".to_owned());
    }
    let Some(infra) = &host.infra else {
        return Some("the host has not said anything of its infra yet".to_owned());
    };
    if host.observed_generation != Some(host.generation) {
        return Some("the host does not know yet what is wanted now".to_owned());
    }
    match (infra.phase, &infra.waits) {
        (Some(Phase::Done), _) if infra.wants.is_none() || infra.wants == infra.has => None,
        (_, Some(waits)) => Some(waits.clone()),
        (Some(phase), None) => Some(format!("its phase is {phase}")),
        (None, None) => Some("the host has not said how far it is".to_owned()),
    }
}

impl InfraView {
    /// `fleet` is that of the infra, where someone has applied one.
    pub(crate) fn new(fleet: Option<&FleetView>, hosts: HostsView) -> Self {
        let wanted: BTreeSet<&str> = fleet.iter().flat_map(|fleet| fleet.wanted_hosts()).collect();
        let concerned =
            |host: &HostView| host.infra.is_some() || wanted.contains(host.name.as_str());
        let hosts = hosts.hosts.into_iter().filter(concerned).map(HostInfraView::new);
        let hosts: Vec<HostInfraView> = hosts.collect();
        let behind = fleet.and_then(FleetView::behind_text);
        let ready = behind.is_none() && hosts.iter().all(|host| host.ready);
        Self { revision: fleet.map(|fleet| fleet.revision), ready, hosts, behind }
    }

    pub(crate) fn text(&self, now: Timestamp, color: bool) -> String {
        let header = &["HOST", "HAS", "WANTS", "MODE", "PHASE", "SINCE", "WAITS"];
        let mut table = Table::new(header);
        self.hosts.iter().for_each(|host| table.row(host.row(now)));
        let empty = match self.revision {
            None => "No infra. `shoal infra apply infra.toml` makes one.".to_owned(),
            Some(revision) => format!("No host is to have the infra (revision {revision})."),
        };
        let mut parts = vec![table.render(color, &empty)];
        let away = self.hosts.iter().filter(|host| !host.online);
        let away: Vec<String> = away.map(|host| host.last_heard_text(now)).collect();
        if !away.is_empty() {
            parts.push(format!("Offline, and shown as last heard of: {}", away.join(", ")));
        }
        if let Some(behind) = &self.behind {
            parts.push(format!("{behind}; see `shoal rollout show infra`"));
        }
        parts.join("\n\n")
    }
}

impl HostInfraView {
    fn last_heard_text(&self, now: Timestamp) -> String {
        let heard = self.last_heard.map_or("never".to_owned(), |heard| heard.ago(now));
        format!("{} ({heard})", self.host)
    }
}
