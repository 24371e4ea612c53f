use proptest::prelude::*;

use super::*;
use crate::policy::UserNamespace;
use crate::spec::RunState;
use crate::spec::tests_support::instance;

pub(super) fn facts() -> HostFacts {
    HostFacts { idmapped_squashfs: true, ..HostFacts::default() }
}

pub(crate) fn plan_for(spec: &HostSpec, observed: &Observed, now: u64) -> Plan {
    let policy = Policy::default();
    plan(wanted(spec, &facts(), &policy), observed, Timestamp(now))
}

pub(super) fn wanted<'a>(
    spec: &'a HostSpec,
    facts: &'a HostFacts,
    policy: &'a Policy,
) -> Wanted<'a> {
    static NONE: BTreeMap<MachineName, Timestamp> = BTreeMap::new();
    static HOST: std::sync::LazyLock<HostName> = std::sync::LazyLock::new(|| "h1".parse().unwrap());
    static KEPT: BTreeSet<PinnedSecret> = BTreeSet::new();
    static IMAGES: BTreeSet<Digest> = BTreeSet::new();
    Wanted {
        spec,
        host: &HOST,
        facts,
        policy,
        ready_elsewhere: None,
        held: &NONE,
        kept: &KEPT,
        kept_images: &IMAGES,
        at_once: 4,
    }
}

/// The hosts file of an instance in a fleet without peers.
fn no_peers(spec: &InstanceSpec) -> Option<String> {
    Some(hosts_file(&spec.id, &"h1".parse().unwrap(), &[]))
}

pub(super) fn wants(instances: Vec<InstanceSpec>) -> HostSpec {
    HostSpec { generation: 1, instances, ..HostSpec::default() }
}

pub(super) fn up(spec: &InstanceSpec) -> Machine {
    let InstanceSpec { id, config, restarts, recreate, .. } = spec.clone();
    let applied = Applied { id, config, restarts, recreate, infra: None };
    Machine {
        applied: Some(applied),
        unit: Unit::Active,
        enabled: true,
        ready: true,
        names: no_peers(spec),
        ..Machine::default()
    }
}

pub(super) fn with(machines: &[(&InstanceSpec, Machine)], images: &[u8]) -> Observed {
    let images: BTreeSet<Digest> = images.iter().map(|i| [*i; 32].into()).collect();
    let whole = images.iter().map(|digest| (*digest, crate::gc::Stored::default()));
    Observed {
        machines: machines.iter().map(|(s, m)| (s.id.machine(), m.clone())).collect(),
        stock: Stock { whole: whole.collect(), ..Stock::default() },
        images,
        ..Observed::default()
    }
}

pub(super) fn names(plan: &Plan) -> Vec<&'static str> {
    let machines = plan.machines.values().flatten();
    machines
        .chain(&plan.discard)
        .chain(&plan.stage)
        .chain(&plan.host)
        .map(|s| s.action.name())
        .collect()
}

#[test]
fn a_new_instance_is_staged_then_written_and_started() {
    let spec = instance("a/b", 1);
    let wanted = wants(vec![spec]);
    assert_eq!(names(&plan_for(&wanted, &with(&[], &[]), 0)), ["stage"]);
    assert_eq!(
        names(&plan_for(&wanted, &with(&[], &[1]), 0)),
        ["write", "names", "enable", "start"]
    );
}

#[test]
fn a_hook_that_failed_is_not_run_again_before_something_else_is_wanted() {
    let spec = instance("a/b", 1);
    for unit in [Unit::Failed, Unit::Inactive] {
        let failed = Machine { unit, hook_failed: true, ready: false, ..up(&spec) };
        let observed = with(&[(&spec, failed)], &[1, 2]);
        assert!(plan_for(&wants(vec![spec.clone()]), &observed, 0).is_empty());
        let restart = InstanceSpec { restarts: 1, ..spec.clone() };
        assert_eq!(names(&plan_for(&wants(vec![restart]), &observed, 0)), ["write", "start"]);
        let other = instance("a/b", 2);
        assert_eq!(names(&plan_for(&wants(vec![other]), &observed, 0)), ["write", "start"]);
    }
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
fn nothing_is_stopped_that_could_not_be_written_anew_but_for_a_restart() {
    let (old, new) = (instance("a/b", 1), instance("a/b", 2));
    let machine = old.id.machine();
    let full = Some("waits for room".to_owned());
    let running = Observed { no_room: full.clone(), ..with(&[(&old, up(&old))], &[1, 2]) };
    let plan = plan_for(&wants(vec![new.clone()]), &running, 0);
    assert_eq!((names(&plan).len(), plan.waiting.get(&machine)), (0, full.as_ref()));
    let restart = InstanceSpec { restarts: 1, ..old.clone() };
    assert_eq!(names(&plan_for(&wants(vec![restart]), &running, 0)), ["stop"]);
    // What is down is tried: the error tells more than the figures.
    let down = Machine { unit: Unit::Inactive, ..up(&old) };
    let down = Observed { no_room: full, ..with(&[(&old, down)], &[1, 2]) };
    assert_eq!(names(&plan_for(&wants(vec![new]), &down, 0)), ["write", "start"]);
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
fn a_container_is_made_afresh_once_and_not_for_an_older_wish() {
    let old = InstanceSpec { recreate: 3, ..instance("a/b", 1) };
    let asked = InstanceSpec { recreate: 5, revision: 5, ..old.clone() };
    let machine = old.id.machine();
    let plan = |wanted: &InstanceSpec, found: &[(&InstanceSpec, Machine)]| {
        plan_for(&wants(vec![wanted.clone()]), &with(found, &[1]), 0)
    };
    let running = plan(&asked, &[(&old, up(&old))]);
    assert_eq!(names(&running), ["stop"]);
    assert_eq!(running.machines[&machine][0].reason, "revision 5 has it made afresh");
    for unit in [Unit::Inactive, Unit::Failed] {
        let down = Machine { unit, hook_failed: true, ..up(&old) };
        assert_eq!(names(&plan(&asked, &[(&old, down)])), ["write", "start"], "{unit:?}");
    }
    assert!(plan(&asked, &[(&asked, up(&asked))]).is_empty());
    // Whoever took it back, or never asked, disturbs nothing.
    for recreate in [0, 3] {
        let back = InstanceSpec { recreate, revision: 4, ..old.clone() };
        for made in [&asked, &old] {
            assert!(plan(&back, &[(made, up(made))]).is_empty(), "{recreate}");
        }
    }
    // It runs on for as long as it could not be made again.
    let full = Some("waits for room".to_owned());
    let full = Observed { no_room: full, ..with(&[(&old, up(&old))], &[1]) };
    assert!(plan_for(&wants(vec![asked.clone()]), &full, 0).is_empty());
    assert_eq!(
        names(&plan_for(&wants(vec![asked]), &with(&[(&old, up(&old))], &[]), 0)),
        ["stage"]
    );
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
    let spec = wants(vec![instance("a/b", 1)]);
    let facts = HostFacts { kernel: "5.10".into(), ..HostFacts::default() };
    let strict = Policy::default();
    let lax = Policy { user_namespace: UserNamespace::IfPossible, ..Policy::default() };
    let observed = with(&[], &[1]);
    let plan_under = |policy: &Policy| plan(wanted(&spec, &facts, policy), &observed, Timestamp(0));
    assert!(plan_under(&strict).is_empty());
    assert!(plan_under(&strict).blocked.values().next().unwrap().contains("5.10"));
    assert_eq!(names(&plan_under(&lax)), ["write", "names", "enable", "start"]);
}

/// Where these images of the desired state are not trusted.
pub(super) fn distrusting(specs: &[&InstanceSpec], observed: Observed) -> Observed {
    let untrusted = specs.iter().map(|spec| (spec.config.image.clone(), "not signed".to_owned()));
    Observed { untrusted: untrusted.collect(), ..observed }
}

#[test]
fn what_is_not_trusted_is_neither_fetched_nor_started_and_replaces_nothing() {
    let (old, new) = (instance("a/b", 1), instance("a/b", 2));
    let wanted = wants(vec![new.clone()]);
    for images in [&[1][..], &[1, 2]] {
        let observed = distrusting(&[&new], with(&[(&old, up(&old))], images));
        let plan = plan_for(&wanted, &observed, 0);
        assert!(plan.is_empty(), "{plan:?}");
        assert_eq!(plan.blocked[&new.id.machine()], "not signed");
    }
    // Another manifest of the same image may be.
    let signed = crate::image::SignedManifest::new("x".into(), "y".into()).unwrap();
    let mut trusted = new.clone();
    trusted.config.image.signed = Some(Box::new(signed));
    let observed = distrusting(&[&new], with(&[(&old, up(&old))], &[1]));
    assert_eq!(names(&plan_for(&wants(vec![trusted]), &observed, 0)), ["stage"]);
    // Nor is it fetched ahead.
    let ahead = HostSpec { stage: vec![new.config.image.clone()], ..wants(vec![old.clone()]) };
    assert!(plan_for(&ahead, &observed, 0).is_empty());
}

#[test]
fn what_is_not_trusted_any_more_can_be_stopped() {
    let spec = instance("a/b", 1);
    let observed = distrusting(&[&spec], with(&[(&spec, up(&spec))], &[1]));
    assert!(plan_for(&wants(vec![spec.clone()]), &observed, 0).is_empty());
    let stopped = InstanceSpec { run: RunState::Stopped, ..spec };
    assert_eq!(names(&plan_for(&wants(vec![stopped]), &observed, 0)), ["disable", "stop"]);
}

#[test]
fn a_newer_signature_is_written_down_without_a_restart() {
    let old = instance("a/b", 1);
    let mut new = old.clone();
    let signed = crate::image::SignedManifest::new("x".into(), "y".into()).unwrap();
    new.config.image.signed = Some(Box::new(signed));
    let wanted = wants(vec![new.clone()]);
    assert_eq!(names(&plan_for(&wanted, &with(&[(&old, up(&old))], &[1]), 0)), ["refresh"]);
    assert!(plan_for(&wanted, &with(&[(&new, up(&new))], &[1]), 0).is_empty());
    let down = Machine { unit: Unit::Inactive, ..up(&old) };
    assert_eq!(names(&plan_for(&wanted, &with(&[(&old, down)], &[1]), 0)), ["write", "start"]);
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

#[test]
fn what_comes_after_others_waits_for_them_and_says_so() {
    let db = instance("a/db", 1);
    let mut app = instance("a/app", 1);
    app.config.settings.after.insert(db.id.clone());
    let spec = wants(vec![app.clone(), db.clone()]);
    let machine = app.id.machine();
    let plan = plan_for(&spec, &with(&[], &[1]), 0);
    assert!(!plan.machines.contains_key(&machine) && plan.machines.contains_key(&db.id.machine()));
    assert_eq!(plan.waiting[&machine], "waits for a/db to be ready");
    let starting = Machine { ready: false, ..up(&db) };
    assert!(plan_for(&spec, &with(&[(&db, starting)], &[1]), 0).is_empty());
    let plan = plan_for(&spec, &with(&[(&db, up(&db))], &[1]), 0);
    assert!(plan.machines.contains_key(&machine) && plan.waiting.is_empty());
    // What runs is not replaced before what it needs has been.
    let (new_db, mut new_app) = (instance("a/db", 2), app.clone());
    new_app.config.image = new_db.config.image.clone();
    let spec = wants(vec![new_app, new_db.clone()]);
    let both = [(&app, up(&app)), (&db, up(&db))];
    let plan = plan_for(&spec, &with(&both, &[1, 2]), 0);
    assert!(!plan.machines.contains_key(&machine) && plan.waiting.contains_key(&machine));
    let both = [(&app, up(&app)), (&new_db, up(&new_db))];
    assert!(plan_for(&spec, &with(&both, &[1, 2]), 0).machines.contains_key(&machine));
}

#[test]
fn what_an_operator_has_stopped_or_paused_is_not_waited_for() {
    let mut app = instance("a/app", 1);
    app.config.settings.after.insert("a/db".parse().unwrap());
    let stopped = InstanceSpec { run: RunState::Stopped, ..instance("a/db", 1) };
    let paused = InstanceSpec { paused: true, ..instance("a/db", 1) };
    for db in [stopped, paused] {
        let plan = plan_for(&wants(vec![app.clone(), db]), &with(&[], &[1]), 0);
        assert!(plan.machines.contains_key(&app.id.machine()));
    }
}

#[test]
fn what_is_elsewhere_is_waited_for_only_where_the_controller_tells() {
    let mut app = instance("a/app", 1);
    let db: InstanceId = "a/db".parse().unwrap();
    app.config.settings.after.insert(db.clone());
    let spec = wants(vec![app]);
    let (facts, policy) = (facts(), Policy::default());
    let told = |ready: Option<&BTreeSet<InstanceId>>| {
        let wanted = Wanted { ready_elsewhere: ready, ..wanted(&spec, &facts, &policy) };
        plan(wanted, &with(&[], &[1]), Timestamp(0)).is_empty()
    };
    assert!(told(Some(&BTreeSet::new())));
    assert!(!told(Some(&[db].into())));
    assert!(!told(None), "a host without its controller waits for no one");
}

#[test]
fn only_a_few_start_at_once() {
    let all: Vec<InstanceSpec> = (0..9).map(|n| instance(&format!("a/i{n}"), 1)).collect();
    let plan = plan_for(&wants(all.clone()), &with(&[], &[1]), 0);
    assert_eq!((plan.machines.len(), plan.waiting.len()), (4, 5));
    let attempts = Attempts { failures: 1, last: Some(Timestamp(0)) };
    let starting = |spec| Machine { unit: Unit::Activating, attempts, ..up(spec) };
    let busy: Vec<_> = all.iter().take(4).map(|spec| (spec, starting(spec))).collect();
    assert!(plan_for(&wants(all.clone()), &with(&busy, &[1]), 1000).is_empty());
    let hung = plan_for(&wants(all.clone()), &with(&busy, &[1]), 60_000);
    assert_eq!(hung.machines.len(), 4, "those that hang hold up no one for ever");
}

#[test]
fn a_paused_instance_is_not_touched_by_systemd_either() {
    let old = instance("a/b", 1);
    let paused = InstanceSpec { paused: true, restarts: 3, ..instance("a/b", 2) };
    let dead = Machine { unit: Unit::Failed, enabled: false, ..up(&old) };
    let plan = |spec: &InstanceSpec, found: &Machine| {
        names(&plan_for(&wants(vec![spec.clone()]), &with(&[(&old, found.clone())], &[1, 2]), 0))
    };
    for found in [up(&old), dead.clone()] {
        assert_eq!(plan(&paused, &found), ["hands off"]);
        assert_eq!(plan(&paused, &Machine { hands_off: true, ..found }), [""; 0]);
    }
    assert_eq!(plan(&paused, &Machine::default()), [""; 0], "there is nothing yet to leave alone");
    let held = Machine { hands_off: true, ..up(&old) };
    assert_eq!(plan(&old, &held), ["hands on"]);
    let dead = Machine { hands_off: true, ..dead };
    assert_eq!(plan(&old, &dead), ["hands on", "enable", "start"]);
    let stopped = InstanceSpec { run: RunState::Stopped, ..old.clone() };
    assert_eq!(plan(&stopped, &held), ["hands on", "disable", "stop"]);
}

#[test]
fn what_a_running_container_can_take_is_refreshed_in_place() {
    let old = instance("a/b", 1);
    let mut new = old.clone();
    new.config.settings.limits.tasks = Some(64);
    let wanted = wants(vec![new]);
    assert_eq!(names(&plan_for(&wanted, &with(&[(&old, up(&old))], &[1]), 0)), ["refresh"]);
    let starting = Machine { unit: Unit::Activating, ..up(&old) };
    assert_eq!(names(&plan_for(&wanted, &with(&[(&old, starting)], &[1]), 0)), ["refresh"]);
    let down = Machine { unit: Unit::Failed, ..up(&old) };
    assert_eq!(names(&plan_for(&wanted, &with(&[(&old, down)], &[1]), 0)), ["write", "start"]);
}

#[test]
fn drift_is_repaired_with_its_reason_and_not_in_a_loop() {
    let spec = instance("a/b", 1);
    let path = || "/etc/x".parse().unwrap();
    let cases: [(Vec<Drift>, &[&str]); 4] = [
        (vec![Drift::Unit("50-shoal.conf".into())], &["configure"]),
        (vec![Drift::File(path())], &["refresh"]),
        (vec![Drift::Mount(path()), Drift::File(path())], &["stop"]),
        (vec![Drift::Image], &["stop"]),
    ];
    for (drift, steps) in cases {
        let found = Machine { drift, ..up(&spec) };
        let plan =
            plan_for(&wants(vec![spec.clone()]), &with(&[(&spec, found.clone())], &[1]), 9000);
        assert_eq!(names(&plan), steps);
        assert!(plan.repairs.contains(&spec.id.machine()));
        let reason = &plan.machines.values().next().unwrap()[0].reason;
        assert!(reason.contains("edited") || reason.contains("/etc/x") || reason.contains("image"));
        let repairs = Attempts { failures: 4, last: Some(Timestamp(8000)) };
        let again = Machine { repairs, ..found };
        let plan = plan_for(&wants(vec![spec.clone()]), &with(&[(&spec, again)], &[1]), 9000);
        assert!(plan.is_empty() && plan.again_at == Some(Timestamp(16_000)));
    }
}

#[test]
fn a_host_that_can_t_tell_its_infra_version_is_no_new_one() {
    use crate::infra::{HostInfra, Phase};
    let (old, new) = (instance("a/b", 1), instance("a/new", 1));
    let mut wanted = wants(vec![old.clone(), new]);
    let version = "2".parse().unwrap();
    let infra = serde_json::json!({"version": "2", "revision": 1, "restore": "nightly"});
    wanted.infra = Some(serde_json::from_value::<HostInfra>(infra).unwrap());
    let mut observed = with(&[(&old, up(&old))], &[1]);
    observed.infra_unreadable = Some("infra.json is damaged".into());
    let plan = plan_for(&wanted, &observed, 0);
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(plan.infra, (Phase::Preparing, Some("infra.json is damaged".into())));
    assert_eq!(plan.waiting.len(), 2);
    // What is under the wanted version is looked after as ever.
    let mut current = Machine { unit: Unit::Inactive, ..up(&old) };
    current.applied.as_mut().unwrap().infra = Some(version);
    observed.machines.insert(old.id.machine(), current);
    assert_eq!(names(&plan_for(&wanted, &observed, 0)), ["start"]);
}

#[test]
fn the_hosts_file_follows_the_peers() {
    let spec = instance("a/b", 1);
    let mut wanted = wants(vec![spec.clone()]);
    let (host, address) = ("h2".parse().unwrap(), "10.0.0.2".parse().unwrap());
    wanted.peers.push(crate::peers::Peer { id: "a/db".parse().unwrap(), host, address });
    let plan = plan_for(&wanted, &with(&[(&spec, up(&spec))], &[1]), 0);
    assert_eq!(names(&plan), ["names"]);
}

/// What a host does with a plan: begun starts and stops end later, transfers at once.
pub(crate) fn carry_out(plan: &Plan, observed: &mut Observed) {
    for (machine, steps) in &plan.machines {
        for step in steps {
            apply(machine, &step.action, observed);
        }
    }
    for step in plan.discard.iter().chain(&plan.stage).chain(&plan.host) {
        match &step.action {
            Action::Stage(image) => {
                observed.images.insert(image.digest);
                observed.stock.partial.remove(&image.digest);
                observed.stock.whole.entry(image.digest).or_default();
            }
            Action::Unmount(digest) => drop(observed.mounts.remove(digest)),
            Action::Forget(secret) => drop(observed.secrets.remove(secret)),
            Action::Discard(image) => {
                assert!(!observed.mounts.contains(image), "no mounted image is removed");
                observed.images.remove(image);
                observed.stock.whole.remove(image);
            }
            Action::DiscardPartial(image) => drop(observed.stock.partial.remove(image)),
            Action::Record(version) => observed.infra.version = Some(version.clone()),
            Action::Snapshot(_) | Action::PutBack(_) | Action::Restore(_) => {
                touch_data(&step.action, observed);
            }
            other => panic!("{other:?} belongs to a machine"),
        }
    }
}

fn touch_data(action: &Action, observed: &mut Observed) {
    let down = observed.machines.values().all(|found| found.unit.is_down());
    assert!(down, "data is touched only while all is down");
    match action {
        Action::Snapshot(revision) => assert!(observed.snapshots.insert(*revision)),
        Action::PutBack(revision) => assert!(observed.snapshots.remove(revision)),
        Action::Restore(backup) => observed.infra.restored = Some(backup.clone()),
        other => panic!("{other:?} touches no data"),
    }
}

fn apply(machine: &MachineName, action: &Action, observed: &mut Observed) {
    let found = observed.machines.entry(machine.clone()).or_default();
    match action {
        Action::Write(spec, infra) => {
            assert!(found.unit.is_down(), "the record is written only while the unit is down");
            let names = found.names.take();
            let Machine { enabled, hands_off, .. } = *found;
            *found = Machine { enabled, hands_off, unit: Unit::Inactive, names, ..up(spec) };
            found.ready = false;
            if let Some(applied) = &mut found.applied {
                applied.infra.clone_from(infra);
            }
        }
        Action::Refresh(spec, _) => {
            assert!(!found.unit.is_down(), "only what runs is refreshed");
            let infra = found.applied.take().and_then(|applied| applied.infra);
            found.applied = up(spec).applied.map(|applied| Applied { infra, ..applied });
            found.drift.retain(|drift| !matches!(drift, Drift::File(_)));
        }
        Action::Configure => found.drift.retain(|drift| !matches!(drift, Drift::Unit(_))),
        Action::Names(names) => {
            assert!(found.applied.is_some(), "the record's directory is there");
            found.names = Some(names.clone());
        }
        Action::Enable => found.enabled = true,
        Action::Disable => found.enabled = false,
        Action::Start => {
            let applied = found.applied.as_ref().expect("a start has a record");
            assert!(observed.images.contains(&applied.config.image.digest), "only staged images");
            observed.mounts.insert(applied.config.image.digest);
            found.unit = Unit::Activating;
        }
        Action::Stop => {
            found.unit = Unit::Deactivating;
            found.drift.clear();
        }
        Action::HandsOff => found.hands_off = true,
        Action::HandsOn => found.hands_off = false,
        Action::Remove => {
            assert!(found.unit.is_down(), "only what is down is removed");
            observed.machines.remove(machine);
        }
        other => panic!("{other:?} belongs to the host"),
    }
}

pub(crate) fn settle(observed: &mut Observed) {
    for machine in observed.machines.values_mut() {
        machine.ready |= machine.unit == Unit::Activating;
        machine.unit = match machine.unit {
            Unit::Activating => Unit::Active,
            Unit::Deactivating => Unit::Inactive,
            other => other,
        };
    }
}

/// An instance that may come after those whose names are before its own, so that there is no ring.
fn any_instance() -> impl Strategy<Value = InstanceSpec> {
    let asked = (0..3_u64, 0..3_u64);
    (0..4_u8, 1..4_u8, any::<bool>(), asked, any::<[bool; 4]>(), any::<bool>()).prop_map(
        |(name, image, stopped, (restarts, recreate), after, grace)| {
            let run = if stopped { RunState::Stopped } else { RunState::Running };
            let like = instance(&format!("f/i{name}"), image);
            let mut spec = InstanceSpec { run, restarts, recreate, ..like };
            let before = (0..name).filter(|other| after[usize::from(*other)]);
            let settings = &mut spec.config.settings;
            settings.after = before.map(|n| format!("f/i{n}").parse().unwrap()).collect();
            let memory = grace.then_some(crate::spec::Memory(1 << 20));
            settings.limits = crate::spec::Limits { memory, ..Default::default() };
            spec
        },
    )
}

fn any_spec() -> impl Strategy<Value = HostSpec> {
    prop::collection::vec(any_instance(), 0..4).prop_map(|instances| {
        let by_id: BTreeMap<_, _> = instances.into_iter().map(|i| (i.id.clone(), i)).collect();
        wants(by_id.into_values().collect())
    })
}

pub(super) fn any_unit() -> impl Strategy<Value = Unit> {
    prop::sample::select(vec![
        Unit::Inactive,
        Unit::Activating,
        Unit::Active,
        Unit::Deactivating,
        Unit::Failed,
    ])
}

fn any_drift() -> impl Strategy<Value = Vec<Drift>> {
    let path = || "/etc/x".parse().unwrap();
    let all =
        vec![Drift::Unit("x.conf".into()), Drift::File(path()), Drift::Mount(path()), Drift::Image];
    prop::sample::subsequence(all, 0..3)
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let flags = any::<[bool; 3]>();
    let machine = (any_instance(), any_unit(), flags, any_drift());
    (prop::collection::vec(machine, 0..4), prop::collection::btree_set(1..4_u8, 0..4)).prop_map(
        |(machines, images)| Observed {
            machines: machines
                .into_iter()
                .map(|(spec, unit, [enabled, recorded, hands_off], drift)| {
                    let applied = up(&spec).applied.filter(|_| recorded || !unit.is_down());
                    let drift = if unit == Unit::Active { drift } else { vec![] };
                    let machine = spec.id.machine();
                    let found = Machine { applied, unit, enabled, drift, hands_off, ..up(&spec) };
                    (machine, found)
                })
                .collect(),
            images: images.iter().map(|i| [*i; 32].into()).collect(),
            mounts: images.iter().map(|i| [*i; 32].into()).collect(),
            ..Observed::default()
        },
    )
}

proptest! {
    /// From any state a host converges in a few passes, and then has an empty plan.
    #[test]
    fn it_converges_and_then_rests(spec in any_spec(), mut observed in any_observed()) {
        for _ in 0..24 {
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
                prop_assert!(applied.is(wanted, None));
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

#[test]
fn what_limps_is_not_stopped_while_it_could_not_start() {
    let db = instance("a/db", 1);
    let mut app = instance("a/app", 1);
    app.config.settings.after.insert(db.id.clone());
    let limping = Machine { drift: vec![Drift::Mount("/x".parse().unwrap())], ..up(&app) };
    let spec = wants(vec![app.clone(), db.clone()]);
    let sick = Machine { ready: false, ..up(&db) };
    let plan = plan_for(&spec, &with(&[(&app, limping.clone()), (&db, sick)], &[1]), 0);
    assert!(plan.is_empty() && plan.waiting.contains_key(&app.id.machine()));
    let plan = plan_for(&spec, &with(&[(&app, limping), (&db, up(&db))], &[1]), 0);
    assert_eq!(names(&plan), ["stop"]);
}

#[test]
fn what_ran_before_comes_back_without_waiting_for_others() {
    let mut app = instance("a/app", 1);
    app.config.settings.after.insert("a/db".parse().unwrap());
    let spec = wants(vec![app.clone(), instance("a/db", 1)]);
    let down = Machine { unit: Unit::Inactive, ..up(&app) };
    let plan = plan_for(&spec, &with(&[(&app, down)], &[1]), 0);
    assert!(plan.machines.contains_key(&app.id.machine()));
}

#[test]
fn what_is_held_back_takes_no_place() {
    let all: Vec<InstanceSpec> = (0..6).map(|n| instance(&format!("a/i{n}"), 1)).collect();
    let spec = wants(all.clone());
    let until = Timestamp(9000);
    let held = all.iter().take(4).map(|i| (i.id.machine(), until)).collect();
    let (facts, policy) = (facts(), Policy::default());
    let wanted = Wanted { held: &held, ..wanted(&spec, &facts, &policy) };
    let plan = plan(wanted, &with(&[], &[1]), Timestamp(0));
    assert!(plan.machines.contains_key(&all[5].id.machine()) && plan.waiting.is_empty());
    assert_eq!((plan.machines.len(), plan.held.len(), plan.again_at), (2, 4, Some(until)));
}

fn with_secret(version: u64) -> InstanceSpec {
    let mut spec = instance("shop/web", 1);
    let secret = PinnedSecret { name: "db/creator".parse().unwrap(), version };
    spec.config.settings.secrets = [("password".parse().unwrap(), secret)].into();
    spec
}

#[test]
fn nothing_is_disturbed_for_a_secret_that_is_not_here() {
    let (old, new) = (with_secret(1), with_secret(2));
    let held = |versions: &[u64]| -> BTreeSet<PinnedSecret> {
        versions
            .iter()
            .flat_map(|v| with_secret(*v).config.settings.secrets.into_values())
            .collect()
    };
    let mut observed = Observed {
        machines: [(old.id.machine(), Machine { unit: Unit::Active, enabled: true, ..up(&old) })]
            .into(),
        images: [old.config.image.digest].into(),
        mounts: [old.config.image.digest].into(),
        secrets: held(&[]),
        ..Observed::default()
    };
    let machine = old.id.machine();
    let spec = |spec: &InstanceSpec| HostSpec {
        generation: 1,
        instances: vec![spec.clone()],
        ..HostSpec::default()
    };
    assert!(plan_for(&spec(&old), &observed, 0).machines.is_empty(), "what runs has its own");
    let plan = plan_for(&spec(&new), &observed, 0);
    assert!(plan.machines.is_empty(), "{plan:?}");
    let waits = &plan.waiting[&machine];
    assert_eq!(waits, "waits for the controller to send secret db/creator version 2");
    let missing = held(&[2]).pop_last().unwrap();
    let full =
        Observed { unkept: [(missing, "the disk is full".into())].into(), ..observed.clone() };
    let waits = &plan_for(&spec(&new), &full, 0).waiting[&machine];
    assert_eq!(waits, "can't keep secret db/creator version 2: the disk is full");
    observed.secrets = held(&[1, 2]);
    let plan = plan_for(&spec(&new), &observed, 0);
    assert_eq!(plan.machines[&machine][0].action, Action::Stop);
    assert!(plan.machines[&machine][0].reason.contains("db/creator version 2"), "{plan:?}");
    assert!(plan.host.is_empty(), "the container that runs has version 1");
    carry_out(&plan, &mut observed);
    for _ in 0..8 {
        settle(&mut observed);
        let plan = plan_for(&spec(&new), &observed, 0);
        carry_out(&plan, &mut observed);
    }
    assert_eq!(observed.secrets, held(&[2]), "what nothing names is forgotten");
    let (kept, facts, policy) = (held(&[1]), facts(), Policy::default());
    observed.secrets = held(&[1, 2]);
    let spec = spec(&new);
    let keeping = Wanted { kept: &kept, ..wanted(&spec, &facts, &policy) };
    assert!(
        super::plan(keeping, &observed, Timestamp(0)).is_empty(),
        "nor is what someone may go back to"
    );
    assert!(!plan_for(&spec, &observed, 0).is_empty());
}

/// A stock in which each image has 100 bytes and was needed at the beginning of time.
fn aged(observed: Observed, free: u64) -> Observed {
    let name = Some("app".parse().unwrap());
    let stored = crate::gc::Stored { size: 100, name, needed: Timestamp(0) };
    let whole = observed.images.iter().map(|digest| (*digest, stored.clone())).collect();
    Observed { stock: Stock { whole, free, ..Stock::default() }, ..observed }
}

#[test]
fn images_that_nothing_needs_go_when_their_time_is_up_or_their_room_is_needed() {
    let (spec, next) = (instance("a/b", 1), instance("a/b", 9));
    let running = with(&[(&spec, up(&spec))], &[1, 2, 3]);
    let (day, weeks) = (86_400_000, 86_400_000 * 15);
    let calm = aged(running.clone(), 1000);
    let discarded = |wanted: &HostSpec, observed: &Observed, now| -> Vec<u8> {
        let plan = plan_for(wanted, observed, now);
        let steps = plan.discard.iter().map(|step| match step.action {
            Action::Discard(digest) => digest.as_bytes()[0],
            ref other => panic!("{other:?}"),
        });
        steps.collect()
    };
    let wanted = wants(vec![spec.clone()]);
    assert_eq!(discarded(&wanted, &calm, day), [0; 0]);
    assert_eq!(discarded(&wanted, &calm, weeks), [2], "the last of a name stays");
    let mounted = Observed { mounts: [[2; 32].into()].into(), ..calm.clone() };
    assert_eq!(discarded(&wanted, &mounted, weeks), [0; 0]);
    let keeping = wanted.clone().keeping(&"a".parse().unwrap(), [[2; 32].into()].into());
    assert_eq!(discarded(&keeping, &calm, weeks), [0; 0]);

    // Another image has to come, and lacks what it has of bytes.
    let wanted = wants(vec![next.clone()]);
    let lacks = next.config.image.size;
    let short = aged(running, lacks - 1);
    assert_eq!(discarded(&wanted, &short, day), [2]);
    assert_eq!(discarded(&wanted, &aged(short.clone(), lacks), day), [0; 0]);
    let keeping = wanted.clone().keeping(&"a".parse().unwrap(), [[2; 32].into()].into());
    assert_eq!(discarded(&keeping, &short, day), [3]);
    let reason = plan_for(&wanted, &short, day).discard[0].reason.clone();
    assert_eq!(
        reason,
        "image 020202020202 of app, 1 MiB: its room is needed, and nothing has needed it for 24 hours"
    );
    let unreadable = [("x-y".parse().unwrap(), "damaged".into())].into();
    assert_eq!(discarded(&wanted, &Observed { unreadable, ..short.clone() }, weeks), [0; 0]);

    // What has arrived of it counts, and is no longer kept where it is not wanted any more.
    let arrived = crate::gc::Stored { size: 1, ..crate::gc::Stored::default() };
    let mut begun = short;
    begun.stock.partial.insert(next.config.image.digest, arrived);
    assert_eq!(discarded(&wanted, &begun, day), [0; 0]);
    let plan = plan_for(&wants(vec![spec]), &begun, weeks);
    let partial = Action::DiscardPartial(next.config.image.digest);
    assert!(plan.discard.iter().any(|step| step.action == partial), "{:?}", plan.discard);
}

#[test]
fn what_is_kept_and_not_there_is_not_fetched() {
    let spec = instance("a/b", 1);
    let wanted = wants(vec![spec.clone()]).keeping(&"a".parse().unwrap(), [[7; 32].into()].into());
    let plan = plan_for(&wanted, &with(&[(&spec, up(&spec))], &[1]), 0);
    assert!(plan.is_empty(), "{plan:?}");
}
