//! `[instance.NAME.mounts."/path"]`: what of the host is seen inside.

use std::collections::BTreeMap;

use crate::spec::{InstancePath, Mount};

use super::paths::{Paths, What};
use super::report::Report;
use super::security::flag;
use super::table::{Item, Section};

/// Reads all mounts of an instance, and notes their paths in `paths`.
pub(super) fn read(
    section: &Section<'_>,
    paths: &mut Paths,
    report: &mut Report<'_>,
) -> BTreeMap<InstancePath, Mount> {
    let mut mounts = BTreeMap::new();
    for item in section.entries() {
        let path: Option<InstancePath> = item.named(report);
        if let Some(path) = &path {
            paths.add(path, What::Mount, item.key.clone(), report);
        }
        let mount = one(&item, report);
        if let (Some(path), Some(mount)) = (path, mount) {
            mounts.insert(path, mount);
        }
    }
    mounts
}

fn one(item: &Item<'_>, report: &mut Report<'_>) -> Option<Mount> {
    let mut section = item.section(report)?;
    let source = section.take("source");
    let (writable, shared) = (section.take("writable"), section.take("shared"));
    if source.is_none() {
        section.lacks(&["source"], "source = \"/srv/media\", a path of the host");
    }
    section.finish(&[], report);
    let source = source.and_then(|item| item.parsed("\"/srv/media\"", report));
    let (can_write, is_shared) =
        (flag(writable.as_ref(), false, report), flag(shared.as_ref(), false, report));
    if let (Some(item), Some(true), Some(false)) = (&shared, is_shared, can_write) {
        let help = "add writable = true, or leave `shared` out: reading is always shared";
        report.error_help(&item.key, "`shared` says nothing where the mount is not writable", help);
        return None;
    }
    Some(Mount { source: source?, writable: can_write?, shared: is_shared? })
}
