//! From a path to a fleet's spec, with the local files that it names in it.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use shoal_core::fleet::FleetSpec;
use shoal_core::fleetfile::{LARGEST_SPEC, Problems, Source, parse};
use shoal_core::render::LARGEST_FILE;

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetFileError {
    #[error(
        "there is no {kind} {path}; name it, or go to its directory (without a name it is {})",
        .kind.usual_name()
    )]
    Missing { path: PathBuf, kind: Kind },
    #[error("{path} is an infra file; for it there is `shoal infra {verb} {path}`")]
    IsInfra { path: PathBuf, verb: &'static str },
    #[error(
        "{path} is a fleet file: it names a fleet, and no infra version; for it there is \
         `shoal {verb} {path}`"
    )]
    IsFleet { path: PathBuf, verb: &'static str },
    #[error("cannot read the fleet file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a text file: a fleet file is TOML or JSON, in UTF-8")]
    NotText { path: PathBuf },
    #[error("{path} exists; name another file, or say --force to replace it")]
    Exists { path: PathBuf },
    #[error("cannot write {path}; it is as it was")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Problems(Box<Problems>),
}

/// What a file declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fleet,
    Infra,
}

impl Kind {
    /// What it is called where nobody says otherwise.
    fn usual_name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet.toml",
            Self::Infra => "infra.toml",
        }
    }

    /// The command that applies it.
    pub(crate) fn apply(self) -> &'static str {
        match self {
            Self::Fleet => "shoal apply",
            Self::Infra => "shoal infra apply",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fleet => "fleet file",
            Self::Infra => "infra file",
        })
    }
}

/// Reads and checks a file that has to be of that kind, so that nobody changes the platform of his
/// hosts by taking one file for the other. `verb` is what is to be done with it.
pub(crate) fn load_kind(
    path: &Path,
    kind: Kind,
    verb: &'static str,
) -> Result<FleetSpec, FleetFileError> {
    let spec = load_named(path, kind)?;
    let path = path.to_owned();
    match (kind, spec.infra.is_some()) {
        (Kind::Fleet, true) => Err(FleetFileError::IsInfra { path, verb }),
        (Kind::Infra, false) => Err(FleetFileError::IsFleet { path, verb }),
        _ => Ok(spec),
    }
}

/// Reads and checks a fleet file or an infra file.
pub(crate) fn load(path: &Path) -> Result<FleetSpec, FleetFileError> {
    load_named(path, Kind::Fleet)
}

/// Reads and checks a file that is looked for as one of that kind. What it names is looked for
/// beside it.
fn load_named(path: &Path, kind: Kind) -> Result<FleetSpec, FleetFileError> {
    let text = read_text_of(path, kind)?;
    let name = path.display().to_string();
    let source = Source { name: &name, text: &text };
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut read = |named: &str| {
        read_at_most(&beside.join(named), LARGEST_FILE).map_err(|error| error.to_string())
    };
    parse(source, &mut read).map_err(|problems| FleetFileError::Problems(Box::new(problems)))
}

/// The text of a fleet file, and a byte too many at the most, which the reader then refuses.
pub(crate) fn read_text(path: &Path) -> Result<String, FleetFileError> {
    read_text_of(path, Kind::Fleet)
}

fn read_text_of(path: &Path, kind: Kind) -> Result<String, FleetFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FleetFileError::Missing { path: path.to_owned(), kind },
        _ => FleetFileError::Read { path: path.to_owned(), source },
    };
    let bytes = read_at_most(path, LARGEST_SPEC).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| FleetFileError::NotText { path: path.to_owned() })
}

/// A regular file's bytes, and one more than `most` at the most: enough to see that it is too
/// large. The kind is looked at first, because opening a pipe would wait.
pub(crate) fn read_at_most(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts `bytes` in place of the file's, all at once: whoever reads the file, or kills this, finds
/// the old text or the new one. Where the path is a link, the file that it leads to is replaced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FleetFileError> {
    let failed = |source| FleetFileError::Write { path: path.to_owned(), source };
    replace_at(path, bytes).map_err(failed)
}

fn replace_at(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let old = fs::metadata(&path)?;
    let new = beside(&path, bytes)?;
    // Only root can give a file away; anyone else may still bring a shared file into its form.
    let _ = chown(new.path(), Some(old.uid()), Some(old.gid()));
    new.as_file().set_permissions(old.permissions())?;
    new.as_file().sync_all()?;
    new.persist(&path).map(drop).map_err(|error| error.error)
}

/// Makes a file with `bytes` in it, all at once. One that is there is replaced only by `force`.
pub(crate) fn create(path: &Path, bytes: &[u8], force: bool) -> Result<(), FleetFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => FleetFileError::Exists { path: path.to_owned() },
        _ => FleetFileError::Write { path: path.to_owned(), source },
    };
    if force && fs::symlink_metadata(path).is_ok() {
        return replace(path, bytes);
    }
    let new = beside(path, bytes).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    new.persist_noclobber(path).map(drop).map_err(|error| failed(error.error))
}

/// A new file in the directory of `path`, gone again if it is not put in place.
fn beside(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    let mut new = tempfile::Builder::new()
        .prefix(".shoal-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory.unwrap_or(Path::new(".")))?;
    new.write_all(bytes)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: &str = "fleet = \"shop\"\n[instance.main]\nimage = \"shop:1\"\nhosts = \"*\"\n\
                         boot = true\n[instance.main.files.\"/etc/motd\"]\nsource = \"etc/motd\"\n";

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("fleet.toml"), FLEET).unwrap();
        dir
    }

    #[test]
    fn files_are_looked_for_beside_the_fleet_file() {
        let dir = directory();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/motd"), "hello").unwrap();
        let spec = load(&dir.path().join("fleet.toml")).unwrap();
        assert_eq!(spec.fleet.as_str(), "shop");
        let main = spec.instances.values().next().unwrap();
        assert_eq!(main.settings.files.len(), 1);
    }

    #[test]
    fn a_file_that_is_named_and_not_there_is_a_problem_with_its_line() {
        let dir = directory();
        let error = load(&dir.path().join("fleet.toml")).unwrap_err().to_string();
        assert!(error.contains("fleet.toml:7:"), "{error}");
        assert!(error.contains("etc/motd"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_through_links() {
        let dir = directory();
        let (path, link) = (dir.path().join("fleet.toml"), dir.path().join("link"));
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("fleet.toml", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn a_file_that_is_there_is_replaced_by_force_only() {
        let dir = directory();
        let (old, new) = (dir.path().join("fleet.toml"), dir.path().join("new.toml"));
        assert!(matches!(create(&old, b"x", false), Err(FleetFileError::Exists { .. })));
        assert_eq!(fs::read_to_string(&old).unwrap(), FLEET);
        create(&old, b"x", true).unwrap();
        create(&new, b"y", true).unwrap();
        assert_eq!((fs::read(&old).unwrap(), fs::read(&new).unwrap()), (b"x".into(), b"y".into()));
        let nowhere = dir.path().join("none/fleet.toml");
        assert!(matches!(create(&nowhere, b"x", false), Err(FleetFileError::Write { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn what_is_no_fleet_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        assert!(matches!(load(&path), Err(FleetFileError::Missing { .. })));
        assert!(matches!(load(dir.path()), Err(FleetFileError::Read { .. })));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(load(&path), Err(FleetFileError::NotText { .. })));
    }
}
