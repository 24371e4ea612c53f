use shoal_proto::v1::store::AuditRecord;
use shoal_proto::v1::{HoldKind, RolloutState};

use super::*;
use crate::fleets_api::tests_support::{ADA, Lab, NOON};

const WEB: &[(&str, &str, &str)] = &[("main", "app:1", "role=web")];

fn request(command: RolloutCommand, reason: &str) -> ControlRolloutRequest {
    let command = command.into();
    ControlRolloutRequest { fleet: "shop".into(), command, reason: reason.into(), hold_ms: 0 }
}

async fn say(lab: &Lab, command: RolloutCommand, reason: &str) -> Result<Rollout, Refusal> {
    let said = control(&lab.records, request(command, reason), ADA, NOON).await;
    said.map(|(_, rollout)| rollout)
}

#[tokio::test]
async fn what_is_said_is_kept_with_who_and_why_and_is_in_the_audit_log() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    say(&lab, RolloutCommand::Pause, "lunch").await.unwrap();
    let hold = lab.rollout("shop", 1).await.record.hold.unwrap();
    assert_eq!((hold.kind(), hold.why.as_str()), (HoldKind::Operator, "ada paused it: lunch"));
    say(&lab, RolloutCommand::Resume, "").await.unwrap();
    assert_eq!(lab.rollout("shop", 1).await.record.hold, None);
    let ended = say(&lab, RolloutCommand::Abort, "wrong day").await.unwrap();
    assert!(ended.state.is_final());
    let record = lab.rollout("shop", 1).await.record;
    assert_eq!(record.state(), RolloutState::Aborted);
    assert_eq!(record.cause.as_deref(), Some("ada aborted it: wrong day"));
    let audit = lab.records.list::<AuditRecord>().await.unwrap().records;
    let said = audit.iter().map(|entry| &entry.record).filter(|r| r.what == "Rollouts/Control");
    let mut said: Vec<&str> = said.map(|record| record.detail.as_str()).collect();
    said.sort_unstable();
    let wanted = ["abort revision 1: wrong day", "pause revision 1: lunch", "resume revision 1"];
    assert_eq!(said, wanted);
}

#[tokio::test]
async fn a_pause_ends_the_rollout_where_nobody_resumes_it() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    let hold = ControlRolloutRequest { hold_ms: 60_000, ..request(RolloutCommand::Pause, "") };
    control(&lab.records, hold, ADA, NOON).await.unwrap();
    assert!(!lab.advance("shop", 1, NOON.after(Duration::from_secs(59))).await);
    assert!(lab.advance("shop", 1, NOON.after(Duration::from_secs(60))).await);
    assert_eq!(lab.rollout("shop", 1).await.record.state(), RolloutState::TimedOut);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_to_do() {
    let lab = Lab::new().await;
    lab.apply("shop", WEB).await.unwrap();
    for (command, wanted) in [
        (RolloutCommand::Resume, "the rollout is not paused; `shoal rollout show shop` tells"),
        (RolloutCommand::Promote, "the rollout waits for no `promote`; `shoal rollout show shop`"),
    ] {
        let error = say(&lab, command, "").await.unwrap_err();
        assert!(matches!(error, Refusal::Precondition(_)), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    lab.roll("shop", 1).await;
    let error = say(&lab, RolloutCommand::Abort, "").await.unwrap_err().to_string();
    assert!(error.starts_with("fleet shop, revision 1: the rollout has ended; "), "{error}");
    let error = say(&lab, RolloutCommand::Unspecified, "").await.unwrap_err();
    assert!(matches!(error, Refusal::Invalid(_)), "{error}");
    let error = say(&lab, RolloutCommand::Pause, "a\nb").await.unwrap_err();
    assert!(matches!(error, Refusal::Invalid(_)), "{error}");
}
