use std::fs;
use std::sync::Arc;

use shoal_proto::v1::store::AuditRecord;
use tempfile::TempDir;

use super::*;
use crate::app::STORE;
use crate::store::SqliteStore;

const MAKING: Making<'_> = Making { who: "ann", now: Timestamp(5), generated: false };

struct Site {
    dir: TempDir,
    records: Records,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let records = Self::records(dir.path());
        Self { dir, records }
    }

    fn records(dir: &Path) -> Records {
        Records::new(Arc::new(SqliteStore::open(dir.join(STORE)).unwrap()))
    }

    async fn vault(&self) -> Vault {
        Vault::open(self.dir.path(), self.records.clone()).await.unwrap()
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join(KEY_FILE)
    }
}

async fn keep(site: &Site, vault: &Vault, name: &str, text: &str) -> u64 {
    let name: SecretName = name.parse().unwrap();
    let newest = Newest::load(&site.records, &name).await.unwrap();
    let value = SecretValue::new(text.as_bytes().to_vec()).unwrap();
    let mut batch = Batch::new();
    let version = vault.put(&mut batch, &name, newest.as_ref(), &value, MAKING).unwrap();
    site.records.commit(batch).await.unwrap();
    version
}

fn pinned(name: &str, version: u64) -> PinnedSecret {
    PinnedSecret { name: name.parse().unwrap(), version }
}

async fn text(vault: &Vault, name: &str, version: u64) -> Result<String, SecretError> {
    let value = vault.value(&pinned(name, version)).await?;
    Ok(String::from_utf8(value.reveal().to_vec()).unwrap())
}

#[tokio::test]
async fn every_version_stays() {
    let site = Site::new();
    let vault = site.vault().await;
    assert_eq!(keep(&site, &vault, "db/creator", "one").await, 1);
    assert_eq!(keep(&site, &vault, "db/creator", "two").await, 2);
    assert_eq!(keep(&site, &vault, "db", "other").await, 1);
    let again = site.vault().await;
    assert_eq!(text(&again, "db/creator", 1).await.unwrap(), "one");
    assert_eq!(text(&again, "db/creator", 2).await.unwrap(), "two");
    assert_eq!(text(&again, "db", 1).await.unwrap(), "other");
    let error = text(&again, "db", 2).await.unwrap_err();
    assert!(matches!(error, SecretError::Gone(_)), "{error}");
}

#[tokio::test]
async fn a_controller_without_secrets_makes_its_key() {
    let site = Site::new();
    assert!(site.vault().await.problem().is_none());
    let made = fs::read(site.key()).unwrap();
    site.vault().await;
    assert_eq!(fs::read(site.key()).unwrap(), made);
    fs::remove_file(site.key()).unwrap();
    assert!(site.vault().await.problem().is_none(), "nothing was sealed with it");
}

#[tokio::test]
async fn a_key_that_is_missing_or_wrong_is_told_and_never_replaced() {
    let site = Site::new();
    let vault = site.vault().await;
    keep(&site, &vault, "db", "one").await;
    let good = fs::read(site.key()).unwrap();
    fs::remove_file(site.key()).unwrap();
    let missing = site.vault().await;
    assert!(matches!(missing.problem(), Some(KeyProblem::Missing { .. })));
    assert!(matches!(text(&missing, "db", 1).await, Err(SecretError::Key(_))));
    assert!(!site.key().exists());
    fs::write(site.key(), [7; 32]).unwrap();
    let wrong = site.vault().await;
    assert!(matches!(wrong.problem(), Some(KeyProblem::Wrong { .. })));
    let name: SecretName = "other".parse().unwrap();
    let value = SecretValue::new(b"x".to_vec()).unwrap();
    let refused = wrong.put(&mut Batch::new(), &name, None, &value, MAKING);
    assert!(matches!(refused, Err(SecretError::Key(_))), "two keys would make a mess");
    fs::write(site.key(), good).unwrap();
    assert_eq!(text(&site.vault().await, "db", 1).await.unwrap(), "one");
}

/// Whoever can write the store must not be able to give one secret's value to another.
#[tokio::test]
async fn a_record_in_the_place_of_another_does_not_open() {
    let site = Site::new();
    let vault = site.vault().await;
    keep(&site, &vault, "root", "of all").await;
    keep(&site, &vault, "guest", "one").await;
    keep(&site, &vault, "guest", "two").await;
    let id = |name: &str, version| record_id(&name.parse().unwrap(), version).unwrap();
    for from in [id("root", 1), id("guest", 1)] {
        let stored = site.records.get::<SecretRecord>(&from).await.unwrap().unwrap();
        let mut batch = Batch::new();
        batch.put(&id("guest", 2), &stored.record).unwrap();
        site.records.commit(batch).await.unwrap();
        let error = text(&vault, "guest", 2).await.unwrap_err();
        assert!(matches!(error, SecretError::Sealed { .. }), "{error}");
        assert!(error.to_string().contains("shoal secret set guest"), "{error}");
    }
    assert!(site.vault().await.problem().is_none(), "the key opens the others");
}

#[tokio::test]
async fn a_lost_key_can_be_given_up() {
    let site = Site::new();
    let vault = site.vault().await;
    keep(&site, &vault, "db", "one").await;
    keep(&site, &vault, "db", "two").await;
    keep(&site, &vault, "mail", "x").await;
    let Site { dir, records } = site;
    records.store().close().await.unwrap();
    let refused = renew_key(dir.path()).await.unwrap_err();
    assert!(matches!(refused, RenewalError::KeyIsGood { .. }), "{refused}");
    fs::write(dir.path().join(KEY_FILE), [7; 32]).unwrap();
    assert_eq!(renew_key(dir.path()).await.unwrap(), 3);

    let site = Site { records: Site::records(dir.path()), dir };
    let vault = site.vault().await;
    assert!(vault.problem().is_none());
    assert!(Newest::all(&site.records).await.unwrap().is_empty());
    assert_eq!(keep(&site, &vault, "db", "three").await, 3, "hosts may have version 2 still");
    assert_eq!(site.records.list::<AuditRecord>().await.unwrap().records.len(), 1);
    let none = tempfile::tempdir().unwrap();
    let refused = renew_key(none.path()).await.unwrap_err();
    assert!(matches!(refused, RenewalError::NoStore { .. }), "{refused}");
}
