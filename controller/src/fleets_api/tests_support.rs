//! A small world for tests: a store in a temporary directory, hosts, images, fleets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_core::agent_upgrade::{AgentStatus, Phase::Current};
use shoal_core::fleet::{DeclaredInstance, FleetSpec, Templates};
use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::image::PinnedImage;
use shoal_core::infra::{self, GoingBack, HostInfra, Infra, Phase};
use shoal_core::label::HostMatch;
use shoal_core::name::{HostId, InfraVersion};
use shoal_core::placement::with_fleet;
use shoal_core::rollout::Policy;
use shoal_core::spec::{Hooks, Limits, Network, Root, Security, Settings, Start};
use shoal_core::status::{Health, HostStatus, InstanceStatus, State};
use shoal_core::time::Timestamp;
use shoal_proto::convert::digest_bytes;
use shoal_proto::v1::store::{HostRecord, HostSpecRecord, ImageRecord, RolloutRecord, TagRecord};
use shoal_proto::v1::{self, ApplyRequest, ApplyResponse};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Fleets;
use super::world::tag_id;
use crate::config;
use crate::inventory;
use crate::live::{Attached, Live};
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::rollout_driver::Driver;
use crate::store::{Batch, Records, SqliteStore, Stored};
use crate::transfers::{Parts, Transfers};

/// Who does everything in tests.
pub(crate) const ADA: &str = "spiffe://test/user/ada";

/// The time at which tests begin.
pub(crate) const NOON: Timestamp = Timestamp(1_700_000_000_000);

/// A controller's state.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) records: Records,
    pub(crate) live: Live,
}

impl Lab {
    /// With hosts h1 and h2 of role web and h3 of role db, ids `id-h1` …, and images app:1 to
    /// app:3, whose digests are 1, 2, 3, 32 times over.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path().join("store.db")).unwrap();
        let records = Records::new(Arc::new(store));
        let live = Live::load(records.clone(), 4).await.unwrap();
        let lab = Self { dir, records, live };
        for (name, role) in [("h1", "web"), ("h2", "web"), ("h3", "db")] {
            lab.host(name, role).await;
        }
        for number in 1..=3 {
            lab.image(&format!("app:{number}"), number).await;
        }
        lab
    }

    /// Transfers of its images, below its directory.
    pub(crate) async fn transfers(&self) -> Transfers {
        let parts = Parts {
            records: self.records.clone(),
            live: self.live.clone(),
            trust_domain: "shoal.test".parse().unwrap(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        let (recipes, images) = (self.dir.path().join("recipes"), self.dir.path().join("images"));
        Transfers::open(&recipes, &images, config::Transfers::default(), parts).await.unwrap()
    }

    /// Enrols another host, named `name`.
    pub(crate) async fn host(&self, name: &str, role: &str) {
        let id = format!("id-{name}");
        let record = HostRecord {
            id: id.clone(),
            name: name.into(),
            labels: [("role".to_owned(), role.to_owned())].into(),
            ..HostRecord::default()
        };
        self.put(&id, &record).await;
    }

    /// Has the agent of `host` say what its host is like.
    pub(crate) async fn facts(&self, host: &str, facts: Option<HostFacts>) {
        self.wire_facts(host, facts.map(Into::into)).await;
    }

    pub(crate) async fn wire_facts(&self, host: &str, facts: Option<v1::HostFacts>) {
        let id = format!("id-{host}");
        let stored = self.records.get::<HostRecord>(&id).await.unwrap().unwrap();
        self.put(&id, &HostRecord { facts, ..stored.record }).await;
    }

    pub(crate) async fn image(&self, reference: &str, digest: u8) {
        let pinned = pinned(reference, digest);
        let bytes = digest_bytes(&pinned.digest);
        let record = ImageRecord { digest: bytes.clone(), size: 4096, ..ImageRecord::default() };
        self.put(&pinned.digest.to_string(), &record).await;
        self.put(&tag_id(&pinned.reference), &TagRecord { digest: bytes }).await;
    }

    pub(crate) async fn put<R: crate::store::Record>(&self, id: &str, record: &R) {
        let mut batch = Batch::new();
        batch.put(id, record).unwrap();
        self.records.commit(batch).await.unwrap();
    }

    pub(crate) fn fleets(&self) -> Fleets {
        Fleets::over(self.records.clone(), self.live.clone())
    }

    /// Applies a fleet, of instances with image and hosts each.
    pub(crate) async fn apply(
        &self,
        name: &str,
        instances: &[(&str, &str, &str)],
    ) -> Result<ApplyResponse, Refusal> {
        self.fleets().apply(request(&fleet(name, instances)), ADA, NOON).await
    }

    /// Has the agent of `host` connected; it is until the result is dropped.
    pub(crate) fn connect(&self, host: &str) -> Agent {
        let id: HostId = format!("id-{host}").parse().unwrap();
        let (outbox, inbox) = mpsc::channel(8);
        let attached = self.live.attach(&id, outbox, NOON);
        Agent { live: self.live.clone(), id, attached, inbox }
    }

    pub(crate) async fn spec(&self, host: &str) -> HostSpec {
        let stored = self.records.get::<HostSpecRecord>(&format!("id-{host}")).await.unwrap();
        stored.map_or_else(HostSpec::default, |stored| inventory::spec(&stored).unwrap())
    }

    pub(crate) async fn rollout(&self, fleet: &str, revision: u64) -> Stored<RolloutRecord> {
        self.records.get(&revision_id(fleet, revision)).await.unwrap().unwrap()
    }

    /// Lets the driver do all that it can do at `now`; whether the rollout has ended.
    pub(crate) async fn advance(&self, fleet: &str, revision: u64, now: Timestamp) -> bool {
        let driver = Driver::new(self.records.clone(), self.live.clone());
        driver.advance(&revision_id(fleet, revision), now).await.unwrap().is_none()
    }

    /// Lets the driver and these agents do all that they can do at `now`; whether the rollout has
    /// ended.
    pub(crate) async fn settle(
        &self,
        fleet: &str,
        revision: u64,
        agents: &[&Agent],
        now: Timestamp,
    ) -> bool {
        loop {
            let before = self.rollout(fleet, revision).await.modified;
            let mut told = false;
            for agent in agents {
                told |= agent.catch_up(self).await;
            }
            if self.advance(fleet, revision, now).await {
                return true;
            }
            if !told && self.rollout(fleet, revision).await.modified == before {
                return false;
            }
        }
    }

    /// Has all hosts told of a revision at once, without a rollout, and whoever is there.
    pub(crate) async fn tell(&self, fleet: &str, revision: u64) {
        let revision = inventory::revision(&self.records, fleet, revision).await.unwrap();
        for (host, configs) in &revision.hosts {
            let name = host.as_str().trim_start_matches("id-");
            let before = self.spec(name).await;
            let number = revision.number;
            let infra = revision.spec.infra.as_ref().map(|infra| HostInfra::of(infra, number));
            let after =
                with_fleet(&before, &revision.fleet, number, configs, &[], None, infra.as_ref());
            self.put(host.as_str(), &HostSpecRecord { spec: Some(after.into()) }).await;
        }
    }

    /// Lets a rollout run over hosts that are all there and do as they are told.
    pub(crate) async fn roll(&self, fleet: &str, revision: u64) {
        let agents: Vec<Agent> = self.names().await.iter().map(|host| self.connect(host)).collect();
        let agents: Vec<&Agent> = agents.iter().collect();
        assert!(self.settle(fleet, revision, &agents, NOON).await);
        let state = self.rollout(fleet, revision).await.record.state();
        assert_eq!(state, v1::RolloutState::Completed);
    }

    /// The hosts that are enrolled.
    async fn names(&self) -> Vec<String> {
        let hosts = self.records.list::<HostRecord>().await.unwrap().records;
        hosts.into_iter().map(|stored| stored.record.name).collect()
    }
}

/// A connected agent.
pub(crate) struct Agent {
    live: Live,
    pub(crate) id: HostId,
    #[expect(dead_code, reason = "connected until dropped")]
    attached: Attached,
    #[expect(dead_code, reason = "what is sent to it has to have somewhere to go")]
    inbox: mpsc::Receiver<Result<shoal_proto::v1::ControllerMessage, tonic::Status>>,
}

impl Agent {
    /// Reports that everything is as wanted; whether that is news.
    pub(crate) async fn catch_up(&self, lab: &Lab) -> bool {
        let spec = lab.spec(self.id.as_str().trim_start_matches("id-")).await;
        let before = lab.live.fresh_status(&self.id).map(|status| status.observed_generation);
        self.converge(&spec);
        before != Some(spec.generation)
    }

    /// Reports that everything in `spec` is as wanted.
    pub(crate) fn converge(&self, spec: &HostSpec) {
        self.report(spec, State::Running);
    }

    /// Reports that everything in `spec` failed, and that the agent went back by itself.
    pub(crate) fn went_back(&self, spec: &HostSpec) {
        self.report(spec, State::Failed);
        let mut status = HostStatus::clone(&self.live.status(&self.id).unwrap());
        for instance in &mut status.instances {
            instance.went_back = Some("exited with 1".into());
        }
        self.live.report(&self.id, status);
    }

    /// Reports that everything in `spec` is in `state`.
    pub(crate) fn report(&self, spec: &HostSpec, state: State) {
        let status = |instance: &shoal_core::spec::InstanceSpec| InstanceStatus {
            id: instance.id.clone(),
            revision: instance.revision,
            image: instance.config.image.reference.clone(),
            digest: instance.config.image.digest,
            state,
            health: Health::None,
            since: NOON,
            current: true,
            leader: None,
            restarts: 0,
            uid_base: None,
            message: (state == State::Failed).then(|| "exited with 1".to_owned()),
            paused: instance.paused,
            drift: vec![],
            last_exit: None,
            went_back: None,
            addresses: vec![],
        };
        let used = spec.instances.iter().map(|instance| &instance.config.image);
        let images = used.chain(&spec.stage).map(|image| image.digest);
        let status = HostStatus {
            observed_generation: spec.generation,
            instances: spec.instances.iter().map(status).collect(),
            images: images.collect(),
            infra: spec.infra.as_ref().map(|infra| infra_done(&infra.version)),
            agent: spec.agent.as_ref().map(|agent| AgentStatus::of(agent, Current, "")),
            ..HostStatus::default()
        };
        self.live.report(&self.id, status);
    }
}

/// What an agent says of an infra version that its host has.
pub(crate) fn infra_done(version: &InfraVersion) -> infra::Status {
    infra::Status {
        has: Some(version.clone()),
        since: Some(NOON),
        wants: Some(version.clone()),
        phase: Phase::Done,
        waits: None,
        snapshots: vec![],
    }
}

/// An infra of this version, of instances as in [`fleet`].
pub(crate) fn infra(version: &str, instances: &[(&str, &str, &str)]) -> FleetSpec {
    let infra = Infra {
        version: version.parse().unwrap(),
        snapshot: true,
        going_back: GoingBack::ImageAndData,
        restore: None,
        agent: None,
    };
    FleetSpec { infra: Some(infra), ..fleet(infra::FLEET, instances) }
}

pub(crate) fn pinned(reference: &str, digest: u8) -> PinnedImage {
    PinnedImage { reference: reference.parse().unwrap(), digest: [digest; 32].into(), size: 4096 }
}

pub(crate) fn settings() -> Settings {
    Settings {
        start: Start::Boot,
        network: Network::Host,
        env: BTreeMap::new(),
        data: BTreeMap::new(),
        files: BTreeMap::new(),
        vars: BTreeMap::new(),
        health: None,
        after: BTreeSet::new(),
        ports: vec![],
        limits: Limits::default(),
        security: Security::default(),
        mounts: BTreeMap::new(),
        root: Root::default(),
        secrets: BTreeMap::new(),
        hooks: Hooks::default(),
    }
}

/// A fleet of instances, each with its image and its hosts: `*`, a selector, or a name.
pub(crate) fn fleet(name: &str, instances: &[(&str, &str, &str)]) -> FleetSpec {
    let hosts = |text: &str| match text {
        "*" => HostMatch::All,
        text if text.contains('=') => HostMatch::Selector(text.parse().unwrap()),
        text => HostMatch::Names(text.split(',').map(|name| name.parse().unwrap()).collect()),
    };
    let declared = |(instance, image, on): &(&str, &str, &str)| {
        let image = image.parse().unwrap();
        let declared = DeclaredInstance {
            image,
            hosts: hosts(on),
            count: None,
            settings: settings(),
            overrides: vec![],
            templates: Templates::default(),
            secrets: BTreeMap::new(),
        };
        (instance.parse().unwrap(), declared)
    };
    let instances = instances.iter().map(declared).collect();
    FleetSpec { fleet: name.parse().unwrap(), instances, rollout: Policy::default(), infra: None }
}

/// An apply that takes the place of one before.
pub(crate) fn request(spec: &FleetSpec) -> ApplyRequest {
    ApplyRequest { spec: Some(spec.clone().into()), replace: true, ..ApplyRequest::default() }
}
