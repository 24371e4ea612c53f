//! The unit files of instances, as Shoal wants them: the template, and for each machine a drop-in
//! of its own, and while it is paused another that keeps systemd from starting it again.
//!
//! What others put beside them is told of ([`watch`]) and left alone: it is the host's root's
//! word. A mask is not: `shoal stop` and `shoal pause` are how an instance is kept down.
//!
//! systemd reads unit files when it is told to. So each change leaves a mark, which stays until it
//! has been told ([`reread`]): being killed in between loses nothing.

pub mod reread;
pub mod watch;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shoal_core::name::MachineName;
use shoal_core::spec::{Limits, Settings};

use crate::files::{self, FileError, failed, read_if_there};

/// The template unit, as this agent wants it.
pub const TEMPLATE: &str = include_str!("../../../../deploy/systemd/shoal-instance@.service");
/// Its name.
pub const TEMPLATE_NAME: &str = "shoal-instance@.service";
/// The name of a machine's drop-in.
const DROP_IN: &str = "50-shoal.conf";
/// The name of a paused machine's further one.
const HANDS_OFF: &str = "90-shoal-paused.conf";
/// What it says. What ends by itself stays down; a reboot from inside is someone's wish.
const HANDS_OFF_TEXT: &str = "\
# Kept by Shoal while the instance is paused; `shoal unpause` removes it.

[Service]
Restart=no
";
/// Ends the name of what a template was replaced from. systemd does not read such a file.
const REPLACED: &str = "replaced";

/// Where systemd looks for units; of those of one name, the first counts (systemd.unit(5)).
const PLACES: [&str; 7] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    OWN,
    OF_THIS_BOOT,
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Of these, where the host's root has its own.
const OWN: &str = "etc/systemd/system";
/// And where is what is gone after a reboot.
const OF_THIS_BOOT: &str = "run/systemd/system";

/// The drop-in of a machine: its place in the order at boot, and its limits. `None` where there is
/// nothing to say.
#[must_use]
pub fn drop_in(settings: &Settings) -> Option<String> {
    let mut unit = String::new();
    for id in &settings.after {
        unit.push_str(&format!("After={}\n", id.machine().unit()));
    }
    let Limits { memory, cpu, tasks, nofile: _ } = &settings.limits;
    let mut service = String::new();
    if let Some(memory) = memory {
        service.push_str(&format!("MemoryMax={}\n", memory.0));
    }
    if let Some(cpu) = cpu {
        service.push_str(&format!("CPUQuota={cpu}%\n"));
    }
    if let Some(tasks) = tasks {
        service.push_str(&format!("TasksMax={tasks}\n"));
    }
    let section = |name: &str, lines: &str| {
        if lines.is_empty() { String::new() } else { format!("\n[{name}]\n{lines}") }
    };
    let sections = section("Unit", &unit) + &section("Service", &service);
    let head = "# Kept by Shoal, from the fleet file. Changes are overwritten.\n";
    (!sections.is_empty()).then(|| format!("{head}{sections}"))
}

/// The unit files of a host.
#[derive(Debug, Clone)]
pub struct UnitFiles {
    root: PathBuf,
    mark: PathBuf,
}

impl UnitFiles {
    /// Of the host whose file system is at `root`. `mark` is made before each change.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, mark: PathBuf) -> Self {
        Self { root: root.into(), mark }
    }

    /// Has a machine's unit files be as they should: the template, no mask, and its drop-in.
    ///
    /// # Errors
    /// Where one can't be written.
    pub fn put_right(&self, machine: &MachineName, settings: &Settings) -> Result<(), FileError> {
        self.put_template()?;
        for mask in self.masks(machine) {
            self.remove_file(&mask)?;
        }
        match drop_in(settings) {
            Some(text) => self.put(&self.drop_in(machine), &text),
            None => self.remove_drop_in(&self.drop_in(machine)),
        }
    }

    /// Has systemd leave a machine down when it ends.
    ///
    /// # Errors
    /// Where that can't be written.
    pub fn hands_off(&self, machine: &MachineName) -> Result<(), FileError> {
        self.put(&self.hands_off_drop_in(machine), HANDS_OFF_TEXT)
    }

    /// Has systemd start a machine again when it ends, as is usual.
    ///
    /// # Errors
    /// Where what says otherwise is there and can't be removed.
    pub fn hands_on(&self, machine: &MachineName) -> Result<(), FileError> {
        self.remove_drop_in(&self.hands_off_drop_in(machine))
    }

    /// Removes a machine's drop-ins.
    ///
    /// # Errors
    /// Where one is there and can't be removed.
    pub fn remove(&self, machine: &MachineName) -> Result<(), FileError> {
        self.hands_on(machine)?;
        self.remove_drop_in(&self.drop_in(machine))
    }

    fn remove_drop_in(&self, path: &Path) -> Result<(), FileError> {
        if !path.exists() {
            return Ok(());
        }
        self.remove_file(path)?;
        // Fails where someone has a drop-in of theirs there; then it stays.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Where a machine's drop-in is.
    #[must_use]
    pub fn drop_in(&self, machine: &MachineName) -> PathBuf {
        self.root.join(OWN).join(format!("{}.d", machine.unit())).join(DROP_IN)
    }

    fn hands_off_drop_in(&self, machine: &MachineName) -> PathBuf {
        self.root.join(OF_THIS_BOOT).join(format!("{}.d", machine.unit())).join(HANDS_OFF)
    }

    /// The template that counts: the first that there is, or else where it should be.
    #[must_use]
    pub fn template(&self) -> PathBuf {
        let mut found = self.places().map(|place| place.join(TEMPLATE_NAME));
        found
            .find(|path| path.symlink_metadata().is_ok())
            .unwrap_or_else(|| self.root.join(OWN).join(TEMPLATE_NAME))
    }

    /// What keeps a machine's unit from being started at all.
    fn masks(&self, machine: &MachineName) -> Vec<PathBuf> {
        let files = self.places().map(|place| place.join(machine.unit()));
        files.filter(|path| is_mask(path)).collect()
    }

    /// Where units are, each place once.
    fn places(&self) -> impl Iterator<Item = PathBuf> {
        let merged = self.root.join("lib").is_symlink();
        let places = PLACES.iter().filter(move |place| !(merged && place.starts_with("lib/")));
        places.map(|place| self.root.join(place))
    }

    /// Puts the template right where it is; what was there is kept beside it, since someone may
    /// have had a reason.
    fn put_template(&self) -> Result<(), FileError> {
        let path = self.template();
        match read_if_there(&path)? {
            Some(found) if found == TEMPLATE.as_bytes() => return Ok(()),
            Some(found) if !found.is_empty() => {
                let kept = path.with_file_name(format!("{TEMPLATE_NAME}.{REPLACED}"));
                // Where that can't be written, the template can't be either, and goes elsewhere.
                let _ = write_public(&kept, &found);
            }
            _ => {}
        }
        match self.put(&path, TEMPLATE) {
            // A vendor's directory may be closed; the host's own comes before it.
            Err(error) if error.source.kind() == ErrorKind::ReadOnlyFilesystem => {
                self.put(&self.root.join(OWN).join(TEMPLATE_NAME), TEMPLATE)
            }
            done => done,
        }
    }

    fn put(&self, path: &Path, text: &str) -> Result<(), FileError> {
        if read_if_there(path)?.is_some_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        self.note_change()?;
        let dir = path.parent().unwrap_or(path);
        fs::create_dir_all(dir).map_err(failed("make the directory", dir))?;
        write_public(path, text.as_bytes()).map_err(failed("write", path))
    }

    fn remove_file(&self, path: &Path) -> Result<(), FileError> {
        self.note_change()?;
        files::remove_file(path)
    }

    fn note_change(&self) -> Result<(), FileError> {
        File::create(&self.mark).map(drop).map_err(failed("make", &self.mark))
    }
}

/// Whether a unit file is a mask: nothing, or a link to nothing.
fn is_mask(path: &Path) -> bool {
    match fs::read_link(path) {
        Ok(target) => target == Path::new("/dev/null"),
        Err(_) => fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0),
    }
}

/// Puts a file that everyone may read at `path`, so that the old or the new one is there in full.
fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().inspect_err(|_| {
        // On a full disk, what was begun would only be in the way.
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: serde_json::Value) -> Settings {
        let mut json = serde_json::json!({"start": "boot", "network": "host"});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json).unwrap()
    }

    fn limited() -> Settings {
        settings(serde_json::json!({
            "after": ["shop/db", "infra/mysql"],
            "limits": {"memory": "512M", "cpu": 150, "tasks": 1024, "nofile": 4096},
        }))
    }

    pub(super) fn files(root: &Path) -> UnitFiles {
        fs::create_dir_all(root.join(OWN)).unwrap();
        fs::write(root.join(OWN).join(TEMPLATE_NAME), TEMPLATE).unwrap();
        UnitFiles::new(root, root.join("mark"))
    }

    #[test]
    fn a_drop_in_says_what_the_fleet_file_says() {
        assert_eq!(drop_in(&settings(serde_json::json!({}))), None);
        let files_only = serde_json::json!({"limits": {"nofile": 4096}});
        assert_eq!(drop_in(&settings(files_only)), None, "that is not the unit's");
        let wanted = "# Kept by Shoal, from the fleet file. Changes are overwritten.\n\
            \n[Unit]\nAfter=shoal-instance@infra-mysql.service\n\
            After=shoal-instance@shop-db.service\n\
            \n[Service]\nMemoryMax=536870912\nCPUQuota=150%\nTasksMax=1024\n";
        assert_eq!(drop_in(&limited()).as_deref(), Some(wanted));
    }

    #[test]
    fn what_is_right_is_not_touched_and_what_is_not_leaves_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let units = files(dir.path());
        let machine: MachineName = "shop-main".parse().unwrap();
        let plain = settings(serde_json::json!({}));
        units.put_right(&machine, &plain).unwrap();
        assert!(!dir.path().join("mark").exists());
        units.put_right(&machine, &limited()).unwrap();
        let text = fs::read_to_string(units.drop_in(&machine)).unwrap();
        assert_eq!(Some(text), drop_in(&limited()));
        assert!(dir.path().join("mark").exists());
        fs::remove_file(dir.path().join("mark")).unwrap();
        units.put_right(&machine, &limited()).unwrap();
        assert!(!dir.path().join("mark").exists());
        units.put_right(&machine, &plain).unwrap();
        assert!(!units.drop_in(&machine).parent().unwrap().exists());
        assert!(dir.path().join("mark").exists());
    }

    #[test]
    fn anothers_drop_in_stays() {
        let dir = tempfile::tempdir().unwrap();
        let units = files(dir.path());
        let machine: MachineName = "shop-main".parse().unwrap();
        units.put_right(&machine, &limited()).unwrap();
        let other = units.drop_in(&machine).with_file_name("local.conf");
        fs::write(&other, "[Service]\nNice=5\n").unwrap();
        units.remove(&machine).unwrap();
        assert!(other.exists() && !units.drop_in(&machine).exists());
    }

    #[test]
    fn an_edited_template_is_put_right_and_kept_beside() {
        let dir = tempfile::tempdir().unwrap();
        let units = files(dir.path());
        let (machine, plain) = ("shop-main".parse().unwrap(), settings(serde_json::json!({})));
        fs::write(units.template(), "[Service]\nExecStart=/bin/true\n").unwrap();
        units.put_right(&machine, &plain).unwrap();
        assert_eq!(fs::read_to_string(units.template()).unwrap(), TEMPLATE);
        let kept = units.template().with_file_name("shoal-instance@.service.replaced");
        assert!(fs::read_to_string(kept).unwrap().contains("/bin/true"));
        fs::remove_file(units.template()).unwrap();
        units.put_right(&machine, &plain).unwrap();
        assert_eq!(fs::read_to_string(units.template()).unwrap(), TEMPLATE);
    }

    #[test]
    fn a_mask_is_taken_off_and_a_unit_of_ones_own_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let units = files(dir.path());
        let (machine, plain): (MachineName, _) =
            ("shop-main".parse().unwrap(), settings(serde_json::json!({})));
        let unit = dir.path().join(OWN).join(machine.unit());
        std::os::unix::fs::symlink("/dev/null", &unit).unwrap();
        units.put_right(&machine, &plain).unwrap();
        assert!(unit.symlink_metadata().is_err());
        fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
        units.put_right(&machine, &plain).unwrap();
        assert!(unit.exists());
    }
}
