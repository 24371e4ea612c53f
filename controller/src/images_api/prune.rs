//! Removing images that nothing needs any more, when someone asks and by itself.
//!
//! An image is needed while it has a tag or a pin, a host has it, keeps it or is to have it, or one
//! of the revisions names it that a fleet may go back to. Since when none of that is so is noted in
//! its record, by the task that looks once an hour ([`run`]). What goes is decided in
//! `shoal_core::gc`, as on hosts.
//!
//! Nothing goes that has come to be needed meanwhile: whatever comes to need an image touches its
//! record or has done so, and a push holds its claim.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_core::gc::{self, File, Kind, Limits, Room};
use shoal_core::image::Digest;
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1::store::{FleetRecord, ImageRecord, RevisionRecord, TagRecord};
use shoal_proto::v1::{PruneImagesRequest, PruneImagesResponse, PrunedImage};

use super::Images;
use super::view::references;
use crate::app::App;
use crate::blobs::{BlobError, BrokenOff};
use crate::fleets_api::revision::Revision;
use crate::fleets_api::world::{record_digest, tag_id};
use crate::live::Live;
use crate::records::revision_id;
use crate::refusal::Refusal;
use crate::store::{Batch, CommitError, Records, Stored};
use crate::{audit, clock, inventory};

/// How long something that nothing needs stays, where nobody says: as long as on hosts.
const KEPT: Duration = Limits::HOST.keep;
/// Revisions of each fleet, up to the newest, whose images stay.
const REVISIONS: u64 = 5;
/// How often is looked what is needed.
const EVERY: Duration = Duration::from_secs(3600);
/// From the controller's start to the first look: others want the store then.
const FIRST: Duration = Duration::from_secs(60);

/// What of images may go.
#[derive(Debug, Clone, Copy)]
struct Asked {
    older_than: Duration,
    /// Also images that have tags, by the time of their push.
    tagged: bool,
}

/// An image that has a record, and nothing that needs it.
#[derive(Debug)]
struct Unneeded {
    image: Stored<ImageRecord>,
    tags: Vec<String>,
    since: Timestamp,
}

/// Notes what is needed, and removes what nothing has needed for as long as the configuration says,
/// until the controller shuts down. Run once, in a task of its own.
pub async fn run(app: Arc<App>) {
    let images = Images::new(&app);
    let who = format!("spiffe://{}/controller/{}", app.authority.trust_domain(), app.config.id);
    let mut pause = FIRST;
    while app.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = EVERY;
        if let Err(refusal) = images.look_after(app.config.images.kept(), &who, clock::now()).await
        {
            tracing::error!(error = %refusal, "cannot prune images; will try again");
        }
    }
}

impl Images {
    /// One look of [`run`]. `kept` is `None` where nothing is to go by itself.
    pub(super) async fn look_after(
        &self,
        kept: Option<Duration>,
        who: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        note(&self.records, &self.live, now).await?;
        let Some(older_than) = kept else { return Ok(()) };
        let gone = self.prune_all(Asked { older_than, tagged: false }, false, who, now).await?;
        for PrunedImage { digest, size, .. } in gone {
            let digest = convert::digest("digest", &digest)?;
            tracing::info!(%digest, size, "pruned an image");
        }
        Ok(())
    }

    pub(crate) async fn prune(
        &self,
        request: PruneImagesRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<PruneImagesResponse, Refusal> {
        let PruneImagesRequest { older_than_ms, tagged, dry_run } = request;
        let older_than = older_than_ms.map_or(KEPT, Duration::from_millis);
        let images = self.prune_all(Asked { older_than, tagged }, dry_run, who, now).await?;
        let bytes = images.iter().fold(0_u64, |sum, image| sum.saturating_add(image.size));
        Ok(PruneImagesResponse { images, bytes })
    }

    /// Bytes that could go, were someone to prune.
    pub(super) async fn prunable(&self, now: Timestamp) -> Result<u64, Refusal> {
        let asked = Asked { older_than: Duration::ZERO, tagged: false };
        let images = self.prune_all(asked, true, "", now).await?;
        Ok(images.iter().fold(0, |sum, image| sum.saturating_add(image.size)))
    }

    async fn prune_all(
        &self,
        asked: Asked,
        dry_run: bool,
        who: &str,
        now: Timestamp,
    ) -> Result<Vec<PrunedImage>, Refusal> {
        let unneeded = unneeded(&self.records, &self.live, asked.tagged, now).await?;
        let broken_off = self.blobs.broken_off().await?;
        let mut gone = Vec::new();
        for removal in
            gc::plan(&files(&unneeded, &broken_off), &Room::default(), &asked.limits(), now)
        {
            let image = unneeded.get(&removal.digest).filter(|_| removal.kind == Kind::Whole);
            let done = match image {
                _ if dry_run => true,
                Some(image) => self.prune_image(&removal.digest, image, who, now).await?,
                None => self.blobs.discard(&removal.digest).await?,
            };
            if done {
                gone.push(pruned(&removal, image, now));
            }
        }
        Ok(gone)
    }

    /// Removes an image; `false` where someone has come to need it.
    async fn prune_image(
        &self,
        digest: &Digest,
        unneeded: &Unneeded,
        who: &str,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let claim = match self.blobs.claim(digest) {
            Ok(claim) => claim,
            Err(BlobError::Claimed { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut batch = Batch::new();
        batch.remove(&unneeded.image)?;
        for tag in &unneeded.tags {
            let id = tag_id(&convert::parse("tag", tag)?);
            let Some(stored) = self.records.get::<TagRecord>(&id).await? else { return Ok(false) };
            if record_digest(&unneeded.image)? != convert::digest("digest", &stored.record.digest)?
            {
                return Ok(false);
            }
            batch.remove(&stored)?;
        }
        let detail = format!("{} bytes, {}", unneeded.image.record.size, named(&unneeded.tags));
        let (entry, record) = audit::entry(&who, "Images/Prune", &digest.to_string(), &detail, now);
        batch.create(&entry, &record)?;
        match self.records.commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        // The record went first: a file without one is nobody's, and goes at the next start.
        self.blobs.remove(&claim).await?;
        self.transfers.forget(*digest).await;
        Ok(true)
    }
}

impl Asked {
    fn limits(self) -> Limits {
        Limits { keep: self.older_than, partial: self.older_than, newest: 0 }
    }
}

fn named(tags: &[String]) -> String {
    if tags.is_empty() { "without a tag".to_owned() } else { tags.join(", ") }
}

fn pruned(removal: &gc::Removal, image: Option<&Unneeded>, now: Timestamp) -> PrunedImage {
    let (gc::Reason::Old(unneeded) | gc::Reason::Room(unneeded)) = removal.reason;
    let age = u64::try_from(unneeded.as_millis()).unwrap_or(u64::MAX);
    PrunedImage {
        digest: convert::digest_bytes(&removal.digest),
        size: removal.size,
        references: image.map(|image| image.tags.clone()).unwrap_or_default(),
        partial: removal.kind == Kind::Partial,
        unneeded_ms: now.0.saturating_sub(age),
    }
}

/// What may go, as the plan wants it. Whoever is pushing an image has its claim.
fn files(unneeded: &BTreeMap<Digest, Unneeded>, broken_off: &[BrokenOff]) -> Vec<File> {
    let whole = unneeded.iter().map(|(digest, image)| File {
        digest: *digest,
        kind: Kind::Whole,
        size: image.image.record.size,
        name: None,
        needed: image.since,
        held: false,
    });
    let partial = broken_off.iter().map(|partial| File {
        digest: partial.digest,
        kind: Kind::Partial,
        size: partial.bytes,
        name: None,
        needed: partial.written,
        held: false,
    });
    whole.chain(partial).collect()
}

/// The images that nothing needs. Their records are read before all that could need them.
async fn unneeded(
    records: &Records,
    live: &Live,
    tagged: bool,
    now: Timestamp,
) -> Result<BTreeMap<Digest, Unneeded>, Refusal> {
    let images = records.list::<ImageRecord>().await?.records;
    let (mut references, _) = references(records).await?;
    let needed = needed(records, live).await?;
    let mut found = BTreeMap::new();
    for image in images {
        let digest = record_digest(&image)?;
        let tags = references.remove(&digest).unwrap_or_default();
        let stays = image.record.pin.is_some() || needed.contains(&digest);
        if stays || !(tags.is_empty() || tagged) {
            continue;
        }
        // Nobody notes since when one that has a tag is not needed otherwise.
        let pushed = Timestamp(image.record.pushed_ms);
        let noted = image.record.unneeded_ms.map_or(now, Timestamp);
        let since = if tags.is_empty() { noted.max(pushed) } else { pushed };
        found.insert(digest, Unneeded { image, tags, since });
    }
    Ok(found)
}

/// Notes in each image's record since when nothing needs it. A record that someone changes at this
/// moment is left for the next look.
async fn note(records: &Records, live: &Live, now: Timestamp) -> Result<(), Refusal> {
    let images = records.list::<ImageRecord>().await?.records;
    let (references, _) = references(records).await?;
    let needed = needed(records, live).await?;
    for image in images {
        let digest = record_digest(&image)?;
        let stays = image.record.pin.is_some() || needed.contains(&digest);
        let unneeded = !stays && !references.contains_key(&digest);
        if unneeded == image.record.unneeded_ms.is_some() {
            continue;
        }
        let unneeded_ms = unneeded.then_some(now.0);
        let mut batch = Batch::new();
        batch.replace(&image, &ImageRecord { unneeded_ms, ..image.record.clone() })?;
        match records.commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The images that hosts have or are to have, and that fleets may go back to. The fleets are read
/// first; see [`inventory::image_users`].
async fn needed(records: &Records, live: &Live) -> Result<BTreeSet<Digest>, Refusal> {
    let mut needed = BTreeSet::new();
    for fleet in records.list::<FleetRecord>().await?.records {
        let newest = fleet.record.revision;
        let rollout = inventory::rollout(records, &revision_id(&fleet.id, newest)).await?;
        let mut numbers: BTreeSet<u64> = (newest.saturating_sub(REVISIONS - 1)..=newest).collect();
        numbers.extend(rollout.back_to);
        for number in numbers {
            let id = revision_id(&fleet.id, number);
            let Some(stored) = records.get::<RevisionRecord>(&id).await? else { continue };
            let revision = Revision::try_from(stored.record)
                .map_err(|error| inventory::damaged::<RevisionRecord>(&id, &error.to_string()))?;
            let configs = revision.hosts.values().flat_map(BTreeMap::values);
            needed.extend(configs.map(|config| config.image.digest));
        }
    }
    for spec in inventory::specs(records).await?.into_values() {
        needed.extend(spec.instances.iter().map(|instance| instance.config.image.digest));
        needed.extend(spec.stage.iter().map(|image| image.digest));
        needed.extend(spec.keep.iter().flat_map(|keep| &keep.images));
    }
    for host in inventory::host_names(records).await?.keys() {
        needed.extend(live.status(host).iter().flat_map(|status| &status.images));
    }
    Ok(needed)
}
