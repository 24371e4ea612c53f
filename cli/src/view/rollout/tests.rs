use shoal_core::time::Timestamp;
use shoal_proto::v1::{self, HoldKind, OutcomeKind, RolloutState};

use super::*;
use crate::view::samples::{self, MINUTE, NOW, hold, second_batch};

fn read(wire: v1::Rollout) -> RolloutView {
    wire.try_into().unwrap()
}

fn text(wire: v1::Rollout) -> String {
    read(wire).text(Timestamp(NOW), false)
}

#[test]
fn all_of_a_rollout_is_shown() {
    insta::assert_snapshot!("under-way", text(second_batch(RolloutState::Changing)));
    let why = "user/ada paused it: a look at the graphs";
    let held =
        v1::Rollout { hold: hold(HoldKind::Operator, why), ..second_batch(RolloutState::Changing) };
    insta::assert_snapshot!("paused", text(held));
    let ended = v1::Rollout {
        cause: "shop/main: exit code 1".into(),
        ended_ms: Some(NOW - MINUTE),
        back_to: None,
        offline: v1::OfflineHosts::Skip.into(),
        policy: None,
        ..samples::rollout(RolloutState::Failed, &[("h1", OutcomeKind::Failed, "exit code 1")])
    };
    insta::assert_snapshot!("failed", text(ended));
}

#[test]
fn the_document_of_a_rollout_is_whole() {
    let held = v1::Rollout {
        hold: hold(HoldKind::Promotion, "batch 2 is healthy"),
        ready_since_ms: Some(NOW),
        ..second_batch(RolloutState::Planned)
    };
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&read(held)).unwrap());
}

/// A rollout from its first look to its end, as a CI job's log has it.
#[test]
fn a_log_has_a_line_for_each_change() {
    use RolloutState::{Changing, Monitoring, Planned, RolledBack, RollingBack, Staging, Waiting};
    let mut policy: v1::RolloutPolicy = shoal_core::rollout::Policy::default().into();
    policy.monitor_ms = 30_000;
    let new = |state| v1::Rollout { policy: Some(policy.clone()), ..second_batch(state) };
    let with = |state, batch, hosts: &[(usize, OutcomeKind, &str)]| {
        let mut rollout = v1::Rollout { batch, ..new(state) };
        for host in &mut rollout.hosts {
            (host.outcome, host.batch) = (OutcomeKind::Pending.into(), 0);
        }
        for (at, outcome, reason) in hosts {
            let host = &mut rollout.hosts[*at];
            (host.outcome, host.reason) = ((*outcome).into(), (*reason).to_owned());
            host.batch = if *at == 0 { 1 } else { 2 };
        }
        rollout
    };
    let (ready, failed) = (OutcomeKind::Ready, OutcomeKind::Failed);
    let waits = (0, OutcomeKind::Changing, "waits for the agent");
    let broken = [(0, ready, ""), (1, failed, "shop/main: exit code 1"), (2, ready, "")];
    let cause = "shop/main: exit code 1".to_owned();
    let back = [
        (0, OutcomeKind::GoingBack, "waits for the agent"),
        (1, OutcomeKind::Back, ""),
        (2, OutcomeKind::Offline, ""),
    ];
    let promotion = hold(HoldKind::Promotion, "batch 1 is healthy; `promote` begins the next");
    let steps = [
        with(Planned, 0, &[]),
        with(Staging, 1, &[(0, OutcomeKind::Staging, "")]),
        with(Changing, 1, &[waits]),
        with(Monitoring, 1, &[(0, ready, "")]),
        v1::Rollout { hold: promotion, ..with(Planned, 1, &[(0, ready, "")]) },
        with(Changing, 2, &[(0, ready, ""), (1, OutcomeKind::Staging, "")]),
        with(Changing, 2, &broken),
        v1::Rollout { cause: cause.clone(), ..with(RollingBack, 2, &broken) },
        v1::Rollout { cause: cause.clone(), ..with(RollingBack, 2, &back) },
        v1::Rollout { cause, ..with(RolledBack, 2, &back[1..]) },
        with(Waiting, 2, &back[2..]),
    ];
    let mut lines = Vec::new();
    let mut before: Option<RolloutView> = None;
    for (number, step) in steps.into_iter().enumerate() {
        let now = read(step);
        let news = now.news(before.as_ref()).into_iter();
        lines.extend(news.map(|news| format!("{number} {:?}: {}", news.weight, news.text)));
        before = Some(now);
    }
    insta::assert_snapshot!("log", lines.join("\n"));
}

#[test]
fn of_many_hosts_only_what_comes_of_them_is_told() {
    let names: Vec<String> = (1..=20).map(|n| format!("h{n:02}")).collect();
    let of = |outcome, reason: &'static str| {
        let hosts: Vec<_> = names.iter().map(|name| (name.as_str(), outcome, reason)).collect();
        read(samples::rollout(RolloutState::Changing, &hosts))
    };
    let begun = of(OutcomeKind::Changing, "waits for the agent");
    let before = RolloutView { batch: 0, ..begun.clone() };
    let lines = begun.news(Some(&before));
    assert_eq!(lines.len(), 1);
    assert_eq!(
        lines[0].text,
        "batch 1: h01, h02, h03, h04, h05, h06, h07, h08, h09, h10 and 10 more"
    );
    assert_eq!(of(OutcomeKind::Ready, "").news(Some(&begun)).len(), 20);
    let scene = begun.scene();
    assert_eq!(scene.lines.len(), 11);
    assert_eq!(scene.lines[10], "… and 10 more");
}

#[test]
fn a_terminal_shows_bars_hosts_and_what_holds_it() {
    let shown = |wire: v1::Rollout| {
        let Scene { head, bars, lines } = read(wire).scene();
        let bars = bars.iter().map(|bar| format!("[{}: {}/{}]", bar.label, bar.done, bar.total));
        [head].into_iter().chain(bars).chain(lines).collect::<Vec<_>>().join("\n")
    };
    let window = v1::Rollout {
        hold: hold(HoldKind::Window, "no maintenance window is open"),
        deadline_ms: NOW + 68 * MINUTE,
        batch: 0,
        ..samples::rollout(RolloutState::Planned, &[])
    };
    let back = v1::Rollout {
        cause: "shop/main: exit code 1".into(),
        ..second_batch(RolloutState::RollingBack)
    };
    let many = v1::Rollout { batch: 8, ..second_batch(RolloutState::Changing) };
    let all = [second_batch(RolloutState::Changing), window, back, many].map(shown);
    insta::assert_snapshot!("scenes", all.join("\n\n"));
}

#[test]
fn who_had_failed_is_known_when_all_is_back() {
    let hosts = [("h1", OutcomeKind::Back, ""), ("h2", OutcomeKind::Back, "")];
    let mut wire = samples::rollout(RolloutState::RolledBack, &hosts);
    assert_eq!(read(wire.clone()).troubled(), "");
    wire.hosts[1].failed = "shop/main: exit code 1".into();
    let shown = text(wire.clone());
    assert!(shown.contains("had failed: shop/main: exit code 1"), "{shown}");
    assert_eq!(read(wire).troubled(), " (failed: h2)");
}

const UNTOLD: &str = "h1: offline: was not told; apply again when it is back";

#[test]
fn what_becomes_of_a_host_that_is_offline_depends_on_the_rollout() {
    use RolloutState::{Aborted, Changing, Partial, RolledBack, RollingBack};
    let line = |state, generation| {
        let mut wire = samples::rollout(state, &[("h1", OutcomeKind::Offline, "")]);
        wire.hosts[0].generation = generation;
        let view = read(wire);
        view.hosts[0].line(view.state)
    };
    for (state, told, untold) in [
        (Changing, "h1: offline: changes when it is back", "h1: offline: changes when it is back"),
        (Partial, "h1: offline: changes when it is back", UNTOLD),
        (RollingBack, "h1: offline: goes back when it returns", "h1: offline"),
        (RolledBack, "h1: offline: goes back when it returns", "h1: offline"),
        (Aborted, "h1: offline: changes when it is back", "h1: offline"),
    ] {
        assert_eq!((line(state, Some(7)).as_str(), line(state, None).as_str()), (told, untold));
    }
    let mut wire = samples::rollout(RolledBack, &[("h1", OutcomeKind::Offline, "")]);
    (wire.hosts[0].generation, wire.hosts[0].stray) = (None, true);
    let stray = read(wire);
    assert_eq!(stray.hosts[0].line(stray.state), "h1: offline: goes back when it returns");
}

#[test]
fn a_window_opens_when_the_rest_of_the_time_begins() {
    let at = |kind| {
        let wire = v1::Rollout {
            hold: hold(kind, "why"),
            deadline_ms: NOW + 68 * MINUTE,
            ..samples::rollout(RolloutState::Planned, &[])
        };
        read(wire).window_opens()
    };
    assert_eq!(at(HoldKind::Window), Some(At::new(NOW + 60 * MINUTE)));
    assert_eq!(at(HoldKind::Operator), None);
}

#[test]
fn what_a_newer_controller_says_is_refused() {
    let bad = [
        v1::Rollout { offline: 9, ..second_batch(RolloutState::Changing) },
        v1::Rollout {
            hold: hold(HoldKind::Unspecified, "why"),
            ..second_batch(RolloutState::Changing)
        },
        v1::Rollout {
            policy: Some(v1::RolloutPolicy::default()),
            ..second_batch(RolloutState::Changing)
        },
    ];
    for wire in bad {
        assert!(RolloutView::try_from(wire).is_err());
    }
}
