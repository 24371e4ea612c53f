//! Whatever happens to a host with an agent that goes back by itself, it comes to rest, and never
//! tries what was rejected. Its infra is one of the things that may be bad.

use super::*;
use crate::image::PinnedImage;

/// The image of an infra that works, and under which no app does.
const NO_APP_LIKES: u8 = 4;

fn number(image: &PinnedImage) -> u8 {
    image.digest.as_bytes()[0]
}

/// How an instance does that is brought to `target`, by its image: 1 and 2 work, 3 fails, 4 hangs.
fn does(spec: &InstanceSpec, target: &HostSpec, observed: &Observed) -> Seen {
    let infra = target.infra.as_ref().map(|infra| &infra.version);
    let found = observed.machines.get(&spec.id.machine());
    let begun =
        found.and_then(|m| m.applied.as_ref()).is_some_and(|applied| applied.is(spec, infra));
    let spoilt = infra.is_some_and(|version| version.as_str() == NO_APP_LIKES.to_string());
    let look = match number(&spec.config.image) {
        _ if spec.run == RunState::Stopped => Look::Ready,
        _ if !begun => Look::Coming,
        3 => Look::Failed,
        NO_APP_LIKES if is_infra(&spec.id.fleet) => Look::Ready,
        4 => Look::Unready,
        _ if spoilt && !is_infra(&spec.id.fleet) => Look::Unready,
        _ => Look::Ready,
    };
    Seen { begun, ..seen(look) }
}

#[derive(Debug, Clone)]
enum Step {
    /// Something is wanted: the images of up to three instances, 0 for none.
    Want([u8; 3], bool),
    /// An infra version is wanted: its image.
    Infra(u8),
    /// An operator restarts, stops or starts.
    Operator(u8),
    Seconds(u64),
    AgentRestarts,
    ClockJumps(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (prop::array::uniform3(0..5_u8), any::<bool>()).prop_map(|(i, g)| Step::Want(i, g)),
        2 => (1..5_u8).prop_map(Step::Infra),
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
    rejections: Vec<(FleetName, Digest)>,
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
                self.desired.instances.retain(|spec| is_infra(&spec.id.fleet));
                let there = images.into_iter().zip(["a", "b", "c"]).filter(|(i, _)| *i > 0);
                let instances = there.map(|(image, name)| {
                    let gate = gated.then_some(GATE);
                    InstanceSpec { revision: self.revision, gate, ..wanted(name, image) }
                });
                self.desired.instances.extend(instances);
                self.desired.instances.sort_by(|a, b| a.id.cmp(&b.id));
            }
            Step::Infra(image) => {
                self.revision += 1;
                self.desired.instances.retain(|spec| !is_infra(&spec.id.fleet));
                let id = "infra/db".parse().unwrap();
                let revision = self.revision;
                let db = InstanceSpec { id, revision, ..wanted("db", image) };
                self.desired.instances.push(db);
                let infra = version(image, GoingBack::ImageAndData);
                self.desired.infra = Some(HostInfra { revision, ..infra });
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
        for spec in written {
            let Some(past) = self.memory.past(&spec.id.fleet) else { continue };
            let tried = past.rejected.is_some() && past.differs(spec);
            assert!(!tried, "a rejected configuration is tried: {spec:?}");
        }
        carry_out(&plan, &mut self.observed);
        settle(&mut self.observed);
        self.spoil(&target);
        self.look(&target);
    }

    /// What does not work is not ready.
    fn spoil(&mut self, target: &HostSpec) {
        for spec in &target.instances {
            let ready = does(spec, target, &self.observed).verdict == Verdict::Ready;
            if let Some(found) = self.observed.machines.get_mut(&spec.id.machine()) {
                found.ready &= ready;
            }
        }
    }

    fn look(&mut self, target: &HostSpec) {
        let observed = &self.observed;
        let phase = plan_for(target, observed, self.now).infra.0;
        let see = |spec: &InstanceSpec| does(spec, target, observed);
        let way = (phase != Phase::Done).then_some(Way { phase, target, see: &see });
        let changes = self.memory.look(&self.desired, see, way, Timestamp(self.now));
        for change in changes {
            if let Change::WentBack(fleet, _) = change {
                let wish = (fleet.clone(), self.wishes[&fleet]);
                assert!(!self.rejections.contains(&wish), "the same was tried twice");
                let bad = self.broken().count() > 0;
                assert!(bad || self.has_bad_infra(), "what works was rejected");
                self.rejections.push(wish);
            }
        }
    }

    fn has_bad_infra(&self) -> bool {
        let infra = self.desired.instances.iter().filter(|spec| is_infra(&spec.id.fleet));
        infra.map(|spec| number(&spec.config.image)).any(|image| image > 2)
    }

    /// Only images and settings go back, and only to what proved good.
    fn check(&self, target: &HostSpec) {
        let mut any_back = false;
        for spec in &self.desired.instances {
            let past = self.memory.past(&spec.id.fleet).cloned().unwrap_or_default();
            let back = past.rejected.is_some();
            any_back |= back;
            match target.instances.iter().find(|other| other.id == spec.id) {
                Some(planned) => {
                    let config = planned.config.clone();
                    assert_eq!(*planned, InstanceSpec { config, ..spec.clone() });
                    assert!(planned == spec || (back && !past.differs(planned)));
                }
                None => assert!(back && past.proved(&spec.id).is_none()),
            }
        }
        assert!(any_back || *target == self.desired);
    }

    /// The wanted apps that don't work.
    fn broken(&self) -> impl Iterator<Item = &InstanceSpec> {
        let running = self.desired.instances.iter().filter(|i| i.run == RunState::Running);
        running.filter(|spec| !is_infra(&spec.id.fleet) && number(&spec.config.image) > 2)
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
        (0..200).for_each(|_| world.pass());
        let target = world.memory.effective(&world.desired, |_| true).into_owned();
        let plan = plan_for(&target, &world.observed, world.now);
        prop_assert!(plan.is_empty(), "{plan:?}");
        let rejections = world.rejections.len();
        (0..200).for_each(|_| world.pass());
        prop_assert_eq!(world.rejections.len(), rejections);
        let after = world.memory.effective(&world.desired, |_| true).into_owned();
        prop_assert_eq!(&after, &target);
        // Its infra is what it says, or it waits for an app that does not get ready; and data that
        // was to go back has.
        if let Some(infra) = &target.infra {
            let (phase, waits) = &plan_for(&target, &world.observed, world.now).infra;
            let recorded = world.observed.infra.version.as_ref() == Some(&infra.version);
            prop_assert!(recorded || (*phase == Phase::Starting && waits.is_some()));
            prop_assert!(infra.undo.is_none_or(|undo| !world.observed.snapshots.contains(&undo)));
        }

        let good = world.memory.past(&fleet()).map(|past| past.good.clone()).unwrap_or_default();
        let apps = || world.desired.instances.iter().filter(|spec| !is_infra(&spec.id.fleet));
        let gated = apps().all(|spec| spec.gate.is_some());
        let past = Past { good, ..Past::default() };
        let broken = world.broken().any(|spec| past.differs(spec));
        // Behind an infra that does not work, and has nothing to go back to, apps wait.
        let behind = |spec: &InstanceSpec| is_infra(&spec.id.fleet) && number(&spec.config.image) > 2;
        let waits = target.instances.iter().any(behind);
        if gated && broken && !waits && !past.good.is_empty() {
            let mut apps = target.instances.iter().filter(|spec| !is_infra(&spec.id.fleet));
            prop_assert!(apps.all(|spec| !past.differs(spec)), "{:?}", target);
        }
    }
}
