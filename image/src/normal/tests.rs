//! Normal forms of real images: they come back to the bit, and a small change stays small.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::*;
use crate::inspect;
use crate::metadata::{Reader as Blocks, Region};
use crate::problem::Part;
use crate::superblock::SUPERBLOCK_END;
use crate::testing::Tree;

fn superblock(file: &File) -> Superblock {
    let size = file.metadata().unwrap().len();
    Superblock::parse(&inspect::head(file).unwrap(), size).unwrap()
}

fn recompressor(file: &File, superblock: &Superblock) -> Recompressor {
    let mut options = Vec::new();
    if superblock.flags.compressor_options() {
        let (start, end) = (SUPERBLOCK_END, superblock.inode_table);
        let region = Region { part: Part::CompressorOptions, start, end };
        let mut reader = Blocks::new(file, superblock.compressor, 1);
        options = reader.block(&region, start).unwrap().plain;
    }
    Recompressor::new(superblock.compressor, &options, superblock.block_size).unwrap()
}

/// The normal form of an image, after it was seen that it comes back.
fn normal(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let superblock = superblock(&file);
    let normal = of_image(&file, &superblock).unwrap().expect("a regular image");
    let mut recompressor = recompressor(&file, &superblock);
    let stored = to_stored(&normal, &superblock, &mut recompressor).expect("comes back");
    let length = superblock.bytes_used - superblock.inode_table;
    let mut expected = vec![0; usize::try_from(length).unwrap()];
    file.read_exact_at(&mut expected, superblock.inode_table).unwrap();
    assert!(stored == expected, "{} bytes, and {} were expected", stored.len(), expected.len());
    normal
}

fn coded(normal: &[u8]) -> usize {
    zstd::bulk::compress(normal, 19).unwrap().len()
}

#[test]
fn tables_of_all_kinds_come_back() {
    let tree = Tree::debian();
    tree.file("large", &vec![7; 1_000_000]);
    tree.file("usr/share/large", &(0..=255).cycle().take(700_001).collect::<Vec<u8>>());
    tree.file("empty", b"");
    let mut sparse = vec![0; 900_000];
    sparse[500_000] = 1;
    tree.file("sparse", &sparse);
    fs::hard_link(tree.root().join("large"), tree.root().join("usr/share/link")).unwrap();
    fs::hard_link(tree.root().join("usr/share/doc/7/readme"), tree.root().join("a")).unwrap();
    // Two names in one directory.
    tree.file("twice/one", b"one");
    fs::hard_link(tree.root().join("twice/one"), tree.root().join("twice/two")).unwrap();
    tree.file("twice/zoo", b"zoo");
    for name in 0..3000 {
        tree.file(&format!("many/{name}-{}", "x".repeat(name % 90)), b"");
    }
    for options in [
        &["-comp", "gzip"][..],
        &["-comp", "zstd", "-Xcompression-level", "3"],
        &["-comp", "xz", "-b", "4096"],
        &["-comp", "gzip", "-noI", "-noD"],
        &["-comp", "gzip", "-noId"],
        &["-comp", "zstd", "-no-exports", "-no-fragments"],
        &["-comp", "zstd", "-always-use-fragments", "-no-duplicates", "-b", "16384"],
        &["-comp", "gzip", "-no-sparse", "-noX", "-noF", "-nopad"],
        &[
            "-comp",
            "gzip",
            "-p",
            "null c 666 0 0 1 3",
            "-p",
            "disk b 660 0 6 8 0",
            "-p",
            "pipe i 644 1 1 f",
            "-p",
            "socket i 644 7 7 s",
        ],
    ] {
        eprintln!("{options:?}");
        normal(&tree.image(options));
    }
}

#[test]
fn an_image_without_files_comes_back() {
    let tree = Tree::new();
    normal(&tree.image(&["-comp", "gzip"]));
    tree.file("a/b/c/d/e", b"");
    normal(&tree.image(&["-comp", "gzip"]));
}

#[test]
fn a_hundred_thousand_files_come_back() {
    let tree = Tree::new();
    for number in 0..100_000 {
        tree.file(&format!("{}/{number}", number % 97), number.to_string().as_bytes());
    }
    normal(&tree.image(&["-comp", "gzip"]));
}

#[test]
fn one_file_more_changes_little() {
    let tree = Tree::debian();
    let old = normal(&tree.image(&["-comp", "zstd"]));
    tree.file("bin-of-the-new-program", b"in front of nearly all others");
    let new = normal(&tree.image(&["-comp", "zstd"]));
    let mut coder = zstd::bulk::Compressor::with_dictionary(19, &old).unwrap();
    let delta = coder.compress(&new).unwrap().len();
    assert!(delta < 130, "{delta} of {}", coded(&new));
}

#[test]
fn no_bytes_make_it_panic() {
    let tree = Tree::debian();
    let path = tree.image(&["-comp", "gzip"]);
    let file = File::open(&path).unwrap();
    let superblock = superblock(&file);
    let normal = normal(&path);
    let mut recompressor = recompressor(&file, &superblock);
    for at in 0..normal.len() {
        if at % 7 != 0 && at > 300 {
            continue;
        }
        let mut changed = normal.clone();
        changed[at] = changed[at].wrapping_add(91);
        let _ = to_stored(&changed, &superblock, &mut recompressor);
        assert_eq!(to_stored(&normal[..at], &superblock, &mut recompressor), None);
    }
}
