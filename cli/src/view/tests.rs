use std::time::Duration;

use shoal_core::rollout::{Policy, Reach};
use shoal_core::time::Timestamp;
use shoal_proto::v1::{self, HoldKind, InstanceHealth, InstanceState, OutcomeKind, RolloutState};

use super::audit::AuditView;
use super::event::{EventView, EventsView};
use super::fleet::{FleetView, FleetsView};
use super::host::HostsView;
use super::image::ImagesView;
use super::infra::InfraView;
use super::instance::{DataView, InstanceView, InstancesView};
use super::plan::PlanView;
use super::policy::PolicyView;
use super::rollout::{News, RolloutView, RolloutsView};
use super::samples::{self, MINUTE, NOW};
use super::secret::{KeptView, SecretsView};

fn now() -> Timestamp {
    Timestamp(NOW)
}

fn json(view: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(view).unwrap()
}

#[test]
fn hosts() {
    let new = v1::Host {
        facts: None,
        status: None,
        last_heard_ms: 0,
        since_ms: 0,
        labels: [].into(),
        ..samples::host("h3", false)
    };
    let hosts = vec![samples::host("h1", true), samples::host("h2", false), new];
    let view = HostsView::read(hosts).unwrap();
    insta::assert_snapshot!("hosts-table", view.table(now(), false));
    insta::assert_snapshot!("host-details", view.hosts[0].details(now()));
    insta::assert_snapshot!("host-offline-details", view.hosts[1].details(now()));
    insta::assert_snapshot!("host-never-seen-details", view.hosts[2].details(now()));
    insta::assert_snapshot!("host-json", json(&view.hosts[0]));
}

#[test]
fn images() {
    let pin = v1::ImagePin { by: "spiffe://example.org/user/ann".into(), at_ms: NOW - 3_600_000 };
    let pinned = v1::Image { pin: Some(pin), ..samples::image(1, &["shop:1", "shop:latest"]) };
    let unneeded_ms = Some(NOW - 7_200_000);
    let images = vec![pinned, v1::Image { unneeded_ms, ..samples::image(2, &[]) }];
    let view = ImagesView::read(images.clone()).unwrap();
    insta::assert_snapshot!("images-table", view.table(now(), false));
    insta::assert_snapshot!("images-json", json(&view));
    let one = super::image::ImageView::try_from(images[0].clone()).unwrap();
    insta::assert_snapshot!("image-details", one.details(now()));
}

#[test]
fn secrets() {
    let used = |instance: &str, host: &str, version| v1::SecretUse {
        instance: instance.into(),
        host: host.into(),
        version,
    };
    let many = ["a", "b", "c", "d", "e"].map(|name| used(&format!("shop/{name}"), "h1", 1));
    let secret = |name: &str, version, used_by| v1::Secret {
        name: name.into(),
        version,
        created_ms: NOW - 3 * MINUTE,
        created_by: "spiffe://example.org/user/ada".into(),
        generated: version == 1,
        used_by,
    };
    let both =
        vec![used("shop/db", "h1", 3), used("shop/main", "h1", 3), used("shop/main", "h2", 2)];
    let secrets = vec![
        secret("db/creator", 3, both),
        secret("idle", 1, vec![]),
        secret("tls", 1, many.to_vec()),
    ];
    let view = SecretsView::read(secrets.clone()).unwrap();
    insta::assert_snapshot!("secrets-table", view.table(now(), false));
    insta::assert_snapshot!(
        "secrets-json",
        json(&SecretsView::read(secrets[..2].to_vec()).unwrap())
    );
    assert!(SecretsView::read(vec![secret("no name", 1, vec![])]).is_err());
}

#[test]
fn what_became_of_a_secret() {
    let name = "db/creator".parse().unwrap();
    let kept = |changed, fleets: &[&str]| {
        let used_by = fleets.iter().map(ToString::to_string).collect();
        KeptView::read(&name, v1::SetSecretResponse { version: 2, changed, used_by }).unwrap()
    };
    let all = [
        kept(true, &[]),
        kept(true, &["shop"]),
        kept(true, &["shop", "wiki"]),
        kept(false, &["shop"]),
    ];
    let said = all.iter().map(|kept| format!("{}\n  {:?}", kept.text(), kept.next()));
    insta::assert_snapshot!("secret-kept", said.collect::<Vec<_>>().join("\n"));
    insta::assert_snapshot!("secret-kept-json", json(&all[1]));
}

#[test]
fn instances() {
    let view = InstancesView::read(samples::instances()).unwrap();
    insta::assert_snapshot!("instances-table", view.table(now(), false));
    insta::assert_snapshot!("instances-complaints", view.complaints().join("\n"));
    insta::assert_snapshot!("instances-json", json(&view.instances[1]));
}

#[test]
fn an_instance_that_went_back_says_why() {
    let observed = samples::observed(2, InstanceState::Running, InstanceHealth::Healthy);
    let back = v1::InstanceStatus { went_back: Some("it crashed twice".into()), ..observed };
    let view = InstanceView::try_from(samples::instance("h1", Some(back))).unwrap();
    let why = "the agent went back to what was healthy: it crashed twice";
    assert_eq!((view.ready, view.not_ready_because.as_deref()), (false, Some(why)));
    assert_eq!(view.line(), format!("running, healthy, 0 restarts: {why}"));
}

#[test]
fn an_instance_is_ready_only_by_proof() {
    use InstanceHealth as Health;
    use InstanceState as State;
    let table = [
        (State::Running, Health::Healthy, true),
        (State::Running, Health::None, true),
        (State::Running, Health::Starting, false),
        (State::Running, Health::Unhealthy, false),
        (State::Starting, Health::None, false),
        (State::Staging, Health::None, false),
        (State::Blocked, Health::None, false),
        (State::Stopped, Health::None, false),
        (State::Degraded, Health::Healthy, false),
        (State::Failed, Health::None, false),
    ];
    for (state, health, ready) in table {
        let wire = samples::instance("h1", Some(samples::observed(3, state, health)));
        let view = InstanceView::try_from(wire).unwrap();
        assert_eq!(view.ready, ready, "{state:?} {health:?} {:?}", view.not_ready_because);
    }
}

#[test]
fn what_there_is_to_say_of_an_instance() {
    use InstanceHealth as Health;
    use InstanceState as State;
    let running = samples::observed(3, State::Running, Health::Healthy);
    let exit = v1::LastExit { at_ms: NOW - 2 * MINUTE, reason: "exit code 1".into() };
    let ended = v1::InstanceStatus { last_exit: Some(exit), restarts: 2, ..running.clone() };
    let drifted = v1::InstanceStatus {
        drift: vec!["/etc/app.conf was changed".into(), "the unit was edited".into()],
        ..ended.clone()
    };
    let degraded = v1::InstanceStatus {
        state: State::Degraded.into(),
        message: Some("repaired 8 times, and fell again: exit code 1".into()),
        ..ended.clone()
    };
    let unhealthy = v1::InstanceStatus {
        health: Health::Unhealthy.into(),
        message: Some("GET http://127.0.0.1/: connection refused".into()),
        ..running.clone()
    };
    let mut paused = samples::instance("h6", Some(v1::InstanceStatus { paused: true, ..running }));
    paused.wanted.as_mut().unwrap().paused = true;
    let all = vec![
        samples::instance("h2", Some(ended)),
        samples::instance("h3", Some(drifted)),
        samples::instance("h4", Some(degraded)),
        samples::instance("h5", Some(unhealthy)),
        paused,
    ];
    let view = InstancesView::read(all).unwrap();
    insta::assert_snapshot!("instances-notes", view.table(now(), false));
    let lines: Vec<String> = view.instances.iter().map(InstanceView::line).collect();
    insta::assert_snapshot!("instances-lines", lines.join("\n"));
    insta::assert_snapshot!("instance-drifted-json", json(&view.instances[1]));
    assert!(!view.table(now(), false).contains('\u{1b}'));
    let quiet = InstancesView::read(samples::instances().into_iter().take(1).collect()).unwrap();
    assert!(!quiet.table(now(), false).contains("MESSAGE"), "nothing to say");
}

#[test]
fn events() {
    use v1::EventKind as Kind;
    let event = |at, instance: Option<&str>, kind: Kind, message: &str| v1::Event {
        at_ms: NOW + at,
        instance: instance.map(str::to_owned),
        kind: kind.into(),
        message: message.into(),
        host: "h1".into(),
    };
    let wire = vec![
        event(0, Some("shop/main"), Kind::Drift, "it is not running; starting it again"),
        event(1000, Some("shop/main"), Kind::Repaired, "it runs again"),
        event(2000, None, Kind::Failed, "disk \u{1b}[2J full"),
    ];
    let events = wire.into_iter().map(|e| EventView::try_from(e).unwrap()).collect();
    let view = EventsView { events };
    insta::assert_snapshot!("events-table", view.table(false));
    insta::assert_snapshot!("events-json", json(&view));
    let lines: Vec<String> = view.events.iter().map(|event| event.line(false)).collect();
    insta::assert_snapshot!("events-lines", lines.join("\n"));
    assert!(view.events[2].line(true).contains("\u{1b}[31mfailed"));
    assert!(!view.events[2].line(true).contains("[2J full\u{1b}"));
    let bad = event(0, None, Kind::Unspecified, "");
    assert!(EventView::try_from(bad).is_err());
}

#[test]
fn data() {
    let retained =
        v1::RetainedData { machine: "shop-old".into(), volumes: vec!["var".into(), "log".into()] };
    let wire = vec![v1::HostRetained { host: "h1".into(), data: Some(retained) }];
    let fleets = ["mail".to_owned(), "shop".to_owned()];
    let view = DataView::read(wire.clone(), &fleets).unwrap();
    insta::assert_snapshot!("data-table", view.table(false));
    insta::assert_snapshot!("data-json", json(&view));
    // The machine shop-old-x could be of either.
    let either = ["shop".to_owned(), "shop-old".to_owned()];
    let mut ambiguous = wire;
    ambiguous[0].data.as_mut().unwrap().machine = "shop-old-x".into();
    let view = DataView::read(ambiguous, &either).unwrap();
    assert!(view.table(false).contains("machine shop-old-x"), "{}", view.table(false));
    let nothing = v1::HostRetained { host: "h1".into(), data: None };
    assert!(DataView::read(vec![nothing], &fleets).is_err());
}

fn fleet(instances: Vec<v1::Instance>) -> FleetView {
    let hosts = [("h1", OutcomeKind::Ready, ""), ("h2", OutcomeKind::Offline, "")];
    let fleet = v1::Fleet {
        name: "shop".into(),
        revision: 3,
        applied_ms: NOW - 2 * MINUTE,
        applied_by: "spiffe://example.org/user/ada".into(),
        source: "fleet.toml".into(),
        rollout: Some(samples::rollout(RolloutState::Changing, &hosts)),
        lock: None,
    };
    v1::GetFleetStatusResponse { fleet: Some(fleet), instances }.try_into().unwrap()
}

#[test]
fn fleets() {
    let bad = fleet(samples::instances());
    assert!(!bad.ready);
    insta::assert_snapshot!("fleet-text", bad.text(now(), false));
    let good = fleet(samples::instances().into_iter().take(1).collect());
    assert!(good.ready);
    insta::assert_snapshot!("fleet-json", json(&good));
    let locked = |hold, cause: &str| {
        let lock = v1::Lock {
            holder: "spiffe://example.org/user/bob".into(),
            reason: "migration".into(),
            since_ms: NOW - MINUTE,
            until_ms: NOW + 59 * MINUTE,
        };
        let cause = cause.to_owned();
        let rollout = v1::Rollout { hold, cause, ..samples::second_batch(RolloutState::Changing) };
        let fleet = v1::Fleet {
            name: "shop".into(),
            revision: 3,
            rollout: Some(rollout),
            lock: Some(lock),
            ..Default::default()
        };
        let wire = v1::GetFleetStatusResponse { fleet: Some(fleet), instances: vec![] };
        FleetView::try_from(wire).unwrap()
    };
    let paused = locked(samples::hold(HoldKind::Failure, "shop/main: exit code 1"), "it broke");
    insta::assert_snapshot!("fleet-paused-text", paused.text(now(), false));
    insta::assert_snapshot!(
        "fleet-locked-notes",
        paused.locked_notes(now(), "shoal apply").join("\n")
    );
    assert!(
        fleet(vec![]).locked_notes(now(), "shoal apply")[0]
            .contains("is being rolled out by user/ada")
    );
    let both = FleetsView { fleets: vec![locked(None, ""), paused] };
    insta::assert_snapshot!("fleets-locked-table", both.table(now(), false));
    let both = FleetsView { fleets: vec![good, bad] };
    assert!(!both.is_ready());
    insta::assert_snapshot!("fleets-table", both.table(now(), false));
}

const SHOP: &str = "fleet = \"shop\"\n[instance]\n";
const INFRA: &str = "infra = \"50.2.0\"\n[instance]\n";

fn spec(text: &str) -> shoal_core::fleet::FleetSpec {
    use shoal_core::fleetfile::{Source, parse};
    parse(Source { name: "f.toml", text }, &mut |_| Err(String::new())).unwrap()
}

#[test]
fn plans_of_an_infra() {
    let planned = |host: &str, has: Option<&str>, mode: v1::InfraMode| v1::PlannedInfra {
        host: host.into(),
        has: has.map(Into::into),
        wants: "50.2.0".into(),
        mode: mode.into(),
        recreated: vec![],
        data: vec![],
        snapshot: false,
        notes: vec![],
    };
    let data = v1::RetainedData {
        machine: "infra-mysql".into(),
        volumes: vec!["data".into(), "log".into()],
    };
    let update = v1::PlannedInfra {
        recreated: vec!["infra/mysql".into(), "infra/mail".into(), "shop/main".into()],
        data: vec![
            data,
            v1::RetainedData { machine: "shop-main".into(), volumes: vec!["var".into()] },
        ],
        snapshot: true,
        ..planned("p1", Some("50.1.0"), v1::InfraMode::Update)
    };
    let new = v1::PlannedInfra {
        recreated: vec!["infra/mysql".into()],
        notes: vec!["the host is offline".into()],
        ..planned("p3", None, v1::InfraMode::New)
    };
    let infra = vec![
        update,
        planned("p2", Some("50.2.0"), v1::InfraMode::Same),
        new,
        planned("p4", None, v1::InfraMode::Restore),
    ];
    let wire = v1::PlanResponse { infra, ..samples::plan() };
    let view = PlanView::read(&spec(INFRA), wire).unwrap();
    insta::assert_snapshot!("plan-infra-text", view.text());
    insta::assert_snapshot!("plan-infra-json", json(&view));
}

#[test]
fn infra_of_hosts() {
    let infra = |has: Option<&str>, wants: Option<&str>, phase: v1::InfraPhase, waits: &str| {
        v1::InfraStatus {
            has: has.map(Into::into),
            since_ms: has.map(|_| NOW - 90 * MINUTE),
            wants: wants.map(Into::into),
            phase: phase.into(),
            waits: (!waits.is_empty()).then(|| waits.to_owned()),
            snapshots: if has.is_some() { vec![3, 4] } else { vec![] },
        }
    };
    let host = |name: &str, online, infra| {
        let mut host = samples::host(name, online);
        host.status.as_mut().unwrap().infra = infra;
        host
    };
    use v1::InfraPhase as Phase;
    let (old, new) = (Some("50.1.0"), Some("50.2.0"));
    let behind =
        v1::Host { generation: 8, ..host("p3", true, Some(infra(new, new, Phase::Done, ""))) };
    let hosts = vec![
        host("p1", true, Some(infra(new, new, Phase::Done, ""))),
        host("p2", true, Some(infra(old, new, Phase::Stopping, "waits for shop-main to stop"))),
        behind,
        host("p4", true, Some(infra(None, new, Phase::Data, ""))),
        host(
            "p5",
            true,
            Some(infra(None, new, Phase::Starting, "waits for infra/mysql to be ready")),
        ),
        host("p6", false, Some(infra(old, old, Phase::Done, ""))),
        host("p7", true, Some(infra(old, None, Phase::Done, ""))),
        host("h1", true, None),
        host("h9", true, None),
    ];
    let view = |hosts: &[v1::Host]| HostsView::read(hosts.to_vec()).unwrap();
    let fleet = fleet(samples::instances().into_iter().take(1).collect());
    let all = InfraView::new(Some(&fleet), view(&hosts));
    assert!(!all.ready);
    insta::assert_snapshot!("infra-table", all.text(now(), false));
    let good = InfraView::new(None, view(&[hosts[0].clone(), hosts[6].clone(), hosts[8].clone()]));
    assert!(good.ready);
    insta::assert_snapshot!("infra-json", json(&good));
    let shown: Vec<String> = view(&hosts).hosts.iter().map(|host| host.details(now())).collect();
    let about = |line: &&str| line.starts_with("Infra") || line.contains("before revision");
    let lines: Vec<&str> = shown.iter().flat_map(|text| text.lines()).filter(about).collect();
    insta::assert_snapshot!("infra-of-a-host", lines.join("\n"));
    let none = InfraView::new(None, view(&[hosts[8].clone()]));
    assert!(none.ready);
    assert!(none.text(now(), false).contains("shoal infra apply infra.toml"));
    assert!(!InfraView::new(None, view(&hosts[5..6])).ready, "an offline host proves nothing");
}

#[test]
fn plans() {
    let view = PlanView::read(&spec(SHOP), samples::plan()).unwrap();
    insta::assert_snapshot!("plan-text", view.text());
    insta::assert_snapshot!("plan-json", json(&view));
    let nothing = v1::PlanResponse {
        changes: samples::plan().changes.split_off(4),
        changes_anything: false,
        base_revision: 2,
        retries: false,
        notes: vec![],
        infra: vec![],
    };
    let text = |wire: &v1::PlanResponse| PlanView::read(&spec(SHOP), wire.clone()).unwrap().text();
    insta::assert_snapshot!("plan-nothing", text(&nothing));
    let retried = v1::PlanResponse { retries: true, ..nothing.clone() };
    insta::assert_snapshot!("plan-retried", text(&retried));
    let recorded = v1::PlanResponse { changes_anything: true, ..nothing.clone() };
    insta::assert_snapshot!("plan-recorded", text(&recorded));
    let usual = Policy::default();
    let spread = Some("site".to_owned());
    let monitor = Duration::from_secs(90);
    let other = Policy { spread, monitor, batches: vec![Reach::ALL], ..usual.clone() };
    let before = PolicyView::from(usual.clone());
    let plan = || PlanView::read(&spec(SHOP), nothing.clone()).unwrap();
    insta::assert_snapshot!("plan-policy", plan().with_policy(&other, Some(&before)).text());
    assert_eq!(plan().with_policy(&usual, Some(&before)), plan());
    assert_eq!(plan().with_policy(&other, None), plan(), "the fleet is new");
    let new = v1::PlanResponse { base_revision: 0, ..samples::plan() };
    assert!(PlanView::read(&spec(SHOP), new).unwrap().text().starts_with("fleet shop (new)\n"));
    let afresh = |data: &[&str]| v1::InstanceChange {
        kind: v1::ChangeKind::Recreate.into(),
        data: data.iter().map(|name| (*name).to_owned()).collect(),
        ..samples::plan().changes.remove(0)
    };
    let bare = v1::InstanceChange { host: "h2".into(), fields: vec![], ..afresh(&[]) };
    let kept = samples::plan().changes.remove(4);
    let changes = vec![afresh(&["logs", "spool"]), bare, kept];
    let wire = v1::PlanResponse { changes, ..samples::plan() };
    insta::assert_snapshot!("plan-afresh-text", text(&wire));
    insta::assert_snapshot!("plan-afresh-json", json(&PlanView::read(&spec(SHOP), wire).unwrap()));
    let note = "h2 is cordoned (ann: bad disk): instance web is not placed there".to_owned();
    let noted = text(&v1::PlanResponse { notes: vec![note.clone()], ..samples::plan() });
    assert!(noted.contains(&format!("\nnote: {note}\n1 to create")), "{noted}");
}

#[test]
fn rollouts() {
    let hosts = [
        ("h2", OutcomeKind::Changing, "shop/main: waits for its checks"),
        ("h1", OutcomeKind::Ready, ""),
        ("h3", OutcomeKind::Offline, ""),
        ("h4", OutcomeKind::Failed, "shop/main: exit code 1"),
    ];
    let wire = samples::rollout(RolloutState::Changing, &hosts);
    let ended =
        v1::Rollout { ended_ms: Some(NOW), state: RolloutState::Failed.into(), ..wire.clone() };
    let list = RolloutsView::read(vec![wire.clone(), ended]).unwrap();
    insta::assert_snapshot!("rollouts-table", list.table(now(), false));
    let view = RolloutView::try_from(wire).unwrap();
    insta::assert_snapshot!("rollout-json", json(&view));
    assert_eq!(texts(view.news(Some(&view))), [""; 0]);
    let before = RolloutView::try_from(samples::rollout(
        RolloutState::Changing,
        &[("h1", OutcomeKind::Changing, "x"), hosts[2], hosts[3], hosts[0]],
    ))
    .unwrap();
    assert_eq!(texts(view.news(Some(&before))), ["h1: ready"]);
}

fn texts(news: Vec<News>) -> Vec<String> {
    news.into_iter().map(|news| news.text).collect()
}

#[test]
fn audits() {
    let entry = v1::AuditEntry {
        time_ms: NOW - 5 * MINUTE,
        who: "spiffe://example.org/user/ada".into(),
        what: "Fleets/Apply".into(),
        target: "shop".into(),
        detail: "revision 3".into(),
    };
    let view = AuditView::from(v1::ListAuditResponse { entries: vec![entry] });
    insta::assert_snapshot!("audit-table", view.table(now(), false));
    insta::assert_snapshot!("audit-json", json(&view));
}

#[test]
fn empty_lists_say_so() {
    let texts = [
        HostsView::read(vec![]).unwrap().table(now(), false),
        ImagesView::read(vec![]).unwrap().table(now(), false),
        SecretsView::read(vec![]).unwrap().table(now(), false),
        InstancesView::read(vec![]).unwrap().table(now(), false),
        DataView::read(vec![], &[]).unwrap().table(false),
        EventsView { events: vec![] }.table(false),
        FleetsView { fleets: vec![] }.table(now(), false),
        RolloutsView::read(vec![]).unwrap().table(now(), false),
        AuditView::from(v1::ListAuditResponse { entries: vec![] }).table(now(), false),
    ];
    insta::assert_snapshot!("empty-lists", texts.join("\n"));
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let image = v1::Image { digest: vec![1; 31].into(), ..samples::image(1, &[]) };
    assert!(ImagesView::read(vec![image]).is_err());
    let neither = v1::Instance { wanted: None, ..samples::instance("h1", None) };
    assert!(InstancesView::read(vec![neither]).is_err());
    let rollout = v1::Rollout { state: 99, ..samples::rollout(RolloutState::Planned, &[]) };
    assert!(RolloutsView::read(vec![rollout]).is_err());
    let change = v1::InstanceChange { kind: 0, ..samples::plan().changes.remove(0) };
    let plan = v1::PlanResponse { changes: vec![change], ..samples::plan() };
    assert!(PlanView::read(&spec(SHOP), plan).is_err());
    assert!(FleetView::try_from(v1::GetFleetStatusResponse::default()).is_err());
}
