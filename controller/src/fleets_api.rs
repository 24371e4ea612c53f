//! The service `Fleets`: plan, apply, and what there is.
//!
//! Plan and apply share [`plan::plan`], a pure function over a [`world::World`] that is read
//! before. An apply writes a revision and a rollout ([`apply`]); `rollout_driver` does the rest.
//!
//! An apply that changes nothing makes no revision, with one exception: where the last rollout
//! ended without success (failed, timed out, or partial), the same spec makes a new revision. A
//! person or a CI job that applies again then asks for another try, and gets one with a deadline
//! and a verdict of its own; instances that are as they should be are not disturbed by it. While a
//! rollout of the same spec is under way, an apply joins it; while another one is, or while
//! someone else holds the fleet's lock (`locks`), it is refused.
//!
//! Deliberately absent: reading fleet files. What arrives is complete in itself.

pub(crate) mod again;
mod apply;
mod infra;
pub mod plan;
pub(crate) mod recreate;
pub mod revision;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_support;
pub(crate) mod undo;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_core::host::Host;
use shoal_core::name::{FleetName, HostId, HostName};
use shoal_core::placement::Action;
use shoal_core::status::HostStatus;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::FleetRecord;
use shoal_proto::v1::{
    self, ApplyRequest, ApplyResponse, ChangeKind, GetFleetStatusRequest, GetFleetStatusResponse,
    ListFleetsRequest, ListFleetsResponse, PlanRequest, PlanResponse, fleets_server,
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status, async_trait};

use self::again::Again;
use self::apply::{Wanted, apply, fleet_spec, planned};
pub(crate) use self::apply::{known, superseded};
use self::infra::hosts::Seen;
use self::plan::{Change, Need};
use self::recreate::Recreate;
use self::world::{Newest, World};
use crate::access;
use crate::app::App;
use crate::live::Live;
use crate::locks::Held;
use crate::refusal::Refusal;
use crate::store::Records;
use crate::{clock, instances_api, inventory, rollouts_api};

/// The service.
#[derive(Debug)]
pub struct Fleets {
    records: Records,
    live: Live,
    applying: Applying,
}

/// One apply at a time: two new fleets could otherwise take one machine name, each before it sees
/// the other. What one fleet's appliers do to each other the store decides.
pub type Applying = Arc<Mutex<()>>;

impl Fleets {
    /// The service over a controller's parts.
    #[must_use]
    pub fn new(app: &App) -> Self {
        let (records, live) = (app.records.clone(), app.live.clone());
        Self { records, live, applying: Arc::clone(&app.applying) }
    }

    #[cfg(test)]
    pub(crate) fn over(records: Records, live: Live) -> Self {
        Self { records, live, applying: Applying::default() }
    }

    pub(crate) async fn plan(&self, request: PlanRequest) -> Result<PlanResponse, Refusal> {
        let PlanRequest { spec, recreate } = request;
        let spec = fleet_spec(spec)?;
        let recreate = recreate.map(Recreate::try_from).transpose()?;
        let world = World::load(&self.records, &spec).await?;
        let (world, plan) = planned(world, &spec, recreate.as_ref()).await?;
        let same_spec = world.newest.as_ref().is_some_and(|n| n.revision.spec == spec);
        let disturbs = plan.changes.iter().any(|change| change.action != Action::Keep);
        let statuses = self.statuses(&world);
        let seen = |host: &Host| Seen {
            online: self.is_online(&host.id),
            status: statuses.get(&host.id).map(Arc::as_ref),
        };
        let infra = infra::hosts::planned(&world, &spec, &plan, seen);
        Ok(PlanResponse {
            base_revision: world.revision(),
            changes_anything: disturbs || (plan.need == Need::Change && !same_spec),
            retries: plan.need == Need::Retry,
            notes: plan.notes,
            changes: self.changes(&spec.fleet, plan.changes),
            infra,
        })
    }

    pub(crate) async fn apply(
        &self,
        request: ApplyRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<ApplyResponse, Refusal> {
        let wanted = Wanted::try_from(request)?;
        let _one_at_a_time = self.applying.lock().await;
        let applied = apply(&self.records, &wanted, who, now).await?;
        Ok(ApplyResponse {
            revision: applied.revision,
            changed: applied.changed,
            notes: applied.notes,
            changes: self.changes(&wanted.spec.fleet, applied.changes),
        })
    }

    /// Places a fleet anew as it is; the revision that does.
    pub(crate) async fn again(
        &self,
        asked: &Again<'_>,
        who: &str,
        now: Timestamp,
    ) -> Result<u64, Refusal> {
        let _one_at_a_time = self.applying.lock().await;
        again::again(&self.records, asked, who, now).await
    }

    pub(crate) async fn list(&self, now: Timestamp) -> Result<ListFleetsResponse, Refusal> {
        let names = inventory::host_names(&self.records).await?;
        let mut fleets = Vec::new();
        for stored in self.records.list::<FleetRecord>().await?.records {
            let held = Held::load(&self.records, &stored.id).await?;
            fleets.push(fleet(&known(&self.records, &stored.id).await?, &names, held.lock(now)));
        }
        Ok(ListFleetsResponse { fleets })
    }

    pub(crate) async fn status(
        &self,
        request: GetFleetStatusRequest,
        now: Timestamp,
    ) -> Result<GetFleetStatusResponse, Refusal> {
        let GetFleetStatusRequest { fleet: name } = request;
        let newest = known(&self.records, &name).await?;
        let names = inventory::host_names(&self.records).await?;
        let of = |id: &shoal_core::name::InstanceId| id.fleet == newest.revision.fleet;
        let hosts = instances_api::listing::load(&self.records, &self.live).await?;
        let instances = instances_api::listing::instances(&hosts, of);
        let held = Held::load(&self.records, &name).await?;
        let fleet = Some(fleet(&newest, &names, held.lock(now)));
        Ok(GetFleetStatusResponse { fleet, instances })
    }

    fn changes(&self, fleet: &FleetName, changes: Vec<Change>) -> Vec<v1::InstanceChange> {
        let wire = |change: Change| {
            let host_online = self.is_online(&change.host);
            instance_change(fleet, change, host_online)
        };
        changes.into_iter().map(wire).collect()
    }

    fn is_online(&self, host: &HostId) -> bool {
        self.live.presence(host).is_some_and(|presence| presence.online)
    }

    /// What is known of all hosts, be they there or not.
    fn statuses(&self, world: &World) -> BTreeMap<HostId, Arc<HostStatus>> {
        let status = |host: &Host| Some((host.id.clone(), self.live.status(&host.id)?));
        world.hosts.iter().filter_map(status).collect()
    }
}

fn instance_change(fleet: &FleetName, change: Change, host_online: bool) -> v1::InstanceChange {
    let Change { host: _, host_name, instance, action } = change;
    let mut data = Vec::new();
    let (kind, fields) = match action {
        Action::Create(fields) => (ChangeKind::Create, fields),
        Action::Replace(fields) => (ChangeKind::Replace, fields),
        Action::Recreate(fields, volumes) => {
            data = volumes.iter().map(ToString::to_string).collect();
            (ChangeKind::Recreate, fields)
        }
        Action::Refresh(fields) => (ChangeKind::Refresh, fields),
        Action::Remove => (ChangeKind::Remove, vec![]),
        Action::Keep => (ChangeKind::Keep, vec![]),
    };
    let fields = fields.into_iter().map(|field| {
        let shoal_core::diff::FieldChange { field, from, to } = field;
        v1::FieldChange { field, from, to }
    });
    v1::InstanceChange {
        host: host_name.to_string(),
        instance: match instance.fleet == *fleet {
            true => instance.instance.to_string(),
            false => instance.to_string(),
        },
        kind: kind.into(),
        fields: fields.collect(),
        host_online,
        data,
    }
}

fn fleet(
    newest: &Newest,
    names: &BTreeMap<HostId, HostName>,
    lock: Option<&v1::Lock>,
) -> v1::Fleet {
    let Newest { revision, rollout, .. } = newest;
    v1::Fleet {
        name: revision.fleet.to_string(),
        revision: revision.number,
        applied_ms: revision.created.0,
        applied_by: revision.author.clone(),
        source: revision.source.clone(),
        rollout: Some(rollouts_api::wire(rollout, names, &revision.author)),
        lock: lock.cloned(),
    }
}

#[async_trait]
impl fleets_server::Fleets for Fleets {
    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        Ok(Response::new(Self::plan(self, request.into_inner()).await?))
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let who = access::caller(&request)?.to_string();
        let applied = Self::apply(self, request.into_inner(), &who, clock::now()).await?;
        Ok(Response::new(applied))
    }

    async fn list(
        &self,
        _request: Request<ListFleetsRequest>,
    ) -> Result<Response<ListFleetsResponse>, Status> {
        Ok(Response::new(Self::list(self, clock::now()).await?))
    }

    async fn get_status(
        &self,
        request: Request<GetFleetStatusRequest>,
    ) -> Result<Response<GetFleetStatusResponse>, Status> {
        Ok(Response::new(self.status(request.into_inner(), clock::now()).await?))
    }
}
