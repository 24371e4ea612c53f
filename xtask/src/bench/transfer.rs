//! Transfers of images: how few bytes they take, how fast they are, and what memory they need.
//!
//! Way in: one function for each benchmark. It makes its own image pairs out of Debian's packages
//! ([`tree`], [`pairs`]) and installs its peers from Debian ([`PACKAGES`]).

mod bytes;
mod fanout;
mod limit;
mod memory;
mod pairs;
mod peers;
mod site;
mod throughput;
mod tool;
mod tree;
mod wire;

use anyhow::Result;
use shoal_lab::packages;

pub(super) use self::pairs::Codec;
use super::Run;
use super::report::Row;

/// What is compared with, and what serves and measures it.
const PACKAGES: &[&str] = &[
    "bsdiff",
    "casync",
    "curl",
    "iproute2",
    "nginx-light",
    "openssh-client",
    "openssh-server",
    "openssl",
    "rsync",
    "time",
    "xdelta3",
    "zstd",
    "zsync",
];

/// Bytes from one image to the next, compressed so.
pub(super) fn bytes(run: &mut Run<'_>, codec: Codec) -> Result<Vec<Row>> {
    packages::ensure_these(PACKAGES)?;
    bytes::measure(run, codec)
}

/// A whole image to many hosts.
pub(super) fn throughput(run: &mut Run<'_>) -> Result<Vec<Row>> {
    packages::ensure_these(PACKAGES)?;
    throughput::measure(run)
}

/// Memory of both ends.
pub(super) fn memory(run: &mut Run<'_>) -> Result<Vec<Row>> {
    memory::measure(run)
}

/// Hosts that pass images on.
pub(super) fn fanout(run: &mut Run<'_>) -> Result<Vec<Row>> {
    fanout::measure(run)
}
