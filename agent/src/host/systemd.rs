//! systemd and machined over D-Bus (org.freedesktop.systemd1(5), org.freedesktop.machine1(5)).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use shoal_core::name::MachineName;
use shoal_core::plan::Unit;
use shoal_core::time::Timestamp;
use tokio::sync::Notify;
use zbus::{OwnedObjectPath, OwnedVariant};

use super::{Details, HostError};

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<ListedUnit>>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
    ) -> zbus::Result<Vec<(String, String, String)>>;

    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String);
}

/// A row of `ListUnitsByPatterns`: name, description, load, active and sub state, following,
/// object path, job id, job type, job path.
type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.machine1.Manager",
    default_service = "org.freedesktop.machine1",
    default_path = "/org/freedesktop/machine1"
)]
trait Machines {
    fn get_machine(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
}

/// How long systemd or machined may take to answer before that counts as an error: a loop that
/// waits for ever would go on showing what it saw last.
const PATIENCE: Duration = Duration::from_secs(30);

/// The host's systemd. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Systemd {
    connection: zbus::Connection,
    manager: ManagerProxy<'static>,
    machines: MachinesProxy<'static>,
}

/// A machine's unit, as found.
#[derive(Debug, Clone)]
pub struct FoundUnit {
    /// The machine.
    pub machine: MachineName,
    /// Its unit's state.
    pub unit: Unit,
    /// The rest.
    pub details: Details,
}

fn asked(doing: impl Into<String>) -> impl FnOnce(zbus::Error) -> HostError {
    let doing = doing.into();
    move |source| HostError::Systemd { doing, source }
}

impl Systemd {
    /// Connects to the system bus.
    ///
    /// # Errors
    /// Where there is no bus, or no systemd on it.
    pub async fn connect() -> Result<Self, HostError> {
        let connect = async {
            let connection =
                zbus::connection::Builder::system().method_timeout(PATIENCE).build().await?;
            let manager = ManagerProxy::new(&connection).await?;
            manager.subscribe().await?;
            let machines = MachinesProxy::new(&connection).await?;
            Ok(Self { connection, manager, machines })
        };
        connect.await.map_err(asked("answer on the system bus; is dbus installed and running"))
    }

    /// systemd's version, such as `252.38-1~deb12u1`.
    ///
    /// # Errors
    /// Where systemd does not answer.
    pub async fn version(&self) -> Result<String, HostError> {
        self.manager.version().await.map_err(asked("tell its version"))
    }

    /// Rings `bell` at the end of each of systemd's jobs, until the bus goes away.
    ///
    /// # Errors
    /// Where the signal can't be subscribed to.
    pub async fn ring_on_jobs(&self, bell: &Notify) -> Result<(), HostError> {
        let signals = self.manager.receive_job_removed().await;
        let mut signals = signals.map_err(asked("tell of its jobs"))?;
        while signals.next().await.is_some() {
            bell.notify_one();
        }
        Ok(())
    }

    /// Every unit of an instance that systemd has loaded.
    ///
    /// # Errors
    /// Where systemd does not answer.
    pub async fn units(&self) -> Result<Vec<FoundUnit>, HostError> {
        let pattern = ["shoal-instance@*.service"];
        let listed = self.manager.list_units_by_patterns(&[], &pattern).await;
        let mut found = Vec::new();
        for row in listed.map_err(asked("list the instances' units"))? {
            let machine = row.0.strip_prefix("shoal-instance@");
            let machine = machine.and_then(|m| m.strip_suffix(".service"));
            let Some(machine) = machine.and_then(|m| m.parse::<MachineName>().ok()) else {
                continue;
            };
            let details = self.details(&machine, &row.4, &row.6).await?;
            found.push(FoundUnit { machine, unit: unit_state(&row.3), details });
        }
        Ok(found)
    }

    async fn details(
        &self,
        machine: &MachineName,
        sub_state: &str,
        path: &OwnedObjectPath,
    ) -> Result<Details, HostError> {
        let service = self.properties(path, "org.freedesktop.systemd1.Service").await?;
        let unit = self.properties(path, "org.freedesktop.systemd1.Unit").await?;
        let since = number(&unit, "StateChangeTimestamp").map(|micros| Timestamp(micros / 1000));
        let up = sub_state == "running";
        Ok(Details {
            restarting: sub_state.starts_with("auto-restart"),
            restarts: number(&service, "NRestarts").and_then(|n| n.try_into().ok()).unwrap_or(0),
            since: since.filter(|at| at.0 > 0),
            leader: if up { self.leader(machine).await } else { None },
            result: text(&service, "Result").filter(|result| result != "success"),
            uid_base: None,
        })
    }

    async fn properties(
        &self,
        path: &OwnedObjectPath,
        interface: &'static str,
    ) -> Result<HashMap<String, OwnedVariant>, HostError> {
        let get = async {
            let proxy = zbus::fdo::PropertiesProxy::builder(&self.connection)
                .destination("org.freedesktop.systemd1")
                .path(path.as_ref())
                .build()
                .await?;
            let name = zbus::names::InterfaceName::from_static_str(interface)?;
            Ok(proxy.get_all(name).await?)
        };
        get.await.map_err(asked(format!("tell about {path}")))
    }

    /// The first process of a machine's container; `None` where machined knows none.
    pub async fn leader(&self, machine: &MachineName) -> Option<u32> {
        let path = self.machines.get_machine(machine.as_str()).await.ok()?;
        let proxy = zbus::fdo::PropertiesProxy::builder(&self.connection)
            .destination("org.freedesktop.machine1")
            .path(path.as_ref())
            .build()
            .await
            .ok()?;
        let name =
            zbus::names::InterfaceName::from_static_str("org.freedesktop.machine1.Machine").ok()?;
        proxy.get(name, "Leader").await.ok()?.try_into().ok()
    }

    /// Begins to start a machine's unit, also where it failed before.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn start(&self, machine: &MachineName) -> Result<(), HostError> {
        let unit = machine.unit();
        self.forget(machine).await;
        let started = self.manager.start_unit(&unit, "replace").await;
        started.map(drop).map_err(asked(format!("start {unit}")))
    }

    /// Has systemd forget that a machine's unit failed.
    pub async fn forget(&self, machine: &MachineName) {
        // Fails where the unit is not loaded; then there is nothing to forget.
        let _ = self.manager.reset_failed_unit(&machine.unit()).await;
    }

    /// Begins to stop a machine's unit.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn stop(&self, machine: &MachineName) -> Result<(), HostError> {
        let unit = machine.unit();
        let stopped = self.manager.stop_unit(&unit, "replace").await;
        stopped.map(drop).map_err(asked(format!("stop {unit}")))
    }

    /// Has a machine's unit start at boot.
    ///
    /// # Errors
    /// Where systemd refuses; also where the template unit is not installed.
    pub async fn enable(&self, machine: &MachineName) -> Result<(), HostError> {
        let unit = machine.unit();
        let enabled = self.manager.enable_unit_files(&[&unit], false, true).await;
        enabled.map_err(asked(format!("enable {unit}")))?;
        self.manager.reload().await.map_err(asked("reload its units"))
    }

    /// Has it not.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn disable(&self, machine: &MachineName) -> Result<(), HostError> {
        let unit = machine.unit();
        let disabled = self.manager.disable_unit_files(&[&unit], false).await;
        disabled.map_err(asked(format!("disable {unit}")))?;
        self.manager.reload().await.map_err(asked("reload its units"))
    }
}

/// Whether a machine's unit starts at boot: the template is wanted by multi-user.target.
#[must_use]
pub fn is_enabled(machine: &MachineName) -> bool {
    let wants = Path::new("/etc/systemd/system/multi-user.target.wants");
    wants.join(machine.unit()).symlink_metadata().is_ok()
}

fn unit_state(active_state: &str) -> Unit {
    match active_state {
        "active" | "reloading" => Unit::Active,
        "activating" => Unit::Activating,
        "deactivating" => Unit::Deactivating,
        "failed" => Unit::Failed,
        _ => Unit::Inactive,
    }
}

fn number(properties: &HashMap<String, OwnedVariant>, name: &str) -> Option<u64> {
    let value = properties.get(name)?;
    value.downcast_ref::<u64>().or_else(|_| value.downcast_ref::<u32>().map(u64::from)).ok()
}

fn text(properties: &HashMap<String, OwnedVariant>, name: &str) -> Option<String> {
    properties.get(name)?.downcast_ref::<&str>().ok().map(str::to_owned)
}
