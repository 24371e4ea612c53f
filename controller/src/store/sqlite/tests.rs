//! What only this engine does: the file, its guards, its lock, and what it survives.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::store::{Change, Check, MAX_COMMIT_BYTES, WatchError, conformance::conformance_tests};

conformance_tests!(sqlite, opener());

/// Opens one store, again and again.
fn opener() -> impl Fn() -> Arc<dyn Store> {
    let (_folder, path) = place();
    move || {
        let _kept = &_folder;
        Arc::new(SqliteStore::open(&path).unwrap())
    }
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    (folder, path)
}

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn put(name: &str, value: impl Into<Bytes>) -> Transaction {
    Transaction::new().put(key(name), value)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[tokio::test]
async fn all_files_are_their_owners_alone() {
    let (_folder, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    store.commit(put("a", "secret")).await.unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&with_suffix(&path, suffix)), 0o600, "{suffix}");
    }
    store.close().await.unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(&refused, OpenError::Exposed { .. }), "{refused}");
    assert!(refused.to_string().contains("chmod 600"));
}

#[tokio::test]
async fn a_second_controller_is_told_who_has_the_store() {
    let (_folder, path) = place();
    let first = SqliteStore::open(&path).unwrap();
    let refused = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(&refused, OpenError::InUse { .. }));
    let expected = format!(
        "the store {} is in use by process {}: stop that controller (systemctl stop \
         shoal-controller), only one can run on it",
        path.display(),
        std::process::id()
    );
    assert_eq!(refused.to_string(), expected);
    first.commit(put("a", "1")).await.unwrap();
    first.close().await.unwrap();
    let second = SqliteStore::open(&path).unwrap();
    assert!(second.get(&key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn files_that_are_no_store_are_refused_and_left_alone() {
    let (folder, path) = place();
    let made_by = |script: &str| {
        Connection::open(&path).unwrap().execute_batch(script).unwrap();
    };
    fs::write(&path, "These are somebody's notes, longer than a header.\n".repeat(40)).unwrap();
    assert_refused(&path, "is not a Shoal store");
    fs::remove_file(&path).unwrap();
    made_by("CREATE TABLE notes (text)");
    assert_refused(&path, "is not a Shoal store");
    made_by("PRAGMA application_id = 0x1234");
    assert_refused(&path, "is the database of another program (application id 0x1234)");
    made_by("PRAGMA application_id = 0x53686f61; PRAGMA user_version = 2");
    assert_refused(&path, "has format 2, and this controller knows format 1: run the controller");
    assert_eq!(SqliteStore::open(folder.path()).unwrap_err().to_string(), {
        format!("cannot open the store {}", folder.path().display())
    });
    let missing = SqliteStore::open(folder.path().join("no/store.db")).unwrap_err();
    assert!(matches!(missing, OpenError::Io { .. }), "{missing}");
}

fn assert_refused(path: &Path, why: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::read(path).unwrap();
    let refused = SqliteStore::open(path).unwrap_err().to_string();
    assert!(refused.contains(why), "{refused}");
    assert!(refused.contains(&path.display().to_string()), "{refused}");
    assert_eq!(fs::read(path).unwrap(), before, "{why}");
}

/// A file cut short by a crash between its making and its first transaction is a new store.
#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let (_folder, path) = place();
    fs::write(&path, "").unwrap();
    let store = SqliteStore::open(&path).unwrap();
    store.commit(put("a", "1")).await.unwrap();
    assert_eq!(mode(&path), 0o600);
}

/// Format 1, written out: whoever changes it has to change the number, and migrate.
#[tokio::test]
async fn format_1_can_be_read_and_written() {
    let (_folder, path) = place();
    let script = "
        CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL,
            created INTEGER NOT NULL, modified INTEGER NOT NULL) STRICT;
        CREATE TABLE history (position INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB) STRICT;
        CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1),
            revision INTEGER NOT NULL, compacted INTEGER NOT NULL) STRICT;
        INSERT INTO entries VALUES (x'612f62', x'763200', 5, 7);
        INSERT INTO history VALUES (7*256, x'612f62', x'763200'), (7*256+1, x'612f63', NULL);
        INSERT INTO state VALUES (1, 7, 6);
        PRAGMA application_id = 1399353185;
        PRAGMA user_version = 1;";
    Connection::open(&path).unwrap().execute_batch(script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    let page = store.list(&Prefix::all(), None, 10).await.unwrap();
    let value = Bytes::from_static(b"v2\0");
    let entry = Entry {
        key: key("a/b"),
        value: value.clone(),
        created: Revision(5),
        modified: Revision(7),
    };
    assert_eq!(page, Page { entries: vec![entry], revision: Revision(7), more: false });
    let changes: Vec<_> =
        store.watch(&Prefix::all(), Revision(6)).take(2).map(Result::unwrap).collect().await;
    let expected = [("a/b", Some(value), true), ("a/c", None, false)]
        .map(|(name, value, more)| Change { revision: Revision(7), key: key(name), value, more });
    assert_eq!(changes, expected);
    assert_eq!(store.commit(put("a/c", "1")).await.unwrap(), Revision(8));
    store.close().await.unwrap();

    let file = Connection::open(&path).unwrap();
    let position: i64 =
        file.query_row("SELECT max(position) FROM history", [], |row| row.get(0)).unwrap();
    assert_eq!(position, 8 * 256);
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_state() {
    let (_folder, path) = place();
    let options = Options { max_pages: Some(100), ..Options::default() };
    let store = SqliteStore::open_with(&path, &options).unwrap();
    let last = store.commit(put("a", "old")).await.unwrap();
    let before = store.list(&Prefix::all(), None, 10).await.unwrap();
    let half = put("a", "new").put(key("b"), vec![1; MAX_COMMIT_BYTES - 100]);
    let grown = put("a", vec![1; MAX_COMMIT_BYTES - 100]);
    for refused in [half, grown] {
        let error = store.commit(refused).await.unwrap_err();
        assert!(matches!(error, CommitError::Store(StoreError::Full { .. })), "{error}");
        assert!(error.to_string().contains("free space"), "{error}");
        assert_eq!(store.list(&Prefix::all(), None, 10).await.unwrap(), before);
    }
    store.check_health().await.unwrap();
    assert_eq!(store.commit(put("b", "small")).await.unwrap(), Revision(last.0 + 1));
}

#[tokio::test]
async fn closing_leaves_one_file_that_has_it_all() {
    let (folder, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    store.commit(put("a", "1")).await.unwrap();
    assert!(store.get(&key("a")).await.unwrap().is_some());
    store.close().await.unwrap();
    assert!(!with_suffix(&path, "-wal").exists());
    let copy = folder.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    let store = SqliteStore::open(&copy).unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn a_dropped_store_loses_nothing_and_frees_its_lock() {
    let (_folder, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    store.commit(put("a", "1")).await.unwrap();
    drop(store);
    let opened = timeout(Duration::from_secs(60), async {
        loop {
            match SqliteStore::open(&path) {
                Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
                other => break other.unwrap(),
            }
        }
    });
    let store = opened.await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn readers_do_not_wait_for_a_writer() {
    let (_folder, path) = place();
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    store.commit(put("a", "1")).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let committing = tokio::spawn({
        let store = store.clone();
        async move { store.commit(put("a", "2")).await }
    });
    for _ in 0..10 {
        let read = timeout(Duration::from_secs(2), store.get(&key("a"))).await.unwrap();
        assert_eq!(read.unwrap().unwrap().value, "1");
    }
    assert!(!committing.is_finished());
    other.execute_batch("ROLLBACK").unwrap();
    committing.await.unwrap().unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "2");
}

#[tokio::test]
async fn a_watch_with_nothing_to_tell_sleeps() {
    let (_folder, path) = place();
    let store = SqliteStore::open(&path).unwrap();
    let mut watch = store.watch(&Prefix::new("w/").unwrap(), Revision(0));
    store.commit(put("elsewhere", "")).await.unwrap();
    for _ in 0..2 {
        // The first look reads what there is.
        assert!(timeout(Duration::from_millis(100), watch.next()).await.is_err());
    }
    let alarm = Arc::new(Alarm::default());
    let waker = alarm.clone().into();
    assert!(watch.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(alarm.0.load(Ordering::SeqCst), 0, "woken for nothing");
    store.commit(put("w/a", "")).await.unwrap();
    assert_eq!(alarm.0.load(Ordering::SeqCst), 1);
}

/// Counts how often it was woken.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn old_history_is_dropped_by_itself() {
    let (_folder, path) = place();
    let options = Options { keep_revisions: 50, ..Options::default() };
    let store = SqliteStore::open_with(&path, &options).unwrap();
    for n in 0..400 {
        store.commit(put("a", n.to_string())).await.unwrap();
    }
    // The last commit's reply may be ahead of the compaction behind it, a check is not.
    store.check_health().await.unwrap();
    let Some(Err(WatchError::Compacted { oldest })) =
        store.watch(&Prefix::all(), Revision(0)).next().await
    else {
        panic!("nothing was dropped");
    };
    assert!((100..=350).contains(&oldest.0), "{oldest}");
    let kept = 400 - oldest.0;
    let watch = store.watch(&Prefix::all(), oldest);
    let changes: Vec<_> = watch.take(kept.try_into().unwrap()).collect().await;
    assert!(changes.iter().all(Result::is_ok));
    let file = Connection::open(&path).unwrap();
    let rows: i64 = file.query_row("SELECT count(*) FROM history", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, i64::try_from(kept).unwrap());
}

const CHILD: &str = "SHOAL_TEST_STORE_OF_CHILD";

/// Not a test of its own: what the next one kills.
#[tokio::test]
#[ignore = "run by acknowledged_commits_survive_a_kill in a process of its own"]
async fn commit_until_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = Arc::new(SqliteStore::open(path).unwrap());
    let committers = (0..4).map(|committer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0u64.. {
                let name = format!("{committer}/{n}");
                let transaction = put(&name, vec![b'x'; 2000])
                    .check(Check::Absent(key(&name)))
                    .put(key(&format!("latest/{committer}")), n.to_string());
                let revision = store.commit(transaction).await.unwrap();
                println!("acknowledged {revision} {committer} {n}");
            }
        })
    });
    futures_util::future::join_all(committers.collect::<Vec<_>>()).await;
}

/// A killed process loses nothing that was acknowledged, and leaves no half transaction. (That
/// a power cut doesn't either is up to `synchronous=FULL`, and for a host of the lab to show.)
#[tokio::test]
async fn acknowledged_commits_survive_a_kill() {
    for kill_after in [1, 10, 150] {
        let (_folder, path) = place();
        let acknowledged = kill_a_committer(&path, kill_after);
        assert!(acknowledged.len() >= kill_after);
        let store = SqliteStore::open(&path).unwrap();
        for (revision, committer, n) in &acknowledged {
            let entry = store.get(&key(&format!("{committer}/{n}"))).await.unwrap();
            let entry = entry.unwrap_or_else(|| panic!("{committer}/{n} is lost"));
            assert_eq!(entry.created, Revision(*revision));
        }
        assert_whole(&store).await;
        store.commit(put("after", "")).await.unwrap();
    }
}

/// Revision, committer and number of each commit that a child process acknowledged, the ones
/// between the decision to kill it and its death included.
#[allow(clippy::disallowed_methods, reason = "only another process can be killed")]
fn kill_a_committer(path: &Path, kill_after: usize) -> Vec<(u64, u64, u64)> {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::commit_until_killed"), "--ignored", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The test harness writes its own words before the first line, on the same line.
        let Some((_, numbers)) = line.split_once("acknowledged ") else { continue };
        let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        acknowledged.push((numbers[0], numbers[1], numbers[2]));
        if acknowledged.len() == kill_after {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    acknowledged
}

/// Each transaction made one numbered entry and its number the latest, and one revision.
async fn assert_whole(store: &SqliteStore) {
    let mut total = 0;
    for committer in 0..4 {
        let latest = store.get(&key(&format!("latest/{committer}"))).await.unwrap();
        let latest = latest.map(|entry| str::from_utf8(&entry.value).unwrap().to_owned());
        let prefix = Prefix::new(format!("{committer}/")).unwrap();
        let page = store.list(&prefix, None, MAX_PAGE).await.unwrap();
        assert!(!page.more);
        let count = page.entries.len();
        assert_eq!(latest, count.checked_sub(1).map(|n| n.to_string()));
        total += count;
    }
    let page = store.list(&Prefix::all(), None, 1).await.unwrap();
    assert_eq!(page.revision.0, u64::try_from(total).unwrap());
}
