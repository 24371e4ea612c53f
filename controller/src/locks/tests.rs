use shoal_proto::v1::ApplyRequest;
use shoal_proto::v1::store::AuditRecord;

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON, fleet, request};

const WEB: &[(&str, &str, &str)] = &[("main", "app:1", "role=web")];
const BOB: &str = "spiffe://test/user/bob";

fn caller(identity: &str, role: Role) -> Caller {
    let identity = identity.parse().unwrap();
    Caller { identity, standing: Standing::Person(role), key_sha256: [0; 32] }
}

fn later(seconds: u64) -> Timestamp {
    NOON.after(Duration::from_secs(seconds))
}

/// A fleet `shop` whose rollout has ended.
async fn settled() -> Lab {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    lab.roll("shop", 1).await;
    lab
}

fn wanted(reason: &str, seconds: u64) -> LockRequest {
    LockRequest { fleet: "shop".into(), reason: reason.into(), for_ms: seconds * 1000 }
}

async fn take(lab: &Lab, who: &str, reason: &str, now: Timestamp) -> Result<Lock, Refusal> {
    let by = caller(who, Role::Deployer);
    let taken = lock(&lab.records, wanted(reason, 600), &by, now).await;
    taken.map(|response| response.lock.unwrap())
}

async fn end(lab: &Lab, by: &Caller, force: bool, now: Timestamp) -> Result<bool, Refusal> {
    let request = UnlockRequest { fleet: "shop".into(), force };
    unlock(&lab.records, request, by, now).await.map(|response| response.was_locked)
}

async fn apply(lab: &Lab, who: &str, now: Timestamp) -> Result<u64, Refusal> {
    let wanted = request(&fleet("shop", &[("main", "app:2", "role=web")]));
    lab.fleets().apply(wanted, who, now).await.map(|applied| applied.revision)
}

fn conflict<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    match result {
        Err(Refusal::Conflict(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lock_stops_others_never_its_holder_and_expires() {
    let lab = settled().await;
    let held = take(&lab, ADA, "migration", NOON).await.unwrap();
    assert_eq!((held.holder.as_str(), held.until_ms), (ADA, later(600).0));
    let text = conflict(apply(&lab, BOB, later(60)).await);
    assert_eq!(
        text,
        "fleet shop is locked: ada holds it since 22:13 UTC (migration), until 22:23 UTC at the \
         latest; wait with --lock-wait, ask them, or have an operator end it with `shoal rollout \
         unlock shop --force`"
    );
    assert_eq!(conflict(take(&lab, BOB, "", later(60)).await), text);
    let fleets = lab.fleets().list(later(60)).await.unwrap().fleets;
    assert_eq!(fleets[0].lock.as_ref(), Some(&held));
    let longer = take(&lab, ADA, "still", later(60)).await.unwrap();
    assert_eq!((longer.since_ms, longer.until_ms), (NOON.0, later(660).0));
    // What changes nothing is no change that a lock could keep from anyone.
    let same = lab.fleets().apply(request(&fleet("shop", WEB)), BOB, later(61)).await.unwrap();
    assert!(!same.changed);
    assert_eq!(apply(&lab, ADA, later(61)).await.unwrap(), 2);
    lab.roll("shop", 2).await;
    assert_eq!(lab.fleets().list(later(660)).await.unwrap().fleets[0].lock, None);
    let back = request(&fleet("shop", WEB));
    assert_eq!(lab.fleets().apply(back, BOB, later(660)).await.unwrap().revision, 3);
}

#[tokio::test]
async fn a_lock_is_its_holders_to_give_up_and_an_operators_to_end() {
    let lab = settled().await;
    let (ada, bob) = (caller(ADA, Role::Deployer), caller(BOB, Role::Deployer));
    assert!(!end(&lab, &ada, false, NOON).await.unwrap(), "there is none");
    take(&lab, ADA, "", NOON).await.unwrap();
    for force in [false, true] {
        let error = end(&lab, &bob, force, NOON).await.unwrap_err();
        assert!(matches!(error, Refusal::Denied(_)), "{error}");
    }
    let operator = caller(BOB, Role::Operator);
    assert!(matches!(end(&lab, &operator, false, NOON).await, Err(Refusal::Denied(_))));
    assert!(end(&lab, &operator, true, NOON).await.unwrap());
    take(&lab, ADA, "", NOON).await.unwrap();
    assert!(end(&lab, &ada, false, NOON).await.unwrap());
    take(&lab, ADA, "", NOON).await.unwrap();
    assert!(!end(&lab, &bob, false, later(600)).await.unwrap(), "it had expired");
    let audit = lab.records.list::<AuditRecord>().await.unwrap().records;
    let said = |what: &str| audit.iter().filter(|entry| entry.record.what == what).count();
    assert_eq!((said("Rollouts/Lock"), said("Rollouts/Unlock")), (3, 3));
    let forced = format!("held by {ADA}, by force");
    assert!(audit.iter().any(|entry| entry.record.who == BOB && entry.record.detail == forced));
}

#[tokio::test]
async fn a_lock_that_is_none_is_refused() {
    let lab = settled().await;
    let by = caller(ADA, Role::Deployer);
    let refused = async |request| lock(&lab.records, request, &by, NOON).await.unwrap_err();
    assert!(refused(wanted("", 90_000)).await.to_string().contains("24 hours"));
    assert!(refused(wanted("a\nb", 1)).await.to_string().contains("one line"));
    let unknown = LockRequest { fleet: "shpo".into(), ..LockRequest::default() };
    assert!(refused(unknown).await.to_string().contains("did you mean shop?"));
}

#[tokio::test]
async fn a_rollout_that_has_not_ended_stops_others_unless_they_take_its_place() {
    let lab = settled().await;
    let change = |image| request(&fleet("shop", &[("main", image, "role=web")]));
    lab.fleets().apply(change("app:2"), "spiffe://test/ci/deploy", NOON).await.unwrap();
    let wanted = ApplyRequest { replace: false, ..change("app:3") };
    let text = conflict(lab.fleets().apply(wanted, ADA, later(60)).await);
    assert_eq!(
        text,
        "fleet shop is locked: revision 2 is being rolled out by ci/deploy since 22:13 UTC, until \
         22:23 UTC at the latest; wait with --lock-wait, look at it with `shoal rollout watch \
         shop`, or take its place with --replace"
    );
    assert_eq!(lab.fleets().apply(change("app:3"), ADA, later(60)).await.unwrap().revision, 3);
}

/// A lock that is taken between the look and the write stops the write.
#[tokio::test]
async fn a_lock_that_came_in_between_is_noticed() {
    let lab = settled().await;
    let before = Held::load(&lab.records, "shop").await.unwrap();
    take(&lab, ADA, "", NOON).await.unwrap();
    let mut batch = Batch::new();
    before.relied_on(&mut batch).unwrap();
    assert!(matches!(lab.records.commit(batch).await, Err(CommitError::Conflict { .. })));
    let held = Held::load(&lab.records, "shop").await.unwrap();
    let mut batch = Batch::new();
    held.relied_on(&mut batch).unwrap();
    lab.records.commit(batch).await.unwrap();
}
