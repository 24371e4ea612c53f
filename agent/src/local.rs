//! What the agent's own command shows of its host, with neither daemon nor controller needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_core::host::{HostFacts, HostSpec};
use shoal_core::name::{FleetName, InfraVersion, MachineName};
use shoal_core::plan::Unit;
use shoal_core::spec::RunState;

use crate::fallback::Fallback;
use crate::host::real::RealHost;
use crate::host::sealed;
use crate::host::systemd::Systemd;
use crate::host::{Host, Observation};
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::paths::Paths;
use crate::secrets::Secrets;

/// One instance of this host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// `FLEET/INSTANCE`.
    pub instance: String,
    /// `running`, `stopped`, or `nothing` where no fleet wants it any more.
    pub wanted: &'static str,
    /// Its unit's state, as systemd names it.
    pub unit: &'static str,
    /// Its image, `NAME:TAG`.
    pub image: String,
    /// The container's first process.
    pub leader: Option<u32>,
}

/// What `shoal-agent status` shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Local {
    /// The host's name in Shoal.
    pub host: String,
    /// Its controller.
    pub controller: String,
    /// The generation of the last accepted desired state; 0 before the first.
    pub generation: u64,
    /// The infra version that it has recorded, where it has.
    pub infra: Option<InfraVersion>,
    /// The infra version that it is to have, where it is.
    pub infra_wanted: Option<InfraVersion>,
    /// What is wrong with the host as a whole.
    pub problems: Vec<String>,
    /// Every instance that is wanted or there.
    pub instances: Vec<Row>,
    /// Fleets that the agent took back to what was healthy before, with why.
    pub went_back: BTreeMap<FleetName, String>,
}

/// Looks at the host.
///
/// # Errors
/// Where it has not joined, its ledger can't be read, or systemd does not answer.
pub async fn look(paths: &Paths) -> anyhow::Result<Local> {
    let about = Identity::load(paths)?.about;
    let ledger = Ledger::open(paths)?;
    let systemd = Systemd::connect().await?;
    // The facts matter to writing only.
    let name = about.host_name.clone();
    let secrets = Arc::new(Secrets::open(sealed::vault(paths), ledger.desired())?);
    let host = RealHost::new(paths.clone(), systemd, name, HostFacts::default(), secrets);
    let none = HostSpec::default();
    // To look is no reason to begin anything: what is wanted of its data is left out.
    let observation = host.observe(&none).await?;
    let spec = ledger.desired().unwrap_or(&none);
    Ok(Local {
        host: about.host_name.to_string(),
        controller: about.controller,
        generation: spec.generation,
        infra: observation.observed.infra.version.clone(),
        infra_wanted: spec.infra.as_ref().map(|infra| infra.version.clone()),
        problems: observation.problems.clone(),
        instances: rows(spec, &observation),
        went_back: Fallback::noted(paths, spec)?,
    })
}

fn rows(spec: &HostSpec, observation: &Observation) -> Vec<Row> {
    let machines = &observation.observed.machines;
    let row = |id: String, machine: &MachineName, wanted, image: String| Row {
        instance: id,
        wanted,
        unit: machines.get(machine).map_or("inactive", |found| unit(found.unit)),
        image,
        leader: observation.details.get(machine).and_then(|details| details.leader),
    };
    let mut rows: Vec<Row> = Vec::new();
    for instance in &spec.instances {
        let wanted = match instance.run {
            RunState::Running => "running",
            RunState::Stopped => "stopped",
        };
        let image = instance.config.image.reference.to_string();
        rows.push(row(instance.id.to_string(), &instance.id.machine(), wanted, image));
    }
    for (machine, found) in machines {
        let Some(applied) = &found.applied else { continue };
        if !spec.instances.iter().any(|i| i.id == applied.id) {
            let image = applied.config.image.reference.to_string();
            rows.push(row(applied.id.to_string(), machine, "nothing", image));
        }
    }
    rows
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Inactive => "inactive",
        Unit::Activating => "activating",
        Unit::Active => "active",
        Unit::Deactivating => "deactivating",
        Unit::Failed => "failed",
    }
}
