//! Blocks of the real mksquashfs, each of which must come out again.
#![allow(clippy::disallowed_methods, reason = "the images under test are made by the real tool")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::metadata::{Reader, Region};
use crate::problem::Part;
use crate::superblock::Superblock;

/// Programs, text and bytes that can't be compressed, of lengths that leave ends.
fn tree(root: &Path) {
    let mut noise = 1_u32;
    let mut random = move || {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        noise.to_le_bytes()[0]
    };
    fs::create_dir_all(root.join("etc")).unwrap();
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    fs::write(root.join("program"), &program[..program.len().min(1_500_001)]).unwrap();
    fs::write(root.join("noise"), (0..200_000).map(|_| random()).collect::<Vec<u8>>()).unwrap();
    for number in 0..700 {
        let length = 40 + usize::from(random()) * 60;
        let text: Vec<u8> =
            (0..length).map(|_| b"etaoin shrdlu\n"[usize::from(random() % 14)]).collect();
        // Small directories have inodes of one length.
        let dir = root.join(format!("etc/{}", number / 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{number}-{}", random())), text).unwrap();
    }
}

/// How many compressed blocks an image has, and how many of them did not come out again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    data: u32,
    metadata: u32,
    different: u32,
}

fn recompress(image: &Path) -> Count {
    let file = File::open(image).unwrap();
    let mut head = vec![0; 2048];
    file.read_exact_at(&mut head, 0).unwrap();
    let superblock = Superblock::parse(&head, file.metadata().unwrap().len()).unwrap();
    let mut options = Vec::new();
    if superblock.flags.compressor_options() {
        let length = usize::from(u16::from_le_bytes([head[96], head[97]]) & 0x7fff);
        options = head[98..98 + length].to_vec();
    }
    let mut recompressor =
        Recompressor::new(superblock.compressor, &options, superblock.block_size).unwrap();
    let mut count = Count::default();
    let mut check = |stored: &[u8], limit, of| {
        let plain = superblock.compressor.decompress(stored, limit).unwrap();
        let variant = if of == Of::Data { recompressor.variant_of(stored) } else { 0 };
        let again = recompressor.compress(&plain, of, variant);
        match of {
            Of::Data => count.data += 1,
            Of::Metadata => count.metadata += 1,
        }
        count.different += u32::from(again.as_deref() != Some(stored));
        plain
    };
    let block_size = usize::try_from(superblock.block_size).unwrap();
    let mut reader = Reader::new(&file, superblock.compressor, 100_000);
    let mut inodes = Vec::new();
    let mut at = superblock.inode_table;
    // Inodes, then directories up to the fragment table.
    while at < superblock.directory_table {
        let region = Region { part: Part::Inodes, start: at, end: superblock.directory_table };
        let block = reader.block(&region, at).unwrap();
        let mut stored = vec![0; usize::try_from(block.next - at).unwrap()];
        file.read_exact_at(&mut stored, at).unwrap();
        if stored[1] & 0x80 == 0 {
            check(&stored[2..], BLOCK_LEN, Of::Metadata);
        }
        inodes.extend(block.plain);
        at = block.next;
    }
    for (offset, stored) in data_blocks(&inodes, superblock.block_size) {
        if stored & (1 << 24) == 0 && stored > 0 {
            let mut bytes = vec![0; usize::try_from(stored).unwrap()];
            file.read_exact_at(&mut bytes, offset).unwrap();
            check(&bytes, block_size, Of::Data);
        }
    }
    count
}

/// Offset and stored length of the blocks of plain files.
fn data_blocks(inodes: &[u8], block_size: u32) -> Vec<(u64, u32)> {
    let u32_at = |at: usize| u32::from_le_bytes(inodes[at..at + 4].try_into().unwrap());
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < inodes.len() {
        match inodes[at] {
            1 => at += 32,
            2 => {
                let (start, fragment, size) = (u32_at(at + 16), u32_at(at + 20), u32_at(at + 28));
                let count = if fragment == u32::MAX {
                    size.div_ceil(block_size)
                } else {
                    size / block_size
                };
                at += 32;
                let mut offset = u64::from(start);
                for _ in 0..count {
                    blocks.push((offset, u32_at(at)));
                    offset += u64::from(u32_at(at) & 0xff_ffff);
                    at += 4;
                }
            }
            kind => panic!("no such inode in this image: {kind}"),
        }
    }
    blocks
}

#[test]
fn every_block_of_mksquashfs_comes_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    tree(&root);
    let table: &[&[&str]] = &[
        &["-comp", "gzip"],
        &["-comp", "gzip", "-Xcompression-level", "1", "-Xwindow-size", "8"],
        &["-comp", "gzip", "-Xcompression-level", "6", "-Xwindow-size", "12", "-b", "4096"],
        &["-comp", "gzip", "-b", "1M"],
        &["-comp", "xz"],
        &["-comp", "xz", "-b", "4096"],
        &["-comp", "xz", "-b", "1M"],
        &["-comp", "xz", "-Xbcj", "x86"],
        &["-comp", "xz", "-Xbcj", "x86,arm,powerpc", "-Xdict-size", "50%", "-b", "256K"],
        &["-comp", "xz", "-Xdict-size", "24K"],
        &["-comp", "zstd"],
        &["-comp", "zstd", "-b", "4096"],
        &["-comp", "zstd", "-b", "1M"],
        &["-comp", "zstd", "-Xcompression-level", "1"],
        &["-comp", "zstd", "-Xcompression-level", "3"],
        &["-comp", "zstd", "-Xcompression-level", "19", "-b", "1M"],
        &["-comp", "zstd", "-Xcompression-level", "22"],
    ];
    for options in table {
        let image = dir.path().join("image.squashfs");
        let output = Command::new("mksquashfs")
            .args([&root, &image])
            .args(["-noappend", "-no-progress", "-quiet", "-all-root", "-no-fragments"])
            .args(*options)
            .output()
            .expect("mksquashfs can be run; install squashfs-tools");
        assert!(output.status.success(), "{options:?}: {output:?}");
        let count = recompress(&image);
        assert!(count.data > 600 && count.metadata > 1, "{options:?}: {count:?}");
        assert_eq!(count.different, 0, "{options:?}: {count:?}; the libraries are {}", codecs());
    }
}

#[test]
fn options_that_nobody_writes_are_refused() {
    use Compressor::{Gzip, Xz, Zstd};
    let table: &[(Compressor, &[u8])] = &[
        (Gzip, &[9, 0, 0, 0]),
        (Gzip, &[0, 0, 0, 0, 15, 0, 0, 0]),
        (Gzip, &[10, 0, 0, 0, 15, 0, 0, 0]),
        (Gzip, &[9, 0, 0, 0, 7, 0, 0, 0]),
        (Gzip, &[9, 0, 0, 0, 0, 1, 0, 0]),
        (Xz, &[0, 0, 0, 0]),
        (Xz, &[255, 15, 0, 0, 0, 0, 0, 0]),
        (Xz, &[0, 0, 0, 0xff, 0, 0, 0, 0]),
        (Zstd, &[0; 4]),
        (Zstd, &[23, 0, 0, 0]),
        (Zstd, &[0xff; 4]),
        (Zstd, &[3, 0, 0]),
    ];
    for (compressor, options) in table {
        let made = Recompressor::new(*compressor, options, 131_072);
        assert!(made.is_none(), "{compressor} {options:?}");
    }
}

#[test]
fn what_compression_does_not_make_smaller_is_no_block() {
    for compressor in [Compressor::Gzip, Compressor::Xz, Compressor::Zstd] {
        let mut recompressor = Recompressor::new(compressor, &[], 4096).unwrap();
        for plain in [&[][..], b"few", &[0; 8193]] {
            assert_eq!(recompressor.compress(plain, Of::Data, 0), None, "{compressor}");
        }
        assert_eq!(recompressor.compress(&[0; 4097], Of::Data, 0), None, "{compressor}");
        assert!(recompressor.compress(&[0; 4097], Of::Metadata, 0).is_some(), "{compressor}");
    }
    let mut xz = Recompressor::new(Compressor::Xz, &[], 4096).unwrap();
    assert_eq!(xz.compress(&[0; 4096], Of::Data, 77), None, "no filter has that number");
}

#[test]
fn every_library_has_a_version() {
    let codecs = codecs();
    let versions: Vec<&str> =
        codecs.split(", ").filter_map(|part| part.split(' ').nth(1)).collect();
    assert_eq!(versions.len(), 3, "{codecs}");
    assert!(versions.iter().all(|version| version.split('.').count() >= 3), "{codecs}");
}
