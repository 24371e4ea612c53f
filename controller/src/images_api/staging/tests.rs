use shoal_core::status::HostStatus;
use shoal_proto::v1::StagingState;
use shoal_proto::v1::store::{AuditRecord, HostNameRecord};

use super::*;
use crate::blobs::Blobs;
use crate::fleets_api::tests_support::{ADA, Lab, NOON};

struct World {
    lab: Lab,
    images: Images,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::new().await;
        for host in ["h1", "h2", "h3"] {
            lab.put(host, &HostNameRecord { id: format!("id-{host}") }).await;
        }
        let blobs = Blobs::new(&lab.dir.path().join("images"));
        let (records, live) = (lab.records.clone(), lab.live.clone());
        let transfers = lab.transfers().await;
        let images = Images::over(records, blobs, live, transfers, CancellationToken::new());
        Self { lab, images }
    }

    async fn stage(
        &self,
        name: &str,
        hosts: &[&str],
        selector: &str,
    ) -> Result<Vec<String>, Refusal> {
        let request = StageImageRequest {
            name: name.into(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            selector: selector.into(),
            keep_ms: 0,
        };
        let staged = self.images.stage(request, ADA, NOON).await?.staged;
        Ok(staged.into_iter().map(|staged| staged.host).collect())
    }

    async fn unstage(&self, name: &str, hosts: &[&str]) -> Vec<String> {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        let request = UnstageImageRequest { name: name.into(), hosts, selector: String::new() };
        self.images.unstage(request, ADA, NOON).await.unwrap().hosts
    }

    async fn listed(&self) -> Vec<(String, StagingState, String)> {
        let listed = self.images.list_staged(ListStagedRequest::default()).await.unwrap();
        let staged = listed.staged.into_iter();
        staged.map(|staged| (staged.host.clone(), staged.state(), staged.reason)).collect()
    }

    async fn spec(&self, host: &str) -> HostSpec {
        let stored = self.lab.records.get::<HostSpecRecord>(&format!("id-{host}")).await.unwrap();
        stored.map(|stored| inventory::spec(&stored).unwrap()).unwrap_or_default()
    }

    async fn staged_on(&self, host: &str) -> Vec<String> {
        let stage = self.spec(host).await.stage;
        stage.iter().map(|image| image.reference.to_string()).collect()
    }

    async fn look(&self, after: Duration) {
        look(&self.lab.records, &self.lab.live, NOON.after(after)).await.unwrap();
    }
}

#[tokio::test]
async fn hosts_are_told_once_and_it_is_on_record() {
    let world = World::new().await;
    assert_eq!(world.stage("app:1", &[], "role=web").await.unwrap(), ["h1", "h2"]);
    assert_eq!(world.staged_on("h1").await, ["app:1"]);
    assert_eq!(world.staged_on("h3").await, [""; 0]);
    let generation = world.spec("h1").await.generation;
    assert_eq!(world.stage("app:1", &["h1"], "").await.unwrap(), ["h1"]);
    assert_eq!(world.spec("h1").await.generation, generation, "nothing new is wanted");
    let audit = world.lab.records.list::<AuditRecord>().await.unwrap().records;
    let entries: Vec<_> =
        audit.iter().map(|e| (e.record.what.as_str(), e.record.detail.as_str())).collect();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(entries.contains(&("Images/Stage", "on h2")));
}

#[tokio::test]
async fn what_cant_be_meant_is_refused_and_changes_nothing() {
    let world = World::new().await;
    for (name, hosts, selector, wanted) in [
        ("app:9", &[][..], "", "there is no image app:9"),
        ("app", &[], "", "name"),
        ("app:1", &["h9"], "", "h9"),
        ("app:1", &[], "role=none", "no host is meant"),
        ("app:1", &[], "=", "is not a label"),
    ] {
        let error = world.stage(name, hosts, selector).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{name} {selector}: {error}");
    }
    assert_eq!(world.listed().await, []);
    let keep_ms = 1;
    let request = StageImageRequest { name: "app:1".into(), keep_ms, ..Default::default() };
    assert!(world.images.stage(request, ADA, NOON).await.is_err());
}

#[tokio::test]
async fn it_is_taken_back_from_some_or_all() {
    let world = World::new().await;
    world.stage("app:1", &[], "").await.unwrap();
    world.stage("app:2", &["h1"], "").await.unwrap();
    assert_eq!(world.unstage("app:1", &["h1"]).await, ["h1"]);
    assert_eq!(world.staged_on("h1").await, ["app:2"]);
    assert_eq!(world.unstage("app:1", &[]).await, ["h2", "h3"]);
    assert_eq!(world.staged_on("h3").await, [""; 0]);
    assert_eq!(world.unstage("app:1", &[]).await, [""; 0]);
    assert_eq!(world.listed().await.len(), 1);
}

#[tokio::test]
async fn clearing_up_after_rollouts_leaves_it() {
    let world = World::new().await;
    world.stage("app:1", &["h1"], "").await.unwrap();
    assert!(remove_leftovers(&world.lab.records, &world.lab.live).await.unwrap());
    assert_eq!(world.staged_on("h1").await, ["app:1"]);
}

#[tokio::test]
async fn a_desired_state_that_lost_it_gets_it_back() {
    let world = World::new().await;
    world.stage("app:1", &["h1"], "").await.unwrap();
    let spec = HostSpec { stage: Vec::new(), ..world.spec("h1").await };
    world.lab.put("id-h1", &HostSpecRecord { spec: Some(spec.clone().into()) }).await;
    world.look(Duration::ZERO).await;
    assert_eq!(world.staged_on("h1").await, ["app:1"]);
    assert!(world.spec("h1").await.generation > spec.generation);
}

#[tokio::test]
async fn it_ends_by_its_use_its_time_or_with_its_host() {
    let world = World::new().await;
    world.stage("app:1", &[], "").await.unwrap();
    world.lab.apply("shop", &[("main", "app:1", "h1")]).await.unwrap();
    world.lab.roll("shop", 1).await;
    world.look(Duration::ZERO).await;
    let hosts = async || -> Vec<String> {
        world.listed().await.into_iter().map(|(host, _, _)| host).collect()
    };
    assert_eq!(hosts().await, ["h2", "h3"], "it is in use on h1");
    assert_eq!(world.stage("app:1", &["h1"], "").await.unwrap(), ["h1"]);
    assert_eq!(hosts().await, ["h2", "h3"], "and needs no record for that");
    let host = world.lab.records.get::<HostRecord>("id-h3").await.unwrap().unwrap();
    let mut batch = Batch::new();
    batch.remove(&host).unwrap();
    world.lab.records.commit(batch).await.unwrap();
    world.look(USUAL - Duration::from_secs(1)).await;
    assert_eq!(
        (hosts().await, world.staged_on("h2").await),
        (vec!["h2".into()], vec!["app:1".into()])
    );
    world.look(USUAL).await;
    assert_eq!((hosts().await, world.staged_on("h2").await), (vec![], vec![]));
}

#[tokio::test]
async fn an_image_that_is_staged_is_not_removed() {
    let world = World::new().await;
    world.stage("app:1", &["h1"], "").await.unwrap();
    let request = shoal_proto::v1::RemoveImageRequest { name: "app:1".into() };
    let error = world.images.remove(request.clone(), ADA, NOON).await.unwrap_err().to_string();
    assert!(error.contains("being staged on 1 hosts"), "{error}");
    world.unstage("app:1", &[]).await;
    world.images.remove(request, ADA, NOON).await.unwrap();
}

#[tokio::test]
async fn states_are_what_agents_report() {
    let world = World::new().await;
    world.stage("app:1", &[], "").await.unwrap();
    let offline = |host: &str| (host.to_owned(), StagingState::Offline, String::new());
    assert_eq!(world.listed().await, [offline("h1"), offline("h2"), offline("h3")]);
    let [one, two, three] = ["h1", "h2", "h3"].map(|host| world.lab.connect(host));
    let digest = Digest::from([1; 32]);
    let report = |host: &str, status: HostStatus| {
        world.lab.live.report(&format!("id-{host}").parse().unwrap(), status);
    };
    report("h1", HostStatus { images: vec![digest], ..HostStatus::default() });
    let problem = "image app:1, which a revision to come needs: the disk is full".to_owned();
    report("h2", HostStatus { problems: vec![problem.clone()], ..HostStatus::default() });
    assert_eq!(
        world.listed().await,
        [
            ("h1".to_owned(), StagingState::Staged, String::new()),
            ("h2".to_owned(), StagingState::Failed, problem),
            ("h3".to_owned(), StagingState::Waiting, String::new()),
        ]
    );
    drop((one, two, three));
}
