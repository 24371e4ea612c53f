//! Secrets as the store keeps them: every version sealed, under a key that the store does not have.
//!
//! Way in: [`Vault`]. A secret has a head record, which says its newest version, and a record for
//! each version, which never changes. Removing a secret leaves its head, so that a version is never
//! given twice: hosts and revisions know a value by its version alone. A secret is there where the
//! record of its newest version is.
//!
//! Where the key is missing or wrong, everything but secrets goes on. Deliberately absent: who may
//! see what, and any way to show a value to a person.

mod key;
mod renewal;
#[cfg(test)]
mod tests;
pub(crate) mod users;

use std::path::{Path, PathBuf};

use shoal_core::secret::{PinnedSecret, SecretName, SecretValue};
use shoal_core::time::Timestamp;
use shoal_proto::v1::store::{SecretHeadRecord, SecretRecord};
use shoal_tls::PrivateFileError;

pub use self::key::{KEY_FILE, KeyProblem, create_key};
use self::key::{Key, key_path};
pub use self::renewal::{RenewalError, renew_key};
use crate::records::number;
use crate::store::{Batch, MAX_KEY_BYTES, Prefix, Record, RecordError, Records, Stored};

/// Bytes that a secret's name may have, so that its records have keys.
pub const LONGEST_NAME: usize = MAX_KEY_BYTES - SecretRecord::PREFIX.len() - "@".len() - 20;

/// Why a secret can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No secret can.
    #[error("secrets can't be used")]
    Key(#[source] KeyProblem),
    /// This one is not there.
    #[error("secret {0} is not kept here, or no longer")]
    Gone(PinnedSecret),
    /// This one is not as it was.
    #[error(
        "secret {secret} does not open with the key in {path}: its record is damaged, or was \
         sealed with another key; set it anew with `shoal secret set {}`", .secret.name
    )]
    Sealed {
        /// The secret.
        secret: PinnedSecret,
        /// The key's file.
        path: PathBuf,
    },
    /// Its name is too long for the store.
    #[error("a secret's name may have {LONGEST_NAME} bytes, and this one has {0}")]
    Name(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] RecordError),
}

/// Why a controller can't tell how its secrets are.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A first key can't be written.
    #[error("cannot make the key of the secrets")]
    Create(#[from] PrivateFileError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] RecordError),
}

/// The secrets of a controller.
#[derive(Debug)]
pub struct Vault {
    records: Records,
    path: PathBuf,
    key: Result<Key, KeyProblem>,
}

/// What is known of a secret that is there, or was.
#[derive(Debug, Clone)]
pub(crate) struct Newest {
    pub(crate) name: SecretName,
    pub(crate) head: Stored<SecretHeadRecord>,
    /// The newest version; `None` where the secret was removed.
    pub(crate) record: Option<Stored<SecretRecord>>,
}

/// Who keeps a new version, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making<'a> {
    pub(crate) who: &'a str,
    pub(crate) now: Timestamp,
    pub(crate) generated: bool,
}

impl Vault {
    /// The secrets of the controller in `dir`, whose store is `records`. Makes the first key of a
    /// controller that has no secrets yet. A key that is missing or wrong is no error here; it is
    /// one of each use.
    ///
    /// # Errors
    /// The store can't be read, or the first key not be written.
    pub async fn open(dir: &Path, records: Records) -> Result<Self, VaultError> {
        let key = match Key::read(dir) {
            Err(KeyProblem::Missing { .. }) if !any(&records).await? => {
                create_key(dir)?;
                Key::read(dir)
            }
            Ok(key) if !is_right(&key, &records).await? => {
                Err(KeyProblem::Wrong { path: key_path(dir) })
            }
            read => read,
        };
        Ok(Self { records, path: key_path(dir), key })
    }

    /// Why no secret can be used, if so.
    #[must_use]
    pub fn problem(&self) -> Option<&KeyProblem> {
        self.key.as_ref().err()
    }

    fn key(&self) -> Result<&Key, SecretError> {
        self.key.as_ref().map_err(|problem| SecretError::Key(problem.clone()))
    }

    /// The value of one version of a secret.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub async fn value(&self, secret: &PinnedSecret) -> Result<SecretValue, SecretError> {
        let key = self.key()?;
        let id = record_id(&secret.name, secret.version)?;
        let stored = self.records.get::<SecretRecord>(&id).await?;
        let stored = stored.ok_or_else(|| SecretError::Gone(secret.clone()))?;
        let opened = open(key, &stored);
        opened
            .ok_or_else(|| SecretError::Sealed { secret: secret.clone(), path: self.path.clone() })
    }

    /// Puts into `batch` what makes `value` the next version of `name`, where `newest` is what is
    /// known of it; gives the version.
    pub(crate) fn put(
        &self,
        batch: &mut Batch,
        name: &SecretName,
        newest: Option<&Newest>,
        value: &SecretValue,
        making: Making<'_>,
    ) -> Result<u64, SecretError> {
        let Making { who, now, generated } = making;
        let version = newest.map_or(0, Newest::version) + 1;
        let id = record_id(name, version)?;
        let key::Sealed { nonce, bytes } = self.key()?.seal(&place(&id), value);
        let record = SecretRecord {
            nonce: nonce.to_vec().into(),
            sealed: bytes.into(),
            created_ms: now.0,
            created_by: who.to_owned(),
            generated,
        };
        let head = SecretHeadRecord { version };
        match newest {
            Some(newest) => batch.replace(&newest.head, &head)?,
            None => batch.create(&name.to_string(), &head)?,
        };
        batch.create(&id, &record)?;
        Ok(version)
    }
}

impl Newest {
    /// What is known of `name`; `None` where it never was.
    ///
    /// # Errors
    /// The store fails, or a record in it is damaged.
    pub(crate) async fn load(
        records: &Records,
        name: &SecretName,
    ) -> Result<Option<Self>, RecordError> {
        // No longer one was ever kept.
        let Ok(id) = head_id(name) else { return Ok(None) };
        let Some(head) = records.get::<SecretHeadRecord>(&id).await? else { return Ok(None) };
        Self::of(records, name.clone(), head).await.map(Some)
    }

    /// Every secret that is there, ordered by name.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) async fn all(records: &Records) -> Result<Vec<Self>, RecordError> {
        let mut all = Vec::new();
        for head in records.list::<SecretHeadRecord>().await?.records {
            let Ok(name) = head.id.parse() else {
                tracing::error!(secret = head.id, "the store has a secret whose name can't be one");
                continue;
            };
            all.push(Self::of(records, name, head).await?);
        }
        all.retain(|newest| newest.record.is_some());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn of(
        records: &Records,
        name: SecretName,
        head: Stored<SecretHeadRecord>,
    ) -> Result<Self, RecordError> {
        let record = match record_id(&name, head.record.version) {
            Ok(id) => records.get::<SecretRecord>(&id).await?,
            Err(_) => None,
        };
        Ok(Self { name, head, record })
    }

    /// The newest version, also of a secret that was removed.
    pub(crate) fn version(&self) -> u64 {
        self.head.record.version
    }
}

/// The id of a secret's head.
fn head_id(name: &SecretName) -> Result<String, SecretError> {
    let id = name.to_string();
    if id.len() > LONGEST_NAME { Err(SecretError::Name(id.len())) } else { Ok(id) }
}

/// The id of one version. Names have no `@`, so that no two of all versions of all secrets share
/// one.
///
/// # Errors
/// Where the name is too long.
pub(crate) fn record_id(name: &SecretName, version: u64) -> Result<String, SecretError> {
    Ok(format!("{}@{}", head_id(name)?, number(version)))
}

/// The whole key of a record, which its value is sealed for.
fn place(id: &str) -> String {
    format!("{}{id}", SecretRecord::PREFIX)
}

fn open(key: &Key, stored: &Stored<SecretRecord>) -> Option<SecretValue> {
    let SecretRecord { nonce, sealed, .. } = &stored.record;
    key.open(&place(&stored.id), nonce, sealed)
}

async fn any(records: &Records) -> Result<bool, RecordError> {
    let prefix = Prefix::new(SecretRecord::PREFIX).expect("the kind's prefix is a prefix");
    Ok(!records.store().list(&prefix, None, 1).await?.entries.is_empty())
}

/// Whether the key opens anything, where there is anything. One record that it does not open may
/// be damaged.
async fn is_right(key: &Key, records: &Records) -> Result<bool, RecordError> {
    let newest = Newest::all(records).await?;
    let opens = |newest: &Newest| newest.record.as_ref().is_some_and(|r| open(key, r).is_some());
    Ok(newest.is_empty() || newest.iter().any(opens))
}
