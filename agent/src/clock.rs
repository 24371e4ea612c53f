//! The one place that asks what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_core::time::Timestamp;

/// Now, as certificates need it.
#[must_use]
#[allow(clippy::disallowed_methods)] // the edge from which time is handed in
pub fn system_time() -> SystemTime {
    SystemTime::now()
}

/// Now, as the domain has it; before 1970 counts as 1970.
#[must_use]
pub fn now() -> Timestamp {
    let since = system_time().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
