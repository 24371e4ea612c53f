//! `shoal import`: a first fleet file of a container that systemd runs. What it means is the
//! core's to say; here its files are found, read and written.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use shoal_core::nspawn::{Container, Note, Text, import};

use super::Shell;
use super::fleet_file::{create, read_at_most};
use crate::args::fleet::ImportArgs;
use crate::exit::{Exit, Failure};

/// Where systemd has the files that its administrator writes.
const NSPAWN: &str = "/etc/systemd/nspawn";
const UNITS: &str = "/etc/systemd/system";

/// Bytes of one file: far more than a person would write.
const LARGEST: usize = 1 << 20;

/// Why there is nothing to import.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("cannot read {path}; name a .nspawn file, such as {NSPAWN}/shop.nspawn")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} has over {LARGEST} bytes, so it is no settings file of systemd's")]
    TooLarge { path: PathBuf },
    #[error("{path} is not a text file in UTF-8, so it is no settings file of systemd's")]
    NotText { path: PathBuf },
}

#[derive(Debug, Serialize)]
struct ImportView {
    fleet: String,
    /// The file that was written; absent where none was asked for.
    file: Option<String>,
    toml: String,
    notes: Vec<NoteView>,
}

/// What was not carried over, or not quite.
#[derive(Debug, Serialize)]
struct NoteView {
    /// Absent where it is about the container as a whole.
    file: Option<String>,
    line: Option<usize>,
    key: String,
    why: String,
}

pub(super) fn run(shell: &Shell, args: &ImportArgs) -> Result<Exit, Failure> {
    let settings = read(&args.file)?;
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let unit = match unit_directory(args) {
        Some(directory) => drop_ins(&directory, &name)?,
        None => Vec::new(),
    };
    let path = args.file.display().to_string();
    let made = import(&Container {
        name: &name,
        settings: Text { name: &path, text: &settings },
        unit: unit.iter().map(|(name, text)| Text { name, text }).collect(),
    });
    if let Some(to) = &args.to {
        create(to, made.toml.as_bytes(), args.force)?;
    }
    let view = ImportView {
        fleet: made.fleet.to_string(),
        file: args.to.as_ref().map(|to| to.display().to_string()),
        toml: made.toml,
        notes: made.notes.into_iter().map(NoteView::from).collect(),
    };
    show(shell, &view)
}

fn show(shell: &Shell, view: &ImportView) -> Result<Exit, Failure> {
    if shell.console.is_json() {
        shell.console.result("", view)?;
        return Ok(Exit::Done);
    }
    match &view.file {
        Some(file) => shell.console.text(format!("{file}: fleet {}", view.fleet))?,
        None => shell.console.raw(view.toml.as_bytes())?,
    }
    if !view.notes.is_empty() {
        let notes: Vec<String> = view.notes.iter().map(NoteView::text).collect();
        let head = "Not carried over, or to be looked at:";
        shell.console.note(format!("{head}\n{}", notes.join("\n")));
    }
    Ok(Exit::Done)
}

impl From<Note> for NoteView {
    fn from(note: Note) -> Self {
        let Note { file, line, key, why } = note;
        Self { file, line, key, why }
    }
}

impl NoteView {
    fn text(&self) -> String {
        let Self { file, line, key, why } = self;
        let place = match (file, line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) => format!("{file}: "),
            (None, _) => String::new(),
        };
        crate::output::text::printable(&format!("  {place}{key}: {why}"))
    }
}

fn read(path: &Path) -> Result<String, ImportError> {
    let owned = || path.to_owned();
    let bytes = read_at_most(path, LARGEST);
    let bytes = bytes.map_err(|source| ImportError::Read { path: owned(), source })?;
    if bytes.len() > LARGEST {
        return Err(ImportError::TooLarge { path: owned() });
    }
    String::from_utf8(bytes).map_err(|_| ImportError::NotText { path: owned() })
}

/// Where the drop-ins of the container's unit are: where the command line says, or beside the
/// `.nspawn` file where that is systemd's.
fn unit_directory(args: &ImportArgs) -> Option<PathBuf> {
    let beside = || {
        let file = fs::canonicalize(&args.file).ok()?;
        (file.parent() == Some(Path::new(NSPAWN))).then(|| PathBuf::from(UNITS))
    };
    args.unit_dir.clone().or_else(beside)
}

/// The drop-ins of a container's unit and of its template, in the order in which systemd reads
/// them: by their names, and of two that have the same one the unit's own.
fn drop_ins(directory: &Path, machine: &str) -> Result<Vec<(String, String)>, ImportError> {
    let escaped = machine.replace('-', "\\x2d");
    let units = [String::new(), escaped, machine.to_owned()];
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for unit in units {
        let directory = directory.join(format!("systemd-nspawn@{unit}.service.d"));
        files.extend(settings_in(&directory)?);
    }
    files.into_values().map(|path| Ok((path.display().to_string(), read(&path)?))).collect()
}

/// The `.conf` files of a directory, by name; none where it is not there.
fn settings_in(directory: &Path) -> Result<Vec<(OsString, PathBuf)>, ImportError> {
    let failed = |source| ImportError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "conf") {
            found.push((entry.file_name(), path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn drop_ins_are_read_in_systemds_order() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        file(dir, "systemd-nspawn@.service.d/10-all.conf", "a");
        file(dir, "systemd-nspawn@.service.d/20-some.conf", "b");
        file(dir, "systemd-nspawn@my-box.service.d/20-some.conf", "c");
        file(dir, "systemd-nspawn@my\\x2dbox.service.d/05-first.conf", "d");
        file(dir, "systemd-nspawn@my-box.service.d/notes.txt", "x");
        file(dir, "systemd-nspawn@other.service.d/30-other.conf", "x");
        let texts = |machine| -> Vec<String> {
            drop_ins(dir, machine).unwrap().into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(texts("my-box"), ["d", "a", "c"]);
        assert_eq!(texts("new"), ["a", "b"]);
        assert!(drop_ins(&dir.join("none"), "x").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_settings_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.nspawn");
        assert!(matches!(read(&path), Err(ImportError::Read { .. })));
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read(&path), Err(ImportError::NotText { .. })));
        fs::write(&path, vec![b'#'; LARGEST + 1]).unwrap();
        assert!(matches!(read(&path), Err(ImportError::TooLarge { .. })));
        assert!(matches!(read(dir.path()), Err(ImportError::Read { .. })));
    }
}
