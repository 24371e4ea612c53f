//! Squashfs images for tests and the demo, built once for each recipe and cached.
//!
//! Way in: [`busybox_image`] where any image will do (under a second), [`debian_image`] where it
//! has to boot, [`belenios_image`] and [`platform_image`] for whole deployments. The same recipe gives the same bytes on
//! the same machine: times are fixed.

mod belenios;
mod platform;
mod rebuild;

use std::fs::{self, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::base::Suite;
use crate::cache::Cache;
use crate::{base, exec, packages};

pub use belenios::belenios_image;
pub use platform::{platform_example, platform_image};
pub use rebuild::rebuild_image;

/// Where `busybox-static` puts its one program.
const BUSYBOX: &str = "/bin/busybox";

/// To be raised when [`fill_busybox`] changes what it makes.
const BUSYBOX_REVISION: u32 = 1;

/// Directories that a container needs to be there, or to be mounted over.
const DIRECTORIES: &[&str] =
    &["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var/lib", "var/log", "www"];

/// A Debian image to be built.
#[derive(Debug, Clone, Copy)]
pub struct DebianRecipe<'a> {
    /// Names the image in its os-release (`IMAGE_ID`) and its file.
    pub name: &'a str,
    /// Packages beside systemd, with what they depend on. Without `dbus` the image boots, too.
    pub packages: &'a [&'a str],
    /// Names what the customising closure does: another revision is another image.
    pub revision: &'a str,
}

/// A tiny image (1 MB) that doesn't boot but runs commands: busybox, with all its programs.
///
/// `marker` is in /etc/os-release as `IMAGE_VERSION` and in /www/index.html, so that images of
/// different markers differ and a test can see which one serves:
/// `["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]`.
pub fn busybox_image(marker: &str) -> Result<PathBuf> {
    packages::ensure()?;
    let recipe = format!("{BUSYBOX_REVISION} {marker}");
    Cache::open()?.entry("busybox", &recipe, ".squashfs", |image| {
        let root = tempfile::tempdir()?;
        fill_busybox(root.path(), marker)?;
        squash(root.path(), image)
    })
}

/// An image that is a busybox and `bytes` of noise, so that it is as large as that and no
/// compression makes it smaller. Written to `path`; no two are alike.
pub fn noisy_image(path: &Path, bytes: u64) -> Result<()> {
    fs::copy(busybox_image("noise")?, path)?;
    let noise = path.with_extension("noise");
    let mut random = fs::File::open("/dev/urandom")?.take(bytes);
    io::copy(&mut random, &mut fs::File::create(&noise)?)?;
    let mut command = Command::new("mksquashfs");
    command.args([&noise, path]).args(["-quiet", "-no-progress", "-noD"]);
    exec::checked(command.env_remove("SOURCE_DATE_EPOCH"))?;
    Ok(fs::remove_file(noise)?)
}

/// An image that boots: a minimal Debian with systemd, the recipe's packages, and whatever
/// `customise` does to its root directory (about 25 s for new packages, 10 s for a new revision).
pub fn debian_image(
    recipe: DebianRecipe<'_>,
    customise: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    packages::ensure()?;
    let cache = Cache::open()?;
    let packages = [&["systemd", "systemd-sysv"], recipe.packages].concat();
    let suite = Suite::default();
    let bootstrap = base::bootstrap_recipe(suite, &packages);
    let tree = cache.entry("debian", &bootstrap, "", |root| {
        eprintln!("lab: making a Debian with {}, once", packages.join(", "));
        base::bootstrap(root, suite, &packages)?;
        forget_the_build(root)
    })?;
    let key = format!("{bootstrap} {} {}", recipe.name, recipe.revision);
    cache.entry(recipe.name, &key, ".squashfs", |image| {
        let parent = image.parent().context("the cache has no directory")?;
        let copy = tempfile::tempdir_in(parent)?;
        let root = copy.path().join("root");
        exec::run("cp", ["-a".as_ref(), "--reflink=auto".as_ref(), &*tree, &*root])?;
        append(&root.join("etc/os-release"), &format!("IMAGE_ID={}\n", recipe.name))?;
        customise(&root)?;
        squash(&root, image)
    })
}

/// Runs `argv` inside the root directory `root`, for a customising closure (`useradd`, …).
pub fn run_in_root(root: &Path, argv: &[&str]) -> Result<()> {
    let mut command = Command::new("chroot");
    command.arg(root).args(argv).env_clear().env("PATH", exec::PATH);
    exec::checked(&mut command).map(drop)
}

/// Packs `root` into the new squashfs file `image`, zstd-compressed, with all times set to 2000.
pub fn squash(root: &Path, image: &Path) -> Result<()> {
    let mut command = Command::new("mksquashfs");
    command
        .args([root, image])
        .args("-noappend -quiet -no-progress -no-exports -comp zstd".split(' '))
        .args("-Xcompression-level 6 -mkfs-time 946684800 -all-time 946684800".split(' '))
        // It refuses those two options where this variable is set as well.
        .env_remove("SOURCE_DATE_EPOCH");
    exec::checked(&mut command).map(drop)
}

fn fill_busybox(root: &Path, marker: &str) -> Result<()> {
    for dir in DIRECTORIES {
        make_dir(&root.join(dir), 0o755)?;
    }
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
    for link in ["bin", "sbin", "usr/sbin"] {
        symlink(if link == "usr/sbin" { "bin" } else { "usr/bin" }, root.join(link))?;
    }
    let bin = root.join("usr/bin");
    fs::copy(BUSYBOX, bin.join("busybox")).with_context(|| format!("could not copy {BUSYBOX}"))?;
    for applet in exec::run(BUSYBOX, ["--list"])?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", bin.join(applet))?;
    }
    let os_release = format!(
        "ID=busybox\nNAME=Busybox\nPRETTY_NAME=\"Busybox {marker}\"\nVERSION_ID=1\n\
         IMAGE_ID=busybox\nIMAGE_VERSION=\"{marker}\"\n"
    );
    let files = [
        ("etc/os-release", &*os_release),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n"),
        ("etc/group", "root:x:0:\napp:x:1000:\n"),
        ("etc/machine-id", ""),
        ("etc/resolv.conf", ""),
        ("www/index.html", &format!("{marker}\n")),
    ];
    for (path, text) in files {
        fs::write(root.join(path), text)?;
        fs::set_permissions(root.join(path), Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Removes what is of this build alone and would make every image differ.
fn forget_the_build(root: &Path) -> Result<()> {
    for file in ["var/log/dpkg.log", "var/log/alternatives.log", "var/cache/ldconfig/aux-cache"] {
        let path = root.join(file);
        if path.exists() {
            fs::remove_file(&path)
                .with_context(|| format!("could not remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Of this very mode, whatever the umask says.
fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path)?;
    for part in path.ancestors().take(2) {
        fs::set_permissions(part, Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn append(path: &Path, text: &str) -> Result<()> {
    let old =
        fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    Ok(fs::write(path, old + text)?)
}
