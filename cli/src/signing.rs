//! Keys that sign, in minisign's files, and signing with them.
//!
//! Only this program has them: neither the controller nor a host ever sees one.

use std::fs::{self, File};
use std::io::{self, Cursor, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

/// Bytes of a secret key before the sum over it: two each for three algorithms, a salt of 32, two
/// limits and a number of 8, and 64 of the key.
const WITHOUT_SUM: usize = 126;

/// Why there is no key, or nothing signed with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("{path} is there already, and a key is never written over; name another file")]
    Exists { path: PathBuf },
    #[error("{path} is what the public key would be called; name the secret key otherwise")]
    Public { path: PathBuf },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the key {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not a secret key; it is the file that `shoal image keygen` or minisign -G wrote"
    )]
    NoKey { path: PathBuf, source: minisign::PError },
    #[error("the key {path} can't be opened with this password")]
    Password { path: PathBuf, source: minisign::PError },
    #[error("a password with no characters protects nothing; for a key without one, --no-password")]
    NoPassword,
    #[error("cannot make a key")]
    Make(#[source] minisign::PError),
    #[error("cannot sign")]
    Sign(#[source] minisign::PError),
}

/// A new pair of keys in two files.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) secret: PathBuf,
    pub(crate) public: PathBuf,
    /// The line of base64 that hosts pin.
    pub(crate) key: String,
    pub(crate) id: String,
}

/// Where the keys of a pair go: the secret one to `secret`, the public one beside it. Nothing is
/// made yet.
pub(crate) fn places(secret: &Path) -> Result<(PathBuf, PathBuf), KeyError> {
    let public = secret.with_extension("pub");
    if public == secret {
        return Err(KeyError::Public { path: public });
    }
    for path in [secret, &public] {
        // A link that leads nowhere is there, too.
        if fs::symlink_metadata(path).is_ok() {
            return Err(KeyError::Exists { path: path.to_owned() });
        }
    }
    Ok((secret.to_owned(), public))
}

/// Makes a pair of keys; without a password, whoever reads the file can sign.
pub(crate) fn generate(secret: &Path, password: Option<String>) -> Result<Written, KeyError> {
    let (secret, public) = places(secret)?;
    if password.as_ref().is_some_and(String::is_empty) {
        return Err(KeyError::NoPassword);
    }
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let KeyPair { pk, sk } = pair.map_err(KeyError::Make)?;
    let id = id(&pk);
    let boxed = sk.to_box(Some(&format!("shoal secret key {id}"))).map_err(KeyError::Make)?;
    write_new(&secret, 0o600, &boxed.into_string())?;
    let key = pk.to_base64();
    let text = format!("untrusted comment: shoal public key {id}\n{key}\n");
    if let Err(error) = write_new(&public, 0o644, &text) {
        // A secret key that nobody can check is of no use, and would be in the way.
        let _ = fs::remove_file(&secret);
        return Err(error);
    }
    Ok(Written { secret, public, key, id })
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
        _ => KeyError::Write { path: path.to_owned(), source },
    })
}

/// The number of a key, as minisign shows it.
fn id(key: &PublicKey) -> String {
    key.keynum().iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

/// A secret key as it is in its file.
#[derive(Debug)]
pub(crate) struct Locked {
    path: PathBuf,
    text: String,
}

/// A key that signs.
pub(crate) struct Signer {
    key: SecretKey,
    public: PublicKey,
}

impl std::fmt::Debug for Signer {
    /// Without the key, which its own type would print.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Locked {
    /// Reads a file. Whether a password is needed is not known before [`Self::open`].
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// The key, where it is not protected by a password; `None` where it is.
    pub(crate) fn open(&self) -> Result<Option<Signer>, KeyError> {
        let no_key = |source| KeyError::NoKey { path: self.path.clone(), source };
        match self.boxed().map_err(no_key)?.into_unencrypted_secret_key() {
            Ok(key) => Signer::new(key).map(Some).map_err(no_key),
            // Only a key that is whole gets as far as to be called protected.
            Err(error) if error.to_string().contains("might be encrypted") => Ok(None),
            Err(error) => match self.without_sum() {
                Some(key) => Signer::new(key).map(Some).map_err(no_key),
                None => Err(no_key(error)),
            },
        }
    }

    /// The key as minisign 0.11 writes one that has no password: without the sum over it.
    fn without_sum(&self) -> Option<SecretKey> {
        let bytes = STANDARD.decode(self.text.lines().nth(1)?).ok()?;
        let (key, sum) = bytes.split_at_checked(WITHOUT_SUM)?;
        let is_plain = key[2..4] == [0, 0] && sum == [0; 32];
        is_plain.then(|| SecretKey::from_bytes(&bytes).ok()).flatten()
    }

    /// The key that is protected by this password.
    pub(crate) fn unlock(&self, password: String) -> Result<Signer, KeyError> {
        let wrong = |source| KeyError::Password { path: self.path.clone(), source };
        let key = self.boxed().map_err(wrong)?.into_secret_key(Some(password)).map_err(wrong)?;
        Signer::new(key).map_err(wrong)
    }

    fn boxed(&self) -> Result<SecretKeyBox, minisign::PError> {
        SecretKeyBox::from_string(&self.text)
    }
}

impl Signer {
    fn new(key: SecretKey) -> Result<Self, minisign::PError> {
        let public = PublicKey::from_secret_key(&key)?;
        Ok(Self { key, public })
    }

    /// The key's number.
    pub(crate) fn id(&self) -> String {
        id(&self.public)
    }

    /// A signature of `text`; `comment`, one line, is signed as well.
    pub(crate) fn sign(&self, text: &str, comment: &str) -> Result<String, KeyError> {
        let (data, from) = (Cursor::new(text), format!("signed by shoal key {}", self.id()));
        let signed =
            minisign::sign(Some(&self.public), &self.key, data, Some(comment), Some(&from));
        signed.map(minisign::SignatureBox::into_string).map_err(KeyError::Sign)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pair_is_written_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ci.key");
        let written = generate(&path, None).unwrap();
        assert_eq!(written.public, dir.path().join("ci.pub"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let key = shoal_image::PublicKey::parse(&fs::read_to_string(&written.public).unwrap());
        assert_eq!(format!("{:016X}", key.unwrap().id()), written.id);
        assert!(written.key.starts_with("RW") && written.key.len() == 56);
        let before = fs::read(&path).unwrap();
        assert!(matches!(generate(&path, None), Err(KeyError::Exists { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(generate(&path, None), Err(KeyError::Exists { .. })), "its .pub is there");
        assert!(!path.exists());
        fs::write(&path, before).unwrap();
        assert_eq!(Locked::read(&path).unwrap().open().unwrap().unwrap().id(), written.id);
        assert!(matches!(generate(&dir.path().join("x.pub"), None), Err(KeyError::Public { .. })));
        assert!(matches!(
            generate(&dir.path().join("y"), Some(String::new())),
            Err(KeyError::NoPassword)
        ));
    }

    #[test]
    fn a_password_is_asked_for_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ci.key");
        let written = generate(&path, Some("hunter2".into())).unwrap();
        let locked = Locked::read(&path).unwrap();
        assert!(locked.open().unwrap().is_none());
        let error = locked.unlock("hunter3".into()).unwrap_err();
        assert!(matches!(error, KeyError::Password { .. }), "{error:?}");
        let signer = locked.unlock("hunter2".into()).unwrap();
        assert_eq!(signer.id(), written.id);
        assert!(!format!("{signer:?}").contains("key:"));
        let signature = signer.sign("text", "shop:1").unwrap();
        let key = shoal_image::PublicKey::parse(&written.key).unwrap();
        let signature = shoal_image::Signature::parse(&signature).unwrap();
        assert_eq!(signature.verify(b"text", std::slice::from_ref(&key)), Ok(key.id()));
    }

    #[test]
    fn a_key_of_minisign_without_a_password_has_no_sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ci.key");
        let written = generate(&path, None).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().nth(1).unwrap();
        let mut bytes = STANDARD.decode(line).unwrap();
        bytes[WITHOUT_SUM..].fill(0);
        fs::write(&path, text.replace(line, &STANDARD.encode(&bytes))).unwrap();
        let signer = Locked::read(&path).unwrap().open().unwrap().unwrap();
        assert_eq!(signer.id(), written.id);
        signer.sign("text", "comment").unwrap();
    }

    #[test]
    fn what_is_no_key_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ci.key");
        assert!(matches!(Locked::read(&path), Err(KeyError::Read { .. })));
        let written = generate(&dir.path().join("good.key"), None).unwrap();
        let good = fs::read_to_string(&written.secret).unwrap();
        // The end is a sum over the rest.
        let (begin, end) = good.trim_end().split_at(good.trim_end().len() - 8);
        let damaged = format!("{begin}{}\n", end.chars().rev().collect::<String>());
        let public = fs::read_to_string(&written.public).unwrap();
        for text in ["", "x", "x\ny\n", &public, &good[..good.len() / 2], &damaged] {
            fs::write(&path, text).unwrap();
            let error = Locked::read(&path).unwrap().open().unwrap_err();
            assert!(matches!(error, KeyError::NoKey { .. }), "{text}: {error:?}");
        }
    }
}
