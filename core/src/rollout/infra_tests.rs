//! When a host is through with an infra version, or has failed it.

use super::tests::{SECOND, rollout, status_of};
use super::*;
use crate::agent_upgrade::{self, AgentStatus};
use crate::infra;
use crate::status::{Health, InstanceStatus, State as InstanceState};

/// What is known of `a`, which was told of infra version 2 in generation 9.
fn infra_host(infra: Option<infra::Status>, app: InstanceStatus) -> HostProgress {
    infra_host_told(None, infra, app, None)
}

/// The same, where it was told that to go `back`, and where the infra brings an agent.
fn infra_host_told(
    back: Option<u64>,
    infra: Option<infra::Status>,
    app: InstanceStatus,
    agent: Option<AgentStatus>,
) -> HostProgress {
    let fleet: FleetName = infra::FLEET.parse().unwrap();
    let mut status = status_of(9, InstanceState::Running, Health::Healthy);
    status.instances[0].id = "infra/sql".parse().unwrap();
    status.instances.push(app);
    status.infra = infra;
    let version = "2".parse().unwrap();
    let mut rollout = Rollout { fleet, ..rollout(&["a"]) };
    let host: HostId = "a".parse().unwrap();
    let progress = rollout.hosts.get_mut(&host).unwrap();
    *progress = HostProgress { batch: Some(1), generation: Some(9), back, ..progress.clone() };
    let state = if back.is_some() { State::RollingBack } else { State::Changing };
    (rollout.state, rollout.batch) = (state, 1);
    let agent = agent.map(|agent| {
        let version = agent.version.clone();
        status.agent = Some(agent);
        version
    });
    for seconds in [0, 20] {
        let observe = |_: &HostId| Observation {
            online: true,
            status: Some(&status),
            staged: true,
            unstaged: None,
            infra: Some(&version),
            agent: agent.as_ref(),
        };
        rollout = step(rollout, observe, Timestamp(seconds * SECOND));
    }
    rollout.hosts[&host].clone()
}

fn on_its_way(has: Option<&str>, wants: &str, phase: infra::Phase) -> Option<infra::Status> {
    let waits = (phase == infra::Phase::Starting).then(|| "waits for shop/main".to_owned());
    Some(infra::Status {
        has: has.map(|version| version.parse().unwrap()),
        since: None,
        wants: Some(wants.parse().unwrap()),
        phase,
        waits,
        snapshots: vec![],
    })
}

fn app(state: InstanceState, current: bool) -> InstanceStatus {
    let mut status = status_of(9, state, Health::None).instances.remove(0);
    status.current = current;
    status
}

#[test]
fn a_host_is_ready_under_an_infra_once_it_runs_the_agent_that_comes_with_it() {
    use agent_upgrade::Phase::{Current, Fetching, Rejected};
    let told = |phase, message: &str| {
        let (version, message) = ("0.3.0".parse().unwrap(), message.to_owned());
        let agent = AgentStatus { version, digest: [1; 32].into(), asked: 1, phase, message };
        let infra = on_its_way(Some("2"), "2", infra::Phase::Done);
        infra_host_told(None, infra, app(InstanceState::Running, true), Some(agent)).outcome
    };
    assert_eq!(told(Current, ""), Outcome::Ready);
    assert_eq!(told(Fetching, ""), Outcome::Changing("waits for agent 0.3.0 (fetching)".into()));
    let Outcome::Failed(why) = told(Rejected, "it ended at once") else { panic!("it failed") };
    assert!(why.starts_with("agent 0.3.0 was rejected: it ended at once"), "{why}");
}

#[test]
fn a_host_is_ready_under_an_infra_version_once_it_has_written_it_down() {
    use infra::Phase::{Done, Preparing, Starting};
    let runs = || app(InstanceState::Running, true);
    let cases = [
        (on_its_way(Some("2"), "2", Done), Outcome::Ready),
        (
            on_its_way(Some("1"), "2", Starting),
            Outcome::Changing("infra 2 (starting): waits for shop/main".into()),
        ),
        (on_its_way(Some("2"), "2", Preparing), Outcome::Changing("infra 2 (preparing)".into())),
        (on_its_way(Some("1"), "2", Done), Outcome::Changing("infra 2: has 1 on record".into())),
        (
            on_its_way(Some("1"), "1", Done),
            Outcome::Changing("infra 2: its agent goes for 1".into()),
        ),
        (None, Outcome::Changing("its agent knows no infra versions; upgrade it".into())),
    ];
    for (infra, outcome) in cases {
        assert_eq!(infra_host(infra, runs()).outcome, outcome);
    }
}

#[test]
fn a_host_is_back_under_an_infra_version_once_its_apps_work_under_it_again() {
    let done = || on_its_way(Some("2"), "2", infra::Phase::Done);
    let outcome = |app| infra_host_told(Some(9), done(), app, None).outcome;
    let starting = outcome(app(InstanceState::Starting, true));
    assert_eq!(starting, Outcome::GoingBack("shop/main: starting: exited with 1".into()));
    assert_eq!(outcome(app(InstanceState::Running, true)), Outcome::Back);
    let failed = outcome(app(InstanceState::Failed, true));
    assert_eq!(failed, Outcome::Failed("shop/main: exited with 1".into()));
}

#[test]
fn an_app_that_fails_under_an_infra_version_is_the_versions_failure() {
    let starting = || on_its_way(Some("1"), "2", infra::Phase::Starting);
    let failed = app(InstanceState::Failed, true);
    let outcome = infra_host(starting(), failed.clone()).outcome;
    assert_eq!(outcome, Outcome::Failed("shop/main: exited with 1".into()));
    // It failed before, and was not made afresh yet.
    let before = infra_host(starting(), app(InstanceState::Failed, false)).outcome;
    assert!(matches!(before, Outcome::Changing(_)), "{before:?}");
    let mut back = failed.clone();
    back.went_back = Some("exited with 1".into());
    let back = infra_host(starting(), back).outcome;
    assert!(matches!(back, Outcome::Changing(_)), "{back:?}");
    let done = on_its_way(Some("2"), "2", infra::Phase::Done);
    assert_eq!(infra_host(done, failed).outcome, Outcome::Ready, "it worked under it before");
}
