//! Bringing a program of the agent onto the host: resumable, and under its name only when every
//! byte of it was verified.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use shoal_core::agent_upgrade::AgentSpec;
use shoal_core::image::Digest;
use shoal_image::sha256_of;

use crate::files::{FileError, failed, make_private_dir, remove_file};
use crate::host::facts::disk;
use crate::paths::Paths;
use crate::stage::{Source, in_time};

/// Bytes of disk that are left free: instances and the agent write there, too.
const RESERVE: u64 = 64 << 20;

/// Why a program did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no room for it and for the copy in its place.
    #[error("there is no room for it: it needs {needed} bytes and {free} are free in {dir}", dir = dir.display())]
    NoRoom {
        /// Bytes that are missing, with what stays free.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Where.
        dir: PathBuf,
    },
    /// The controller, or the way to it.
    #[error("it can't be fetched: {0}")]
    Source(String),
    /// What came is not what was wanted.
    #[error("what was fetched is not it: its SHA-256 is {found}, and {wanted} is wanted")]
    Wrong {
        /// What came.
        found: String,
        /// What was wanted.
        wanted: Digest,
    },
}

/// Fetches the program and gives its path; `told` hears how many bytes there are. Can be dropped
/// at any time: what came is kept for the next attempt.
pub async fn fetch(
    source: &dyn Source,
    paths: &Paths,
    spec: &AgentSpec,
    mut told: impl FnMut(u64) + Send,
) -> Result<PathBuf, FetchError> {
    let path = paths.agent_program(&spec.digest);
    if path.exists() && digest_of(&path).await? == spec.digest.to_string() {
        return Ok(path);
    }
    let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
    make_private_dir(&dir)?;
    let partial = path.with_extension("partial");
    let mut file = open(&partial, spec)?;
    let mut received = file.metadata().map_err(failed("look at", &partial))?.len();
    check_room(&dir, spec.size - received)?;
    let fetching = in_time(source.fetch(&spec.digest, received));
    let mut stream = fetching.await.and_then(|begun| begun).map_err(FetchError::Source)?;
    while received < spec.size {
        let bytes = match in_time(stream.next()).await.map_err(FetchError::Source)? {
            Some(bytes) => bytes.map_err(FetchError::Source)?,
            None => return Err(FetchError::Source("the controller ended it early".into())),
        };
        // Pieces of some hundred kilobytes, which the page cache takes.
        file.write_all(&bytes).map_err(failed("write", &partial))?;
        received += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        told(received);
    }
    file.set_permissions(Permissions::from_mode(0o755)).map_err(failed("open up", &partial))?;
    file.sync_all().map_err(failed("write", &partial))?;
    drop(file);
    let found = digest_of(&partial).await?;
    if found != spec.digest.to_string() {
        // Nobody knows which of its bytes are wrong.
        remove_file(&partial)?;
        return Err(FetchError::Wrong { found, wanted: spec.digest });
    }
    fs::rename(&partial, &path).map_err(failed("rename", &partial))?;
    sync_dir(&dir)?;
    Ok(path)
}

/// The partial file, to be written to its end. One that is too long is begun anew.
fn open(partial: &Path, spec: &AgentSpec) -> Result<File, FileError> {
    let file = OpenOptions::new().create(true).append(true).open(partial);
    let file = file.map_err(failed("open", partial))?;
    if file.metadata().map_err(failed("look at", partial))?.len() > spec.size {
        file.set_len(0).map_err(failed("shorten", partial))?;
    }
    Ok(file)
}

fn check_room(dir: &Path, missing: u64) -> Result<(), FetchError> {
    let (free, needed) = (disk(dir).1, missing.saturating_add(RESERVE));
    if free >= needed {
        return Ok(());
    }
    Err(FetchError::NoRoom { needed, free, dir: dir.to_owned() })
}

/// The SHA-256 of a file, as `sha256sum` shows it.
pub(crate) async fn digest_of(path: &Path) -> Result<String, FetchError> {
    let path = path.to_owned();
    let summing = tokio::task::spawn_blocking(move || sha256_of(&path, |_| ()));
    let sum = summing.await.map_err(|e| FetchError::Source(e.to_string()))?;
    sum.map(|sum| sum.to_string()).map_err(|e| FetchError::Source(crate::chain(&e)))
}

/// Puts the names in a directory onto the disk.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write", dir))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use futures_util::stream::{self, BoxStream};
    use shoal_image::Sha256Sum;

    use super::*;

    /// Has `bytes`, sends a part of them at a time, and remembers from where it was asked.
    struct Has {
        bytes: &'static [u8],
        at_once: usize,
        asked: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl Source for Has {
        async fn fetch(
            &self,
            _: &Digest,
            offset: u64,
        ) -> Result<BoxStream<'static, Result<Bytes, String>>, String> {
            self.asked.lock().unwrap().push(offset);
            let rest = &self.bytes[usize::try_from(offset).unwrap()..];
            let piece = Bytes::from_static(&rest[..rest.len().min(self.at_once)]);
            Ok(stream::iter([Ok(piece)]).boxed())
        }
    }

    fn spec(bytes: &[u8]) -> AgentSpec {
        AgentSpec {
            version: "1.0.0".parse().unwrap(),
            digest: <[u8; 32]>::from(Sha256Sum::of(bytes)).into(),
            size: u64::try_from(bytes.len()).unwrap(),
            deadline: Duration::from_secs(1),
            asked: 1,
        }
    }

    #[tokio::test]
    async fn what_broke_off_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let source = Has { bytes: b"an agent", at_once: 5, asked: Mutex::default() };
        let wanted = spec(b"an agent");
        let error = fetch(&source, &paths, &wanted, |_| ()).await.unwrap_err().to_string();
        assert!(error.contains("ended it early"), "{error}");
        let mut told = vec![];
        let path = fetch(&source, &paths, &wanted, |bytes| told.push(bytes)).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"an agent");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(told, [8]);
        fetch(&source, &paths, &wanted, |_| ()).await.unwrap();
        assert_eq!(*source.asked.lock().unwrap(), [0, 5], "what is there is not fetched again");
    }

    #[tokio::test]
    async fn what_is_not_it_never_gets_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let source = Has { bytes: b"a rogue!", at_once: 8, asked: Mutex::default() };
        let wanted = spec(b"an agent");
        let error = fetch(&source, &paths, &wanted, |_| ()).await.unwrap_err();
        assert!(matches!(error, FetchError::Wrong { .. }), "{error}");
        let left = crate::files::names(&paths.agents().join(wanted.digest.to_string())).unwrap();
        assert_eq!(left, [""; 0]);
    }

    #[tokio::test]
    async fn what_has_no_room_is_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().into(), ..Paths::default() };
        let source = Has { bytes: b"", at_once: 1, asked: Mutex::default() };
        let wanted = AgentSpec { size: 1 << 60, ..spec(b"x") };
        let error = fetch(&source, &paths, &wanted, |_| ()).await.unwrap_err();
        assert!(error.to_string().contains("there is no room"), "{error}");
        assert!(source.asked.lock().unwrap().is_empty());
    }
}
