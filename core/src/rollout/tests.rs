use super::*;
use crate::status::{Health, HostStatus, InstanceStatus, State as InstanceState};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

pub(super) fn rollout(hosts: &[&str]) -> Rollout {
    let hosts = hosts.iter().enumerate();
    let place = |at: usize| HostProgress::pending(u32::try_from(at).unwrap());
    Rollout {
        fleet: "shop".parse().unwrap(),
        revision: 2,
        back_to: Some(1),
        policy: Policy::default(),
        offline: Offline::Wait,
        timeout: Duration::from_secs(600),
        state: State::Planned,
        hold: None,
        batch: 0,
        proofs: 0,
        promoted: 0,
        ready_since: None,
        cause: None,
        hosts: hosts.map(|(at, host)| (host.parse().unwrap(), place(at))).collect(),
        started: Timestamp(0),
        deadline: Timestamp(10 * MINUTE),
        ended: None,
    }
}

pub(super) fn status_of(generation: u64, state: InstanceState, health: Health) -> HostStatus {
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
        went_back: None,
        addresses: vec![],
    };
    HostStatus {
        observed_generation: generation,
        instances: vec![instance],
        ..HostStatus::default()
    }
}
