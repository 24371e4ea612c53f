//! Which images a host trusts: whose signatures its root asks for, and what it ran before.
//!
//! A host's root pins public keys for the names of images, in the policy. The agent holds what was
//! signed against those keys ([`Checked`]) and asks [`HostTrust::permits`], before it fetches an
//! image and again before it mounts it. So whoever has taken over the controller can start nothing
//! that no key's owner signed for just that name, and no older release than the newest that ran on
//! this host, but for those that ran here themselves.
//!
//! Deliberately absent: cryptography, and reading manifests. That is shoal-image's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::image::{Digest, ImageRef, PinnedImage};
use crate::name::{HostName, ImageName, InvalidName};
use crate::policy::POLICY;
use crate::text::as_text;
use crate::time::Timestamp;

/// The part `[trust]` of a host's policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Trust {
    /// Whether images may run that nobody signed: where nothing is said, those may whose name has
    /// no key pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsigned: Option<bool>,
    /// The keys that are trusted to sign images, by the images' name. What `*` has is for all names
    /// that have no entry of their own.
    pub keys: BTreeMap<KeyScope, Vec<PublicKey>>,
}

impl Trust {
    /// The keys that may sign images called `name`; `None` where none is pinned.
    #[must_use]
    pub fn keys_for(&self, name: &ImageName) -> Option<&[PublicKey]> {
        let own = self.keys.get(&KeyScope::Name(name.clone()));
        own.or_else(|| self.keys.get(&KeyScope::Any)).map(Vec::as_slice)
    }
}

/// Which images keys are pinned for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum KeyScope {
    /// All whose name has no entry of its own, written `*`.
    Any,
    /// Those of this name.
    Name(ImageName),
}

impl FromStr for KeyScope {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text == "*" { Ok(Self::Any) } else { text.parse().map(Self::Name) }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("*"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The number by which a key is known, shown as minisign shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A public key of minisign: the line of base64 in its `.pub` file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    text: String,
    id: KeyId,
}

/// A text that is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a public key; write the second line of the .pub file that \
     `shoal image keygen` or minisign made: 56 characters that begin with RW"
)]
pub struct InvalidKey {
    text: String,
}

impl PublicKey {
    /// The key's number.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The line of base64.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let invalid = || InvalidKey { text: text.chars().take(80).collect() };
        let bytes = base64(text).filter(|bytes| bytes.len() == 42).ok_or_else(invalid)?;
        // The algorithm, the number, and the key itself: 2, 8 and 32 bytes.
        let (algorithm, rest) = bytes.split_at(2);
        let id = rest.first_chunk::<8>().ok_or_else(invalid)?;
        if algorithm != b"Ed" {
            return Err(invalid());
        }
        Ok(Self { text: text.to_owned(), id: KeyId(u64::from_le_bytes(*id)) })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

as_text!(KeyScope, PublicKey);

/// Bytes from base64 that needs no padding; `None` where the text is something else.
fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |digit: &u8| DIGITS.iter().position(|known| known == digit);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks_exact(4) {
        let mut bits = 0_u32;
        for digit in group {
            bits = bits << 6 | u32::try_from(value(digit)?).ok()?;
        }
        bytes.extend(&bits.to_be_bytes()[1..]);
    }
    Some(bytes)
}

/// What a manifest says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub reference: ImageRef,
    /// Its file.
    pub digest: Digest,
    /// The file's size in bytes.
    pub size: u64,
    /// Its place among the releases of that name; 0 where there is no order among them.
    pub release: u64,
    /// When it may not be taken into use any more; `None` for never.
    pub expires: Option<Timestamp>,
}

/// What came of holding a signed manifest against the keys that are pinned for its image's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// This key signed it.
    Signed {
        /// The key.
        key: KeyId,
        /// What it signed.
        manifest: Manifest,
    },
    /// Another key did, or says that it did.
    OtherKey(KeyId),
    /// It is not what was signed, or no signed manifest at all.
    Invalid(String),
}

/// What a host has accepted: kept beside its ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Accepted {
    names: BTreeMap<ImageName, History>,
}

/// What a host has accepted of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct History {
    /// The highest release.
    release: u64,
    /// The images, with when.
    images: BTreeMap<Digest, Timestamp>,
}

/// How many images of one name are remembered besides those whose files are on the host.
const MOST_REMEMBERED: usize = 200;

impl Accepted {
    /// Whether this very image was accepted under this name.
    #[must_use]
    pub fn has(&self, name: &ImageName, digest: &Digest) -> bool {
        self.names.get(name).is_some_and(|history| history.images.contains_key(digest))
    }

    /// The highest release that was accepted under this name; 0 where there was none.
    #[must_use]
    pub fn highest(&self, name: &ImageName) -> u64 {
        self.names.get(name).map_or(0, |history| history.release)
    }

    /// With an image that is taken into use; `None` where it is known already. Those that were
    /// accepted longest ago and are not `here` any more are forgotten when there are many.
    #[must_use]
    pub fn with(
        &self,
        manifest: &Manifest,
        here: &BTreeSet<Digest>,
        now: Timestamp,
    ) -> Option<Self> {
        let name = &manifest.reference.name;
        if self.has(name, &manifest.digest) && self.highest(name) >= manifest.release {
            return None;
        }
        let mut after = self.clone();
        let history = after.names.entry(name.clone()).or_default();
        history.release = history.release.max(manifest.release);
        history.images.entry(manifest.digest).or_insert(now);
        history.forget_oldest(&manifest.digest, here);
        Some(after)
    }
}

impl History {
    fn forget_oldest(&mut self, keep: &Digest, here: &BTreeSet<Digest>) {
        let gone = self.images.iter().filter(|(digest, _)| *digest != keep);
        let gone = gone.filter(|(digest, _)| !here.contains(*digest));
        let mut gone: Vec<(Timestamp, Digest)> = gone.map(|(digest, at)| (*at, *digest)).collect();
        gone.sort();
        let many = gone.len().saturating_sub(MOST_REMEMBERED);
        for (_, digest) in gone.into_iter().take(many) {
            self.images.remove(&digest);
        }
    }
}

/// What a host goes by.
#[derive(Debug, Clone, Copy)]
pub struct HostTrust<'a> {
    /// The host's name.
    pub host: &'a HostName,
    /// Whom its root trusts.
    pub trust: &'a Trust,
    /// What it accepted before.
    pub accepted: &'a Accepted,
    /// What time it is there.
    pub now: Timestamp,
}

/// An image that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permit {
    /// Although nobody that the host knows signed it.
    Unsigned,
    /// As this manifest says, which a trusted key signed.
    Signed(Manifest),
}

/// An image that may not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("host {host} does not trust image {image}: {why}")]
pub struct Distrust {
    /// The host.
    pub host: HostName,
    /// The image.
    pub image: ImageRef,
    /// Why not.
    pub why: Box<Why>,
}

/// Why an image may not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No key is pinned for it, and one is asked for.
    #[error(
        "no key is trusted for this name, and unsigned images are not allowed; pin its key in \
         {POLICY}, under [trust.keys]"
    )]
    NoKey,
    /// It is not signed.
    #[error(
        "it is not signed, and has to be by {trusted}; sign it with `shoal image sign` and send \
         that along with `shoal image push --manifest`, then apply again"
    )]
    Unsigned {
        /// The keys that might.
        trusted: Keys,
    },
    /// It is signed by another key.
    #[error(
        "it is signed by key {by}, and has to be by {trusted}; sign it with that, or pin the other \
         key in {POLICY}, under [trust.keys]"
    )]
    OtherKey {
        /// The key that it is signed by.
        by: KeyId,
        /// The keys that it might be.
        trusted: Keys,
    },
    /// What is signed is something else, or nothing.
    #[error("what is said to be signed by {trusted} is not: {problem}; sign and push it again")]
    Invalid {
        /// What is wrong.
        problem: String,
        /// The keys that it might be signed by.
        trusted: Keys,
    },
    /// What is signed is another image, or another name of it.
    #[error(
        "the manifest that key {by} signed is of {signed}, not of {image}; sign this image under \
         this name and push it again"
    )]
    OtherImage {
        /// The key.
        by: KeyId,
        /// What was signed.
        signed: String,
        /// What was to run.
        image: String,
    },
    /// It is too old to be taken into use.
    #[error("what key {by} signed expired at {at}; sign it anew and push it again")]
    Expired {
        /// The key.
        by: KeyId,
        /// When.
        at: Moment,
    },
    /// A newer release has run here.
    #[error(
        "it is release {release}, this host has run release {highest} and never this one; sign it \
         with a release above {highest} if it is to run here"
    )]
    OldRelease {
        /// Its release.
        release: u64,
        /// The highest that was accepted.
        highest: u64,
    },
}

/// Keys, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(pub Vec<KeyId>);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        match keys.as_slice() {
            [] => f.write_str("a trusted key (the policy has none for this name)"),
            [key] => write!(f, "key {key}"),
            keys => write!(f, "one of the keys {}", keys.join(", ")),
        }
    }
}

/// A point in time as people read it, to the second, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub Timestamp);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.0 / 1000;
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// Year, month and day of a day since 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have the odd day at their end. 719468 days lie between the first of
    // March of the year 0 and 1970, and 146097 make 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

impl HostTrust<'_> {
    /// Whether `image` may be taken into use, or go on to be, where its signed manifest turned out
    /// to be `checked`; `None` where it has none.
    ///
    /// What was accepted before needs a valid signature still, but may be expired and of an older
    /// release.
    ///
    /// # Errors
    /// Why it may not.
    pub fn permits(
        &self,
        image: &PinnedImage,
        checked: Option<&Checked>,
    ) -> Result<Permit, Distrust> {
        let (host, reference) = (self.host.clone(), image.reference.clone());
        self.judge(image, checked).map_err(|why| {
            let why = Box::new(why);
            Distrust { host, image: reference, why }
        })
    }

    fn judge(&self, image: &PinnedImage, checked: Option<&Checked>) -> Result<Permit, Why> {
        let Some(keys) = self.trust.keys_for(&image.reference.name) else {
            let free = self.trust.unsigned != Some(false);
            return if free { Ok(Permit::Unsigned) } else { Err(Why::NoKey) };
        };
        let trusted = || Keys(keys.iter().map(PublicKey::id).collect());
        match checked {
            None if self.trust.unsigned == Some(true) => Ok(Permit::Unsigned),
            None => Err(Why::Unsigned { trusted: trusted() }),
            Some(Checked::OtherKey(by)) => Err(Why::OtherKey { by: *by, trusted: trusted() }),
            Some(Checked::Invalid(problem)) => {
                Err(Why::Invalid { problem: problem.clone(), trusted: trusted() })
            }
            Some(Checked::Signed { key, manifest }) => {
                is_of(manifest, image, *key)?;
                self.is_in_time(manifest, *key)?;
                Ok(Permit::Signed(manifest.clone()))
            }
        }
    }

    fn is_in_time(&self, manifest: &Manifest, by: KeyId) -> Result<(), Why> {
        let Manifest { reference, digest, release, expires, .. } = manifest;
        if self.accepted.has(&reference.name, digest) {
            return Ok(());
        }
        if let Some(at) = expires.filter(|at| *at <= self.now) {
            return Err(Why::Expired { by, at: Moment(at) });
        }
        let highest = self.accepted.highest(&reference.name);
        if *release < highest {
            return Err(Why::OldRelease { release: *release, highest });
        }
        Ok(())
    }
}

fn is_of(manifest: &Manifest, image: &PinnedImage, by: KeyId) -> Result<(), Why> {
    let Manifest { reference, digest, size, .. } = manifest;
    if (reference, digest, *size) == (&image.reference, &image.digest, image.size) {
        return Ok(());
    }
    let shown = |reference: &ImageRef, digest: &Digest, size: u64| {
        format!("{reference} ({}, {size} bytes)", digest.short())
    };
    let signed = shown(reference, digest, *size);
    let image = shown(&image.reference, &image.digest, image.size);
    Err(Why::OtherImage { by, signed, image })
}

#[cfg(test)]
mod tests;
