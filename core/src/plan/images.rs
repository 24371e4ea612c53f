//! The images that a host needs, and which of the others go.

use std::collections::BTreeMap;

use super::{Action, Observed, Plan, Step, Wanted, step};
use crate::gc::{self, Kind, Limits, Removal, Room};
use crate::image::{Digest, PinnedImage};
use crate::infra::Phase;
use crate::name::ImageName;
use crate::time::Timestamp;

/// The images that are needed on a host: what runs, is mounted or is wanted, also ahead, and what
/// going back would need. With what they are of, where that is known.
#[must_use]
pub fn needed(wanted: Wanted<'_>, observed: &Observed) -> BTreeMap<Digest, Option<ImageName>> {
    let going_back = wanted.spec.keep.iter().flat_map(|keep| &keep.images);
    let unnamed = going_back.chain(wanted.kept_images).chain(&observed.mounts);
    let mut needed: BTreeMap<Digest, Option<ImageName>> =
        unnamed.map(|digest| (*digest, None)).collect();
    let applied = observed.machines.values().filter_map(|machine| machine.applied.as_ref());
    let applied = applied.map(|applied| &applied.config.image);
    let instances = wanted.spec.instances.iter().map(|spec| &spec.config.image);
    for PinnedImage { reference, digest, .. } in applied.chain(instances).chain(&wanted.spec.stage)
    {
        needed.insert(*digest, Some(reference.name.clone()));
    }
    needed
}

/// The image files that go. What a record that can't be read needs is not known: then none goes.
///
/// A new infra version is written down on a host that has nothing but what it needs.
pub(super) fn discards(
    wanted: Wanted<'_>,
    observed: &Observed,
    plan: &Plan,
    now: Timestamp,
) -> Vec<Step> {
    if !observed.unreadable.is_empty() {
        return vec![];
    }
    let needed = needed(wanted, observed);
    let files = observed.stock.files(&observed.images, |digest| needed.contains_key(digest));
    let stock = &observed.stock;
    let lacking = plan.stage.iter().filter_map(|step| match &step.action {
        Action::Stage(image) => Some(stock.lacking(&image.digest, image.size)),
        _ => None,
    });
    let room = Room { free: stock.free, reserve: stock.reserve, lacking: lacking.collect() };
    let is_last_step = matches!(&plan.infra, (Phase::Starting, None));
    let limits = if is_last_step { Limits::NOTHING } else { Limits::HOST };
    let removals = gc::plan(&files, &room, &limits, now);
    removals.into_iter().map(|removal| discard(observed, &removal)).collect()
}

fn discard(observed: &Observed, removal: &Removal) -> Step {
    let Removal { digest, kind, size, reason } = removal;
    let stock = &observed.stock;
    let (action, of, what) = match kind {
        Kind::Whole => (Action::Discard(*digest), &stock.whole, "image"),
        Kind::Partial => (Action::DiscardPartial(*digest), &stock.partial, "a beginning of image"),
    };
    let name = of.get(digest).and_then(|stored| stored.name.as_ref());
    let name = name.map(|name| format!(" of {name}")).unwrap_or_default();
    let (short, mib) = (digest.short(), size.div_ceil(1 << 20));
    step(action, format!("{what} {short}{name}, {mib} MiB: {reason}"))
}
