//! What is left of machines that are not wanted and have no record: units that would start at boot,
//! drop-ins, layers, run directories. Cleared when a version is recorded. Data stays.

use std::collections::BTreeSet;
use std::path::Path;

use shoal_core::host::HostSpec;
use shoal_core::name::MachineName;
use shoal_core::plan::Unit;
use tracing::{info, warn};

use crate::files::{FileError, names};
use crate::host::real::RealHost;
use crate::host::{HostError, systemd};
use crate::record::Record;

/// Where drop-ins of machines are.
const UNITS: [&str; 2] = ["/etc/systemd/system", "/run/systemd/system"];

impl RealHost {
    /// Clears what is left. What can't be is in nobody's way, and is tried the next time.
    pub(in crate::host) async fn clear_remains(&self, wanted: &HostSpec) {
        match self.remains(wanted).await {
            Ok(machines) => {
                for machine in machines {
                    info!(%machine, "clearing what is left of a machine that is not wanted");
                    if let Err(error) = self.clear(&machine).await {
                        warn!(%machine, error = %crate::chain(&error), "cannot clear it all");
                    }
                }
            }
            Err(error) => warn!(error = %crate::chain(&error), "cannot look for what is left"),
        }
    }

    async fn clear(&self, machine: &MachineName) -> Result<(), HostError> {
        self.systemd.disable(machine).await?;
        self.remove(machine).await
    }

    /// Machines of which something is left that no record explains, and that are down.
    async fn remains(&self, wanted: &HostSpec) -> Result<BTreeSet<MachineName>, HostError> {
        let mut left = self.named()?;
        for spec in &wanted.instances {
            left.remove(&spec.id.machine());
        }
        left.retain(|machine| {
            let files = names(&self.paths.instance(machine));
            let ours = files.is_ok_and(|files| are_ours(&files));
            ours && matches!(Record::find(&self.paths, machine), Ok(None))
        });
        for found in self.units.all().await? {
            if !matches!(found.unit, Unit::Inactive | Unit::Failed) {
                left.remove(&found.machine);
            }
        }
        Ok(left)
    }

    /// Machines that anything here is named after, but those that only have data.
    fn named(&self) -> Result<BTreeSet<MachineName>, FileError> {
        let mut named = systemd::enabled()?;
        for name in names(&self.paths.run.join("machines"))? {
            named.extend(name.parse::<MachineName>());
        }
        for dir in UNITS {
            let units = names(Path::new(dir))?;
            let units = units.iter().filter_map(|name| name.strip_suffix(".d"));
            named.extend(units.filter_map(systemd::machine_of_unit));
        }
        for name in names(&self.paths.instances())? {
            let Ok(machine) = name.parse::<MachineName>() else { continue };
            if leftovers(&names(&self.paths.instance(&machine))?) {
                named.insert(machine);
            }
        }
        Ok(named)
    }
}

/// Whether a machine's directory holds nothing but what an agent puts there. What someone else has
/// put there may be data, and stays with all that is beside it.
fn are_ours(names: &[String]) -> bool {
    let known = ["data", "hooks.json", "journal", "scratch", "hosts", "runs.json"];
    names.iter().all(|name| {
        let name = name.strip_suffix(".new").map_or(name.clone(), |name| format!("{name}.json"));
        known.contains(&name.as_str())
    })
}

/// Whether a machine's directory holds more than goes with its data, or no data at all.
fn leftovers(names: &[String]) -> bool {
    let of_data = ["data", "hooks.json", "journal"];
    !names.iter().any(|name| name == "data")
        || names.iter().any(|name| !of_data.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_with_data_is_no_leftover() {
        let cases: [(&[&str], bool); 5] = [
            (&["data"], false),
            (&["data", "hooks.json", "journal"], false),
            (&["data", "scratch"], true),
            (&["hooks.json"], true),
            (&[], true),
        ];
        for (names, wanted) in cases {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(leftovers(&names), wanted, "{names:?}");
        }
    }

    #[test]
    fn what_someone_else_has_put_there_is_not_ours() {
        let cases: [(&[&str], bool); 4] = [
            (&[], true),
            (
                &["data", "hooks.json", "hooks.new", "hosts", "journal", "runs.json", "scratch"],
                true,
            ),
            (&["var"], false),
            (&["data", "notes.txt"], false),
        ];
        for (names, wanted) in cases {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(are_ours(&names), wanted, "{names:?}");
        }
    }
}
