//! The image of the example deployment deploy/examples/rebuild: a busybox, and the example's
//! `rootfs` over it.
//!
//! Does what the example's README tells people to do by hand; change both together.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{BUSYBOX_REVISION, fill_busybox, make_dir, squash};
use crate::cache::Cache;
use crate::packages;

macro_rules! program {
    ($path:literal) => {
        ($path, include_str!(concat!("../../../deploy/examples/rebuild/rootfs/", $path)))
    };
}

/// All that is in the example's `rootfs`.
const PROGRAMS: [(&str, &str); 4] = [
    program!("srv/ci/run"),
    program!("srv/log/cgi-bin/append"),
    program!("srv/log/cgi-bin/lines"),
    program!("srv/web/cgi-bin/visit"),
];

/// The image of the example deployment: a web server, a receiver of log lines, and a runner of
/// jobs, each started by its own command.
pub fn rebuild_image() -> Result<PathBuf> {
    packages::ensure()?;
    let recipe = format!("{BUSYBOX_REVISION} {PROGRAMS:?}");
    Cache::open()?.entry("rebuild", &recipe, ".squashfs", |image| {
        let root = tempfile::tempdir()?;
        fill_busybox(root.path(), "rebuild")?;
        for (path, text) in PROGRAMS {
            let path = root.path().join(path);
            make_dir(path.parent().context("a program is in a directory")?, 0o755)?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        squash(root.path(), image)
    })
}
