//! The secrets of this host's instances: those that the controller has sent, kept on the disk so
//! that instances start without it.
//!
//! Way in: [`Secrets::keep`] for what comes down the stream, [`Secrets::kept`] for planning,
//! [`Secrets::forget`] for what a plan found unused. The files are [`vault`]'s. Opening them for a
//! container is not done here: that works without the agent (`host::container`).

pub mod vault;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use shoal_core::host::HostSpec;
use shoal_core::secret::{PinnedSecret, SecretValue, needed};
use tracing::{info, warn};

use self::vault::{SecretError, Vault};
use crate::files::FileError;

/// The secrets of one host. Calls that write take as long as the disk and the tool that encrypts
/// do, and are for a thread that may wait.
#[derive(Debug)]
pub struct Secrets {
    vault: Vault,
    /// Held while files are written and removed.
    writing: Mutex<()>,
    /// Held for moments only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: BTreeSet<PinnedSecret>,
    /// What the desired state names, and what was sent for the next one.
    needed: BTreeSet<PinnedSecret>,
    unkept: BTreeMap<PinnedSecret, Unkept>,
}

/// One that could not be kept.
#[derive(Debug)]
struct Unkept {
    why: String,
    /// To try again with; `None` where it was never here to be read.
    value: Option<SecretValue>,
}

impl Secrets {
    /// Those in `vault`, of which `desired` names some.
    ///
    /// # Errors
    /// Where its files can't be listed.
    pub fn open(vault: Vault, desired: Option<&HostSpec>) -> Result<Self, FileError> {
        let needed = desired.map(needed).unwrap_or_default();
        let state = State { kept: vault.list()?, needed, unkept: BTreeMap::new() };
        Ok(Self { vault, writing: Mutex::default(), state: Mutex::new(state) })
    }

    /// Opens each once. One that can't be opened, since the host has another key or the file is
    /// damaged, is removed: then the controller's next sending is kept. What runs has its own.
    pub fn check(&self) {
        let _alone = lock(&self.writing);
        if let Err(error) = self.vault.sweep() {
            warn!(error = %crate::chain(&error), "cannot remove what is left of writing a secret");
        }
        let opened = self.vault.open_all(&self.kept());
        let bad = opened.into_iter().filter_map(|(secret, value)| Some((secret, value.err()?)));
        let bad: Vec<(PinnedSecret, SecretError)> = bad.collect();
        if bad.is_empty() {
            return;
        }
        let works = self.vault.works();
        for (secret, error) in bad {
            let why = crate::chain(&error);
            lock(&self.state).kept.remove(&secret);
            match works.as_ref().map(|()| self.vault.remove(&secret)) {
                Ok(Ok(())) => {
                    warn!(%secret, why, "removed a secret that can't be opened; the controller sends it anew");
                }
                Ok(Err(error)) => self.note_unkept(secret, None, &error),
                // Nothing can be opened now, so that says nothing about the file.
                Err(error) => self.note_unkept(secret, None, error),
            }
        }
    }

    /// Keeps those that are not kept yet; a version's value never changes. `values` are all that
    /// instances of this host name, now or in the desired state that is about to come.
    pub fn keep(&self, values: Vec<(PinnedSecret, SecretValue)>) {
        {
            let state = &mut *lock(&self.state);
            let sent: BTreeSet<PinnedSecret> = values.iter().map(|(s, _)| s.clone()).collect();
            state.unkept.retain(|secret, _| sent.contains(secret));
            state.needed.extend(sent);
        }
        let _alone = lock(&self.writing);
        for (secret, value) in values {
            self.keep_one(secret, value);
        }
    }

    fn keep_one(&self, secret: PinnedSecret, value: SecretValue) {
        if self.kept().contains(&secret) {
            return;
        }
        match self.vault.put(&secret, &value) {
            Ok(()) => {
                info!(%secret, "keeps a secret");
                let state = &mut *lock(&self.state);
                state.unkept.remove(&secret);
                state.kept.insert(secret);
            }
            Err(error) => self.note_unkept(secret, Some(value), &error),
        }
    }

    fn note_unkept(
        &self,
        secret: PinnedSecret,
        value: Option<SecretValue>,
        error: &dyn std::error::Error,
    ) {
        let why = crate::chain(error);
        warn!(%secret, why, "cannot keep a secret");
        lock(&self.state).unkept.insert(secret, Unkept { why, value });
    }

    /// Whether some were sent and could not be kept.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        lock(&self.state).unkept.values().any(|unkept| unkept.value.is_some())
    }

    /// Tries again to keep those.
    pub fn keep_again(&self) {
        let _alone = lock(&self.writing);
        let all = std::mem::take(&mut lock(&self.state).unkept);
        for (secret, Unkept { why, value }) in all {
            match value {
                Some(value) => self.keep_one(secret, value),
                None => drop(lock(&self.state).unkept.insert(secret, Unkept { why, value: None })),
            }
        }
    }

    /// Notes what the desired state names: it has come, and what was sent before was for it.
    pub fn settle(&self, desired: &HostSpec) {
        let state = &mut *lock(&self.state);
        state.needed = needed(desired);
        let State { needed, unkept, .. } = state;
        unkept.retain(|secret, _| needed.contains(secret));
    }

    /// Those that are kept.
    #[must_use]
    pub fn kept(&self) -> BTreeSet<PinnedSecret> {
        let kept = lock(&self.state).kept.clone();
        // Someone may have removed a file.
        kept.into_iter().filter(|secret| self.vault.holds(secret)).collect()
    }

    /// Why others are not.
    #[must_use]
    pub fn unkept(&self) -> BTreeMap<PinnedSecret, String> {
        let state = lock(&self.state);
        state.unkept.iter().map(|(secret, unkept)| (secret.clone(), unkept.why.clone())).collect()
    }

    /// Removes one, unless it has come to be needed since that was planned, or some are just being
    /// written: that is waited for by planning again. Says whether it did.
    ///
    /// # Errors
    /// Where its file can't be removed.
    pub fn forget(&self, secret: &PinnedSecret) -> Result<bool, FileError> {
        let _alone = match self.writing.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        if lock(&self.state).needed.contains(secret) {
            return Ok(false);
        }
        self.vault.remove(secret)?;
        lock(&self.state).kept.remove(secret);
        Ok(true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::vault::tests::{FakeKey, secret, value};
    use std::sync::Arc;

    struct World {
        dir: tempfile::TempDir,
        key: Arc<FakeKey>,
    }

    impl World {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), key: Arc::default() }
        }

        fn open(&self) -> Secrets {
            let dir = self.dir.path().join("secrets");
            Secrets::open(Vault::new(dir, self.key.clone()), None).unwrap()
        }
    }

    fn sent(secrets: &[(&str, u64)]) -> Vec<(PinnedSecret, SecretValue)> {
        secrets.iter().map(|(name, version)| (secret(name, *version), value("hunter2"))).collect()
    }

    fn set(secrets: &[(&str, u64)]) -> BTreeSet<PinnedSecret> {
        sent(secrets).into_iter().map(|(secret, _)| secret).collect()
    }

    #[test]
    fn what_is_kept_is_written_once_and_stays() {
        let world = World::new();
        let secrets = world.open();
        let both = [("db/creator", 1), ("db/creator", 2)];
        secrets.keep(sent(&both));
        secrets.keep(sent(&both));
        assert_eq!(secrets.kept(), set(&both));
        assert_eq!(world.key.sealed(), 2);
        let again = world.open();
        again.check();
        assert_eq!(again.kept(), set(&both));
    }

    #[test]
    fn one_that_cant_be_opened_is_taken_anew() {
        let world = World::new();
        world.open().keep(sent(&[("db", 1), ("tls", 1)]));
        world.key.change();
        let secrets = world.open();
        secrets.keep(sent(&[("new", 1)]));
        secrets.check();
        assert_eq!(secrets.kept(), set(&[("new", 1)]));
        assert_eq!(secrets.unkept(), BTreeMap::new());
        secrets.keep(sent(&[("db", 1)]));
        secrets.check();
        assert_eq!(secrets.kept(), set(&[("new", 1), ("db", 1)]));
    }

    #[test]
    fn where_nothing_can_be_opened_nothing_is_removed() {
        let world = World::new();
        world.open().keep(sent(&[("db", 1)]));
        world.key.break_down(true);
        let secrets = world.open();
        secrets.check();
        assert_eq!(secrets.kept(), BTreeSet::new());
        assert!(secrets.unkept()[&secret("db", 1)].contains("can't run"), "{secrets:?}");
        assert!(!secrets.is_behind(), "its value is not known");
        world.key.break_down(false);
        let secrets = world.open();
        secrets.check();
        assert_eq!(secrets.kept(), set(&[("db", 1)]));
    }

    #[test]
    fn what_cant_be_kept_is_tried_again_and_says_why() {
        let world = World::new();
        let secrets = world.open();
        world.key.break_down(true);
        secrets.keep(sent(&[("db", 1), ("tls", 1)]));
        assert_eq!(secrets.kept(), BTreeSet::new());
        assert!(secrets.is_behind());
        let shown = format!("{secrets:?} {:?}", secrets.unkept());
        assert!(shown.contains("doctor") && !shown.contains("hunter2"), "{shown}");
        secrets.keep_again();
        assert!(secrets.is_behind());
        world.key.break_down(false);
        secrets.keep_again();
        assert!(!secrets.is_behind());
        assert_eq!(secrets.kept(), set(&[("db", 1), ("tls", 1)]));
        assert_eq!(secrets.unkept(), BTreeMap::new());
    }

    #[test]
    fn what_was_sent_for_the_next_desired_state_is_not_forgotten_for_the_last() {
        let world = World::new();
        let secrets = world.open();
        let (old, new) = (secret("db", 1), secret("db", 2));
        secrets.keep(sent(&[("db", 1)]));
        secrets.settle(&HostSpec::default());
        secrets.keep(sent(&[("db", 2)]));
        assert!(!secrets.forget(&new).unwrap());
        assert!(secrets.forget(&old).unwrap());
        assert_eq!(secrets.kept(), set(&[("db", 2)]));
        secrets.settle(&HostSpec::default());
        assert!(secrets.forget(&new).unwrap());
        assert_eq!(secrets.kept(), BTreeSet::new());
    }

    #[test]
    fn a_file_that_someone_removed_is_not_kept() {
        let world = World::new();
        let secrets = world.open();
        secrets.keep(sent(&[("db", 1)]));
        std::fs::remove_dir_all(world.dir.path().join("secrets/db")).unwrap();
        assert_eq!(secrets.kept(), BTreeSet::new());
        secrets.keep(sent(&[("db", 1)]));
        assert_eq!(secrets.kept(), set(&[("db", 1)]));
    }
}
