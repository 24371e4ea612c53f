//! The interfaces of systemd and machined as they are on the bus (org.freedesktop.systemd1(5),
//! org.freedesktop.machine1(5)).

use shoal_core::name::MachineName;
use zbus::message::Type;
use zbus::{Message, OwnedObjectPath};

/// systemd's name on the bus.
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
/// machined's.
pub(super) const MACHINED: &str = "org.freedesktop.machine1";
/// Every unit, for properties that all kinds of units have.
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// Units that are services.
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";
/// A machine.
pub(super) const MACHINE: &str = "org.freedesktop.machine1.Machine";

/// Who knows all machines.
pub(super) const MACHINES: &str = "org.freedesktop.machine1.Manager";
/// SIGRTMIN+4, which has a system and systemd-nspawn's stub init power off. glibc's SIGRTMIN is 34.
pub(super) const POWER_OFF: i32 = 38;

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNITS: &str = "/org/freedesktop/systemd1/unit";

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
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
}

/// The agent's own unit.
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1/unit/shoal_2dagent_2eservice"
)]
pub(super) trait AgentUnit {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn exec_start(&self) -> zbus::Result<Vec<ExecStart>>;
}

/// A line of `ExecStart`: program, arguments, whether failing is ignored, when it began and ended
/// by two clocks, its process, how and with what it ended.
pub(super) type ExecStart = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// A row of `ListUnitsByPatterns`: name, description, load, active and sub state, following,
/// object path, job id, job type, job path.
pub(super) type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// Any unit that changes: systemd sends all that changed of it at once.
pub(super) fn unit_changes() -> zbus::Result<zbus::MatchRule<'static>> {
    zbus::MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SYSTEMD)
        .interface(PROPERTIES)
        .member("PropertiesChanged")
        .path_namespace(UNITS)
        .add_arg(UNIT)
        .build()
}

/// Machines that come and go.
pub(super) fn machine_changes() -> zbus::Result<zbus::MatchRule<'static>> {
    zbus::MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(MACHINED)
        .interface(MACHINES)
        .path("/org/freedesktop/machine1")
        .build()
}

/// Whose signal this is, if it is of a machine that may be an instance's.
pub(super) fn about(signal: &Message) -> Option<MachineName> {
    let header = signal.header();
    if header.interface()?.as_str() == MACHINES {
        let body = signal.body();
        let (machine, _path): (&str, OwnedObjectPath) = body.deserialize().ok()?;
        return machine.parse().ok();
    }
    machine_of_path(header.path()?.as_str())
}

/// The machine of a unit's name; `None` where the unit is not an instance's.
pub(in crate::host) fn machine_of_unit(unit: &str) -> Option<MachineName> {
    unit.strip_prefix("shoal-instance@")?.strip_suffix(".service")?.parse().ok()
}

fn machine_of_path(path: &str) -> Option<MachineName> {
    machine_of_unit(&unescaped(path.strip_prefix(UNITS)?.strip_prefix('/')?)?)
}

/// Where machined has a machine.
pub(super) fn machine_path(machine: &MachineName) -> String {
    format!("/org/freedesktop/machine1/machine/{}", escaped(machine.as_str()))
}

/// A name as a part of an object path: all but letters and digits as `_` and two hexadecimal
/// digits, and so is a digit that comes first (sd_bus_path_encode(3)).
fn escaped(name: &str) -> String {
    let mut path = String::new();
    for (position, byte) in name.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && position > 0);
        if is_plain {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

fn unescaped(part: &str) -> Option<String> {
    let mut pieces = part.split('_');
    let mut name = pieces.next()?.to_owned();
    for piece in pieces {
        let byte = u8::from_str_radix(piece.get(..2)?, 16).ok()?;
        name.push(char::from(byte));
        name.push_str(&piece[2..]);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_machine() {
        let machine = |path: &str| machine_of_path(path).map(|machine| machine.to_string());
        let of = |unit: &str| format!("{UNITS}/{unit}");
        let ours = "shoal_2dinstance_40shop_2dweb2_2eservice";
        assert_eq!(machine(&of(ours)), Some("shop-web2".into()));
        for other in [
            "ssh_2eservice",
            "shoal_2dagent_2eservice",
            "shoal_2dinstance_40_2eservice",
            "x_",
            "x_é",
        ] {
            assert_eq!(machine(&of(other)), None, "{other}");
        }
        assert_eq!(machine("/org/freedesktop/systemd1"), None);
    }

    #[test]
    fn names_survive_the_way_to_a_path_and_back() {
        for name in ["shop-web", "0-1", "a2", "a.b"] {
            assert_eq!(unescaped(&escaped(name)).as_deref(), Some(name));
        }
        assert_eq!(escaped("0-a1"), "_30_2da1");
        let machine = "shop-web".parse().unwrap();
        assert_eq!(machine_path(&machine), "/org/freedesktop/machine1/machine/shop_2dweb");
    }
}
