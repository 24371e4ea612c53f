//! Real images, whole and spoilt, through the public check.

mod mksquashfs;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mksquashfs::{DEBIAN, ELF_ARM64, ELF_X86_64, Tree, inspect_bytes, number_at};
use shoal_image::{Compressor, ImageError, Platform, Problem, inspect};

const COMPRESSORS: [(&str, Compressor); 3] =
    [("gzip", Compressor::Gzip), ("xz", Compressor::Xz), ("zstd", Compressor::Zstd)];

fn debian() -> Platform {
    Platform {
        os_id: Some("debian".to_owned()),
        os_version: Some("12".to_owned()),
        os_name: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        architecture: Some("x86-64".to_owned()),
    }
}

fn platform_of(tree: &Tree, options: &[&str]) -> Platform {
    inspect(&tree.image(options)).expect("a good image").platform
}

fn problem(path: &Path) -> ImageError {
    inspect(path).expect_err("not a good image")
}

#[test]
fn every_compressor_is_read() {
    let tree = Tree::debian();
    for (name, compressor) in COMPRESSORS {
        let image = tree.image(&["-comp", name, "-mkfs-time", "1700000000"]);
        let info = inspect(&image).expect(name);
        assert_eq!(info.platform, debian(), "{name}");
        assert_eq!(info.superblock.compressor, compressor);
        assert_eq!(info.superblock.block_size, 131_072);
        assert_eq!(info.superblock.mkfs_time, 1_700_000_000);
        assert!(info.superblock.inodes > 400, "{}", info.superblock.inodes);
        assert_eq!(info.size, fs::metadata(&image).unwrap().len());
        assert!(info.superblock.bytes_used <= info.size);
    }
}

#[test]
fn every_way_to_lay_an_image_out_is_read() {
    let tree = Tree::debian();
    let layouts: [&[&str]; 9] = [
        &["-comp", "zstd", "-Xcompression-level", "19"],
        &["-comp", "xz", "-Xbcj", "x86", "-Xdict-size", "100%", "-b", "1M"],
        &["-comp", "gzip", "-Xcompression-level", "1", "-b", "4096"],
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-no-exports", "-no-xattrs"],
        &["-noI", "-noD", "-noF", "-noX"],
        &["-nopad", "-no-duplicates"],
        &["-no-exports", "-no-fragments", "-b", "8192"],
    ];
    for options in layouts {
        assert_eq!(platform_of(&tree, options), debian(), "{options:?}");
    }
}

#[test]
fn extended_attributes_are_walked_over() {
    let tree = Tree::debian();
    let marked = tree.root().join("usr/bin/dash");
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&marked, name, value, rustix::fs::XattrFlags::empty())
    };
    if set("user.shoal", b"a value").is_err() {
        // The file system of the temporary directory keeps none; the table can't be made here.
        eprintln!("no extended attributes in {}", marked.display());
        return;
    }
    let image = tree.image(&["-comp", "zstd", "-xattrs"]);
    let mut bytes = fs::read(&image).unwrap();
    let table = number_at(&bytes, 56);
    assert!(table < bytes.len(), "the image has a table of them");
    assert_eq!(inspect(&image).unwrap().platform, debian());
    let start = number_at(&bytes, table);
    bytes[start..start + 2].fill(0);
    let text = inspect_bytes(&tree.beside("spoilt"), &bytes).expect_err("a spoilt table");
    assert!(text.contains("the xattr table"), "{text}");
}

#[test]
fn an_image_without_a_file_has_no_platform() {
    for (name, _) in COMPRESSORS {
        let info = inspect(&Tree::new().image(&["-comp", name])).expect(name);
        assert_eq!(info.platform, Platform::default());
        assert_eq!(info.superblock.inodes, 1);
    }
}

#[test]
fn os_release_is_found_through_links() {
    let links: [&[(&str, &str)]; 4] = [
        &[("etc/os-release", "../usr/lib/os-release")],
        &[("etc/os-release", "/usr/lib/os-release")],
        &[("etc/os-release", "../../../..//usr/./lib/os-release")],
        &[
            ("etc", "private/etc"),
            ("private/etc/os-release", "a"),
            ("private/etc/a", "/lib/os-release"),
            ("lib", "usr/lib"),
        ],
    ];
    for links in links {
        let tree = Tree::new();
        tree.file("usr/lib/os-release", DEBIAN.as_bytes());
        links.iter().for_each(|(path, target)| tree.link(path, target));
        assert_eq!(platform_of(&tree, &[]).os_id.as_deref(), Some("debian"), "{links:?}");
    }
}

#[test]
fn links_that_lead_nowhere_or_round_are_no_error() {
    let links: [&[(&str, &str)]; 4] = [
        &[("etc/os-release", "os-release")],
        &[("etc/os-release", "a"), ("etc/a", "os-release")],
        &[("etc/os-release", "../usr/lib/missing")],
        &[("etc/os-release", "/"), ("bin", "bin"), ("sbin", "/dev/null/x")],
    ];
    for links in links {
        let tree = Tree::new();
        links.iter().for_each(|(path, target)| tree.link(path, target));
        assert_eq!(platform_of(&tree, &[]), Platform::default(), "{links:?}");
    }
}

#[test]
fn without_an_os_release_the_architecture_is_still_read() {
    let tree = Tree::new();
    tree.file("bin/sh", b"#!/bin/busybox sh\n");
    tree.file("bin/busybox", &ELF_ARM64);
    let platform = platform_of(&tree, &["-comp", "xz"]);
    assert_eq!(platform.os_id, None);
    assert_eq!(platform.architecture.as_deref(), Some("arm64"));
}

#[test]
fn a_long_os_release_is_read_over_blocks_up_to_its_limit() {
    let comment = |length: usize| format!("#{}\n", "x".repeat(length));
    let table =
        [(100, Some("debian")), (4096, Some("debian")), (40_000, Some("debian")), (70_000, None)];
    for (length, expected) in table {
        for options in
            [&["-b", "4096"][..], &["-b", "4096", "-no-fragments"], &["-b", "1M", "-noF"]]
        {
            let tree = Tree::new();
            tree.file("etc/os-release", format!("{}{DEBIAN}", comment(length)).as_bytes());
            assert_eq!(
                platform_of(&tree, options).os_id.as_deref(),
                expected,
                "{length} {options:?}"
            );
        }
    }
}

#[test]
fn a_file_with_holes_is_read() {
    let tree = Tree::new();
    tree.file("etc/os-release", &[&[0; 8192], DEBIAN.as_bytes()].concat());
    // The zeros are a hole in the image; without a line end they belong to the first line.
    assert_eq!(platform_of(&tree, &["-b", "4096"]).os_version.as_deref(), Some("12"));
}

#[test]
fn a_directory_of_thousands_is_searched() {
    let tree = Tree::new();
    for number in 0..3000 {
        tree.file(&format!("usr/bin/a-program-with-a-longer-name-{number}"), b"");
    }
    tree.link("bin", "usr/bin");
    tree.file("usr/bin/sh", &ELF_X86_64);
    tree.file("etc/os-release", DEBIAN.as_bytes());
    let info = inspect(&tree.image(&["-comp", "zstd"])).unwrap();
    assert_eq!(info.platform, debian());
    assert_eq!(info.superblock.inodes, 3007);
}

#[test]
fn a_truncated_image_says_how_much_is_missing() {
    let tree = Tree::debian();
    for (name, _) in COMPRESSORS {
        let image = tree.image(&["-comp", name]);
        let bytes = fs::read(&image).unwrap();
        let used = number_at(&bytes, 40);
        let lengths = (0..200).chain((200..used).step_by(997)).chain(used - 20..used);
        for length in lengths {
            let text = inspect_bytes(&tree.beside("cut"), &bytes[..length]).expect_err("cut");
            let expected = match length {
                0 => "is empty".to_owned(),
                1..4 => "is not a squashfs file".to_owned(),
                4..96 => format!("is truncated: it ends after {length} bytes"),
                _ => format!("is truncated: {} of its {used} bytes are missing", used - length),
            };
            assert!(text.contains(&expected), "{name} {length}: {text}");
        }
    }
}

#[test]
fn padding_is_zeros_and_not_too_long() {
    let tree = Tree::debian();
    let image = tree.image(&["-nopad"]);
    let bytes = fs::read(&image).unwrap();
    assert_eq!(number_at(&bytes, 40), bytes.len(), "without padding");
    let padded =
        |padding: &[u8]| inspect_bytes(&tree.beside("padded"), &[&bytes, padding].concat());
    for length in [0, 1, 4095, 4096, 1 << 20] {
        let info = padded(&vec![0; length]).expect("padding");
        assert_eq!(info.size, u64::try_from(bytes.len() + length).unwrap());
    }
    for padding in [&b"x"[..], &[0, 0, 0, 7], &[0; (1 << 20) + 1]] {
        let text = padded(padding).expect_err("trailing data");
        let expected = format!("has trailing data: the image ends at byte {}", bytes.len());
        assert!(text.contains(&expected), "{text}");
    }
}

#[test]
fn a_hole_in_the_tables_is_found() {
    let tree = Tree::debian();
    for (name, _) in COMPRESSORS {
        let image = tree.image(&["-comp", name]);
        let bytes = fs::read(&image).unwrap();
        let (start, end) = (number_at(&bytes, 64), number_at(&bytes, 40));
        for hole in (start..end - 64).step_by(512) {
            let mut spoilt = bytes.clone();
            spoilt[hole..end.min(hole + 4096)].fill(0);
            let text = inspect_bytes(&tree.beside("hole"), &spoilt).expect_err("a hole");
            assert!(text.contains("is damaged: the"), "{name} {hole}: {text}");
            assert!(text.ends_with("copy or build it again"), "{text}");
        }
    }
}

/// Whatever stands in a file, the check ends soon, and with an answer.
#[test]
fn flipped_bits_never_panic_or_hang() {
    let tree = Tree::debian();
    let began = Instant::now();
    for (name, _) in COMPRESSORS {
        let bytes = fs::read(tree.image(&["-comp", name])).unwrap();
        let (tables, used) = (number_at(&bytes, 64), number_at(&bytes, 40));
        // Most flips go where structure is: the superblock, and the tables at the end.
        let places =
            (4..96).chain((tables..used).step_by((used - tables) / 200)).chain(used - 64..used);
        for (turn, place) in places.enumerate() {
            let mut spoilt = bytes.clone();
            spoilt[place] ^= [0x01, 0x80, 0xff, 0x10][turn % 4];
            if let Err(text) = inspect_bytes(&tree.beside("flipped"), &spoilt) {
                assert!(text.contains(" is ") || text.contains(" h"), "{name} {place}: {text}");
            }
        }
    }
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
}

/// Without compression every flip reaches the inodes and directories themselves.
#[test]
fn flipped_bits_in_plain_tables_never_panic_or_hang() {
    let tree = Tree::debian();
    let bytes = fs::read(tree.image(&["-noI", "-noF", "-noX"])).unwrap();
    let (tables, used) = (number_at(&bytes, 64), number_at(&bytes, 40));
    let mut refused = 0;
    for (turn, place) in (tables..used).step_by((used - tables) / 1500).enumerate() {
        let mut spoilt = bytes.clone();
        spoilt[place] ^= [0xff, 0x80, 0x01][turn % 3];
        refused += usize::from(inspect_bytes(&tree.beside("flipped"), &spoilt).is_err());
    }
    assert!(refused > 0, "flips in headers are found");
}

#[test]
fn other_files_are_named() {
    let tree = Tree::new();
    let mut tar = vec![0; 2048];
    tar[257..262].copy_from_slice(b"ustar");
    let mut ext4 = vec![0; 4096];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let table: [(&str, &[u8], &str); 8] = [
        (
            "rootfs.tar",
            &tar,
            "is not a squashfs file: it starts like a tar archive (`ustar`); unpack it, and make an image with `mksquashfs DIR NAME.squashfs -comp zstd`",
        ),
        ("rootfs.tar.gz", &[0x1f, 0x8b, 8, 0], "gzip data"),
        ("rootfs.tar.zst", &[0x28, 0xb5, 0x2f, 0xfd], "zstd data"),
        ("rootfs.ext4", &ext4, "an ext2, ext3 or ext4 file system"),
        ("init", &ELF_X86_64, "an ELF program"),
        ("404.squashfs", b"<html>not found</html>\n", "text, perhaps an error page"),
        ("hole.squashfs", &[0; 9000], "it starts with zeros"),
        ("random.squashfs", &[0x9c, 0x01, 0xff, 0x33, 0x17], "the bytes 9c 01 ff 33; make"),
    ];
    for (name, bytes, words) in table {
        let path = tree.beside(name);
        let text = inspect_bytes(&path, bytes).expect_err(name);
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn big_endian_and_older_versions_are_refused() {
    let tree = Tree::debian();
    let bytes = fs::read(tree.image(&[])).unwrap();
    let mut big = bytes.clone();
    big[..4].copy_from_slice(b"sqsh");
    let text = inspect_bytes(&tree.beside("big"), &big).expect_err("big-endian");
    assert!(text.contains("is a big-endian squashfs"), "{text}");
    for (version, words) in [([3, 0, 1, 0], "version 3.1"), ([1, 0, 0, 0], "version 1.0")] {
        let mut old = bytes.clone();
        old[28..32].copy_from_slice(&version);
        let text = inspect_bytes(&tree.beside("old"), &old).expect_err("too old");
        assert!(text.contains(words) && text.contains("only version 4.0"), "{text}");
    }
}

#[test]
fn unusual_compressors_are_refused_by_name() {
    let tree = Tree::debian();
    let mut bytes = fs::read(tree.image(&[])).unwrap();
    bytes[20] = 5;
    let text = inspect_bytes(&tree.beside("lz4"), &bytes).expect_err("lz4");
    assert!(text.contains("is compressed with lz4, and only gzip, xz and zstd"), "{text}");
}

#[test]
fn what_is_no_file_is_refused() {
    let tree = Tree::new();
    assert!(matches!(problem(&tree.root()).problem, Problem::Directory));
    assert!(matches!(problem(Path::new("/dev/null")).problem, Problem::NotAFile));
    let missing = problem(&tree.beside("missing"));
    assert!(matches!(missing.problem, Problem::Open { .. }));
    let source = std::error::Error::source(&missing).expect("the system's reason");
    assert!(source.to_string().contains("No such file"), "{source}");
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let tree = Tree::debian();
    let mut bytes = fs::read(tree.image(&["-noI"])).unwrap();
    // The root's inode is the last one; its kind is the first field.
    let root = number_at(&bytes, 32);
    let at = number_at(&bytes, 64) + (root >> 16) + 2 + (root & 0xffff);
    assert!([1, 8].contains(&bytes[at]), "a directory");
    bytes[at] = 3;
    let text = inspect_bytes(&tree.beside("rootless"), &bytes).expect_err("no root");
    assert!(text.contains("the inode table"), "{text}");
}
