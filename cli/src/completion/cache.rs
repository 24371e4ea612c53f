//! What a controller said a moment ago, so that pressing the key twice asks it once.
//!
//! A file for each question, in a directory that no one else can read: the names of hosts and
//! images are no one else's business. What can't be read or written is as if it were not there.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shoal_core::time::Timestamp;

use crate::context::Context;

/// How long an answer holds, in milliseconds: long enough for the next press of the key, short
/// enough for what was just made to be there.
const LIFETIME_MS: u64 = 5_000;

/// A directory of answers.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
}

/// Who is asked for what, and as whom.
#[derive(Debug)]
pub(super) struct Question<'a> {
    what: &'a str,
    context: &'a Context,
}

/// An answer, as it is on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct Answer<T> {
    /// Of this command: another one may know other things.
    version: String,
    controller: String,
    certificate: String,
    asked_ms: u64,
    known: Vec<T>,
}

impl<'a> Question<'a> {
    pub(super) fn new(what: &'a str, context: &'a Context) -> Self {
        Self { what, context }
    }

    fn file_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.context.controller, &self.context.certificate).hash(&mut hasher);
        format!("{}-{:016x}.json", self.what, hasher.finish())
    }

    fn is_answered_by<T>(&self, answer: &Answer<T>, now: Timestamp) -> bool {
        answer.version == env!("CARGO_PKG_VERSION")
            && answer.controller == self.context.controller
            && answer.certificate == self.context.certificate
            && now.0.checked_sub(answer.asked_ms).is_some_and(|age| age < LIFETIME_MS)
    }
}

impl Cache {
    /// The cache of whoever runs this: in `$XDG_RUNTIME_DIR`, which ends with the session, or
    /// where caches are.
    pub(super) fn of_this_user(home: Option<PathBuf>) -> Option<Self> {
        let set = |name: &str| std::env::var_os(name).as_deref().and_then(absolute);
        let runtime = set("XDG_RUNTIME_DIR").filter(|directory| directory.is_dir());
        let caches =
            || set("XDG_CACHE_HOME").or_else(|| Some(absolute(home?.as_os_str())?.join(".cache")));
        Some(Self::in_directory(runtime.or_else(caches)?.join("shoal")))
    }

    /// One in this directory, which is made when there is something to keep.
    pub(super) fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Whether no one else can look into it, or put something there.
    fn is_private(&self) -> bool {
        let found = fs::symlink_metadata(&self.directory);
        found.is_ok_and(|found| found.is_dir() && found.permissions().mode() & 0o077 == 0)
    }

    /// The answer to a question, where one was kept that still holds.
    pub(super) fn answer<T: DeserializeOwned>(
        &self,
        question: &Question<'_>,
        now: Timestamp,
    ) -> Option<Vec<T>> {
        let path = self.directory.join(question.file_name());
        let text = self.is_private().then(|| fs::read(path).ok())??;
        let answer: Answer<T> = serde_json::from_slice(&text).ok()?;
        question.is_answered_by(&answer, now).then_some(answer.known)
    }

    /// Keeps an answer; does without where that fails.
    pub(super) fn keep<T: Serialize>(&self, question: &Question<'_>, known: &[T], now: Timestamp) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        if made.is_err() || !self.is_private() {
            return;
        }
        let answer = Answer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            controller: question.context.controller.clone(),
            certificate: question.context.certificate.clone(),
            asked_ms: now.0,
            known: known.iter().collect(),
        };
        let Ok(text) = serde_json::to_vec(&answer) else { return };
        let path = self.directory.join(question.file_name());
        let temporary = path.with_extension(std::process::id().to_string());
        let written = write_new(&temporary, &text).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }
}

/// Not synced: what is lost is asked again.
fn write_new(path: &Path, text: &[u8]) -> std::io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text)
}

fn absolute(path: &OsStr) -> Option<PathBuf> {
    let path = Path::new(path);
    path.is_absolute().then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(controller: &str, certificate: &str) -> Context {
        Context {
            controller: controller.into(),
            ca: String::new(),
            certificate: certificate.into(),
            key: "secret".into(),
        }
    }

    fn names(cache: &Cache, what: &str, context: &Context, now: u64) -> Option<Vec<String>> {
        cache.answer(&Question::new(what, context), Timestamp(now))
    }

    #[test]
    fn an_answer_holds_for_a_while_and_for_one_question() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_directory(dir.path().join("shoal"));
        let (ada, ben) = (context("c:7443", "ada"), context("c:7443", "ben"));
        cache.keep(&Question::new("hosts", &ada), &["h1"], Timestamp(10_000));
        let kept = Some(vec!["h1".to_owned()]);
        assert_eq!(names(&cache, "hosts", &ada, 10_000), kept);
        assert_eq!(names(&cache, "hosts", &ada, 14_999), kept);
        assert_eq!(names(&cache, "hosts", &ada, 15_000), None);
        // The clock was set back.
        assert_eq!(names(&cache, "hosts", &ada, 9_999), None);
        assert_eq!(names(&cache, "images", &ada, 10_000), None);
        assert_eq!(names(&cache, "hosts", &ben, 10_000), None);
        assert_eq!(names(&cache, "hosts", &context("d:7443", "ada"), 10_000), None);
        cache.keep(&Question::new("hosts", &ada), &["h2"], Timestamp(11_000));
        assert_eq!(names(&cache, "hosts", &ada, 11_000), Some(vec!["h2".to_owned()]));
    }

    #[test]
    fn it_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/shoal");
        let (cache, ada) = (Cache::in_directory(place.clone()), context("c", "ada"));
        assert_eq!(names(&cache, "hosts", &ada, 1), None);
        assert!(!place.exists());
        cache.keep(&Question::new("hosts", &ada), &["h1"], Timestamp(1));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place), 0o700);
        let files: Vec<_> =
            fs::read_dir(&place).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(mode(&files[0]), 0o600);
        assert!(!fs::read_to_string(&files[0]).unwrap().contains("secret"));

        // Where others can look, or may have looked, nothing is kept and nothing is believed.
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        cache.keep(&Question::new("images", &ada), &["i1"], Timestamp(1));
        assert_eq!(names(&cache, "hosts", &ada, 1), None);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&place, dir.path().join("link")).unwrap();
        let astray = Cache::in_directory(dir.path().join("link"));
        assert!(names(&cache, "hosts", &ada, 1).is_some());
        assert_eq!(names(&astray, "hosts", &ada, 1), None);
    }

    #[test]
    fn a_damaged_answer_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_directory(dir.path().join("shoal"));
        let ada = context("c", "ada");
        let question = Question::new("hosts", &ada);
        for text in ["", "{", "[]", "{\"version\": 5}"] {
            cache.keep(&question, &["h1"], Timestamp(1));
            fs::write(cache.directory.join(question.file_name()), text).unwrap();
            assert_eq!(names(&cache, "hosts", &ada, 1), None, "{text}");
        }
        cache.keep(&question, &["h1"], Timestamp(1));
        assert!(names(&cache, "hosts", &ada, 1).is_some());
    }
}
