use shoal_core::status::{Health, InstanceStatus};
use shoal_core::time::Timestamp;

use super::*;

fn status(generation: u64, state: State) -> HostStatus {
    let instance = InstanceStatus {
        id: "shop/main".parse().unwrap(),
        revision: 3,
        image: "shop:1".parse().unwrap(),
        digest: [1; 32].into(),
        state,
        health: Health::None,
        since: Timestamp(0),
        current: true,
        leader: None,
        restarts: 0,
        uid_base: None,
        message: Some("exit code 1".into()),
        paused: false,
        drift: vec![],
        last_exit: None,
        addresses: vec![],
        went_back: None,
    };
    HostStatus { observed_generation: generation, instances: vec![instance], ..Default::default() }
}

fn judged(status: &HostStatus, verb: RunVerb, patient: bool) -> Outcome {
    judge(Some(status), 7, &"shop/main".parse().unwrap(), verb, patient).0
}

#[test]
fn only_a_status_of_the_right_generation_proves_anything() {
    use Outcome::{Done, Failed, Recorded};
    use RunVerb::{Restart, Start, Stop};
    let table = [
        (6, State::Running, Start, true, Recorded),
        (7, State::Running, Start, true, Done),
        (8, State::Running, Restart, true, Done),
        (7, State::Starting, Start, true, Recorded),
        (7, State::Stopped, Start, true, Recorded),
        (7, State::Failed, Start, true, Recorded),
        (7, State::Failed, Start, false, Failed),
        (6, State::Stopped, Stop, true, Recorded),
        (7, State::Stopped, Stop, true, Done),
        (7, State::Stopping, Stop, true, Recorded),
        (7, State::Running, Stop, false, Recorded),
    ];
    for (generation, state, verb, patient, expected) in table {
        let outcome = judged(&status(generation, state), verb, patient);
        assert_eq!(outcome, expected, "{generation} {state} {verb:?} {patient}");
    }
    let instance = "shop/main".parse().unwrap();
    assert_eq!(judge(None, 7, &instance, Start, true).0, Recorded);
    let other = HostStatus { observed_generation: 7, ..Default::default() };
    assert_eq!(judge(Some(&other), 7, &instance, Start, true).0, Recorded);
}

#[test]
fn the_worst_host_decides() {
    let host = |host: &str, outcome| HostRunView {
        host: host.into(),
        generation: 7,
        changed: true,
        outcome,
        reason: Some("why".into()),
    };
    let view = |outcomes: &[Outcome]| RunView {
        instance: "shop/main".into(),
        hosts: outcomes.iter().map(|outcome| host("h1", *outcome)).collect(),
    };
    use Outcome::{Done, Failed, Offline, Recorded, TimedOut};
    let end = |outcomes: &[Outcome]| conclude(&view(outcomes), RunVerb::Restart);
    assert!(end(&[Done, Recorded]).is_ok());
    assert!(matches!(end(&[Done, Offline]), Err(RunError::Offline { .. })));
    assert!(matches!(end(&[Offline, TimedOut]), Err(RunError::TimedOut { .. })));
    assert!(matches!(end(&[TimedOut, Failed, Offline]), Err(RunError::Failed { .. })));
    let all = view(&[Done, Recorded, Offline, Failed, TimedOut]);
    insta::assert_snapshot!(text(&all, RunVerb::Restart));
    insta::assert_snapshot!(end(&[Failed, Done]).unwrap_err().to_string());
}
