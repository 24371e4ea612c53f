use proptest::prelude::*;

use super::*;
use crate::policy::UserNamespace;
use crate::spec::tests_support::instance;

fn facts() -> HostFacts {
    HostFacts { idmapped_squashfs: true, ..HostFacts::default() }
}

fn plan_for(spec: &HostSpec, observed: &Observed, now: u64) -> Plan {
    let policy = Policy::default();
    plan(Wanted { spec, facts: &facts(), policy: &policy }, observed, Timestamp(now))
}

fn wants(instances: Vec<InstanceSpec>) -> HostSpec {
    HostSpec { generation: 1, instances }
}

fn up(spec: &InstanceSpec) -> Machine {
    let applied =
        Applied { id: spec.id.clone(), config: spec.config.clone(), restarts: spec.restarts };
    Machine {
        applied: Some(applied),
        unit: Unit::Active,
        enabled: true,
        attempts: Attempts::default(),
    }
}

fn with(machines: &[(&InstanceSpec, Machine)], images: &[u8]) -> Observed {
    Observed {
        machines: machines.iter().map(|(s, m)| (s.id.machine(), m.clone())).collect(),
        images: images.iter().map(|i| [*i; 32].into()).collect(),
        ..Observed::default()
    }
}

fn names(plan: &Plan) -> Vec<&'static str> {
    let machines = plan.machines.values().flatten();
    machines.chain(&plan.stage).chain(&plan.host).map(|s| s.action.name()).collect()
}

#[test]
fn a_new_instance_is_staged_then_written_and_started() {
    let spec = instance("a/b", 1);
    let wanted = wants(vec![spec]);
    assert_eq!(names(&plan_for(&wanted, &with(&[], &[]), 0)), ["stage"]);
    assert_eq!(names(&plan_for(&wanted, &with(&[], &[1]), 0)), ["write", "enable", "start"]);
}

#[test]
fn a_running_instance_is_left_alone() {
    let spec = instance("a/b", 1);
    let observed = with(&[(&spec, up(&spec))], &[1]);
    let plan = plan_for(&wants(vec![spec]), &observed, 0);
    assert!(plan.is_empty(), "{plan:?}");
}

#[test]
fn a_new_revision_with_the_same_content_disturbs_nothing() {
    let old = instance("a/b", 1);
    let new = InstanceSpec { revision: 2, ..old.clone() };
    assert!(plan_for(&wants(vec![new]), &with(&[(&old, up(&old))], &[1]), 0).is_empty());
}

#[test]
fn the_old_container_runs_until_the_new_image_is_staged() {
    let (old, new) = (instance("a/b", 1), instance("a/b", 2));
    let wanted = wants(vec![new]);
    assert_eq!(names(&plan_for(&wanted, &with(&[(&old, up(&old))], &[1]), 0)), ["stage"]);
    let staged = plan_for(&wanted, &with(&[(&old, up(&old))], &[1, 2]), 0);
    assert_eq!(names(&staged), ["stop"]);
    let reason = &staged.machines.values().next().unwrap()[0].reason;
    assert!(reason.contains("app:1") && reason.contains("app:2"), "{reason}");
    let stopping = Machine { unit: Unit::Deactivating, ..up(&old) };
    assert!(plan_for(&wanted, &with(&[(&old, stopping)], &[1, 2]), 0).is_empty());
    let down = Machine { unit: Unit::Inactive, ..up(&old) };
    assert_eq!(names(&plan_for(&wanted, &with(&[(&old, down)], &[1, 2]), 0)), ["write", "start"]);
}

#[test]
fn a_restart_recreates_once() {
    let old = instance("a/b", 1);
    let wanted = InstanceSpec { restarts: 1, ..old.clone() };
    let running = with(&[(&old, up(&old))], &[1]);
    assert_eq!(names(&plan_for(&wants(vec![wanted.clone()]), &running, 0)), ["stop"]);
    let done = with(&[(&wanted, up(&wanted))], &[1]);
    assert!(plan_for(&wants(vec![wanted]), &done, 0).is_empty());
}

#[test]
fn a_stopped_instance_stays_down_also_at_boot() {
    let spec = instance("a/b", 1);
    let stopped = InstanceSpec { run: RunState::Stopped, ..spec.clone() };
    let wanted = wants(vec![stopped]);
    assert_eq!(
        names(&plan_for(&wanted, &with(&[(&spec, up(&spec))], &[1]), 0)),
        ["disable", "stop"]
    );
    let down = Machine { unit: Unit::Inactive, enabled: false, ..up(&spec) };
    assert!(plan_for(&wanted, &with(&[(&spec, down)], &[1]), 0).is_empty());
}

#[test]
fn what_no_fleet_wants_is_stopped_and_then_removed() {
    let spec = instance("a/b", 1);
    let wanted = wants(vec![]);
    assert_eq!(
        names(&plan_for(&wanted, &with(&[(&spec, up(&spec))], &[1]), 0)),
        ["disable", "stop"]
    );
    let down = Machine { unit: Unit::Failed, enabled: false, ..up(&spec) };
    assert_eq!(names(&plan_for(&wanted, &with(&[(&spec, down)], &[1]), 0)), ["remove"]);
}

#[test]
fn failing_starts_are_tried_again_with_growing_pauses() {
    let spec = instance("a/b", 1);
    let failed = |failures, last| Machine {
        unit: Unit::Failed,
        attempts: Attempts { failures, last: Some(Timestamp(last)) },
        ..up(&spec)
    };
    let wanted = wants(vec![spec.clone()]);
    let early = plan_for(&wanted, &with(&[(&spec, failed(3, 1000))], &[1]), 4999);
    assert!(early.is_empty());
    assert_eq!(early.again_at, Some(Timestamp(5000)));
    let due = plan_for(&wanted, &with(&[(&spec, failed(3, 1000))], &[1]), 5000);
    assert_eq!(names(&due), ["start"]);
    let many = plan_for(&wanted, &with(&[(&spec, failed(40, 0))], &[1]), 0);
    assert_eq!(many.again_at, Some(Timestamp(60_000)), "never more than a minute");
    let changed = wants(vec![instance("a/b", 2)]);
    let fixed = plan_for(&changed, &with(&[(&spec, failed(40, 0))], &[1, 2]), 0);
    assert_eq!(names(&fixed), ["write", "start"], "a changed spec is tried at once");
}

#[test]
fn a_clock_that_was_set_back_holds_nothing_up() {
    let spec = instance("a/b", 1);
    let attempts = Attempts { failures: 3, last: Some(Timestamp(9_000_000)) };
    let failed = Machine { unit: Unit::Failed, attempts, ..up(&spec) };
    let plan = plan_for(&wants(vec![spec.clone()]), &with(&[(&spec, failed)], &[1]), 1000);
    assert_eq!(names(&plan), ["start"]);
}

#[test]
fn what_cannot_be_read_is_left_alone() {
    let spec = instance("a/b", 1);
    let mut observed = with(&[(&spec, Machine { applied: None, ..up(&spec) })], &[1]);
    observed.mounts = [[9; 32].into()].into();
    observed.unreadable.insert(spec.id.machine(), "instance.json is damaged".into());
    for wanted in [wants(vec![spec.clone()]), wants(vec![])] {
        assert!(plan_for(&wanted, &observed, 0).is_empty());
    }
    let plan = plan_for(&wants(vec![spec.clone()]), &observed, 0);
    assert!(plan.blocked[&spec.id.machine()].contains("damaged"));
}

#[test]
fn reasons_keep_values_of_the_environment_to_themselves() {
    let old = instance("a/b", 1);
    let mut new = old.clone();
    new.config.settings.env.insert("PASSWORD".parse().unwrap(), "hunter2".into());
    let plan = plan_for(&wants(vec![new]), &with(&[(&old, up(&old))], &[1]), 0);
    let reason = &plan.machines.values().next().unwrap()[0].reason;
    assert_eq!(reason, "env.PASSWORD changed");
}

#[test]
fn a_host_that_cannot_isolate_says_so_and_touches_nothing() {
    let wanted = wants(vec![instance("a/b", 1)]);
    let facts = HostFacts { kernel: "5.10".into(), ..HostFacts::default() };
    let strict = Policy::default();
    let lax = Policy { user_namespace: UserNamespace::IfPossible };
    let observed = with(&[], &[1]);
    let plan_under = |policy: &Policy| {
        plan(Wanted { spec: &wanted, facts: &facts, policy }, &observed, Timestamp(0))
    };
    assert!(plan_under(&strict).is_empty());
    assert!(plan_under(&strict).blocked.values().next().unwrap().contains("5.10"));
    assert_eq!(names(&plan_under(&lax)), ["write", "enable", "start"]);
}

#[test]
fn one_blocked_or_missing_image_holds_up_no_other() {
    let (here, missing) = (instance("a/here", 1), instance("a/missing", 9));
    let plan = plan_for(&wants(vec![here.clone(), missing]), &with(&[], &[1]), 0);
    assert_eq!(plan.machines.len(), 1);
    assert!(plan.machines.contains_key(&here.id.machine()));
    assert_eq!(plan.stage.len(), 1);
}

#[test]
fn only_unused_images_are_unmounted() {
    let spec = instance("a/b", 1);
    let mut observed = with(&[(&spec, up(&spec))], &[1, 2]);
    observed.mounts = [[1; 32].into(), [2; 32].into()].into();
    let plan = plan_for(&wants(vec![spec]), &observed, 0);
    assert_eq!(plan.host.len(), 1);
    assert_eq!(plan.host[0].action, Action::Unmount([2; 32].into()));
}

/// What a host does with a plan: begun starts and stops end later, transfers at once.
fn carry_out(plan: &Plan, observed: &mut Observed) {
    for (machine, steps) in &plan.machines {
        for step in steps {
            apply(machine, &step.action, observed);
        }
    }
    for step in plan.stage.iter().chain(&plan.host) {
        match &step.action {
            Action::Stage(image) => drop(observed.images.insert(image.digest)),
            Action::Unmount(digest) => drop(observed.mounts.remove(digest)),
            other => panic!("{other:?} belongs to a machine"),
        }
    }
}

fn apply(machine: &MachineName, action: &Action, observed: &mut Observed) {
    let absent = Machine {
        applied: None,
        unit: Unit::Inactive,
        enabled: false,
        attempts: Attempts::default(),
    };
    let found = observed.machines.entry(machine.clone()).or_insert(absent);
    match action {
        Action::Write(spec) => {
            assert!(found.unit.is_down(), "the record is written only while the unit is down");
            *found = Machine { enabled: found.enabled, unit: Unit::Inactive, ..up(spec) };
        }
        Action::Enable => found.enabled = true,
        Action::Disable => found.enabled = false,
        Action::Start => {
            let applied = found.applied.as_ref().expect("a start has a record");
            assert!(observed.images.contains(&applied.config.image.digest), "only staged images");
            observed.mounts.insert(applied.config.image.digest);
            found.unit = Unit::Activating;
        }
        Action::Stop => found.unit = Unit::Deactivating,
        Action::Remove => {
            assert!(found.unit.is_down(), "only what is down is removed");
            observed.machines.remove(machine);
        }
        Action::Stage(_) | Action::Unmount(_) => panic!("{action:?} belongs to the host"),
    }
}

fn settle(observed: &mut Observed) {
    for machine in observed.machines.values_mut() {
        machine.unit = match machine.unit {
            Unit::Activating => Unit::Active,
            Unit::Deactivating => Unit::Inactive,
            other => other,
        };
    }
}

fn any_instance() -> impl Strategy<Value = InstanceSpec> {
    (0..4_u8, 1..4_u8, any::<bool>(), 0..3_u64).prop_map(|(name, image, stopped, restarts)| {
        let run = if stopped { RunState::Stopped } else { RunState::Running };
        InstanceSpec { run, restarts, ..instance(&format!("f/i{name}"), image) }
    })
}

fn any_spec() -> impl Strategy<Value = HostSpec> {
    prop::collection::vec(any_instance(), 0..4).prop_map(|instances| {
        let by_id: BTreeMap<_, _> = instances.into_iter().map(|i| (i.id.clone(), i)).collect();
        wants(by_id.into_values().collect())
    })
}

fn any_unit() -> impl Strategy<Value = Unit> {
    prop::sample::select(vec![
        Unit::Inactive,
        Unit::Activating,
        Unit::Active,
        Unit::Deactivating,
        Unit::Failed,
    ])
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let machine = (any_instance(), any_unit(), any::<bool>(), any::<bool>());
    (prop::collection::vec(machine, 0..4), prop::collection::btree_set(1..4_u8, 0..4)).prop_map(
        |(machines, images)| Observed {
            machines: machines
                .into_iter()
                .map(|(spec, unit, enabled, recorded)| {
                    let applied = up(&spec).applied.filter(|_| recorded || !unit.is_down());
                    (spec.id.machine(), Machine { applied, unit, enabled, ..up(&spec) })
                })
                .collect(),
            images: images.iter().map(|i| [*i; 32].into()).collect(),
            mounts: images.iter().map(|i| [*i; 32].into()).collect(),
            unreadable: BTreeMap::new(),
        },
    )
}

proptest! {
    /// From any state a host converges in a few passes, and then has an empty plan.
    #[test]
    fn it_converges_and_then_rests(spec in any_spec(), mut observed in any_observed()) {
        for _ in 0..12 {
            let plan = plan_for(&spec, &observed, 0);
            carry_out(&plan, &mut observed);
            settle(&mut observed);
        }
        let rest = plan_for(&spec, &observed, 0);
        prop_assert!(rest.is_empty(), "{rest:?}");
        for wanted in &spec.instances {
            let found = observed.machines.get(&wanted.id.machine());
            if wanted.run == RunState::Stopped {
                prop_assert!(found.is_none_or(|m| m.unit.is_down() && !m.enabled));
            } else {
                let found = found.expect("a wanted instance is there");
                prop_assert_eq!(found.unit, Unit::Active);
                prop_assert!(found.enabled);
                let applied = found.applied.as_ref().expect("it has a record");
                prop_assert!(applied.config.same_container(&wanted.config));
            }
        }
        let wanted: BTreeSet<MachineName> = spec.instances.iter().map(|i| i.id.machine()).collect();
        prop_assert!(observed.machines.keys().all(|m| wanted.contains(m)));
    }

    /// The same inputs make the same plan.
    #[test]
    fn it_is_a_function(spec in any_spec(), observed in any_observed()) {
        prop_assert_eq!(plan_for(&spec, &observed, 5), plan_for(&spec, &observed, 5));
    }
}
