//! The infra: what is wanted, and what hosts say of it.

use shoal_core::infra::{GoingBack, HostInfra, Infra, Mode, Phase, Status};
use shoal_core::time::Timestamp;

use super::{Invalid, parse};
use crate::v1;

fn maybe<T: std::str::FromStr>(
    field: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, Invalid>
where
    T::Err: ToString,
{
    text.map(|text| parse(field, text)).transpose()
}

fn going_back_from(wire: i32) -> Result<GoingBack, Invalid> {
    match v1::GoingBack::try_from(wire) {
        Ok(v1::GoingBack::Unspecified | v1::GoingBack::Image) => Ok(GoingBack::Image),
        Ok(v1::GoingBack::ImageAndData) => Ok(GoingBack::ImageAndData),
        Err(_) => Err(Invalid::Unknown { field: "going_back", value: wire }),
    }
}

fn going_back_to(going_back: GoingBack) -> i32 {
    match going_back {
        GoingBack::Image => v1::GoingBack::Image,
        GoingBack::ImageAndData => v1::GoingBack::ImageAndData,
    }
    .into()
}

impl TryFrom<v1::Infra> for Infra {
    type Error = Invalid;

    fn try_from(wire: v1::Infra) -> Result<Self, Invalid> {
        let v1::Infra { version, snapshot, going_back, restore, agent } = wire;
        Ok(Self {
            version: parse("version", &version)?,
            snapshot,
            going_back: going_back_from(going_back)?,
            restore: maybe("restore", restore.as_deref())?,
            agent: maybe("agent", agent.as_deref())?,
        })
    }
}

impl From<Infra> for v1::Infra {
    fn from(infra: Infra) -> Self {
        let Infra { version, snapshot, going_back, restore, agent } = infra;
        Self {
            version: version.to_string(),
            snapshot,
            going_back: going_back_to(going_back),
            restore: restore.map(Into::into),
            agent: agent.map(Into::into),
        }
    }
}

impl TryFrom<v1::HostInfra> for HostInfra {
    type Error = Invalid;

    fn try_from(wire: v1::HostInfra) -> Result<Self, Invalid> {
        let v1::HostInfra { version, revision, snapshot, going_back, undo, restore, agent } = wire;
        Ok(Self {
            version: parse("version", &version)?,
            revision,
            snapshot,
            going_back: going_back_from(going_back)?,
            undo,
            restore: maybe("restore", restore.as_deref())?,
            agent: maybe("agent", agent.as_deref())?,
        })
    }
}

impl From<HostInfra> for v1::HostInfra {
    fn from(infra: HostInfra) -> Self {
        let HostInfra { version, revision, snapshot, going_back, undo, restore, agent } = infra;
        Self {
            version: version.to_string(),
            revision,
            snapshot,
            going_back: going_back_to(going_back),
            undo,
            restore: restore.map(Into::into),
            agent: agent.map(Into::into),
        }
    }
}

impl TryFrom<v1::InfraStatus> for Status {
    type Error = Invalid;

    fn try_from(wire: v1::InfraStatus) -> Result<Self, Invalid> {
        let v1::InfraStatus { has, since_ms, wants, phase, waits, snapshots } = wire;
        let phase = match v1::InfraPhase::try_from(phase) {
            Ok(v1::InfraPhase::Done) => Phase::Done,
            Ok(v1::InfraPhase::Preparing) => Phase::Preparing,
            Ok(v1::InfraPhase::Stopping) => Phase::Stopping,
            Ok(v1::InfraPhase::Data) => Phase::Data,
            Ok(v1::InfraPhase::Starting) => Phase::Starting,
            Ok(v1::InfraPhase::Unspecified) | Err(_) => {
                return Err(Invalid::Unknown { field: "phase", value: phase });
            }
        };
        let (has, wants) = (maybe("has", has.as_deref())?, maybe("wants", wants.as_deref())?);
        Ok(Self { has, since: since_ms.map(Timestamp), wants, phase, waits, snapshots })
    }
}

impl From<Status> for v1::InfraStatus {
    fn from(status: Status) -> Self {
        let Status { has, since, wants, phase, waits, snapshots } = status;
        let phase = match phase {
            Phase::Done => v1::InfraPhase::Done,
            Phase::Preparing => v1::InfraPhase::Preparing,
            Phase::Stopping => v1::InfraPhase::Stopping,
            Phase::Data => v1::InfraPhase::Data,
            Phase::Starting => v1::InfraPhase::Starting,
        };
        Self {
            has: has.map(Into::into),
            since_ms: since.map(|since| since.0),
            wants: wants.map(Into::into),
            phase: phase.into(),
            waits,
            snapshots,
        }
    }
}

impl From<Mode> for v1::InfraMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Same => Self::Same,
            Mode::New => Self::New,
            Mode::Update => Self::Update,
            Mode::Restore => Self::Restore,
        }
    }
}

/// A mode as a plan says it.
///
/// # Errors
/// Where it is none that is known.
pub fn infra_mode(wire: i32) -> Result<Mode, Invalid> {
    match v1::InfraMode::try_from(wire) {
        Ok(v1::InfraMode::Same) => Ok(Mode::Same),
        Ok(v1::InfraMode::New) => Ok(Mode::New),
        Ok(v1::InfraMode::Update) => Ok(Mode::Update),
        Ok(v1::InfraMode::Restore) => Ok(Mode::Restore),
        Ok(v1::InfraMode::Unspecified) | Err(_) => {
            Err(Invalid::Unknown { field: "mode", value: wire })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_infra_survives_the_wire() {
        for (at, going_back) in [GoingBack::Image, GoingBack::ImageAndData].into_iter().enumerate()
        {
            let one = at == 1;
            let infra = Infra {
                version: "50.2.0".parse().unwrap(),
                snapshot: one,
                going_back,
                restore: one.then(|| "nightly".parse().unwrap()),
                agent: one.then(|| "0.3.0".parse().unwrap()),
            };
            assert_eq!(Infra::try_from(v1::Infra::from(infra.clone())), Ok(infra.clone()));
            let host = HostInfra { undo: one.then_some(3), ..HostInfra::of(&infra, 4) };
            assert_eq!(HostInfra::try_from(v1::HostInfra::from(host.clone())), Ok(host));
        }
    }

    #[test]
    fn what_a_host_says_survives_the_wire() {
        use Phase::{Data, Done, Preparing, Starting, Stopping};
        for phase in [Done, Preparing, Stopping, Data, Starting] {
            let some = phase != Done;
            let status = Status {
                has: some.then(|| "1".parse().unwrap()),
                since: some.then_some(Timestamp(5)),
                wants: some.then(|| "2".parse().unwrap()),
                phase,
                waits: some.then(|| "waits".into()),
                snapshots: vec![3],
            };
            assert_eq!(Status::try_from(v1::InfraStatus::from(status.clone())), Ok(status));
        }
    }

    #[test]
    fn modes_survive_the_wire() {
        for mode in [Mode::Same, Mode::New, Mode::Update, Mode::Restore] {
            assert_eq!(infra_mode(v1::InfraMode::from(mode).into()), Ok(mode));
        }
    }
}
