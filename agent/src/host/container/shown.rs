//! Directories and files of the host that are seen inside, where its policy allows it.

use std::path::Path;

use shoal_core::policy::Policy;
use shoal_core::spec::{InstancePath, Mount, Settings};

use super::{Bind, StartError};
use crate::host::hostbind::{Attributes, Source};

/// One of them, held open: what is mounted later is this very one, whatever is done to its path.
#[derive(Debug)]
pub(super) struct Open {
    inside: InstancePath,
    mount: Mount,
    source: Source,
    /// Whether user numbers inside are to be the same numbers on the disk.
    idmap: bool,
}

pub(super) fn open(settings: &Settings, policy: &Policy) -> Result<Vec<Open>, StartError> {
    let open = |(inside, mount): (&InstancePath, &Mount)| {
        let entry = policy.bind(mount).map_err(|e| StartError::Refused(e.to_string()))?;
        let source = Source::open(&mount.source, inside)?;
        Ok(Open { inside: inside.clone(), mount: mount.clone(), source, idmap: entry.idmap })
    };
    settings.mounts.iter().map(open).collect()
}

/// Mounts each below `dir`, where systemd-nspawn binds it from.
pub(super) fn attach(
    sources: Vec<Open>,
    dir: &Path,
    uid_base: Option<u32>,
) -> Result<Vec<Bind>, StartError> {
    let mut binds = Vec::new();
    for (number, Open { inside, mount, source, idmap }) in sources.into_iter().enumerate() {
        let from = dir.join(number.to_string());
        let (writable, kind) = (mount.writable, source.kind());
        source.attach(&from, Attributes { writable, shift: uid_base.filter(|_| idmap) })?;
        binds.push(Bind { from, to: inside, kind, writable, shift: false });
    }
    Ok(binds)
}
