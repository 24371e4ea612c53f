//! What can go wrong in any engine.

use std::{error::Error, sync::Arc};

/// The engine failed, not the caller.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was changed; reads go on working.
    #[error(
        "the store at {place} is full and nothing was changed: free space on its disk, or raise its size limit"
    )]
    Full { place: Arc<str>, source: Box<dyn Error + Send + Sync> },
    #[error("the store at {place} is closed: the controller is shutting down")]
    Closed { place: Arc<str> },
    #[error("the store at {place} failed to {action}: check its disk and the log")]
    Engine { place: Arc<str>, action: &'static str, source: Box<dyn Error + Send + Sync> },
}
