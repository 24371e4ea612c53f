//! What agents report.

use shoal_core::status::{Health, HostStatus, InstanceStatus, LastExit, RetainedData, State};
use shoal_core::time::Timestamp;

use super::{Invalid, digest, digest_bytes, parse, recipe_bytes, recipe_id};
use crate::v1;

impl TryFrom<v1::HostStatus> for HostStatus {
    type Error = Invalid;

    fn try_from(wire: v1::HostStatus) -> Result<Self, Invalid> {
        let v1::HostStatus {
            observed_generation,
            instances,
            images,
            retained,
            problems,
            agent,
            infra,
            transfers,
            serves,
        } = wire;
        Ok(Self {
            observed_generation,
            instances: instances.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            images: images.iter().map(|d| digest("images", d)).collect::<Result<_, _>>()?,
            retained: retained.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            problems,
            agent: agent.map(TryInto::try_into).transpose()?,
            infra: infra.map(TryInto::try_into).transpose()?,
            transfers: transfers.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            serves: serves.iter().map(|id| recipe_id("serves", id)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<HostStatus> for v1::HostStatus {
    fn from(status: HostStatus) -> Self {
        let HostStatus {
            observed_generation,
            instances,
            images,
            retained,
            problems,
            agent,
            infra,
            transfers,
            serves,
        } = status;
        Self {
            observed_generation,
            instances: instances.into_iter().map(Into::into).collect(),
            images: images.iter().map(digest_bytes).collect(),
            retained: retained.into_iter().map(Into::into).collect(),
            problems,
            agent: agent.map(Into::into),
            infra: infra.map(Into::into),
            transfers: transfers.into_iter().map(Into::into).collect(),
            serves: serves.iter().map(recipe_bytes).collect(),
        }
    }
}

impl TryFrom<v1::RetainedData> for RetainedData {
    type Error = Invalid;

    fn try_from(wire: v1::RetainedData) -> Result<Self, Invalid> {
        let v1::RetainedData { machine, volumes } = wire;
        let volumes: Result<_, Invalid> = volumes.iter().map(|v| parse("volumes", v)).collect();
        Ok(Self { machine: parse("machine", &machine)?, volumes: volumes? })
    }
}

impl From<RetainedData> for v1::RetainedData {
    fn from(data: RetainedData) -> Self {
        let RetainedData { machine, volumes } = data;
        Self {
            machine: machine.to_string(),
            volumes: volumes.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::InstanceStatus> for InstanceStatus {
    type Error = Invalid;

    fn try_from(wire: v1::InstanceStatus) -> Result<Self, Invalid> {
        let v1::InstanceStatus {
            id,
            revision,
            image,
            digest: bytes,
            state,
            health,
            since_ms,
            current,
            leader,
            restarts,
            uid_base,
            message,
            paused,
            drift,
            last_exit,
            addresses,
            went_back,
        } = wire;
        Ok(Self {
            id: parse("id", &id)?,
            revision,
            image: parse("image", &image)?,
            digest: digest("digest", &bytes)?,
            state: state_from(state)?,
            health: health_from(health)?,
            since: Timestamp(since_ms),
            current,
            leader,
            restarts,
            uid_base,
            message,
            paused,
            drift,
            last_exit: last_exit.map(Into::into),
            went_back,
            addresses: addresses.iter().map(|a| parse("addresses", a)).collect::<Result<_, _>>()?,
        })
    }
}

impl From<InstanceStatus> for v1::InstanceStatus {
    fn from(status: InstanceStatus) -> Self {
        let InstanceStatus {
            id,
            revision,
            image,
            digest,
            state,
            health,
            since,
            current,
            leader,
            restarts,
            uid_base,
            message,
            paused,
            drift,
            last_exit,
            addresses,
            went_back,
        } = status;
        Self {
            id: id.to_string(),
            revision,
            image: image.to_string(),
            digest: digest_bytes(&digest),
            state: state_to(state).into(),
            health: health_to(health).into(),
            since_ms: since.0,
            current,
            leader,
            restarts,
            uid_base,
            message,
            paused,
            drift,
            last_exit: last_exit.map(Into::into),
            went_back,
            addresses: addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<v1::LastExit> for LastExit {
    fn from(wire: v1::LastExit) -> Self {
        let v1::LastExit { at_ms, reason } = wire;
        Self { at: Timestamp(at_ms), reason }
    }
}

impl From<LastExit> for v1::LastExit {
    fn from(exit: LastExit) -> Self {
        let LastExit { at, reason } = exit;
        Self { at_ms: at.0, reason }
    }
}

fn state_from(wire: i32) -> Result<State, Invalid> {
    use v1::InstanceState as Wire;
    let unknown = Invalid::Unknown { field: "state", value: wire };
    Ok(match Wire::try_from(wire) {
        Ok(Wire::Pending) => State::Pending,
        Ok(Wire::Staging) => State::Staging,
        Ok(Wire::Blocked) => State::Blocked,
        Ok(Wire::Starting) => State::Starting,
        Ok(Wire::Running) => State::Running,
        Ok(Wire::Stopping) => State::Stopping,
        Ok(Wire::Stopped) => State::Stopped,
        Ok(Wire::Failed) => State::Failed,
        Ok(Wire::Degraded) => State::Degraded,
        Ok(Wire::Unspecified) | Err(_) => return Err(unknown),
    })
}

fn state_to(state: State) -> v1::InstanceState {
    use v1::InstanceState as Wire;
    match state {
        State::Pending => Wire::Pending,
        State::Staging => Wire::Staging,
        State::Blocked => Wire::Blocked,
        State::Starting => Wire::Starting,
        State::Running => Wire::Running,
        State::Stopping => Wire::Stopping,
        State::Stopped => Wire::Stopped,
        State::Failed => Wire::Failed,
        State::Degraded => Wire::Degraded,
    }
}

fn health_from(wire: i32) -> Result<Health, Invalid> {
    use v1::InstanceHealth as Wire;
    let unknown = Invalid::Unknown { field: "health", value: wire };
    Ok(match Wire::try_from(wire) {
        Ok(Wire::None) => Health::None,
        Ok(Wire::Starting) => Health::Starting,
        Ok(Wire::Healthy) => Health::Healthy,
        Ok(Wire::Unhealthy) => Health::Unhealthy,
        Ok(Wire::Unspecified) | Err(_) => return Err(unknown),
    })
}

fn health_to(health: Health) -> v1::InstanceHealth {
    match health {
        Health::None => v1::InstanceHealth::None,
        Health::Starting => v1::InstanceHealth::Starting,
        Health::Healthy => v1::InstanceHealth::Healthy,
        Health::Unhealthy => v1::InstanceHealth::Unhealthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_wire() {
        let states = [
            State::Pending,
            State::Staging,
            State::Blocked,
            State::Starting,
            State::Running,
            State::Stopping,
            State::Stopped,
            State::Failed,
            State::Degraded,
        ];
        let healths = [Health::None, Health::Starting, Health::Healthy, Health::Unhealthy];
        for (at, state) in states.into_iter().enumerate() {
            let instance = InstanceStatus {
                id: "a/b".parse().unwrap(),
                revision: 4,
                image: "app:1".parse().unwrap(),
                digest: [3; 32].into(),
                state,
                health: healths[at % healths.len()],
                since: Timestamp(12),
                current: at % 2 == 0,
                leader: Some(77),
                restarts: 5,
                uid_base: Some(524_288),
                message: Some("why".into()),
                paused: at % 2 == 1,
                drift: vec!["/etc/x was edited".into()],
                last_exit: Some(LastExit { at: Timestamp(4), reason: "exit code 1".into() }),
                went_back: (at == 2).then(|| "it failed".to_owned()),
                addresses: vec!["10.0.0.2".parse().unwrap()],
            };
            let status = HostStatus {
                observed_generation: 8,
                instances: vec![instance],
                images: vec![[3; 32].into()],
                retained: vec![RetainedData {
                    machine: "a-c".parse().unwrap(),
                    volumes: vec!["var".parse().unwrap()],
                }],
                problems: vec!["disk".into()],
                agent: None,
                infra: None,
                transfers: vec![],
                serves: vec![[9; 32].into()],
            };
            assert_eq!(HostStatus::try_from(v1::HostStatus::from(status.clone())), Ok(status));
        }
    }
}
