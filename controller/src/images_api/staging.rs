//! Images that people have hosts fetch ahead of their use.
//!
//! That someone asked for it is a record for each image and host, written in one transaction with
//! the host's desired state, which lists the image in `stage`. It ends by itself where a revision
//! that uses the image has come to the host, or its time is over; [`keep`] sees to that, and to
//! desired states that lost what a record asks for. What no record and no rollout asks for any more
//! leaves the desired states as what rollouts staged for nothing does.
//!
//! Deliberately absent: the transfers; agents begin them by themselves.

mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_core::host::HostSpec;
use shoal_core::image::{Digest, ImageRef, PinnedImage, SignedManifest};
use shoal_core::label::Selector;
use shoal_core::time::Timestamp;
use shoal_proto::convert;
use shoal_proto::v1::store::{HostRecord, HostSpecRecord, ImageRecord, StagedRecord};
use shoal_proto::v1::{
    self, ListStagedRequest, ListStagedResponse, StageImageRequest, StageImageResponse,
    UnstageImageRequest, UnstageImageResponse,
};
use tokio_util::sync::CancellationToken;

use super::{ATTEMPTS, Images, contended, name};
use crate::fleets_api::world::record_digest;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::rollout_driver::remove_leftovers;
use crate::store::{Batch, CommitError, Records, Stored};
use crate::{audit, clock, hosts_api, inventory};

/// How long an image that is not used stays, where nothing else is said.
const USUAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The shortest and the longest that can be asked for.
const BOUNDS: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(365 * 24 * 3600));

/// How often is looked for what has ended.
const LOOK: Duration = Duration::from_secs(5);

/// What someone asks for.
struct Wish<'a> {
    image: PinnedImage,
    who: &'a str,
    now: Timestamp,
    until: Timestamp,
}

impl Images {
    pub(crate) async fn stage(
        &self,
        request: StageImageRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<StageImageResponse, Refusal> {
        let StageImageRequest { name, hosts, selector, keep_ms } = request;
        let until = now.after(duration(keep_ms)?);
        let reference: ImageRef = convert::parse("name", &name)?;
        let found = self.find(&name).await?;
        let digest = record_digest(&found.image)?;
        let signed = found.tag.and_then(|tag| tag.record.signed);
        let signed = signed_of(&name, signed)?;
        let image = PinnedImage { reference, digest, size: found.image.record.size, signed };
        let wish = Wish { image, who, now, until };
        let hosts = chosen(&self.records, &hosts, &selector).await?;
        for host in &hosts {
            self.stage_on(host, &wish).await?;
        }
        let ids: BTreeSet<&str> = hosts.iter().map(|host| host.id.as_str()).collect();
        let staged = view::of_hosts(&self.records, &self.live, &wish.image, &ids).await?;
        Ok(StageImageResponse { staged })
    }

    /// Has one host fetch an image. One that uses it already has it.
    async fn stage_on(&self, host: &Stored<HostRecord>, wish: &Wish<'_>) -> Result<(), Refusal> {
        for _ in 0..ATTEMPTS {
            match self.try_stage(host, wish).await {
                Err(Refusal::Conflict(_)) => {}
                outcome => return outcome,
            }
        }
        Err(contended())
    }

    async fn try_stage(&self, host: &Stored<HostRecord>, wish: &Wish<'_>) -> Result<(), Refusal> {
        let digest = wish.image.digest;
        let image = self.records.get::<ImageRecord>(&digest.to_string()).await?;
        let image = image.ok_or_else(|| name::unknown(&wish.image.reference.to_string()))?;
        let stored = self.records.get::<HostSpecRecord>(&host.id).await?;
        let before = stored.as_ref().map(inventory::spec).transpose()?.unwrap_or_default();
        if uses(&before, &digest) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.exists::<HostRecord>(&host.id)?;
        // Whoever is removing the image at this moment fails.
        batch.replace(&image, &image.record)?;
        let after = with(&before, &wish.image, seen(&self.live, &host.id));
        put_spec(&mut batch, &host.id, stored.as_ref(), after)?;
        let id = record_id(&digest, &host.id);
        let record = StagedRecord {
            reference: wish.image.reference.to_string(),
            digest: convert::digest_bytes(&digest),
            size: wish.image.size,
            by: wish.who.to_owned(),
            since_ms: wish.now.0,
            until_ms: wish.until.0,
            signed: wish.image.signed.clone().map(|signed| (*signed).into()),
        };
        match self.records.get::<StagedRecord>(&id).await? {
            Some(known) => {
                let since_ms = known.record.since_ms;
                batch.replace(&known, &StagedRecord { since_ms, ..record })?
            }
            None => batch.create(&id, &record)?,
        };
        let target = wish.image.reference.to_string();
        let detail = format!("on {}", host.record.name);
        let (entry, audited) = audit::entry(&wish.who, "Images/Stage", &target, &detail, wish.now);
        batch.create(&entry, &audited)?;
        commit(&self.records, batch).await
    }

    pub(crate) async fn unstage(
        &self,
        request: UnstageImageRequest,
        who: &str,
        now: Timestamp,
    ) -> Result<UnstageImageResponse, Refusal> {
        let UnstageImageRequest { name, hosts, selector } = request;
        let digest = record_digest(&self.find(&name).await?.image)?;
        let chosen = chosen(&self.records, &hosts, &selector).await?;
        let mut taken_back = Vec::new();
        for host in chosen {
            let id = record_id(&digest, &host.id);
            let Some(record) = self.records.get::<StagedRecord>(&id).await? else { continue };
            let mut batch = Batch::new();
            batch.remove(&record)?;
            let target = record.record.reference.clone();
            let detail = format!("on {}", host.record.name);
            let (entry, audited) = audit::entry(&who, "Images/Unstage", &target, &detail, now);
            batch.create(&entry, &audited)?;
            match commit(&self.records, batch).await {
                Ok(()) => taken_back.push(host.record.name),
                // It ended by itself, or was asked for again, at this moment.
                Err(Refusal::Conflict(_)) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        remove_leftovers(&self.records, &self.live).await?;
        taken_back.sort();
        Ok(UnstageImageResponse { hosts: taken_back })
    }

    pub(crate) async fn list_staged(
        &self,
        request: ListStagedRequest,
    ) -> Result<ListStagedResponse, Refusal> {
        let ListStagedRequest { name } = request;
        let under = match name.as_str() {
            "" => String::new(),
            name => format!("{}/", record_digest(&self.find(name).await?.image)?),
        };
        let staged = view::under(&self.records, &self.live, &under).await?;
        Ok(ListStagedResponse { staged })
    }

    /// That nobody asked hosts to have the image.
    pub(super) async fn check_unstaged(&self, digest: &Digest) -> Result<(), Refusal> {
        let staged = self.records.list_under::<StagedRecord>(&format!("{digest}/")).await?.records;
        let Some(first) = staged.first() else { return Ok(()) };
        let (reference, count) = (&first.record.reference, staged.len());
        Err(Refusal::Precondition(format!(
            "image {} is being staged on {count} hosts; take that back first with `shoal image \
             stage --cancel {reference}`",
            digest.short()
        )))
    }
}

/// Which images people asked a host to have ahead, of all hosts. A record that can't be read counts
/// for nothing.
///
/// # Errors
/// The store fails.
pub(crate) async fn asked(
    records: &Records,
) -> Result<BTreeMap<String, BTreeSet<Digest>>, Refusal> {
    let mut asked: BTreeMap<String, BTreeSet<Digest>> = BTreeMap::new();
    for stored in records.list::<StagedRecord>().await?.records {
        if let Some((digest, host)) = parts(&stored.id) {
            asked.entry(host.to_owned()).or_default().insert(digest);
        }
    }
    Ok(asked)
}

/// Ends what has ended, and has hosts keep the rest, until `shutdown`.
pub async fn keep(records: Records, live: Live, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        if let Err(error) = look(&records, &live, clock::now()).await {
            tracing::error!(%error, "cannot look after staged images; will try again");
        }
    }
}

/// One look over all records.
///
/// # Errors
/// The store fails, or a record in it is damaged.
pub(crate) async fn look(records: &Records, live: &Live, now: Timestamp) -> Result<(), Refusal> {
    let staged = records.list::<StagedRecord>().await?.records;
    let mut ended = false;
    for stored in staged {
        match one(records, live, &stored, now).await {
            Ok(has_ended) => ended |= has_ended,
            // Someone changes the same; the next look sees what came of it.
            Err(Refusal::Conflict(_)) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    if ended {
        remove_leftovers(records, live).await?;
    }
    Ok(())
}

/// Ends a record or has its host keep the image. Whether it ended.
async fn one(
    records: &Records,
    live: &Live,
    stored: &Stored<StagedRecord>,
    now: Timestamp,
) -> Result<bool, Refusal> {
    let parsed = parts(&stored.id);
    let (digest, id) =
        parsed.ok_or_else(|| inventory::damaged::<StagedRecord>(&stored.id, "its key is none"))?;
    let host = records.get::<HostRecord>(id).await?;
    let spec_record = records.get::<HostSpecRecord>(id).await?;
    let before = spec_record.as_ref().map(inventory::spec).transpose()?.unwrap_or_default();
    let mut batch = Batch::new();
    if host.is_none() || stored.record.until_ms <= now.0 || uses(&before, &digest) {
        batch.remove(stored)?;
        commit(records, batch).await?;
        tracing::info!(image = stored.record.reference, host = id, "an image is staged no longer");
        return Ok(true);
    }
    if before.stage.iter().any(|image| image.digest == digest) {
        return Ok(false);
    }
    let reference = convert::parse("reference", &stored.record.reference)?;
    let signed = signed_of(&stored.id, stored.record.signed.clone())?;
    let image = PinnedImage { reference, digest, size: stored.record.size, signed };
    batch.exists::<HostRecord>(id)?.unchanged(stored)?;
    put_spec(&mut batch, id, spec_record.as_ref(), with(&before, &image, seen(live, id)))?;
    commit(records, batch).await?;
    Ok(false)
}

/// What is signed of a staged image, for the host to ask for.
fn signed_of(
    id: &str,
    stored: Option<v1::SignedManifest>,
) -> Result<Option<Box<SignedManifest>>, Refusal> {
    let signed = stored.map(SignedManifest::try_from).transpose();
    let signed =
        signed.map_err(|error| inventory::damaged::<StagedRecord>(id, &error.to_string()))?;
    Ok(signed.map(Box::new))
}

/// A desired state with an image to be fetched ahead.
fn with(before: &HostSpec, image: &PinnedImage, seen: u64) -> HostSpec {
    if before.stage.iter().any(|other| other.digest == image.digest) {
        return before.clone();
    }
    let mut stage = before.stage.clone();
    stage.push(image.clone());
    let after = HostSpec { generation: before.generation + 1, stage, ..before.clone() };
    before.followed_by(after, seen)
}

/// Writes a desired state, also where it stays as it is: whoever is clearing what was staged for
/// nothing, and has read no record of this, fails.
fn put_spec(
    batch: &mut Batch,
    host: &str,
    stored: Option<&Stored<HostSpecRecord>>,
    after: HostSpec,
) -> Result<(), Refusal> {
    let record = HostSpecRecord { spec: Some(after.into()) };
    match stored {
        Some(stored) => batch.replace(stored, &record)?,
        None => batch.create(host, &record)?,
    };
    Ok(())
}

fn uses(spec: &HostSpec, digest: &Digest) -> bool {
    spec.instances.iter().any(|instance| instance.config.image.digest == *digest)
}

/// The newest generation that the host has seen.
fn seen(live: &Live, host: &str) -> u64 {
    let status = host.parse().ok().and_then(|host| live.status(&host));
    status.map_or(0, |status| status.observed_generation)
}

async fn commit(records: &Records, batch: Batch) -> Result<(), Refusal> {
    match records.commit(batch).await {
        Ok(_) => Ok(()),
        Err(CommitError::Conflict { .. }) => Err(contended()),
        Err(error) => Err(error.into()),
    }
}

fn duration(millis: u64) -> Result<Duration, Refusal> {
    let wanted = match millis {
        0 => USUAL,
        millis => Duration::from_millis(millis),
    };
    if wanted < BOUNDS.0 || wanted > BOUNDS.1 {
        return Err(Refusal::Invalid(
            "an image is staged for a minute at least, and for a year at most".into(),
        ));
    }
    Ok(wanted)
}

/// The hosts that are meant, ordered by name; there is one at least.
async fn chosen(
    records: &Records,
    names: &[String],
    selector: &str,
) -> Result<Vec<Stored<HostRecord>>, Refusal> {
    let mut hosts = Vec::new();
    for name in names {
        hosts.push(hosts_api::find(records, name).await?);
    }
    if names.is_empty() {
        let selector = match selector {
            "" => None,
            text => Some(text.parse::<Selector>().map_err(|e| Refusal::Invalid(e.to_string()))?),
        };
        hosts = records.list::<HostRecord>().await?.records;
        hosts.retain(|host| selector.as_ref().is_none_or(|s| s.matches(&host.record.labels)));
    }
    if hosts.is_empty() {
        return Err(Refusal::NotFound(
            "no host is meant; `shoal host list` shows the hosts and their labels".into(),
        ));
    }
    hosts.sort_by(|a, b| a.record.name.cmp(&b.record.name));
    hosts.dedup_by(|a, b| a.id == b.id);
    Ok(hosts)
}

fn record_id(digest: &Digest, host: &str) -> String {
    format!("{digest}/{host}")
}

/// The image and the host's id of a record's key.
fn parts(id: &str) -> Option<(Digest, &str)> {
    let (digest, host) = id.split_once('/')?;
    Some((digest.parse().ok()?, host))
}

#[cfg(test)]
mod tests;
