use proptest::prelude::*;

use super::*;
use crate::status::{Health, InstanceStatus, State as InstanceState};

const MINUTE: u64 = 60_000;

fn id(host: &str) -> HostId {
    host.parse().unwrap()
}

fn rollout(hosts: &[&str]) -> Rollout {
    Rollout {
        fleet: "shop".parse().unwrap(),
        revision: 2,
        state: State::Planned,
        hosts: hosts.iter().map(|h| (id(h), HostProgress::pending())).collect(),
        started: Timestamp(0),
        deadline: Timestamp(10 * MINUTE),
        ended: None,
    }
}

fn all_told(mut rollout: Rollout) -> Rollout {
    for host in rollout.hosts.keys().cloned().collect::<Vec<_>>() {
        rollout = told(rollout, &host, 5);
    }
    rollout
}

fn status(generation: u64, state: InstanceState, health: Health) -> HostStatus {
    let instance = InstanceStatus {
        id: "shop/main".parse().unwrap(),
        revision: 2,
        image: "app:1".parse().unwrap(),
        digest: [1; 32].into(),
        state,
        health,
        since: Timestamp(0),
        current: true,
        leader: None,
        restarts: 0,
        uid_base: None,
        message: Some("exited with 1".into()),
        paused: false,
        drift: vec![],
        last_exit: None,
        addresses: vec![],
    };
    HostStatus {
        observed_generation: generation,
        instances: vec![instance],
        ..HostStatus::default()
    }
}

fn seen(rollout: Rollout, statuses: &[(&str, HostStatus)], now: u64) -> Rollout {
    step(
        rollout,
        |host| {
            let status = statuses.iter().find(|(name, _)| id(name) == *host).map(|(_, s)| s);
            Observation { online: status.is_some(), status }
        },
        Timestamp(now),
    )
}

#[test]
fn every_host_is_told_once() {
    let rollout = rollout(&["h1", "h2"]);
    assert_eq!(actions(&rollout).len(), 2);
    let rollout = told(rollout, &id("h1"), 5);
    assert_eq!(actions(&rollout), [Action::Change(id("h2"))]);
    assert!(actions(&all_told(rollout)).is_empty());
}

#[test]
fn it_completes_on_proof_only() {
    let healthy = status(5, InstanceState::Running, Health::Healthy);
    let old = status(4, InstanceState::Running, Health::Healthy);
    let starting = status(5, InstanceState::Running, Health::Starting);
    for (case, wanted) in
        [(healthy, State::Completed), (old, State::Changing), (starting, State::Changing)]
    {
        let after = seen(all_told(rollout(&["h1"])), &[("h1", case)], 1000);
        assert_eq!(after.state, wanted);
    }
}

#[test]
fn a_fleet_without_hosts_left_completes() {
    let after = seen(rollout(&[]), &[], 0);
    assert_eq!(after.state, State::Completed);
}

#[test]
fn a_failure_counts_after_some_patience_and_names_the_instance() {
    let failed = status(5, InstanceState::Failed, Health::None);
    let early = seen(all_told(rollout(&["h1"])), &[("h1", failed.clone())], 1000);
    assert_eq!(early.state, State::Changing);
    let late = seen(early, &[("h1", failed)], 20_000);
    assert_eq!(late.hosts[&id("h1")].failing_since, Some(Timestamp(1000)));
    assert_eq!(late.state, State::Failed);
    let Outcome::Failed(why) = &late.hosts[&id("h1")].outcome else { panic!("{late:?}") };
    assert_eq!(why, "shop/main: exited with 1");
}

#[test]
fn a_failure_late_in_a_rollout_gets_the_same_patience() {
    let starting = status(5, InstanceState::Starting, Health::None);
    let failed = status(5, InstanceState::Failed, Health::None);
    let slow = seen(all_told(rollout(&["h1"])), &[("h1", starting.clone())], MINUTE);
    let first = seen(slow, &[("h1", failed.clone())], MINUTE + 1000);
    assert_eq!(first.state, State::Changing);
    let again = seen(first, &[("h1", starting.clone())], MINUTE + 2000);
    let second = seen(again, &[("h1", failed.clone())], MINUTE + 10_000);
    assert_eq!(second.state, State::Changing);
    let third = seen(second, &[("h1", starting)], MINUTE + 17_000);
    assert_eq!(third.state, State::Changing, "a start is no failure");
    assert_eq!(seen(third, &[("h1", failed)], MINUTE + 18_000).state, State::Failed);
}

#[test]
fn being_ready_in_between_begins_the_patience_anew() {
    let healthy = status(5, InstanceState::Running, Health::Healthy);
    let starting = status(5, InstanceState::Starting, Health::None);
    let failed = status(5, InstanceState::Failed, Health::None);
    let both = |first: &HostStatus| vec![("h1", first.clone()), ("h2", starting.clone())];
    let first = seen(all_told(rollout(&["h1", "h2"])), &both(&failed), 1000);
    let well = seen(first, &both(&healthy), 5000);
    let ill = seen(well, &both(&failed), 20_000);
    assert_eq!(ill.hosts[&id("h1")].failing_since, Some(Timestamp(20_000)));
}

#[test]
fn an_offline_host_delays_only_itself_and_is_named() {
    let healthy = status(5, InstanceState::Running, Health::Healthy);
    let rollout = all_told(rollout(&["h1", "h2"]));
    let waiting = seen(rollout, &[("h1", healthy.clone())], MINUTE);
    assert_eq!(waiting.state, State::Changing);
    let late = seen(waiting.clone(), &[("h1", healthy.clone())], 10 * MINUTE);
    assert_eq!(late.state, State::Partial);
    assert_eq!(late.hosts[&id("h2")].outcome, Outcome::Offline);
    let back = seen(waiting, &[("h1", healthy.clone()), ("h2", healthy)], 2 * MINUTE);
    assert_eq!(back.state, State::Completed);
}

#[test]
fn an_end_is_final() {
    let healthy = status(5, InstanceState::Running, Health::Healthy);
    let failed = status(5, InstanceState::Failed, Health::None);
    let done = seen(all_told(rollout(&["h1"])), &[("h1", healthy)], 1000);
    assert_eq!(seen(done.clone(), &[("h1", failed)], MINUTE), done);
}

fn any_status() -> impl Strategy<Value = Option<HostStatus>> {
    let states = vec![
        InstanceState::Pending,
        InstanceState::Staging,
        InstanceState::Blocked,
        InstanceState::Starting,
        InstanceState::Running,
        InstanceState::Stopping,
        InstanceState::Failed,
    ];
    let healths = vec![Health::None, Health::Starting, Health::Healthy, Health::Unhealthy];
    prop::option::of(
        (4..7_u64, prop::sample::select(states), prop::sample::select(healths))
            .prop_map(|(generation, state, health)| status(generation, state, health)),
    )
}

proptest! {
    /// Whatever the agents say, in whatever order and however the clock steps, the rollout is
    /// over once its deadline is seen, and its end never changes.
    #[test]
    fn every_history_ends_by_the_deadline(
        history in prop::collection::vec((any_status(), any_status(), 0..12 * MINUTE), 0..20),
    ) {
        let mut now = rollout(&["h1", "h2"]);
        for (first, second, at) in history {
            let before = now.clone();
            let statuses: Vec<(&str, HostStatus)> = [("h1", first), ("h2", second)]
                .into_iter()
                .filter_map(|(host, status)| status.map(|s| (host, s)))
                .collect();
            for Action::Change(host) in actions(&now) {
                now = told(now, &host, 5);
            }
            now = seen(now, &statuses, at);
            if before.state.is_final() {
                prop_assert_eq!(&before, &now);
            }
        }
        for Action::Change(host) in actions(&now) {
            now = told(now, &host, 5);
        }
        let last = seen(now, &[], 10 * MINUTE);
        prop_assert!(last.state.is_final(), "{last:?}");
        prop_assert!(last.ended.is_some());
    }
}
