//! Who keeps others from changing a fleet.

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::v1;

use super::audit::short_identity;
use crate::output::text::printable;
use crate::output::time::At;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LockView {
    holder: String,
    reason: String,
    since: At,
    until: At,
}

impl From<v1::Lock> for LockView {
    fn from(wire: v1::Lock) -> Self {
        let v1::Lock { holder, reason, since_ms, until_ms } = wire;
        Self { holder, reason, since: At::new(since_ms), until: At::new(until_ms) }
    }
}

impl LockView {
    /// `locked by user/ada until 2027-01-15T13:00:00Z (in 1h): migration`.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let Self { holder, reason, until, .. } = self;
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let (by, left) = (short_identity(holder), until.relative(now));
        printable(&format!("locked by {by} until {until} ({left}){reason}"))
    }
}
