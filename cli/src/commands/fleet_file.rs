//! From a path to a fleet's spec, with the local files that it names in it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use shoal_core::fleet::FleetSpec;
use shoal_core::fleetfile::{LARGEST_SPEC, Problems, Source, parse};
use shoal_core::render::LARGEST_FILE;

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetFileError {
    #[error(
        "there is no fleet file {path}; name it, or go to its directory (without a name it is \
         fleet.toml)"
    )]
    Missing { path: PathBuf },
    #[error("cannot read the fleet file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a text file: a fleet file is TOML or JSON, in UTF-8")]
    NotText { path: PathBuf },
    #[error("{0}")]
    Problems(Box<Problems>),
}

/// Reads and checks a fleet file. What it names is looked for beside it.
pub(crate) fn load(path: &Path) -> Result<FleetSpec, FleetFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FleetFileError::Missing { path: path.to_owned() },
        _ => FleetFileError::Read { path: path.to_owned(), source },
    };
    let bytes = read_at_most(path, LARGEST_SPEC).map_err(failed)?;
    let text =
        String::from_utf8(bytes).map_err(|_| FleetFileError::NotText { path: path.to_owned() })?;
    let name = path.display().to_string();
    let source = Source { name: &name, text: &text };
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut read = |named: &str| {
        read_at_most(&beside.join(named), LARGEST_FILE).map_err(|error| error.to_string())
    };
    parse(source, &mut read).map_err(|problems| FleetFileError::Problems(Box::new(problems)))
}

/// A regular file's bytes, and one more than `most` at the most: enough to see that it is too
/// large. The kind is looked at first, because opening a pipe would wait.
fn read_at_most(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
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
    fn what_is_no_fleet_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.toml");
        assert!(matches!(load(&path), Err(FleetFileError::Missing { .. })));
        assert!(matches!(load(dir.path()), Err(FleetFileError::Read { .. })));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(load(&path), Err(FleetFileError::NotText { .. })));
    }
}
