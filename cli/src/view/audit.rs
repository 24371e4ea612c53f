//! What was done, and by whom.

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::v1;

use crate::output::table::Table;
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct AuditView {
    entries: Vec<EntryView>,
}

#[derive(Debug, Serialize)]
struct EntryView {
    time: At,
    who: String,
    what: String,
    target: String,
    detail: String,
}

impl From<v1::ListAuditResponse> for AuditView {
    fn from(wire: v1::ListAuditResponse) -> Self {
        let v1::ListAuditResponse { entries } = wire;
        let entries = entries.into_iter().map(|entry| {
            let v1::AuditEntry { time_ms, who, what, target, detail } = entry;
            EntryView { time: At::new(time_ms), who, what, target, detail }
        });
        Self { entries: entries.collect() }
    }
}

impl AuditView {
    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let mut table = Table::new(&["WHEN", "WHO", "WHAT", "TARGET", "DETAIL"]);
        for EntryView { time, who, what, target, detail } in &self.entries {
            let who = short_identity(who);
            table.row(vec![
                time.ago(now).into(),
                who.into(),
                what.into(),
                target.into(),
                detail.into(),
            ]);
        }
        table.render(color, "Nothing is on record yet.")
    }
}

/// `user/ada` of `spiffe://example.org/user/ada`; any other text as it is.
pub(crate) fn short_identity(uri: &str) -> &str {
    let path = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    path.map_or(uri, |(_, path)| path)
}
