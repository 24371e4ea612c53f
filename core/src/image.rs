//! Images: the digest that names a file for ever, and the tag that points to one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{ImageName, InvalidName, Tag};
use crate::text::as_text;

/// The SHA-256 of a whole image file, as `sha256sum` shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// A text that is not a SHA-256 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest; a digest is the 64 hexadecimal digits that sha256sum shows")]
pub struct InvalidDigest {
    text: String,
}

impl Digest {
    /// The digest's 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for tables.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest { text: text.chars().take(80).collect() };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let bytes = crate::image::hex_decode(hex).ok_or_else(invalid)?;
        Ok(Self(bytes.try_into().map_err(|_| invalid())?))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes from lower-case or upper-case hexadecimal; `None` where the text is something else.
pub(crate) fn hex_decode(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// A movable name for an image, written `name:tag`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// What the image is of.
    pub name: ImageName,
    /// Which one.
    pub tag: Tag,
}

impl FromStr for ImageRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let Some((name, tag)) = text.split_once(':') else {
            return Err(InvalidName {
                kind: "image",
                text: text.chars().take(80).collect(),
                problem: "has no tag; write NAME:TAG, such as belenios:2.5.1".into(),
            });
        };
        Ok(Self { name: name.parse()?, tag: tag.parse()? })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.name, self.tag))
    }
}

/// An image reference resolved to the file that it meant when the revision was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PinnedImage {
    /// The name that the user wrote.
    pub reference: ImageRef,
    /// The file that it stood for.
    pub digest: Digest,
    /// The file's size in bytes.
    pub size: u64,
    /// What was signed of it under that name; `None` where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Box<SignedManifest>>,
}

/// A manifest with its signature, as they were sent; neither says anything before it is verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Texts", into = "Texts")]
pub struct SignedManifest {
    manifest: String,
    signature: String,
}

/// A signed manifest that no host would take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSignedManifest {
    /// The manifest is too long.
    #[error("the manifest has {0} bytes, and at most {LONGEST_MANIFEST} are taken")]
    Manifest(usize),
    /// The signature is too long.
    #[error("the signature has {0} bytes, and at most {LONGEST_SIGNATURE} are taken")]
    Signature(usize),
}

/// Bytes of a manifest.
pub const LONGEST_MANIFEST: usize = 4 << 10;
/// Bytes of a signature.
pub const LONGEST_SIGNATURE: usize = 2 << 10;

impl SignedManifest {
    /// These two texts.
    ///
    /// # Errors
    /// Where one is longer than any that is taken: desired states carry them.
    pub fn new(manifest: String, signature: String) -> Result<Self, InvalidSignedManifest> {
        if manifest.len() > LONGEST_MANIFEST {
            return Err(InvalidSignedManifest::Manifest(manifest.len()));
        }
        if signature.len() > LONGEST_SIGNATURE {
            return Err(InvalidSignedManifest::Signature(signature.len()));
        }
        Ok(Self { manifest, signature })
    }

    /// The very text that was signed.
    #[must_use]
    pub fn manifest(&self) -> &str {
        &self.manifest
    }

    /// The signature, as minisign writes it.
    #[must_use]
    pub fn signature(&self) -> &str {
        &self.signature
    }
}

/// How a signed manifest is written.
#[derive(Serialize, Deserialize)]
struct Texts {
    manifest: String,
    signature: String,
}

impl TryFrom<Texts> for SignedManifest {
    type Error = InvalidSignedManifest;

    fn try_from(Texts { manifest, signature }: Texts) -> Result<Self, InvalidSignedManifest> {
        Self::new(manifest, signature)
    }
}

impl From<SignedManifest> for Texts {
    fn from(SignedManifest { manifest, signature }: SignedManifest) -> Self {
        Self { manifest, signature }
    }
}

/// What an image says that it runs on; parts that it does not say are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `ID` of its os-release.
    pub os_id: Option<String>,
    /// `VERSION_ID` of its os-release.
    pub os_version: Option<String>,
    /// `PRETTY_NAME` of its os-release.
    pub os_name: Option<String>,
    /// The architecture of its programs in systemd's spelling: `x86-64`, `arm64`.
    pub architecture: Option<String>,
}

as_text!(Digest, ImageRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_what_sha256sum_shows() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(format!("sha256:{text}").parse::<Digest>().unwrap(), digest);
        for bad in ["", "e3", &text[1..], &format!("{text}00"), "zz"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_signed_manifest_has_bounds_wherever_it_comes_from() {
        let text = |length: usize| "x".repeat(length);
        let good = SignedManifest::new(text(LONGEST_MANIFEST), text(LONGEST_SIGNATURE)).unwrap();
        let json = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<SignedManifest>(&json).unwrap(), good);
        let long = text(LONGEST_MANIFEST + 1);
        let json = format!("{{\"manifest\":\"{long}\",\"signature\":\"\"}}");
        let error = serde_json::from_str::<SignedManifest>(&json).unwrap_err().to_string();
        assert!(error.contains("4097 bytes"), "{error}");
        assert!(SignedManifest::new(String::new(), text(LONGEST_SIGNATURE + 1)).is_err());
    }

    #[test]
    fn a_reference_needs_name_and_tag() {
        let image: ImageRef = "belenios:2.5.1".parse().unwrap();
        assert_eq!(image.to_string(), "belenios:2.5.1");
        for bad in ["belenios", "belenios:", ":1", "a/b:1", "Bel:1", "a:b:c"] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }
}
