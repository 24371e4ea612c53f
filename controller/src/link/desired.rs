//! Watching the hosts' desired states, once for all: a change wakes the stream of the host that it
//! is of, and no other.
//!
//! What of them the order of instances needs is kept in memory ([`Told`]): every stream asks it
//! again and again where the instances are that its own come after.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use shoal_core::name::{HostId, InstanceId};
use shoal_proto::v1::HostSpec;
use shoal_proto::v1::store::HostSpecRecord;

use crate::app::App;
use crate::store::{RecordChange, RecordError, Revision};
use shoal_core::cause::chain;

/// The pause before a watch that failed begins again.
const RETRY: Duration = Duration::from_secs(1);

/// Which instances each host was told to have, and in which generation.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Every change up to this one is in it.
    pub(super) revision: Revision,
    hosts: BTreeMap<HostId, OfHost>,
    places: BTreeMap<InstanceId, BTreeSet<HostId>>,
}

#[derive(Debug, Clone, Default)]
struct OfHost {
    generation: u64,
    instances: Vec<InstanceId>,
}

impl Told {
    /// The hosts that were told to have `id`, with the generation of each.
    pub(super) fn places(&self, id: &InstanceId) -> impl Iterator<Item = (&HostId, u64)> {
        let places = self.places.get(id).into_iter().flatten();
        places.filter_map(|host| Some((host, self.hosts.get(host)?.generation)))
    }

    /// Takes the place of what is known of `host`; `None` where it has no desired state any more.
    pub(super) fn put(&mut self, host: &HostId, spec: Option<&HostSpec>) {
        for id in self.hosts.remove(host).unwrap_or_default().instances {
            if let Some(places) = self.places.get_mut(&id) {
                places.remove(host);
                if places.is_empty() {
                    self.places.remove(&id);
                }
            }
        }
        let Some(spec) = spec else { return };
        // One that can't be read is told of where the desired state is used.
        let ids = spec.instances.iter().filter_map(|instance| instance.id.parse().ok());
        let instances: Vec<InstanceId> = ids.collect();
        for id in &instances {
            self.places.entry(id.clone()).or_default().insert(host.clone());
        }
        self.hosts.insert(host.clone(), OfHost { generation: spec.generation, instances });
    }

    fn put_record(&mut self, host: &str, record: Option<&HostSpecRecord>) {
        if let Ok(host) = host.parse() {
            self.put(&host, record.and_then(|record| record.spec.as_ref()));
        }
    }

    fn take_in(&mut self, change: &RecordChange<HostSpecRecord>) {
        self.put_record(&change.id, change.record.as_ref());
        if !change.more {
            self.revision = change.revision;
        }
    }
}

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
    let listing = app.records.list::<HostSpecRecord>().await?;
    let mut changes = app.records.watch::<HostSpecRecord>(listing.revision)?;
    let mut told = Told { revision: listing.revision, ..Told::default() };
    for stored in listing.records {
        told.put_record(&stored.id, Some(&stored.record));
    }
    app.told.send_replace(told);
    app.live.all_specs_changed();
    while let Some(change) = changes.next().await {
        let change = change?;
        // Before the stream wakes that sends it.
        app.told.send_modify(|told| told.take_in(&change));
        app.live.spec_changed(&change.id);
    }
    // A watch without an end ends only with an error, which came before.
    std::future::pending().await
}
