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
    /// Its images never arrive.
    NoImage,
    /// Is restarted every few seconds, and runs in between.
    Restarts,
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
    /// Whether what ran before works no longer.
    old_fails: bool,
    /// Whether it worked with the revision when it was told to go back.
    taken: bool,
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
            (true, Nature::Hangs | Nature::NoImage) => starting,
            (true, Nature::Late) if age > 4_000 => failed,
            (false, _) if self.old_fails => failed,
            _ => ready,
        };
        let mut status = status_of(self.has.0, state, health);
        let went = self.has.1 && self.nature == Nature::GoesBack && age > 3_000;
        status.instances[0].went_back = went.then(|| "it failed".into());
        if self.has.1 && self.nature == Nature::Restarts {
            status.instances[0].restarts = u32::try_from(age / 5_000).unwrap();
        }
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
        1 => Just(Nature::NoImage),
        1 => Just(Nature::Restarts),
    ]
}

/// One that proves a revision nowhere.
fn bad_nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        Just(Nature::Bad),
        Just(Nature::Hangs),
        Just(Nature::Late),
        Just(Nature::Dies),
        Just(Nature::GoesBack),
        Just(Nature::NoImage),
        Just(Nature::Restarts),
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
    /// How far the controller's clock was put forward.
    forward: u64,
    /// Since when all hosts of the batch have worked, or been given up; and `forward` then.
    steady: Option<(u64, u64)>,
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
            old_fails: false,
            taken: false,
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
        Self {
            now: 100_000,
            real: 1_000,
            hosts: hosts.collect(),
            rollout,
            forward: 0,
            steady: None,
        }
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
            unstaged: None,
            infra: None,
            agent: None,
        };
        let before = self.rollout.clone();
        self.rollout = step(before.clone(), observe, Timestamp(self.now));
        self.watch(before.batch);
        self.check(&before);
        if self.rollout.batch > before.batch {
            self.steady = None;
        }
        for action in actions(&self.rollout).into_iter().take(most) {
            self.act(&action);
        }
    }

    /// Notes since when the hosts of `batch` have been steady.
    fn watch(&mut self, batch: u32) {
        let steady = |(id, host): (&HostId, &HostProgress)| {
            let given_up = matches!(host.outcome, Outcome::Failed(_) | Outcome::Offline);
            host.kept || given_up || self.hosts[id].works(self.real)
        };
        let mut hosts = self.rollout.hosts.iter().filter(|(_, host)| host.batch == Some(batch));
        let is_steady = batch > 0 && hosts.all(steady);
        self.steady = is_steady.then(|| self.steady.unwrap_or((self.real, self.forward)));
    }

    fn act(&mut self, action: &Action) {
        assert!(self.rollout.hold.is_none(), "a pause holds");
        assert!(!self.rollout.state.is_final(), "an end is one");
        let rollout = self.rollout.clone();
        let now = Timestamp(self.now);
        let (Action::Stage(id) | Action::Change(id) | Action::Return(id)) = action;
        let host = self.hosts.get_mut(id).unwrap();
        let progress = rollout.hosts[id].clone();
        host.generation += 1;
        let generation = host.generation;
        self.rollout = match action {
            Action::Stage(_) => {
                assert!(progress.generation.is_none(), "it has them");
                if host.nature != Nature::NoImage {
                    host.staged_at.get_or_insert(self.real + 500);
                }
                staging(rollout, id, generation, now)
            }
            Action::Change(_) => {
                assert!(progress.back.is_none(), "never forward again after going back");
                assert!(progress.staged || progress.outcome == Outcome::Offline, "staged first");
                assert!(rollout.state != State::RollingBack, "one revision at a time");
                assert!(progress.batch == Some(rollout.batch), "one batch at a time");
                assert!(!matches!(progress.outcome, Outcome::Failed(_)), "it has failed");
                host.wants_new = true;
                told(rollout, id, generation, now)
            }
            Action::Return(_) => {
                assert!(progress.generation.is_some(), "only what was changed goes back");
                host.taken = host.works(self.real);
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
        let kind = |r: &Rollout| r.hold.as_ref().map(|hold| hold.kind);
        if matches!(kind(before), Some(HoldKind::Operator | HoldKind::Failure)) {
            assert!(after.state.is_final() || after.hold == before.hold, "only people end it");
        }
        if after.batch > before.batch {
            self.check_batch(before);
        }
        if after.proofs > before.proofs {
            self.check_proof(before);
        }
        if self.forward == 0 {
            self.check_failures();
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
            State::Partial => {
                let works = |(id, host): (&HostId, &HostProgress)| {
                    host.outcome == Outcome::Ready && self.hosts[id].works(self.real)
                };
                let proved = after.hosts.iter().any(works);
                assert!(proved || !after.is_proof(), "proof is positive: {after:#?}");
                let reason = |host: &HostProgress| match host.outcome {
                    Outcome::Ready | Outcome::Failed(_) | Outcome::Offline => true,
                    // It came back just before the deadline.
                    _ => self.now >= after.deadline.0,
                };
                assert!(after.hosts.values().all(reason), "each says why: {after:#?}");
            }
            _ => {}
        }
    }

    /// What must be so when a batch begins.
    fn check_batch(&self, before: &Rollout) {
        let after = &self.rollout;
        assert_eq!(after.batch, before.batch + 1, "one after the other");
        assert!(after.hold.is_none(), "a pause holds");
        for (id, host) in before.current() {
            let failed = matches!(after.hosts[id].outcome, Outcome::Failed(_));
            let settled = failed || !self.hosts[id].online || self.hosts[id].works(self.real);
            assert!(settled, "{id} is still on its way: {host:?} {after:#?}");
        }
        let counted = || after.hosts.values().filter(|host| !host.kept);
        let told = counted().filter(|host| host.generation.is_some()).count();
        let online = |host: &&HostProgress| host.outcome != Outcome::Offline;
        let chosen = after.current().map(|(_, host)| host).filter(|host| !host.kept);
        let chosen = chosen.filter(|host| !after.is_proved() || online(host)).count();
        let mut reaches: Vec<usize> =
            after.policy.batches.iter().map(|reach| reach.of(counted().count())).collect();
        reaches.dedup();
        let proofs = usize::try_from(after.proofs).unwrap();
        let reach = reaches.get(proofs).copied().unwrap_or(counted().count());
        let place = 2;
        if after.is_proved() {
            let most = reach.max(told + place);
            assert!(told + chosen <= most, "{told} and {chosen} of {reach}: {after:#?}");
        } else {
            assert!(chosen <= reach.max(place), "{chosen} hosts and no proof: {after:#?}");
        }
    }

    /// What must be so when a batch is called proved.
    fn check_proof(&self, before: &Rollout) {
        let works =
            |(id, host): (&HostId, &HostProgress)| !host.kept && self.hosts[id].works(self.real);
        assert!(before.current().any(works), "proof is positive: {before:#?}");
        let (since, forward) = self.steady.expect("what is proved works");
        let watched = self.real - since + (self.forward - forward);
        let monitor = before.policy.monitor.as_millis();
        assert!(u128::from(watched) >= monitor, "watched for {watched} ms: {before:#?}");
    }

    /// Nobody is called failed for nothing: the clock was never put forward.
    fn check_failures(&self) {
        for (id, progress) in &self.rollout.hosts {
            let host = &self.hosts[id];
            let good = host.nature == Nature::Good && !host.old_fails;
            let failed = matches!(progress.outcome, Outcome::Failed(_));
            assert!(!good || !failed, "{id} is called failed: {progress:#?} {host:?}");
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
            Event::ClockForward(ms) => {
                self.now += ms;
                self.forward += ms;
            }
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
        // Agents don't wait for the controller to look at them.
        let real = self.real;
        self.hosts.values_mut().for_each(|host| host.meet(real));
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
        nature in bad_nature(),
        policy in any_policy(),
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut world = World::new(&vec![nature; count], policy, 0, Offline::Wait);
        if matches!(nature, Nature::Late | Nature::Restarts) {
            // What breaks later is found out by whoever looks for long enough, by a right clock.
            world.rollout.policy.monitor += Duration::from_secs(10);
        }
        // An operator who says so may go further.
        let steps = |event: &Event| match event {
            Event::Say(Command::Resume) => true,
            Event::ClockForward(_) => matches!(nature, Nature::Late | Nature::Restarts),
            _ => false,
        };
        for event in events.iter().filter(|event| !steps(event)) {
            world.happens(event);
        }
        world.settle();
        let canary = world.rollout.policy.batches[0].of(count).max(2);
        prop_assert!(world.changed() <= 2 * canary, "{:#?}", world.rollout);
        prop_assert!(!world.rollout.is_proof(), "{:#?}", world.rollout);
    }

    /// One that works on the canary alone changes no more than that and one batch.
    #[test]
    fn a_bad_revision_stops_at_the_batch_after_the_canary(
        count in 4..12_usize,
        nature in prop_oneof![Just(Nature::Bad), Just(Nature::Hangs), Just(Nature::GoesBack)],
        policy in any_policy(),
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let policy = Policy { max_failures: 0, spread: None, ..policy };
        let canary = policy.batches[0].of(count).max(2);
        let natures: Vec<Nature> =
            (0..count).map(|at| if at < canary { Nature::Good } else { nature }).collect();
        let mut world = World::new(&natures, policy, 0, Offline::Wait);
        // All are there: whoever is not is told at the end, and his own agent guards him.
        let fair = |event: &&Event| {
            !matches!(event, Event::Say(Command::Resume) | Event::Offline(_))
        };
        for event in events.iter().filter(fair) {
            world.happens(event);
        }
        world.settle();
        let mut reaches: Vec<usize> =
            world.rollout.policy.batches.iter().map(|reach| reach.of(count)).collect();
        reaches.dedup();
        let most = reaches.get(1).copied().unwrap_or(count).max(canary + 2);
        prop_assert!(world.changed() <= most, "{} of {most}: {:#?}", world.changed(), world.rollout);
        prop_assert!(!world.rollout.is_proof() || canary == count, "{:#?}", world.rollout);
    }

    /// A good revision is not taken back because connections break and controllers die: only
    /// where two canaries vanish, or a host is on its way when its time is over.
    #[test]
    fn a_good_revision_is_not_taken_back(
        count in 1..12_usize,
        policy in any_policy(),
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut world = World::new(&vec![Nature::Good; count], policy, 0, Offline::Wait);
        let fair = |event: &&Event| {
            let said = matches!(event, Event::Say(Command::GoBack));
            !said && !matches!(event, Event::ClockForward(_) | Event::ClockBack(_))
        };
        for event in events.iter().filter(fair) {
            let before = world.rollout.clone();
            world.happens(event);
            if world.rollout.state == State::RollingBack && before.state != State::RollingBack {
                let told = |host: &&HostProgress| host.generation.is_some();
                let gone = |host: &&HostProgress| host.outcome == Outcome::Offline;
                let gone = world.rollout.hosts.values().filter(told).filter(gone).count();
                let late = world.now >= before.deadline.0;
                prop_assert!(late || gone > 1, "{:#?}", world.rollout);
            }
        }
        world.settle();
        prop_assert!(world.rollout.state != State::Failed, "{:#?}", world.rollout);
    }

    /// Going back to what works no longer takes no more than a first batch of what works.
    #[test]
    fn going_back_kills_nothing_that_works(
        count in 2..12_usize,
        policy in any_policy(),
        passes in 1..40_usize,
        broken in 0..12_usize,
    ) {
        let policy = Policy { promote: Promote::Auto, windows: vec![], max_failures: 0, ..policy };
        let mut world = World::new(&vec![Nature::Good; count], policy, 0, Offline::Wait);
        for _ in 0..passes {
            world.pass(usize::MAX);
            world.passes(1_000);
        }
        world.hosts.values_mut().for_each(|host| host.old_fails = true);
        if let Some(host) = world.hosts.values_mut().nth(broken) {
            host.nature = Nature::Bad;
        }
        world.happens(&Event::Say(Command::GoBack));
        world.settle();
        let killed = world.hosts.values().filter(|host| host.taken && !host.wants_new).count();
        let canary = world.rollout.policy.batches[0].of(world.changed()).max(2);
        prop_assert!(killed <= canary, "{killed} of {canary}: {:#?}", world.rollout);
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
