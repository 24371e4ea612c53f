//! systemd and machined over D-Bus.
//!
//! [`Systemd`] starts, stops and asks; [`units::Units`] knows the instances' units.

mod bus;
mod cache;
pub mod units;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use shoal_core::name::MachineName;
use shoal_core::time::Timestamp;
use zbus::OwnedVariant;
use zbus::proxy::CacheProperties;

pub(super) use self::bus::machine_of_unit;
use self::bus::{AgentUnitProxy, ManagerProxy};
use self::cache::{Reading, Row};
use super::HostError;
use crate::files::{FileError, names};

/// The agent's own unit.
pub(super) const AGENT_UNIT: &str = "shoal-agent.service";

/// How long systemd or machined may take to answer before that counts as an error: a loop that
/// waits for ever would go on showing what it saw last.
const PATIENCE: Duration = Duration::from_secs(30);

/// The host's systemd. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Systemd {
    connection: zbus::Connection,
    manager: ManagerProxy<'static>,
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
            let manager = ManagerProxy::builder(&connection);
            let manager = manager.cache_properties(CacheProperties::No).build().await?;
            manager.version().await?;
            Ok(Self { connection, manager })
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

    async fn list(&self) -> Result<Vec<Row>, HostError> {
        let pattern = ["shoal-instance@*.service"];
        let listed = self.manager.list_units_by_patterns(&[], &pattern).await;
        let listed = listed.map_err(asked("list the instances' units"))?.into_iter();
        let rows = listed.filter_map(|(name, _, _, active, sub, _, path, _, job, _)| {
            // One that waits for its start is on its way up, whatever its state still says: what is
            // done to what is down must not meet that start.
            let starts = matches!(job.as_str(), "start" | "restart");
            let waits = starts && matches!(active.as_str(), "inactive" | "failed");
            let active = if waits { "activating".to_owned() } else { active };
            Some(Row { machine: machine_of_unit(&name)?, active, sub, path: path.to_string() })
        });
        Ok(rows.collect())
    }

    async fn read(&self, row: &Row) -> Result<Reading, HostError> {
        let read = async {
            let since = self.property(bus::SYSTEMD, &row.path, bus::UNIT, "StateChangeTimestamp");
            let since: Result<u64, _> = since.await?.try_into();
            let result = self.property(bus::SYSTEMD, &row.path, bus::SERVICE, "Result");
            let result: Result<String, _> = result.await?.try_into();
            zbus::Result::Ok((since, result))
        };
        let unit = row.machine.unit();
        let (since, result) = read.await.map_err(asked(format!("tell about {unit}")))?;
        let leader = if row.is_running() { self.leader(&row.machine).await } else { None };
        Ok(Reading {
            since: since.ok().filter(|micros| *micros > 0).map(|micros| Timestamp(micros / 1000)),
            result: result.ok().filter(|result| result != "success"),
            leader,
        })
    }

    async fn property(
        &self,
        service: &str,
        path: &str,
        interface: &str,
        name: &str,
    ) -> zbus::Result<OwnedVariant> {
        let properties = Some("org.freedesktop.DBus.Properties");
        let what = (interface, name);
        let get = self.connection.call_method(Some(service), path, properties, "Get", &what);
        get.await?.body().deserialize()
    }

    /// The first process of a machine's container; `None` where machined knows none.
    pub async fn leader(&self, machine: &MachineName) -> Option<u32> {
        let path = bus::machine_path(machine);
        let leader = self.property(bus::MACHINED, &path, bus::MACHINE, "Leader");
        leader.await.ok()?.try_into().ok()
    }

    /// The agent's own program, as its unit names it; `None` where that unit did not start this
    /// process.
    ///
    /// # Errors
    /// Where systemd does not answer.
    pub async fn agent_program(&self) -> Result<Option<String>, HostError> {
        let ask = async {
            let unit = AgentUnitProxy::builder(&self.connection);
            let unit = unit.cache_properties(CacheProperties::No).build().await?;
            zbus::Result::Ok((unit.main_pid().await?, unit.exec_start().await?))
        };
        let (main, lines) = ask.await.map_err(asked(format!("tell about {AGENT_UNIT}")))?;
        let own = main == std::process::id();
        Ok(lines.into_iter().next().map(|line| line.0).filter(|_| own))
    }

    /// Begins to restart the agent's own unit.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn restart_agent(&self) -> Result<(), HostError> {
        let restarted = self.manager.restart_unit(AGENT_UNIT, "replace").await;
        restarted.map(drop).map_err(asked(format!("restart {AGENT_UNIT}")))
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

    /// Whether a machine's unit is on its way down.
    pub async fn is_stopping(&self, machine: &MachineName) -> bool {
        let unit = machine.unit();
        let listed = self.manager.list_units_by_patterns(&["deactivating"], &[&unit]).await;
        listed.is_ok_and(|units| !units.is_empty())
    }

    /// Tells the first process of a machine's container to power off, as `machinectl poweroff` does.
    ///
    /// # Errors
    /// Where machined refuses, as when it knows no such machine.
    pub async fn power_off(&self, machine: &MachineName) -> Result<(), HostError> {
        let (manager, leader) = (Some(bus::MACHINES), (machine.as_str(), "leader", bus::POWER_OFF));
        let told = self.connection.call_method(
            Some(bus::MACHINED),
            "/org/freedesktop/machine1",
            manager,
            "KillMachine",
            &leader,
        );
        told.await.map(drop).map_err(asked(format!("power off {machine}")))
    }

    /// Has systemd read its unit files again, as it must when a drop-in was written.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn reload(&self) -> Result<(), HostError> {
        self.manager.reload().await.map_err(asked("reload its units"))
    }

    /// Has a machine's unit start at boot. That is a link on the disk, which systemd follows when
    /// it boots; it is not made to read all its units again for it, which takes as long as the
    /// start of an instance.
    ///
    /// # Errors
    /// Where systemd refuses; also where the template unit is not installed.
    pub async fn enable(&self, machine: &MachineName) -> Result<(), HostError> {
        let unit = machine.unit();
        let enabled = self.manager.enable_unit_files(&[&unit], false, true).await;
        enabled.map(drop).map_err(asked(format!("enable {unit}")))
    }

    /// Has it not.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub async fn disable(&self, machine: &MachineName) -> Result<(), HostError> {
        let unit = machine.unit();
        let disabled = self.manager.disable_unit_files(&[&unit], false).await;
        disabled.map(drop).map_err(asked(format!("disable {unit}")))
    }
}

/// The machines whose units start at boot: the template is wanted by multi-user.target.
///
/// # Errors
/// Where the directory of those can't be read.
pub fn enabled() -> Result<BTreeSet<MachineName>, FileError> {
    let wants = Path::new("/etc/systemd/system/multi-user.target.wants");
    Ok(names(wants)?.iter().filter_map(|name| machine_of_unit(name)).collect())
}
