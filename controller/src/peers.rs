//! Where the instances of each fleet are, in what the hosts are told.
//!
//! They are where the hosts' desired states have them: while a rollout is on its way, hosts have
//! two revisions of a fleet. A rollout's driver tells hosts of one another together with the
//! revision ([`seats`], [`wanted`]). What changes besides is this task's ([`run`]): a host that
//! has another address, instances that hosts told later have, and the infra's, of which every host
//! is told. It changes nothing else of a desired state, and only the one that it has read.
//!
//! Deliberately absent: how an instance is reached. `shoal_core::peers` decides that.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use shoal_core::cause::chain;
use shoal_core::host::{Host, HostSpec};
use shoal_core::name::{FleetName, HostId, InstanceId, InstanceName};
use shoal_core::peers::{self, Peer, known_to_all};
use shoal_core::spec::{InstanceConfig, Settings};
use shoal_proto::v1::store::{HostRecord, HostSpecRecord};
use tokio_util::sync::CancellationToken;

use crate::fleets_api::revision::Placed;
use crate::inventory;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Prefix, Record, RecordError, Records, Stored};

/// From a change to the look at it: a rollout tells its hosts itself in that time, and a thousand
/// hosts that come back are one change.
const PAUSE: Duration = Duration::from_millis(500);

/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(2);

/// Changes that are taken in at once.
const AT_ONCE: usize = 4096;

/// The instances of one fleet, each with its host.
#[derive(Debug)]
pub struct Seats<'a> {
    fleet: &'a FleetName,
    seats: Vec<(InstanceId, &'a Host, &'a Settings)>,
}

/// The instances of all fleets, as desired states have them, on hosts that are enrolled.
#[must_use]
pub fn seats<'a>(specs: &'a BTreeMap<HostId, HostSpec>, hosts: &'a [Host]) -> Vec<Seats<'a>> {
    let mut fleets: BTreeMap<&FleetName, Seats<'a>> = BTreeMap::new();
    for host in hosts {
        for instance in specs.get(&host.id).into_iter().flat_map(|spec| &spec.instances) {
            let fleet = &instance.id.fleet;
            let seats = fleets.entry(fleet).or_insert_with(|| Seats { fleet, seats: Vec::new() });
            seats.seats.push((instance.id.clone(), host, &instance.config.settings));
        }
    }
    fleets.into_values().collect()
}

impl<'a> Seats<'a> {
    /// Those of `fleet` as they are `placed`, on hosts that are enrolled.
    #[must_use]
    pub fn new(fleet: &'a FleetName, placed: &'a Placed, hosts: &'a [Host]) -> Self {
        let hosts: BTreeMap<&HostId, &Host> = hosts.iter().map(|host| (&host.id, host)).collect();
        let placed = placed.iter().filter_map(|(id, there)| Some((*hosts.get(id)?, there)));
        let seats = placed.flat_map(|(host, there)| {
            there.iter().map(move |(instance, config)| {
                let id = InstanceId { fleet: fleet.clone(), instance: instance.clone() };
                (id, host, &config.settings)
            })
        });
        Self { fleet, seats: seats.collect() }
    }

    /// What `host` is told of them, where it has `configs` of the fleet.
    #[must_use]
    pub fn told_to(
        &self,
        host: &Host,
        configs: &BTreeMap<InstanceName, InstanceConfig>,
    ) -> Vec<Peer> {
        if configs.is_empty() && !known_to_all(self.fleet) {
            return vec![];
        }
        self.seen_from(host)
    }

    /// Whether a host of this desired state is told of them.
    #[must_use]
    pub fn are_known_on(&self, spec: &HostSpec) -> bool {
        let of = |id: &InstanceId| known_to_all(self.fleet) || id.fleet == *self.fleet;
        spec.instances.iter().any(|instance| of(&instance.id))
    }

    /// Bytes that a host's being told of them takes at most in its desired state: a cheap look
    /// before the exact one, which goes over all of them for each host.
    #[must_use]
    pub fn largest(&self) -> usize {
        // An IPv6 address as text, and what protobuf puts around four fields.
        const REST: usize = 39 + 16;
        let one = |(id, host, _): &(InstanceId, &Host, _)| {
            let InstanceId { fleet, instance } = id;
            fleet.as_str().len() + instance.as_str().len() + host.name.as_str().len() + REST
        };
        self.seats.iter().map(one).sum()
    }

    fn seen_from(&self, host: &Host) -> Vec<Peer> {
        let placed = self.seats.iter().map(|(id, host, settings)| peers::Placed {
            id,
            host: &host.name,
            address: host.address(),
            settings,
        });
        peers::seen_from(&host.name, placed)
    }
}

/// What a host of the desired state `spec` is to be told of the instances of all fleets.
#[must_use]
pub fn wanted(host: &Host, spec: &HostSpec, fleets: &[Seats<'_>]) -> Vec<Peer> {
    let known = fleets.iter().filter(|seats| seats.are_known_on(spec));
    let mut peers: Vec<Peer> = known.flat_map(|seats| seats.seen_from(host)).collect();
    peers.sort();
    peers
}

/// Keeps every desired state's peers as they are until `shutdown`. Run once, in a task of its own.
pub async fn run(records: Records, live: Live, shutdown: CancellationToken) {
    while let Some(ended) = shutdown.run_until_cancelled(follow(&records, &live)).await {
        if let Err(refusal) = ended {
            tracing::error!(error = %refusal, "cannot tell hosts of one another; will try again");
        }
        shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

/// Looks, and looks again after each change, until the store fails.
async fn follow(records: &Records, live: &Live) -> Result<(), Refusal> {
    let mut changes = changes(records).await?.ready_chunks(AT_ONCE);
    loop {
        update(records, live).await?;
        let Some(first) = changes.next().await else { return Ok(()) };
        first.into_iter().collect::<Result<(), _>>()?;
        tokio::time::sleep(PAUSE).await;
        // What came meanwhile is looked at too.
        while let Some(Some(more)) = futures_util::FutureExt::now_or_never(changes.next()) {
            more.into_iter().collect::<Result<(), _>>()?;
        }
    }
}

/// Every change of a host and of a desired state.
async fn changes(
    records: &Records,
) -> Result<impl Stream<Item = Result<(), RecordError>> + use<>, RecordError> {
    let prefix = Prefix::new(HostRecord::PREFIX).expect("the kind's prefix is a prefix");
    let from = records.store().list(&prefix, None, 1).await?.revision;
    let hosts = records.watch::<HostRecord>(from)?.map(|change| change.map(drop)).boxed();
    let specs = records.watch::<HostSpecRecord>(from)?.map(|change| change.map(drop)).boxed();
    Ok(stream::select_all([hosts, specs]))
}

/// Writes the desired states whose peers are not as they should be.
///
/// # Errors
/// The store fails, or a record in it is damaged.
pub(crate) async fn update(records: &Records, live: &Live) -> Result<(), Refusal> {
    let hosts = inventory::hosts(records).await?;
    let stored = records.list::<HostSpecRecord>().await?.records;
    let mut specs = BTreeMap::new();
    for stored in &stored {
        specs.insert(inventory::host_id(&stored.id)?, inventory::spec(stored)?);
    }
    let fleets = seats(&specs, &hosts);
    let by_id: BTreeMap<&str, &Host> = hosts.iter().map(|h| (h.id.as_str(), h)).collect();
    for stored in &stored {
        let Some(host) = by_id.get(stored.id.as_str()) else { continue };
        let Some(spec) = specs.get(&host.id) else { continue };
        // With thousands of hosts this takes its time, and others want theirs.
        tokio::task::yield_now().await;
        let peers = wanted(host, spec, &fleets);
        if peers != spec.peers {
            tell(records, live, host, stored, spec.clone(), peers).await?;
        }
    }
    Ok(())
}

/// Puts `peers` into the desired state that was read, unless it has changed since: then there is
/// another look.
async fn tell(
    records: &Records,
    live: &Live,
    host: &Host,
    stored: &Stored<HostSpecRecord>,
    before: HostSpec,
    peers: Vec<Peer>,
) -> Result<(), Refusal> {
    let seen = live.status(&host.id).map_or(0, |status| status.observed_generation);
    let after = HostSpec { generation: before.generation + 1, peers, ..before.clone() };
    let after = before.followed_by(after, seen);
    let mut batch = Batch::new();
    batch.exists::<HostRecord>(host.id.as_str())?;
    batch.replace(stored, &HostSpecRecord { spec: Some(after.into()) })?;
    match records.commit(batch).await {
        Ok(_) => Ok(()),
        Err(CommitError::Conflict { .. }) => Ok(()),
        Err(error @ CommitError::TooLarge { .. }) => {
            let error = chain(&error);
            tracing::error!(host = %host.name, error, "a host can't be told where others are");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use shoal_core::host::HostFacts;
    use shoal_core::label::HostMatch;
    use shoal_proto::v1::ApplyRequest;

    use super::*;
    use crate::fleets_api::tests_support::{ADA, Lab, NOON, fleet, request};

    async fn address(lab: &Lab, host: &str, address: &str) {
        let address = Some(address.parse().unwrap());
        lab.facts(host, Some(facts(address))).await;
    }

    fn facts(address: Option<std::net::IpAddr>) -> HostFacts {
        HostFacts { idmapped_squashfs: true, address, ..HostFacts::default() }
    }

    async fn applied(lab: &Lab, request: ApplyRequest) {
        let fleet = request.spec.as_ref().unwrap().fleet.clone();
        let applied = lab.fleets().apply(request, ADA, NOON).await.unwrap();
        lab.roll(&fleet, applied.revision).await;
        update(&lab.records, &lab.live).await.unwrap();
    }

    /// `INSTANCE@HOST ADDRESS` of each that the host is told of.
    async fn told(lab: &Lab, host: &str) -> Vec<String> {
        let peers = lab.spec(host).await.peers;
        peers.iter().map(|p| format!("{}@{} {}", p.id, p.host, p.address)).collect()
    }

    #[tokio::test]
    async fn a_rollouts_hosts_are_told_of_one_another() {
        let lab = Lab::new().await;
        address(&lab, "h1", "192.0.2.1").await;
        address(&lab, "h3", "192.0.2.3").await;
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h1,h2"), ("db", "app:1", "h3")])))
            .await;
        let all = ["shop/app@h1 192.0.2.1", "shop/db@h3 192.0.2.3"];
        for host in ["h1", "h2", "h3"] {
            assert_eq!(told(&lab, host).await, all, "h2 has not said how it is reached");
        }
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h1")]))).await;
        assert_eq!(told(&lab, "h1").await, ["shop/app@h1 192.0.2.1"]);
        assert_eq!(told(&lab, "h3").await, [""; 0]);
        let generation = lab.spec("h1").await.generation;
        update(&lab.records, &lab.live).await.unwrap();
        assert_eq!(lab.spec("h1").await.generation, generation, "there was nothing to say");
    }

    #[tokio::test]
    async fn a_new_address_is_told_and_nothing_else_is_changed() {
        let lab = Lab::new().await;
        address(&lab, "h3", "192.0.2.3").await;
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h1"), ("db", "app:1", "h3")])))
            .await;
        applied(&lab, request(&fleet("other", &[("app", "app:1", "h2")]))).await;
        let (before, other) = (lab.spec("h1").await, lab.spec("h2").await);
        address(&lab, "h3", "192.0.2.33").await;
        update(&lab.records, &lab.live).await.unwrap();
        let after = lab.spec("h1").await;
        assert_eq!(told(&lab, "h1").await, ["shop/db@h3 192.0.2.33"]);
        let wanted = (before.generation + 1, before.instances, before.stage);
        assert_eq!((after.generation, after.instances, after.stage), wanted);
        assert_eq!(lab.spec("h2").await, other, "another fleet's host is left alone");
    }

    /// While a rollout is on its way, or has gone back, hosts have two revisions of a fleet.
    #[tokio::test]
    async fn instances_are_where_the_hosts_were_told_to_have_them() {
        let lab = Lab::new().await;
        address(&lab, "h1", "192.0.2.1").await;
        address(&lab, "h3", "192.0.2.3").await;
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h1"), ("db", "app:1", "h1")])))
            .await;
        let moved = request(&fleet("shop", &[("app", "app:1", "h1"), ("db", "app:1", "h3")]));
        lab.fleets().apply(moved, ADA, NOON).await.unwrap();
        update(&lab.records, &lab.live).await.unwrap();
        let wanted = ["shop/app@h1 192.0.2.1", "shop/db@h1 192.0.2.1"];
        assert_eq!(told(&lab, "h1").await, wanted, "it has moved nowhere yet");
    }

    #[tokio::test]
    async fn every_host_that_runs_something_is_told_of_the_infra() {
        let lab = Lab::new().await;
        address(&lab, "h3", "192.0.2.3").await;
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h1")]))).await;
        applied(&lab, request(&fleet("infra", &[("sql", "app:1", "h3")]))).await;
        update(&lab.records, &lab.live).await.unwrap();
        assert_eq!(told(&lab, "h1").await, ["infra/sql@h3 192.0.2.3"]);
        assert_eq!(told(&lab, "h2").await, [""; 0], "it runs nothing");
        assert!(lab.records.get::<HostSpecRecord>("id-h2").await.unwrap().is_none());
        let mut nothing = fleet("shop", &[("app", "app:1", "h1")]);
        nothing.instances.values_mut().for_each(|i| {
            i.hosts = HostMatch::Names(vec!["h2".parse().unwrap()]);
        });
        applied(&lab, request(&nothing)).await;
        update(&lab.records, &lab.live).await.unwrap();
        assert_eq!(told(&lab, "h1").await, [""; 0]);
        assert_eq!(told(&lab, "h2").await, ["infra/sql@h3 192.0.2.3"]);
    }

    #[tokio::test]
    async fn what_it_takes_at_most_is_not_below_what_it_takes() {
        use prost::Message as _;
        let hosts = |n: u8| Host {
            id: format!("id-{n}").parse().unwrap(),
            name: format!("{n}{}", "x".repeat(60)).parse().unwrap(),
            labels: [].into(),
            facts: Some(facts(Some("2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap()))),
            cordon: None,
        };
        let hosts: Vec<Host> = (0..100).map(hosts).collect();
        let name = "i".repeat(31).parse().unwrap();
        let config = InstanceConfig {
            image: crate::fleets_api::tests_support::pinned("app:1", 1),
            settings: crate::fleets_api::tests_support::settings(),
        };
        let there: BTreeMap<InstanceName, _> = [(name, config)].into();
        let placed = hosts.iter().map(|host| (host.id.clone(), there.clone())).collect();
        let fleet = "f".repeat(31).parse().unwrap();
        let seats = Seats::new(&fleet, &placed, &hosts);
        let peers = seats.told_to(&hosts[0], &there);
        assert_eq!(peers.len(), 100);
        let spec = HostSpec { peers, ..HostSpec::default() };
        let exact = shoal_proto::v1::HostSpec::from(spec).encoded_len();
        assert!(seats.largest() >= exact && exact > seats.largest() * 9 / 10, "{exact}");
    }

    #[tokio::test]
    async fn a_desired_state_that_has_changed_since_is_not_overwritten() {
        let lab = Lab::new().await;
        address(&lab, "h1", "192.0.2.1").await;
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h1")]))).await;
        let stored = lab.records.get::<HostSpecRecord>("id-h1").await.unwrap().unwrap();
        let spec = inventory::spec(&stored).unwrap();
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h2")]))).await;
        let hosts = inventory::hosts(&lab.records).await.unwrap();
        tell(&lab.records, &lab.live, &hosts[0], &stored, spec, vec![]).await.unwrap();
        assert!(lab.spec("h1").await.instances.is_empty(), "what has gone does not come back");
    }

    #[tokio::test]
    async fn the_task_notices_by_itself() {
        let lab = Lab::new().await;
        applied(&lab, request(&fleet("shop", &[("app", "app:1", "h1"), ("db", "app:1", "h3")])))
            .await;
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(lab.records.clone(), lab.live.clone(), stop.clone()));
        address(&lab, "h3", "192.0.2.3").await;
        let wait = async {
            while told(&lab, "h1").await.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("h1 was never told");
        stop.cancel();
        task.await.unwrap();
    }
}
