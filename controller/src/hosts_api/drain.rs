//! Draining a host: it is marked, and each fleet is moved off it by a revision and a rollout of its
//! own.
//!
//! Way in: [`start`]. The work is done while the caller listens: who goes away leaves the host
//! marked and the rollouts that were begun under way, and goes on by calling again. What is next
//! for a fleet is decided in [`fleet`].
//!
//! Deliberately absent: any other way of stopping an instance than a rollout.

mod fleet;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_core::name::{FleetName, HostId, HostName, InstanceId};
use shoal_core::status::HostStatus;
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{FleetRecord, HostRecord, HostSpecRecord};
use shoal_proto::v1::{DrainEnd, DrainHostRequest, DrainHostResponse, DrainingFleet};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::fleet::{Next, Seen, Tried};
use super::cordon;
use crate::access::Caller;
use crate::app::App;
use crate::fleets_api::Fleets;
use crate::fleets_api::again::Again;
use crate::fleets_api::world::Newest;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::sessions::SHUTTING_DOWN;
use crate::store::Records;
use crate::{clock, inventory, rollouts_api};

/// How long it is waited where nothing is said, and at most.
const USUAL: Duration = Duration::from_secs(10 * 60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// From one look at the fleets to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks from one attempt at a fleet that someone else holds to the next.
const PATIENCE: u32 = 4;
/// Reports that the caller has not taken yet. Few: each is the whole, and an older one is no use.
const OUTBOX: usize = 2;

/// Marks the host, and begins.
pub(super) async fn start(
    app: &Arc<App>,
    caller: &Caller,
    request: DrainHostRequest,
) -> Result<ReceiverStream<Result<DrainHostResponse, Status>>, Refusal> {
    let DrainHostRequest { name, reason, timeout_ms } = request;
    let timeout = limit(timeout_ms)?;
    let wanted = cordon::Wanted { name: &name, reason: &reason, drains: true };
    let (host, _) = cordon::set(&app.records, caller, &wanted, clock::now()).await?;
    let drain = Drain {
        records: app.records.clone(),
        live: app.live.clone(),
        fleets: Fleets::new(app),
        who: caller.to_string(),
        host: inventory::host_id(&host.id)?,
        name: host.name,
        timeout,
        known: BTreeMap::new(),
    };
    let (outbox, stream) = mpsc::channel(OUTBOX);
    app.tasks.spawn(drain.run(outbox, app.shutdown.clone()));
    Ok(ReceiverStream::new(stream))
}

fn limit(timeout_ms: u64) -> Result<Duration, Refusal> {
    let timeout = if timeout_ms == 0 { USUAL } else { Duration::from_millis(timeout_ms) };
    if timeout > LONGEST {
        return Err(Refusal::Invalid("a drain may take at most 24 hours".into()));
    }
    Ok(timeout)
}

/// One call's work.
pub(super) struct Drain {
    pub(super) records: Records,
    pub(super) live: Live,
    pub(super) fleets: Fleets,
    pub(super) who: String,
    pub(super) host: HostId,
    pub(super) name: String,
    pub(super) timeout: Duration,
    /// Every fleet that had instances there since this call began.
    pub(super) known: BTreeMap<FleetName, Known>,
}

/// What is known of a fleet from look to look.
#[derive(Debug, Default)]
pub(super) struct Known {
    tried: Tried,
    gone: bool,
    /// Looks until it may be tried again.
    pause: u32,
    /// Why someone else holds it.
    held: String,
}

/// The host as it is at a look.
struct Now {
    online: bool,
    status: Option<Arc<HostStatus>>,
    wanted: BTreeSet<InstanceId>,
    /// The fleets whose newest revision places instances there.
    placed: BTreeSet<FleetName>,
    /// The names of all hosts.
    names: BTreeMap<HostId, HostName>,
}

impl Drain {
    async fn run(
        mut self,
        outbox: mpsc::Sender<Result<DrainHostResponse, Status>>,
        shutdown: CancellationToken,
    ) {
        let refusal = tokio::select! {
            outcome = self.go_on(&outbox) => outcome.err(),
            () = outbox.closed() => None,
            () = shutdown.cancelled() => Some(Refusal::Unavailable(SHUTTING_DOWN.into())),
        };
        if let Some(refusal) = refusal {
            tracing::info!(host = self.name, reason = %refusal, "drain ended");
            let _ = outbox.send(Err(refusal.into())).await;
        }
    }

    /// Looks and acts until nothing more can be done or the time is up. Dropping it anywhere is
    /// safe: whatever it began is in the store.
    async fn go_on(
        &mut self,
        outbox: &mpsc::Sender<Result<DrainHostResponse, Status>>,
    ) -> Result<(), Refusal> {
        let until = clock::now().after(self.timeout);
        let mut said = None;
        loop {
            let now = clock::now();
            let report = self.look(now, now >= until).await?;
            let is_over = report.end() != DrainEnd::Unspecified;
            if said.as_ref() != Some(&report) {
                said = Some(report.clone());
                if outbox.send(Ok(report)).await.is_err() {
                    return Ok(());
                }
            }
            if is_over {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One look at everything, and what is to be done about it. Where the `time_is_up`, nothing
    /// more is begun.
    pub(super) async fn look(
        &mut self,
        now: Timestamp,
        time_is_up: bool,
    ) -> Result<DrainHostResponse, Refusal> {
        self.must_be_marked().await?;
        let host = self.read().await?;
        let observed = host.status.iter().flat_map(|status| &status.instances);
        let there: BTreeSet<InstanceId> =
            host.wanted.iter().cloned().chain(observed.map(|i| i.id.clone())).collect();
        for fleet in there.iter().map(|id| &id.fleet).chain(&host.placed) {
            self.known.entry(fleet.clone()).or_default();
        }
        let mut fleets = Vec::new();
        for fleet in self.known.keys().cloned().collect::<Vec<_>>() {
            let left = there.iter().filter(|id| id.fleet == fleet);
            let left = left.map(ToString::to_string).collect();
            fleets.push(self.fleet(&fleet, &host, left, (now, time_is_up)).await?);
        }
        let is_empty = self.known.values().all(|known| known.gone);
        let end = match (is_empty, fleets.iter().all(|fleet| fleet.over)) {
            (true, _) => DrainEnd::Empty,
            (false, true) => DrainEnd::Left,
            (false, false) if time_is_up => DrainEnd::TimedOut,
            (false, false) => DrainEnd::Unspecified,
        };
        let retained = host.status.iter().flat_map(|status| status.retained.iter().cloned());
        let retained = retained.map(Into::into).collect();
        Ok(DrainHostResponse { fleets, retained, end: end.into() })
    }

    async fn must_be_marked(&self) -> Result<(), Refusal> {
        let name = &self.name;
        let host = self.records.get::<HostRecord>(self.host.as_str()).await?;
        let host = host.ok_or_else(|| {
            Refusal::Conflict(format!("host {name} was removed while it was drained"))
        })?;
        if host.record.cordon.is_some_and(|cordon| cordon.drains) {
            return Ok(());
        }
        Err(Refusal::Conflict(format!(
            "host {name} was uncordoned while it was drained; drain it again if that was a mistake"
        )))
    }

    async fn read(&self) -> Result<Now, Refusal> {
        let spec = self.records.get::<HostSpecRecord>(self.host.as_str()).await?;
        let spec = spec.as_ref().map(inventory::spec).transpose()?.unwrap_or_default();
        let mut placed = BTreeSet::new();
        for stored in self.records.list::<FleetRecord>().await?.records {
            let number = stored.record.revision;
            let revision = inventory::revision(&self.records, &stored.id, number).await?;
            if revision.hosts.get(&self.host).is_some_and(|there| !there.is_empty()) {
                placed.insert(revision.fleet);
            }
        }
        Ok(Now {
            online: self.live.presence(&self.host).is_some_and(|presence| presence.online),
            status: self.live.status(&self.host),
            wanted: spec.instances.into_iter().map(|instance| instance.id).collect(),
            placed,
            names: inventory::host_names(&self.records).await?,
        })
    }

    /// What becomes of one fleet, of which `left` is still there.
    async fn fleet(
        &mut self,
        fleet: &FleetName,
        host: &Now,
        left: Vec<String>,
        (now, time_is_up): (Timestamp, bool),
    ) -> Result<DrainingFleet, Refusal> {
        let Some(newest) = Newest::load(&self.records, fleet).await? else {
            // An instance of no fleet that is known here: only its agent knows of it.
            let why = "no such fleet is known here; the agent stops them".to_owned();
            return Ok(self.told(fleet, left, (why, false), None));
        };
        let seen = Seen {
            wanted: host.wanted.iter().any(|id| id.fleet == *fleet),
            placed: host.placed.contains(fleet),
            observed: !left.is_empty(),
            online: host.online,
            rollout: &newest.rollout,
        };
        let gone = self.known.values().filter(|known| known.gone).count();
        let known = self.known.entry(fleet.clone()).or_default();
        known.gone = false;
        let (why, over) = match fleet::next(seen, &known.tried, gone) {
            Next::Gone => {
                known.gone = true;
                (String::new(), true)
            }
            Next::Wait(why) => (why, false),
            Next::Stuck(why) => (why, true),
            Next::Apply if time_is_up => ("the time was up before it began".to_owned(), false),
            Next::Apply => self.move_away(fleet, &newest, gone, now).await?,
        };
        Ok(self.told(fleet, left, (why, over), Some((&newest, &host.names))))
    }

    /// Has the fleet placed anew, which keeps it off the host. Says what is awaited then or, with
    /// `true`, why it can't be.
    async fn move_away(
        &mut self,
        fleet: &FleetName,
        newest: &Newest,
        gone: usize,
        now: Timestamp,
    ) -> Result<(String, bool), Refusal> {
        let known = self.known.entry(fleet.clone()).or_default();
        if known.pause > 0 {
            known.pause -= 1;
            return Ok((known.held.clone(), false));
        }
        let asked = Again {
            fleet,
            base: newest.revision.number,
            // A rollout that is cut short goes back: it is given the usual time at least.
            timeout: self.timeout.max(USUAL),
            source: format!("drain of {}", self.name),
        };
        match self.fleets.again(&asked, &self.who, now).await {
            Ok(revision) => {
                known.tried = Tried { revision: Some(revision), refused: None };
                Ok((format!("the rollout of revision {revision} begins"), false))
            }
            Err(Refusal::Conflict(why)) => {
                (known.pause, known.held) = (PATIENCE, why.clone());
                Ok((why, false))
            }
            Err(Refusal::Invalid(why) | Refusal::Precondition(why)) => {
                known.tried.refused = Some((why.clone(), gone));
                Ok((why, true))
            }
            Err(other) => Err(other),
        }
    }

    fn told(
        &self,
        fleet: &FleetName,
        instances: Vec<String>,
        (why, over): (String, bool),
        newest: Option<(&Newest, &BTreeMap<HostId, HostName>)>,
    ) -> DrainingFleet {
        let made = self.known.get(fleet).and_then(|known| known.tried.revision);
        let newest = newest.filter(|(newest, _)| made == Some(newest.revision.number));
        let rollout = newest.map(|(newest, names)| {
            rollouts_api::wire(&newest.rollout, names, &newest.revision.author)
        });
        DrainingFleet { fleet: fleet.to_string(), instances, why, over, rollout }
    }
}
