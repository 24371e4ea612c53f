//! What an apply would change.

use serde::Serialize;
use shoal_proto::convert::Invalid;
use shoal_proto::v1::{self, ChangeKind};

use crate::output::text::printable;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct PlanView {
    fleet: String,
    /// The revision that the plan starts from; 0 where the fleet is new.
    pub(crate) base_revision: u64,
    pub(crate) changes_anything: bool,
    /// Whether an apply tries the last rollout again, though nothing differs.
    pub(crate) retries: bool,
    changes: Vec<ChangeView>,
}

#[derive(Debug, Clone, Serialize)]
struct ChangeView {
    host: String,
    host_online: bool,
    instance: String,
    kind: Kind,
    fields: Vec<FieldView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Create,
    Replace,
    Refresh,
    Remove,
    Keep,
}

#[derive(Debug, Clone, Serialize)]
struct FieldView {
    field: String,
    from: Option<String>,
    to: Option<String>,
}

impl PlanView {
    pub(crate) fn read(fleet: &str, wire: v1::PlanResponse) -> Result<Self, Invalid> {
        let v1::PlanResponse { base_revision, changes, changes_anything, retries } = wire;
        let changes: Result<_, _> = changes.into_iter().map(ChangeView::try_from).collect();
        let fleet = fleet.to_owned();
        Ok(Self { fleet, base_revision, changes_anything, retries, changes: changes? })
    }

    /// The plan in words.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![match self.base_revision {
            0 => format!("fleet {} (new)", self.fleet),
            revision => format!("fleet {} at revision {revision}", self.fleet),
        }];
        for change in &self.changes {
            change.describe(&mut lines);
        }
        lines.push(self.summary());
        lines.join("\n")
    }

    fn summary(&self) -> String {
        let count = |kind| self.changes.iter().filter(|change| change.kind == kind).count();
        let (create, replace) = (count(Kind::Create), count(Kind::Replace));
        let (refresh, remove) = (count(Kind::Refresh), count(Kind::Remove));
        let keep = count(Kind::Keep);
        let differ = create + replace + refresh + remove;
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
                let in_place = match refresh {
                    0 => String::new(),
                    refresh => format!("{refresh} to change in place, "),
                };
                format!(
                    "{create} to create, {replace} to replace, {in_place}{remove} to remove, \
                     {keep} unchanged"
                )
            }
        }
    }
}

impl TryFrom<v1::InstanceChange> for ChangeView {
    type Error = Invalid;

    fn try_from(wire: v1::InstanceChange) -> Result<Self, Invalid> {
        let v1::InstanceChange { host, instance, kind, fields, host_online } = wire;
        let kind = match ChangeKind::try_from(kind) {
            Ok(ChangeKind::Create) => Kind::Create,
            Ok(ChangeKind::Replace) => Kind::Replace,
            Ok(ChangeKind::Refresh) => Kind::Refresh,
            Ok(ChangeKind::Remove) => Kind::Remove,
            Ok(ChangeKind::Keep) => Kind::Keep,
            Ok(ChangeKind::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "kind", value: kind });
            }
        };
        let fields = fields.into_iter().map(|field| {
            let v1::FieldChange { field, from, to } = field;
            FieldView { field, from, to }
        });
        Ok(Self { host, host_online, instance, kind, fields: fields.collect() })
    }
}

impl ChangeView {
    fn describe(&self, lines: &mut Vec<String>) {
        let (mark, verb) = match self.kind {
            Kind::Create => ('+', "create"),
            Kind::Replace => ('~', "replace"),
            Kind::Refresh => ('~', "change in place, without a new container"),
            Kind::Remove => ('-', "remove (its data volumes are kept)"),
            Kind::Keep => return,
        };
        let Self { host, instance, .. } = self;
        let offline = if self.host_online { "" } else { "; the host is offline: when it is back" };
        lines.push(format!("  {mark} {instance} on {host}: {verb}{offline}"));
        for FieldView { field, from, to } in &self.fields {
            let change = match (from, to) {
                (Some(from), Some(to)) => format!("{from} -> {to}"),
                // All is new where an instance is created; saying so each time is noise.
                (None, Some(to)) if self.kind == Kind::Create => to.clone(),
                (None, Some(to)) => format!("{to} (new)"),
                (Some(from), None) => format!("{from} (removed)"),
                (None, None) => String::new(),
            };
            lines.push(format!("      {}", printable(&format!("{field}: {change}"))));
        }
    }
}
