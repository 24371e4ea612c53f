use shoal_core::time::Timestamp;
use shoal_proto::v1::{self, DrainEnd, OutcomeKind, RolloutState};

use super::HostsView;
use super::drain::DrainView;
use super::token::TokensView;
use crate::view::samples::{self, MINUTE, NOW};

fn now() -> Timestamp {
    Timestamp(NOW)
}

fn json(view: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(view).unwrap()
}

fn cordon(reason: &str, drains: bool) -> Option<v1::Cordon> {
    let by = "spiffe://example.org/user/ann".to_owned();
    Some(v1::Cordon { by, reason: reason.into(), since_ms: NOW - 7 * MINUTE, drains })
}

#[test]
fn hosts_that_take_no_instances() {
    let hosts = vec![
        v1::Host { cordon: cordon("bad disk", false), ..samples::host("h1", true) },
        v1::Host { cordon: cordon("", true), ..samples::host("h2", true) },
        v1::Host { cordon: cordon("gone\u{1b}", true), ..samples::host("h3", false) },
    ];
    let view = HostsView::read(hosts).unwrap();
    insta::assert_snapshot!("cordoned-table", view.table(now(), false));
    let line = |host: &super::HostView| {
        let details = host.details(now());
        details.lines().find(|line| line.starts_with("Cordon")).unwrap().to_owned()
    };
    let lines: Vec<String> = view.hosts.iter().map(line).collect();
    insta::assert_snapshot!("cordoned-details", lines.join("\n"));
    insta::assert_snapshot!("cordoned-json", json(&view.hosts[0].cordon));
}

#[test]
fn tokens() {
    let token = |id: &str, in_minutes: i64, host: Option<&str>, used_by: Option<&str>| v1::Token {
        id: id.into(),
        expires_ms: NOW.saturating_add_signed(in_minutes * i64::try_from(MINUTE).unwrap()),
        host_name: host.map(Into::into),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        created_by: "spiffe://example.org/user/ann".into(),
        used_by: used_by.map(Into::into),
    };
    let tokens = vec![
        token("0a0a", -5, None, Some("h1")),
        token("0b0b", -5, None, None),
        token("0c0c", 10, Some("h4"), None),
    ];
    let view = TokensView::read(tokens, now());
    insta::assert_snapshot!("tokens-table", view.table(now(), false));
    insta::assert_snapshot!("tokens-json", json(&view));
    let none = TokensView::read(vec![], now()).table(now(), false);
    assert_eq!(none, "No join tokens. `shoal host token create` makes one.");
}

fn fleet(name: &str, instances: &[&str], why: &str, over: bool) -> v1::DrainingFleet {
    v1::DrainingFleet {
        fleet: name.into(),
        instances: instances.iter().map(|i| format!("{name}/{i}")).collect(),
        why: why.into(),
        over,
        rollout: None,
    }
}

fn drain(end: DrainEnd, fleets: Vec<v1::DrainingFleet>) -> DrainView {
    let retained = v1::RetainedData {
        machine: "shop-db".into(),
        volumes: vec!["var".into(), "log".into()],
    };
    let wire = v1::DrainHostResponse { fleets, retained: vec![retained], end: end.into() };
    DrainView::read("h2", wire).unwrap()
}

fn moving(state: RolloutState, outcome: OutcomeKind, left: &[&str]) -> v1::DrainingFleet {
    let rollout = Some(samples::rollout(state, &[("h1", outcome, "")]));
    let why = if left.is_empty() { "" } else { "the rollout of revision 3 is at batch 1" };
    v1::DrainingFleet { rollout, ..fleet("shop", left, why, left.is_empty()) }
}

#[test]
fn a_drain_tells_what_it_does_and_what_came_of_it() {
    let begun = drain(
        DrainEnd::Unspecified,
        vec![
            fleet("shop", &["db", "web"], "", false),
            fleet("wiki", &["app"], "fleet wiki is locked: user/bob holds it", false),
        ],
    );
    let on_its_way = drain(
        DrainEnd::Unspecified,
        vec![
            moving(RolloutState::Changing, OutcomeKind::Changing, &["db"]),
            fleet("wiki", &["app"], "fleet wiki is locked: user/bob holds it", false),
        ],
    );
    let over = drain(
        DrainEnd::Empty,
        vec![
            moving(RolloutState::Completed, OutcomeKind::Ready, &[]),
            fleet("wiki", &[], "", true),
        ],
    );
    let said = [
        begun.news(None),
        on_its_way.news(Some(&begun)),
        over.news(Some(&on_its_way)),
        vec!["--".to_owned(), over.text()],
    ];
    insta::assert_snapshot!("drain-text", said.concat().join("\n"));
    insta::assert_snapshot!("drain-json", json(&begun));
    assert_eq!(over.left(), [""; 0]);
}

#[test]
fn what_is_left_has_its_reason() {
    let many = ["a", "b", "c", "d", "e", "f"];
    let view = drain(
        DrainEnd::Left,
        vec![
            fleet("shop", &["db"], "instance db: count = 3\ninstance web: no", true),
            fleet("wiki", &many, "the host is offline", true),
            fleet("next", &[], "the time was up before it began", false),
            fleet("gone", &[], "", true),
        ],
    );
    insta::assert_snapshot!("drain-left", view.left().join("\n"));
    assert!(!view.text().contains("is drained"), "{}", view.text());
}
