//! Taking a tag or an image away, unless that would take it from someone.

use std::collections::BTreeSet;

use shoal_core::image::Digest;
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1::store::TagRecord;
use shoal_proto::v1::{RemoveImageRequest, RemoveImageResponse};

use super::name::Found;
use super::pin::check_unpinned;
use super::{ATTEMPTS, Images, contended};
use crate::fleets_api::world::record_digest;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Stored};
use crate::{audit, inventory};

/// How many users of an image a refusal names.
const NAMED_USERS: usize = 5;

/// What is to go.
enum Going {
    /// One of several tags.
    Tag(Stored<TagRecord>),
    /// The image with all its tags.
    Image(Vec<Stored<TagRecord>>),
}

impl Images {
    pub(crate) async fn remove(
        &self,
        request: RemoveImageRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<RemoveImageResponse, Refusal> {
        let RemoveImageRequest { name } = request;
        for _ in 0..ATTEMPTS {
            let found = self.find(&name).await?;
            let digest = record_digest(&found.image)?;
            // Nobody pushes it while it goes.
            let claim = self.blobs.claim(&digest)?;
            let going = self.going(&found, &digest).await?;
            let file_removed = matches!(going, Going::Image(_));
            if file_removed {
                check_unpinned(&found.image)?;
                self.check_unused(&digest).await?;
                self.check_unstaged(&digest).await?;
            }
            let batch = batch(&found, going, &name, who, now)?;
            match self.records.commit(batch).await {
                Ok(_) => {}
                Err(CommitError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            // The record went first: a file without one is nobody's, and goes at the next start.
            if file_removed {
                self.blobs.remove(&claim).await?;
                self.transfers.forget(digest).await;
            }
            return Ok(RemoveImageResponse { file_removed });
        }
        Err(contended())
    }

    async fn going(&self, found: &Found, digest: &Digest) -> Result<Going, Refusal> {
        let bytes = convert::digest_bytes(digest);
        let mut tags = self.records.list::<TagRecord>().await?.records;
        tags.retain(|tag| tag.record.digest == bytes);
        Ok(match &found.tag {
            Some(tag) if tags.iter().any(|other| other.id != tag.id) => Going::Tag(tag.clone()),
            _ => Going::Image(tags),
        })
    }

    /// The image's record has been read before this, so that a use which comes later fails the
    /// removal; see [`inventory::image_users`].
    async fn check_unused(&self, digest: &Digest) -> Result<(), Refusal> {
        let users = inventory::image_users(&self.records).await?;
        let Some(users) = users.get(digest) else { return Ok(()) };
        let names = inventory::host_names(&self.records).await?;
        let users: BTreeSet<String> =
            users.iter().map(|(id, host)| super::view::user(id, host, &names)).collect();
        Err(Refusal::Precondition(in_use(digest, &users)))
    }
}

fn in_use(digest: &Digest, users: &BTreeSet<String>) -> String {
    let named: Vec<&str> = users.iter().take(NAMED_USERS).map(String::as_str).collect();
    let more = match users.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "image {} is in use by {}{more}; apply fleets without it first",
        digest.short(),
        named.join(", ")
    )
}

fn batch(
    found: &Found,
    going: Going,
    name: &str,
    who: &str,
    now: Timestamp,
) -> Result<Batch, Refusal> {
    let mut batch = Batch::new();
    let detail = match going {
        Going::Tag(tag) => {
            batch.remove(&tag)?;
            format!("tag only, of {}", found.image.id)
        }
        Going::Image(tags) => {
            batch.remove(&found.image)?;
            for tag in &tags {
                batch.remove(tag)?;
            }
            format!("image {} with {} tags", found.image.id, tags.len())
        }
    };
    let (entry, record) = audit::entry(&who, "Images/Remove", name, &detail, now);
    batch.create(&entry, &record)?;
    Ok(batch)
}
