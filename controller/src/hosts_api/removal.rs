//! Taking a host out for good.
//!
//! Its records go in one transaction, and with them its agent's right to call anything: who calls
//! is looked up for each call (`access`), so that this holds through restarts. Streams that are
//! open are cut.
//!
//! Deliberately absent: the host itself. What runs there goes on until someone stops it.

use std::collections::BTreeSet;
use std::fmt;

use shoal_core::host::HostSpec;
use shoal_core::name::{HostId, InstanceId};
use shoal_core::status::HostStatus;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{
    HostNameRecord, HostRecord, HostSpecRecord, HostStatusRecord, PresenceRecord,
};
use shoal_proto::v1::{RemoveHostRequest, RemoveHostResponse};

use super::{TRIES, find};
use crate::access::Caller;
use crate::app::App;
use crate::fleets_api::revision::Revision;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::store::{Batch, Records, Stored};
use crate::{audit, clock, inventory};

/// Instances that a refusal names at most.
const MOST_NAMED: usize = 10;

/// Removes a host, and cuts its agent off.
pub(super) async fn remove(
    app: &App,
    caller: &Caller,
    request: &RemoveHostRequest,
) -> Result<RemoveHostResponse, Refusal> {
    let (id, removed) = forget(&app.records, &app.live, caller, request, clock::now()).await?;
    let agent = app.authority.agent(&id).map_err(|e| Refusal::Internal(e.to_string()))?;
    let connections = app.connections.get().map_or(0, |all| all.cut_identity(&agent));
    tracing::info!(host = request.name, %id, connections, "host removed");
    Ok(removed)
}

/// Takes a host out of the records. Repeated where they changed in between.
pub(super) async fn forget(
    records: &Records,
    live: &Live,
    who: &impl fmt::Display,
    request: &RemoveHostRequest,
    now: Timestamp,
) -> Result<(HostId, RemoveHostResponse), Refusal> {
    for _ in 1..TRIES {
        match try_forget(records, live, who, request, now).await {
            Err(Refusal::Conflict(_)) => {}
            outcome => return outcome,
        }
    }
    try_forget(records, live, who, request, now).await
}

async fn try_forget(
    records: &Records,
    live: &Live,
    who: &impl fmt::Display,
    request: &RemoveHostRequest,
    now: Timestamp,
) -> Result<(HostId, RemoveHostResponse), Refusal> {
    let RemoveHostRequest { name, force } = request;
    let found = Found::load(records, live, name).await?;
    let (id, left) = (found.id.clone(), found.left());
    if !*force {
        found.must_be_empty(&left.instances)?;
    }
    let detail = match left.instances.len() {
        0 => id.to_string(),
        some => format!("{id}, by force, with {some} of its instances"),
    };
    let mut batch = found.removed()?;
    let (entry, record) = audit::entry(who, "Hosts/Remove", name, &detail, now);
    batch.create(&entry, &record)?;
    records.commit(batch).await?;
    live.forget(&id);
    Ok((id, left))
}

/// All that is known of a host that is to go.
struct Found {
    host: Stored<HostRecord>,
    id: HostId,
    record: Option<Stored<HostSpecRecord>>,
    spec: HostSpec,
    /// The newest revisions that place instances there.
    revisions: Vec<Revision>,
    online: bool,
    status: Option<HostStatus>,
}

impl Found {
    async fn load(records: &Records, live: &Live, name: &str) -> Result<Self, Refusal> {
        let host = find(records, name).await?;
        let id = inventory::host_id(&host.id)?;
        let record = records.get::<HostSpecRecord>(id.as_str()).await?;
        let spec = record.as_ref().map(inventory::spec).transpose()?.unwrap_or_default();
        let mut revisions = inventory::newest_revisions(records).await?;
        revisions.retain(|r| r.hosts.get(&id).is_some_and(|there| !there.is_empty()));
        let online = live.presence(&id).is_some_and(|presence| presence.online);
        let status = live.status(&id).map(|status| HostStatus::clone(&status));
        Ok(Self { host, id, record, spec, revisions, online, status })
    }

    /// Instances that it has or was to have, with the fleets that say so, and data.
    fn left(&self) -> RemoveHostResponse {
        let wanted = self.spec.instances.iter().map(|instance| instance.id.clone());
        let observed = self.status.iter().flat_map(|status| &status.instances);
        let observed = observed.map(|instance| instance.id.clone());
        let placed = self.revisions.iter().flat_map(|revision| {
            let there = revision.hosts.get(&self.id).into_iter().flatten();
            there.map(|(instance, _)| InstanceId {
                fleet: revision.fleet.clone(),
                instance: instance.clone(),
            })
        });
        let instances: BTreeSet<InstanceId> = wanted.chain(observed).chain(placed).collect();
        let fleets: BTreeSet<String> =
            self.revisions.iter().map(|revision| revision.fleet.to_string()).collect();
        let retained = self.status.iter().flat_map(|status| status.retained.iter().cloned());
        RemoveHostResponse {
            instances: instances.iter().map(ToString::to_string).collect(),
            fleets: fleets.into_iter().collect(),
            retained: retained.map(Into::into).collect(),
        }
    }

    /// An old report of instances that are not wanted any more is no reason to keep a host that is
    /// gone.
    fn must_be_empty(&self, instances: &[String]) -> Result<(), Refusal> {
        let wanted = !self.spec.instances.is_empty() || !self.revisions.is_empty();
        if instances.is_empty() || !(wanted || self.online) {
            return Ok(());
        }
        let name = &self.host.record.name;
        let named = instances.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let rest = match instances.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            rest => format!(" and {rest} more"),
        };
        Err(Refusal::Precondition(format!(
            "host {name} has instances, or is to have them: {named}{rest}; move them away with \
             `shoal host drain {name}`, or, where the host is gone for good, say --force"
        )))
    }

    /// Takes away every record of it, if they are as they were read.
    fn removed(&self) -> Result<Batch, Refusal> {
        let id = self.id.as_str();
        let mut batch = Batch::new();
        batch.remove(&self.host)?.delete::<HostNameRecord>(&self.host.record.name)?;
        match &self.record {
            Some(spec) => batch.remove(spec)?,
            None => batch.absent::<HostSpecRecord>(id)?,
        };
        batch.delete::<PresenceRecord>(id)?.delete::<HostStatusRecord>(id)?;
        Ok(batch)
    }
}
