use proptest::prelude::*;

use super::*;
use crate::infra::GoingBack;
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
    let version = desired.infra.as_ref().map(|infra| &infra.version);
    for spec in &desired.instances {
        let version = version.filter(|_| is_infra(&spec.id.fleet));
        let before = wishes.get(&spec.id.fleet).map_or([0; 32], |digest| *digest.as_bytes());
        let mut bytes = before.map(|byte| byte.rotate_left(3));
        let config =
            serde_json::to_vec(&(&spec.id, &spec.config, spec.restarts, spec.revision, version));
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
    let changes = memory.look(&desired, |_| seen(Look::Ready), None, Timestamp(0));
    assert_eq!(changes, [Change::Proved(fleet())]);
    assert_eq!(memory.look(&desired, |_| seen(Look::Ready), None, Timestamp(1)), [], "once");
    memory
}

/// Looks once a second for `seconds`, at instances that all look the same.
fn watch(memory: &mut Memory, desired: &HostSpec, look: Look, seconds: u64) -> Vec<Change> {
    memory.want(wishes(desired));
    let looks = (0..=seconds).map(|second| Timestamp(1_000_000 + second * 1000));
    looks.flat_map(|now| memory.look(desired, |_| seen(look), None, now)).collect()
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
    let afresh = InstanceSpec { revision: 2, recreate: 2, ..wanted("a", 1) };
    for spec in [ungated, paused, stopped, same, afresh] {
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
        (0..40)
            .flat_map(|second| memory.look(&desired, look, None, Timestamp(second * 1000)))
            .count()
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
        looks.flat_map(|s| memory.look(&desired, |i| at(s, i), None, Timestamp(s * 1000))).count()
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
        looks.flat_map(|s| memory.look(&desired, |i| at(s, i), None, Timestamp(s * 1000))).count()
    };
    assert_eq!(run(Look::Unready), 1);
    assert_eq!(run(Look::Ready), 0);
}

#[test]
fn time_that_nobody_saw_pass_does_not_count() {
    let desired = host(vec![wanted("a", 2)]);
    let mut memory = proved(&["a"]);
    memory.want(wishes(&desired));
    let mut look =
        |at: u64| memory.look(&desired, |_| seen(Look::Unready), None, Timestamp(at)).len();
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

#[test]
fn what_is_stopped_before_it_was_healthy_proves_nothing() {
    let mut memory = proved(&["a", "b"]);
    let stopped = InstanceSpec { run: RunState::Stopped, ..wanted("a", 3) };
    let desired = host(vec![stopped, wanted("b", 1)]);
    watch(&mut memory, &desired, Look::Ready, 60);
    assert_eq!(
        memory.past(&fleet()).unwrap().good,
        host(vec![wanted("a", 1), wanted("b", 1)]).instances
    );
    // Once it is started again, it is tried; and it fails.
    let desired = host(vec![wanted("a", 3), wanted("b", 1)]);
    watch(&mut memory, &desired, Look::Failed, 21);
    assert!(memory.went_back(&fleet()).is_some());
    assert_eq!(effective(&memory, &desired)[0], ("a".to_owned(), 1));
}

fn infra_fleet() -> FleetName {
    crate::infra::FLEET.parse().unwrap()
}

/// A host with an app and an infra, of which the image is told.
fn with_infra(app: u8, infra: u8) -> HostSpec {
    let db = InstanceSpec { id: "infra/db".parse().unwrap(), ..wanted("db", infra) };
    let host = host(vec![wanted("a", app), db]);
    HostSpec { infra: Some(version(infra, GoingBack::ImageAndData)), ..host }
}

fn version(number: u8, going_back: GoingBack) -> HostInfra {
    HostInfra {
        version: number.to_string().parse().unwrap(),
        revision: u64::from(number),
        snapshot: true,
        going_back,
        undo: None,
        restore: None,
        agent: None,
    }
}

/// Looks once a second at an app and an infra on the way to another version.
fn on_the_way(
    memory: &mut Memory,
    desired: &HostSpec,
    phase: Phase,
    (app, db): (Look, Look),
    seconds: u64,
) -> Vec<Change> {
    memory.want(wishes(desired));
    let see = |spec: &InstanceSpec| seen(if is_infra(&spec.id.fleet) { db } else { app });
    let way = (phase != Phase::Done).then_some(Way { phase, target: desired, see: &see });
    let looks = (0..=seconds).map(|second| Timestamp(1_000_000 + second * 1000));
    looks.flat_map(|now| memory.look(desired, see, way, now)).collect()
}

/// Memory in which app and infra of revision 1 have proved good.
fn proved_infra() -> Memory {
    let mut memory = Memory::default();
    let ready = (Look::Ready, Look::Ready);
    let desired = with_infra(1, 1);
    let on_its_way = on_the_way(&mut memory, &desired, Phase::Starting, ready, 9);
    assert_eq!(on_its_way, [Change::Proved(fleet())], "the version is not recorded yet");
    let done = on_the_way(&mut memory, &desired, Phase::Done, ready, 9);
    assert_eq!(done, [Change::Proved(infra_fleet())]);
    memory
}

#[test]
fn an_app_that_does_not_get_ready_under_a_new_infra_has_the_infra_go_back() {
    use Look::{Coming, Failed, Ready, Stuck, Unready};
    use Phase::{Done, Preparing, Starting, Stopping};
    let cases = [
        (Starting, (Unready, Ready), 30, Some("f/a was not ready within 30s")),
        (Starting, (Failed, Ready), 20, Some("f/a failed: it broke")),
        (Starting, (Stuck, Ready), 20, Some("f/a failed: it broke")),
        (Starting, (Coming, Unready), 30, Some("infra/db was not ready within 30s")),
        (Starting, (Ready, Ready), 900, None),
        // What failed before its turn came is no work of the new version.
        (Preparing, (Stuck, Coming), 900, None),
        (Stopping, (Stuck, Coming), 900, None),
        // Nor is what fails when all was ready once.
        (Done, (Failed, Ready), 900, None),
    ];
    for (phase, looks, seconds, wanted) in cases {
        let mut memory = proved_infra();
        let desired = with_infra(1, 2);
        let changes = on_the_way(&mut memory, &desired, phase, looks, seconds);
        let back: Vec<&Change> =
            changes.iter().filter(|change| matches!(change, Change::WentBack(..))).collect();
        let target = memory.effective(&desired, |_| true).into_owned();
        let Some(wanted) = wanted else {
            assert!(back.is_empty(), "{phase} {looks:?} {back:?}");
            assert_eq!(target, desired);
            continue;
        };
        let [Change::WentBack(fleet, back)] = back[..] else { panic!("{changes:?}") };
        assert_eq!((fleet, back.from, back.to), (&infra_fleet(), 2, 1));
        assert!(back.why.starts_with(wanted), "{phase} {looks:?} {}", back.why);
        assert_eq!(images(&target), [("a".to_owned(), 1), ("db".to_owned(), 1)]);
        let infra = target.infra.unwrap();
        assert_eq!((infra.version.as_str(), infra.undo), ("1", Some(2)));
        assert_eq!(memory.went_back(&self::fleet()), None, "the app's own fleet stays");
    }
}

#[test]
fn data_goes_back_only_where_that_was_said_of_what_was_tried() {
    let mut memory = proved_infra();
    let mut desired = with_infra(1, 2);
    desired.infra = Some(version(2, GoingBack::Image));
    on_the_way(&mut memory, &desired, Phase::Starting, (Look::Unready, Look::Ready), 30);
    let target = memory.effective(&desired, |_| true).into_owned();
    assert_eq!(target.infra.unwrap().undo, None);
}

#[test]
fn an_infra_that_never_proved_good_leaves_apps_to_their_own_fleets() {
    let mut memory = proved(&["a"]);
    let looks = (Look::Failed, Look::Ready);
    let changes = on_the_way(&mut memory, &with_infra(2, 1), Phase::Starting, looks, 20);
    let [Change::WentBack(of, _)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(of, &fleet());
}

#[test]
fn what_is_remembered_of_the_infra_outlives_the_agent() {
    let memory = proved_infra();
    let past = memory.past(&infra_fleet()).unwrap();
    let stored = serde_json::to_value(past).unwrap();
    assert_eq!(stored["infra"]["version"], "1");
    assert_eq!(serde_json::from_value::<Past>(stored).unwrap(), *past);
    let plain = serde_json::to_value(memory.past(&fleet()).unwrap()).unwrap();
    assert_eq!(plain.get("infra"), None, "files of other fleets are as they were");
}

mod properties;
