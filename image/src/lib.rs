//! Squashfs images: validation, platform, digests, verified files.
//!
//! Part: everything that is known about an image without asking anybody: whether a file is a
//! complete squashfs 4.0, what system is in it, what its SHA-256 is, and how its bytes arrive in a
//! directory so that a file under its digest's name is always complete and verified, and who signed
//! what of it. The command
//! uses it before it sends a byte, the controller on what it received, the agent on what it fetched.
//!
//! Ways in: [`inspect`] for a file, [`sha256_of`] for its digest, [`Partial`] to receive one, and
//! [`complete`], [`list`], [`remove`] for a directory of them; [`Manifest::verified`] for what was
//! signed of one.
//!
//! Files in, files out. Deliberately absent: the network, async, running commands, mounting, the
//! clock. Images are read by an own small reader and not by a squashfs library: it looks at single
//! paths and holds a block or two, so that what a hostile image can cost has a bound that does not
//! depend on the image.

mod assemble;
mod codec;
mod compression;
mod diff;
mod digest;
mod directory;
mod elf;
mod found;
mod index;
mod inode;
mod inspect;
mod lint;
mod listing;
mod make;
mod manifest;
mod metadata;
mod normal;
mod number;
mod os_release;
mod partial;
mod platform;
mod problem;
pub mod recipe;
mod signature;
mod size;
mod superblock;
mod tables;
#[cfg(test)]
#[path = "../tests/mksquashfs/mod.rs"]
mod testing;
mod tree;

#[cfg(test)]
extern crate self as shoal_image;

pub use assemble::{AssembleError, Assembler};
pub use codec::codecs;
pub use compression::Compressor;
pub use diff::{Change, Diff, DiffError, Field, Side, diff};
pub use digest::{DigestError, ParseSumError, Sha256Sum, sha256_of};
pub use directory::{
    CompleteFile, DirectoryError, Listing, PartialFile, complete, free_space, list, remove,
};
pub use found::Found;
pub use index::{BlockKind, Index, IndexBlock, MAX_BLOCKS};
pub use inspect::{ImageInfo, inspect};
pub use lint::{Finding, Lint, lint};
pub use make::{MakeError, MakeOptions, Summary, Wire, make, make_from_indexes, whole};
pub use manifest::{LONGEST_MANIFEST, Manifest, ManifestError, UnverifiedError};
pub use partial::{Partial, PartialError, discard_partial};
pub use platform::Platform;
pub use problem::{ImageError, Part, Problem};
pub use signature::{LONGEST_SIGNATURE, NoPublicKey, PublicKey, Signature, SignatureError};
pub use superblock::{Flags, MAX_INODES, Superblock};
