//! How far a rollout is by what the controller has written down, read past the controller: its
//! store is looked at while it runs, and copied once it is dead.

use std::fs;
use std::path::Path;

use prost::Message;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

/// The parts of a rollout's record that say where it is; proto/shoal/v1/store.proto has the rest.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(uint32, tag = "13")]
    batch: u32,
}

/// A state that was written down, and the number of the batch.
pub(super) type Step = (&'static str, u32);

fn step(bytes: &[u8]) -> Step {
    let (format, record) = bytes.split_first().unwrap();
    assert_eq!(*format, 1);
    let record = Record::decode(record).unwrap();
    let state = match record.state {
        1 => "planned",
        2 => "changing",
        3 => "completed",
        8 => "staging",
        9 => "monitoring",
        10 => "waiting",
        11 => "rolling-back",
        12 => "rolled-back",
        other => panic!("a rollout in state {other}"),
    };
    (state, record.batch)
}

/// The controller's store, open to be looked at.
#[derive(Debug)]
pub(super) struct Store(Connection);

impl Store {
    /// The store of a controller that runs.
    pub(super) fn open(dir: &Path) -> Self {
        Self::at(&dir.join("store.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    fn at(file: &Path, flags: OpenFlags) -> Self {
        Self(Connection::open_with_flags(file, flags).unwrap())
    }

    /// Where the rollout of a revision of `shop` is; `None` before there is one.
    pub(super) fn rollout(&self, revision: u64) -> Option<Step> {
        let key = format!("rollouts/shop/{revision:020}");
        let mut statement =
            self.0.prepare_cached("SELECT value FROM entries WHERE key = ?1").unwrap();
        let value = statement.query_row([key.as_bytes()], |row| row.get(0)).optional();
        value.unwrap().map(|value: Vec<u8>| step(&value))
    }
}

/// What a controller that was killed has left, in a copy: it is the next controller that is to
/// recover the store, and nobody before it.
pub(super) fn left_behind(dir: &Path, revision: u64) -> Option<Step> {
    let copy = tempfile::tempdir().unwrap();
    for file in ["store.db", "store.db-wal"] {
        fs::copy(dir.join(file), copy.path().join(file)).unwrap();
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    Store::at(&copy.path().join("store.db"), flags).rollout(revision)
}
