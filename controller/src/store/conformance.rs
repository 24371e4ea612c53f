//! What every engine has to do, one function for each behaviour.
//!
//! Each takes a function that opens one store, empty at first; opened again after it was closed,
//! it is the same store. An engine runs them all with one line:
//! `conformance_tests!(name, opener())`.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{task::JoinSet, time::timeout};

use super::{
    Change, Check, CommitError, Entry, Key, MAX_COMMIT_BYTES, MAX_OPERATIONS, Page, Prefix,
    Revision, Store, StoreError, Transaction, Watch, WatchError, Write,
};

/// A module of tests named after the engine, one test for each behaviour.
macro_rules! conformance_tests {
    ($engine:ident, $opener:expr) => {
        $crate::store::conformance::conformance_tests! { @each $engine, $opener,
            an_empty_store_has_nothing
            puts_and_deletes_keep_track_of_revisions
            checks_hold_or_name_the_conflict
            a_conflict_changes_nothing
            transactions_have_limits
            a_commit_without_a_change_uses_no_revision
            listings_are_ordered_by_bytes
            prefixes_end_where_they_should
            pages_join_without_gap_or_overlap
            racing_committers_keep_the_sum
            watches_tell_the_past_and_go_on
            watches_group_transactions_and_skip_others
            watches_resume_across_a_reopening
            a_slow_watch_holds_up_nobody_and_misses_nothing
            compaction_ends_watches_from_before
            compaction_spares_watches_that_keep_up
            watching_the_future_is_refused
            what_was_acknowledged_is_there_after_reopening
            values_are_any_bytes
            a_healthy_store_says_so
            a_closed_store_says_so
        }
    };
    (@each $engine:ident, $opener:expr, $($behaviour:ident)*) => {
        mod $engine {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    $crate::store::conformance::$behaviour($opener).await;
                }
            )*
        }
    };
}
pub(crate) use conformance_tests;

pub(crate) async fn an_empty_store_has_nothing(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    let page = store.list(&Prefix::all(), None, 10).await.unwrap();
    assert!(page.entries.is_empty() && !page.more);
}

pub(crate) async fn puts_and_deletes_keep_track_of_revisions(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let first = put(&store, "a", "1").await;
    assert_eq!(read(&store, "a").await, Some(entry("a", "1", first, first)));
    let other = put(&store, "b", "2").await;
    assert!(other > first);
    let second = put(&store, "a", "3").await;
    assert!(second > other);
    assert_eq!(read(&store, "a").await, Some(entry("a", "3", first, second)));
    assert_eq!(read(&store, "b").await, Some(entry("b", "2", other, other)));
    let gone = commit(&store, Transaction::new().delete(key("a"))).await;
    assert!(gone > second);
    assert_eq!(read(&store, "a").await, None);
    let anew = put(&store, "a", "4").await;
    assert_eq!(read(&store, "a").await, Some(entry("a", "4", anew, anew)));
}

pub(crate) async fn checks_hold_or_name_the_conflict(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let old = put(&store, "there", "1").await;
    let new = put(&store, "there", "2").await;
    let (there, missing) = (key("there"), key("missing"));
    let table = [
        (Check::Absent(missing.clone()), Ok(())),
        (Check::Absent(there.clone()), Err(Some(new))),
        (Check::Exists(there.clone()), Ok(())),
        (Check::Exists(missing.clone()), Err(None)),
        (Check::Modified(there.clone(), new), Ok(())),
        (Check::Modified(there.clone(), old), Err(Some(new))),
        (Check::Modified(missing.clone(), new), Err(None)),
        (Check::Modified(missing.clone(), Revision(0)), Err(None)),
    ];
    for (check, expected) in table {
        let result = store.commit(Transaction::new().check(check.clone())).await;
        let found = match result {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { key, found }) if key == *check.key() => Err(found),
            Err(other) => panic!("{check:?}: {other}"),
        };
        assert_eq!(found, expected, "{check:?}");
    }
}

pub(crate) async fn a_conflict_changes_nothing(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    put(&store, "a", "1").await;
    let before = everything(&store).await;
    let transaction = Transaction::new()
        .check(Check::Exists(key("a")))
        .check(Check::Absent(key("a")))
        .check(Check::Exists(key("c")))
        .put(key("b"), "2")
        .delete(key("a"));
    let Err(CommitError::Conflict { key: named, .. }) = store.commit(transaction).await else {
        panic!("the conflict was not seen");
    };
    assert_eq!(named, key("a"), "the first failing check is named");
    assert_eq!(everything(&store).await, before);
}

pub(crate) async fn transactions_have_limits(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let puts = |count: usize| Transaction {
        checks: (0..count).map(|n| Check::Absent(key(&format!("n/{n}")))).collect(),
        writes: (0..count).map(|n| Write::Put(key(&format!("n/{n}")), Bytes::new())).collect(),
    };
    let refused = store.commit(puts(MAX_OPERATIONS + 1)).await;
    assert!(matches!(refused, Err(CommitError::TooManyOperations { .. })));
    let large = vec![7; MAX_COMMIT_BYTES - 1];
    let refused = store.commit(Transaction::new().put(key("ab"), large.clone())).await;
    assert!(matches!(refused, Err(CommitError::TooLarge { .. })));
    let twice = Transaction::new().put(key("b"), "1").delete(key("b"));
    let refused = store.commit(twice).await;
    assert!(matches!(refused, Err(CommitError::DuplicateWrite { key: k }) if k == key("b")));
    assert!(everything(&store).await.entries.is_empty());

    commit(&store, Transaction::new().put(key("a"), large.clone())).await;
    assert_eq!(read(&store, "a").await.unwrap().value, large);
    commit(&store, puts(MAX_OPERATIONS)).await;
    assert_eq!(everything(&store).await.entries.len(), MAX_OPERATIONS + 1);
}

pub(crate) async fn a_commit_without_a_change_uses_no_revision(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let last = put(&store, "a", "1").await;
    for idle in [
        Transaction::new(),
        Transaction::new().check(Check::Exists(key("a"))),
        Transaction::new().delete(key("b")).delete(key("c")),
    ] {
        assert_eq!(commit(&store, idle).await, last);
    }
    let again = put(&store, "a", "1").await;
    assert!(again > last, "a put of the same value is a change");
}

pub(crate) async fn listings_are_ordered_by_bytes(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    // Neither the order of any language, nor that of lengths or numbers.
    for name in ["é", "b", "a10", "a9", "B", "a", "a/b", "a-b", "\u{10000}", "\u{ffee}"] {
        put(&store, name, name).await;
    }
    let page = everything(&store).await;
    let names: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(names, ["B", "a", "a-b", "a/b", "a10", "a9", "b", "é", "\u{ffee}", "\u{10000}"]);
}

pub(crate) async fn prefixes_end_where_they_should(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    for name in ["a", "a-", "a/!", "a/b", "a/b/c", "a/\u{10ffff}", "a0", "a0/b", "b/a"] {
        put(&store, name, "").await;
    }
    for (prefix, expected) in [
        ("a/", &["a/!", "a/b", "a/b/c", "a/\u{10ffff}"][..]),
        ("a/b/", &["a/b/c"]),
        ("a0/", &["a0/b"]),
        ("c/", &[]),
    ] {
        let page = store.list(&Prefix::new(prefix).unwrap(), None, 100).await.unwrap();
        assert_eq!(names(&page), expected, "{prefix}");
    }
    // `after` narrows a prefix, and never widens it.
    for (after, count) in [("A", 4), ("a", 4), ("a/!", 3), ("a/b", 2), ("a/zz", 1), ("a0", 0)] {
        let page = store.list(&Prefix::new("a/").unwrap(), Some(&key(after)), 100).await.unwrap();
        assert_eq!(page.entries.len(), count, "{after}");
    }
}

pub(crate) async fn pages_join_without_gap_or_overlap(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let mut expected: Vec<_> = (0..25).map(|n| format!("p/{n}")).collect();
    let mut last = Revision(0);
    for name in &expected {
        last = put(&store, name, "").await;
    }
    put(&store, "q/0", "").await;
    expected.sort();
    for (limit, pages) in [(0, 25), (1, 25), (7, 4), (24, 2), (25, 1), (usize::MAX, 1)] {
        let (mut seen, mut after, mut count) = (Vec::new(), None, 0);
        loop {
            let prefix = Prefix::new("p/").unwrap();
            let page = store.list(&prefix, after.as_ref(), limit).await.unwrap();
            assert!(page.revision > last && page.entries.len() <= limit.max(1));
            seen.extend(names(&page));
            after = page.entries.last().map(|entry| entry.key.clone());
            count += 1;
            if !page.more {
                break;
            }
        }
        assert_eq!((&seen, count), (&expected, pages), "limit {limit}");
    }
}

/// Fifty committers move money between ten accounts; nobody ever sees any made or lost.
pub(crate) async fn racing_committers_keep_the_sum(open: impl Fn() -> Arc<dyn Store>) {
    const COMMITTERS: u64 = 50;
    const MOVES: u64 = 4;
    let store = open();
    let accounts = (0..10).fold(Transaction::new(), |t, n| t.put(account(n), "100"));
    let start = commit(&store, accounts).await;
    let mut committers = JoinSet::new();
    for committer in 0..COMMITTERS {
        let store = store.clone();
        committers.spawn(async move {
            for step in 0..MOVES {
                let from = (committer + step) % 10;
                let to = (from + 1 + committer % 9) % 10;
                while !move_one(&store, &account(from), &account(to)).await {}
            }
        });
    }
    let prefix = Prefix::new("accounts/").unwrap();
    let end = Revision(start.0 + COMMITTERS * MOVES);
    soon(watch_the_sum(&store, &prefix, committers, end)).await;
    let count = usize::try_from(2 * COMMITTERS * MOVES).unwrap();
    let changes = take(&mut store.watch(&prefix, start), count).await;
    assert!(changes.chunks(2).all(|pair| pair[0].revision == pair[1].revision));
}

/// Reads all accounts over and over until `end`, or until a committer fails.
async fn watch_the_sum(
    store: &Arc<dyn Store>,
    prefix: &Prefix,
    mut committers: JoinSet<()>,
    end: Revision,
) {
    let mut last = Revision(0);
    while last < end {
        let page = store.list(prefix, None, 100).await.unwrap();
        assert_eq!(page.entries.iter().map(amount).sum::<i64>(), 1000, "at {}", page.revision);
        assert!(page.revision >= last);
        last = page.revision;
        while let Some(ended) = committers.try_join_next() {
            ended.unwrap();
        }
    }
    assert_eq!(last, end);
}

pub(crate) async fn watches_tell_the_past_and_go_on(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let one = put(&store, "w/a", "1").await;
    let two = put(&store, "w/a", "2").await;
    let mut all = store.watch(&Prefix::all(), Revision(0));
    let mut new = store.watch(&Prefix::all(), two);
    let past = [change("w/a", Some("1"), one), change("w/a", Some("2"), two)];
    assert_eq!(take(&mut all, 2).await, past);
    assert!(is_quiet(&mut all).await && is_quiet(&mut new).await);
    let three = commit(&store, Transaction::new().delete(key("w/a"))).await;
    let four = put(&store, "w/b", "").await;
    let present = [change("w/a", None, three), change("w/b", Some(""), four)];
    assert_eq!(take(&mut all, 2).await, present);
    assert_eq!(take(&mut new, 2).await, present);
    assert!(is_quiet(&mut all).await && is_quiet(&mut new).await);
}

pub(crate) async fn watches_group_transactions_and_skip_others(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let mut watch = store.watch(&Prefix::new("w/").unwrap(), Revision(0));
    let transaction = Transaction::new()
        .put(key("w/z"), "1")
        .put(key("w0"), "elsewhere")
        .delete(key("w/missing"))
        .put(key("w/a"), "2")
        .put(key("v"), "elsewhere");
    let one = commit(&store, transaction).await;
    put(&store, "x/a", "elsewhere").await;
    let two = put(&store, "w/a", "3").await;
    let mut first = change("w/z", Some("1"), one);
    first.more = true;
    let expected = [first, change("w/a", Some("2"), one), change("w/a", Some("3"), two)];
    assert_eq!(take(&mut watch, 3).await, expected);
    assert!(is_quiet(&mut watch).await);
}

pub(crate) async fn watches_resume_across_a_reopening(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let mut expected = Vec::new();
    for n in 0..10 {
        let value = n.to_string();
        expected.push(change("w/a", Some(&value), put(&store, "w/a", &value).await));
    }
    let prefix = Prefix::new("w/").unwrap();
    let mut seen = take(&mut store.watch(&prefix, Revision(0)), 4).await;
    store.close().await.unwrap();
    drop(store);
    let store = open();
    let mut watch = store.watch(&prefix, seen[3].revision);
    let revision = put(&store, "w/b", "new").await;
    expected.push(change("w/b", Some("new"), revision));
    seen.extend(take(&mut watch, 7).await);
    assert_eq!(seen, expected);
    assert!(is_quiet(&mut watch).await);
}

pub(crate) async fn a_slow_watch_holds_up_nobody_and_misses_nothing(
    open: impl Fn() -> Arc<dyn Store>,
) {
    const ROUNDS: usize = 40;
    let store = open();
    let mut slow = store.watch(&Prefix::new("s/").unwrap(), Revision(0));
    put(&store, "s/first", "").await;
    take(&mut slow, 1).await;
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        // Some large values, some large transactions: the engine's batches have to cut both.
        let value = Bytes::from(vec![b'v'; if round % 8 == 0 { 300_000 } else { 10 }]);
        let names: Vec<_> = (0..1 + round % 20).map(|n| format!("s/{round}/{n}")).collect();
        let writes = |t: Transaction, (n, name): (usize, &String)| {
            t.put(key(name), if n == 0 { value.clone() } else { Bytes::new() })
        };
        let revision =
            commit(&store, names.iter().enumerate().fold(Transaction::new(), writes)).await;
        let count = names.len();
        expected
            .extend(names.into_iter().enumerate().map(|(n, name)| (revision, name, n + 1 < count)));
    }
    let seen = take(&mut slow, expected.len()).await;
    let seen: Vec<_> =
        seen.into_iter().map(|c| (c.revision, c.key.as_str().to_owned(), c.more)).collect();
    assert_eq!(seen, expected);
    assert!(is_quiet(&mut slow).await);
}

pub(crate) async fn compaction_ends_watches_from_before(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(put(&store, "c/a", &n.to_string()).await);
    }
    let before = everything(&store).await;
    store.compact(revisions[6]).await.unwrap();
    store.compact(revisions[2]).await.unwrap();
    assert_eq!(everything(&store).await, before, "entries stay");
    assert_history_starts(&store, &revisions, 6).await;
    store.close().await.unwrap();
    assert_history_starts(&open(), &revisions, 6).await;
}

/// Watches from `revisions[oldest]` see what is after, and those from well before see an error.
async fn assert_history_starts(store: &Arc<dyn Store>, revisions: &[Revision], oldest: usize) {
    let mut late = store.watch(&Prefix::all(), revisions[oldest - 2]);
    let Some(Err(WatchError::Compacted { oldest: named })) = next(&mut late).await else {
        panic!("the history was not compacted");
    };
    assert_eq!(named, revisions[oldest]);
    assert!(next(&mut late).await.is_none(), "nothing follows an error");
    let after = &revisions[oldest + 1..];
    let changes = take(&mut store.watch(&Prefix::all(), revisions[oldest]), after.len()).await;
    let seen: Vec<_> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(seen, after);
}

pub(crate) async fn compaction_spares_watches_that_keep_up(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    put(&store, "c/a", "1").await;
    let mut watch = store.watch(&Prefix::all(), Revision(0));
    take(&mut watch, 1).await;
    let gone = commit(&store, Transaction::new().delete(key("c/a"))).await;
    assert_eq!(take(&mut watch, 1).await, [change("c/a", None, gone)]);
    store.compact(Revision(u64::MAX)).await.unwrap();
    store.compact(Revision(0)).await.unwrap();
    let mut anew = store.watch(&Prefix::all(), gone);
    let revision = put(&store, "c/b", "2").await;
    assert_eq!(revision, Revision(gone.0 + 1), "revisions go on");
    assert_eq!(take(&mut watch, 1).await, [change("c/b", Some("2"), revision)]);
    assert_eq!(take(&mut anew, 1).await, [change("c/b", Some("2"), revision)]);
}

pub(crate) async fn watching_the_future_is_refused(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let last = put(&store, "a", "1").await;
    for from in [Revision(last.0 + 1), Revision(u64::MAX)] {
        let mut watch = store.watch(&Prefix::all(), from);
        let Some(Err(WatchError::Ahead { from: named, last: newest })) = next(&mut watch).await
        else {
            panic!("a watch from {from} was not refused");
        };
        assert_eq!((named, newest), (from, last));
        assert!(next(&mut watch).await.is_none());
    }
}

pub(crate) async fn what_was_acknowledged_is_there_after_reopening(
    open: impl Fn() -> Arc<dyn Store>,
) {
    let store = open();
    put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    put(&store, "b", "3").await;
    commit(&store, Transaction::new().delete(key("b"))).await;
    let before = everything(&store).await;
    store.close().await.unwrap();
    drop(store);
    let store = open();
    assert_eq!(everything(&store).await, before);
    assert!(put(&store, "c", "").await > before.revision, "revisions go on");
}

pub(crate) async fn values_are_any_bytes(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let all: Vec<u8> = (0..=255).collect();
    for value in [&b""[..], b"\0", b"\xff\0\xfe", &all] {
        let value = Bytes::copy_from_slice(value);
        commit(&store, Transaction::new().put(key("a"), value.clone())).await;
        assert_eq!(read(&store, "a").await.unwrap().value, value);
    }
}

pub(crate) async fn a_healthy_store_says_so(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let before = put(&store, "a", "1").await;
    store.check_health().await.unwrap();
    assert_eq!(everything(&store).await.revision, before, "looking changes nothing");
}

pub(crate) async fn a_closed_store_says_so(open: impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let last = put(&store, "a", "1").await;
    let mut watch = store.watch(&Prefix::all(), last);
    assert!(is_quiet(&mut watch).await);
    store.close().await.unwrap();
    let ended = next(&mut watch).await;
    assert!(matches!(ended, Some(Err(WatchError::Store(StoreError::Closed { .. })))));
    assert!(next(&mut watch).await.is_none());
    let committed = store.commit(Transaction::new().put(key("b"), "")).await;
    assert!(matches!(committed, Err(CommitError::Store(StoreError::Closed { .. }))));
    for result in [
        store.get(&key("a")).await.map(drop),
        store.list(&Prefix::all(), None, 1).await.map(drop),
        store.compact(last).await,
        store.check_health().await,
        store.close().await,
    ] {
        assert!(matches!(result, Err(StoreError::Closed { .. })), "{result:?}");
    }
}

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn account(number: u64) -> Key {
    key(&format!("accounts/{number}"))
}

fn amount(entry: &Entry) -> i64 {
    str::from_utf8(&entry.value).unwrap().parse().unwrap()
}

fn entry(name: &str, value: &str, created: Revision, modified: Revision) -> Entry {
    Entry { key: key(name), value: Bytes::from(value.to_owned()), created, modified }
}

fn change(name: &str, value: Option<&str>, revision: Revision) -> Change {
    let value = value.map(|value| Bytes::from(value.to_owned()));
    Change { revision, key: key(name), value, more: false }
}

fn names(page: &Page) -> Vec<String> {
    page.entries.iter().map(|entry| entry.key.as_str().to_owned()).collect()
}

async fn commit(store: &Arc<dyn Store>, transaction: Transaction) -> Revision {
    store.commit(transaction).await.unwrap()
}

async fn put(store: &Arc<dyn Store>, name: &str, value: &str) -> Revision {
    commit(store, Transaction::new().put(key(name), value.to_owned())).await
}

async fn read(store: &Arc<dyn Store>, name: &str) -> Option<Entry> {
    store.get(&key(name)).await.unwrap()
}

async fn everything(store: &Arc<dyn Store>) -> Page {
    let page = store.list(&Prefix::all(), None, 1000).await.unwrap();
    assert!(!page.more);
    page
}

/// One attempt; false where someone else was faster.
async fn move_one(store: &Arc<dyn Store>, from: &Key, to: &Key) -> bool {
    let from = store.get(from).await.unwrap().unwrap();
    let to = store.get(to).await.unwrap().unwrap();
    let transaction = Transaction::new()
        .check(Check::Modified(from.key.clone(), from.modified))
        .check(Check::Modified(to.key.clone(), to.modified))
        .put(from.key.clone(), (amount(&from) - 1).to_string())
        .put(to.key.clone(), (amount(&to) + 1).to_string());
    match store.commit(transaction).await {
        Ok(_) => true,
        Err(CommitError::Conflict { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.expect("a store that answers")
}

async fn next(watch: &mut Watch) -> Option<Result<Change, WatchError>> {
    soon(watch.next()).await
}

async fn take(watch: &mut Watch, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < count {
        changes.push(next(watch).await.expect("watches don't end").unwrap());
    }
    changes
}

/// Whether nothing more comes. A repetition would have been there at once.
async fn is_quiet(watch: &mut Watch) -> bool {
    timeout(Duration::from_millis(100), watch.next()).await.is_err()
}
