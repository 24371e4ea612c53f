//! A host's way between infra versions: each phase by a table, and all that must hold whatever is
//! there and wherever the agent is killed.

use proptest::prelude::*;

use super::tests::{any_unit, carry_out, names, plan_for, settle, up, wants, with};
use super::*;
use crate::agent_program::AgentVersion;
use crate::agent_upgrade::{AgentStatus, Phase as Trial};
use crate::infra::{GoingBack, HostInfra, is_infra};
use crate::spec::RunState;
use crate::spec::tests_support::instance;

fn version(number: u8) -> InfraVersion {
    number.to_string().parse().unwrap()
}

/// Version `number`, that comes with this revision.
fn infra(number: u8, revision: u64) -> HostInfra {
    HostInfra {
        version: version(number),
        revision,
        snapshot: false,
        going_back: GoingBack::Image,
        undo: None,
        restore: None,
        agent: None,
    }
}

fn host(infra: HostInfra, instances: Vec<InstanceSpec>) -> HostSpec {
    HostSpec { infra: Some(infra), ..wants(instances) }
}

/// Up, as made under version `number`.
fn under(number: u8, spec: &InstanceSpec) -> Machine {
    let mut machine = up(spec);
    machine.applied.as_mut().unwrap().infra = Some(version(number));
    machine
}

/// A host that has version `number` on record.
fn recorded(number: u8, observed: Observed) -> Observed {
    Observed {
        infra: Recorded { version: Some(version(number)), ..Recorded::default() },
        ..observed
    }
}

/// Lets a host do what it plans, and says what that was, a line for each pass.
fn walk(spec: &HostSpec, observed: &mut Observed) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..20 {
        let plan = plan_for(spec, observed, 0);
        let of_machine = |(machine, steps): (&MachineName, &Vec<Step>)| {
            let steps: Vec<&str> = steps.iter().map(|s| s.action.name()).collect();
            format!("{machine} {}", steps.join(" "))
        };
        let mut said: Vec<String> = plan.machines.iter().map(of_machine).collect();
        let host = plan.discard.iter().chain(&plan.stage).chain(&plan.host);
        said.extend(host.map(|s| s.action.name().to_owned()));
        lines.push(format!("{}: {}", plan.infra.0, said.join(", ")));
        carry_out(&plan, observed);
        settle(observed);
        if plan.is_empty() {
            return lines;
        }
    }
    panic!("it does not rest: {lines:#?}");
}

#[test]
fn a_host_goes_from_one_version_to_the_next_phase_by_phase() {
    let (old, sql, app) =
        (instance("infra/sql", 3), instance("infra/sql", 2), instance("shop/app", 1));
    let spec = host(HostInfra { snapshot: true, ..infra(2, 7) }, vec![sql, app.clone()]);
    let mut observed =
        recorded(1, with(&[(&old, under(1, &old)), (&app, under(1, &app))], &[1, 3]));
    let wanted = [
        "preparing: stage",
        "stopping: shop-app disable stop",
        "stopping: infra-sql disable stop",
        "data: snapshot",
        "starting: infra-sql write enable start",
        "starting: shop-app write enable start",
        "starting: discard, record",
        "done: ",
    ];
    assert_eq!(walk(&spec, &mut observed), wanted);
    assert_eq!(observed.infra.version, Some(version(2)));
    assert_eq!(observed.snapshots, [7].into());
    assert!(!observed.images.contains(&[3; 32].into()), "the old image is not needed any more");
}

#[test]
fn a_host_goes_back_with_the_data_of_before() {
    let (sql, app) = (instance("infra/sql", 1), instance("shop/app", 1));
    let spec = host(HostInfra { undo: Some(7), ..infra(1, 6) }, vec![sql.clone(), app.clone()]);
    let found = with(&[(&sql, under(2, &sql)), (&app, under(1, &app))], &[1]);
    let mut observed = Observed { snapshots: [7].into(), ..recorded(1, found) };
    let wanted = [
        "stopping: shop-app disable stop",
        "stopping: infra-sql disable stop",
        "data: put back",
        // Its version was on record all the time.
        "starting: infra-sql write enable start",
        "done: ",
    ];
    let walked = walk(&spec, &mut observed);
    // An app that was made under the wanted version already starts as it is.
    let walked: Vec<String> =
        walked.iter().map(|l| l.replace(", shop-app enable start", "")).collect();
    assert_eq!(walked, wanted);
    assert!(observed.snapshots.is_empty(), "it is used once");
}

#[test]
fn a_host_without_a_version_gets_its_data_from_the_backup_first() {
    let (sql, app) = (instance("infra/sql", 1), instance("shop/app", 1));
    let restore = Some("nightly".parse().unwrap());
    let spec = host(HostInfra { restore, ..infra(1, 1) }, vec![sql, app]);
    let wanted = [
        "data: stage, restore",
        "starting: infra-sql write names enable start",
        "starting: shop-app write names enable start",
        "starting: record",
        "done: ",
    ];
    assert_eq!(walk(&spec, &mut with(&[], &[])), wanted);
}

#[test]
fn a_host_that_has_the_version_is_left_alone() {
    let (sql, app) = (instance("infra/sql", 1), instance("shop/app", 1));
    let there = [(&sql, under(2, &sql)), (&app, under(2, &app))];
    let mut infra = HostInfra { snapshot: true, ..infra(2, 7) };
    let observed = recorded(2, with(&there, &[1]));
    for restore in [None, Some("nightly".parse().unwrap())] {
        infra.restore = restore;
        let plan = plan_for(&host(infra.clone(), vec![sql.clone(), app.clone()]), &observed, 0);
        assert!(plan.is_empty(), "{plan:?}");
        assert_eq!(plan.infra, (Phase::Done, None));
    }
    let sick = Machine { ready: false, ..under(2, &app) };
    let sick = recorded(2, with(&[(&sql, under(2, &sql)), (&app, sick)], &[1]));
    let plan = plan_for(&host(infra, vec![sql.clone(), app.clone()]), &sick, 0);
    assert_eq!(plan.infra.0, Phase::Done, "what fails later takes no version away");
}

#[test]
fn nothing_is_stopped_before_all_is_there() {
    let (old, mut sql, app) =
        (instance("infra/sql", 1), instance("infra/sql", 2), instance("shop/app", 1));
    let secret = PinnedSecret { name: "db/root".parse().unwrap(), version: 1 };
    sql.config.settings.secrets = [("root".parse().unwrap(), secret.clone())].into();
    let paused = InstanceSpec { paused: true, ..instance("shop/held", 1) };
    let there = [(&old, under(1, &old)), (&app, under(1, &app)), (&paused, under(1, &paused))];
    let ready = recorded(1, with(&there[..2], &[1, 2]));
    let ready = Observed { secrets: [secret].into(), ..ready };
    let version: AgentVersion = "0.3.0".parse().unwrap();
    let agent = |phase| {
        let (version, digest, message) = (version.clone(), [9; 32].into(), String::new());
        Some(AgentStatus { version, digest, asked: 1, phase, message })
    };
    let ready = Observed { agent: agent(Trial::Current), ..ready };
    let full = || Some("needs 3 GiB more".to_owned());
    let cases = [
        (Observed { images: [[1; 32].into()].into(), ..ready.clone() }, "waits for image app:2"),
        (Observed { secrets: [].into(), ..ready.clone() }, "waits for secret db/root"),
        (Observed { no_room: full(), ..ready.clone() }, "needs 3 GiB more"),
        (Observed { data_blocked: full(), ..ready.clone() }, "needs 3 GiB more"),
        (Observed { agent: None, ..ready.clone() }, "waits for agent 0.3.0"),
        (Observed { agent: agent(Trial::Trying), ..ready.clone() }, "waits for agent 0.3.0 (re"),
        (Observed { agent: agent(Trial::Rejected), ..ready.clone() }, "agent 0.3.0 was rej"),
        (
            Observed { machines: with(&there, &[]).machines, ..ready.clone() },
            "shop/held is up and must not be touched",
        ),
    ];
    let first = Some(version.clone());
    let next = HostInfra { snapshot: true, agent: first, ..infra(2, 7) };
    let spec = host(next.clone(), vec![sql, app, paused]);
    for (observed, waits) in cases {
        let plan = plan_for(&spec, &observed, 0);
        let (phase, why) = plan.infra.clone();
        assert_eq!(phase, Phase::Preparing, "{waits}");
        assert!(why.unwrap().starts_with(waits), "{plan:?}");
        assert!(!names(&plan).contains(&"stop") && !names(&plan).contains(&"disable"), "{plan:?}");
    }
    assert_eq!(plan_for(&spec, &ready, 0).infra.0, Phase::Stopping);
    // An agent that it does not bring holds up nothing, and none holds up the way back.
    let rejected = Observed { agent: agent(Trial::Rejected), ..ready };
    for infra in [HostInfra { agent: None, ..next.clone() }, next.instead_of(&next)] {
        let spec = HostSpec { infra: Some(infra), ..spec.clone() };
        assert_eq!(plan_for(&spec, &rejected, 0).infra.0, Phase::Stopping);
    }
}

#[test]
fn what_a_version_is_without_goes_with_the_old_one_after_the_apps() {
    let (gone, app) = (instance("infra/graphite", 1), instance("shop/app", 1));
    let new = instance("infra/sql", 2);
    let spec = host(infra(2, 7), vec![new, app.clone()]);
    let mut observed = recorded(1, with(&[(&gone, under(1, &gone)), (&app, under(1, &app))], &[1]));
    let wanted = [
        "preparing: stage",
        "stopping: shop-app disable stop",
        "stopping: infra-graphite disable stop",
        "starting: infra-graphite remove, infra-sql write names enable start",
        "starting: shop-app write enable start",
        "starting: record",
        "done: ",
    ];
    assert_eq!(walk(&spec, &mut observed), wanted);
}

#[test]
fn what_an_operator_has_stopped_or_paused_is_left_as_it_is() {
    let sql = instance("infra/sql", 1);
    let stopped = InstanceSpec { run: RunState::Stopped, ..instance("shop/off", 1) };
    let paused = InstanceSpec { paused: true, ..instance("shop/held", 1) };
    let off = Machine { unit: Unit::Inactive, enabled: false, ready: false, ..under(1, &stopped) };
    let held = Machine { hands_off: true, ..under(1, &paused) };
    let there = [(&sql, under(1, &sql)), (&stopped, off.clone()), (&paused, held.clone())];
    let mut observed = recorded(1, with(&there, &[1]));
    let spec = host(infra(2, 7), vec![sql.clone(), stopped.clone(), paused.clone()]);
    let walked = walk(&spec, &mut observed);
    assert!(walked.iter().all(|line| !line.contains("shop-")), "{walked:?}");
    assert_eq!(observed.infra.version, Some(version(2)));
    assert_eq!(observed.machines[&stopped.id.machine()], off);
    assert_eq!(observed.machines[&paused.id.machine()], held);
    // Once it is started again, it is made afresh, and the version stays on record.
    let started = InstanceSpec { run: RunState::Running, ..stopped };
    let spec = host(infra(2, 7), vec![sql, started.clone(), paused]);
    walk(&spec, &mut observed);
    let applied = observed.machines[&started.id.machine()].applied.as_ref().unwrap();
    assert_eq!(applied.infra, Some(version(2)));
}

#[test]
fn a_version_is_not_written_down_before_the_last_one_is_ready() {
    let (sql, app) = (instance("infra/sql", 1), instance("shop/app", 1));
    let sick = Machine { ready: false, ..under(2, &app) };
    let spec = host(infra(2, 7), vec![sql.clone(), app.clone()]);
    let observed = recorded(1, with(&[(&sql, under(2, &sql)), (&app, sick)], &[1]));
    let plan = plan_for(&spec, &observed, 0);
    assert!(plan.is_empty(), "{plan:?}");
    let waits = "waits for shop/app to be ready";
    assert_eq!(plan.infra, (Phase::Starting, Some(waits.to_owned())));
}

/// Instances of the infra and of an app's fleet.
fn any_instance() -> impl Strategy<Value = InstanceSpec> {
    let ids = vec!["infra/a", "infra/b", "shop/c", "shop/d"];
    (prop::sample::select(ids), 1..4_u8, 0..8_u8, 0..8_u8).prop_map(
        |(id, image, stopped, paused)| {
            let run = if stopped == 0 { RunState::Stopped } else { RunState::Running };
            InstanceSpec { run, paused: paused == 0, ..instance(id, image) }
        },
    )
}

fn any_spec() -> impl Strategy<Value = HostSpec> {
    let infra = (1..4_u8, 3..5_u64, any::<[bool; 3]>()).prop_map(
        |(number, revision, [snapshot, undo, restore])| HostInfra {
            snapshot,
            undo: undo.then_some(7 - revision),
            restore: restore.then(|| "nightly".parse().unwrap()),
            ..infra(number, revision)
        },
    );
    (infra, prop::collection::vec(any_instance(), 0..5)).prop_map(|(infra, instances)| {
        let by_id: BTreeMap<_, _> = instances.into_iter().map(|i| (i.id.clone(), i)).collect();
        host(infra, by_id.into_values().collect())
    })
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let machine = (any_instance(), any_unit(), any::<[bool; 3]>(), 0..4_u8);
    let machines = prop::collection::vec(machine, 0..5);
    let images = prop::collection::btree_set(1..4_u8, 0..4);
    (machines, images, 0..4_u8, prop::collection::btree_set(3..5_u64, 0..3)).prop_map(
        |(machines, images, has, snapshots)| {
            let found = |(spec, unit, flags, number): (InstanceSpec, Unit, [bool; 3], u8)| {
                let ([enabled, written, ready], id) = (flags, &spec.id);
                let made = if number == 0 { up(&spec) } else { under(number, &spec) };
                let applied = made.applied.filter(|_| written || unit == Unit::Active);
                let ready = ready && unit == Unit::Active;
                (id.machine(), Machine { applied, unit, enabled, ready, ..up(&spec) })
            };
            let ids: BTreeSet<Digest> = images.iter().map(|i| [*i; 32].into()).collect();
            let version = (has > 0).then(|| version(has));
            Observed {
                machines: machines.into_iter().map(found).collect(),
                mounts: ids.clone(),
                images: ids,
                snapshots,
                infra: Recorded { version, ..Recorded::default() },
                ..Observed::default()
            }
        },
    )
}

/// Whether an instance is to run, and may be touched.
fn runs(spec: &InstanceSpec) -> bool {
    spec.run == RunState::Running && !spec.paused
}

fn is_current(spec: &InstanceSpec, observed: &Observed, wants: &InfraVersion) -> bool {
    let found = observed.machines.get(&spec.id.machine());
    let is = |found: &Machine| found.applied.as_ref().is_some_and(|a| a.is(spec, Some(wants)));
    found.is_some_and(|found| found.ready && is(found))
}

/// Some time later: what is up gets ready.
fn later(observed: &mut Observed) {
    settle(observed);
    for found in observed.machines.values_mut().filter(|found| found.unit == Unit::Active) {
        found.ready = true;
    }
}

/// What must hold of each plan.
fn check(spec: &HostSpec, observed: &Observed, plan: &Plan) -> Result<(), TestCaseError> {
    let wants = &spec.infra.as_ref().unwrap().version;
    let changes = observed.infra.version.as_ref() != Some(wants);
    let by_machine: BTreeMap<MachineName, &InstanceSpec> =
        spec.instances.iter().map(|i| (i.id.machine(), i)).collect();
    let other = |machine: &MachineName| {
        let found = &observed.machines[machine];
        !found.unit.is_down()
            && found.applied.as_ref().and_then(|a| a.infra.as_ref()) != Some(wants)
    };
    let may_touch = |machine: &MachineName| by_machine.get(machine).is_none_or(|i| !i.paused);
    let old_is_up = observed.machines.keys().any(|m| may_touch(m) && other(m));
    for (machine, step) in plan.machines.iter().flat_map(|(m, all)| all.iter().map(move |s| (m, s)))
    {
        match &step.action {
            Action::Start => prop_assert!(!(changes && old_is_up), "{machine} starts beside"),
            Action::Write(one, infra) => {
                prop_assert_eq!(infra.as_ref(), Some(wants));
                let infra = spec.instances.iter().filter(|i| is_infra(&i.id.fleet) && runs(i));
                let ready = infra.clone().all(|i| is_current(i, observed, wants));
                prop_assert!(!changes || is_infra(&one.id.fleet) || ready, "{machine} is early");
            }
            Action::Stop if changes && by_machine.get(machine).is_some_and(|i| runs(i)) => {
                let again = spec.instances.iter().filter(|i| {
                    let machine = i.id.machine();
                    runs(i) && observed.machines.get(&machine).is_none_or(|_| other(&machine))
                });
                let there = |i: &InstanceSpec| observed.images.contains(&i.config.image.digest);
                let all = again.clone().all(there);
                prop_assert!(!other(machine) || all, "{machine} is stopped for no image");
            }
            _ => {}
        }
    }
    let records = plan.host.iter().any(|s| matches!(s.action, Action::Record(_)));
    let all = spec.instances.iter().filter(|i| runs(i)).all(|i| is_current(i, observed, wants));
    prop_assert!(!records || all, "recorded too early");
    let last = plan.host.iter().position(|s| matches!(s.action, Action::Record(_)));
    prop_assert!(last.is_none_or(|at| at + 1 == plan.host.len()), "it is written last");
    Ok(())
}

/// The first steps of a plan, after which the agent is killed.
fn cut(plan: &Plan, mut most: usize) -> Plan {
    let mut first = |steps: &[Step]| -> Vec<Step> {
        let taken: Vec<Step> = steps.iter().take(most).cloned().collect();
        most -= taken.len();
        taken
    };
    let machines = plan.machines.iter().map(|(m, steps)| (m.clone(), first(steps))).collect();
    let (discard, stage, host) = (first(&plan.discard), first(&plan.stage), first(&plan.host));
    Plan { machines, discard, stage, host, ..Plan::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    /// Wherever the agent is killed, and whatever else was wanted before, a host gets there.
    #[test]
    fn it_gets_there_from_anywhere(
        specs in prop::collection::vec(any_spec(), 1..4),
        mut observed in any_observed(),
        kills in prop::collection::vec((0..6_usize, any::<bool>()), 0..20),
    ) {
        let last = specs.last().unwrap().clone();
        for (at, (most, settles)) in kills.iter().enumerate() {
            let spec = &specs[at * specs.len() / kills.len()];
            let plan = plan_for(spec, &observed, 0);
            check(spec, &observed, &plan)?;
            carry_out(&cut(&plan, *most), &mut observed);
            if *settles {
                later(&mut observed);
            }
        }
        for _ in 0..40 {
            let plan = plan_for(&last, &observed, 0);
            check(&last, &observed, &plan)?;
            carry_out(&plan, &mut observed);
            later(&mut observed);
        }
        let rest = plan_for(&last, &observed, 0);
        prop_assert!(rest.is_empty(), "{rest:?}");
        let paused = last.instances.iter().filter(|i| i.paused);
        let up = |i: &&InstanceSpec| {
            observed.machines.get(&i.id.machine()).is_some_and(|m| !m.unit.is_down())
        };
        if paused.clone().any(|i| up(&i)) && rest.infra.0 == Phase::Preparing {
            return Ok(());
        }
        let wants = &last.infra.as_ref().unwrap().version;
        prop_assert_eq!(&rest.infra, &(Phase::Done, None));
        prop_assert_eq!(observed.infra.version.as_ref(), Some(wants));
        for one in last.instances.iter().filter(|i| runs(i)) {
            prop_assert!(is_current(one, &observed, wants), "{}", one.id);
        }
    }
}

#[test]
fn the_policy_of_a_host_holds_up_its_version_and_says_so() {
    let (sql, app) = (instance("infra/sql", 1), instance("shop/app", 1));
    let spec = host(infra(2, 7), vec![sql.clone(), app.clone()]);
    let observed = recorded(1, with(&[(&sql, under(2, &sql)), (&app, under(1, &app))], &[1]));
    let facts = HostFacts { kernel: "5.10".into(), ..HostFacts::default() };
    let policy = Policy::default();
    let plan = plan(super::tests::wanted(&spec, &facts, &policy), &observed, Timestamp(0));
    assert!(plan.blocked.contains_key(&app.id.machine()) && plan.is_empty(), "{plan:?}");
    let waits = "waits for shop/app to be ready";
    assert_eq!(plan.infra, (Phase::Starting, Some(waits.to_owned())));
}

#[test]
fn nothing_is_stopped_for_a_version_with_an_image_that_is_not_trusted() {
    let (sql, app) = (instance("infra/sql", 2), instance("shop/main", 1));
    let before = instance("infra/sql", 1);
    let spec = host(infra(2, 2), vec![sql.clone(), app.clone()]);
    let there = with(&[(&before, under(1, &before)), (&app, under(1, &app))], &[1, 2]);
    let observed = super::tests::distrusting(&[&sql], recorded(1, there));
    let plan = plan_for(&spec, &observed, 0);
    assert_eq!(names(&plan), [""; 0]);
    assert_eq!(plan.infra, (Phase::Preparing, Some("not signed".into())));
}
