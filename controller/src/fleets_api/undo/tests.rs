use shoal_core::status::HostStatus;
use shoal_core::status::State as InstanceState;
use shoal_proto::v1::store::{AuditRecord, HostRecord, HostStatusRecord, LockRecord};
use shoal_proto::v1::{Lock, RolloutState};

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON, fleet, infra, infra_done, request};
use crate::store::Batch;

const ONE: &[(&str, &str, &str)] = &[("main", "app:1", "role=web")];
const TWO: &[(&str, &str, &str)] = &[("main", "app:2", "*")];

/// A fleet `shop` of two revisions that were proved.
async fn two() -> Lab {
    let lab = Lab::new().await;
    for (revision, instances) in [(1, ONE), (2, TWO)] {
        lab.apply("shop", instances).await.unwrap();
        lab.roll("shop", revision).await;
    }
    lab
}

async fn back(lab: &Lab, to_revision: u64) -> Result<UndoResponse, Refusal> {
    let request = UndoRequest { fleet: "shop".into(), to_revision, ..UndoRequest::default() };
    undo(&lab.records, &Applying::default(), &request, ADA, NOON).await
}

fn refused(result: Result<UndoResponse, Refusal>) -> String {
    match result {
        Err(Refusal::Precondition(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_has_ended_is_undone_by_a_revision_with_the_images_of_then() {
    let lab = two().await;
    // The tag has moved since.
    lab.image("app:1", 3).await;
    let done = back(&lab, 0).await.unwrap();
    assert_eq!(done, UndoResponse { revision: 3, to_revision: 1, in_place: false });
    let [one, three] = [1, 3].map(|n| inventory::revision(&lab.records, "shop", n));
    let (one, three) = (one.await.unwrap(), three.await.unwrap());
    assert_eq!((&three.spec, three.source.as_str()), (&one.spec, "undo to revision 1"));
    let rollout = lab.rollout("shop", 3).await.record;
    assert_eq!((rollout.hosts.len(), rollout.back_to), (3, Some(2)), "h3 loses it");
    lab.roll("shop", 3).await;
    assert_eq!(lab.spec("h1").await.instances[0].config.image.digest, [1; 32].into());
    assert!(lab.spec("h3").await.instances.is_empty());
    let audit = lab.records.list::<AuditRecord>().await.unwrap().records;
    let detail = |entry: &AuditRecord| (entry.what.clone(), entry.detail.clone());
    let wanted = ("Rollouts/Undo".to_owned(), "revision 3: as revision 1".to_owned());
    assert!(audit.iter().any(|entry| detail(&entry.record) == wanted));
}

#[tokio::test]
async fn a_rollout_that_is_under_way_goes_back_in_place() {
    let lab = two().await;
    lab.apply("shop", &[("main", "app:3", "*")]).await.unwrap();
    let agents = ["h1", "h2", "h3"].map(|host| lab.connect(host));
    while lab.spec("h1").await.instances[0].revision != 3 {
        agents[0].catch_up(&lab).await;
        lab.advance("shop", 3, NOON).await;
    }
    let text = refused(back(&lab, 1).await);
    assert!(text.contains("can be taken back to revision 2; to go to revision 1,"), "{text}");
    let done = back(&lab, 0).await.unwrap();
    assert_eq!(done, UndoResponse { revision: 3, to_revision: 2, in_place: true });
    assert_eq!(back(&lab, 2).await.unwrap(), done, "it does");
    let agents: Vec<_> = agents.iter().collect();
    assert!(lab.settle("shop", 3, &agents, NOON).await);
    let record = lab.rollout("shop", 3).await.record;
    assert_eq!(record.state(), RolloutState::RolledBack);
    assert_eq!(record.cause.as_deref(), Some("ada took it back"));
    let text = refused(back(&lab, 0).await);
    assert!(text.contains("its hosts went back to revision 2 already"), "{text}");
    assert_eq!(back(&lab, 1).await.unwrap().revision, 4);
}

#[tokio::test]
async fn where_there_is_nothing_to_undo_it_says_so() {
    let lab = Lab::new().await;
    lab.apply("shop", ONE).await.unwrap();
    let text = refused(back(&lab, 0).await);
    assert!(text.contains("there is nothing to go back to"), "{text}");
    lab.roll("shop", 1).await;
    let text = refused(back(&lab, 0).await);
    assert!(text.contains("has no revision before 1 that was proved"), "{text}");
    let text = refused(back(&lab, 1).await);
    assert!(text.contains("revision 1 is the newest already, so there is nothing"), "{text}");
    assert!(matches!(back(&lab, 7).await, Err(Refusal::NotFound(_))));
    lab.apply("shop", TWO).await.unwrap();
    lab.roll("shop", 2).await;
    assert_eq!(back(&lab, 1).await.unwrap().revision, 3);
    lab.roll("shop", 3).await;
    let text = refused(back(&lab, 1).await);
    assert!(text.contains("revision 1 says the same as revision 3"), "{text}");
    assert_eq!(back(&lab, 0).await.unwrap().to_revision, 2);
}

#[tokio::test]
async fn hosts_that_are_gone_are_left_out_and_named() {
    let lab = Lab::new().await;
    lab.apply("shop", TWO).await.unwrap();
    lab.roll("shop", 1).await;
    lab.apply("shop", &[("main", "app:3", "h1")]).await.unwrap();
    lab.roll("shop", 2).await;
    let mut batch = Batch::new();
    batch.delete::<HostRecord>("id-h3").unwrap();
    lab.records.commit(batch).await.unwrap();
    assert_eq!(back(&lab, 1).await.unwrap().revision, 3);
    let revision = inventory::revision(&lab.records, "shop", 3).await.unwrap();
    assert_eq!(revision.source, "undo to revision 1, without id-h3 (removed)");
    let hosts: Vec<&str> = revision.hosts.keys().map(HostId::as_str).collect();
    assert_eq!(hosts, ["id-h1", "id-h2"]);
    lab.roll("shop", 3).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_judged_as_for_an_apply() {
    let lab = Lab::new().await;
    let web = |name: &str, image: &str, port: &str| {
        let mut spec = fleet(name, &[("main", image, "h1")]);
        let settings = &mut spec.instances.values_mut().next().unwrap().settings;
        settings.ports = vec![port.parse().unwrap()];
        request(&spec)
    };
    for (revision, port) in [(1, "80"), (2, "81")] {
        lab.fleets().apply(web("shop", "app:1", port), ADA, NOON).await.unwrap();
        lab.roll("shop", revision).await;
    }
    lab.fleets().apply(web("other", "app:2", "80"), ADA, NOON).await.unwrap();
    let text = refused(back(&lab, 0).await);
    assert!(text.contains("port 80/tcp of the host is also that of other/main"), "{text}");
}

#[tokio::test]
async fn an_image_that_was_removed_is_named() {
    let lab = two().await;
    let mut batch = Batch::new();
    let digest: shoal_core::image::Digest = [1; 32].into();
    batch.delete::<ImageRecord>(&digest.to_string()).unwrap();
    lab.records.commit(batch).await.unwrap();
    let text = refused(back(&lab, 0).await);
    assert!(text.contains("were removed: image app:1 (010101010101); apply"), "{text}");
}

#[tokio::test]
async fn someone_elses_lock_stops_a_new_revision_and_not_the_way_back() {
    let lab = two().await;
    let lock = |holder: &str| LockRecord {
        lock: Some(Lock { holder: holder.into(), until_ms: NOON.0 + 1, ..Lock::default() }),
    };
    lab.put("shop", &lock("spiffe://test/user/bob")).await;
    let error = back(&lab, 0).await.unwrap_err();
    assert!(matches!(&error, Refusal::Conflict(text) if text.contains("is locked: bob holds")));
    lab.put("shop", &lock(ADA)).await;
    lab.apply("shop", &[("main", "app:3", "*")]).await.unwrap();
    lab.put("shop", &lock("spiffe://test/user/bob")).await;
    let agent = lab.connect("h1");
    while lab.spec("h1").await.instances[0].revision != 3 {
        agent.catch_up(&lab).await;
        lab.advance("shop", 3, NOON).await;
    }
    assert!(back(&lab, 0).await.unwrap().in_place);
}

/// A revision that failed and was left is no proof: what is undone is the one before.
#[tokio::test]
async fn a_revision_that_failed_is_undone_to_the_last_that_was_proved() {
    let lab = Lab::new().await;
    lab.apply("shop", ONE).await.unwrap();
    lab.roll("shop", 1).await;
    for revision in [2, 3] {
        let image = format!("app:{revision}");
        let mut spec = fleet("shop", &[("main", image.as_str(), "role=web")]);
        spec.rollout.on_failure = shoal_core::rollout::OnFailure::Pause;
        lab.fleets().apply(request(&spec), ADA, NOON).await.unwrap();
        let agents = ["h1", "h2"].map(|host| lab.connect(host));
        for _ in 0..6 {
            for (agent, host) in agents.iter().zip(["h1", "h2"]) {
                let spec = lab.spec(host).await;
                match spec.instances[0].revision == revision {
                    true => agent.report(&spec, InstanceState::Failed),
                    false => agent.converge(&spec),
                }
            }
            lab.advance("shop", revision, NOON).await;
        }
        let late = NOON.after(std::time::Duration::from_secs(2 * 24 * 60 * 60));
        lab.advance("shop", revision, late).await;
        assert!(lab.advance("shop", revision, late.after(LATE)).await);
        assert_eq!(lab.rollout("shop", revision).await.record.state(), RolloutState::Failed);
    }
    assert_eq!(back(&lab, 0).await.unwrap().to_revision, 1);
}

const LATE: std::time::Duration = std::time::Duration::from_secs(2 * 24 * 60 * 60);

/// An infra of two versions that were proved, the second with a snapshot; `hosts` say that they
/// have it.
async fn two_versions(hosts: &[&str]) -> Lab {
    let lab = Lab::new().await;
    for (revision, version) in [(1, "1"), (2, "2")] {
        let wanted = request(&infra(version, &[("sql", "app:1", "h1,h2")]));
        lab.fleets().apply(wanted, ADA, NOON).await.unwrap();
        lab.roll("infra", revision).await;
    }
    for host in hosts {
        let done = infra_done(&"2".parse().unwrap());
        let infra = Some(shoal_core::infra::Status { snapshots: vec![2], ..done });
        let status = HostStatus { infra, ..HostStatus::default() };
        let record = HostStatusRecord { status: Some(status.into()) };
        lab.put(&format!("id-{host}"), &record).await;
    }
    lab
}

async fn with_data(lab: &Lab, fleet: &str) -> Result<UndoResponse, Refusal> {
    let request = UndoRequest { fleet: fleet.into(), data: true, ..UndoRequest::default() };
    undo(&lab.records, &Applying::default(), &request, ADA, NOON).await
}

#[tokio::test]
async fn data_goes_back_with_a_version_where_an_operator_says_so() {
    let lab = two_versions(&["h1", "h2"]).await;
    assert_eq!(with_data(&lab, "infra").await.unwrap().revision, 3);
    lab.roll("infra", 3).await;
    let infra = lab.spec("h1").await.infra.unwrap();
    assert_eq!((infra.version.as_str(), infra.revision, infra.undo), ("1", 3, Some(2)));
    let audit = lab.records.list::<AuditRecord>().await.unwrap().records;
    let wanted = "revision 3: as revision 1, with its data";
    assert!(audit.iter().any(|entry| entry.record.detail == wanted));
}

#[tokio::test]
async fn data_does_not_go_back_where_none_was_copied() {
    let text = refused(with_data(&two_versions(&["h1"]).await, "infra").await);
    assert!(text.contains("no data was copied before version 2 on h2"), "{text}");
    let text = refused(with_data(&two().await, "shop").await);
    assert!(text.starts_with("fleet shop has no infra version"), "{text}");
    // Not by two versions at once: what was copied last is of the one before.
    let lab = two_versions(&["h1", "h2"]).await;
    let third = request(&infra("3", &[("sql", "app:1", "h1,h2")]));
    lab.fleets().apply(third, ADA, NOON).await.unwrap();
    lab.roll("infra", 3).await;
    let fleet = "infra".to_owned();
    let far = UndoRequest { fleet, data: true, to_revision: 1, ..UndoRequest::default() };
    let text = refused(undo(&lab.records, &Applying::default(), &far, ADA, NOON).await);
    assert!(text.contains("from 3 to version 2, and revision 1 is of another"), "{text}");
}
