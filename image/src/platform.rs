//! The system that is in an image: its name, and the processor it is made for.

use crate::elf;
use crate::os_release::OsRelease;
use crate::problem::Problem;
use crate::tree::Tree;

/// The most that is read of an os-release file.
const OS_RELEASE_LEN: u64 = 64 * 1024;

const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Programs that a root file system has; the first that is an ELF file tells the architecture.
const PROGRAMS: [&str; 9] = [
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/usr/bin/init",
    "/bin/sh",
    "/usr/bin/sh",
    "/bin/busybox",
    "/usr/bin/env",
    "/init",
];

/// What system is in an image, as far as it says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    /// `ID` of os-release: `debian`.
    pub os_id: Option<String>,
    /// `VERSION_ID` of os-release: `12`. Rolling distributions have none.
    pub os_version: Option<String>,
    /// `PRETTY_NAME` of os-release, for people: `Debian GNU/Linux 12 (bookworm)`.
    pub os_name: Option<String>,
    /// As in systemd's `ConditionArchitecture=`: `x86-64`, `arm64`.
    pub architecture: Option<String>,
}

impl Platform {
    pub(crate) fn read(tree: &mut Tree<'_>) -> Result<Self, Problem> {
        let release = os_release(tree)?;
        Ok(Self {
            os_id: release.id,
            os_version: release.version_id,
            os_name: release.pretty_name,
            architecture: architecture(tree)?.map(str::to_owned),
        })
    }
}

fn os_release(tree: &mut Tree<'_>) -> Result<OsRelease, Problem> {
    for path in OS_RELEASE {
        if let Some(bytes) = tree.read(path, OS_RELEASE_LEN)? {
            return Ok(OsRelease::parse(&bytes));
        }
    }
    Ok(OsRelease::default())
}

fn architecture(tree: &mut Tree<'_>) -> Result<Option<&'static str>, Problem> {
    for path in PROGRAMS {
        let header = tree.read(path, elf::HEADER_LEN)?;
        if let Some(name) = header.as_deref().and_then(elf::architecture) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
