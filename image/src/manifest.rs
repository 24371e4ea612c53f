//! The manifest of an image: the small text that is signed in its place.
//!
//! It binds a name and a tag to one file, and says which release it is and until when it may be
//! taken into use. What is signed is the very text, so it is never written anew on its way. It is
//! read strictly: a key that is not known may mean something that must not be missed.
//!
//! ```toml
//! manifest = 1
//! name = "shop"
//! tag = "2.5.1"
//! digest = "e3b0…"
//! size = 97517568
//! release = 41
//! created = "2026-11-20T09:00:00Z"
//! expires = "2027-11-20T09:00:00Z"
//!
//! [platform]
//! os-id = "debian"
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Sum;
use crate::platform::Platform;
use crate::signature::{PublicKey, Signature, SignatureError};

/// The newest form that is known.
const VERSION: u32 = 1;
/// Bytes of a manifest. A name, a tag and a platform need a tenth of that.
pub const LONGEST_MANIFEST: usize = 4 << 10;
/// Bytes of a name or a tag.
const LONGEST_NAME: usize = 128;

/// What is said of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the image is of.
    pub name: String,
    /// Which one.
    pub tag: String,
    /// Its file.
    pub digest: Sha256Sum,
    /// The file's size in bytes.
    pub size: u64,
    /// What it runs on.
    pub platform: Platform,
    /// Its place among the releases of that name; 0 where there is no order among them.
    pub release: u64,
    /// When this was written, to the second.
    pub created: Timestamp,
    /// When it may not be taken into use any more; `None` for never.
    pub expires: Option<Timestamp>,
}

/// A text that is no manifest, or one that can't be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is longer than any manifest.
    #[error("it has {0} bytes, and a manifest has at most {LONGEST_MANIFEST}")]
    TooLong(usize),
    /// It is not UTF-8.
    #[error("it is not text")]
    NoText,
    /// It is not TOML, or has not just the keys of a manifest.
    #[error("it is no manifest: {0}")]
    Malformed(String),
    /// It is of a form that is not known here.
    #[error("it is a manifest of version {0}, and this program knows {VERSION}; upgrade it")]
    TooNew(u32),
    /// A key's value is not one that it can have.
    #[error("its {key} is {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
}

/// A manifest that can't be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnverifiedError {
    /// Its signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It was signed, and is none.
    #[error("the manifest can't be used, though it is signed")]
    Manifest(#[from] ManifestError),
}

/// How it is written. The order of fields is the order in the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Text {
    manifest: u32,
    name: String,
    tag: String,
    digest: String,
    size: u64,
    #[serde(default)]
    release: u64,
    created: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(default)]
    platform: PlatformText,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct PlatformText {
    #[serde(skip_serializing_if = "Option::is_none")]
    os_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    manifest: u32,
}

impl Manifest {
    /// Reads a manifest. That says nothing of who wrote it.
    ///
    /// # Errors
    /// Where it is not one that can be relied on to mean what it says.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() > LONGEST_MANIFEST {
            return Err(ManifestError::TooLong(text.len()));
        }
        let text = std::str::from_utf8(text).map_err(|_| ManifestError::NoText)?;
        let malformed = |e: toml::de::Error| ManifestError::Malformed(one_line(&e.to_string()));
        let Version { manifest } = toml::from_str(text).map_err(malformed)?;
        if manifest != VERSION {
            return Err(ManifestError::TooNew(manifest));
        }
        toml::from_str::<Text>(text).map_err(malformed)?.try_into()
    }

    /// The manifest that one of `keys` signed, and the number of that key.
    ///
    /// # Errors
    /// Where none of them did, or where what they signed is no manifest.
    pub fn verified(
        text: &[u8],
        signature: &str,
        keys: &[PublicKey],
    ) -> Result<(u64, Self), UnverifiedError> {
        let by = Signature::parse(signature)?.verify(text, keys)?;
        Ok((by, Self::parse(text)?))
    }

    /// The text to sign.
    ///
    /// # Errors
    /// Where it would not be read again as the same.
    pub fn to_text(&self) -> Result<String, ManifestError> {
        let malformed = |e: toml::ser::Error| ManifestError::Malformed(e.to_string());
        let text = toml::to_string(&Text::from(self)).map_err(malformed)?;
        match Self::parse(text.as_bytes())? {
            same if same == *self => Ok(text),
            _ => Err(value("time", "not a whole second")),
        }
    }
}

fn value(key: &'static str, problem: &'static str) -> ManifestError {
    ManifestError::Value { key, problem }
}

/// A parser's message without the drawing of the place.
fn one_line(message: &str) -> String {
    let lines = message.lines().filter(|line| !line.contains('|'));
    lines.map(str::trim).collect::<Vec<_>>().join(": ").trim_end_matches([':', ' ']).to_owned()
}

impl TryFrom<Text> for Manifest {
    type Error = ManifestError;

    fn try_from(text: Text) -> Result<Self, ManifestError> {
        let Text { manifest: _, name, tag, digest, size, release, created, expires, platform } =
            text;
        let PlatformText { os_id, os_version, os_name, architecture } = platform;
        check_name("name", &name)?;
        check_name("tag", &tag)?;
        let digest = digest.parse().map_err(|_| value("digest", "not a SHA-256"))?;
        let created = time("created", &created)?;
        let expires = expires.map(|text| time("expires", &text)).transpose()?;
        if expires.is_some_and(|expires| expires <= created) {
            return Err(value("expires", "not after the time at which it was created"));
        }
        let platform = Platform { os_id, os_version, os_name, architecture };
        Ok(Self { name, tag, digest, size, platform, release, created, expires })
    }
}

impl From<&Manifest> for Text {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { name, tag, digest, size, platform, release, created, expires } =
            manifest.clone();
        let Platform { os_id, os_version, os_name, architecture } = platform;
        Self {
            manifest: VERSION,
            name,
            tag,
            digest: digest.to_string(),
            size,
            release,
            created: created.to_string(),
            expires: expires.map(|at| at.to_string()),
            platform: PlatformText { os_id, os_version, os_name, architecture },
        }
    }
}

/// What the names that are allowed elsewhere have in common: nothing that would look like another.
fn check_name(key: &'static str, name: &str) -> Result<(), ManifestError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(good) {
        return Err(value(key, "not a name"));
    }
    Ok(())
}

/// One spelling only: whole seconds, in UTC.
fn time(key: &'static str, text: &str) -> Result<Timestamp, ManifestError> {
    let at = text.parse::<Timestamp>().ok();
    let at = at.filter(|at| at.to_string() == text && at.subsec_nanosecond() == 0);
    let at = at.filter(|at| *at >= Timestamp::UNIX_EPOCH);
    at.ok_or_else(|| value(key, "not a time such as 2026-11-20T09:00:00Z"))
}
