use proptest::prelude::*;

use super::*;
use crate::plan::tests::{carry_out, plan_for, settle};
use crate::plan::{Action, Observed};
use crate::spec::tests_support::instance;

const GATE: Duration = Duration::from_secs(30);

/// An instance of revision `image` with that image.
fn wanted(name: &str, image: u8) -> InstanceSpec {
    let revision = u64::from(image);
    InstanceSpec { revision, gate: Some(GATE), ..instance(&format!("f/{name}"), image) }
}

fn host(instances: Vec<InstanceSpec>) -> HostSpec {
    HostSpec { generation: 1, instances, ..HostSpec::default() }
}

/// A digest of what a wish is made of; good enough for a few.
fn wishes(desired: &HostSpec) -> Wishes {
    let mut wishes = Wishes::new();
    for spec in &desired.instances {
        let before = wishes.get(&spec.id.fleet).map_or([0; 32], |digest| *digest.as_bytes());
        let mut bytes = before.map(|byte| byte.rotate_left(3));
        let config = serde_json::to_vec(&(&spec.id, &spec.config, spec.restarts, spec.revision));
        for (at, byte) in config.unwrap().into_iter().enumerate() {
            bytes[at % 32] = bytes[at % 32].wrapping_mul(31).wrapping_add(byte);
        }
        wishes.insert(spec.id.fleet.clone(), bytes.into());
    }
    wishes
}

fn fleet() -> FleetName {
    "f".parse().unwrap()
}

/// How one instance looks.
#[derive(Debug, Clone, Copy)]
enum Look {
    Ready,
    Failed,
    Unready,
    /// Its record is not the wanted one yet, and it waits for something.
    Blocked,
    /// Its record is not the wanted one yet, and steps that should make it so fail.
    Stuck,
    /// Its record is not the wanted one yet.
    Coming,
}

fn seen(look: Look) -> Seen {
    let begun = matches!(look, Look::Ready | Look::Failed | Look::Unready);
    let verdict = match look {
        Look::Ready => Verdict::Ready,
        Look::Failed | Look::Blocked | Look::Stuck => Verdict::Failed("it broke".into()),
        Look::Unready | Look::Coming => Verdict::Waiting("waits for its checks".into()),
    };
    Seen { begun, verdict, waits: matches!(look, Look::Blocked) }
}

/// Memory in which revision 1 of these has proved ready.
fn proved(names: &[&str]) -> Memory {
    let mut memory = Memory::default();
    let desired = host(names.iter().map(|name| wanted(name, 1)).collect());
    memory.want(wishes(&desired));
    let changes = memory.look(&desired, |_| seen(Look::Ready), Timestamp(0));
    assert_eq!(changes, [Change::Proved(fleet())]);
    assert_eq!(memory.look(&desired, |_| seen(Look::Ready), Timestamp(1)), [], "once");
    memory
}

/// Looks once a second for `seconds`, at instances that all look the same.
fn watch(memory: &mut Memory, desired: &HostSpec, look: Look, seconds: u64) -> Vec<Change> {
    memory.want(wishes(desired));
    let looks = (0..=seconds).map(|second| Timestamp(1_000_000 + second * 1000));
    looks.flat_map(|now| memory.look(desired, |_| seen(look), now)).collect()
}

fn images(spec: &HostSpec) -> Vec<(String, u8)> {
    let image = |spec: &InstanceSpec| spec.config.image.digest.as_bytes()[0];
    spec.instances.iter().map(|i| (i.id.instance.to_string(), image(i))).collect()
}

fn effective(memory: &Memory, desired: &HostSpec) -> Vec<(String, u8)> {
    images(&memory.effective(desired, |_| true))
}

#[test]
fn what_fails_for_good_or_is_too_late_goes_back() {
    let cases = [
        (Look::Failed, 19, None),
        (Look::Failed, 20, Some("f/a failed: it broke")),
        (Look::Stuck, 20, Some("f/a failed: it broke")),
        (Look::Unready, 29, None),
        (Look::Unready, 30, Some("f/a was not ready within 30s: waits for its checks")),
        (Look::Blocked, 900, None),
        (Look::Coming, 900, None),
    ];
    for (look, seconds, why) in cases {
        let mut memory = proved(&["a"]);
        let desired = host(vec![wanted("a", 2)]);
        let changes = watch(&mut memory, &desired, look, seconds);
        let image = if why.is_some() { 1 } else { 2 };
        assert_eq!(effective(&memory, &desired), [("a".to_owned(), image)], "{look:?} {seconds}");
        let told = why.map(|why| {
            let (instance, why) = ("f/a".parse().unwrap(), why.to_owned());
            Change::WentBack(fleet(), WentBack { instance, from: 2, to: 1, why })
        });
        assert_eq!(changes, Vec::from_iter(told), "{look:?} {seconds}");
        assert_eq!(memory.went_back(&fleet()).map(|rejected| rejected.why.as_str()), why);
    }
}

#[test]
fn without_a_gate_a_past_or_a_difference_nothing_goes_back() {
    let ungated = InstanceSpec { gate: None, ..wanted("a", 2) };
    let paused = InstanceSpec { paused: true, ..wanted("a", 2) };
    let stopped = InstanceSpec { run: RunState::Stopped, ..wanted("a", 2) };
    let same = InstanceSpec { revision: 2, ..wanted("a", 1) };
    for spec in [ungated, paused, stopped, same] {
        let mut memory = proved(&["a"]);
        assert_eq!(watch(&mut memory, &host(vec![spec]), Look::Failed, 900), []);
    }
    let mut memory = Memory::default();
    assert_eq!(watch(&mut memory, &host(vec![wanted("a", 2)]), Look::Failed, 900), []);
}

#[test]
fn all_of_a_fleet_goes_back_and_other_fleets_do_not() {
    let mut memory = proved(&["a", "b", "gone"]);
    let other = InstanceSpec { gate: Some(GATE), ..instance("g/x", 7) };
    let (mut b, new) = (wanted("b", 1), wanted("new", 2));
    (b.restarts, b.revision) = (4, 2);
    let desired = host(vec![wanted("a", 2), b, new, other]);
    let changes = watch(&mut memory, &desired, Look::Failed, 20);
    assert_eq!(changes.len(), 1, "{changes:?}");
    let planned = memory.effective(&desired, |_| true).into_owned();
    let expected = [("a", 1), ("b", 1), ("gone", 1), ("x", 7)].map(|(n, i)| (n.to_owned(), i));
    assert_eq!(images(&planned), expected);
    assert_eq!((planned.instances[1].restarts, planned.instances[2].revision), (4, 2));
    assert_eq!(memory.effective(&desired, |_| false), Cow::Borrowed(&desired));
}

#[test]
fn what_is_as_it_was_can_fail_of_what_is_not() {
    let desired = host(vec![wanted("a", 1), wanted("b", 2)]);
    let run = |b: Look| {
        let mut memory = proved(&["a", "b"]);
        memory.want(wishes(&desired));
        let look = |spec: &InstanceSpec| {
            seen(if spec.id.instance.as_str() == "a" { Look::Failed } else { b })
        };
        (0..40).flat_map(|second| memory.look(&desired, look, Timestamp(second * 1000))).count()
    };
    assert_eq!(run(Look::Ready), 1);
    assert_eq!(run(Look::Coming), 0, "nothing new runs yet");
}

#[test]
fn what_fails_long_after_all_was_well_is_not_taken_back_for_what_never_comes() {
    let desired = host(vec![wanted("a", 2), wanted("b", 2)]);
    let run = |ready: u64, comes: u64| {
        let mut memory = proved(&["a", "b"]);
        memory.want(wishes(&desired));
        let at = |second: u64, spec: &InstanceSpec| {
            let is_a = spec.id.instance.as_str() == "a";
            seen(match is_a {
                true if second <= ready => Look::Ready,
                true => Look::Failed,
                false if second < comes => Look::Blocked,
                false => Look::Unready,
            })
        };
        let looks = 0..ready + 25;
        looks.flat_map(|s| memory.look(&desired, |i| at(s, i), Timestamp(s * 1000))).count()
    };
    assert_eq!(run(29, 900), 1);
    assert_eq!(run(31, 900), 0);
    assert_eq!(run(40, 38), 1, "with the other it has to prove itself again");
}

#[test]
fn starting_again_is_no_recovery_and_being_ready_is() {
    let desired = host(vec![wanted("a", 2), wanted("b", 2)]);
    let run = |between: Look| {
        let mut memory = proved(&["a", "b"]);
        memory.want(wishes(&desired));
        let at = |second: u64, spec: &InstanceSpec| match spec.id.instance.as_str() {
            "a" if second.is_multiple_of(5) => seen(Look::Failed),
            "a" => seen(between),
            _ => seen(Look::Coming),
        };
        let looks = 0..26;
        looks.flat_map(|s| memory.look(&desired, |i| at(s, i), Timestamp(s * 1000))).count()
    };
    assert_eq!(run(Look::Unready), 1);
    assert_eq!(run(Look::Ready), 0);
}

#[test]
fn time_that_nobody_saw_pass_does_not_count() {
    let desired = host(vec![wanted("a", 2)]);
    let mut memory = proved(&["a"]);
    memory.want(wishes(&desired));
    let mut look = |at: u64| memory.look(&desired, |_| seen(Look::Unready), Timestamp(at)).len();
    // An hour off, and a clock that is set back.
    assert_eq!([0, 1000, 3_600_000, 5000, 6000, 10_000].map(&mut look), [0; 6]);
    assert_eq!([15_000, 20_000, 23_000].map(&mut look), [0, 0, 0]);
    assert_eq!(look(24_000), 1);
}

#[test]
fn what_was_rejected_is_tried_again_when_asked_for() {
    let desired = host(vec![wanted("a", 2)]);
    let mut rejected = proved(&["a"]);
    watch(&mut rejected, &desired, Look::Failed, 20);
    let after = |spec: InstanceSpec| {
        let (mut memory, desired) = (rejected.clone(), host(vec![spec]));
        let changed = memory.want(wishes(&desired));
        assert_eq!(changed.is_empty(), memory.went_back(&fleet()).is_some());
        effective(&memory, &desired)[0].1
    };
    let asked = wanted("a", 2);
    assert_eq!(after(asked.clone()), 1);
    assert_eq!(after(InstanceSpec { paused: true, ..asked.clone() }), 1);
    assert_eq!(after(InstanceSpec { restarts: 1, ..asked.clone() }), 2, "a restart");
    assert_eq!(after(InstanceSpec { revision: 3, ..asked }), 2, "another revision");
    assert_eq!(after(wanted("a", 3)), 3);
    assert_eq!(after(wanted("a", 1)), 1, "the controller agrees");
}

#[test]
fn it_outlives_the_agent_and_a_fleet_that_is_gone_is_forgotten() {
    let desired = host(vec![wanted("a", 2)]);
    let mut memory = proved(&["a"]);
    watch(&mut memory, &desired, Look::Failed, 20);
    let stored = serde_json::to_string(memory.past(&fleet()).unwrap()).unwrap();
    let past: Past = serde_json::from_str(&stored).unwrap();
    let mut memory = Memory::new([(fleet(), past)].into());
    assert_eq!(memory.want(wishes(&desired)), []);
    assert_eq!(effective(&memory, &desired), [("a".to_owned(), 1)]);
    assert_eq!(memory.good().count(), 1);
    assert_eq!(memory.want(Wishes::new()), [fleet()]);
    assert_eq!((memory.past(&fleet()), memory.good().count()), (None, 0));
}

#[test]
fn no_machine_is_brought_back_under_a_name_that_is_taken() {
    let mut memory = proved(&["a", "b-c"]);
    let other = instance("f-b/c", 5);
    let desired = host(vec![wanted("a", 2), other]);
    watch(&mut memory, &desired, Look::Failed, 20);
    let expected = [("a", 1), ("c", 5)].map(|(n, i)| (n.to_owned(), i));
    assert_eq!(effective(&memory, &desired), expected);
}

/// How an instance does, by its image: 1 and 2 work, 3 fails, 4 hangs.
fn does(spec: &InstanceSpec, observed: &Observed) -> Seen {
    let found = observed.machines.get(&spec.id.machine());
    let begun =
        found.and_then(|m| m.applied.as_ref()).is_some_and(|applied| applied.is(spec, None));
    let look = match spec.config.image.digest.as_bytes()[0] {
        _ if spec.run == RunState::Stopped => Look::Ready,
        _ if !begun => Look::Coming,
        3 => Look::Failed,
        4 => Look::Unready,
        _ => Look::Ready,
    };
    Seen { begun, ..seen(look) }
}

#[derive(Debug, Clone)]
enum Step {
    /// Something is wanted: the images of up to three instances, 0 for none.
    Want([u8; 3], bool),
    /// An operator restarts, stops or starts.
    Operator(u8),
    Seconds(u64),
    AgentRestarts,
    ClockJumps(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (prop::array::uniform3(0..5_u8), any::<bool>()).prop_map(|(i, g)| Step::Want(i, g)),
        1 => (0..3_u8).prop_map(Step::Operator),
        6 => (1..45_u64).prop_map(Step::Seconds),
        1 => Just(Step::AgentRestarts),
        1 => (0..9_000_000_u64).prop_map(Step::ClockJumps),
    ]
}

/// A host with its agent.
struct World {
    memory: Memory,
    desired: HostSpec,
    observed: Observed,
    now: u64,
    revision: u64,
    wishes: Wishes,
    rejections: Vec<Digest>,
}

impl World {
    fn new() -> Self {
        let observed =
            Observed { images: (1..5).map(|i| [i; 32].into()).collect(), ..Observed::default() };
        Self {
            memory: Memory::default(),
            desired: HostSpec::default(),
            observed,
            now: 5_000_000,
            revision: 0,
            wishes: Wishes::new(),
            rejections: vec![],
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Want(images, gated) => {
                self.revision += 1;
                let there = images.into_iter().zip(["a", "b", "c"]).filter(|(i, _)| *i > 0);
                let instances = there.map(|(image, name)| {
                    let gate = gated.then_some(GATE);
                    InstanceSpec { revision: self.revision, gate, ..wanted(name, image) }
                });
                self.desired = host(instances.collect());
            }
            Step::Operator(what) => {
                for spec in self.desired.instances.iter_mut().take(1) {
                    spec.restarts += u64::from(what == 0);
                    spec.run = if what == 1 { RunState::Stopped } else { RunState::Running };
                }
            }
            Step::Seconds(seconds) => (0..seconds).for_each(|_| self.pass()),
            Step::AgentRestarts => self.memory = Memory::new(self.memory.pasts.clone()),
            Step::ClockJumps(to) => self.now = to,
        }
        self.wishes = wishes(&self.desired);
    }

    /// What the loop of an agent does, once a second.
    fn pass(&mut self) {
        self.now += 1000;
        self.memory.want(self.wishes.clone());
        let target = self.memory.effective(&self.desired, |_| true).into_owned();
        self.check(&target);
        let plan = plan_for(&target, &self.observed, self.now);
        let written = plan.machines.values().flatten().filter_map(|step| match &step.action {
            Action::Write(spec, _) => Some(spec),
            _ => None,
        });
        let back = self.memory.went_back(&fleet()).is_some();
        let past = self.memory.past(&fleet());
        for spec in written.filter(|_| back) {
            assert!(!past.unwrap().differs(spec), "a rejected configuration is tried: {spec:?}");
        }
        carry_out(&plan, &mut self.observed);
        settle(&mut self.observed);
        let observed = &self.observed;
        let changes =
            self.memory.look(&self.desired, |spec| does(spec, observed), Timestamp(self.now));
        for change in changes {
            if let Change::WentBack(..) = change {
                let wish = self.wishes[&fleet()];
                assert!(!self.rejections.contains(&wish), "the same was tried twice");
                assert!(self.broken().count() > 0, "what works was rejected");
                self.rejections.push(wish);
            }
        }
    }

    /// Only images and settings go back, and only to what proved good.
    fn check(&self, target: &HostSpec) {
        let past = self.memory.past(&fleet()).cloned().unwrap_or_default();
        let back = past.rejected.is_some();
        for spec in &self.desired.instances {
            match target.instances.iter().find(|other| other.id == spec.id) {
                Some(planned) => {
                    let config = planned.config.clone();
                    assert_eq!(*planned, InstanceSpec { config, ..spec.clone() });
                    assert!(planned == spec || (back && !past.differs(planned)));
                }
                None => assert!(back && past.proved(&spec.id).is_none()),
            }
        }
        assert!(back || *target == self.desired);
    }

    /// The wanted instances that don't work.
    fn broken(&self) -> impl Iterator<Item = &InstanceSpec> {
        let running = self.desired.instances.iter().filter(|i| i.run == RunState::Running);
        running.filter(|spec| spec.config.image.digest.as_bytes()[0] > 2)
    }
}

proptest! {
    /// Whatever happens, a host comes to rest: as it is wanted where that works or nothing is to be
    /// gone back to, else as it last worked; and what was rejected stays so.
    #[test]
    fn it_converges_and_never_flaps(steps in prop::collection::vec(any_step(), 1..20)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        (0..60).for_each(|_| world.pass());
        let target = world.memory.effective(&world.desired, |_| true).into_owned();
        let plan = plan_for(&target, &world.observed, world.now);
        prop_assert!(plan.is_empty(), "{plan:?}");
        let rejections = world.rejections.len();
        (0..60).for_each(|_| world.pass());
        prop_assert_eq!(world.rejections.len(), rejections);
        let after = world.memory.effective(&world.desired, |_| true).into_owned();
        prop_assert_eq!(&after, &target);

        let good = world.memory.past(&fleet()).map(|past| past.good.clone()).unwrap_or_default();
        let gated = world.desired.instances.iter().all(|spec| spec.gate.is_some());
        let past = Past { good, rejected: None };
        let broken = world.broken().any(|spec| past.differs(spec));
        if gated && broken && !past.good.is_empty() {
            prop_assert!(target.instances.iter().all(|spec| !past.differs(spec)), "{:?}", target);
        }
    }
}
