//! Blocks of the real mksquashfs, each of which must come out again.
#![allow(clippy::disallowed_methods, reason = "the images under test are made by the real tool")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::index::{BlockKind, Index, IndexBlock};
use crate::problem::Part;

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
    fs::write(root.join("program"), &program[..program.len().min(1_100_001)]).unwrap();
    fs::write(root.join("noise"), (0..150_000).map(|_| random()).collect::<Vec<u8>>()).unwrap();
    for number in 0..400 {
        let length = 40 + usize::from(random()) * 60;
        let text: Vec<u8> =
            (0..length).map(|_| b"etaoin shrdlu\n"[usize::from(random() % 14)]).collect();
        let dir = root.join(format!("etc/{}", number / 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{number}-{}", random())), text).unwrap();
    }
}

/// How many compressed blocks an image has, and how many of them did not come out again.
#[derive(Debug, Default)]
struct Count {
    data: u32,
    fragments: u32,
    tables: u32,
    different: u32,
}

fn recompress(image: &Path) -> Count {
    let file = File::open(image).unwrap();
    let Index { superblock, blocks, .. } = Index::read(image).unwrap();
    let bytes = |block: &IndexBlock| {
        let mut bytes = vec![0; usize::try_from(block.length).unwrap()];
        file.read_exact_at(&mut bytes, block.offset).unwrap();
        bytes
    };
    let options = BlockKind::Metadata(Part::CompressorOptions);
    let options = blocks.iter().find(|block| block.kind == options);
    let options = options.map(|block| bytes(block)[2..].to_vec()).unwrap_or_default();
    let mut recompressor =
        Recompressor::new(superblock.compressor, &options, superblock.block_size).unwrap();
    let limit = usize::try_from(superblock.block_size).unwrap().max(BLOCK_LEN);
    let mut count = Count::default();
    for block in blocks.iter().filter(|block| block.compressed) {
        let mut stored = bytes(block);
        let variant = match block.kind {
            BlockKind::Metadata(_) => {
                stored.drain(..2);
                count.tables += 1;
                TABLE
            }
            BlockKind::Fragment => {
                count.fragments += 1;
                recompressor.variant_of(&stored)
            }
            BlockKind::Data | BlockKind::Raw => {
                count.data += 1;
                recompressor.variant_of(&stored)
            }
        };
        let plain = superblock.compressor.decompress(&stored, limit).unwrap();
        let again = recompressor.compress(&plain, variant);
        count.different += u32::from(again.as_ref() != Some(&stored));
    }
    count
}

/// Makes an image with each of the options, of which every block has to come out again.
fn every_block_comes_out_again(table: &[&[&str]]) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    tree(&root);
    for options in table {
        let image = dir.path().join("image.squashfs");
        let output = Command::new("mksquashfs")
            .args([&root, &image])
            .args(["-noappend", "-no-progress", "-quiet", "-all-root"])
            .args(*options)
            .output()
            .expect("mksquashfs can be run; install squashfs-tools");
        assert!(output.status.success(), "{options:?}: {output:?}");
        let count = recompress(&image);
        assert!(count.data > 0 && count.tables > 3, "{options:?}: {count:?}");
        assert!(
            count.fragments > 0 || options.contains(&"-no-fragments"),
            "{options:?}: {count:?}"
        );
        assert_eq!(count.different, 0, "{options:?}: {count:?}; the libraries are {}", codecs());
    }
}

#[test]
fn every_block_of_gzip_comes_out_again() {
    every_block_comes_out_again(&[
        &["-comp", "gzip"],
        &["-comp", "gzip", "-Xcompression-level", "1", "-Xwindow-size", "8"],
        &["-comp", "gzip", "-Xcompression-level", "6", "-Xwindow-size", "12", "-b", "4096"],
        &["-comp", "gzip", "-b", "1M", "-no-fragments"],
    ]);
}

#[test]
fn every_block_of_xz_comes_out_again() {
    every_block_comes_out_again(&[
        &["-comp", "xz"],
        &["-comp", "xz", "-b", "4096", "-no-fragments"],
        &["-comp", "xz", "-b", "1M"],
        &["-comp", "xz", "-Xbcj", "x86,arm,powerpc", "-Xdict-size", "50%", "-b", "256K"],
        &["-comp", "xz", "-Xdict-size", "24K", "-b", "64K"],
    ]);
}

#[test]
fn every_block_of_zstd_comes_out_again() {
    every_block_comes_out_again(&[
        &["-comp", "zstd"],
        &["-comp", "zstd", "-b", "4096", "-no-fragments"],
        &["-comp", "zstd", "-b", "1M"],
        &["-comp", "zstd", "-Xcompression-level", "1"],
        &["-comp", "zstd", "-Xcompression-level", "22", "-b", "1M"],
    ]);
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
            assert_eq!(recompressor.compress(plain, 0), None, "{compressor}");
        }
        assert_eq!(recompressor.compress(&[0; 4097], 0), None, "{compressor}");
        assert!(recompressor.compress(&[0; 4097], TABLE).is_some(), "{compressor}");
    }
    let mut xz = Recompressor::new(Compressor::Xz, &[], 4096).unwrap();
    assert_eq!(xz.compress(&[0; 4096], 77), None, "no filter has that number");
}

#[test]
fn every_library_has_a_version() {
    let codecs = codecs();
    let versions: Vec<&str> =
        codecs.split(", ").filter_map(|part| part.split(' ').nth(1)).collect();
    assert_eq!(versions.len(), 3, "{codecs}");
    assert!(versions.iter().all(|version| version.split('.').count() >= 3), "{codecs}");
}
