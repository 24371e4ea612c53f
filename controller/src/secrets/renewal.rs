//! Another key in the place of one that is lost. The values that only the lost one opened go.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_proto::v1::store::SecretRecord;
use shoal_tls::PrivateFileError;

use super::{Vault, VaultError, create_key};
use crate::app::STORE;
use crate::store::{
    Batch, CommitError, OpenError, RecordError, Records, SqliteStore, StoreError, Stored,
};
use crate::{audit, clock};

/// Records that go in one transaction.
const AT_ONCE: usize = 100;

/// Why there is no other key.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// There is no need for it, and values would be lost.
    #[error("the key of the secrets in {dir} is there and opens them; nothing was changed")]
    KeyIsGood {
        /// The controller's directory.
        dir: PathBuf,
    },
    /// It is no controller's directory.
    #[error("{path} is not there; name the controller's directory with --dir")]
    NoStore {
        /// The store's file.
        path: PathBuf,
    },
    /// Mostly: the controller runs.
    #[error("cannot open the store; stop the controller first")]
    Open(#[from] OpenError),
    #[error("cannot look at the secrets")]
    Vault(#[from] VaultError),
    #[error("cannot read the store")]
    Read(#[from] RecordError),
    #[error("cannot remove the values that no key opens")]
    Remove(#[from] CommitError),
    #[error("cannot write the new key")]
    Write(#[from] PrivateFileError),
    #[error("cannot close the store")]
    Close(#[from] StoreError),
}

/// Gives up the values of all secrets of the controller in `dir`, and makes a new key; gives how
/// many there were. Their versions are not used again.
///
/// # Errors
/// Where the key that is there is good, or see [`RenewalError`].
pub async fn renew_key(dir: &Path) -> Result<usize, RenewalError> {
    let path = dir.join(STORE);
    if matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Err(RenewalError::NoStore { path });
    }
    let records = Records::new(Arc::new(SqliteStore::open(path)?));
    let outcome = renew(dir, &records).await;
    records.store().close().await?;
    outcome
}

async fn renew(dir: &Path, records: &Records) -> Result<usize, RenewalError> {
    let vault = Vault::open(dir, records.clone()).await?;
    if vault.problem().is_none() {
        return Err(RenewalError::KeyIsGood { dir: dir.into() });
    }
    let lost = records.list::<SecretRecord>().await?.records;
    for some in lost.chunks(AT_ONCE) {
        records.commit(removal(some)?).await?;
    }
    // Last: a crash before this leaves no secret, and a controller without one makes a key itself.
    create_key(dir)?;
    Ok(lost.len())
}

fn removal(some: &[Stored<SecretRecord>]) -> Result<Batch, RecordError> {
    let mut batch = Batch::new();
    for record in some {
        batch.remove(record)?;
    }
    let detail = format!("{} values given up", some.len());
    let who = "shoal-controller new-secrets-key";
    let (id, entry) = audit::entry(&who, "new-secrets-key", "secrets", &detail, clock::now());
    batch.create(&id, &entry)?;
    Ok(batch)
}
