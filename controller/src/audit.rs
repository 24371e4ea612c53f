//! The audit log: who did what, and when.
//!
//! Way in: [`entry`], whose record goes into the same [`Batch`](crate::store::Batch) as the effect
//! that it tells of, so that neither is there without the other.
//!
//! Deliberately absent: reads, which change nothing, and removal of entries.

use std::collections::VecDeque;
use std::fmt;

use shoal_core::time::Timestamp;
use shoal_proto::v1::AuditEntry;
use shoal_proto::v1::store::AuditRecord;

use crate::records::number;
use crate::refusal::Refusal;
use crate::store::{Key, MAX_PAGE, Prefix, Record, Records};

/// The first look back, in milliseconds: a minute. Each further one goes 32 times as far.
const FIRST_LOOK: u64 = 60_000;

/// A record of what `who` did, with its id: `audit/<id>`. `who` is a caller or an identity, `what`
/// an RPC such as `Fleets/Apply`, `target` what it was done to, `detail` a few words more.
#[must_use]
pub fn entry(
    who: &impl fmt::Display,
    what: &str,
    target: &str,
    detail: &str,
    now: Timestamp,
) -> (String, AuditRecord) {
    let record = AuditRecord {
        time_ms: now.0,
        who: who.to_string(),
        what: what.into(),
        target: target.into(),
        detail: detail.into(),
    };
    (format!("{}-{}", number(now.0), crate::random::hex::<4>()), record)
}

/// The newest entries, newest first, at most `limit`.
///
/// # Errors
/// Where the store can't be read.
pub async fn newest(
    records: &Records,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<AuditEntry>, Refusal> {
    let mut look = FIRST_LOOK;
    loop {
        let ids = newest_since(records, limit, now.0.saturating_sub(look)).await?;
        if ids.len() >= limit || look >= now.0 {
            return read(records, ids).await;
        }
        look = look.saturating_mul(32);
    }
}

/// The store lists upwards only, so what is older than `since` is skipped by its key.
async fn newest_since(records: &Records, limit: usize, since: u64) -> Result<Vec<String>, Refusal> {
    let prefix = Prefix::new(AuditRecord::PREFIX).expect("the kind's prefix is a prefix");
    let mut after = Some(key(&number(since)));
    let mut newest = VecDeque::new();
    loop {
        let page = records.store().list(&prefix, after.as_ref(), MAX_PAGE).await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        for entry in page.entries {
            if newest.len() == limit {
                newest.pop_front();
            }
            newest.push_back(entry.key.as_str().trim_start_matches(AuditRecord::PREFIX).to_owned());
        }
        if !page.more {
            return Ok(newest.into());
        }
    }
}

fn key(id: &str) -> Key {
    Key::new(format!("{}{id}", AuditRecord::PREFIX)).expect("digits make a store key")
}

async fn read(records: &Records, ids: Vec<String>) -> Result<Vec<AuditEntry>, Refusal> {
    let mut entries = Vec::with_capacity(ids.len());
    for id in ids.iter().rev() {
        if let Some(stored) = records.get::<AuditRecord>(id).await? {
            let AuditRecord { time_ms, who, what, target, detail } = stored.record;
            entries.push(AuditEntry { time_ms, who, what, target, detail });
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Batch, SqliteStore};

    const DAY: u64 = 24 * 60 * 60 * 1000;

    #[tokio::test]
    async fn the_newest_come_first_however_old_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("store.db")).unwrap();
        let records = Records::new(Arc::new(store));
        let now = Timestamp(1000 * DAY);
        for (age, what) in [(900 * DAY, "A"), (2 * DAY, "B"), (5_000, "C"), (0, "D")] {
            let (id, record) = entry(&"ann", what, "t", "", Timestamp(now.0 - age));
            let mut batch = Batch::new();
            batch.create(&id, &record).unwrap();
            records.commit(batch).await.unwrap();
        }
        for (limit, wanted) in [(1, "D"), (2, "DC"), (3, "DCB"), (4, "DCBA"), (9, "DCBA")] {
            let found = newest(&records, limit, now).await.unwrap();
            let found: String = found.iter().map(|entry| entry.what.as_str()).collect();
            assert_eq!(found, wanted, "limit {limit}");
        }
    }
}
