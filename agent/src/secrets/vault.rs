//! Secrets as files: `NAME/@VERSION.cred`, each encrypted for this host and for its own name, so
//! that neither another host nor another file's place makes sense of it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_core::secret::{InvalidSecret, PinnedSecret, SecretValue};

use crate::files::{
    FileError, failed, make_private_dir, names, read_if_there, remove_file, write_whole,
};
use crate::host::command::CommandError;

/// Files that are opened at once: each costs a process.
const AT_ONCE: usize = 4;

/// Begins the name of a file; no part of a secret's name does.
const MARK: char = '@';
/// Ends it.
const KIND: &str = ".cred";

/// What encrypts for this host only.
pub trait Seal: Debug + Send + Sync {
    /// Encrypts `value`, with `label` bound to it.
    ///
    /// # Errors
    /// Where that can't be done here.
    fn seal(&self, label: &str, value: &SecretValue) -> Result<Vec<u8>, SealError>;

    /// Decrypts what was sealed with `label`.
    ///
    /// # Errors
    /// Where it was sealed for another host or another label, or that can't be done here.
    fn open(&self, label: &str, sealed: &[u8]) -> Result<SecretValue, SealError>;
}

/// Why nothing could be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The tool.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// What was decrypted is no secret's value.
    #[error(transparent)]
    Value(#[from] InvalidSecret),
}

/// Why a secret could not be kept or opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// It could not be encrypted.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It is not there.
    #[error("secret {secret} is not on this host; the agent gets it from the controller")]
    Missing {
        /// Which.
        secret: PinnedSecret,
    },
    /// It could not be decrypted.
    #[error(
        "can't open secret {secret}; `systemctl restart shoal-agent` has one that is damaged sent \
         anew by the controller"
    )]
    Closed {
        /// Which.
        secret: PinnedSecret,
        /// Why.
        source: SealError,
    },
}

/// The files of a host's secrets.
#[derive(Debug, Clone)]
pub struct Vault {
    dir: PathBuf,
    key: Arc<dyn Seal>,
}

impl Vault {
    /// Those below `dir`, encrypted by `key`.
    #[must_use]
    pub fn new(dir: PathBuf, key: Arc<dyn Seal>) -> Self {
        Self { dir, key }
    }

    /// Those that have a file.
    ///
    /// # Errors
    /// Where a directory can't be read.
    pub fn list(&self) -> Result<BTreeSet<PinnedSecret>, FileError> {
        let mut found = Found::default();
        found.look(&self.dir, "")?;
        Ok(found.secrets)
    }

    /// Removes what an interrupted writing left. For the one who writes.
    ///
    /// # Errors
    /// Where it is there and can't be removed.
    pub fn sweep(&self) -> Result<(), FileError> {
        let mut found = Found::default();
        found.look(&self.dir, "")?;
        found.strays.iter().try_for_each(|path| remove_file(path))
    }

    /// Whether one has a file.
    #[must_use]
    pub fn holds(&self, secret: &PinnedSecret) -> bool {
        self.file(secret).is_file()
    }

    /// Writes one; it is on the disk when this returns.
    ///
    /// # Errors
    /// Where it can't be encrypted or written.
    pub fn put(&self, secret: &PinnedSecret, value: &SecretValue) -> Result<(), SecretError> {
        let sealed = self.key.seal(&label(secret), value)?;
        let path = self.file(secret);
        make_lasting_dir(path.parent().unwrap_or(&self.dir))?;
        Ok(write_whole(&path, &sealed)?)
    }

    /// Reads one.
    ///
    /// # Errors
    /// Where it is not there, or can't be decrypted.
    pub fn open(&self, secret: &PinnedSecret) -> Result<SecretValue, SecretError> {
        let missing = || SecretError::Missing { secret: secret.clone() };
        let sealed = read_if_there(&self.file(secret))?.ok_or_else(missing)?;
        let closed = |source| SecretError::Closed { secret: secret.clone(), source };
        self.key.open(&label(secret), &sealed).map_err(closed)
    }

    /// Reads several, some of them at once.
    #[must_use]
    pub fn open_all(
        &self,
        secrets: &BTreeSet<PinnedSecret>,
    ) -> Vec<(PinnedSecret, Result<SecretValue, SecretError>)> {
        let secrets: Vec<&PinnedSecret> = secrets.iter().collect();
        let mut opened = Vec::new();
        for some in secrets.chunks(AT_ONCE) {
            opened.extend(std::thread::scope(|scope| {
                let begin = |secret| (secret, scope.spawn(move || self.open(secret)));
                let begun: Vec<_> = some.iter().copied().map(begin).collect();
                let end = |(secret, thread): (&PinnedSecret, _)| (secret.clone(), joined(thread));
                begun.into_iter().map(end).collect::<Vec<_>>()
            }));
        }
        opened
    }

    /// Removes one; it not being there is fine.
    ///
    /// # Errors
    /// Where it can't be removed.
    pub fn remove(&self, secret: &PinnedSecret) -> Result<(), FileError> {
        let file = self.file(secret);
        remove_file(&file)?;
        let above = file.ancestors().skip(1).take_while(|dir| *dir != self.dir);
        for dir in above {
            // Fails where there is another in it.
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Whether this host can encrypt and decrypt at all.
    ///
    /// # Errors
    /// Where it can't.
    pub fn works(&self) -> Result<(), SealError> {
        works(self.key.as_ref())
    }

    fn file(&self, secret: &PinnedSecret) -> PathBuf {
        let PinnedSecret { name, version } = secret;
        self.dir.join(name.to_string()).join(format!("{MARK}{version}{KIND}"))
    }
}

/// Whether `key` encrypts, and decrypts what it has encrypted.
///
/// # Errors
/// Where it does not.
pub fn works(key: &dyn Seal) -> Result<(), SealError> {
    const LABEL: &str = "shoal-probe";
    let value = SecretValue::new(b"probe".to_vec())?;
    key.open(LABEL, &key.seal(LABEL, &value)?).map(drop)
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What is bound to a secret's value: its name as systemd takes one, of at most 255 bytes and
/// without a slash. No name has a plus.
fn label(secret: &PinnedSecret) -> String {
    format!("{}@{}", secret.name.to_string().replace('/', "+"), secret.version)
}

/// What is below a directory.
#[derive(Debug, Default)]
struct Found {
    secrets: BTreeSet<PinnedSecret>,
    /// What is none.
    strays: Vec<PathBuf>,
}

impl Found {
    /// Looks into `dir`, which is that of the secrets whose names begin with `above`.
    fn look(&mut self, dir: &Path, above: &str) -> Result<(), FileError> {
        for entry in names(dir)? {
            let path = dir.join(&entry);
            let Some(file) = entry.strip_prefix(MARK) else {
                let name = if above.is_empty() { entry } else { format!("{above}/{entry}") };
                self.look(&path, &name)?;
                continue;
            };
            let version = file.strip_suffix(KIND).and_then(|number| number.parse().ok());
            match (version, above.parse()) {
                (Some(version), Ok(name)) => {
                    self.secrets.insert(PinnedSecret { name, version });
                }
                _ => self.strays.push(path),
            }
        }
        Ok(())
    }
}

/// Makes a directory, and those above it, so that they are there after a crash.
fn make_lasting_dir(dir: &Path) -> Result<(), FileError> {
    let new = dir.ancestors().take_while(|dir| !dir.exists());
    let changed: Vec<&Path> = new.filter_map(Path::parent).collect();
    make_private_dir(dir)?;
    for dir in changed {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// A key that can be told to break, and to be another one. What it makes is no good for
    /// anything but tests.
    #[derive(Debug, Default)]
    pub(in crate::secrets) struct FakeKey {
        key: AtomicU64,
        sealed: AtomicU64,
        broken: AtomicBool,
    }

    impl FakeKey {
        pub(in crate::secrets) fn change(&self) {
            self.key.fetch_add(1, Ordering::Relaxed);
        }

        pub(in crate::secrets) fn break_down(&self, broken: bool) {
            self.broken.store(broken, Ordering::Relaxed);
        }

        /// How often it has sealed something.
        pub(in crate::secrets) fn sealed(&self) -> u64 {
            self.sealed.load(Ordering::Relaxed)
        }

        fn begin(&self, label: &str) -> Result<Vec<u8>, SealError> {
            if self.broken.load(Ordering::Relaxed) {
                let source = std::io::ErrorKind::NotFound.into();
                return Err(CommandError::NotRun { program: "the key".into(), source }.into());
            }
            Ok(format!("{} {label} ", self.key.load(Ordering::Relaxed)).into_bytes())
        }
    }

    impl Seal for FakeKey {
        fn seal(&self, label: &str, value: &SecretValue) -> Result<Vec<u8>, SealError> {
            let mut sealed = self.begin(label)?;
            self.sealed.fetch_add(1, Ordering::Relaxed);
            sealed.extend(value.reveal().iter().map(|byte| !byte));
            Ok(sealed)
        }

        fn open(&self, label: &str, sealed: &[u8]) -> Result<SecretValue, SealError> {
            let value = sealed.strip_prefix(&*self.begin(label)?).ok_or(InvalidSecret::Empty)?;
            Ok(SecretValue::new(value.iter().map(|byte| !byte).collect())?)
        }
    }

    pub(in crate::secrets) fn secret(name: &str, version: u64) -> PinnedSecret {
        PinnedSecret { name: name.parse().unwrap(), version }
    }

    pub(in crate::secrets) fn value(text: &str) -> SecretValue {
        SecretValue::new(text.into()).unwrap()
    }

    fn vault(dir: &Path) -> Vault {
        Vault::new(dir.join("secrets"), Arc::<FakeKey>::default())
    }

    #[test]
    fn each_version_has_a_file_of_its_own_for_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        let long = ["a"; 8].map(|part| part.repeat(24)).join("/");
        let all = [secret("db", 1), secret("db", 2), secret("db/1", 1), secret(&long, u64::MAX)];
        for secret in &all {
            assert!(label(secret).len() < 256 && !label(secret).contains('/'));
            vault.put(secret, &value(&format!("of {secret}"))).unwrap();
        }
        assert_eq!(vault.list().unwrap(), all.clone().into());
        for (secret, opened) in vault.open_all(&all.clone().into()) {
            assert_eq!(opened.unwrap(), value(&format!("of {secret}")));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = dir.path().join("secrets/db/@1.cred");
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        vault.remove(&all[0]).unwrap();
        vault.remove(&all[2]).unwrap();
        assert!(!dir.path().join("secrets/db/1").exists());
        assert!(matches!(vault.open(&all[0]), Err(SecretError::Missing { .. })));
        assert_eq!(vault.open(&all[1]).unwrap(), value("of db version 2"));
    }

    #[test]
    fn a_file_in_anothers_place_makes_no_sense_there() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        vault.put(&secret("db", 1), &value("x")).unwrap();
        vault.put(&secret("db", 2), &value("y")).unwrap();
        let file = |version| dir.path().join(format!("secrets/db/@{version}.cred"));
        fs::rename(file(1), file(2)).unwrap();
        let error = vault.open(&secret("db", 2)).unwrap_err();
        assert!(matches!(error, SecretError::Closed { .. }));
        assert!(error.to_string().contains("db version 2"), "{error}");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(dir.path());
        vault.put(&secret("db", 1), &value("x")).unwrap();
        let half = dir.path().join("secrets/db/@2.new");
        fs::write(&half, "half").unwrap();
        assert_eq!(vault.list().unwrap(), [secret("db", 1)].into());
        assert!(half.exists(), "whoever writes it may not be done");
        vault.sweep().unwrap();
        assert!(!half.exists());
        assert_eq!(vault.list().unwrap(), [secret("db", 1)].into());
    }
}
