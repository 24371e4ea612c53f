//! Images with all that is known of them: tags, users, the hosts that have them.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::image::Digest;
use shoal_core::name::{HostId, HostName, InstanceId};
use shoal_proto::convert;
use shoal_proto::v1::store::{ImageRecord, TagRecord};
use shoal_proto::v1::{Image, ImageSignature};

use super::name::unknown;
use super::signed;
use crate::fleets_api::world::record_digest;
use crate::inventory;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::store::{Records, Stored};

/// Everything about all images, as it was at one moment or nearly.
#[derive(Debug)]
pub(super) struct Views {
    images: Vec<Stored<ImageRecord>>,
    references: BTreeMap<Digest, Vec<String>>,
    signatures: BTreeMap<Digest, Vec<ImageSignature>>,
    users: BTreeMap<Digest, Vec<inventory::User>>,
    names: BTreeMap<HostId, HostName>,
    staged: BTreeMap<Digest, BTreeSet<String>>,
}

impl Views {
    pub(super) async fn load(records: &Records, live: &Live) -> Result<Self, Refusal> {
        let names = inventory::host_names(records).await?;
        let (references, signatures) = references(records).await?;
        Ok(Self {
            images: records.list::<ImageRecord>().await?.records,
            references,
            signatures,
            users: inventory::image_users(records).await?,
            staged: staged(live, &names),
            names,
        })
    }

    /// Every image: tagged ones by their first tag, then those without by digest.
    pub(super) fn all(&self) -> Result<Vec<Image>, Refusal> {
        let views = self.images.iter().map(|stored| self.view(stored));
        let mut images = views.collect::<Result<Vec<_>, _>>()?;
        let key = |image: &Image| {
            let first = image.references.first().cloned();
            (first.is_none(), first, image.digest.clone())
        };
        images.sort_by_key(key);
        Ok(images)
    }

    pub(super) fn image(&self, digest: &Digest) -> Result<Image, Refusal> {
        let id = digest.to_string();
        let stored = self.images.iter().find(|stored| stored.id == id);
        self.view(stored.ok_or_else(|| unknown(&digest.short()))?)
    }

    fn view(&self, stored: &Stored<ImageRecord>) -> Result<Image, Refusal> {
        let digest = record_digest(stored)?;
        let ImageRecord {
            digest: bytes,
            size,
            os_id,
            os_version,
            os_name,
            architecture,
            pushed_ms,
            pushed_by,
            compression,
            pin,
            unneeded_ms,
        } = stored.record.clone();
        let users = self.users.get(&digest).into_iter().flatten();
        let users: BTreeSet<String> = users.map(|(id, host)| user(id, host, &self.names)).collect();
        let staged = self.staged.get(&digest).into_iter().flatten();
        Ok(Image {
            digest: bytes,
            size,
            references: self.references.get(&digest).cloned().unwrap_or_default(),
            os_id,
            os_version,
            os_name,
            architecture,
            pushed_ms,
            pushed_by,
            compression,
            used_by: users.into_iter().collect(),
            staged_on: staged.cloned().collect(),
            pin,
            unneeded_ms,
            signatures: self.signatures.get(&digest).cloned().unwrap_or_default(),
        })
    }
}

/// A user of an image, for people: `FLEET/INSTANCE@HOST`.
pub(super) fn user(id: &InstanceId, host: &HostId, names: &BTreeMap<HostId, HostName>) -> String {
    // A host that was removed has only its id left.
    let name = names.get(host).map_or(host.as_str(), HostName::as_str);
    format!("{id}@{name}")
}

pub(super) type References = BTreeMap<Digest, Vec<String>>;
pub(super) type Signatures = BTreeMap<Digest, Vec<ImageSignature>>;

/// The tags of each image, `NAME:TAG`, ordered, and what is signed of it under them.
pub(super) async fn references(records: &Records) -> Result<(References, Signatures), Refusal> {
    let (mut references, mut signatures) = (References::new(), Signatures::new());
    for tag in records.list::<TagRecord>().await?.records {
        let damaged = |problem: &str| inventory::damaged::<TagRecord>(&tag.id, problem);
        let digest = convert::digest("digest", &tag.record.digest)
            .map_err(|error| damaged(&error.to_string()))?;
        let (name, of) = tag.id.split_once('/').ok_or_else(|| damaged("its key has no tag"))?;
        let reference = format!("{name}:{of}");
        let signature = tag.record.signed.as_ref().and_then(|it| signed::view(&reference, it));
        signatures.entry(digest).or_default().extend(signature);
        references.entry(digest).or_default().push(reference);
    }
    Ok((references, signatures))
}

fn staged(live: &Live, names: &BTreeMap<HostId, HostName>) -> BTreeMap<Digest, BTreeSet<String>> {
    let mut staged: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    for (host, name) in names {
        let Some(status) = live.status(host) else { continue };
        for digest in &status.images {
            staged.entry(*digest).or_default().insert(name.to_string());
        }
    }
    staged
}
