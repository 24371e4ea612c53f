//! Why a host takes no new instances.

use shoal_core::host::Cordon;
use shoal_core::time::Timestamp;

use crate::v1;

impl From<Cordon> for v1::Cordon {
    fn from(cordon: Cordon) -> Self {
        let Cordon { by, reason, since, drains } = cordon;
        Self { by, reason, since_ms: since.0, drains }
    }
}

impl From<v1::Cordon> for Cordon {
    fn from(wire: v1::Cordon) -> Self {
        let v1::Cordon { by, reason, since_ms, drains } = wire;
        Self { by, reason, since: Timestamp(since_ms), drains }
    }
}
