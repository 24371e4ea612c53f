use std::sync::Mutex;

use async_trait::async_trait;
use shoal_core::fleet::FleetSpec;
use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::name::InstanceName;
use shoal_core::rollout::{OnFailure, Policy, Promote, Reach};
use shoal_core::spec::RunState;
use shoal_core::status::State as InstanceState;
use shoal_proto::v1::store::{HostProgress, HostRecord, HostSpecRecord};
use shoal_proto::v1::{
    ApplyRequest, ControlRolloutRequest, HoldKind, OfflineHosts, OutcomeKind, Recreate,
    RolloutCommand, RolloutState,
};

use super::pass::LONGEST_REASON;
use super::*;
use crate::fleets_api::tests_support::{ADA, Agent, Lab, NOON, fleet, request};
use crate::rollouts_api::control::control;
use crate::store::{
    Batch, CommitError, Entry, Key, Page, Prefix, Revision as StoreRevision, Store, StoreError,
    Transaction, Watch,
};

const WEB: &[(&str, &str, &str)] = &[("main", "app:1", "role=web")];
const ALL: &[(&str, &str, &str)] = &[("main", "app:1", "*")];
const SIX: [&str; 6] = ["h1", "h2", "h3", "h4", "h5", "h6"];

/// A store that dies after a number of commits, as a controller does.
#[derive(Debug)]
struct Mortal {
    store: Arc<dyn Store>,
    commits: Mutex<usize>,
}

#[async_trait]
impl Store for Mortal {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.store.list(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<StoreRevision, CommitError> {
        {
            let mut left = self.commits.lock().unwrap();
            if *left == 0 {
                return Err(StoreError::Closed { place: "killed".into() }.into());
            }
            *left -= 1;
        }
        self.store.commit(transaction).await
    }

    fn watch(&self, prefix: &Prefix, from: StoreRevision) -> Watch {
        self.store.watch(prefix, from)
    }

    async fn compact(&self, keep_after: StoreRevision) -> Result<(), StoreError> {
        self.store.compact(keep_after).await
    }

    async fn check_health(&self) -> Result<(), StoreError> {
        self.store.check_health().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

fn later(seconds: u64) -> Timestamp {
    NOON.after(Duration::from_secs(seconds))
}

fn outcome(record: &RolloutRecord, host: &str) -> (OutcomeKind, String) {
    let HostProgress { reason, .. } = &record.hosts[&format!("id-{host}")];
    (record.hosts[&format!("id-{host}")].outcome(), reason.clone())
}

/// A world of six hosts, all connected, which have `instances` as revision 1 of `shop`.
async fn six(instances: &[(&str, &str, &str)]) -> (Lab, Vec<Agent>) {
    let lab = Lab::new().await;
    for host in ["h4", "h5", "h6"] {
        lab.host(host, "web").await;
    }
    if !instances.is_empty() {
        first(&lab, instances).await;
    }
    let agents = SIX.into_iter().map(|host| lab.connect(host)).collect();
    (lab, agents)
}

async fn apply(lab: &Lab, instances: &[(&str, &str, &str)], policy: Policy) -> u64 {
    let spec = FleetSpec { rollout: policy, ..fleet("shop", instances) };
    lab.fleets().apply(request(&spec), ADA, NOON).await.unwrap().revision
}

/// Has revision 1 of `instances` on all hosts.
async fn first(lab: &Lab, instances: &[(&str, &str, &str)]) {
    let applied = lab.apply("shop", instances).await.unwrap();
    lab.roll("shop", applied.revision).await;
}

/// The hosts that have been told to have `revision`.
async fn at(lab: &Lab, revision: u64) -> Vec<&'static str> {
    let mut found = Vec::new();
    for host in SIX {
        if lab.spec(host).await.instances.iter().any(|i| i.revision == revision) {
            found.push(host);
        }
    }
    found
}

async fn state(lab: &Lab, revision: u64) -> RolloutState {
    lab.rollout("shop", revision).await.record.state()
}

async fn say(lab: &Lab, command: RolloutCommand, now: Timestamp) {
    let request = ControlRolloutRequest {
        fleet: "shop".into(),
        command: command.into(),
        ..ControlRolloutRequest::default()
    };
    control(&lab.records, request, ADA, now).await.unwrap();
}

/// Agents that do as they are told, but for those that fail at a revision.
async fn report(lab: &Lab, agents: &[Agent], broken: &[&str], revision: u64) {
    for agent in agents {
        let host = agent.id.as_str().trim_start_matches("id-");
        let spec = lab.spec(host).await;
        let is_new = spec.instances.iter().any(|instance| instance.revision == revision);
        match broken.contains(&host) && is_new {
            true => agent.report(&spec, InstanceState::Failed),
            false => agent.converge(&spec),
        }
    }
}

#[tokio::test]
async fn a_rollout_goes_batch_by_batch_each_staged_and_proved() {
    let (lab, agents) = six(ALL).await;
    lab.apply("shop", &[("main", "app:2", "*")]).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..20 {
        report(&lab, &agents, &[], 2).await;
        let ended = lab.advance("shop", 2, NOON).await;
        let told = at(&lab, 2).await.len();
        if seen.last() != Some(&told) {
            seen.push(told);
        }
        for host in SIX {
            let spec = lab.spec(host).await;
            let used = &spec.instances[0].config.image;
            assert!(spec.stage.iter().all(|image| image != used), "what is used is not staged");
        }
        if ended {
            break;
        }
    }
    assert_eq!(seen, [0, 1, 3, 6], "10 % of six is no more than the canary");
    let record = lab.rollout("shop", 2).await.record;
    assert_eq!(
        (record.state(), record.back_to, record.batch),
        (RolloutState::Completed, Some(1), 3)
    );
    let staged = record.hosts.values().all(|host| host.staging.is_some() && host.staged);
    assert!(staged, "{record:?}");
}

#[tokio::test]
async fn images_are_there_before_anything_is_disturbed() {
    let (lab, agents) = six(ALL).await;
    lab.apply("shop", &[("main", "app:2", "*")]).await.unwrap();
    lab.advance("shop", 2, NOON).await;
    let spec = lab.spec("h1").await;
    let staged: Vec<_> = spec.stage.iter().map(|image| image.digest).collect();
    assert_eq!((spec.instances[0].revision, staged), (1, vec![[2; 32].into()]));
    assert!(lab.spec("h2").await.stage.is_empty(), "each batch its own");
    assert_eq!(state(&lab, 2).await, RolloutState::Staging);
    agents[0].converge(&spec);
    lab.advance("shop", 2, NOON).await;
    let spec = lab.spec("h1").await;
    assert_eq!((spec.instances[0].revision, spec.stage.len()), (2, 0));
    assert_eq!(spec.instances[0].gate, Some(Policy::default().batch_timeout));
}

/// A fleet on three hosts of other roles and on two of the role log, whose containers are to be made
/// afresh; all connected.
async fn afresh() -> (Lab, Vec<Agent>) {
    let lab = Lab::new().await;
    lab.host("h4", "log").await;
    lab.host("h5", "log").await;
    first(&lab, ALL).await;
    let agents = SIX[..5].iter().map(|host| lab.connect(host)).collect();
    let recreate = Some(Recreate { selector: "role=log".into() });
    let wanted = ApplyRequest { recreate, ..request(&fleet("shop", ALL)) };
    let applied = lab.fleets().apply(wanted, ADA, NOON).await.unwrap();
    assert_eq!((applied.revision, applied.changed), (2, true));
    (lab, agents)
}

/// The hosts whose containers are to be made afresh by their desired state.
async fn told_afresh(lab: &Lab) -> Vec<&'static str> {
    let mut found = Vec::new();
    for host in &SIX[..5] {
        match lab.spec(host).await.instances[0].recreate {
            0 => {}
            2 => found.push(*host),
            other => panic!("{host}: {other}"),
        }
    }
    found
}

#[tokio::test]
async fn containers_are_made_afresh_batch_by_batch_and_only_where_asked() {
    let (lab, agents) = afresh().await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        report(&lab, &agents, &[], 2).await;
        let ended = lab.advance("shop", 2, NOON).await;
        let told = told_afresh(&lab).await;
        if seen.last() != Some(&told) {
            seen.push(told);
        }
        if ended {
            break;
        }
    }
    assert_eq!(seen, [vec!["h4"], vec!["h4", "h5"]]);
    assert_eq!(state(&lab, 2).await, RolloutState::Completed);
    assert_eq!(at(&lab, 2).await.len(), 5, "the others keep what they have at the new revision");
    // Whatever comes next leaves what was made afresh alone.
    let next = apply(&lab, &[("main", "app:2", "*")], Policy::default()).await;
    let all: Vec<&Agent> = agents.iter().collect();
    assert!(lab.settle("shop", next, &all, NOON).await);
    assert_eq!(told_afresh(&lab).await, ["h4", "h5"]);
}

#[tokio::test]
async fn containers_that_do_not_come_back_afresh_leave_the_others_as_they_are() {
    let (lab, agents) = afresh().await;
    let before = lab.spec("h5").await;
    let first = lab.spec("h4").await.generation;
    let mut seconds = 0;
    while !lab.advance("shop", 2, later(seconds)).await {
        // Going back gives it nothing else to run.
        for agent in &agents {
            let host = agent.id.as_str().trim_start_matches("id-");
            let spec = lab.spec(host).await;
            let tried = host == "h4" && spec.generation > first;
            agent.report(&spec, if tried { InstanceState::Failed } else { InstanceState::Running });
        }
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    let record = lab.rollout("shop", 2).await.record;
    assert_eq!(
        (record.state(), outcome(&record, "h5").0),
        (RolloutState::Failed, OutcomeKind::Pending)
    );
    assert_eq!(outcome(&record, "h4"), (OutcomeKind::Failed, "shop/main: exited with 1".into()));
    assert!(told_afresh(&lab).await.is_empty(), "nobody is to be made afresh later");
    assert_eq!(at(&lab, 2).await, [""; 0], "all are told of the revision that was proved");
    assert_eq!(lab.spec("h5").await, before, "it has heard nothing");
}

/// With no monitor time, and images that are there, nothing is waited for but proof.
#[tokio::test]
async fn a_batch_follows_the_one_before_in_the_same_pass() {
    let (lab, agents) = six(ALL).await;
    let mut spec = fleet("shop", ALL);
    spec.instances.values_mut().for_each(|declared| {
        declared.settings.env.insert("A".parse().unwrap(), "b".into());
    });
    lab.fleets().apply(request(&spec), ADA, NOON).await.unwrap();
    report(&lab, &agents, &[], 2).await;
    let mut passes = 0;
    while !lab.advance("shop", 2, NOON).await {
        report(&lab, &agents, &[], 2).await;
        passes += 1;
        assert!(passes < 100, "it never ends");
    }
    assert_eq!((passes, state(&lab, 2).await), (3, RolloutState::Completed), "one for each batch");
}

#[tokio::test]
async fn a_batch_is_watched_for_as_long_as_is_said_and_the_driver_wakes_for_it() {
    let (lab, agents) = six(&[]).await;
    let policy = Policy {
        monitor: Duration::from_millis(30_250),
        batches: vec![Reach::Hosts(1)],
        ..Policy::default()
    };
    apply(&lab, WEB, policy).await;
    let all: Vec<&Agent> = agents.iter().collect();
    assert!(!lab.settle("shop", 1, &all, NOON).await);
    assert_eq!((state(&lab, 1).await, at(&lab, 1).await.len()), (RolloutState::Monitoring, 1));
    let driver = Driver::new(lab.records.clone(), lab.live.clone());
    let due = async |now| driver.advance(&revision_id("shop", 1), now).await.unwrap();
    assert_eq!(due(later(10)).await, Some(TICK));
    assert_eq!(due(later(30)).await, Some(Duration::from_millis(250)));
    assert_eq!(at(&lab, 1).await.len(), 1);
    due(later(31)).await;
    assert_eq!(state(&lab, 1).await, RolloutState::Staging);
}

#[tokio::test]
async fn a_bad_revision_goes_back_and_harms_only_the_canary() {
    let (lab, agents) = six(ALL).await;
    let before: Vec<HostSpec> = {
        let mut specs = Vec::new();
        for host in SIX {
            specs.push(lab.spec(host).await);
        }
        specs
    };
    lab.apply("shop", &[("main", "app:2", "*"), ("more", "app:3", "h1")]).await.unwrap();
    let mut seconds = 0;
    while !lab.advance("shop", 2, later(seconds)).await {
        report(&lab, &agents, &SIX, 2).await;
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    let record = lab.rollout("shop", 2).await.record;
    assert_eq!(record.state(), RolloutState::RolledBack);
    assert_eq!(record.cause.as_deref(), Some("shop/main: exited with 1"));
    assert_eq!(outcome(&record, "h1").0, OutcomeKind::Back);
    for (host, before) in SIX.into_iter().zip(before) {
        let after = lab.spec(host).await;
        if host == "h1" {
            assert_eq!((after.instances, after.stage), (before.instances, vec![]));
        } else {
            assert_eq!(after, before, "{host} was never touched");
        }
    }
}

#[tokio::test]
async fn going_back_takes_the_fleet_away_from_where_it_was_not() {
    let lab = Lab::new().await;
    first(&lab, &[("main", "app:1", "h2")]).await;
    lab.apply("shop", &[("main", "app:1", "h1,h2")]).await.unwrap();
    let (one, two) = (lab.connect("h1"), lab.connect("h2"));
    two.catch_up(&lab).await;
    let mut seconds = 0;
    while !lab.advance("shop", 2, later(seconds)).await {
        one.report(&lab.spec("h1").await, InstanceState::Failed);
        two.catch_up(&lab).await;
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    assert_eq!(state(&lab, 2).await, RolloutState::RolledBack);
    assert!(lab.spec("h1").await.instances.is_empty());
    assert_eq!(lab.spec("h2").await.instances[0].revision, 1);
}

#[tokio::test]
async fn a_first_revision_that_fails_has_nothing_to_go_back_to() {
    let (lab, agents) = six(&[]).await;
    lab.apply("shop", ALL).await.unwrap();
    let mut seconds = 0;
    while !lab.advance("shop", 1, later(seconds)).await {
        report(&lab, &agents, &SIX, 1).await;
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    assert_eq!((state(&lab, 1).await, at(&lab, 1).await.len()), (RolloutState::Failed, 1));
}

#[tokio::test]
async fn a_host_whose_agent_went_back_has_failed_at_once() {
    let (lab, agents) = six(ALL).await;
    apply(&lab, &[("main", "app:1", "*"), ("more", "app:1", "*")], Policy::default()).await;
    report(&lab, &agents, &[], 2).await;
    lab.advance("shop", 2, NOON).await;
    agents[0].went_back(&lab.spec("h1").await);
    lab.advance("shop", 2, NOON).await;
    assert_eq!(state(&lab, 2).await, RolloutState::RollingBack);
    assert_eq!(lab.spec("h1").await.instances[0].revision, 1);
}

#[tokio::test]
async fn a_failure_may_pause_and_goes_on_when_told_to() {
    let (lab, agents) = six(ALL).await;
    let policy = Policy { on_failure: OnFailure::Pause, ..Policy::default() };
    apply(&lab, &[("main", "app:2", "*")], policy).await;
    let mut seconds = 0;
    while lab.rollout("shop", 2).await.record.hold.is_none() {
        lab.advance("shop", 2, later(seconds)).await;
        report(&lab, &agents, &["h1"], 2).await;
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    let record = lab.rollout("shop", 2).await.record;
    assert_eq!(record.hold.unwrap().kind(), HoldKind::Failure);
    assert_eq!(lab.spec("h1").await.instances[0].gate, None, "its agent leaves it as it is");
    let now = later(seconds);
    let all: Vec<&Agent> = agents.iter().collect();
    assert!(!lab.settle("shop", 2, &all, now).await, "also once it works");
    assert_eq!(at(&lab, 2).await, ["h1"]);
    say(&lab, RolloutCommand::Resume, now).await;
    assert!(lab.settle("shop", 2, &all, now).await);
    assert_eq!(state(&lab, 2).await, RolloutState::Completed);
}

#[tokio::test]
async fn a_pause_and_a_gate_hold_whatever_the_driver_does() {
    let (lab, agents) = six(&[]).await;
    let policy = Policy { promote: Promote::Canary, ..Policy::default() };
    apply(&lab, ALL, policy).await;
    let all: Vec<&Agent> = agents.iter().collect();
    assert!(!lab.settle("shop", 1, &all, NOON).await);
    let hold = lab.rollout("shop", 1).await.record.hold.unwrap();
    assert_eq!((hold.kind(), at(&lab, 1).await.len()), (HoldKind::Promotion, 1));
    say(&lab, RolloutCommand::Promote, NOON).await;
    say(&lab, RolloutCommand::Pause, NOON).await;
    // A new driver each time: it holds over restarts.
    assert!(!lab.settle("shop", 1, &all, later(3600)).await);
    assert_eq!(at(&lab, 1).await.len(), 1);
    let hold = lab.rollout("shop", 1).await.record.hold.unwrap();
    assert_eq!((hold.kind(), hold.why.as_str()), (HoldKind::Operator, "ada paused it"));
    say(&lab, RolloutCommand::Resume, later(3600)).await;
    assert!(lab.settle("shop", 1, &all, later(3600)).await);
    assert_eq!(state(&lab, 1).await, RolloutState::Completed);
}

#[tokio::test]
async fn what_a_replaced_rollout_changed_goes_back_with_the_rest() {
    let (lab, agents) = six(ALL).await;
    let policy = Policy { batches: vec![Reach::Hosts(3), Reach::ALL], ..Policy::default() };
    apply(&lab, &[("main", "app:2", "*"), ("more", "app:2", "h3")], policy).await;
    while at(&lab, 2).await.len() < 3 {
        lab.advance("shop", 2, NOON).await;
        report(&lab, &agents, &[], 2).await;
    }
    assert_eq!(at(&lab, 2).await, ["h1", "h2", "h3"]);
    apply(&lab, &[("main", "app:3", "*")], Policy::default()).await;
    let mut seconds = 0;
    while !lab.advance("shop", 3, later(seconds)).await {
        report(&lab, &agents, &["h1"], 3).await;
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    let record = lab.rollout("shop", 3).await.record;
    assert_eq!(record.state(), RolloutState::RolledBack);
    assert_eq!((record.back_to, at(&lab, 1).await.len()), (Some(1), 6));
    for host in SIX {
        let image = lab.spec(host).await.instances[0].config.image.reference.to_string();
        assert_eq!((image.as_str(), lab.spec(host).await.instances.len()), ("app:1", 1), "{host}");
    }
    let progress = |host: &str| &record.hosts[&format!("id-{host}")];
    assert_eq!(progress("h1").failed.as_deref(), Some("shop/main: exited with 1"));
    assert_eq!((progress("h2").stray, progress("h4").stray), (true, false));
    assert_eq!(outcome(&record, "h2").0, OutcomeKind::Back);
    assert_eq!(outcome(&record, "h4").0, OutcomeKind::Pending);
}

#[tokio::test]
async fn a_host_that_the_fleet_left_gets_it_back() {
    let (lab, agents) = six(ALL).await;
    apply(&lab, &[("main", "app:1", "h2,h3,h4,h5,h6")], Policy::default()).await;
    while !lab.spec("h1").await.instances.is_empty() {
        lab.advance("shop", 2, NOON).await;
        report(&lab, &agents, &[], 2).await;
    }
    apply(&lab, &[("main", "app:2", "h2,h3,h4,h5,h6")], Policy::default()).await;
    let mut seconds = 0;
    while !lab.advance("shop", 3, later(seconds)).await {
        report(&lab, &agents, &["h2"], 3).await;
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    assert_eq!(state(&lab, 3).await, RolloutState::RolledBack);
    assert_eq!(at(&lab, 1).await, SIX);
}

/// A driver that has had 44 seconds to move revision 2 in vain.
async fn unmoved(lab: &Lab) -> Driver {
    let driver = Driver::new(lab.records.clone(), lab.live.clone());
    for seconds in [0, 44] {
        driver.advance(&revision_id("shop", 2), later(seconds)).await.unwrap();
        let record = lab.rollout("shop", 2).await.record;
        assert_eq!((record.state(), record.batch), (RolloutState::Staging, 1));
        assert_eq!(at(lab, 2).await, [""; 0]);
    }
    driver
}

/// A controller starts in the middle of a rollout that waits for nobody: its hosts were connected
/// to the one before and have had no time to come back.
#[tokio::test]
async fn a_controller_that_starts_waits_for_its_hosts() {
    let (mut lab, agents) = six(ALL).await;
    let spec = fleet("shop", &[("main", "app:2", "*")]);
    let skips = ApplyRequest { offline: OfflineHosts::Skip.into(), ..request(&spec) };
    lab.fleets().apply(skips, ADA, NOON).await.unwrap();
    lab.live.flush().await.unwrap();
    let first = std::mem::replace(&mut lab.live, Live::load(lab.records.clone(), 4).await.unwrap());
    // That one was killed; the next is told to end, and its hosts' streams end with it.
    unmoved(&lab).await;
    first.close();
    drop(agents);
    first.flush().await.unwrap();
    lab.live = Live::load(lab.records.clone(), 4).await.unwrap();
    let driver = unmoved(&lab).await;
    driver.advance(&revision_id("shop", 2), later(46)).await.unwrap();
    assert_eq!(state(&lab, 2).await, RolloutState::Partial, "they never came");
}

#[tokio::test]
async fn offline_hosts_delay_only_themselves_and_catch_up() {
    let lab = Lab::new().await;
    first(&lab, ALL).await;
    let (one, three) = (lab.connect("h1"), lab.connect("h3"));
    let revision = apply(&lab, &[("main", "app:2", "*")], Policy::default()).await;
    assert!(!lab.settle("shop", revision, &[&one, &three], NOON).await);
    let record = lab.rollout("shop", 2).await.record;
    assert_eq!(record.state(), RolloutState::Waiting);
    assert_eq!(outcome(&record, "h2").0, OutcomeKind::Offline);
    assert_eq!(lab.spec("h2").await.instances[0].revision, 2, "it takes it when it returns");
    let two = lab.connect("h2");
    assert!(lab.settle("shop", revision, &[&one, &two, &three], later(60)).await);
    assert_eq!(state(&lab, 2).await, RolloutState::Completed);
}

#[tokio::test]
async fn offline_hosts_are_named_when_nobody_waits_for_them() {
    for (offline, now) in [(OfflineHosts::Skip, NOON), (OfflineHosts::Wait, later(600))] {
        let lab = Lab::new().await;
        first(&lab, ALL).await;
        let wanted = ApplyRequest {
            offline: offline.into(),
            ..request(&fleet("shop", &[("main", "app:2", "*")]))
        };
        lab.fleets().apply(wanted, ADA, NOON).await.unwrap();
        let (one, three) = (lab.connect("h1"), lab.connect("h3"));
        let ended = lab.settle("shop", 2, &[&one, &three], NOON).await;
        assert_eq!(ended, offline == OfflineHosts::Skip);
        assert!(lab.advance("shop", 2, now).await);
        let record = lab.rollout("shop", 2).await.record;
        assert_eq!(record.state(), RolloutState::Partial);
        assert_eq!(outcome(&record, "h2").0, OutcomeKind::Offline);
        assert_eq!(lab.spec("h2").await.instances[0].revision, 2);
    }
}

/// A rollout with its agents from the beginning to its end, in which the controller is killed
/// after `commits` of its writes and started again; how many it made at most, and the end.
async fn killed_after(commits: usize, broken: bool) -> (usize, RolloutRecord, Vec<HostSpec>) {
    let (lab, agents) = six(ALL).await;
    lab.apply("shop", &[("main", "app:2", "*"), ("more", "app:3", "h1,h2")]).await.unwrap();
    let broken: &[&str] = if broken { &["h3"] } else { &[] };
    let mortal = Arc::new(Mortal { store: lab.records.store().clone(), commits: commits.into() });
    let doomed = Records::new(mortal.clone());
    let mut driver = Driver::new(doomed, lab.live.clone());
    let id = revision_id("shop", 2);
    let (mut seconds, mut deaths) = (0, 0);
    loop {
        match driver.advance(&id, later(seconds)).await {
            Ok(None) => break,
            Ok(Some(_)) => {}
            Err(_) => {
                deaths += 1;
                assert_eq!(deaths, 1, "it is killed once");
                driver = Driver::new(lab.records.clone(), lab.live.clone());
                // Started at the same moment.
                continue;
            }
        }
        report(&lab, &agents, broken, 2).await;
        seconds += 5;
        assert!(seconds < 600, "it never ends");
    }
    let left = *mortal.commits.lock().unwrap();
    let mut specs = Vec::new();
    for host in SIX {
        specs.push(lab.spec(host).await);
    }
    (commits - left, lab.rollout("shop", 2).await.record, specs)
}

#[tokio::test]
async fn a_controller_killed_anywhere_carries_on_to_the_same_end() {
    for (broken, end) in [(false, RolloutState::Completed), (true, RolloutState::RolledBack)] {
        let (all, record, specs) = killed_after(1000, broken).await;
        assert_eq!(record.state(), end);
        assert!(all > 15, "only {all} writes");
        for commits in 0..all {
            let (_, same_record, same_specs) = killed_after(commits, broken).await;
            assert_eq!(same_record, record, "killed after {commits} writes");
            assert_eq!(same_specs, specs, "killed after {commits} writes");
        }
    }
}

#[tokio::test]
async fn nothing_new_is_nothing_written() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    lab.advance("shop", 1, NOON).await;
    let before = lab.rollout("shop", 1).await.modified;
    lab.advance("shop", 1, NOON).await;
    assert_eq!(lab.rollout("shop", 1).await.modified, before);
}

#[tokio::test]
async fn many_hosts_are_told_in_few_transactions() {
    let lab = Lab::new().await;
    for n in 0..100 {
        lab.host(&format!("many-{n:03}"), "many").await;
    }
    let agents: Vec<Agent> = (0..100).map(|n| lab.connect(&format!("many-{n:03}"))).collect();
    let policy = Policy { batches: vec![Reach::ALL], ..Policy::default() };
    apply(&lab, &[("main", "app:1", "role=many")], policy).await;
    let all: Vec<&Agent> = agents.iter().collect();
    assert!(lab.settle("shop", 1, &all, NOON).await);
    let specs = lab.records.list::<HostSpecRecord>().await.unwrap().records;
    let written: BTreeSet<_> = specs.iter().map(|stored| stored.modified).collect();
    assert_eq!((specs.len(), written.len()), (100, 2));
}

#[tokio::test]
async fn a_superseded_revision_never_reaches_a_host() {
    let lab = Lab::new().await;
    let one = lab.connect("h1");
    one.converge(&HostSpec::default());
    lab.apply("shop", WEB).await.unwrap();
    // A driver that has read the rollout before the newer revision is applied …
    let driver = Driver::new(lab.records.clone(), lab.live.clone());
    let id = revision_id("shop", 1);
    let pass = Pass::begin(&driver, &id, NOON).await.unwrap().unwrap();
    lab.apply("shop", &[("main", "app:2", "role=web")]).await.unwrap();
    // … and goes on after.
    assert!(matches!(pass.carry_out().await, Err(Interrupted::Conflict)));
    assert_eq!(lab.spec("h1").await, HostSpec::default());
    assert!(lab.advance("shop", 1, NOON).await);
    lab.roll("shop", 2).await;
    assert_eq!(lab.spec("h1").await.instances[0].revision, 2);
}

/// An unfinished rollout of an older revision, however it came to be, ends without a change.
#[tokio::test]
async fn an_unfinished_rollout_of_an_older_revision_ends() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let planned = lab.rollout("shop", 1).await.record;
    lab.apply("shop", &[("main", "app:2", "role=web")]).await.unwrap();
    lab.put(&revision_id("shop", 1), &planned).await;
    assert!(lab.advance("shop", 1, NOON).await);
    assert_eq!(state(&lab, 1).await, RolloutState::Superseded);
    assert!(lab.spec("h1").await.instances.is_empty());
}

#[tokio::test]
async fn a_removed_host_fails_for_good_and_stalls_nothing() {
    let lab = Lab::new().await;
    let policy = Policy { max_failures: 1, ..Policy::default() };
    apply(&lab, WEB, policy).await;
    let mut batch = Batch::new();
    batch.delete::<HostRecord>("id-h1").unwrap();
    lab.records.commit(batch).await.unwrap();
    let agent = lab.connect("h2");
    assert!(lab.settle("shop", 1, &[&agent], NOON).await);
    let record = lab.rollout("shop", 1).await.record;
    assert_eq!(record.state(), RolloutState::Partial);
    assert_eq!(outcome(&record, "h1"), (OutcomeKind::Failed, "the host was removed".into()));
    assert_eq!(outcome(&record, "h2").0, OutcomeKind::Ready);
    assert!(lab.spec("h1").await.instances.is_empty());
}

#[tokio::test]
async fn reasons_are_kept_short_and_a_refusing_agent_is_told_of() {
    let lab = Lab::new().await;
    let one = lab.connect("h1");
    lab.apply("shop", &[("main", "app:1", "h1")]).await.unwrap();
    lab.advance("shop", 1, NOON).await;
    one.catch_up(&lab).await;
    lab.advance("shop", 1, NOON).await;
    lab.live.refused(&one.id, 2, "é".repeat(5000));
    lab.advance("shop", 1, NOON).await;
    let record = lab.rollout("shop", 1).await;
    let (kind, reason) = outcome(&record.record, "h1");
    assert_eq!(kind, OutcomeKind::Changing);
    assert!(reason.contains("refused generation 2"), "{reason}");
    assert_eq!(reason.chars().count(), LONGEST_REASON + 1);
    lab.advance("shop", 1, NOON).await;
    assert_eq!(lab.rollout("shop", 1).await.modified, record.modified);
}

#[tokio::test]
async fn the_task_moves_what_it_finds_and_what_comes() {
    let lab = Lab::new().await;
    let now = clock::now();
    let fleets = lab.fleets();
    fleets.apply(request(&fleet("shop", WEB)), ADA, now).await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(lab.records.clone(), lab.live.clone(), shutdown.clone()));
    fleets.apply(request(&fleet("mail", &[("mx", "app:2", "h3")])), ADA, now).await.unwrap();
    let agents: Vec<_> = ["h1", "h2", "h3"].into_iter().map(|h| lab.connect(h)).collect();
    let ended = async {
        loop {
            report(&lab, &agents, &[], 0).await;
            let states = [
                lab.rollout("shop", 1).await.record.state(),
                lab.rollout("mail", 1).await.record.state(),
            ];
            if states == [RolloutState::Completed; 2] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("both complete");
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), task).await.expect("it ends").unwrap();
}

/// Images that were asked for go from the desired state with the rollout that asked for them, also
/// where the controller was down when it ended.
#[tokio::test]
async fn what_was_staged_for_nothing_is_not_wanted_any_more() {
    let (lab, agents) = six(ALL).await;
    let ahead = Policy { stage_ahead: true, ..Policy::default() };
    apply(&lab, &[("main", "app:2", "*")], ahead).await;
    lab.advance("shop", 2, NOON).await;
    lab.advance("shop", 2, NOON).await;
    for host in SIX {
        assert_eq!(lab.spec(host).await.stage.len(), 1, "{host}");
    }
    assert!(leftovers::remove(&lab.records, &lab.live).await.unwrap());
    assert_eq!(lab.spec("h6").await.stage.len(), 1, "it is needed");
    drop(agents);
    say(&lab, RolloutCommand::Abort, NOON).await;
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(lab.records.clone(), lab.live.clone(), shutdown.clone()));
    let gone = async {
        for host in SIX {
            while !lab.spec(host).await.stage.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is cleared away");
    shutdown.cancel();
    task.await.unwrap();
    assert_eq!(at(&lab, 1).await, SIX, "nothing else was changed");
}

/// The images of a host's desired state that are to be kept.
async fn kept(lab: &Lab, host: &str) -> Vec<u8> {
    let keep = lab.spec(host).await.keep.into_iter();
    keep.flat_map(|keep| keep.images).map(|image| image.as_bytes()[0]).collect()
}

#[tokio::test]
async fn hosts_keep_what_going_back_needs_and_not_for_ever() {
    let (lab, agents) = six(ALL).await;
    let agents: Vec<&Agent> = agents.iter().collect();
    assert_eq!(kept(&lab, "h1").await, [0; 0]);
    lab.apply("shop", &[("main", "app:2", "*")]).await.unwrap();
    lab.advance("shop", 2, NOON).await;
    assert_eq!(lab.spec("h1").await.instances[0].revision, 1, "images come first");
    assert_eq!(kept(&lab, "h1").await, [1], "from the first word on");
    assert_eq!(kept(&lab, "h2").await, [0; 0], "each host with its own");
    assert!(lab.settle("shop", 2, &agents, NOON).await);
    for host in SIX {
        assert_eq!(kept(&lab, host).await, [1], "{host}");
    }
    let before = lab.spec("h1").await;
    assert!(leftovers::remove(&lab.records, &lab.live).await.unwrap());
    lab.advance("shop", 2, NOON).await;
    assert_eq!(lab.spec("h1").await, before, "nothing is told for nothing");

    lab.apply("shop", &[("main", "app:2", "h1")]).await.unwrap();
    assert!(lab.settle("shop", 3, &agents, NOON).await);
    assert!(leftovers::remove(&lab.records, &lab.live).await.unwrap());
    assert!(lab.spec("h6").await.instances.is_empty());
    assert_eq!(kept(&lab, "h6").await, [2], "an undo would bring it back");
    lab.apply("shop", &[("main", "app:3", "h1")]).await.unwrap();
    assert!(lab.settle("shop", 4, &agents, NOON).await);
    assert!(leftovers::remove(&lab.records, &lab.live).await.unwrap());
    assert_eq!(kept(&lab, "h6").await, [0; 0], "no undo leads there now");
    assert_eq!(kept(&lab, "h1").await, [2]);
}

/// A host that went back has what it went back to, and keeps that.
#[tokio::test]
async fn a_host_that_goes_back_is_told_the_same_to_keep() {
    let (lab, agents) = six(ALL).await;
    lab.apply("shop", &[("main", "app:2", "*")]).await.unwrap();
    let mut seconds = 0;
    while !lab.advance("shop", 2, later(seconds)).await {
        report(&lab, &agents, &SIX, 2).await;
        seconds += 5;
        assert!(seconds < 900, "it never ends");
    }
    let spec = lab.spec("h1").await;
    assert_eq!((spec.instances[0].revision, kept(&lab, "h1").await), (1, vec![1]));
}

#[tokio::test]
async fn what_an_operator_stopped_stays_stopped_through_a_revision() {
    let lab = Lab::new().await;
    first(&lab, WEB).await;
    let mut spec = lab.spec("h1").await;
    spec.instances[0].run = RunState::Stopped;
    spec.instances[0].restarts = 3;
    spec.generation += 1;
    lab.put("id-h1", &HostSpecRecord { spec: Some(spec.into()) }).await;
    lab.apply("shop", &[("main", "app:2", "role=web")]).await.unwrap();
    let (one, two) = (lab.connect("h1"), lab.connect("h2"));
    while state(&lab, 2).await != RolloutState::Completed {
        one.report(&lab.spec("h1").await, InstanceState::Stopped);
        two.catch_up(&lab).await;
        lab.advance("shop", 2, NOON).await;
    }
    let main = &lab.spec("h1").await.instances[0];
    assert_eq!((main.run, main.restarts, main.revision), (RunState::Stopped, 3, 2));
}

/// Whoever waits for an instance on another host is to wait for the new one.
#[tokio::test]
async fn hosts_of_what_comes_first_are_told_first() {
    let lab = Lab::new().await;
    let mut spec =
        fleet("shop", &[("app", "app:1", "h1"), ("db", "app:1", "h3"), ("web", "app:1", "h2")]);
    for (instance, after) in [("app", "shop/db"), ("web", "shop/app")] {
        let name: InstanceName = instance.parse().unwrap();
        let settings = &mut spec.instances.get_mut(&name).unwrap().settings;
        settings.after = [after.parse().unwrap()].into();
    }
    lab.fleets().apply(request(&spec), ADA, NOON).await.unwrap();
    lab.roll("shop", 1).await;
    let record = lab.rollout("shop", 1).await.record;
    let batch = |host: &str| record.hosts[&format!("id-{host}")].batch;
    assert_eq!(["h3", "h1", "h2"].map(batch), [Some(1), Some(2), Some(3)]);
}

#[tokio::test]
async fn a_new_host_knows_the_infra_before_it_starts_anything() {
    let lab = Lab::new().await;
    let address = Some("192.0.2.3".parse().unwrap());
    lab.facts("h3", Some(HostFacts { idmapped_squashfs: true, address, ..HostFacts::default() }))
        .await;
    lab.apply("infra", &[("sql", "app:1", "h3")]).await.unwrap();
    lab.roll("infra", 1).await;
    lab.apply("shop", &[("main", "app:1", "h1")]).await.unwrap();
    let one = lab.connect("h1");
    while lab.spec("h1").await.instances.is_empty() {
        one.catch_up(&lab).await;
        lab.advance("shop", 1, NOON).await;
    }
    let peers = lab.spec("h1").await.peers;
    let told: Vec<String> = peers.iter().map(|peer| peer.id.to_string()).collect();
    assert_eq!(told, ["infra/sql"]);
}
