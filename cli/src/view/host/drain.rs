//! What becomes of a host that is drained.

use serde::Serialize;
use shoal_proto::convert::Invalid;
use shoal_proto::v1::{self, DrainEnd};

use super::{RetainedView, stays};
use crate::output::text::{count, printable};
use crate::view::rollout::RolloutView;

#[derive(Debug, Serialize)]
pub(crate) struct DrainView {
    pub(crate) host: String,
    pub(crate) state: State,
    pub(crate) fleets: Vec<FleetView>,
    /// Data volumes whose instances are gone.
    retained: Vec<RetainedView>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Draining,
    Empty,
    Left,
    TimedOut,
}

#[derive(Debug, Serialize)]
pub(crate) struct FleetView {
    pub(crate) fleet: String,
    /// Those that are still there.
    pub(crate) instances: Vec<String>,
    /// What is awaited or, where it is over, why they are still there.
    pub(crate) why: Option<String>,
    /// Whether nothing more is awaited.
    over: bool,
    /// The rollout that moves them, once there is one.
    pub(crate) rollout: Option<RolloutView>,
}

impl DrainView {
    pub(crate) fn read(host: &str, wire: v1::DrainHostResponse) -> Result<Self, Invalid> {
        let v1::DrainHostResponse { fleets, retained, end } = wire;
        let state = match DrainEnd::try_from(end) {
            Ok(DrainEnd::Unspecified) => State::Draining,
            Ok(DrainEnd::Empty) => State::Empty,
            Ok(DrainEnd::Left) => State::Left,
            Ok(DrainEnd::TimedOut) => State::TimedOut,
            Err(_) => return Err(Invalid::Unknown { field: "end", value: end }),
        };
        let fleets: Result<_, _> = fleets.into_iter().map(FleetView::try_from).collect();
        let retained = retained.into_iter().map(Into::into).collect();
        Ok(Self { host: host.to_owned(), state, fleets: fleets?, retained })
    }

    /// What is new since `before`, a line each.
    pub(crate) fn news(&self, before: Option<&Self>) -> Vec<String> {
        let was = |fleet: &FleetView| {
            before.and_then(|before| before.fleets.iter().find(|old| old.fleet == fleet.fleet))
        };
        self.fleets.iter().flat_map(|fleet| fleet.news(was(fleet))).collect()
    }

    /// What it came to, for people; what is left is an error's to say.
    pub(crate) fn text(&self) -> String {
        let Self { host, fleets, .. } = self;
        let mut lines = Vec::new();
        if self.state == State::Empty {
            lines.push(format!(
                "host {host} is drained: nothing runs there, and it takes nothing until `shoal \
                 host uncordon {host}`"
            ));
        }
        lines.extend(fleets.iter().filter_map(FleetView::moved));
        lines.extend(stays(host, &self.retained));
        lines.join("\n")
    }

    /// What is left, a line for each fleet.
    pub(crate) fn left(&self) -> Vec<String> {
        self.fleets.iter().filter_map(FleetView::left).collect()
    }
}

impl TryFrom<v1::DrainingFleet> for FleetView {
    type Error = Invalid;

    fn try_from(wire: v1::DrainingFleet) -> Result<Self, Invalid> {
        let v1::DrainingFleet { fleet, instances, why, over, rollout } = wire;
        let rollout = rollout.map(RolloutView::try_from).transpose()?;
        let why = Some(why).filter(|why| !why.is_empty());
        Ok(Self { fleet, instances, why, over, rollout })
    }
}

impl FleetView {
    /// Its rollout says itself how far it is; what else is awaited is said here.
    fn news(&self, before: Option<&Self>) -> Vec<String> {
        let Self { fleet, instances, why, rollout, .. } = self;
        let mut lines = Vec::new();
        let old = before.and_then(|before| before.rollout.as_ref());
        for news in rollout.iter().flat_map(|rollout| rollout.news(old)) {
            let said = news.text.strip_prefix(&format!("{fleet} ")).unwrap_or(&news.text);
            lines.push(format!("{fleet}: {said}"));
        }
        let was = before.and_then(|before| before.why.as_ref());
        match why {
            Some(why) if rollout.is_none() && was != Some(why) => {
                lines.push(printable(&format!("{fleet}: {why}")));
            }
            _ => {}
        }
        let was = before.map_or(0, |before| before.instances.len());
        if instances.is_empty() && was > 0 {
            lines.push(format!("{fleet}: nothing of it is left on the host"));
        }
        lines
    }

    fn moved(&self) -> Option<String> {
        let rollout = self.rollout.as_ref().filter(|_| self.instances.is_empty())?;
        Some(format!("  {}: away with revision {}", self.fleet, rollout.revision))
    }

    fn left(&self) -> Option<String> {
        let Self { fleet, instances, why, .. } = self;
        let why = why.as_deref()?;
        let what = match instances.len() {
            0 => fleet.clone(),
            1..=5 => instances.join(", "),
            some => format!("{} of {fleet}", count(some, "instance")),
        };
        let mut lines = why.lines();
        let first = printable(&format!("{what}: {}", lines.next().unwrap_or_default()));
        let rest = lines.map(|line| format!("\n    {}", printable(line)));
        Some(first + &rest.collect::<String>())
    }
}
