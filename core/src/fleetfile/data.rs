//! `[instance.NAME.data.VOLUME]`: directories that outlive the instance.

use std::collections::BTreeMap;

use crate::name::VolumeName;
use crate::spec::{DataVolume, Owner};

use super::paths::{Paths, What};
use super::report::Report;
use super::table::{Item, Section};

/// Keys of the whole fleet file that this version does not know yet.
const LATER: &[&str] = &["backup"];

/// Reads all data volumes of an instance, and notes their paths in `paths`.
pub(super) fn read(
    section: &Section<'_>,
    paths: &mut Paths,
    report: &mut Report<'_>,
) -> BTreeMap<VolumeName, DataVolume> {
    let mut volumes = BTreeMap::new();
    for item in section.entries() {
        let name: Option<VolumeName> = item.named(report);
        let volume = read_one(&item, paths, report);
        if let (Some(name), Some(volume)) = (name, volume) {
            volumes.insert(name, volume);
        }
    }
    volumes
}

fn read_one(item: &Item<'_>, paths: &mut Paths, report: &mut Report<'_>) -> Option<DataVolume> {
    let mut section = item.section(report)?;
    let (path, owner) = (section.take("path"), section.take("owner"));
    if path.is_none() {
        section.lacks(&["path"], "path = \"/var/lib/app\", as seen inside");
    }
    section.finish(LATER, report);
    let span = path.as_ref().map(Item::span);
    let path = path.and_then(|path| path.parsed("\"/var/lib/app\"", report));
    if let (Some(path), Some(span)) = (&path, span) {
        paths.add(path, What::Volume(item.shown()), span, report);
    }
    let owner = read_owner(owner, report);
    Some(DataVolume { path: path?, owner: owner? })
}

/// `owner`, of a volume or of a file; the instance's root where it is left out.
pub(super) fn read_owner(item: Option<Item<'_>>, report: &mut Report<'_>) -> Option<Owner> {
    item.map_or(Some(Owner::default()), |item| item.parsed("\"1000:1000\"", report))
}
