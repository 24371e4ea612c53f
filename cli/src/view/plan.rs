//! What an apply would change.

use serde::Serialize;
use shoal_core::fleet::FleetSpec;
use shoal_core::infra::Mode;
use shoal_core::rollout::Policy;
use shoal_proto::convert::{Invalid, infra_mode};
use shoal_proto::v1::{self, ChangeKind};

use super::host::RetainedView;
use super::policy::PolicyView;
use crate::output::text::printable;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PlanView {
    fleet: String,
    /// Of an infra: the version that it comes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// The revision that the plan starts from; 0 where the fleet is new.
    pub(crate) base_revision: u64,
    pub(crate) changes_anything: bool,
    /// Whether an apply tries the last rollout again, though nothing differs.
    pub(crate) retries: bool,
    changes: Vec<ChangeView>,
    /// Where instances are not placed, and why.
    notes: Vec<String>,
    /// What of how it is rolled out differs from the last time.
    rollout: Vec<FieldView>,
    /// Of an infra: what it does to each host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    infra: Vec<HostWayView>,
}

/// A host's way to an infra version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct HostWayView {
    host: String,
    has: Option<String>,
    wants: String,
    mode: Mode,
    /// Instances whose containers are made afresh, those of apps too, in the order they start.
    recreated: Vec<String>,
    /// The data volumes that stay.
    data: Vec<RetainedView>,
    /// Whether they are copied before.
    snapshot: bool,
    notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ChangeView {
    host: String,
    host_online: bool,
    instance: String,
    kind: Kind,
    fields: Vec<FieldView>,
    /// Of one that is made afresh: its data volumes, which stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Create,
    Replace,
    Recreate,
    Refresh,
    Remove,
    Keep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FieldView {
    pub(crate) field: String,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
}

impl PlanView {
    pub(crate) fn read(spec: &FleetSpec, wire: v1::PlanResponse) -> Result<Self, Invalid> {
        let v1::PlanResponse { base_revision, changes, changes_anything, retries, notes, infra } =
            wire;
        let infra: Result<_, _> = infra.into_iter().map(HostWayView::try_from).collect();
        let changes: Result<_, _> = changes.into_iter().map(ChangeView::try_from).collect();
        Ok(Self {
            fleet: spec.fleet.to_string(),
            version: spec.infra.as_ref().map(|infra| infra.version.to_string()),
            base_revision,
            changes_anything,
            retries,
            changes: changes?,
            notes,
            rollout: Vec::new(),
            infra: infra?,
        })
    }

    /// The same, with what becomes different of how the fleet is rolled out.
    pub(crate) fn with_policy(mut self, policy: &Policy, before: Option<&PolicyView>) -> Self {
        if let Some(before) = before {
            self.rollout = PolicyView::from(policy.clone()).changes_from(before);
        }
        self
    }

    /// The plan in words.
    pub(crate) fn text(&self) -> String {
        let what = match &self.version {
            Some(version) => format!("infra version {version}: fleet {}", self.fleet),
            None => format!("fleet {}", self.fleet),
        };
        let mut lines = vec![match self.base_revision {
            0 => format!("{what} (new)"),
            revision => format!("{what} at revision {revision}"),
        }];
        self.infra.iter().for_each(|way| way.describe(&mut lines));
        for change in &self.changes {
            change.describe(&mut lines);
        }
        for field in &self.rollout {
            lines.push(format!("  ~ rollout: {}", field.text(false)));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {}", printable(note))));
        lines.push(self.summary());
        lines.join("\n")
    }

    fn summary(&self) -> String {
        let count = |kind| self.changes.iter().filter(|change| change.kind == kind).count();
        let (create, replace) = (count(Kind::Create), count(Kind::Replace));
        let (recreate, refresh) = (count(Kind::Recreate), count(Kind::Refresh));
        let remove = count(Kind::Remove);
        let keep = count(Kind::Keep);
        let differ = create + replace + recreate + refresh + remove;
        match (self.changes_anything, self.retries, differ) {
            (false, true, _) => {
                format!("nothing differs ({keep} unchanged); applying tries the last rollout again")
            }
            (false, false, _) => format!("nothing would change ({keep} unchanged)"),
            (true, _, 0) => format!(
                "the fleet file differs, but no instance would change ({keep} unchanged); applying \
                 records it"
            ),
            (true, _, _) => {
                let some = |count, what| match count {
                    0 => String::new(),
                    count => format!("{count} {what}, "),
                };
                let afresh = some(recreate, "to recreate");
                let in_place = some(refresh, "to change in place");
                format!(
                    "{create} to create, {replace} to replace, {afresh}{in_place}{remove} to remove, \
                     {keep} unchanged"
                )
            }
        }
    }
}

impl TryFrom<v1::InstanceChange> for ChangeView {
    type Error = Invalid;

    fn try_from(wire: v1::InstanceChange) -> Result<Self, Invalid> {
        let v1::InstanceChange { host, instance, kind, fields, host_online, data } = wire;
        let kind = match ChangeKind::try_from(kind) {
            Ok(ChangeKind::Create) => Kind::Create,
            Ok(ChangeKind::Replace) => Kind::Replace,
            Ok(ChangeKind::Recreate) => Kind::Recreate,
            Ok(ChangeKind::Refresh) => Kind::Refresh,
            Ok(ChangeKind::Remove) => Kind::Remove,
            Ok(ChangeKind::Keep) => Kind::Keep,
            Ok(ChangeKind::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "kind", value: kind });
            }
        };
        let data = (kind == Kind::Recreate).then_some(data);
        let fields = fields.into_iter().map(|field| {
            let v1::FieldChange { field, from, to } = field;
            FieldView { field, from, to }
        });
        Ok(Self { host, host_online, instance, kind, fields: fields.collect(), data })
    }
}

impl TryFrom<v1::PlannedInfra> for HostWayView {
    type Error = Invalid;

    fn try_from(wire: v1::PlannedInfra) -> Result<Self, Invalid> {
        let v1::PlannedInfra { host, has, wants, mode, recreated, data, snapshot, notes } = wire;
        let (mode, data) = (infra_mode(mode)?, data.into_iter().map(Into::into).collect());
        Ok(Self { host, has, wants, mode, recreated, data, snapshot, notes })
    }
}

impl HostWayView {
    fn describe(&self, lines: &mut Vec<String>) {
        let Self { host, has, wants, mode, recreated, data, snapshot, notes } = self;
        lines.push(match (mode, has) {
            (Mode::Same, _) => format!("  = {host}: has {wants}: nothing is done"),
            (_, Some(has)) => format!("  ~ {host}: {has} -> {wants} ({mode})"),
            (_, None) => format!("  ~ {host}: none -> {wants} ({mode})"),
        });
        let mut say = |what: &str, list: Vec<String>, between: &str| {
            if !list.is_empty() {
                lines.push(printable(&format!("      {what}: {}", list.join(between))));
            }
        };
        if *mode != Mode::Same {
            say("made afresh, in this order", recreated.clone(), ", ");
            say("data that stays", data.iter().map(RetainedView::text).collect(), "; ");
            let before = if *snapshot { "is copied before" } else { "is not copied before" };
            let has_data = !data.is_empty() || *snapshot;
            say(
                "snapshot",
                has_data.then(|| format!("the data {before}")).into_iter().collect(),
                "",
            );
        }
        notes.iter().for_each(|note| say("note", vec![note.clone()], ""));
    }
}

impl ChangeView {
    fn describe(&self, lines: &mut Vec<String>) {
        let (mark, verb) = match self.kind {
            Kind::Create => ('+', "create"),
            Kind::Replace => ('~', "replace"),
            Kind::Recreate => ('~', "destroy and make afresh"),
            Kind::Refresh => ('~', "change in place, without a new container"),
            Kind::Remove => ('-', "remove (its data volumes are kept)"),
            Kind::Keep => return,
        };
        let Self { host, instance, .. } = self;
        let offline = if self.host_online { "" } else { "; the host is offline: when it is back" };
        lines.push(format!("  {mark} {instance} on {host}: {verb}{offline}"));
        for field in &self.fields {
            lines.push(format!("      {}", field.text(self.kind == Kind::Create)));
        }
        match self.data.as_deref() {
            None => {}
            Some([]) => lines.push("      it has no data volume".into()),
            Some(data) => {
                lines.push(printable(&format!("      its data stays: {}", data.join(", "))));
            }
        }
    }
}

impl FieldView {
    /// `image: shop:1 -> shop:2`. All is new where an instance is created; saying so each time is
    /// noise.
    fn text(&self, is_creation: bool) -> String {
        let Self { field, from, to } = self;
        let change = match (from, to) {
            (Some(from), Some(to)) => format!("{from} -> {to}"),
            (None, Some(to)) if is_creation => to.clone(),
            (None, Some(to)) => format!("{to} (new)"),
            (Some(from), None) => format!("{from} (removed)"),
            (None, None) => String::new(),
        };
        printable(&format!("{field}: {change}"))
    }
}
