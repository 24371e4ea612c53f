//! How far hosts are with images that they were asked to have.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::image::{Digest, PinnedImage};
use shoal_core::name::{HostId, HostName};
use shoal_core::status::HostStatus;
use shoal_core::transfer::TransferStatus;
use shoal_proto::convert;
use shoal_proto::v1::store::{HostSpecRecord, StagedRecord};
use shoal_proto::v1::{StagedImage, StagingState};

use super::{parts, record_id, uses};
use crate::inventory;
use crate::live::Live;
use crate::refusal::Refusal;
use crate::store::Records;

/// Everything that is staged, or what has a key under `under`; by image, then by host name.
pub(super) async fn under(
    records: &Records,
    live: &Live,
    under: &str,
) -> Result<Vec<StagedImage>, Refusal> {
    let names = inventory::host_names(records).await?;
    let mut staged = Vec::new();
    for stored in records.list_under::<StagedRecord>(under).await?.records {
        let Some((digest, host)) = parts(&stored.id) else { continue };
        let Some(host) = host.parse().ok().filter(|host| names.contains_key(host)) else {
            continue;
        };
        staged.push(shown(live, &names, &host, digest, stored.record));
    }
    staged.sort_by(|a, b| (&a.reference, &a.host).cmp(&(&b.reference, &b.host)));
    Ok(staged)
}

/// One image on some hosts, by host name; also on those that use it and so have no record.
pub(super) async fn of_hosts(
    records: &Records,
    live: &Live,
    image: &PinnedImage,
    hosts: &BTreeSet<&str>,
) -> Result<Vec<StagedImage>, Refusal> {
    let names = inventory::host_names(records).await?;
    let mut staged = Vec::new();
    for host in hosts {
        let Ok(id) = host.parse::<HostId>() else { continue };
        let stored = records.get::<StagedRecord>(&record_id(&image.digest, host)).await?;
        let record = match stored {
            Some(stored) => stored.record,
            None if is_used(records, host, &image.digest).await? => StagedRecord {
                reference: image.reference.to_string(),
                size: image.size,
                ..StagedRecord::default()
            },
            None => continue,
        };
        staged.push(shown(live, &names, &id, image.digest, record));
    }
    staged.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(staged)
}

async fn is_used(records: &Records, host: &str, digest: &Digest) -> Result<bool, Refusal> {
    let stored = records.get::<HostSpecRecord>(host).await?;
    let spec = stored.as_ref().map(inventory::spec).transpose()?;
    Ok(spec.is_some_and(|spec| uses(&spec, digest)))
}

fn shown(
    live: &Live,
    names: &BTreeMap<HostId, HostName>,
    host: &HostId,
    digest: Digest,
    record: StagedRecord,
) -> StagedImage {
    let StagedRecord { reference, digest: _, size, by, since_ms, until_ms, signed: _ } = record;
    let status = live.status(host);
    let status = status.as_deref();
    let online = live.presence(host).is_some_and(|presence| presence.online);
    let transfer = status.and_then(|status| status.transfers.iter().find(|t| t.digest == digest));
    let (state, reason) = state(online, status, transfer, &digest, &reference);
    let received = match state {
        StagingState::Staged => size,
        _ => transfer.map_or(0, |transfer| transfer.received),
    };
    StagedImage {
        reference,
        digest: convert::digest_bytes(&digest),
        host: names.get(host).map_or_else(|| host.to_string(), ToString::to_string),
        state: state.into(),
        reason,
        size,
        received,
        wire: transfer.map_or(0, |transfer| transfer.wire),
        saved: transfer.map_or(0, |transfer| transfer.saved),
        source: transfer.map(|transfer| transfer.source.clone()).unwrap_or_default(),
        by,
        since_ms,
        until_ms,
        left_ms: transfer.and_then(|transfer| transfer.left).map(convert::millis),
    }
}

fn state(
    online: bool,
    status: Option<&HostStatus>,
    transfer: Option<&TransferStatus>,
    digest: &Digest,
    reference: &str,
) -> (StagingState, String) {
    let there = status.is_some_and(|status| status.images.contains(digest));
    if there {
        return (StagingState::Staged, String::new());
    }
    if !online {
        return (StagingState::Offline, String::new());
    }
    let mut problems = status.into_iter().flat_map(|status| &status.problems);
    if let Some(problem) = problems.find(|problem| names(problem, reference)) {
        return (StagingState::Failed, problem.clone());
    }
    match transfer {
        Some(_) => (StagingState::Going, String::new()),
        None => (StagingState::Waiting, String::new()),
    }
}

/// Whether a problem that an agent tells is one with this image.
fn names(problem: &str, reference: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || "-_".contains(c));
    let named = format!("image {reference}");
    problem.match_indices(&named).any(|(at, text)| !goes_on(&problem[at + text.len()..]))
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_problem_is_that_of_the_image_that_it_names() {
        let problem = "image shop:1.0, which a revision to come needs: no route";
        assert!(names(problem, "shop:1.0"));
        assert!(!names("image shop:1.0-2: no route", "shop:1.0"));
        assert!(!names("image shop:1.01: no route", "shop:1.0"));
        assert!(!names(problem, "op:1.0"));
    }
}
