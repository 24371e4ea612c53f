//! Format 1 of the file, and every statement that reads it or writes it.
//!
//! A change of the tables is a new [`FORMAT`] and a migration from the one before.

use bytes::Bytes;
use rusqlite::{
    Connection, OptionalExtension, Row, TransactionBehavior, named_params, params, types::Type,
};

use crate::store::{Change, Check, Entry, Key, MAX_OPERATIONS, Page, Prefix, Revision, Write};

/// "Shoa", in the file's header.
pub(super) const APPLICATION_ID: i32 = 0x5368_6f61;

/// The format that this code writes, and the only one that it reads.
pub(super) const FORMAT: i32 = 1;

/// Positions in the history are revisions times this, and the index within the transaction.
const POSITIONS: u64 = 256;
const _: () = assert!(MAX_OPERATIONS <= 256, "each write of a transaction has its position");

/// A batch of the history ends with the first whole revision behind one of these.
const BATCH_CHANGES: usize = 128;
const BATCH_BYTES: usize = 1 << 20;

const TABLES: &str = "
CREATE TABLE entries (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    created INTEGER NOT NULL,
    modified INTEGER NOT NULL
) STRICT;
CREATE TABLE history (
    position INTEGER PRIMARY KEY, -- revision * 256 + index in its transaction
    key BLOB NOT NULL,
    value BLOB                    -- NULL: deleted
) STRICT;
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,    -- the newest
    compacted INTEGER NOT NULL    -- the history up to here is gone
) STRICT;
INSERT INTO state VALUES (1, 0, 0);
";

/// What came after a revision, or why that can't be told.
pub(super) enum History {
    /// All changes of the prefix up to the revision named.
    Until(Revision, Vec<Change>),
    Compacted(Revision),
    Ahead(Revision),
}

/// Application id, format, and whether there is nothing in the database.
pub(super) fn identity(connection: &Connection) -> rusqlite::Result<(i32, i32, bool)> {
    let is_empty =
        connection
            .query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    let number = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((number("application_id")?, number("user_version")?, is_empty))
}

/// Makes an empty database a store, all or nothing.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    let transaction =
        rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

pub(super) fn revision(connection: &Connection) -> rusqlite::Result<Revision> {
    state(connection, "SELECT revision FROM state")
}

/// The earliest revision that the history can be read from.
pub(super) fn compacted(connection: &Connection) -> rusqlite::Result<Revision> {
    state(connection, "SELECT compacted FROM state")
}

pub(super) fn entry(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Entry>> {
    connection
        .prepare_cached("SELECT key, value, created, modified FROM entries WHERE key = ?1")?
        .query_row([key.as_bytes()], to_entry)
        .optional()
}

pub(super) fn page(
    connection: &Connection,
    prefix: &Prefix,
    after: Option<&Key>,
    limit: usize,
) -> rusqlite::Result<Page> {
    // No key equals a prefix, so that behind it is where its keys start.
    let start = prefix.as_str().as_bytes();
    let start = after.map_or(start, |after| start.max(after.as_bytes()));
    let mut statement = connection.prepare_cached(
        "SELECT key, value, created, modified FROM entries
         WHERE key > :start AND key < :end ORDER BY key LIMIT :limit",
    )?;
    let one_more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut entries = statement
        .query_map(
            named_params! { ":start": start, ":end": prefix.end(), ":limit": one_more },
            to_entry,
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok(Page { entries, revision: revision(connection)?, more })
}

/// The first check that does not hold, with the key's last put.
pub(super) fn failing<'a>(
    connection: &Connection,
    checks: &'a [Check],
) -> rusqlite::Result<Option<(&'a Key, Option<Revision>)>> {
    let mut statement = connection.prepare_cached("SELECT modified FROM entries WHERE key = ?1")?;
    for check in checks {
        let found =
            statement.query_row([check.key().as_bytes()], |row| to_revision(row, 0)).optional()?;
        if !check.holds(found) {
            return Ok(Some((check.key(), found)));
        }
    }
    Ok(None)
}

/// Does `writes` as `revision`; whether that changed anything.
pub(super) fn write(
    connection: &Connection,
    revision: Revision,
    writes: &[Write],
) -> rusqlite::Result<bool> {
    let mut position = first_position(revision);
    for write in writes {
        let changed = match write {
            Write::Put(key, value) => put(connection, revision, key, value)?,
            Write::Delete(key) => connection
                .prepare_cached("DELETE FROM entries WHERE key = ?1")?
                .execute([key.as_bytes()])?,
        };
        if changed > 0 {
            remember(connection, position, write)?;
            position += 1;
        }
    }
    if position == first_position(revision) {
        return Ok(false);
    }
    connection.prepare_cached("UPDATE state SET revision = ?1")?.execute([integer(revision.0)])?;
    Ok(true)
}

/// Forgets the history up to and including `keep_after`.
pub(super) fn compact(connection: &Connection, keep_after: Revision) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM history WHERE position < ?1")?
        .execute([first_position(Revision(keep_after.0.saturating_add(1)))])?;
    connection
        .prepare_cached("UPDATE state SET compacted = ?1")?
        .execute([integer(keep_after.0)])?;
    Ok(())
}

/// The next batch of changes under `prefix` after `from`, of whole revisions.
pub(super) fn history(
    connection: &Connection,
    prefix: &Prefix,
    from: Revision,
) -> rusqlite::Result<History> {
    let (oldest, last) = (compacted(connection)?, revision(connection)?);
    if from < oldest {
        return Ok(History::Compacted(oldest));
    }
    if from > last {
        return Ok(History::Ahead(last));
    }
    let mut statement = connection.prepare_cached(
        "SELECT position, key, value FROM history
         WHERE position >= :start AND key > :prefix AND key < :end ORDER BY position",
    )?;
    let start = first_position(Revision(from.0.saturating_add(1)));
    let (prefix, end) = (prefix.as_str().as_bytes(), prefix.end());
    let mut rows =
        statement.query(named_params! { ":start": start, ":prefix": prefix, ":end": end })?;
    let (mut changes, mut bytes): (Vec<Change>, usize) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let change = to_change(row)?;
        if let Some(before) = changes.last_mut() {
            before.more = before.revision == change.revision;
            if !before.more && (changes.len() >= BATCH_CHANGES || bytes >= BATCH_BYTES) {
                return Ok(History::Until(Revision(change.revision.0 - 1), changes));
            }
        }
        bytes += change.value.as_ref().map_or(0, Bytes::len);
        changes.push(change);
    }
    Ok(History::Until(last, changes))
}

fn state(connection: &Connection, query: &str) -> rusqlite::Result<Revision> {
    connection.prepare_cached(query)?.query_row([], |row| to_revision(row, 0))
}

fn put(
    connection: &Connection,
    revision: Revision,
    key: &Key,
    value: &Bytes,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "INSERT INTO entries (key, value, created, modified) VALUES (?1, ?2, ?3, ?3)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value, modified = excluded.modified",
        )?
        .execute(params![key.as_bytes(), value.as_ref(), integer(revision.0)])
}

fn remember(connection: &Connection, position: i64, write: &Write) -> rusqlite::Result<()> {
    let (key, value) = match write {
        Write::Put(key, value) => (key, Some(value.as_ref())),
        Write::Delete(key) => (key, None),
    };
    connection
        .prepare_cached("INSERT INTO history (position, key, value) VALUES (?1, ?2, ?3)")?
        .execute(params![position, key.as_bytes(), value])?;
    Ok(())
}

fn first_position(revision: Revision) -> i64 {
    integer(revision.0.saturating_mul(POSITIONS))
}

/// SQLite has no unsigned numbers. A revision that does not fit is one that no store reaches.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn to_entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: to_key(row, 0)?,
        value: row.get::<_, Vec<u8>>(1)?.into(),
        created: to_revision(row, 2)?,
        modified: to_revision(row, 3)?,
    })
}

fn to_change(row: &Row<'_>) -> rusqlite::Result<Change> {
    let position = to_revision(row, 0)?;
    Ok(Change {
        revision: Revision(position.0 / POSITIONS),
        key: to_key(row, 1)?,
        value: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from),
        more: false,
    })
}

fn to_key(row: &Row<'_>, column: usize) -> rusqlite::Result<Key> {
    Key::from_bytes(row.get_ref(column)?.as_blob()?).map_err(|source| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(source))
    })
}

fn to_revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    let number: i64 = row.get(column)?;
    u64::try_from(number)
        .map(Revision)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}
