//! Recipes made by hand, to have every operation and every fault in them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use shoal_image::recipe::{Base, Head, Kind, Op, Reference, Segment, SegmentHead};
use shoal_image::{BlockKind, Compressor, Index, IndexBlock, Sha256Sum, codecs};
use tempfile::TempDir;

/// A directory of images, and those that are in it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) dir: TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Puts an image there, as one that came and was verified.
    pub(crate) fn put(&self, image: &[u8]) -> Sha256Sum {
        let sum = Sha256Sum::of(image);
        fs::write(self.complete(&sum), image).expect("the directory takes files");
        sum
    }

    pub(crate) fn complete(&self, sum: &Sha256Sum) -> PathBuf {
        self.path().join(format!("{sum}.squashfs"))
    }

    pub(crate) fn partial(&self, sum: &Sha256Sum) -> PathBuf {
        self.path().join(format!("{sum}.partial"))
    }
}

/// A recipe and its segments, coded.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) head: Head,
    pub(crate) segments: Vec<Vec<u8>>,
}

impl Recipe {
    /// One that makes `target` out of `sources`, in gzip blocks of 4 KiB.
    pub(crate) fn delta(target: &[u8], sources: &[&[u8]], segments: &[Segment]) -> Self {
        let sources = sources
            .iter()
            .map(|source| Base { sum: Sha256Sum::of(source), size: size(source) })
            .collect();
        let kind = Kind::Delta {
            sources,
            codecs: codecs(),
            compressor: Compressor::Gzip,
            options: Vec::new(),
            block_size: 4096,
        };
        let coded: Vec<Vec<u8>> = segments.iter().map(Segment::encode).collect();
        let heads = segments
            .iter()
            .zip(&coded)
            .map(|(segment, coded)| segment_head(coded, segment.output()))
            .collect();
        let head =
            Head { target: Sha256Sum::of(target), size: size(target), kind, segments: heads };
        Self { head, segments: coded }
    }

    /// The image itself, in segments of so many bytes.
    pub(crate) fn whole(target: &[u8], length: usize) -> Self {
        let segments: Vec<Vec<u8>> = target.chunks(length).map(<[u8]>::to_vec).collect();
        let heads = segments.iter().map(|bytes| segment_head(bytes, size(bytes))).collect();
        let (target, size) = (Sha256Sum::of(target), size(target));
        let head = Head { target, size, kind: Kind::Whole, segments: heads };
        Self { head, segments }
    }
}

pub(crate) fn segment_head(coded: &[u8], output: u64) -> SegmentHead {
    let encoded = u32::try_from(coded.len()).expect("a small segment");
    SegmentHead { output, encoded, hash: blake3::hash(coded).into() }
}

pub(crate) fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("fits")
}

/// A segment that brings `window` without a prefix.
pub(crate) fn segment(window: &[u8], ops: Vec<Op>) -> Segment {
    against(&[], Vec::new(), window, ops)
}

/// A segment whose window is coded against the plain bytes `prefix`, which `references` lead to.
pub(crate) fn against(
    prefix: &[u8],
    references: Vec<Reference>,
    window: &[u8],
    ops: Vec<Op>,
) -> Segment {
    let coded = if window.is_empty() { Vec::new() } else { frame(prefix, window) };
    Segment { prefix: references, window: window.len(), ops, coded }
}

/// One zstd frame of `window`, coded against `prefix`.
pub(crate) fn frame(prefix: &[u8], window: &[u8]) -> Vec<u8> {
    let mut coded = vec![0; zstd::zstd_safe::compress_bound(window.len())];
    let mut encoder = zstd::zstd_safe::CCtx::create();
    let window_log = zstd::zstd_safe::CParameter::WindowLog(26);
    encoder.set_parameter(window_log).expect("64 MiB");
    encoder.ref_prefix(prefix).expect("any prefix");
    let length = encoder.compress2(&mut coded[..], window).expect("room enough");
    coded.truncate(length);
    coded
}

/// A compressed data block of an image: where it stands, and its plain bytes.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) place: IndexBlock,
    pub(crate) stored: Vec<u8>,
    pub(crate) plain: Vec<u8>,
}

impl Block {
    pub(crate) fn reference(&self, source: u8) -> Reference {
        let IndexBlock { offset, length: stored, .. } = self.place;
        Reference::Block { source, offset, stored, compressed: true }
    }

    /// The operation that makes it anew out of its plain bytes.
    pub(crate) fn rebuild(&self) -> Op {
        let plain = u32::try_from(self.plain.len()).expect("a block");
        Op::Rebuild { plain, stored: self.place.length, variant: 0 }
    }
}

/// The compressed data blocks of an image that is compressed with gzip.
pub(crate) fn data_blocks(path: &Path) -> Vec<Block> {
    let bytes = fs::read(path).expect("the image");
    let index = Index::read(path).expect("an image of mksquashfs");
    let data = |block: &&IndexBlock| {
        block.compressed && matches!(block.kind, BlockKind::Data | BlockKind::Fragment)
    };
    index
        .blocks
        .iter()
        .filter(data)
        .map(|place| {
            let begin = usize::try_from(place.offset).expect("a small image");
            let end = usize::try_from(place.end()).expect("a small image");
            let stored = bytes[begin..end].to_vec();
            let plain = inflate(&stored, index.superblock.block_size);
            Block { place: *place, stored, plain }
        })
        .collect()
}

fn inflate(stored: &[u8], block_size: u32) -> Vec<u8> {
    let mut plain = Vec::with_capacity(usize::try_from(block_size).expect("at most 1 MiB"));
    flate2::Decompress::new(true)
        .decompress_vec(stored, &mut plain, flate2::FlushDecompress::Finish)
        .expect("a block of gzip");
    plain
}

/// Bytes that can't be compressed, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}
