//! Which image a text means: `NAME:TAG`, a digest, or the first digits of one.

use shoal_core::image::{Digest, ImageRef};
use shoal_proto::convert;
use shoal_proto::v1::store::{ImageRecord, TagRecord};

use super::Images;
use crate::fleets_api::world::tag_id;
use crate::inventory;
use crate::refusal::Refusal;
use crate::store::Stored;

/// The fewest digits that may stand for a digest.
const FEWEST_DIGITS: usize = 6;

/// An image, and the tag that it was named by, where it was.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) image: Stored<ImageRecord>,
    pub(super) tag: Option<Stored<TagRecord>>,
}

/// What a text can be.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Reference(ImageRef),
    Digits(String),
}

impl Images {
    /// The image that `text` means.
    pub(super) async fn find(&self, text: &str) -> Result<Found, Refusal> {
        match parse(text)? {
            Name::Reference(reference) => self.by_reference(&reference).await,
            Name::Digits(digits) => Ok(Found { image: self.by_digits(&digits).await?, tag: None }),
        }
    }

    async fn by_reference(&self, reference: &ImageRef) -> Result<Found, Refusal> {
        let id = tag_id(reference);
        let tag = self.records.get::<TagRecord>(&id).await?;
        let tag = tag.ok_or_else(|| unknown(&reference.to_string()))?;
        let digest: Digest = convert::digest("digest", &tag.record.digest)
            .map_err(|error| inventory::damaged::<TagRecord>(&id, &error.to_string()))?;
        let image = self.records.get::<ImageRecord>(&digest.to_string()).await?;
        let image = image.ok_or_else(|| {
            inventory::damaged::<TagRecord>(&id, "it points to an image that is not there")
        })?;
        Ok(Found { image, tag: Some(tag) })
    }

    async fn by_digits(&self, digits: &str) -> Result<Stored<ImageRecord>, Refusal> {
        let images = self.records.list::<ImageRecord>().await?.records;
        let mut found = images.into_iter().filter(|image| image.id.starts_with(digits));
        let first = found.next().ok_or_else(|| unknown(digits))?;
        match found.count() {
            0 => Ok(first),
            more => Err(Refusal::Invalid(format!(
                "{} images have digests that start with {digits}; write more digits",
                more + 1
            ))),
        }
    }
}

/// There is no such image.
pub(super) fn unknown(name: &str) -> Refusal {
    Refusal::NotFound(format!("there is no image {name}; `shoal image list` shows all"))
}

fn parse(text: &str) -> Result<Name, Refusal> {
    let invalid = |problem: String| Refusal::Invalid(problem);
    let digits = text.strip_prefix("sha256:");
    if digits.is_none() && text.contains(':') {
        let reference = text.parse::<ImageRef>().map_err(|error| invalid(error.to_string()))?;
        return Ok(Name::Reference(reference));
    }
    let digits = digits.unwrap_or(text).to_ascii_lowercase();
    let is_digest = digits.len() <= 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_digest || digits.is_empty() {
        let text: String = text.chars().take(80).collect();
        return Err(invalid(format!(
            "{text:?} is not an image; write NAME:TAG, or the digest as `shoal image list` shows it"
        )));
    }
    if digits.len() < FEWEST_DIGITS {
        return Err(invalid(format!(
            "{digits:?} is too short for a digest; write at least {FEWEST_DIGITS} digits of it"
        )));
    }
    Ok(Name::Digits(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_reference_or_digits() {
        assert_eq!(parse("app:1").unwrap(), Name::Reference("app:1".parse().unwrap()));
        assert_eq!(parse("ABCDEF").unwrap(), Name::Digits("abcdef".into()));
        assert_eq!(parse("sha256:abcdef").unwrap(), Name::Digits("abcdef".into()));
        for (bad, wanted) in [
            ("", "write NAME:TAG"),
            ("app", "write NAME:TAG"),
            ("abc", "at least 6 digits"),
            ("a/b:1", "contains '/'"),
            (&"a".repeat(65), "write NAME:TAG"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(wanted), "{bad}: {error}");
        }
    }
}
