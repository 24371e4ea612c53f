//! What changed between real images, and what is found in them.

mod mksquashfs;

use std::fs;
use std::path::{Path, PathBuf};

use mksquashfs::Tree;
use shoal_image::{Change, Diff, DiffError, Field, Lint, diff, lint};

/// Files of all kinds, hard links and holes among them.
fn before() -> Tree {
    let tree = Tree::debian();
    tree.file("opt/large", &noise(1, 700_000));
    tree.file("opt/grown", &noise(2, 200_000));
    tree.file("opt/gone", b"away\n");
    tree.file("opt/sparse", &[vec![0; 600_000], noise(3, 1000)].concat());
    fs::hard_link(tree.root().join("opt/large"), tree.root().join("opt/linked")).expect("links");
    tree.link("opt/link", "large");
    tree
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(byte).collect()
}

/// The image of a tree under a name of its own, with its devices, all times fixed.
fn image(tree: &Tree, name: &str, options: &[&str]) -> PathBuf {
    let common = [
        "-mkfs-time",
        "1700000000",
        "-p",
        "dev d 755 0 0",
        "-p",
        "dev/null c 666 0 0 1 3",
        "-p",
        "dev/pipe i 600 0 0 f",
    ];
    let made = tree.image(&[&common[..], options].concat());
    let kept = tree.beside(name);
    fs::rename(made, &kept).expect("the same directory");
    kept
}

const FIXED: &[&str] = &["-all-time", "1600000000"];

fn compare(old: &Path, new: &Path) -> Diff {
    diff(old, new, false, &mut |_, _| true).expect("two images")
}

fn change<'a>(found: &'a Diff, path: &str) -> &'a Change {
    let change = found.changes.iter().find(|change| change.path == path);
    change.unwrap_or_else(|| panic!("{path} is not among {:?}", found.changes))
}

#[test]
fn an_image_does_not_differ_from_itself() {
    let tree = before();
    for compressor in ["gzip", "xz", "zstd"] {
        let old = image(&tree, "old", &[FIXED, &["-comp", compressor]].concat());
        let found = compare(&old, &old);
        assert_eq!((found.changes.len(), found.times_only), (0, 0), "{compressor}");
        assert!(found.unchanged > 400, "{}", found.unchanged);
    }
}

#[test]
fn content_is_compared_whatever_it_is_stored_in() {
    let tree = before();
    let old = image(&tree, "old", &[FIXED, &["-comp", "gzip"]].concat());
    for options in [
        &["-comp", "zstd"][..],
        &["-comp", "gzip", "-b", "4096"],
        &["-comp", "xz", "-no-fragments"],
        &["-comp", "gzip", "-noD", "-noF", "-b", "1M"],
    ] {
        let new = image(&tree, "new", &[FIXED, options].concat());
        let found = compare(&old, &new);
        assert_eq!(found.changes, [], "{options:?}");
        let found = compare(&new, &old);
        assert_eq!(found.changes, [], "{options:?}");
    }
}

#[test]
fn every_kind_of_change_is_told() {
    let tree = before();
    let old = image(&tree, "old", FIXED);
    let mut large = noise(1, 700_000);
    large[650_000] ^= 1;
    tree.file("opt/large", &large);
    tree.file("opt/grown", &noise(2, 200_001));
    fs::remove_file(tree.root().join("opt/gone")).unwrap();
    tree.file("opt/came", b"here\n");
    fs::remove_file(tree.root().join("opt/link")).unwrap();
    tree.link("opt/link", "grown");
    fs::remove_file(tree.root().join("usr/bin/dash")).unwrap();
    tree.link("usr/bin/dash", "bash");
    let more = ["-p", "usr/share/doc/7/readme m 600 0 0"];
    let new = image(&tree, "new", &[FIXED, &more].concat());
    let found = compare(&old, &new);
    let paths: Vec<&str> = found.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/opt/came",
            "/opt/gone",
            "/opt/grown",
            "/opt/large",
            "/opt/link",
            "/opt/linked",
            "/usr/bin/dash",
            "/usr/share/doc/7/readme",
        ]
    );
    assert!(change(&found, "/opt/came").old.is_none());
    assert!(change(&found, "/opt/gone").new.is_none());
    let fields = |path| change(&found, path).fields.clone();
    assert_eq!(fields("/opt/large"), [Field::Content]);
    assert_eq!(fields("/opt/linked"), [Field::Content], "it is the same file");
    assert_eq!(fields("/opt/grown"), [Field::Content]);
    assert_eq!(fields("/opt/link"), [Field::Target]);
    assert_eq!(fields("/usr/share/doc/7/readme"), [Field::Mode]);
    assert!(fields("/usr/bin/dash").contains(&Field::Kind));
    let grown = change(&found, "/opt/grown");
    let sizes = [&grown.old, &grown.new].map(|side| side.as_ref().unwrap().size);
    assert_eq!(sizes, [200_000, 200_001]);
    let link = change(&found, "/opt/link").new.as_ref().unwrap();
    assert_eq!((link.kind, link.target.as_deref()), ("symlink", Some("grown")));
}

#[test]
fn owners_are_compared_by_what_the_table_says() {
    let tree = Tree::new();
    tree.file("a", b"a");
    let old = image(&tree, "old", &[FIXED, &["-noI"]].concat());
    let mut bytes = fs::read(&old).unwrap();
    // The table of ids: one block, plain, of the one id that -all-root leaves.
    let first = mksquashfs::number_at(&bytes, mksquashfs::number_at(&bytes, 48));
    assert_eq!(bytes[first..first + 6], [4, 0x80, 0, 0, 0, 0]);
    bytes[first + 2] = 7;
    let new = tree.beside("new");
    fs::write(&new, bytes).unwrap();
    let found = compare(&old, &new);
    assert!(found.unchanged == 0 && found.changes.len() == 5, "{:?}", found.changes);
    assert!(found.changes.iter().all(|change| change.fields == [Field::Owner]));
    let owners = found.changes[1].new.as_ref().map(|side| (side.uid, side.gid));
    assert_eq!(owners, Some((7, 7)));
}

#[test]
fn times_alone_are_counted_and_listed_where_asked_for() {
    let tree = before();
    let old = image(&tree, "old", FIXED);
    let new = image(&tree, "new", &["-all-time", "1600000001"]);
    let found = compare(&old, &new);
    assert_eq!((found.changes.len(), found.unchanged), (0, 0));
    let all = diff(&old, &new, true, &mut |_, _| true).unwrap();
    assert_eq!(u64::try_from(all.changes.len()).unwrap(), found.times_only);
    assert!(all.changes.iter().all(|change| change.fields == [Field::Time]));
}

#[test]
fn a_comparison_can_be_called_off_and_needs_images() {
    let tree = before();
    let old = image(&tree, "old", FIXED);
    let cancelled = diff(&old, &old, false, &mut |_, _| false);
    assert!(matches!(cancelled, Err(DiffError::Cancelled)));
    let none = tree.beside("none");
    fs::write(&none, b"#!/bin/sh\n").unwrap();
    let error = diff(&old, &none, false, &mut |_, _| true).unwrap_err().to_string();
    assert!(error.contains("none is not a squashfs file"), "{error}");
}

/// Whatever byte of the tables is wrong, it is said or does no harm; nothing hangs or panics.
#[test]
fn damaged_tables_are_survived() {
    let tree = Tree::new();
    for number in 0..40 {
        tree.file(&format!("d{}/f{number}", number % 4), &noise(number, 300));
    }
    let old = image(&tree, "old", &[FIXED, &["-noI", "-noX", "-noF", "-comp", "gzip"]].concat());
    let bytes = fs::read(&old).unwrap();
    let tables = mksquashfs::number_at(&bytes, 64);
    let new = tree.beside("new");
    let mut refused = 0;
    for at in (tables..bytes.len().min(tables + 6000)).step_by(3) {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 0xff;
        fs::write(&new, spoilt).unwrap();
        refused += u32::from(diff(&old, &new, true, &mut |_, _| true).is_err());
        let _ = lint(&new, &mut |_, _| true);
    }
    assert!(refused > 20, "{refused}");
}

fn checks(found: &Lint) -> Vec<&'static str> {
    found.findings.iter().map(|finding| finding.check).collect()
}

fn look(path: &Path) -> Lint {
    lint(path, &mut |_, _| true).expect("an image")
}

const NEAT: &[&str] = &["-all-time", "1600000000", "-no-exports", "-b", "128K"];

#[test]
fn a_neat_image_has_no_findings() {
    let found = look(&image(&before(), "neat", NEAT));
    assert_eq!(found.findings, []);
}

#[test]
fn what_costs_is_found_with_its_price() {
    let tree = before();
    tree.file("var/cache/apt/pkgcache.bin", &noise(9, 90_000));
    tree.file("var/lib/apt/lists/deb", &noise(10, 50_000));
    tree.file("var/log/dpkg.log", b"installed\n");
    tree.file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    tree.file("etc/ssh/ssh_host_ed25519_key", b"secret");
    tree.file("usr/share/app.jar", &noise(11, 100_000));
    tree.file("usr/share/app2", &noise(1, 700_000));
    let options = ["-all-time", "1600000000", "-b", "1M", "-no-duplicates", "-no-fragments"];
    let found = look(&image(&tree, "costly", &options));
    let mut all = checks(&found);
    all.sort_unstable();
    assert_eq!(
        all,
        [
            "block-size",
            "compressed-files",
            "duplicates",
            "export-table",
            "logs",
            "machine-id",
            "machine-keys",
            "no-fragments",
            "package-cache",
            "package-lists",
        ]
    );
    let of = |check: &str| found.findings.iter().find(|finding| finding.check == check).unwrap();
    assert!(of("duplicates").bytes >= Some(700_000));
    assert!((90_000..92_000).contains(&of("package-cache").bytes.unwrap()));
    assert_eq!(of("package-cache").paths, ["/var/cache/apt/pkgcache.bin"]);
    assert_eq!(found.findings[0].check, "duplicates", "the dearest first");
    assert!(of("export-table").bytes.is_some_and(|bytes| bytes > 100));
}

#[test]
fn blocks_that_cant_be_made_again_are_found() {
    let tree = before();
    for number in 0..40 {
        let text: Vec<u8> =
            (0..40_000_u32).flat_map(|at| (at * number / 7).to_le_bytes()).collect();
        tree.file(&format!("opt/text{number}"), &text);
    }
    // The level stands in the image, and is read from there.
    for options in [&["-comp", "zstd"][..], &["-comp", "zstd", "-Xcompression-level", "3"]] {
        let found = look(&image(&tree, "made", &[NEAT, options].concat()));
        assert_eq!(found.findings, [], "{options:?}");
    }
    // Blocks of one level in an image that says another.
    let path =
        image(&tree, "other", &[NEAT, &["-comp", "zstd", "-Xcompression-level", "3"]].concat());
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[96..102], [4, 0x80, 3, 0, 0, 0]);
    bytes[98] = 19;
    fs::write(&path, bytes).unwrap();
    let found = look(&path);
    assert_eq!(checks(&found), ["rebuild"]);
    assert!(found.findings[0].bytes > Some(found.size / 2), "{found:?}");
}

#[test]
fn times_of_the_making_are_found() {
    let tree = before();
    // Without fixed times: the files are of this moment, and so is the image.
    let found = look(&tree.image(&["-no-exports"]));
    assert_eq!(checks(&found), ["times", "mkfs-time"], "{:?}", found.findings);
    let fixed = look(&tree.image(&["-no-exports", "-mkfs-time", "1700000000"]));
    assert_eq!(checks(&fixed), ["times"]);
}
