//! What a prune removed, or would.

use serde::Serialize;
use shoal_core::time::Timestamp;
use shoal_proto::convert::{Invalid, digest};
use shoal_proto::v1;

use crate::output::size::bytes;
use crate::output::table::Table;
use crate::output::time::At;

#[derive(Debug, Serialize)]
pub(crate) struct PrunedView {
    /// Whether nothing was removed.
    dry_run: bool,
    images: Vec<PrunedImageView>,
    /// That came free on the controller's disk, or would.
    freed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct PrunedImageView {
    digest: String,
    size_bytes: u64,
    /// Its tags, which go with it.
    references: Vec<String>,
    /// Whether only the beginning of a push was there.
    partial: bool,
    unneeded: At,
}

impl PrunedView {
    pub(crate) fn read(wire: v1::PruneImagesResponse, dry_run: bool) -> Result<Self, Invalid> {
        let v1::PruneImagesResponse { images, bytes } = wire;
        let images = images.into_iter().map(PrunedImageView::try_from);
        Ok(Self { dry_run, images: images.collect::<Result<_, _>>()?, freed_bytes: bytes })
    }

    pub(crate) fn text(&self, now: Timestamp, color: bool) -> String {
        if self.images.is_empty() {
            return "Nothing to prune: every image is needed, or was lately.".to_owned();
        }
        let mut table = Table::new(&["IMAGE", "DIGEST", "SIZE", "UNNEEDED FOR"]);
        for image in &self.images {
            let name = match (image.partial, image.references.as_slice()) {
                (true, _) => "<broken-off push>".to_owned(),
                (false, []) => "<untagged>".to_owned(),
                (false, references) => references.join(", "),
            };
            let ago = image.unneeded.ago(now);
            table.row(vec![
                name.into(),
                image.digest.get(..12).unwrap_or(&image.digest).into(),
                bytes(image.size_bytes).into(),
                ago.trim_end_matches(" ago").into(),
            ]);
        }
        let size = bytes(self.freed_bytes);
        let end = match self.dry_run {
            true => format!("{size} would come free; without --dry-run they go"),
            false => format!("{size} came free"),
        };
        format!("{}\n\n{end}", table.render(color, "").trim_end())
    }
}

impl TryFrom<v1::PrunedImage> for PrunedImageView {
    type Error = Invalid;

    fn try_from(wire: v1::PrunedImage) -> Result<Self, Invalid> {
        let v1::PrunedImage { digest: name, size, references, partial, unneeded_ms } = wire;
        Ok(Self {
            digest: digest("digest", &name)?.to_string(),
            size_bytes: size,
            references,
            partial,
            unneeded: At::new(unneeded_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_is_a_table_with_its_sum() {
        let image = |number: u8, references: &[&str], partial| v1::PrunedImage {
            digest: vec![number; 32].into(),
            size: u64::from(number) << 20,
            references: references.iter().map(ToString::to_string).collect(),
            partial,
            unneeded_ms: 5_000,
        };
        let images =
            vec![image(1, &[], false), image(2, &["app:1", "app:2"], false), image(3, &[], true)];
        let wire = v1::PruneImagesResponse { images, bytes: 6 << 20 };
        let now = Timestamp(9 * 86_400_000);
        let text = |dry_run| PrunedView::read(wire.clone(), dry_run).unwrap().text(now, false);
        insta::assert_snapshot!(text(true), @r"
        IMAGE               DIGEST         SIZE      UNNEEDED FOR
        <untagged>          010101010101   1.0 MiB   8d
        app:1, app:2        020202020202   2.0 MiB   8d
        <broken-off push>   030303030303   3.0 MiB   8d

        6.0 MiB would come free; without --dry-run they go
        ");
        assert!(text(false).ends_with("6.0 MiB came free"));
        let none = PrunedView::read(v1::PruneImagesResponse::default(), true).unwrap();
        assert!(none.text(now, false).starts_with("Nothing to prune"));
    }
}
