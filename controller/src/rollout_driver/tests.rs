use std::sync::Mutex;

use async_trait::async_trait;
use shoal_core::spec::RunState;
use shoal_core::status::State as InstanceState;
use shoal_proto::v1::store::HostProgress;
use shoal_proto::v1::{OutcomeKind, RolloutState};

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON, fleet, request};
use crate::records::revision_id;
use crate::store::{
    Entry, Key, Page, Prefix, Revision as StoreRevision, Store, StoreError, Transaction, Watch,
};

const WEB: &[(&str, &str, &str)] = &[("main", "app:1", "role=web")];

/// A store that dies after a number of commits, as a controller does.
#[derive(Debug)]
struct Mortal {
    store: Arc<dyn Store>,
    commits: Mutex<usize>,
}

impl Mortal {
    fn records(records: &Records, commits: usize) -> Records {
        let store = records.store().clone();
        Records::new(Arc::new(Self { store, commits: Mutex::new(commits) }))
    }
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

fn outcome(record: &RolloutRecord, host: &str) -> (OutcomeKind, String) {
    let HostProgress { reason, .. } = &record.hosts[&format!("id-{host}")];
    (record.hosts[&format!("id-{host}")].outcome(), reason.clone())
}

#[tokio::test]
async fn a_rollout_tells_its_hosts_and_completes_on_proof() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let (one, two) = (lab.connect("h1"), lab.connect("h2"));
    assert!(!lab.advance("shop", 1, NOON).await);
    let record = lab.rollout("shop", 1).await.record;
    assert_eq!(record.state(), RolloutState::Changing);
    assert_eq!(outcome(&record, "h1").0, OutcomeKind::Changing, "connected, and yet to report");
    one.converge(&lab.spec("h1").await);
    assert!(!lab.advance("shop", 1, NOON).await);
    two.converge(&lab.spec("h2").await);
    assert!(lab.advance("shop", 1, NOON).await);
    assert_eq!(lab.rollout("shop", 1).await.record.state(), RolloutState::Completed);
}

/// Kills the controller after each of its commits in turn, and looks whether the next one brings
/// the rollout to the same end, with every host told exactly once.
#[tokio::test]
async fn a_controller_killed_anywhere_carries_on() {
    for commits in 0..5 {
        let lab = Lab::new().await;
        lab.apply("shop", &[("main", "app:1", "*")]).await.unwrap();
        let id = revision_id("shop", 1);
        let mortal = Mortal::records(&lab.records, commits);
        let killed = advance(&mortal, &lab.live, &id, NOON).await;
        assert_eq!(killed.is_err(), commits < 4, "three hosts and a look are four commits");
        lab.advance("shop", 1, NOON).await;
        let agents: Vec<_> = ["h1", "h2", "h3"].into_iter().map(|h| lab.connect(h)).collect();
        for (agent, host) in agents.iter().zip(["h1", "h2", "h3"]) {
            let spec = lab.spec(host).await;
            assert_eq!((spec.generation, spec.instances.len()), (1, 1), "{commits} {host}");
            agent.converge(&spec);
        }
        // Killed once more, at the end.
        let mortal = Mortal::records(&lab.records, 0);
        assert!(advance(&mortal, &lab.live, &id, NOON).await.is_err());
        assert!(lab.advance("shop", 1, NOON).await);
        assert!(lab.advance("shop", 1, NOON).await, "an end stays one");
        assert_eq!(lab.rollout("shop", 1).await.record.state(), RolloutState::Completed);
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
async fn a_superseded_revision_never_reaches_a_host() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    // A driver that has read the rollout before the newer revision is applied …
    let id = revision_id("shop", 1);
    let pass = Pass::begin(&lab.records, &lab.live, &id, NOON).await.unwrap().unwrap();
    lab.apply("shop", &[("main", "app:2", "role=web")]).await.unwrap();
    // … and goes on after.
    assert!(matches!(pass.carry_out().await, Err(Interrupted::Conflict)));
    assert!(lab.spec("h1").await.instances.is_empty());
    assert!(lab.advance("shop", 1, NOON).await);
    lab.advance("shop", 2, NOON).await;
    let spec = lab.spec("h1").await;
    assert_eq!((spec.generation, spec.instances[0].revision), (1, 2));
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
    assert_eq!(lab.rollout("shop", 1).await.record.state(), RolloutState::Superseded);
    assert!(lab.spec("h1").await.instances.is_empty());
}

#[tokio::test]
async fn a_removed_host_fails_alone_and_stalls_nothing() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let mut batch = Batch::new();
    batch.delete::<HostRecord>("id-h1").unwrap();
    lab.records.commit(batch).await.unwrap();
    let agent = lab.connect("h2");
    agent.converge(&HostSpec::default());
    assert!(!lab.advance("shop", 1, NOON).await);
    agent.converge(&lab.spec("h2").await);
    assert!(lab.advance("shop", 1, NOON).await);
    let record = lab.rollout("shop", 1).await.record;
    assert_eq!(record.state(), RolloutState::Failed);
    assert_eq!(outcome(&record, "h1"), (OutcomeKind::Failed, "the host was removed".into()));
    assert_eq!(outcome(&record, "h2").0, OutcomeKind::Ready);
}

#[tokio::test]
async fn the_deadline_ends_it_with_offline_hosts_named() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let agent = lab.connect("h1");
    lab.advance("shop", 1, NOON).await;
    agent.converge(&lab.spec("h1").await);
    let late = NOON.after(Duration::from_secs(600));
    assert!(lab.advance("shop", 1, late).await);
    let record = lab.rollout("shop", 1).await.record;
    assert_eq!(record.state(), RolloutState::Partial);
    assert_eq!(outcome(&record, "h2").0, OutcomeKind::Offline);
    // The host has its desired state and catches up by itself.
    assert_eq!(lab.spec("h2").await.instances.len(), 1);
}

#[tokio::test]
async fn reasons_are_kept_short_and_a_refusing_agent_is_told_of() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let (one, _two) = (lab.connect("h1"), lab.connect("h2"));
    one.converge(&HostSpec::default());
    lab.advance("shop", 1, NOON).await;
    lab.live.refused(&one.id, 1, "é".repeat(5000));
    lab.advance("shop", 1, NOON).await;
    let record = lab.rollout("shop", 1).await;
    let (kind, reason) = outcome(&record.record, "h1");
    assert_eq!(kind, OutcomeKind::Changing);
    assert!(reason.contains("refused generation 1"), "{reason}");
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
            for (agent, host) in agents.iter().zip(["h1", "h2", "h3"]) {
                agent.converge(&lab.spec(host).await);
            }
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

#[tokio::test]
async fn what_an_operator_stopped_stays_stopped_through_a_revision() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    lab.advance("shop", 1, NOON).await;
    let mut spec = lab.spec("h1").await;
    spec.instances[0].run = RunState::Stopped;
    spec.instances[0].restarts = 3;
    spec.generation += 1;
    lab.put("id-h1", &HostSpecRecord { spec: Some(spec.into()) }).await;
    lab.apply("shop", &[("main", "app:2", "role=web")]).await.unwrap();
    let (one, two) = (lab.connect("h1"), lab.connect("h2"));
    lab.advance("shop", 2, NOON).await;
    let spec = lab.spec("h1").await;
    assert_eq!(spec.generation, 3);
    let main = &spec.instances[0];
    assert_eq!((main.run, main.restarts, main.revision), (RunState::Stopped, 3, 2));
    one.report(&spec, InstanceState::Stopped);
    two.converge(&lab.spec("h2").await);
    assert!(lab.advance("shop", 2, NOON).await);
    assert_eq!(lab.rollout("shop", 2).await.record.state(), RolloutState::Completed);
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
    lab.advance("shop", 1, NOON).await;
    let mut told = lab.records.list::<HostSpecRecord>().await.unwrap().records;
    told.sort_by_key(|stored| stored.modified);
    let order: Vec<&str> = told.iter().map(|stored| stored.id.as_str()).collect();
    assert_eq!(order, ["id-h3", "id-h1", "id-h2"]);
}
