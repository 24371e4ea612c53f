//! The loop over a fake host with a memory, which can be told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use async_trait::async_trait;
use shoal_core::drift::Drift;
use shoal_core::image::Digest;
use shoal_core::plan::{Applied, Machine, Observed};
use shoal_core::secret::PinnedSecret;
use shoal_core::spec::InstanceSpec;
use shoal_core::status::InstanceStatus;
use shoal_core::transfer::RecipeId;
use shoal_proto::v1;

use super::*;
use crate::host::{Details, HostError};
use crate::paths::Paths;
use crate::stage::{Bytestream, Origin, PlanProgress, Sender, Setup, Shelf, Wish};

#[derive(Debug, Default)]
struct State_ {
    machines: BTreeMap<MachineName, Machine>,
    leaders: BTreeMap<MachineName, u32>,
    images: BTreeSet<Digest>,
    secrets: BTreeSet<PinnedSecret>,
    /// Machines whose start fails.
    broken: BTreeSet<MachineName>,
    /// Machines whose checks fail.
    sick: BTreeSet<MachineName>,
    /// Images with which every check fails.
    bad: BTreeSet<Digest>,
    next_leader: u32,
    starts: u32,
    infra: shoal_core::infra::Recorded,
    snapshots: BTreeSet<u64>,
    /// What was put back.
    put_back: Vec<u64>,
    /// What can't be recorded can't.
    full: bool,
    news: Vec<String>,
}

#[derive(Debug, Default)]
struct FakeHost(Mutex<State_>);

impl FakeHost {
    fn change<T>(&self, change: impl FnOnce(&mut State_) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn observe(&self, _: &HostSpec) -> Result<Observation, HostError> {
        let mut state = self.0.lock().unwrap();
        let news = std::mem::take(&mut state.news);
        let observed = Observed {
            infra: state.infra.clone(),
            snapshots: state.snapshots.clone(),
            machines: state.machines.clone(),
            images: state.images.clone(),
            secrets: state.secrets.clone(),
            ..Observed::default()
        };
        let details = state.leaders.iter().map(|(machine, leader)| {
            (machine.clone(), Details { leader: Some(*leader), ..Details::default() })
        });
        Ok(Observation { observed, details: details.collect(), news, ..Observation::default() })
    }

    async fn carry_out(&self, machine: &MachineName, action: &Action) -> Result<(), HostError> {
        self.change(|state| {
            let broken = state.broken.contains(machine);
            let found = state.machines.entry(machine.clone()).or_default();
            match action {
                Action::Write(spec, infra) => {
                    let InstanceSpec { id, config, restarts, recreate, .. } = *spec.clone();
                    let infra = infra.clone();
                    found.applied = Some(Applied { id, config, restarts, recreate, infra });
                    found.unit = Unit::Inactive;
                }
                Action::Enable => found.enabled = true,
                Action::Disable => found.enabled = false,
                Action::Start => {
                    state.starts += 1;
                    found.unit = if broken { Unit::Failed } else { Unit::Active };
                    state.next_leader += 1;
                    state.leaders.insert(machine.clone(), state.next_leader);
                }
                Action::Stop => found.unit = Unit::Inactive,
                Action::Refresh(spec, _) => {
                    let InstanceSpec { id, config, restarts, recreate, .. } = *spec.clone();
                    let infra = found.applied.take().and_then(|applied| applied.infra);
                    found.applied = Some(Applied { id, config, restarts, recreate, infra });
                    found.drift.clear();
                }
                Action::Configure => found.drift.clear(),
                Action::Names(names) => found.names = Some(names.clone()),
                Action::HandsOff => found.hands_off = true,
                Action::HandsOn => found.hands_off = false,
                Action::Remove => drop(state.machines.remove(machine)),
                _ => {}
            }
        });
        Ok(())
    }

    async fn carry_out_for_host(&self, _: &HostSpec, action: &Action) -> Result<(), HostError> {
        self.change(|state| match action {
            Action::Record(_) if state.full => Err(HostError::NoUserNumbers),
            Action::Record(version) => {
                state.news.push(format!("recorded {version}"));
                state.infra.version = Some(version.clone());
                Ok(())
            }
            Action::Snapshot(revision) => {
                assert!(state.machines.values().all(|m| m.unit != Unit::Active));
                state.snapshots.insert(*revision);
                Ok(())
            }
            Action::PutBack(revision) => {
                assert!(state.machines.values().all(|m| m.unit != Unit::Active));
                state.snapshots.remove(revision);
                state.put_back.push(*revision);
                Ok(())
            }
            Action::Discard(digest) => {
                state.images.remove(digest);
                Ok(())
            }
            other => panic!("{other:?}"),
        })
    }

    async fn unmount(&self, _: &Digest) -> Result<(), HostError> {
        Ok(())
    }

    async fn forget(&self, secret: &PinnedSecret) -> Result<bool, HostError> {
        Ok(self.change(|state| state.secrets.remove(secret)))
    }

    async fn check(&self, probe: &Probe) -> Result<(), String> {
        self.change(|state| {
            let machine =
                state.leaders.iter().find(|(_, leader)| **leader == probe.container.leader);
            let sick = machine.is_some_and(|(machine, _)| {
                let applied = state.machines.get(machine).and_then(|found| found.applied.as_ref());
                let image = applied.map(|applied| applied.config.image.digest);
                state.sick.contains(machine) || image.is_some_and(|i| state.bad.contains(&i))
            });
            if sick { Err("connection refused".into()) } else { Ok(()) }
        })
    }

    async fn last_words(&self, _: &MachineName) -> Option<String> {
        Some("no such file".into())
    }
}

/// There are no images but those that the fake host has.
struct NoSource;

#[async_trait]
impl Origin for NoSource {
    async fn plan(&self, _: Wish, _: PlanProgress<'_>) -> Result<crate::stage::Plan, String> {
        Err("the controller has no such image".into())
    }

    async fn segments(&self, _: &Sender, _: RecipeId, _: usize) -> Result<Bytestream, String> {
        Err("the controller has no such image".into())
    }
}

struct Bench {
    host: Arc<FakeHost>,
    desired: watch::Sender<Option<HostSpec>>,
    status: watch::Receiver<HostStatus>,
    bell: Arc<Notify>,
    stop: CancellationToken,
    events: Events,
    _ready: watch::Sender<Option<BTreeSet<InstanceId>>>,
    dir: Arc<tempfile::TempDir>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn bench() -> Bench {
    bench_on(Arc::default(), Arc::new(tempfile::tempdir().unwrap()))
}

/// An agent that has just started on this host, with what it keeps in `dir`.
fn bench_on(host: Arc<FakeHost>, dir: Arc<tempfile::TempDir>) -> Bench {
    let bell = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let events = Events::default();
    let setup = Setup {
        origin: Arc::new(NoSource),
        dir: dir.path().join("images"),
        shelf: Shelf::none(),
        bell: bell.clone(),
        events: events.clone(),
    };
    let stager = Stager::start(setup, stop.clone());
    let facts = HostFacts { idmapped_squashfs: true, ..HostFacts::default() };
    let (ready, ready_elsewhere) = watch::channel(None);
    let (_, agent) = watch::channel(None);
    let about = About { name: "h1".parse().unwrap(), facts, ready_elsewhere, agent };
    let (report, status) = watch::channel(HostStatus::default());
    let paths = Paths { state: dir.path().into(), run: dir.path().join("run"), ..Paths::default() };
    paths.prepare().unwrap();
    let fallback = Fallback::open(&paths).unwrap();
    let loop_ = Reconciler::new(
        host.clone(),
        about,
        stager,
        fallback,
        bell.clone(),
        report,
        events.clone(),
    );
    let (desired, wanted) = watch::channel(None);
    tokio::spawn(loop_.run(wanted, stop.clone()));
    Bench { host, desired, status, bell, stop, events, _ready: ready, dir }
}

impl Bench {
    fn want(&self, generation: u64, instances: Vec<InstanceSpec>) {
        self.desired.send_replace(Some(HostSpec { generation, instances, ..HostSpec::default() }));
    }

    async fn until(&mut self, wanted: impl Fn(&HostStatus) -> bool) -> HostStatus {
        let found = self.status.wait_for(|status| wanted(status));
        tokio::time::timeout(Duration::from_secs(20), found).await.unwrap().unwrap().clone()
    }
}

fn instance(name: &str, image: u8, checked: bool) -> InstanceSpec {
    let mut settings = serde_json::json!({"start": "boot", "network": "host"});
    if checked {
        let second = serde_json::json!({"secs": 1, "nanos": 0});
        settings["health"] = serde_json::json!({
            "tcp": "127.0.0.1:1", "grace": second, "interval": second, "timeout": second,
            "retries": 1,
        });
    }
    let digest = format!("{image:02x}").repeat(32);
    let image =
        serde_json::json!({"reference": format!("app:{image}"), "digest": digest, "size": 10});
    serde_json::from_value(serde_json::json!({
        "id": format!("f/{name}"), "revision": 1, "run": "running", "restarts": 0,
        "config": {"image": image, "settings": settings},
    }))
    .unwrap()
}

fn of<'a>(status: &'a HostStatus, id: &str) -> &'a InstanceStatus {
    status.instances.iter().find(|i| i.id.to_string() == id).unwrap()
}

fn ready(status: &HostStatus, generation: u64) -> bool {
    status.observed_generation == generation
        && status.instances.iter().all(|i| i.current && i.state == State::Running)
}

#[tokio::test]
async fn nothing_wanted_yet_touches_nothing() {
    let mut bench = bench();
    bench.host.change(|state| {
        let machine =
            Machine { applied: None, unit: Unit::Active, enabled: true, ..Machine::default() };
        state.machines.insert("stranger-one".parse().unwrap(), machine);
    });
    bench.bell.notify_one();
    tokio::task::yield_now().await;
    assert_eq!(bench.host.change(|s| s.machines.len()), 1);
    bench.host.change(|s| s.images.insert([1; 32].into()));
    bench.want(1, vec![]);
    bench.until(|s| s.observed_generation == 1).await;
    let unit = bench.host.change(|s| s.machines.values().next().map(|m| m.unit));
    assert_ne!(unit, Some(Unit::Active), "an empty desired state is a wish too");
}

#[tokio::test]
async fn an_instance_comes_up_and_applying_again_leaves_its_leader() {
    let mut bench = bench();
    bench.host.change(|s| s.images.insert([1; 32].into()));
    bench.want(1, vec![instance("a", 1, true)]);
    let status = bench.until(|s| ready(s, 1) && of(s, "f/a").health == Health::Healthy).await;
    let leader = of(&status, "f/a").leader;
    let again = InstanceSpec { revision: 2, ..instance("a", 1, true) };
    bench.want(2, vec![again]);
    let status = bench.until(|s| ready(s, 2)).await;
    assert_eq!(of(&status, "f/a").leader, leader);
    assert_eq!(bench.host.change(|s| s.starts), 1);
}

#[tokio::test]
async fn one_failing_instance_holds_up_no_other_and_says_why() {
    let mut bench = bench();
    bench.host.change(|s| {
        s.images.insert([1; 32].into());
        s.broken.insert("f-bad".parse().unwrap());
    });
    bench.want(1, vec![instance("bad", 1, false), instance("good", 1, false)]);
    let status = bench
        .until(|s| {
            s.observed_generation == 1
                && of(s, "f/good").state == State::Running
                && of(s, "f/bad").message.is_some()
        })
        .await;
    assert_eq!(of(&status, "f/bad").state, State::Failed);
    assert!(of(&status, "f/bad").message.as_deref().unwrap().contains("no such file"));
    bench.host.change(|s| s.broken.clear());
    bench.until(|s| of(s, "f/bad").state == State::Running).await;
}

#[tokio::test]
async fn a_missing_image_is_told_and_the_old_container_stays() {
    let mut bench = bench();
    bench.host.change(|s| s.images.insert([1; 32].into()));
    bench.want(1, vec![instance("a", 1, false)]);
    let before = bench.until(|s| ready(s, 1)).await;
    bench.want(2, vec![instance("a", 2, false)]);
    let told = |s: &HostStatus| {
        s.observed_generation == 2
            && of(s, "f/a").message.as_deref().is_some_and(|m| m.contains("no such image"))
    };
    let status = bench.until(told).await;
    assert_eq!(of(&status, "f/a").state, State::Running);
    assert!(!of(&status, "f/a").current);
    assert_eq!(of(&status, "f/a").leader, of(&before, "f/a").leader);
    bench.host.change(|s| s.images.insert([2; 32].into()));
    bench.bell.notify_one();
    let status = bench.until(|s| ready(s, 2)).await;
    assert_ne!(of(&status, "f/a").leader, of(&before, "f/a").leader);
}

#[tokio::test]
async fn sickness_is_noticed_and_recovery_too() {
    let mut bench = bench();
    bench.host.change(|s| s.images.insert([1; 32].into()));
    bench.want(1, vec![instance("a", 1, true)]);
    bench.until(|s| ready(s, 1) && of(s, "f/a").health == Health::Healthy).await;
    bench.host.change(|s| s.sick.insert("f-a".parse().unwrap()));
    let status = bench.until(|s| of(s, "f/a").health == Health::Unhealthy).await;
    assert_eq!(of(&status, "f/a").message.as_deref(), Some("connection refused"));
    bench.host.change(|s| s.sick.clear());
    bench.until(|s| of(s, "f/a").health == Health::Healthy).await;
}

#[tokio::test]
async fn a_secret_that_nothing_names_is_removed_and_another_is_waited_for() {
    let mut bench = bench();
    let secret = |version| PinnedSecret { name: "db".parse().unwrap(), version };
    bench.host.change(|state| {
        state.images.insert([1; 32].into());
        state.secrets = [secret(1), secret(2)].into();
    });
    let mut spec = instance("a", 1, false);
    spec.config.settings.secrets = [("password".parse().unwrap(), secret(3))].into();
    bench.want(1, vec![spec]);
    let status = bench.until(|status| status.observed_generation == 1).await;
    let why = of(&status, "f/a").message.clone().unwrap();
    assert_eq!(why, "waits for the controller to send secret db version 3");
    bench.host.change(|state| {
        assert_eq!((state.secrets.len(), state.starts), (0, 0));
        state.secrets.insert(secret(3));
    });
    bench.bell.notify_one();
    bench.until(|status| ready(status, 1)).await;
    bench.host.change(|state| assert_eq!(state.secrets, [secret(3)].into()));
}

#[tokio::test]
async fn drift_is_repaired() {
    let mut bench = bench();
    bench.host.change(|s| s.images.insert([1; 32].into()));
    bench.want(1, vec![instance("a", 1, false)]);
    bench.until(|s| ready(s, 1)).await;
    bench.host.change(|s| s.machines.values_mut().for_each(|m| m.unit = Unit::Inactive));
    bench.bell.notify_one();
    bench.until(|s| of(s, "f/a").state != State::Running).await;
    bench.until(|s| ready(s, 1)).await;
    assert_eq!(bench.host.change(|s| s.starts), 2);
}

#[tokio::test]
async fn what_someone_else_changed_is_put_right_with_its_reason_and_told() {
    let mut bench = bench();
    bench.host.change(|s| s.images.insert([1; 32].into()));
    bench.want(1, vec![instance("a", 1, true)]);
    bench.until(|s| ready(s, 1) && of(s, "f/a").health == Health::Healthy).await;
    let path: shoal_core::spec::InstancePath = "/etc/x".parse().unwrap();
    let drift = vec![Drift::File(path)];
    bench.host.change(|s| s.machines.values_mut().for_each(|m| m.drift.clone_from(&drift)));
    bench.bell.notify_one();
    let mut told = Vec::new();
    while !told.iter().any(|(kind, _)| *kind == v1::EventKind::Repaired) {
        let batch = bench.events.next_batch();
        let batch = tokio::time::timeout(Duration::from_secs(20), batch).await.unwrap();
        told.extend(batch.events.into_iter().map(|e| (e.kind(), e.message)));
    }
    let drift = told.iter().find(|(kind, _)| *kind == v1::EventKind::Drift);
    assert!(drift.is_some_and(|(_, why)| why.contains("/etc/x was changed")), "{told:?}");
    assert!(bench.host.change(|s| s.machines.values().all(|m| m.drift.is_empty())));
    assert_eq!(bench.host.change(|s| s.starts), 1, "the container is the same");
}

#[tokio::test]
async fn what_comes_after_another_starts_when_that_one_is_well() {
    let mut bench = bench();
    bench.host.change(|s| {
        s.images.insert([1; 32].into());
        s.sick.insert("f-db".parse().unwrap());
    });
    let mut app = instance("app", 1, false);
    app.config.settings.after.insert("f/db".parse().unwrap());
    bench.want(1, vec![app, instance("db", 1, true)]);
    let waits = |s: &HostStatus| {
        let app = s.instances.iter().find(|i| i.id.to_string() == "f/app");
        app.is_some_and(|a| a.message.as_deref() == Some("waits for f/db to be ready"))
            && of(s, "f/db").state == State::Running
    };
    let status = bench.until(waits).await;
    assert_eq!(of(&status, "f/app").state, State::Pending);
    bench.host.change(|s| s.sick.clear());
    bench.until(|s| of(s, "f/app").state == State::Running).await;
}

#[tokio::test]
async fn a_paused_instance_stays_as_it_is_and_says_so() {
    let mut bench = bench();
    bench.host.change(|s| s.images.insert([1; 32].into()));
    bench.want(1, vec![instance("a", 1, false)]);
    bench.until(|s| ready(s, 1)).await;
    bench.want(2, vec![InstanceSpec { paused: true, ..instance("a", 1, false) }]);
    bench.until(|s| s.observed_generation == 2 && of(s, "f/a").paused).await;
    bench.host.change(|s| s.machines.values_mut().for_each(|m| m.unit = Unit::Inactive));
    bench.bell.notify_one();
    let status = bench.until(|s| of(s, "f/a").state == State::Pending).await;
    assert!(of(&status, "f/a").message.as_deref().unwrap().contains("shoal unpause"));
    assert!(!matches!(of(&status, "f/a").verdict(), Verdict::Ready));
    bench.want(3, vec![instance("a", 1, false)]);
    bench.until(|s| ready(s, 3)).await;
}

/// A host on which `f/a` and `f/b` run image 1, with image 2 there, too, and bad.
async fn bench_with_a_past() -> Bench {
    let mut bench = bench();
    bench.host.change(|s| {
        s.images = [[1; 32].into(), [2; 32].into()].into();
        s.bad = [[2; 32].into()].into();
    });
    bench.want(1, vec![gated("a", 1), gated("b", 1)]);
    bench.until(|s| s.instances.len() == 2 && s.instances.iter().all(is_ready_now)).await;
    bench
}

fn gated(name: &str, image: u8) -> InstanceSpec {
    let gate = Some(Duration::from_secs(2));
    InstanceSpec { revision: u64::from(image), gate, ..instance(name, image, true) }
}

fn is_ready_now(status: &InstanceStatus) -> bool {
    status.verdict() == Verdict::Ready
}

/// Whether it runs image 1 and is well, though something else is wanted.
fn is_back(status: &HostStatus, id: &str) -> bool {
    let Some(found) = status.instances.iter().find(|i| i.id.to_string() == id) else {
        return false;
    };
    let well = found.state == State::Running && found.health == Health::Healthy;
    found.went_back.is_some() && !found.current && well && found.digest == [1; 32].into()
}

#[tokio::test]
async fn what_does_not_get_ready_goes_back_as_a_whole_and_stays_back() {
    let mut bench = bench_with_a_past().await;
    let b = bench.host.change(|s| s.leaders[&"f-b".parse().unwrap()]);
    bench.want(2, vec![gated("a", 2), gated("b", 1), gated("c", 1)]);
    bench.until(|s| is_back(s, "f/a") && is_back(s, "f/b")).await;
    let status = bench.until(|s| of(s, "f/c").state == State::Pending).await;
    assert!(of(&status, "f/c").went_back.is_some());
    let why = of(&status, "f/a").went_back.as_deref();
    assert_eq!(why, Some("f/a was not ready within 2s: connection refused"));
    assert!(matches!(of(&status, "f/a").verdict(), Verdict::Failed(_)));
    assert_eq!((status.observed_generation, of(&status, "f/a").revision), (2, 2));
    let told = bench.events.next_batch().await.events;
    let told = told.into_iter().find(|event| event.kind() == v1::EventKind::WentBack).unwrap();
    assert!(told.message.starts_with("went back from revision 2 to 1: f/a was not"), "{told:?}");
    let starts = bench.host.change(|s| {
        assert_eq!(s.leaders[&"f-b".parse().unwrap()], b, "what did not change is not disturbed");
        s.starts
    });

    // Another agent on the host goes on where this one was.
    bench.stop.cancel();
    let mut again = bench_on(bench.host.clone(), bench.dir.clone());
    again.want(2, vec![gated("a", 2), gated("b", 1), gated("c", 1)]);
    again.until(|s| is_back(s, "f/a") && is_back(s, "f/b")).await;
    assert_eq!(again.host.change(|s| s.starts), starts);

    // The controller goes back, too: both agree, and nothing is touched.
    again.want(3, vec![gated("a", 1), gated("b", 1)]);
    let agreed =
        |s: &HostStatus| s.observed_generation == 3 && s.instances.iter().all(is_ready_now);
    again.until(agreed).await;
    assert_eq!(again.host.change(|s| s.starts), starts);
}

#[tokio::test]
async fn what_was_rejected_is_tried_again_once_someone_asks_for_it() {
    let mut bench = bench_with_a_past().await;
    bench.want(2, vec![gated("a", 2), gated("b", 1)]);
    bench.until(|s| is_back(s, "f/a")).await;
    bench.host.change(|s| s.bad.clear());
    bench.want(3, vec![gated("a", 2), gated("b", 1)]);
    bench.until(|s| s.observed_generation == 3 && is_back(s, "f/a")).await;
    bench.want(4, vec![InstanceSpec { restarts: 1, ..gated("a", 2) }, gated("b", 1)]);
    let status = bench.until(|s| s.instances.iter().all(is_ready_now)).await;
    assert_eq!(of(&status, "f/a").digest, [2; 32].into());
}

#[tokio::test]
async fn images_of_a_revision_to_come_are_brought_and_used_by_nothing() {
    let mut bench = bench_with_a_past().await;
    let stage = serde_json::json!([{"reference": "app:3", "digest": "03".repeat(32), "size": 10}]);
    let stage = serde_json::from_value(stage).unwrap();
    let instances = vec![gated("a", 1), gated("b", 1)];
    let starts = bench.host.change(|s| s.starts);
    bench.desired.send_replace(Some(HostSpec {
        generation: 2,
        instances,
        stage,
        ..HostSpec::default()
    }));
    let problem = "image app:3, which a revision to come needs: the controller has no such image";
    bench.until(|s| s.problems == [problem]).await;
    bench.host.change(|s| s.images.insert([3; 32].into()));
    bench.bell.notify_one();
    let status = bench.until(|s| s.images.contains(&[3; 32].into())).await;
    assert_eq!(status.problems, [""; 0]);
    assert!(status.instances.iter().all(is_ready_now), "{:?}", status.instances);
    assert_eq!(bench.host.change(|s| s.starts), starts);
}

/// A host with a database of the infra and an app, both with this image and under this version.
fn under(generation: u64, version: u8) -> HostSpec {
    let infra = serde_json::json!({
        "version": version.to_string(), "revision": version, "snapshot": true,
        "going-back": "image-and-data",
    });
    let mut db = gated("db", version);
    db.id = "infra/db".parse().unwrap();
    HostSpec {
        generation,
        instances: vec![gated("a", 1), db],
        infra: Some(serde_json::from_value(infra).unwrap()),
        ..HostSpec::default()
    }
}

/// A host with infra version 1, recorded.
async fn bench_with_infra() -> Bench {
    let mut bench = bench();
    bench.host.change(|s| s.images = [[1; 32].into(), [9; 32].into()].into());
    bench.desired.send_replace(Some(under(1, 1)));
    bench.until(|s| has(s, "1", Phase::Done) && s.instances.iter().all(is_ready_now)).await;
    bench.host.change(|s| {
        assert!(!s.images.contains(&[9; 32].into()), "nothing needs it");
        s.images.insert([2; 32].into());
    });
    bench
}

fn has(status: &HostStatus, version: &str, phase: Phase) -> bool {
    let infra = status.infra.as_ref();
    infra.is_some_and(|infra| {
        infra.phase == phase && infra.has.as_ref().is_some_and(|has| has.as_str() == version)
    })
}

async fn told(bench: &Bench, wanted: &str) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    while !told.iter().any(|message| message.contains(wanted)) {
        let batch = bench.events.next_batch();
        let batch = tokio::time::timeout(Duration::from_secs(20), batch).await;
        let batch = batch.unwrap_or_else(|_| panic!("{wanted} in {told:?}"));
        told.extend(batch.events.into_iter().map(|event| event.message));
    }
    told
}

#[tokio::test]
async fn another_infra_version_is_reached_and_recorded() {
    let mut bench = bench_with_infra().await;
    let leader = bench.host.change(|s| s.leaders[&"f-a".parse().unwrap()]);
    bench.desired.send_replace(Some(under(2, 2)));
    let status = bench.until(|s| has(s, "2", Phase::Done)).await;
    assert!(status.instances.iter().all(is_ready_now), "{:?}", status.instances);
    assert_eq!(status.infra.unwrap().snapshots, [2]);
    bench.host.change(|s| {
        assert_ne!(s.leaders[&"f-a".parse().unwrap()], leader, "the app is made afresh, too");
        assert_eq!(s.put_back, [0; 0]);
        assert!(s.images.contains(&[1; 32].into()), "the app has it");
    });
    let told = told(&bench, "recorded 2").await;
    assert!(told.contains(&"infra version 1 → 2, mode update".to_owned()), "{told:?}");
}

#[tokio::test]
async fn an_infra_that_does_not_get_ready_goes_back_with_its_data() {
    let mut bench = bench_with_infra().await;
    bench.host.change(|s| s.bad = [[2; 32].into()].into());
    bench.desired.send_replace(Some(under(2, 2)));
    let back = |s: &HostStatus| {
        has(s, "1", Phase::Done) && is_back(s, "infra/db") && is_ready_now(of(s, "f/a"))
    };
    let status = bench.until(back).await;
    assert_eq!(of(&status, "f/a").went_back, None);
    assert_eq!(status.infra.unwrap().snapshots, [0; 0]);
    bench.host.change(|s| assert_eq!(s.put_back, [2]));
    told(&bench, "the infra went back from revision 2 to 1: infra/db was not ready").await;
    // An agent that comes after this one goes on where it was.
    bench.stop.cancel();
    let starts = bench.host.change(|s| s.starts);
    let mut again = bench_on(bench.host.clone(), bench.dir.clone());
    again.desired.send_replace(Some(under(2, 2)));
    again.until(back).await;
    assert_eq!(again.host.change(|s| s.starts), starts);
}

#[tokio::test]
async fn what_can_t_be_recorded_is_a_problem_until_it_can() {
    let mut bench = bench();
    bench.host.change(|s| {
        s.images = [[1; 32].into()].into();
        s.full = true;
    });
    bench.desired.send_replace(Some(under(1, 1)));
    bench.until(|s| s.problems.iter().any(|p| p.starts_with("can't record: no range"))).await;
    bench.host.change(|s| s.full = false);
    bench.bell.notify_one();
    let status = bench.until(|s| has(s, "1", Phase::Done)).await;
    assert_eq!(status.problems, [""; 0]);
}
