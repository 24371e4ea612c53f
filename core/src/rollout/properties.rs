//! Random histories: hosts that work, fail, hang and vanish, operators, clocks that step, and a
//! driver that dies between any two of its actions. In each, what a rollout promises must hold.

use proptest::prelude::*;

use super::tests::status_of;
use super::*;
use crate::status::{Health, HostStatus, State as InstanceState};

/// What a host does with the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Good,
    /// Fails at once.
    Bad,
    /// Never gets ready.
    Hangs,
    /// Works for a while, and then not.
    Late,
    /// Goes offline with it, until it is taken back.
    Dies,
    /// Its agent goes back by itself.
    GoesBack,
}

#[derive(Debug, Clone)]
struct Host {
    nature: Nature,
    online: bool,
    /// The newest desired state: its generation, and whether it is the revision's.
    generation: u64,
    wants_new: bool,
    /// What the agent has: the generation, whether it is the revision's, and since when.
    has: (u64, bool, u64),
    staged_at: Option<u64>,
}

impl Host {
    fn meet(&mut self, now: u64) {
        let dead = self.nature == Nature::Dies && self.has.1 && now > self.has.2 + 500;
        if dead && self.wants_new {
            self.online = false;
        }
        if self.online && self.has.0 != self.generation {
            let changed = self.has.1 != self.wants_new;
            let since = if changed { now } else { self.has.2 };
            self.has = (self.generation, self.wants_new, since);
        }
    }

    fn status(&self, now: u64) -> HostStatus {
        let age = now.saturating_sub(self.has.2);
        let ready = (InstanceState::Running, Health::Healthy);
        let failed = (InstanceState::Failed, Health::None);
        let starting = (InstanceState::Starting, Health::None);
        let (state, health) = match (self.has.1, self.nature) {
            _ if age < 1_000 => starting,
            (true, Nature::Bad | Nature::GoesBack) => failed,
            (true, Nature::Hangs) => starting,
            (true, Nature::Late) if age > 4_000 => failed,
            _ => ready,
        };
        let mut status = status_of(self.has.0, state, health);
        let went = self.has.1 && self.nature == Nature::GoesBack && age > 3_000;
        status.instances[0].went_back = went.then(|| "it failed".into());
        status
    }

    fn works(&self, now: u64) -> bool {
        self.online
            && self.has.1
            && self.status(now).instances[0].verdict() == crate::status::Verdict::Ready
    }
}

#[derive(Debug, Clone)]
enum Event {
    Pass,
    Time(u64),
    ClockBack(u64),
    ClockForward(u64),
    Offline(usize),
    Online(usize),
    Say(Command),
    /// The driver dies after so many of its actions.
    Dies(usize),
}

fn any_nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        12 => Just(Nature::Good),
        2 => Just(Nature::Bad),
        1 => Just(Nature::Hangs),
        1 => Just(Nature::Late),
        1 => Just(Nature::Dies),
        1 => Just(Nature::GoesBack),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let command = prop_oneof![
        Just(Command::Pause { hold: None }),
        Just(Command::Pause { hold: Some(Duration::from_secs(30)) }),
        Just(Command::Resume),
        Just(Command::Resume),
        Just(Command::Promote),
        Just(Command::Abort),
        Just(Command::GoBack),
    ];
    prop_oneof![
        8 => Just(Event::Pass),
        8 => (0..20_000_u64).prop_map(Event::Time),
        1 => (0..60_000_u64).prop_map(Event::ClockBack),
        1 => (0..60_000_u64).prop_map(Event::ClockForward),
        2 => (0..12_usize).prop_map(Event::Offline),
        3 => (0..12_usize).prop_map(Event::Online),
        1 => command.prop_map(Event::Say),
        2 => (0..3_usize).prop_map(Event::Dies),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let batches = prop_oneof![
        Just(vec!["1", "10%", "50%", "100%"]),
        Just(vec!["100%"]),
        Just(vec!["2", "4"]),
        Just(vec!["30%"]),
    ];
    let promote =
        prop_oneof![6 => Just(Promote::Auto), 1 => Just(Promote::Canary), 1 => Just(Promote::Each)];
    let on_failure = prop_oneof![Just(OnFailure::Rollback), Just(OnFailure::Pause)];
    let window = prop_oneof![4 => Just(None), 1 => Just(Some("00:05-00:20"))];
    let numbers = (0..30_u64, 0..3_u32, any::<bool>(), any::<bool>());
    (batches, promote, on_failure, window, numbers).prop_map(
        |(batches, promote, on_failure, window, (monitor, max_failures, spread, ahead))| Policy {
            batches: batches.iter().map(|reach| reach.parse().unwrap()).collect(),
            monitor: Duration::from_secs(monitor),
            max_failures,
            on_failure,
            batch_timeout: Duration::from_secs(60),
            spread: spread.then(|| "site".to_owned()),
            promote,
            windows: window.into_iter().map(|window| window.parse().unwrap()).collect(),
            stage_ahead: ahead,
        },
    )
}

#[derive(Debug, Clone)]
struct World {
    /// The controller's clock, which steps.
    now: u64,
    /// The time that really passes.
    real: u64,
    hosts: BTreeMap<HostId, Host>,
    rollout: Rollout,
}

impl World {
    fn new(natures: &[Nature], policy: Policy, kept: usize, offline: Offline) -> Self {
        let name = |at: usize| -> HostId { format!("h{at:02}").parse().unwrap() };
        let host = |nature: &Nature| Host {
            nature: *nature,
            online: true,
            generation: 1,
            wants_new: false,
            has: (1, false, 0),
            staged_at: None,
        };
        let hosts = natures.iter().enumerate().map(|(at, nature)| (name(at), host(nature)));
        let progress = |at: usize| HostProgress {
            spread: policy.spread.as_ref().map(|_| format!("site-{}", at % 3)),
            kept: at < kept && natures.len() > kept,
            ..HostProgress::pending(u32::try_from(at).unwrap() / 2)
        };
        let rollout = Rollout {
            hosts: (0..natures.len()).map(|at| (name(at), progress(at))).collect(),
            policy: policy.clone(),
            offline,
            ..tests::rollout(&[])
        };
        Self { now: 100_000, real: 1_000, hosts: hosts.collect(), rollout }
    }

    /// One pass of the driver; it dies after `most` actions.
    fn pass(&mut self, most: usize) {
        for host in self.hosts.values_mut() {
            host.meet(self.real);
        }
        let statuses: BTreeMap<HostId, HostStatus> =
            self.hosts.iter().map(|(id, host)| (id.clone(), host.status(self.real))).collect();
        let observe = |id: &HostId| Observation {
            online: self.hosts[id].online,
            status: Some(&statuses[id]),
            staged: self.hosts[id].staged_at.is_some_and(|at| at <= self.real),
        };
        let before = self.rollout.clone();
        self.rollout = step(before.clone(), observe, Timestamp(self.now));
        self.check(&before);
        for action in actions(&self.rollout).into_iter().take(most) {
            self.act(&action);
        }
    }

    fn act(&mut self, action: &Action) {
        assert!(self.rollout.hold.is_none(), "a pause holds");
        let rollout = self.rollout.clone();
        let now = Timestamp(self.now);
        let (Action::Stage(id) | Action::Change(id) | Action::Return(id)) = action;
        let host = self.hosts.get_mut(id).unwrap();
        let progress = rollout.hosts[id].clone();
        host.generation += 1;
        let generation = host.generation;
        self.rollout = match action {
            Action::Stage(_) => {
                host.staged_at.get_or_insert(self.real + 500);
                staging(rollout, id, generation, now)
            }
            Action::Change(_) => {
                assert!(progress.back.is_none(), "never forward again after going back");
                assert!(progress.staged || progress.outcome == Outcome::Offline, "staged first");
                assert!(rollout.state != State::RollingBack, "one revision at a time");
                host.wants_new = true;
                told(rollout, id, generation, now)
            }
            Action::Return(_) => {
                assert!(progress.generation.is_some(), "only what was changed goes back");
                host.wants_new = false;
                returned(rollout, id, generation, now)
            }
        };
    }

    fn check(&self, before: &Rollout) {
        let after = &self.rollout;
        if before.state.is_final() {
            assert_eq!(before, after, "an end is one");
            return;
        }
        if self.now >= after.deadline.0 {
            assert!(after.state.is_final(), "it ends by its deadline: {after:#?}");
        }
        let changed = |r: &Rollout| r.hosts.values().filter(|h| h.generation.is_some()).count();
        assert!(changed(before) == changed(after), "only actions change hosts");
        if after.batch > before.batch {
            let first = after.current().filter(|(_, h)| !h.kept).count();
            let canary =
                after.policy.batches[0].of(after.hosts.values().filter(|h| !h.kept).count());
            let place = 2;
            if !after.is_proved() {
                assert!(first <= canary.max(place), "{first} hosts and no proof: {after:#?}");
            }
        }
        match after.state {
            State::Completed => {
                for (id, host) in &self.hosts {
                    assert!(host.works(self.real), "{id} is said to be ready: {host:?} {after:#?}");
                }
            }
            State::RolledBack => {
                for (id, progress) in &after.hosts {
                    let back = progress.generation.is_none() || progress.back.is_some();
                    assert!(back && !self.hosts[id].wants_new, "{id} is not back");
                }
            }
            _ => {}
        }
    }

    /// The hosts that were told, of those that it changes anything on.
    fn changed(&self) -> usize {
        let hosts = self.rollout.hosts.values();
        hosts.filter(|h| !h.kept && h.generation.is_some()).count()
    }

    fn happens(&mut self, event: &Event) {
        let named = |at: &usize| -> Option<HostId> { self.hosts.keys().nth(*at).cloned() };
        match event {
            Event::Pass => self.pass(usize::MAX),
            Event::Dies(most) => self.pass(*most),
            Event::Time(ms) => self.passes(*ms),
            Event::ClockForward(ms) => self.now += ms,
            Event::ClockBack(ms) => self.now = self.now.saturating_sub(*ms).max(1),
            Event::Offline(at) => {
                if let Some(id) = named(at) {
                    self.hosts.get_mut(&id).unwrap().online = false;
                }
            }
            Event::Online(at) => {
                if let Some(id) = named(at) {
                    self.hosts.get_mut(&id).unwrap().online = true;
                }
            }
            Event::Say(said) => {
                let said =
                    command(self.rollout.clone(), said.clone(), ("ann", ""), Timestamp(self.now));
                if let Ok(rollout) = said {
                    self.rollout = rollout;
                }
            }
        }
    }

    fn passes(&mut self, ms: u64) {
        (self.now, self.real) = (self.now + ms, self.real + ms);
    }

    /// Lets it run until it has ended.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.rollout.state.is_final() {
                return;
            }
            self.pass(usize::MAX);
            self.passes(5_000);
            // Nothing happens for long: only its deadline will end it.
            if self.rollout.hold.is_some() {
                self.passes(600_000);
            }
        }
        panic!("it never ends: {:#?}", self.rollout);
    }
}

fn any_world() -> impl Strategy<Value = World> {
    let offline = prop_oneof![Just(Offline::Wait), Just(Offline::Skip)];
    (prop::collection::vec(any_nature(), 1..12), any_policy(), 0..2_usize, offline)
        .prop_map(|(natures, policy, kept, offline)| World::new(&natures, policy, kept, offline))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// Whatever happens, it ends in a stated state by its deadline, a pause holds, and what it says
    /// of its end is so.
    #[test]
    fn it_keeps_its_promises(mut world in any_world(), events in prop::collection::vec(any_event(), 0..60)) {
        for event in &events {
            world.happens(event);
        }
        world.settle();
        prop_assert!(world.rollout.ended.is_some());
        prop_assert!(actions(&world.rollout).is_empty());
    }

    /// A revision that works nowhere changes no more than two canaries, whatever happens.
    #[test]
    fn a_bad_revision_stops_at_the_canary(
        count in 1..12_usize,
        nature in prop_oneof![Just(Nature::Bad), Just(Nature::Hangs), Just(Nature::Dies), Just(Nature::GoesBack)],
        policy in any_policy(),
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut world = World::new(&vec![nature; count], policy, 0, Offline::Wait);
        // An operator who says so may go further.
        let resumes = |event: &&Event| !matches!(event, Event::Say(Command::Resume));
        for event in events.iter().filter(resumes) {
            world.happens(event);
        }
        world.settle();
        let canary = world.rollout.policy.batches[0].of(count).max(2);
        prop_assert!(world.changed() <= 2 * canary, "{:#?}", world.rollout);
        prop_assert!(!world.rollout.state.is_proof() || world.changed() == 0 || world.hosts.values().any(|h| !h.online), "{:#?}", world.rollout);
    }

    /// A good revision gets everywhere where nothing stands in its way.
    #[test]
    fn a_good_revision_gets_everywhere(count in 1..12_usize, policy in any_policy()) {
        let policy = Policy { promote: Promote::Auto, ..policy };
        let mut world = World::new(&vec![Nature::Good; count], policy, 0, Offline::Wait);
        world.rollout.timeout = Duration::from_secs(86_400);
        world.rollout.deadline = Timestamp(86_400_000);
        world.settle();
        prop_assert_eq!(world.rollout.state, State::Completed);
        prop_assert_eq!(world.changed(), count);
    }
}
