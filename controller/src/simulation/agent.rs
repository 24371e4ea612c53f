//! An agent as the controller sees it: it takes desired states, fetches images, starts instances,
//! and goes back by itself where they don't work. What it has outlives its connection.

use std::collections::BTreeMap;

use shoal_core::host::HostSpec;
use shoal_core::image::Digest;
use shoal_core::infra::{self, Phase};
use shoal_core::name::{FleetName, HostId, InfraVersion};
use shoal_core::spec::InstanceSpec;
use shoal_core::status::{Health, HostStatus, InstanceStatus, State};

use super::{Random, SECOND};
use crate::fleets_api::tests_support::{self, Lab, NOON};

/// How long an agent looks at what does not work before it goes back.
const GATE: u64 = 6 * SECOND;

/// What runs on a host.
#[derive(Debug, Clone, Copy)]
struct Running {
    image: Digest,
    /// When it works, if it ever does.
    ready: u64,
}

/// What runs, and the infra version that it was made under.
type Made = (Running, Option<InfraVersion>);

pub(super) struct Agent {
    name: String,
    id: HostId,
    link: Option<tests_support::Agent>,
    /// Until when it has no connection.
    lost: u64,
    /// The desired state that it accepted last.
    ledger: HostSpec,
    /// When each image is there.
    images: BTreeMap<Digest, u64>,
    running: Option<Running>,
    /// The infra version that it was made under.
    infra: Option<InfraVersion>,
    /// The infra version that is on record.
    recorded: Option<InfraVersion>,
    /// What worked before that.
    proved: Option<Made>,
    /// The image that it went back from.
    refused: Option<Digest>,
    /// An image that does not work here.
    pub(super) breaks: Option<Digest>,
    /// How often it has started something.
    pub(super) starts: u32,
    /// The newest revision of each fleet that it was told.
    revisions: BTreeMap<FleetName, u64>,
}

impl Agent {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: format!("id-{name}").parse().unwrap(),
            link: None,
            lost: 0,
            ledger: HostSpec::default(),
            images: BTreeMap::new(),
            running: None,
            infra: None,
            recorded: None,
            proved: None,
            refused: None,
            breaks: None,
            starts: 0,
            revisions: BTreeMap::new(),
        }
    }

    /// Cuts it off until then.
    pub(super) fn lose(&mut self, until: u64) {
        self.link = None;
        self.lost = self.lost.max(until);
    }

    pub(super) fn was_told(&self, fleet: &FleetName, revision: u64) -> bool {
        self.revisions.get(fleet).is_some_and(|told| *told >= revision)
    }

    /// The image of what runs and works there.
    pub(super) fn runs(&self) -> Option<Digest> {
        let image = self.running?.image;
        (self.breaks != Some(image)).then_some(image)
    }

    /// One look at the world, at `now`.
    pub(super) fn live(
        &mut self,
        lab: &Lab,
        specs: &BTreeMap<HostId, HostSpec>,
        now: u64,
        random: &mut Random,
    ) {
        if self.link.is_none() && now >= self.lost {
            self.link = Some(lab.connect(&self.name));
        }
        if let (Some(_), Some(spec)) = (&self.link, specs.get(&self.id)) {
            self.accept(spec);
        }
        self.reconcile(now, random);
        if self.link.is_some() {
            lab.live.report(&self.id, self.status(now));
        }
    }

    /// Takes a desired state by the rules of the ledger.
    fn accept(&mut self, spec: &HostSpec) {
        assert!(spec.generation >= self.ledger.generation, "{}: an older one", self.name);
        if spec.generation == self.ledger.generation {
            assert_eq!(spec, &self.ledger, "{}: the same generation, the same content", self.name);
        }
        self.ledger = spec.clone();
        for instance in &spec.instances {
            let newest = self.revisions.entry(instance.id.fleet.clone()).or_default();
            *newest = instance.revision.max(*newest);
        }
    }

    fn reconcile(&mut self, now: u64, random: &mut Random) {
        let used = self.ledger.instances.iter().map(|instance| &instance.config.image);
        for image in used.chain(&self.ledger.stage) {
            let there = now + random.below(4) * SECOND;
            self.images.entry(image.digest).or_insert(there);
        }
        let Some(wanted) = self.ledger.instances.first().map(|i| i.config.image.digest) else {
            return;
        };
        if self.refused != Some(wanted) {
            self.refused = None;
        }
        let is_there = self.images.get(&wanted).is_some_and(|at| *at <= now);
        let version = self.ledger.infra.as_ref().map(|infra| infra.version.clone());
        let other = version.is_some() && self.infra != version;
        let runs_it = self.running.is_some_and(|running| running.image == wanted) && !other;
        if is_there && !runs_it && self.refused.is_none() {
            let works = self.running.filter(|running| running.ready <= now);
            let works = works.filter(|works| self.breaks != Some(works.image));
            let works = works.map(|works| (works, self.infra.clone()));
            self.proved = works.or_else(|| self.proved.take());
            self.start(wanted, version, now + (1 + random.below(5)) * SECOND);
        }
        self.go_back(now);
        if self.works(now) {
            self.recorded.clone_from(&self.infra);
        }
    }

    fn works(&self, now: u64) -> bool {
        let works = |running: Running| running.ready <= now && self.breaks != Some(running.image);
        self.running.is_some_and(works)
    }

    /// Goes back from what has not worked for long enough, where there is something to go back to.
    fn go_back(&mut self, now: u64) {
        let gate = self.ledger.instances.first().is_some_and(|instance| instance.gate.is_some());
        let (Some(running), Some((proved, infra))) = (self.running, self.proved.clone()) else {
            return;
        };
        let broken = self.breaks == Some(running.image) && now >= running.ready + GATE;
        if gate && broken && proved.image != running.image {
            self.refused = Some(running.image);
            self.start(proved.image, infra, now + SECOND);
        }
    }

    fn start(&mut self, image: Digest, infra: Option<InfraVersion>, ready: u64) {
        self.running = Some(Running { image, ready });
        self.infra = infra;
        self.starts += 1;
    }

    fn status(&self, now: u64) -> HostStatus {
        let there = self.images.iter().filter(|(_, at)| **at <= now);
        HostStatus {
            observed_generation: self.ledger.generation,
            instances: self.ledger.instances.iter().map(|one| self.instance(one, now)).collect(),
            images: there.map(|(image, _)| *image).collect(),
            infra: self.ledger.infra.as_ref().map(|_| self.infra()),
            ..HostStatus::default()
        }
    }

    fn infra(&self) -> infra::Status {
        let wanted = self.ledger.infra.as_ref().map(|infra| infra.version.clone());
        let wants = if self.refused.is_some() { self.infra.clone() } else { wanted };
        let phase = if self.recorded == wants { Phase::Done } else { Phase::Starting };
        let (has, waits) = (self.recorded.clone(), None);
        infra::Status { has, since: None, wants, phase, waits, snapshots: vec![] }
    }

    /// The infra version that is on record.
    pub(super) fn version(&self) -> Option<&str> {
        self.recorded.as_ref().map(InfraVersion::as_str)
    }

    fn instance(&self, wanted: &InstanceSpec, now: u64) -> InstanceStatus {
        let image = &wanted.config.image;
        let state = match self.running {
            Some(running) if running.image != image.digest && self.refused.is_none() => {
                State::Staging
            }
            Some(running) if running.ready > now => State::Starting,
            Some(running) if self.breaks == Some(running.image) => State::Failed,
            Some(_) => State::Running,
            None => State::Staging,
        };
        InstanceStatus {
            id: wanted.id.clone(),
            revision: wanted.revision,
            image: image.reference.clone(),
            digest: image.digest,
            state,
            health: Health::None,
            since: NOON,
            current: self.refused.is_none(),
            leader: None,
            restarts: 0,
            uid_base: None,
            message: (state == State::Failed).then(|| "exited with 1".to_owned()),
            paused: false,
            drift: vec![],
            last_exit: None,
            went_back: self.refused.map(|_| "exited with 1".to_owned()),
            addresses: vec![],
        }
    }
}
