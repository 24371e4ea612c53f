//! Two hundred agents and the controller's own store, apply and driver in one process, in a time
//! of their own: what a rollout does to a fleet whose network breaks, whose agents restart, and
//! whose controller is killed between any two of its writes.
//!
//! Everything that happens is decided by a seed, which a failure names; the same seed is the same
//! history. The agents are fakes with a memory ([`agent`]), below the wire: they see the desired
//! states that the store has, and report to `Live`.
//!
//! Deliberately absent: the wire. `tests/simulation` has that, in real time.

mod agent;
mod mortal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_core::fleet::FleetSpec;
use shoal_core::host::HostSpec;
use shoal_core::name::HostId;
use shoal_core::rollout::{Outcome, Policy, Rollout, State};
use shoal_core::time::Timestamp;
use shoal_proto::v1::ApplyRequest;
use shoal_proto::v1::store::HostSpecRecord;

use self::agent::Agent;
use self::mortal::Mortal;
use crate::fleets_api::tests_support::{ADA, Lab, NOON, fleet, infra, request};
use crate::inventory;
use crate::live::Live;
use crate::records::revision_id;
use crate::rollout_driver::Driver;
use crate::store::{Records, Stored};

const HOSTS: usize = 200;
const SECOND: u64 = 1_000;

/// Numbers that a seed decides (xorshift64*).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// One of `0..end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What goes wrong in a history, besides the revision.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// In how many seconds the network breaks once, for some of the hosts.
    partitions: u64,
    /// In how many seconds an agent is restarted once.
    restarts: u64,
    /// In how many passes the controller is killed once.
    kills: u64,
}

const CALM: Weather = Weather { partitions: u64::MAX, restarts: u64::MAX, kills: u64::MAX };
const STORMY: Weather = Weather { partitions: 20, restarts: 2, kills: 4 };

struct World {
    lab: Lab,
    agents: Vec<Agent>,
    random: Random,
    weather: Weather,
    /// Milliseconds since noon.
    time: u64,
    /// Each change of the rollout, for people and to compare histories by.
    story: Vec<String>,
    /// The driver of the controller that runs at the moment; dies after some of its writes.
    driver: Option<(Driver, Arc<Mortal>)>,
}

impl World {
    /// A fleet of two hundred hosts that runs `app:1`.
    async fn new(seed: u64, weather: Weather) -> Self {
        let lab = Lab::new().await;
        let mut agents = Vec::new();
        for number in 0..HOSTS {
            let name = format!("s{number:03}");
            lab.host(&name, "sim").await;
            agents.push(Agent::new(&name));
        }
        let random = Random::new(seed);
        let mut world =
            Self { lab, agents, random, weather: CALM, time: 0, story: vec![], driver: None };
        world.apply("app:1", Policy { batches: vec!["100%".parse().unwrap()], ..policy() }).await;
        assert_eq!(world.run(1).await.state, State::Completed);
        world.weather = weather;
        world
    }

    fn now(&self) -> Timestamp {
        NOON.after(Duration::from_millis(self.time))
    }

    async fn apply(&mut self, image: &str, policy: Policy) {
        let spec = fleet("shop", &[("main", image, "role=sim")]);
        self.apply_spec(spec, policy).await;
    }

    async fn apply_spec(&mut self, mut spec: FleetSpec, policy: Policy) {
        spec.rollout = policy;
        let request = ApplyRequest { timeout_ms: 600 * SECOND, ..request(&spec) };
        self.lab.fleets().apply(request, ADA, self.now()).await.unwrap();
    }

    /// Makes the revision's image one that does not work on these hosts.
    fn break_on(&mut self, is_broken: impl Fn(usize) -> bool) {
        for (number, agent) in self.agents.iter_mut().enumerate() {
            agent.breaks = is_broken(number).then_some([2; 32].into());
        }
    }

    /// Lets time pass until the rollout has ended.
    async fn run(&mut self, revision: u64) -> Rollout {
        self.run_of("shop", revision).await
    }

    async fn run_of(&mut self, fleet: &str, revision: u64) -> Rollout {
        let id = revision_id(fleet, revision);
        let mut last = None;
        // Forward and back have ten minutes each, and there is no hold.
        for _ in 0..1_210 {
            self.second(&id).await;
            let rollout = inventory::rollout(&self.lab.records, &id).await.unwrap();
            self.check(&rollout);
            self.tell(last.as_ref(), &rollout);
            if rollout.state.is_final() {
                return rollout;
            }
            last = Some(rollout);
        }
        panic!("it has not ended by its deadline:\n{}", self.story.join("\n"));
    }

    /// One second: what happens to the network, what agents do, and passes of the driver.
    async fn second(&mut self, id: &str) {
        self.time += SECOND;
        self.befall();
        self.agents().await;
        self.drive(id).await;
    }

    fn befall(&mut self) {
        let now = self.time;
        if self.random.once_in(self.weather.partitions) {
            // One part of the fleet, as behind one switch.
            let from = usize::try_from(self.random.below(200)).unwrap();
            let count = usize::try_from(1 + self.random.below(60)).unwrap();
            let until = now + (1 + self.random.below(90)) * SECOND;
            for agent in self.agents.iter_mut().skip(from).take(count) {
                agent.lose(until);
            }
        }
        if self.random.once_in(self.weather.restarts) {
            let which = usize::try_from(self.random.below(200)).unwrap();
            let until = now + (1 + self.random.below(8)) * SECOND;
            self.agents[which].lose(until);
        }
    }

    async fn agents(&mut self) {
        let specs = self.specs().await;
        for agent in &mut self.agents {
            agent.live(&self.lab, &specs, self.time, &mut self.random);
        }
    }

    async fn specs(&self) -> BTreeMap<HostId, HostSpec> {
        let listed = self.lab.records.list::<HostSpecRecord>().await.unwrap().records;
        let spec = |stored: &Stored<HostSpecRecord>| {
            (inventory::host_id(&stored.id).unwrap(), inventory::spec(stored).unwrap())
        };
        listed.iter().map(spec).collect()
    }

    /// A pass of the driver; it may be killed in it, and is started anew in the next second.
    async fn drive(&mut self, id: &str) {
        if self.driver.is_none() {
            self.boot().await;
        }
        let (driver, mortal) = self.driver.as_ref().unwrap();
        if self.random.once_in(self.weather.kills) {
            let (commits, wrote) = (self.random.below(6), self.random.once_in(2));
            mortal.dies_after(commits, wrote);
        }
        let now = self.now();
        let (driver, mortal) = (driver, Arc::clone(mortal));
        let passed = driver.advance(id, now).await;
        assert!(passed.is_ok() || mortal.is_dead(), "{passed:?}");
        if mortal.is_dead() {
            self.story.push(format!("{:>4} s  the controller is killed", self.time / SECOND));
            self.driver = None;
        }
    }

    /// A controller that has nothing but the store, and whose agents come back one by one.
    async fn boot(&mut self) {
        if !self.story.is_empty() {
            for agent in &mut self.agents {
                agent.lose(self.time + self.random.below(4) * SECOND);
            }
            self.lab.live = Live::load(self.lab.records.clone(), 4).await.unwrap();
        }
        let mortal = Arc::new(Mortal::over(Arc::clone(self.lab.records.store())));
        let records = Records::new(mortal.clone());
        self.driver = Some((Driver::new(records, self.lab.live.clone()), mortal));
    }

    /// What must be so at every moment.
    fn check(&self, rollout: &Rollout) {
        let under_way = rollout.hosts.values().filter(|host| {
            host.generation.is_some()
                && host.offline_since.is_none()
                && host.batch.is_some_and(|batch| batch < rollout.batch)
                && matches!(host.outcome, Outcome::Changing(_))
        });
        let told = rollout.hosts.values().filter(|host| host.generation.is_some()).count();
        let changed = self
            .agents
            .iter()
            .filter(|agent| agent.was_told(&rollout.fleet, rollout.revision))
            .count();
        assert!(changed <= told, "{changed} hosts were told, and {told} are known to be");
        assert!(under_way.count() <= HOSTS / 2, "one batch after the other");
    }

    fn tell(&mut self, before: Option<&Rollout>, after: &Rollout) {
        let known = |rollout: &Rollout| (rollout.state, rollout.batch, rollout.proofs);
        if before.map(known) == Some(known(after)) {
            return;
        }
        let of = |is: fn(&Outcome) -> bool| after.hosts.values().filter(|h| is(&h.outcome)).count();
        let (ready, offline) = (of(|o| *o == Outcome::Ready), of(|o| *o == Outcome::Offline));
        let why = after.cause.as_deref().unwrap_or("");
        self.story.push(format!(
            "{:>4} s  {:?} batch {}, {ready} ready, {offline} offline {why}",
            self.time / SECOND,
            after.state,
            after.batch
        ));
    }

    /// Ends all trouble, and gives the agents their time.
    async fn clear_up(&mut self) {
        self.weather = CALM;
        if self.driver.is_none() {
            self.boot().await;
        }
        self.time += 200 * SECOND;
        for _ in 0..20 {
            self.time += SECOND;
            self.agents().await;
        }
    }

    /// The hosts on which something was started since the fleet was there.
    fn disturbed(&self) -> usize {
        self.agents.iter().filter(|agent| agent.starts > 1).count()
    }

    fn running(&self, image: u8) -> usize {
        self.agents.iter().filter(|agent| agent.runs() == Some([image; 32].into())).count()
    }
}

fn policy() -> Policy {
    Policy {
        monitor: Duration::from_secs(3),
        batch_timeout: Duration::from_secs(60),
        ..Policy::default()
    }
}

/// Runs a history for each seed; the one that fails is named.
async fn seeds(seeds: std::ops::Range<u64>, history: impl AsyncFn(u64)) {
    for seed in seeds {
        let named = Named(seed);
        history(seed).await;
        std::mem::forget(named);
    }
}

/// Says which seed it was when a history fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("this was seed {}", self.0);
    }
}

#[tokio::test]
async fn a_good_revision_gets_everywhere() {
    seeds(0..3, async |seed| {
        let mut world = World::new(seed, STORMY).await;
        world.apply("app:2", policy()).await;
        let rollout = world.run(2).await;
        let story = world.story.join("\n");
        assert!(matches!(rollout.state, State::Completed | State::Partial), "{story}");
        world.clear_up().await;
        assert_eq!(world.running(2), HOSTS, "{story}");
        assert!(world.agents.iter().all(|agent| agent.starts == 2), "each once\n{story}");
    })
    .await;
}

#[tokio::test]
async fn a_bad_revision_stops_at_the_canary() {
    seeds(10..14, async |seed| {
        let mut world = World::new(seed, STORMY).await;
        world.break_on(|_| true);
        world.apply("app:2", policy()).await;
        let rollout = world.run(2).await;
        let story = world.story.join("\n");
        assert!(!rollout.is_proof(), "{story}");
        world.clear_up().await;
        // A canary that is cut off proves nothing, and a further one is tried.
        assert!(world.disturbed() <= 2, "{} hosts\n{story}", world.disturbed());
        assert_eq!(world.running(1), HOSTS, "all are where they were\n{story}");
    })
    .await;
}

#[tokio::test]
async fn a_revision_that_only_the_canary_bears_stops_at_the_next_batch() {
    seeds(20..22, async |seed| {
        let mut world = World::new(seed, STORMY).await;
        world.break_on(|number| number % 7 != 0);
        world.apply("app:2", policy()).await;
        let rollout = world.run(2).await;
        let story = world.story.join("\n");
        assert!(matches!(rollout.state, State::RolledBack | State::Failed), "{story}");
        world.clear_up().await;
        assert!(world.disturbed() <= HOSTS / 10 + 1, "{} hosts\n{story}", world.disturbed());
        assert_eq!(world.running(1), HOSTS, "all are where they were\n{story}");
    })
    .await;
}

#[tokio::test]
async fn in_calm_weather_nobody_waits() {
    let mut world = World::new(1, CALM).await;
    world.apply("app:2", policy()).await;
    let began = world.time;
    assert_eq!(world.run(2).await.state, State::Completed);
    let took = (world.time - began) / SECOND;
    // Four batches, each of up to 4 s for images, 6 s to be ready and 3 s of monitor time.
    assert!(took <= 4 * 15, "{took} s\n{}", world.story.join("\n"));
}

#[tokio::test]
async fn an_infra_version_gets_everywhere_and_a_bad_one_nowhere() {
    let under = |world: &World, version: &str| {
        world.agents.iter().filter(|agent| agent.version() == Some(version)).count()
    };
    let mut world = World::new(30, STORMY).await;
    let one = infra("1", &[("sql", "app:1", "role=sim")]);
    world.apply_spec(one, policy()).await;
    let rollout = world.run_of("infra", 1).await;
    let story = world.story.join("\n");
    assert!(matches!(rollout.state, State::Completed | State::Partial), "{story}");
    world.clear_up().await;
    assert_eq!(under(&world, "1"), HOSTS, "{story}");
    assert!(world.agents.iter().all(|agent| agent.starts == 2), "each once\n{story}");
    // The same image under another version is another start.
    world.apply_spec(infra("2", &[("sql", "app:1", "role=sim")]), policy()).await;
    let rollout = world.run_of("infra", 2).await;
    let story = world.story.join("\n");
    assert_eq!(rollout.state, State::Completed, "{story}");
    assert_eq!(under(&world, "2"), HOSTS, "{story}");
    assert!(world.agents.iter().all(|agent| agent.starts == 3), "each once\n{story}");
    world.weather = STORMY;
    world.break_on(|_| true);
    world.apply_spec(infra("3", &[("sql", "app:2", "role=sim")]), policy()).await;
    let rollout = world.run_of("infra", 3).await;
    let story = world.story.join("\n");
    assert!(!rollout.is_proof(), "{story}");
    world.clear_up().await;
    let changed = world.agents.iter().filter(|agent| agent.starts > 3).count();
    assert!(changed <= 2, "{changed} hosts\n{story}");
    assert_eq!(under(&world, "2"), HOSTS, "all are where they were\n{story}");
}

#[tokio::test]
async fn the_same_seed_is_the_same_history() {
    let history = async || {
        let mut world = World::new(7, STORMY).await;
        world.break_on(|number| number % 50 == 3);
        world.apply("app:2", policy()).await;
        world.run(2).await;
        world.story
    };
    assert_eq!(history().await, history().await);
}
