//! Fleets, and whether they are as wanted.

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::convert::Invalid;
use shoal_proto::v1;

use super::audit::short_identity;
use super::instance::InstancesView;
use super::lock::LockView;
use super::rollout::RolloutView;
use crate::output::table::{Cell, Table, Tone, details};
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct FleetsView {
    pub(crate) fleets: Vec<FleetView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FleetView {
    pub(crate) fleet: String,
    pub(crate) revision: u64,
    applied: At,
    applied_by: String,
    source: String,
    pub(crate) rollout: Option<RolloutView>,
    /// Who keeps others from changing it.
    lock: Option<LockView>,
    /// How many instances are wanted as an earlier revision has them.
    behind: usize,
    /// Whether every instance that is wanted is proven to be as the newest revision wants it.
    pub(crate) ready: bool,
    #[serde(flatten)]
    pub(crate) instances: InstancesView,
}

impl TryFrom<v1::GetFleetStatusResponse> for FleetView {
    type Error = Invalid;

    fn try_from(wire: v1::GetFleetStatusResponse) -> Result<Self, Invalid> {
        let v1::GetFleetStatusResponse { fleet, instances } = wire;
        let v1::Fleet { name, revision, applied_ms, applied_by, source, rollout, lock } =
            fleet.ok_or(Invalid::Missing("fleet"))?;
        // Where a rollout has not come yet or was taken back all may be well, and is not what was
        // asked for.
        let wanted = instances.iter().filter_map(|instance| instance.wanted.as_ref());
        let behind = wanted.filter(|wanted| wanted.revision != revision).count();
        let instances = InstancesView::read(instances)?;
        let ready = behind == 0 && instances.not_ready().next().is_none();
        Ok(Self {
            fleet: name,
            revision,
            applied: At::new(applied_ms),
            applied_by,
            source,
            rollout: rollout.map(TryInto::try_into).transpose()?,
            behind,
            lock: lock.map(Into::into),
            ready,
            instances,
        })
    }
}

impl FleetView {
    /// The hosts that are to run an instance of it; one for each.
    pub(crate) fn wanted_hosts(&self) -> impl Iterator<Item = &str> {
        let wanted = self.instances.instances.iter().filter(|instance| instance.is_wanted());
        wanted.map(|instance| instance.host.as_str())
    }

    fn ready_count(&self) -> String {
        let wanted = self.instances.instances.iter().filter(|instance| instance.is_wanted());
        let (mut all, mut ready) = (0_usize, 0_usize);
        for instance in wanted {
            all += 1;
            ready += usize::from(instance.ready);
        }
        format!("{ready}/{all}")
    }

    fn ready_cell(&self) -> Cell {
        Cell::toned(self.ready_count(), if self.ready { Tone::Good } else { Tone::Bad })
    }

    /// All of one fleet.
    pub(crate) fn text(&self, now: Timestamp, color: bool) -> String {
        let by = short_identity(&self.applied_by);
        let mut fields = vec![
            ("Fleet", self.fleet.clone()),
            ("Revision", self.revision.to_string()),
            ("Applied", format!("{} ({}) by {by}", self.applied, self.applied.ago(now))),
            ("Source", self.source.clone()),
        ];
        fields.extend(self.rollout_fields(now));
        fields.extend(self.lock.as_ref().map(|lock| ("Lock", lock.text(now))));
        fields.push(("Ready", self.ready_count()));
        let text = format!("{}\n\n{}", details(&fields), self.instances.table(now, color));
        let mut complaints = self.instances.complaints();
        complaints.extend(self.behind_text());
        with_complaints(text, &complaints)
    }

    /// What says that not all hosts are to have the newest revision, or not yet.
    pub(crate) fn behind_text(&self) -> Option<String> {
        let (count, revision) = (self.behind, self.revision);
        let over = self.rollout.as_ref().is_none_or(RolloutView::is_over);
        let what = if over { "is not to reach" } else { "has not reached yet" };
        let instances = if count == 1 { "instance" } else { "instances" };
        (count > 0).then(|| format!("{count} {instances} that revision {revision} {what}"))
    }

    fn rollout_fields(&self, now: Timestamp) -> Vec<(&'static str, String)> {
        let Some(rollout) = &self.rollout else { return vec![("Rollout", String::new())] };
        let state = format!("{} ({})", rollout.state_text(), rollout.summary());
        let mut fields = vec![("Rollout", state)];
        fields.extend(rollout.hold.as_ref().zip(rollout.hold_text()).map(|(hold, text)| {
            ("Hold", format!("{text} (since {}, {})", hold.since, hold.since.ago(now)))
        }));
        fields.extend(rollout.other_cause().map(|cause| ("Cause", cause)));
        fields
    }

    /// Whether that revision is being rolled out.
    pub(crate) fn is_under_way(&self, revision: u64) -> bool {
        let under_way = |it: &RolloutView| it.revision == revision && !it.is_over();
        self.rollout.as_ref().is_some_and(under_way)
    }

    /// Why nobody else can apply at the moment, and what to do about it; `apply` is the command.
    pub(crate) fn locked_notes(&self, now: Timestamp, apply: &str) -> Vec<String> {
        let Self { fleet, .. } = self;
        let lock = self.lock.as_ref().map(|lock| {
            format!(
                "note: fleet {fleet} is {}; nobody else can apply meanwhile, and --lock-wait of \
                 `{apply}` waits",
                lock.text(now)
            )
        });
        let under_way = self.rollout.as_ref().filter(|rollout| !rollout.is_over()).map(|rollout| {
            format!(
                "note: revision {} of fleet {fleet} is being rolled out by {} ({}); with \
                 --lock-wait `{apply}` waits for its end, with --replace it takes its place",
                rollout.revision,
                short_identity(&rollout.author),
                rollout.state_text()
            )
        });
        lock.into_iter().chain(under_way).collect()
    }
}

fn with_complaints(text: String, complaints: &[String]) -> String {
    if complaints.is_empty() {
        return text;
    }
    format!("{text}\n\nNot as wanted:\n  {}", complaints.join("\n  "))
}

impl FleetsView {
    pub(crate) fn is_ready(&self) -> bool {
        self.fleets.iter().all(|fleet| fleet.ready)
    }

    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let header = &["FLEET", "REVISION", "READY", "ROLLOUT", "APPLIED", "BY", "SOURCE"];
        let mut table = Table::new(header);
        for fleet in &self.fleets {
            table.row(vec![
                (&fleet.fleet).into(),
                fleet.revision.into(),
                fleet.ready_cell(),
                fleet.rollout.as_ref().map_or_else(|| "".into(), RolloutView::state_cell),
                fleet.applied.ago(now).into(),
                short_identity(&fleet.applied_by).into(),
                (&fleet.source).into(),
            ]);
        }
        let table = table.render(color, "No fleets. `shoal apply fleet.toml` makes one.");
        let locks = self.fleets.iter().filter_map(|fleet| {
            let lock = fleet.lock.as_ref()?;
            Some(format!("Fleet {} is {}", fleet.fleet, lock.text(now)))
        });
        let table = [table, locks.collect::<Vec<_>>().join("\n")].join("\n\n");
        let complaints = self.fleets.iter().flat_map(|fleet| fleet.instances.complaints());
        with_complaints(table.trim_end().to_owned(), &complaints.collect::<Vec<_>>())
    }
}
