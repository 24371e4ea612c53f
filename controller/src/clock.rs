//! The one place that asks what time it is.

use std::time::SystemTime;

use shoal_core::time::Timestamp;

/// Now, as certificates need it.
#[must_use]
#[allow(clippy::disallowed_methods)] // the edge from which time is handed in
pub fn system_time() -> SystemTime {
    SystemTime::now()
}

/// Now, as the domain has it.
#[must_use]
pub fn now() -> Timestamp {
    system_time().into()
}
