//! Signed manifests: that they are of the image and of the name that they are kept with.
//!
//! Deliberately absent: verifying whose signature it is. Hosts do that, by keys that their own root
//! pins, so that nothing hangs on what is decided here.

use shoal_core::image::{Digest, ImageRef, SignedManifest};
use shoal_image::{Manifest, Signature};
use shoal_proto::v1;

use crate::refusal::Refusal;

/// What was sent, where it is of this image under this name.
pub(super) fn checked(
    signed: Option<v1::SignedManifest>,
    reference: &ImageRef,
    digest: &Digest,
    size: u64,
) -> Result<Option<SignedManifest>, Refusal> {
    let Some(signed) = signed.map(SignedManifest::try_from).transpose()? else { return Ok(None) };
    let invalid =
        |what: &str, why: String| Refusal::Invalid(format!("the {what} of {reference}: {why}"));
    Signature::parse(signed.signature()).map_err(|e| invalid("signature", e.to_string()))?;
    let Manifest { name, tag, digest: of, size: bytes, .. } =
        Manifest::parse(signed.manifest().as_bytes())
            .map_err(|e| invalid("manifest", e.to_string()))?;
    let same_name = name == reference.name.as_str() && tag == reference.tag.as_str();
    if !same_name || of.as_bytes() != digest.as_bytes() || bytes != size {
        let of = Digest::from(*of.as_bytes()).short();
        return Err(Refusal::Invalid(format!(
            "the manifest is of {name}:{tag} ({of}, {bytes} bytes), and the image is {reference} \
             ({}, {size} bytes); sign this image under this name",
            digest.short()
        )));
    }
    Ok(Some(signed))
}

/// What a tag's signed manifest says; `None` where it can't be read.
pub(super) fn view(reference: &str, signed: &v1::SignedManifest) -> Option<v1::ImageSignature> {
    let Manifest { release, created, expires, .. } = Manifest::parse(&signed.manifest).ok()?;
    let millis = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()).unwrap_or(0);
    Some(v1::ImageSignature {
        reference: reference.to_owned(),
        key: format!("{:016X}", Signature::parse(&signed.signature).ok()?.key()),
        release,
        created_ms: millis(created),
        expires_ms: expires.map(millis),
    })
}

/// What the audit log says of an image that got a name.
pub(super) fn detail(digest: &Digest, signed: Option<&v1::SignedManifest>) -> String {
    let signature = signed.and_then(|signed| Signature::parse(&signed.signature).ok());
    match signature {
        Some(signature) => format!("{digest}, signed by key {:016X}", signature.key()),
        None => digest.to_string(),
    }
}
