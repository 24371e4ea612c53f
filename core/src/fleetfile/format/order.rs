//! The order of tables and keys: as the reference has them where it has them, otherwise as their
//! author wrote them. Instances, volumes and files stay in the order in which they first appear.

use std::collections::BTreeMap;

use super::model::{Document, bare};

const TOP: &[&str] = &[
    "fleet",
    "infra",
    "hosts",
    "agent",
    "snapshot",
    "going-back",
    "restore",
    "vars",
    "instance",
    "rollout",
];
const INSTANCE: &[&str] = &[
    "image", "hosts", "count", "after", "boot", "command", "network", "address", "gateway",
    "ports", "root", "env", "data", "files", "secrets", "mounts", "limits", "security", "health",
    "hooks",
];
const DATA: &[&str] = &["path", "owner", "backup"];
const FILE: &[&str] = &["template", "source", "content", "mode", "owner", "reload"];
const MOUNT: &[&str] = &["source", "writable", "shared"];
const LIMITS: &[&str] = &["memory", "cpu", "tasks", "nofile"];
const SECURITY: &[&str] = &[
    "capabilities-add",
    "capabilities-drop",
    "new-privileges",
    "private-users",
    "system-calls-allow",
];
const HEALTH: &[&str] = &["unit", "http", "tcp", "exec", "grace", "interval", "timeout", "retries"];
const HOOKS: &[&str] = &["init", "migrate", "restore"];
const ROLLOUT: &[&str] = &[
    "batches",
    "monitor",
    "max-failures",
    "on-failure",
    "batch-timeout",
    "spread",
    "promote",
    "windows",
    "stage-ahead",
];

/// How the keys of a table are ordered.
enum Keys {
    /// These first, in this order.
    Known(&'static [&'static str]),
    /// Names of the author's, as they first appear.
    Names,
    /// As they are.
    Free,
}

fn keys(table: &[&str]) -> Keys {
    match table {
        [] => Keys::Known(TOP),
        ["instance"] => Keys::Names,
        ["instance", _] => Keys::Known(INSTANCE),
        ["instance", _, "data" | "files" | "mounts" | "secrets"] => Keys::Names,
        ["instance", _, "data", _] => Keys::Known(DATA),
        ["instance", _, "files", _] => Keys::Known(FILE),
        ["instance", _, "mounts", _] => Keys::Known(MOUNT),
        ["instance", _, "limits"] => Keys::Known(LIMITS),
        ["instance", _, "security"] => Keys::Known(SECURITY),
        ["instance", _, "health"] => Keys::Known(HEALTH),
        ["instance", _, "hooks"] => Keys::Known(HOOKS),
        ["rollout"] => Keys::Known(ROLLOUT),
        _ => Keys::Free,
    }
}

/// Puts sections, and the entries of each, in order.
pub(super) fn sort(document: &mut Document<'_>) {
    let order = Order::of(document);
    document.sections.sort_by_cached_key(|section| {
        let path = section.header.as_ref().map(|header| plain(&header.keys));
        path.map(|path| order.rank(order.within_list(&path)))
    });
    for section in &mut document.sections {
        let table = section.header.as_ref().map(|header| plain(&header.keys)).unwrap_or_default();
        section.entries.sort_by_cached_key(|entry| {
            order.rank(&table.iter().copied().chain(plain(&entry.keys)).collect::<Vec<_>>())
        });
    }
}

fn plain<'s>(keys: &[&'s str]) -> Vec<&'s str> {
    keys.iter().map(|key| bare(key)).collect()
}

/// What of the order only the text can say.
struct Order<'s> {
    /// When each path that ends in a name of the author's first appears.
    names: BTreeMap<Vec<&'s str>, usize>,
    /// Lists of tables.
    lists: Vec<Vec<&'s str>>,
}

impl<'s> Order<'s> {
    fn of(document: &Document<'s>) -> Self {
        let mut order = Self { names: BTreeMap::new(), lists: Vec::new() };
        for section in &document.sections {
            let table = section.header.as_ref().map(|h| plain(&h.keys)).unwrap_or_default();
            order.note(&table);
            if section.header.as_ref().is_some_and(|header| header.is_list) {
                order.lists.push(table.clone());
            }
            for entry in &section.entries {
                order.note(&[table.as_slice(), &plain(&entry.keys)].concat());
            }
        }
        order.lists.sort();
        order.lists.dedup();
        order
    }

    fn note(&mut self, path: &[&'s str]) {
        for end in 1..=path.len().min(4) {
            if matches!(keys(&path[..end - 1]), Keys::Names) {
                let next = self.names.len();
                self.names.entry(path[..end].to_vec()).or_insert(next);
            }
        }
    }

    /// The path of the outermost list of tables that a table is in, or the table's own. What is
    /// in a list keeps its order, on which its meaning depends.
    fn within_list<'p>(&self, path: &'p [&'s str]) -> &'p [&'s str] {
        let lengths = 1..=path.len();
        let mut outer = lengths.map(|n| &path[..n]);
        outer
            .find(|part| self.lists.binary_search_by(|l| l.as_slice().cmp(part)).is_ok())
            .unwrap_or(path)
    }

    /// What to compare by: smaller comes first, the same stays as it is.
    fn rank(&self, path: &[&'s str]) -> Vec<usize> {
        let mut rank = Vec::new();
        for (at, key) in path.iter().enumerate() {
            match keys(&path[..at]) {
                Keys::Known(known) => match known.iter().position(|k| k == key) {
                    Some(position) => rank.push(position),
                    None => {
                        rank.push(known.len());
                        break;
                    }
                },
                Keys::Names => rank.push(self.names.get(&path[..=at]).copied().unwrap_or_default()),
                Keys::Free => break,
            }
        }
        rank
    }
}
