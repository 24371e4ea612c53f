use shoal_proto::v1::{StagedImage, StagingState};

use super::*;

fn view(states: &[(&str, StagingState)]) -> StagedView {
    let one = |(host, state): &(&str, StagingState)| StagedImage {
        reference: "shop:1".into(),
        digest: vec![1; 32].into(),
        host: (*host).to_owned(),
        state: (*state).into(),
        reason: if *state == StagingState::Failed { "disk full".into() } else { String::new() },
        ..StagedImage::default()
    };
    StagedView::read(states.iter().map(one).collect()).unwrap()
}

#[test]
fn the_end_says_what_is_missing_and_why() {
    let end = |states: &[(&str, StagingState)], in_time| {
        conclude("shop:1".into(), &view(states), in_time)
    };
    let there = ("h1", StagingState::Staged);
    assert!(end(&[there], true).is_ok());
    assert!(end(&[there], false).is_ok(), "just in time");
    let partly = end(&[there, ("h2", StagingState::Failed), ("h3", StagingState::Offline)], true);
    let error = partly.unwrap_err();
    assert!(matches!(&error, StageError::Partial { hosts, .. } if hosts.len() == 2), "{error}");
    assert!(error.to_string().contains("\n  h2: failed: disk full\n  h3: offline\n"), "{error}");
    let late = end(&[there, ("h2", StagingState::Going)], false).unwrap_err();
    assert!(matches!(late, StageError::TimedOut { .. }), "{late}");
    let failed = end(&[("h2", StagingState::Failed)], false).unwrap_err();
    assert!(matches!(failed, StageError::Partial { .. }), "more time would not have helped");
}
