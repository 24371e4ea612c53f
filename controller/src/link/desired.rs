//! Watching the hosts' desired states, once for all: a change wakes the stream of the host that it
//! is of, and no other.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use shoal_proto::v1::store::HostSpecRecord;

use crate::app::App;
use crate::store::{Prefix, Record, RecordError};
use shoal_core::cause::chain;

/// The pause before a watch that failed begins again.
const RETRY: Duration = Duration::from_secs(1);

/// Until the controller shuts down.
pub async fn follow(app: Arc<App>) {
    let shutdown = app.shutdown.clone();
    while let Some(ended) = shutdown.run_until_cancelled(follow_once(&app)).await {
        let Err(error) = ended;
        tracing::warn!(error = chain(&error), "watching the desired states begins again");
        shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

async fn follow_once(app: &App) -> Result<Infallible, RecordError> {
    let prefix = Prefix::new(HostSpecRecord::PREFIX).expect("the kind's prefix is a prefix");
    // Only for the revision: what there is now, each stream reads for itself.
    let revision = app.records.store().list(&prefix, None, 1).await?.revision;
    let mut changes = app.records.watch::<HostSpecRecord>(revision)?;
    app.live.all_specs_changed();
    while let Some(change) = changes.next().await {
        app.live.spec_changed(&change?.id);
    }
    // A watch without an end ends only with an error, which came before.
    std::future::pending().await
}
