//! Placing a fleet anew as it is: by a revision that says what runs, with the images and secrets
//! that it has, on the hosts that may have it now.
//!
//! What runs is what was last proved; where nothing was, the newest revision. Deliberately absent:
//! anything newer, such as the image that a tag points to by now. Whoever empties a host does not
//! want an upgrade.

use std::time::Duration;

use shoal_core::name::FleetName;
use shoal_core::rollout::Offline;
use shoal_core::time::Timestamp;

use super::apply::{Wanted, apply_to, known};
use super::revision::Revision;
use super::world::World;
use crate::refusal::Refusal;
use crate::store::Records;
use crate::{inventory, locks};

/// How often it is tried again where others change the same.
const ATTEMPTS: usize = 8;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Again<'a> {
    pub(crate) fleet: &'a FleetName,
    /// The newest revision that the caller has seen.
    pub(crate) base: u64,
    pub(crate) timeout: Duration,
    pub(crate) source: String,
}

/// Makes the revision and its rollout, which skips hosts that are offline; the number of it, or of
/// the newest where that places everything so already.
///
/// # Errors
/// As an apply's.
pub(super) async fn again(
    records: &Records,
    asked: &Again<'_>,
    who: &str,
    now: Timestamp,
) -> Result<u64, Refusal> {
    let newest = known(records, asked.fleet.as_str()).await?;
    let running = match newest.proved(records).await? {
        Some(number) if number != newest.revision.number => {
            inventory::revision(records, asked.fleet.as_str(), number).await?
        }
        _ => newest.revision,
    };
    let wanted = Wanted {
        spec: running.spec.clone(),
        base: Some(asked.base),
        timeout: asked.timeout,
        source: asked.source.clone(),
        offline: Offline::Skip,
        replace: false,
        recreate: None,
    };
    for _ in 0..ATTEMPTS {
        let mut world = World::load(records, &wanted.spec).await?;
        keep_versions(&mut world, &running);
        if let Some(applied) = apply_to(records, world, &wanted, who, now).await? {
            return Ok(applied.revision);
        }
    }
    Err(locks::busy(asked.fleet.as_str()))
}

/// Has images and secrets stand for what they are in `running`. Those are in use, and so nobody
/// can have removed them.
fn keep_versions(world: &mut World, running: &Revision) {
    for config in running.hosts.values().flat_map(|there| there.values()) {
        world.images.insert(config.image.reference.clone(), config.image.clone());
        for secret in config.settings.secrets.values() {
            world.secrets.insert(secret.name.clone(), secret.version);
        }
    }
}
