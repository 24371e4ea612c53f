//! The one place that asks what time it is.

use shoal_core::time::Timestamp;

/// Now, by this computer's clock.
pub(crate) fn now() -> Timestamp {
    let millis = jiff::Timestamp::now().as_millisecond();
    Timestamp(u64::try_from(millis).unwrap_or(0))
}
