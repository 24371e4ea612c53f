//! Points in time as the domain sees them: whole milliseconds since the Unix epoch.
//!
//! Deliberately absent: a way to ask what time it is. The edges do that and hand it in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl From<SystemTime> for Timestamp {
    /// Before 1970 counts as 1970.
    fn from(at: SystemTime) -> Self {
        Self::default().after(at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
    }
}

impl Timestamp {
    /// This point, later by `by`; saturates.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero where it is not earlier (clocks step).
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
