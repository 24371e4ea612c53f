//! The key that seals secrets: 32 random bytes in a file of the controller's directory.
//!
//! ChaCha20-Poly1305 with a random nonce for each value. Where a value is kept is part of what is
//! sealed, so that none can be put in the place of another. Deliberately absent: the store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use shoal_core::secret::SecretValue;
use shoal_tls::{PrivateFileError, write_private};
use zeroize::Zeroizing;

/// The file's name in the controller's directory.
pub const KEY_FILE: &str = "secrets.key";

/// Bytes of a key.
const KEY_LEN: usize = 32;
/// Bytes by which a sealed value is longer than the value.
const TAG_LEN: usize = 16;

/// Why secrets can be neither kept nor read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyProblem {
    /// There are secrets, and no key to them.
    #[error(
        "{path}, the key of the secrets, is not there: put it back from a backup of the \
         controller's directory and restart the controller; where it is lost for good, see \
         `shoal-controller new-secrets-key --help`"
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file can't be read.
    #[error("cannot read {path}, the key of the secrets: mend that and restart the controller")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The file is no key.
    #[error(
        "{path}, the key of the secrets, has {found} bytes and must have {KEY_LEN}: put it back \
         from a backup of the controller's directory and restart the controller; where it is lost \
         for good, see `shoal-controller new-secrets-key --help`"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: usize,
    },
    /// It opens none of the secrets that there are.
    #[error(
        "{path} is not the key with which the secrets here were sealed: put that one back from a \
         backup of the controller's directory and restart the controller; where it is lost for \
         good, see `shoal-controller new-secrets-key --help`"
    )]
    Wrong {
        /// The file.
        path: PathBuf,
    },
}

/// The key. Never shown.
#[derive(Debug)]
pub(crate) struct Key(LessSafeKey);

/// A value that only the key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) bytes: Vec<u8>,
}

/// Where the key of the controller in `dir` is.
pub(crate) fn key_path(dir: &Path) -> PathBuf {
    dir.join(KEY_FILE)
}

/// Makes a key and puts it into `dir`, in the place of one that may be there.
///
/// # Errors
/// Where it can't be written.
///
/// # Panics
/// Where the kernel has no randomness: then nothing that a controller does would be safe.
pub fn create_key(dir: &Path) -> Result<(), PrivateFileError> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    fill(bytes.as_mut());
    write_private(&key_path(dir), bytes.as_ref())
}

impl Key {
    /// Reads the key in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self, KeyProblem> {
        let path = key_path(dir);
        let bytes = match fs::read(&path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyProblem::Missing { path });
            }
            Err(error) => return Err(KeyProblem::Unreadable { path, source: error.into() }),
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes);
        let malformed = |_| KeyProblem::Malformed { path, found: bytes.len() };
        Ok(Self(LessSafeKey::new(key.map_err(malformed)?)))
    }

    /// Seals `value` for `place`, the key of its record.
    pub(crate) fn seal(&self, place: &str, value: &SecretValue) -> Sealed {
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce);
        self.seal_with(nonce, place, value)
    }

    fn seal_with(&self, nonce: [u8; NONCE_LEN], place: &str, value: &SecretValue) -> Sealed {
        // With room for the tag, so that growing leaves no copy of the value behind.
        let mut bytes = Vec::with_capacity(value.reveal().len() + TAG_LEN);
        bytes.extend_from_slice(value.reveal());
        let (once, place) = (Nonce::assume_unique_for_key(nonce), Aad::from(place));
        self.0
            .seal_in_place_append_tag(once, place, &mut bytes)
            .expect("a value is far smaller than the most that can be sealed");
        Sealed { nonce, bytes }
    }

    /// The value that was sealed for `place`; `None` where this is not the key, the value is
    /// another place's, or any bit of it has changed.
    pub(crate) fn open(&self, place: &str, nonce: &[u8], sealed: &[u8]) -> Option<SecretValue> {
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(place), &mut bytes).ok()?.len();
        bytes.truncate(length);
        SecretValue::new(std::mem::take(&mut *bytes)).ok()
    }
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("a kernel that has booted gives randomness");
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key(byte: u8) -> Key {
        Key(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[byte; KEY_LEN]).unwrap()))
    }

    fn value() -> SecretValue {
        SecretValue::new(b"hunter2".to_vec()).unwrap()
    }

    #[test]
    fn only_the_key_opens_and_only_in_its_place() {
        let sealed = key(1).seal("secrets/db@1", &value());
        let open = |key: &Key, place: &str, sealed: &Sealed| {
            key.open(place, &sealed.nonce, &sealed.bytes).map(|value| value.reveal().to_vec())
        };
        assert_eq!(open(&key(1), "secrets/db@1", &sealed), Some(b"hunter2".to_vec()));
        assert_eq!(open(&key(2), "secrets/db@1", &sealed), None);
        assert_eq!(open(&key(1), "secrets/db@2", &sealed), None);
        for at in 0..sealed.bytes.len() {
            let mut bent = sealed.clone();
            bent.bytes[at] ^= 1;
            assert_eq!(open(&key(1), "secrets/db@1", &bent), None, "byte {at}");
        }
        assert!(key(1).open("secrets/db@1", &sealed.nonce, &[]).is_none());
        assert!(key(1).open("secrets/db@1", &[], &sealed.bytes).is_none());
    }

    #[test]
    fn the_same_value_is_never_sealed_the_same() {
        let (one, two) = (key(1).seal("a", &value()), key(1).seal("a", &value()));
        assert!(one.nonce != two.nonce && one.bytes != two.bytes);
    }

    /// What a controller sealed, each later one has to open.
    #[test]
    fn values_are_sealed_as_ever() {
        let sealed = key(7).seal_with([9; NONCE_LEN], "secrets/db@00000000000000000001", &value());
        let hex: String = sealed.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "940c95a3817cb781c60f08f0dd1fcaf42936337c273d4d");
    }

    #[test]
    fn a_key_is_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Key::read(dir.path()), Err(KeyProblem::Missing { .. })));
        create_key(dir.path()).unwrap();
        let meta = fs::metadata(key_path(dir.path())).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (32, 0o600));
        let sealed = Key::read(dir.path()).unwrap().seal("a", &value());
        let again = Key::read(dir.path()).unwrap();
        assert!(again.open("a", &sealed.nonce, &sealed.bytes).is_some());
        fs::write(key_path(dir.path()), [1; 31]).unwrap();
        let error = Key::read(dir.path()).unwrap_err();
        assert!(matches!(error, KeyProblem::Malformed { found: 31, .. }), "{error}");
        fs::remove_file(key_path(dir.path())).unwrap();
        fs::create_dir(key_path(dir.path())).unwrap();
        assert!(matches!(Key::read(dir.path()), Err(KeyProblem::Unreadable { .. })));
    }
}
