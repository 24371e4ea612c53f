//! The agent that a host should run, and how far it is with that.

use std::time::Duration;

use shoal_core::agent_upgrade::{AgentSpec, AgentStatus, Phase};

use super::{Invalid, digest, digest_bytes, millis, parse};
use crate::v1;

impl TryFrom<v1::AgentSpec> for AgentSpec {
    type Error = Invalid;

    fn try_from(wire: v1::AgentSpec) -> Result<Self, Invalid> {
        let v1::AgentSpec { version, digest: bytes, size, deadline_ms, asked } = wire;
        Ok(Self {
            version: parse("version", &version)?,
            digest: digest("digest", &bytes)?,
            size,
            deadline: Duration::from_millis(deadline_ms),
            asked,
        })
    }
}

impl From<AgentSpec> for v1::AgentSpec {
    fn from(spec: AgentSpec) -> Self {
        let AgentSpec { version, digest, size, deadline, asked } = spec;
        Self {
            version: version.into(),
            digest: digest_bytes(&digest),
            size,
            deadline_ms: millis(deadline),
            asked,
        }
    }
}

impl TryFrom<v1::AgentStatus> for AgentStatus {
    type Error = Invalid;

    fn try_from(wire: v1::AgentStatus) -> Result<Self, Invalid> {
        let v1::AgentStatus { version, digest: bytes, asked, phase, message } = wire;
        Ok(Self {
            version: parse("version", &version)?,
            digest: digest("digest", &bytes)?,
            asked,
            phase: phase_from(phase)?,
            message,
        })
    }
}

impl From<AgentStatus> for v1::AgentStatus {
    fn from(status: AgentStatus) -> Self {
        let AgentStatus { version, digest, asked, phase, message } = status;
        Self {
            version: version.into(),
            digest: digest_bytes(&digest),
            asked,
            phase: phase_to(phase).into(),
            message,
        }
    }
}

fn phase_from(wire: i32) -> Result<Phase, Invalid> {
    Ok(match v1::AgentPhase::try_from(wire) {
        Ok(v1::AgentPhase::Waiting) => Phase::Waiting,
        Ok(v1::AgentPhase::Fetching) => Phase::Fetching,
        Ok(v1::AgentPhase::Checking) => Phase::Checking,
        Ok(v1::AgentPhase::Trying) => Phase::Trying,
        Ok(v1::AgentPhase::Current) => Phase::Current,
        Ok(v1::AgentPhase::Failed) => Phase::Failed,
        Ok(v1::AgentPhase::Rejected) => Phase::Rejected,
        Ok(v1::AgentPhase::Unspecified) | Err(_) => {
            return Err(Invalid::Unknown { field: "phase", value: wire });
        }
    })
}

fn phase_to(phase: Phase) -> v1::AgentPhase {
    match phase {
        Phase::Waiting => v1::AgentPhase::Waiting,
        Phase::Fetching => v1::AgentPhase::Fetching,
        Phase::Checking => v1::AgentPhase::Checking,
        Phase::Trying => v1::AgentPhase::Trying,
        Phase::Current => v1::AgentPhase::Current,
        Phase::Failed => v1::AgentPhase::Failed,
        Phase::Rejected => v1::AgentPhase::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_wire() {
        for phase in [
            Phase::Waiting,
            Phase::Fetching,
            Phase::Checking,
            Phase::Trying,
            Phase::Current,
            Phase::Failed,
            Phase::Rejected,
        ] {
            let (version, message) = ("1.2.3".parse().unwrap(), "why".into());
            let status = AgentStatus { version, digest: [3; 32].into(), asked: 4, phase, message };
            assert_eq!(AgentStatus::try_from(v1::AgentStatus::from(status.clone())), Ok(status));
        }
    }
}
