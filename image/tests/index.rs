//! Indexes of real images: they cover every byte, and find every block.

mod mksquashfs;

use std::fs;
use std::path::Path;

use mksquashfs::{Tree, number_at};
use shoal_image::{BlockKind, Index, Problem};

fn index(path: &Path) -> Index {
    Index::read(path).expect("a good image")
}

/// Bytes that no compressor makes smaller.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..length).map(|_| next()).collect()
}

fn count(index: &Index, kind: fn(BlockKind) -> bool) -> usize {
    index.blocks.iter().filter(|block| kind(block.kind)).count()
}

fn data(index: &Index) -> usize {
    count(index, |kind| kind == BlockKind::Data)
}

#[test]
fn every_byte_is_covered_once_and_hashed() {
    let tree = Tree::debian();
    tree.file("noise", &noise(700_000, 1));
    for options in [
        &["-comp", "gzip"][..],
        &["-comp", "zstd", "-b", "4096"],
        &["-comp", "xz", "-b", "1M", "-Xbcj", "x86"],
        &["-comp", "zstd", "-noI", "-noD", "-noF"],
        &["-comp", "gzip", "-no-fragments", "-no-exports"],
    ] {
        let path = tree.image(options);
        let bytes = fs::read(&path).expect("the image");
        let index = index(&path);
        let mut at = 0;
        for block in &index.blocks {
            assert_eq!(block.offset, at, "{options:?}");
            let begin = usize::try_from(block.offset).expect("small");
            let end = usize::try_from(block.end()).expect("small");
            let hash: [u8; 32] = blake3::hash(&bytes[begin..end]).into();
            assert_eq!(block.hash, hash, "{options:?}");
            at = block.end();
        }
        assert_eq!(at, index.size);
        let raw = index.blocks.iter().filter(|block| block.kind == BlockKind::Raw);
        let raw: u64 = raw.map(|block| u64::from(block.length)).sum();
        // The superblock, the tables' indexes, and zeros up to the next 4 KiB.
        assert!(raw < 5000, "{options:?}: {raw} raw bytes");
        assert_eq!(Index::decode(&index.encode()).as_ref(), Ok(&index), "{options:?}");
        assert_eq!(index.shared_bytes(&index), index.size);
    }
}

#[test]
fn file_data_is_found_and_holes_are_not() {
    let tree = Tree::new();
    tree.file("one", &noise(300_000, 1));
    tree.file("same", &noise(300_000, 1));
    let mut sparse = vec![0; 400_000];
    sparse.extend(noise(131_072, 2));
    tree.file("sparse", &sparse);
    let found = index(&tree.image(&["-comp", "zstd", "-always-use-fragments"]));
    // Two of `one`; `same` is the same; of `sparse` three are holes. One fragment has both ends.
    assert_eq!(data(&found), 3);
    assert_eq!(count(&found, |kind| kind == BlockKind::Fragment), 1);
    let whole = index(&tree.image(&["-comp", "zstd", "-no-fragments", "-no-duplicates"]));
    assert_eq!(data(&whole), 3 + 3 + 2);
}

#[test]
fn a_change_is_seen_as_what_it_is() {
    let tree = Tree::debian();
    tree.file("noise", &noise(1_000_000, 3));
    let old = index(&tree.image(&["-comp", "gzip"]));
    let mut changed = noise(1_000_000, 3);
    changed[500_000] ^= 1;
    tree.file("noise", &changed);
    let new = index(&tree.image(&["-comp", "gzip"]));
    let lost = new.size - new.shared_bytes(&old);
    assert!((131_072..150_000).contains(&lost), "{lost} bytes are new");
}

#[test]
fn what_can_not_be_is_left_out_or_refused() {
    let tree = Tree::debian();
    let path = tree.image(&["-comp", "gzip", "-noI", "-noD"]);
    let good = fs::read(&path).expect("the image");
    let inodes = number_at(&good, 64);
    // The first inode is that of a directory or link; a file with data comes soon.
    let start = (inodes + 2..good.len() - 32)
        .find(|at| {
            good[*at..*at + 2] == [2, 0] && good[at + 28..at + 32] == 300_064_u32.to_le_bytes()
        })
        .expect("the program's inode");
    let mut far = good.clone();
    far[start + 16..start + 20].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&path, &far).expect("a copy");
    let without = index(&path);
    assert_eq!(without.blocks.last().map(shoal_image::IndexBlock::end), Some(without.size));

    let mut endless = good.clone();
    endless[start + 28..start + 32].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&path, &endless).expect("a copy");
    let error = Index::read(&path).expect_err("its inodes are too short");
    assert!(matches!(error.problem, Problem::Damaged { .. }), "{error}");
}

#[test]
fn an_encoded_index_is_read_with_care() {
    let tree = Tree::debian();
    let whole = index(&tree.image(&["-comp", "zstd"])).encode();
    for cut in 0..whole.len() {
        Index::decode(&whole[..cut]).expect_err("cut short");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        // It may be another good index, but never a panic.
        let _ = Index::decode(&changed);
    }
    Index::decode(&[&whole[..], &[0]].concat()).expect_err("too long");
}
