//! The image of the example deployment deploy/examples/belenios: Debian's ocsigenserver, which
//! serves Belenios, and the example's `rootfs` over it.
//!
//! Does what the example's README tells people to do by hand; change both together.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{DebianRecipe, append, debian_image, run_in_root};
use crate::exec;

/// Copied over the image's root.
const ROOTFS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/belenios/rootfs");

const PACKAGES: &[&str] = &["ocsigenserver", "media-types"];

/// An image is replaced, not upgraded.
const MASKED: &[&str] = &["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"];

/// To be raised when [`customise`] changes what it makes.
const REVISION: u32 = 1;

/// The image of the example deployment: boots, and serves <http://127.0.0.1:8001/> by
/// belenios.service, run by uid 1000, once /etc/belenios/ocsigenserver.conf is there.
///
/// `version` is what the page /version says, and `IMAGE_VERSION` in its os-release.
pub fn belenios_image(version: &str) -> Result<PathBuf> {
    let rootfs = Path::new(ROOTFS);
    let mut revision = format!("{REVISION} {version}");
    describe(rootfs, rootfs, &mut revision)?;
    let recipe = DebianRecipe { name: "belenios", packages: PACKAGES, revision: &revision };
    debian_image(recipe, |root| customise(root, rootfs, version))
}

fn customise(root: &Path, rootfs: &Path, version: &str) -> Result<()> {
    exec::run("cp", ["-rT".as_ref(), "--no-preserve=mode,ownership".as_ref(), rootfs, root])?;
    // Where it is missing, systemd-nspawn makes it, and nobody owns it inside.
    fs::create_dir_all(root.join("etc/belenios"))?;
    fs::create_dir_all(root.join("var/belenios"))?;
    fs::write(root.join("usr/share/belenios/www/version"), format!("{version}\n"))?;
    append(&root.join("etc/os-release"), &format!("IMAGE_VERSION={version}\n"))?;
    run_in_root(root, &["systemd-sysusers"])?;
    run_in_root(root, &["systemctl", "--quiet", "enable", "belenios.service"])?;
    run_in_root(root, &[&["systemctl", "--quiet", "mask"], MASKED].concat())
}

/// Appends the names and contents of all files below `dir` to `text`, the names as from `top`.
pub(super) fn describe(top: &Path, dir: &Path, text: &mut String) -> Result<()> {
    let failed = || format!("could not read {}", dir.display());
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(failed)?;
    paths.sort();
    for path in paths {
        write!(text, "\n{}\n", path.strip_prefix(top).unwrap_or(&path).display())?;
        if path.is_dir() {
            describe(top, &path, text)?;
        } else {
            let content = fs::read_to_string(&path);
            *text += &content.with_context(|| format!("could not read {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_changes_below_the_root_is_another_recipe() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let described = || {
            let mut text = String::new();
            describe(dir.path(), dir.path(), &mut text).unwrap();
            text
        };
        let mut seen = vec![described()];
        for (name, content) in [("etc/a", "1"), ("etc/a", "2"), ("etc/b", "2")] {
            fs::write(dir.path().join(name), content).unwrap();
            assert_eq!(described(), described());
            assert!(!seen.contains(&described()), "{name} {content}");
            seen.push(described());
        }
    }

    #[test]
    fn the_example_is_found_and_named_the_same_in_every_checkout() {
        let mut text = String::new();
        describe(Path::new(ROOTFS), Path::new(ROOTFS), &mut text).unwrap();
        assert!(text.contains("\nusr/lib/systemd/system/belenios.service\n"), "{text}");
        assert!(!text.contains(env!("CARGO_MANIFEST_DIR")));
    }
}
