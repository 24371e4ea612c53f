//! Real images for the tests, made by mksquashfs.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The beginning of an ELF program for x86-64.
pub(crate) const ELF_X86_64: [u8; 64] = elf(62);

/// The beginning of an ELF program for 64-bit ARM.
pub(crate) const ELF_ARM64: [u8; 64] = elf(183);

pub(crate) const DEBIAN: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n\
    NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n";

const fn elf(machine: u8) -> [u8; 64] {
    let mut header = [0; 64];
    header[0] = 0x7f;
    header[1] = b'E';
    header[2] = b'L';
    header[3] = b'F';
    header[4] = 2;
    header[5] = 1;
    header[18] = machine;
    header
}

/// A directory tree that becomes an image. Everything goes with it when it is dropped.
#[derive(Debug)]
pub(crate) struct Tree {
    dir: TempDir,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("root")).expect("the image's root");
        Self { dir }
    }

    /// A small system: merged /usr, os-release behind a link, a shell, and some files of many kinds.
    pub(crate) fn debian() -> Self {
        let tree = Self::new();
        tree.file("usr/lib/os-release", DEBIAN.as_bytes());
        tree.link("etc/os-release", "../usr/lib/os-release");
        tree.link("bin", "usr/bin");
        tree.link("sbin", "usr/sbin");
        tree.link("lib", "usr/lib");
        tree.link("usr/sbin/init", "/lib/systemd/systemd");
        let program: Vec<u8> =
            ELF_X86_64.iter().copied().chain((0..=255).cycle().take(300_000)).collect();
        tree.file("usr/lib/systemd/systemd", &program);
        tree.file("usr/bin/dash", &ELF_X86_64);
        tree.link("usr/bin/sh", "dash");
        for number in 0..200 {
            let text = format!("file {number}\n").repeat(number);
            tree.file(&format!("usr/share/doc/{number}/readme"), text.as_bytes());
        }
        tree
    }

    pub(crate) fn file(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        std::os::unix::fs::symlink(target, &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.dir.path().join("root").join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("its directories");
        path
    }

    /// Makes an image of the tree in its own temporary directory.
    #[allow(clippy::disallowed_methods, reason = "the images under test are made by the real tool")]
    pub(crate) fn image(&self, options: &[&str]) -> PathBuf {
        let image = self.dir.path().join("image.squashfs");
        let output = std::process::Command::new("mksquashfs")
            .arg(self.dir.path().join("root"))
            .arg(&image)
            .args(["-noappend", "-no-progress", "-quiet", "-all-root", "-processors", "1"])
            .args(options)
            .output()
            .unwrap_or_else(|error| {
                panic!("mksquashfs can't be run ({error}); install squashfs-tools")
            });
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "mksquashfs {options:?} failed: {errors}");
        image
    }

    /// A path for another file beside the image.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }
}

/// The 64-bit number at a place of a file, for tests that have to know where a table is.
pub(crate) fn number_at(bytes: &[u8], at: usize) -> usize {
    let field = bytes[at..at + 8].try_into().expect("eight bytes");
    usize::try_from(u64::from_le_bytes(field)).expect("fits")
}

/// Writes a changed copy and inspects it; the text of the error, where there is one.
pub(crate) fn inspect_bytes(path: &Path, bytes: &[u8]) -> Result<shoal_image::ImageInfo, String> {
    fs::write(path, bytes).expect("a copy of the image");
    shoal_image::inspect(path).map_err(|error| error.to_string())
}
