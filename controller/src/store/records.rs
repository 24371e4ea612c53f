//! Typed records: prost messages under a prefix each, in an envelope that tells formats apart.
//!
//! The envelope is one byte, the format, and then the message: format 1 is the message as
//! protobuf encodes it. Protobuf's own rules (new fields only, numbers never reused) carry a
//! format through versions; the byte is for the day when they don't.

use std::{fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};

use super::{
    Change, Check, CommitError, Entry, InvalidKey, Key, MAX_PAGE, Prefix, Revision, Store,
    StoreError, Transaction, WatchError,
};

/// The format byte of every value written.
const FORMAT: u8 = 1;

/// A message that is stored, one kind under one prefix.
pub trait Record: prost::Message + Default + 'static {
    /// Where its records are, with the slash at the end: `hosts/`. No kind's prefix starts with
    /// another's.
    const PREFIX: &'static str;
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<R> {
    /// Its key without the prefix; may have slashes.
    pub id: String,
    pub record: R,
    pub created: Revision,
    pub modified: Revision,
}

/// All records of a kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing<R> {
    /// In the byte order of their ids.
    pub records: Vec<Stored<R>>,
    /// Watch from here to follow: what changed while this was read comes again, so that applying
    /// the watch's changes to the records leads to the newest state.
    pub revision: Revision,
}

/// One record's change.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordChange<R> {
    pub revision: Revision,
    pub id: String,
    /// `None` where it was deleted.
    pub record: Option<R>,
    /// As [`Change::more`].
    pub more: bool,
}

/// Why a record can't be read, or not be put.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{prefix:?} and {id:?} make no store key")]
    Id { prefix: &'static str, id: String, source: InvalidKey },
    #[error(
        "the stored record {key} has format {found}, and this controller knows format {FORMAT}: run the controller version that wrote it, or a later one"
    )]
    Format { key: Key, found: u8 },
    #[error("the stored record {key} is damaged: restore the store from a backup")]
    Damaged { key: Key, source: prost::DecodeError },
    #[error("the stored record {key} is empty: restore the store from a backup")]
    Empty { key: Key },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// A store seen as records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    store: Arc<dyn Store>,
}

/// Changes of records of any kinds, committed together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    transaction: Transaction,
}

/// A stream of the changes of one kind.
pub struct RecordWatch<R>(BoxStream<'static, Result<RecordChange<R>, RecordError>>);

impl Records {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The record `id`, or `None`.
    pub async fn get<R: Record>(&self, id: &str) -> Result<Option<Stored<R>>, RecordError> {
        self.store.get(&key::<R>(id)?).await?.map(to_stored).transpose()
    }

    /// All records of a kind.
    pub async fn list<R: Record>(&self) -> Result<Listing<R>, RecordError> {
        self.list_under("").await
    }

    /// Those whose ids start with `under`, which is empty or ends in a slash: `belenios/`.
    pub async fn list_under<R: Record>(&self, under: &str) -> Result<Listing<R>, RecordError> {
        let prefix = prefix::<R>(under)?;
        let (mut records, mut first, mut after) = (Vec::new(), None, None);
        loop {
            let page = self.store.list(&prefix, after.as_ref(), MAX_PAGE).await?;
            let revision = *first.get_or_insert(page.revision);
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                records.push(to_stored(entry)?);
            }
            if !page.more {
                return Ok(Listing { records, revision });
            }
        }
    }

    /// The changes of a kind after `from`; see [`Store::watch`]. A record that can't be read is
    /// an error and does not end the watch.
    pub fn watch<R: Record>(&self, from: Revision) -> Result<RecordWatch<R>, RecordError> {
        self.watch_under("", from)
    }

    /// Those whose ids start with `under`, which is empty or ends in a slash.
    pub fn watch_under<R: Record>(
        &self,
        under: &str,
        from: Revision,
    ) -> Result<RecordWatch<R>, RecordError> {
        let changes = self.store.watch(&prefix::<R>(under)?, from);
        Ok(RecordWatch(changes.map(|change| to_record_change(change?)).boxed()))
    }

    /// See [`Store::commit`].
    pub async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        self.store.commit(batch.transaction).await
    }
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a record that must not be there yet.
    pub fn create<R: Record>(&mut self, id: &str, record: &R) -> Result<&mut Self, RecordError> {
        let key = key::<R>(id)?;
        self.transaction.checks.push(Check::Absent(key));
        self.put(id, record)
    }

    /// Puts `record` in the place of `old`, which must not have changed since it was read.
    pub fn replace<R: Record>(
        &mut self,
        old: &Stored<R>,
        record: &R,
    ) -> Result<&mut Self, RecordError> {
        self.unchanged(old)?.put(&old.id, record)
    }

    /// Puts a record, whatever is there.
    pub fn put<R: Record>(&mut self, id: &str, record: &R) -> Result<&mut Self, RecordError> {
        self.transaction.writes.push(super::Write::Put(key::<R>(id)?, encode(record)));
        Ok(self)
    }

    /// Deletes `old`, which must not have changed since it was read.
    pub fn remove<R: Record>(&mut self, old: &Stored<R>) -> Result<&mut Self, RecordError> {
        self.unchanged(old)?.delete::<R>(&old.id)
    }

    /// Deletes a record, if it is there.
    pub fn delete<R: Record>(&mut self, id: &str) -> Result<&mut Self, RecordError> {
        self.transaction.writes.push(super::Write::Delete(key::<R>(id)?));
        Ok(self)
    }

    /// Writes nothing, but lets the whole batch happen only if `read` has not changed.
    pub fn unchanged<R: Record>(&mut self, read: &Stored<R>) -> Result<&mut Self, RecordError> {
        let key = key::<R>(&read.id)?;
        self.transaction.checks.push(Check::Modified(key, read.modified));
        Ok(self)
    }

    /// Writes nothing, but lets the whole batch happen only if the record is there.
    pub fn exists<R: Record>(&mut self, id: &str) -> Result<&mut Self, RecordError> {
        self.transaction.checks.push(Check::Exists(key::<R>(id)?));
        Ok(self)
    }

    /// Writes nothing, but lets the whole batch happen only if the record is not there.
    pub fn absent<R: Record>(&mut self, id: &str) -> Result<&mut Self, RecordError> {
        self.transaction.checks.push(Check::Absent(key::<R>(id)?));
        Ok(self)
    }

    /// What the batch comes to.
    pub fn into_transaction(self) -> Transaction {
        self.transaction
    }
}

impl<R> Stream for RecordWatch<R> {
    type Item = Result<RecordChange<R>, RecordError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl<R> fmt::Debug for RecordWatch<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordWatch").finish_non_exhaustive()
    }
}

fn key<R: Record>(id: &str) -> Result<Key, RecordError> {
    Key::new(format!("{}{id}", R::PREFIX)).map_err(|source| invalid::<R>(id, source))
}

fn prefix<R: Record>(under: &str) -> Result<Prefix, RecordError> {
    Prefix::new(format!("{}{under}", R::PREFIX)).map_err(|source| invalid::<R>(under, source))
}

fn invalid<R: Record>(id: &str, source: InvalidKey) -> RecordError {
    RecordError::Id { prefix: R::PREFIX, id: id.into(), source }
}

fn id<R: Record>(key: &Key) -> String {
    key.as_str().strip_prefix(R::PREFIX).unwrap_or(key.as_str()).into()
}

fn encode<R: Record>(record: &R) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + record.encoded_len());
    value.put_u8(FORMAT);
    record.encode(&mut value).expect("the buffer grows");
    value.freeze()
}

fn decode<R: Record>(key: &Key, value: &Bytes) -> Result<R, RecordError> {
    let key = || key.clone();
    match value.first() {
        None => Err(RecordError::Empty { key: key() }),
        Some(&FORMAT) => R::decode(value.slice(1..))
            .map_err(|source| RecordError::Damaged { key: key(), source }),
        Some(&found) => Err(RecordError::Format { key: key(), found }),
    }
}

fn to_stored<R: Record>(entry: Entry) -> Result<Stored<R>, RecordError> {
    let Entry { key, value, created, modified } = entry;
    Ok(Stored { id: id::<R>(&key), record: decode(&key, &value)?, created, modified })
}

fn to_record_change<R: Record>(change: Change) -> Result<RecordChange<R>, RecordError> {
    let Change { revision, key, value, more } = change;
    let record = value.map(|value| decode(&key, &value)).transpose()?;
    Ok(RecordChange { revision, id: id::<R>(&key), record, more })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Page, SqliteStore, Watch};

    #[derive(Clone, PartialEq, prost::Message)]
    struct Boat {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(uint64, tag = "2")]
        crew: u64,
    }

    impl Record for Boat {
        const PREFIX: &'static str = "boats/";
    }

    fn boat(name: &str, crew: u64) -> Boat {
        Boat { name: name.into(), crew }
    }

    fn records() -> (tempfile::TempDir, Records) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("store.db")).unwrap();
        (folder, Records::new(Arc::new(store)))
    }

    fn batch(build: impl FnOnce(&mut Batch) -> Result<&mut Batch, RecordError>) -> Batch {
        let mut batch = Batch::new();
        build(&mut batch).unwrap();
        batch
    }

    #[test]
    fn the_envelope_is_a_format_byte_and_the_message() {
        let golden = Bytes::from_static(&[1, 0x0a, 5, b'E', b'l', b'f', b'i', b'n', 0x10, 0xac, 2]);
        assert_eq!(encode(&boat("Elfin", 300)), golden);
        let key = Key::new("boats/1").unwrap();
        assert_eq!(decode::<Boat>(&key, &golden).unwrap(), boat("Elfin", 300));
        assert_eq!(encode(&Boat::default()), Bytes::from_static(&[1]));
    }

    #[test]
    fn what_is_no_envelope_is_named() {
        let key = Key::new("boats/1").unwrap();
        let read = |value| decode::<Boat>(&key, &Bytes::from_static(value)).unwrap_err();
        let newer = read(&[2, 1, 2]);
        assert!(matches!(newer, RecordError::Format { found: 2, .. }));
        assert_eq!(
            newer.to_string(),
            "the stored record boats/1 has format 2, and this controller knows format 1: run \
             the controller version that wrote it, or a later one"
        );
        assert!(matches!(read(&[1, 0x0a, 5, b'E']), RecordError::Damaged { .. }));
        assert!(matches!(read(&[]), RecordError::Empty { .. }));
    }

    #[tokio::test]
    async fn records_are_created_replaced_and_removed() {
        let (_folder, records) = records();
        let elfin = boat("Elfin", 3);
        let made = records.commit(batch(|b| b.create("elfin", &elfin))).await.unwrap();
        let read = records.get::<Boat>("elfin").await.unwrap().unwrap();
        let expected =
            Stored { id: "elfin".into(), record: elfin.clone(), created: made, modified: made };
        assert_eq!(read, expected);
        let again = records.commit(batch(|b| b.create("elfin", &elfin))).await;
        assert!(matches!(again, Err(CommitError::Conflict { found: Some(r), .. }) if r == made));

        let crewed = boat("Elfin", 4);
        records.commit(batch(|b| b.replace(&read, &crewed))).await.unwrap();
        for stale in [batch(|b| b.replace(&read, &elfin)), batch(|b| b.remove(&read))] {
            let refused = records.commit(stale).await;
            assert!(matches!(refused, Err(CommitError::Conflict { .. })));
        }
        let read = records.get::<Boat>("elfin").await.unwrap().unwrap();
        assert_eq!(read.record, crewed);
        records.commit(batch(|b| b.remove(&read))).await.unwrap();
        assert_eq!(records.get::<Boat>("elfin").await.unwrap(), None);
    }

    #[tokio::test]
    async fn conditions_on_other_records_hold_back_a_batch() {
        let (_folder, records) = records();
        let elfin = boat("Elfin", 3);
        records.commit(batch(|b| b.put("a", &elfin))).await.unwrap();
        let read = records.get::<Boat>("a").await.unwrap().unwrap();
        let good = batch(|b| b.unchanged(&read)?.exists::<Boat>("a")?.absent::<Boat>("b"));
        records.commit(good).await.unwrap();
        records.commit(batch(|b| b.put("a", &elfin))).await.unwrap();
        for (named, bad) in [
            ("boats/a", batch(|b| b.unchanged(&read)?.put("c", &elfin))),
            ("boats/b", batch(|b| b.exists::<Boat>("b")?.put("c", &elfin))),
            ("boats/a", batch(|b| b.absent::<Boat>("a")?.put("c", &elfin))),
        ] {
            let Err(CommitError::Conflict { key, .. }) = records.commit(bad).await else {
                panic!("{named} held nothing back");
            };
            assert_eq!(key.as_str(), named);
        }
        assert_eq!(records.get::<Boat>("c").await.unwrap(), None);
    }

    #[tokio::test]
    async fn listings_go_over_many_pages_and_can_be_followed() {
        let (_folder, records) = records();
        let count = MAX_PAGE + 5;
        let ids: Vec<_> = (0..count).map(|n| format!("{}/{n:05}", n % 2)).collect();
        for some in ids.chunks(100) {
            let mut batch = Batch::new();
            for id in some {
                batch.put(id, &boat(id, 1)).unwrap();
            }
            records.commit(batch).await.unwrap();
        }
        let listing = records.list::<Boat>().await.unwrap();
        let mut sorted = ids.clone();
        sorted.sort();
        let listed: Vec<_> = listing.records.iter().map(|stored| stored.id.clone()).collect();
        assert_eq!(listed, sorted);
        let odd = records.list_under::<Boat>("1/").await.unwrap();
        assert_eq!(odd.records.len(), count / 2);
        assert!(odd.records.iter().all(|stored| stored.id.starts_with("1/")));

        let mut changes = records.watch::<Boat>(listing.revision).unwrap();
        let revision = records.commit(batch(|b| b.delete::<Boat>("0/00000"))).await.unwrap();
        let change = changes.next().await.unwrap().unwrap();
        let id = "0/00000".to_owned();
        assert_eq!(change, RecordChange { revision, id, record: None, more: false });
    }

    /// A store in which someone else deletes a record after each page that is read.
    #[derive(Debug)]
    struct Meddled(Arc<dyn Store>, Key);

    #[async_trait::async_trait]
    impl Store for Meddled {
        async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
            self.0.get(key).await
        }
        async fn list(
            &self,
            prefix: &Prefix,
            after: Option<&Key>,
            limit: usize,
        ) -> Result<Page, StoreError> {
            let page = self.0.list(prefix, after, limit).await;
            self.0.commit(Transaction::new().delete(self.1.clone())).await.unwrap();
            page
        }
        async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
            self.0.commit(transaction).await
        }
        fn watch(&self, prefix: &Prefix, from: Revision) -> Watch {
            self.0.watch(prefix, from)
        }
        async fn compact(&self, keep_after: Revision) -> Result<(), StoreError> {
            self.0.compact(keep_after).await
        }
        async fn check_health(&self) -> Result<(), StoreError> {
            self.0.check_health().await
        }
        async fn close(&self) -> Result<(), StoreError> {
            self.0.close().await
        }
    }

    #[tokio::test]
    async fn what_changes_between_two_pages_is_seen_by_following() {
        let (_folder, records) = records();
        for n in 0..=MAX_PAGE / 100 {
            let mut batch = Batch::new();
            for m in 0..100 {
                batch.put(&format!("{n:02}-{m:02}"), &boat("Elfin", 1)).unwrap();
            }
            records.commit(batch).await.unwrap();
        }
        let first = Key::new("boats/00-00").unwrap();
        let meddled = Records::new(Arc::new(Meddled(records.store().clone(), first)));
        let listing = meddled.list::<Boat>().await.unwrap();
        assert_eq!(listing.records[0].id, "00-00", "it was there when its page was read");
        let mut changes = meddled.watch::<Boat>(listing.revision).unwrap();
        let change = tokio::time::timeout(std::time::Duration::from_secs(20), changes.next()).await;
        let change = change.expect("a change that was missed").unwrap().unwrap();
        assert_eq!((change.id.as_str(), change.record), ("00-00", None));
    }

    #[tokio::test]
    async fn ids_that_make_no_key_are_refused() {
        let (_folder, records) = records();
        for id in ["", "/a", "a/", "../users/root"] {
            let read = records.get::<Boat>(id).await;
            assert!(matches!(read, Err(RecordError::Id { prefix: "boats/", .. })), "{id:?}");
        }
        assert!(matches!(records.list_under::<Boat>("a").await, Err(RecordError::Id { .. })));
    }
}
