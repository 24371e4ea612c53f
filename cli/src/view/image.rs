//! Images.

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1;

use super::audit::short_identity;
use crate::output::size::bytes;
use crate::output::table::{Table, details};
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct ImagesView {
    images: Vec<ImageView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ImageView {
    pub(crate) digest: String,
    size_bytes: u64,
    references: Vec<String>,
    os_id: Option<String>,
    os_version: Option<String>,
    os_name: Option<String>,
    architecture: Option<String>,
    compression: String,
    pushed: At,
    pushed_by: String,
    used_by: Vec<String>,
    staged_on: Vec<String>,
    /// Absent where it is not pinned.
    pin: Option<PinView>,
    /// Since when nothing has needed it; absent where something does.
    unneeded: Option<At>,
    signatures: Vec<SignatureView>,
}

/// Who said that an image stays.
#[derive(Debug, Serialize)]
struct PinView {
    by: String,
    at: At,
}

/// What is signed of an image under one of its names, as the manifest says it.
#[derive(Debug, Serialize)]
pub(crate) struct SignatureView {
    reference: String,
    key_id: String,
    release: u64,
    created: At,
    expires: Option<At>,
}

impl From<v1::ImageSignature> for SignatureView {
    fn from(wire: v1::ImageSignature) -> Self {
        let v1::ImageSignature { reference, key, release, created_ms, expires_ms } = wire;
        let (created, expires) = (At::new(created_ms), expires_ms.map(At::new));
        Self { reference, key_id: key, release, created, expires }
    }
}

impl SignatureView {
    fn line(&self) -> String {
        let release = match self.release {
            0 => String::new(),
            release => format!(", release {release}"),
        };
        let expires = self.expires.map_or("does not expire".into(), |at| format!("expires {at}"));
        let Self { reference, key_id, created, .. } = self;
        format!("{reference} by key {key_id}{release}, created {created}, {expires}")
    }
}

impl TryFrom<v1::Image> for ImageView {
    type Error = Invalid;

    fn try_from(wire: v1::Image) -> Result<Self, Invalid> {
        let v1::Image {
            digest: name,
            size,
            references,
            os_id,
            os_version,
            os_name,
            architecture,
            pushed_ms,
            pushed_by,
            compression,
            used_by,
            staged_on,
            pin,
            unneeded_ms,
            signatures,
        } = wire;
        Ok(Self {
            digest: digest("digest", &name)?.to_string(),
            size_bytes: size,
            references,
            os_id,
            os_version,
            os_name,
            architecture,
            compression,
            pushed: At::new(pushed_ms),
            pushed_by,
            used_by,
            staged_on,
            pin: pin.map(|v1::ImagePin { by, at_ms }| PinView { by, at: At::new(at_ms) }),
            unneeded: unneeded_ms.map(At::new),
            signatures: signatures.into_iter().map(SignatureView::from).collect(),
        })
    }
}

impl ImagesView {
    pub(crate) fn read(images: Vec<v1::Image>) -> Result<Self, Invalid> {
        let images: Result<_, _> = images.into_iter().map(ImageView::try_from).collect();
        Ok(Self { images: images? })
    }

    /// One row for each name; an image without one has a row all the same.
    pub(crate) fn table(&self, now: Timestamp, color: bool) -> String {
        let header =
            &["IMAGE", "DIGEST", "SIZE", "OS", "ARCH", "PUSHED", "SIGNED", "HOSTS", "USED BY"];
        let mut table = Table::new(header);
        for image in &self.images {
            let names = if image.references.is_empty() {
                vec!["<untagged>"]
            } else {
                image.references.iter().map(String::as_str).collect()
            };
            let pinned = if image.pin.is_some() { " (pinned)" } else { "" };
            for name in names {
                table.row(vec![
                    format!("{name}{pinned}").into(),
                    image.short().into(),
                    bytes(image.size_bytes).into(),
                    image.os().into(),
                    image.architecture.clone().unwrap_or_default().into(),
                    image.pushed.ago(now).into(),
                    image.signer(name).into(),
                    image.staged_on.len().into(),
                    image.used_by.len().into(),
                ]);
            }
        }
        table.render(color, "No images. `shoal image push FILE NAME:TAG` sends one.")
    }
}

impl ImageView {
    /// The first 12 digits of the digest.
    pub(crate) fn short(&self) -> &str {
        self.digest.get(..12).unwrap_or(&self.digest)
    }

    /// The first digits of the number of the key that signed it under `name`; nothing where none
    /// did.
    fn signer(&self, name: &str) -> String {
        let signature = self.signatures.iter().find(|signature| signature.reference == name);
        signature.map(|signature| signature.key_id.chars().take(8).collect()).unwrap_or_default()
    }

    fn os(&self) -> String {
        match (&self.os_id, &self.os_version) {
            (Some(id), Some(version)) => format!("{id} {version}"),
            (Some(id), None) => id.clone(),
            (None, _) => String::new(),
        }
    }

    pub(crate) fn details(&self, now: Timestamp) -> String {
        let pushed = format!(
            "{} ({}) by {}",
            self.pushed,
            self.pushed.ago(now),
            short_identity(&self.pushed_by)
        );
        let when = |at: At| format!("{at} ({})", at.ago(now));
        let pin = self.pin.as_ref();
        let pin = pin.map(|pin| format!("by {} at {}", short_identity(&pin.by), when(pin.at)));
        let mut fields = vec![
            ("Digest", self.digest.clone()),
            ("Names", self.references.join("\n")),
            ("Size", format!("{} ({} bytes)", bytes(self.size_bytes), self.size_bytes)),
            ("OS", self.os_name.clone().unwrap_or_else(|| self.os())),
            ("Architecture", self.architecture.clone().unwrap_or_default()),
            ("Compression", self.compression.clone()),
            ("Pushed", pushed),
            (
                "Signed",
                self.signatures.iter().map(SignatureView::line).collect::<Vec<_>>().join("\n"),
            ),
            ("Staged on", self.staged_on.join("\n")),
            ("Used by", self.used_by.join("\n")),
        ];
        fields.extend(pin.map(|pin| ("Pinned", pin)));
        fields.extend(self.unneeded.map(|at| ("Unneeded", format!("since {}", when(at)))));
        details(&fields)
    }
}
