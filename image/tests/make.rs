//! Recipes of real images: what they cost, and that they make the image again.

mod mksquashfs;

use std::fs;
use std::path::{Path, PathBuf};

use mksquashfs::Tree;
use shoal_image::recipe::{Base, Kind, RecipeFile, limits};
use shoal_image::{
    Assembler, Index, MakeError, MakeOptions, Sha256Sum, Summary, make, make_from_indexes,
    sha256_of, whole,
};

const OPTIONS: MakeOptions = MakeOptions { level: 19, threads: 2 };

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

/// Bytes like those of a program: they can be compressed, to about a half.
fn program(length: usize, seed: u32) -> Vec<u8> {
    noise(length, seed).into_iter().map(|byte| byte & 0x1f).collect()
}

fn sum(path: &Path) -> Sha256Sum {
    sha256_of(path, |_| ()).expect("an image")
}

/// Two images that are kept while the tree goes on changing.
struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn keep(&self, name: &str, image: &Path) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::copy(image, &path).expect("a copy");
        path
    }

    fn recipe(&self, new: &Path, old: &[&Path]) -> (RecipeFile, Summary) {
        let out = self.dir.path().join("recipe");
        make(new, old, &out, &OPTIONS, &mut |_, _| true).expect("a recipe")
    }

    /// Carries a recipe out, and sees that the image comes out.
    fn carry_out(&self, recipe: &RecipeFile, sources: &[&Path]) {
        let here = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        for source in sources {
            let name = format!("{}.squashfs", sum(source));
            fs::copy(source, here.path().join(name)).expect("a copy");
        }
        let head = recipe.head().clone();
        let target = head.target;
        let mut assembler = Assembler::open(head, here.path(), here.path(), 0).expect("a start");
        while let Some(segment) = assembler.next() {
            let bytes = recipe.read(segment).expect("a segment");
            assembler.apply(segment, &bytes).expect("a good segment");
        }
        let path = assembler.finish().expect("the right image");
        assert_eq!(sum(&path), target);
    }
}

/// A small change of an image in each way that mksquashfs has: the recipe, and its cost.
fn changed(options: &[&str]) -> Summary {
    let images = Images::new();
    let tree = Tree::debian();
    tree.file("usr/bin/program", &program(1_500_000, 1));
    tree.file("usr/bin/other", &program(900_000, 2));
    let old = images.keep("old", &tree.image(options));
    let mut bytes = program(1_500_000, 1);
    bytes[700_000..700_040].fill(7);
    bytes.splice(1_000_000..1_000_000, *b"inserted");
    tree.file("usr/bin/program", &bytes);
    tree.file("etc/new.conf", b"new = true\n");
    let new = images.keep("new", &tree.image(options));
    let (recipe, summary) = images.recipe(&new, &[&old]);
    images.carry_out(&recipe, &[&old]);
    let size = fs::metadata(&new).expect("the image").len();
    assert_eq!(
        summary.copied + summary.rebuilt + summary.literal + summary.metadata,
        size,
        "{options:?}"
    );
    let wire = summary.wire;
    assert_eq!(wire.copied + wire.rebuilt + wire.literal + wire.metadata, summary.wire_bytes);
    summary
}

#[test]
fn a_small_change_costs_little_with_every_compressor() {
    for options in [
        &["-comp", "gzip"][..],
        &["-comp", "zstd"],
        &["-comp", "xz"],
        &["-comp", "zstd", "-b", "32768", "-Xcompression-level", "19", "-no-exports"],
        &["-comp", "gzip", "-Xcompression-level", "3", "-noI"],
        &["-comp", "xz", "-Xbcj", "x86", "-b", "1M"],
        &["-comp", "gzip", "-noD", "-noF"],
    ] {
        let summary = changed(options);
        assert!(summary.wire_bytes < 2000, "{options:?}: {summary:?}");
    }
}

#[test]
fn blocks_that_do_not_come_out_again_are_sent_as_they_are() {
    let summary = changed(&["-comp", "gzip", "-Xstrategy", "huffman_only"]);
    assert_eq!(summary.rebuilt_blocks, 0);
    assert!(summary.literal > 500_000, "{summary:?}");
}

#[test]
fn an_image_is_made_of_several_others_or_none() {
    let images = Images::new();
    let (left, right) = (program(2_000_000, 1), program(2_000_000, 2));
    let tree = Tree::new();
    tree.file("left", &left);
    let one = images.keep("one", &tree.image(&["-comp", "zstd"]));
    let tree = Tree::new();
    tree.file("right", &right);
    let other = images.keep("other", &tree.image(&["-comp", "gzip"]));
    let tree = Tree::new();
    tree.file("left", &left);
    tree.file("right", &[&right[..], b"longer"].concat());
    let new = images.keep("new", &tree.image(&["-comp", "zstd"]));

    let (recipe, both) = images.recipe(&new, &[&one, &other]);
    images.carry_out(&recipe, &[&one, &other]);
    assert!(both.wire_bytes < 2000, "{both:?}");

    let (recipe, none) = images.recipe(&new, &[]);
    images.carry_out(&recipe, &[]);
    assert!(none.wire_bytes <= recipe.head().size + 2000, "{none:?}");

    let many = vec![one.as_path(); limits::SOURCES + 1];
    let out = images.dir.path().join("recipe");
    let refused = make(&new, &many, &out, &OPTIONS, &mut |_, _| true);
    assert!(matches!(refused, Err(MakeError::Sources { count: 9 })), "{refused:?}");
}

#[test]
fn what_an_image_repeats_is_sent_once() {
    let images = Images::new();
    let tree = Tree::new();
    let old = images.keep("old", &tree.image(&["-comp", "zstd"]));
    // More than a window lies between the first and the second.
    let first = program(9 << 20, 1);
    tree.file("1", &first);
    tree.file("2", &[b"moved", &first[..]].concat());
    let new = images.keep("new", &tree.image(&["-comp", "zstd"]));
    let quick = MakeOptions { level: 3, threads: 2 };
    let out = images.dir.path().join("recipe");
    let (recipe, summary) = make(&new, &[&old], &out, &quick, &mut |_, _| true).expect("a recipe");
    images.carry_out(&recipe, &[&old]);
    assert!(summary.wire_bytes < summary.rebuilt * 6 / 10, "{summary:?}");
}

#[test]
fn the_same_images_give_the_same_recipe() {
    let images = Images::new();
    let tree = Tree::debian();
    tree.file("program", &program(700_000, 1));
    let old = images.keep("old", &tree.image(&["-comp", "gzip"]));
    tree.file("program", &program(800_000, 1));
    let new = images.keep("new", &tree.image(&["-comp", "gzip"]));
    let ids = [1, 2, 3].map(|threads| {
        let options = MakeOptions { level: 19, threads };
        let out = images.dir.path().join(format!("recipe-{threads}"));
        let made = make(&new, &[&old], &out, &options, &mut |_, _| true);
        made.expect("a recipe").0.head().id()
    });
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
}

#[test]
fn who_has_only_indexes_sends_changed_blocks() {
    let images = Images::new();
    let tree = Tree::debian();
    tree.file("program", &program(1_000_000, 1));
    let old = images.keep("old", &tree.image(&["-comp", "zstd"]));
    let mut bytes = program(1_000_000, 1);
    bytes[500_000] ^= 1;
    tree.file("program", &bytes);
    let new = images.keep("new", &tree.image(&["-comp", "zstd"]));
    let index = Index::read(&old).expect("an index");
    let sent = Index::decode(&index.encode()).expect("as it was");
    let base = Base { sum: sum(&old), size: index.size };
    let out = images.dir.path().join("recipe");
    let (recipe, summary) =
        make_from_indexes(&new, &[(base, sent)], &out, &OPTIONS, &mut |_, _| true)
            .expect("a recipe");
    images.carry_out(&recipe, &[&old]);
    assert_eq!(summary.rebuilt, 0);
    assert!(summary.copied > 500_000 && summary.literal > 0, "{summary:?}");
    assert!(summary.wire_bytes < summary.literal + 2000, "{summary:?}");
}

#[test]
fn a_whole_image_is_its_own_recipe() {
    let images = Images::new();
    let tree = Tree::new();
    tree.file("noise", &noise(3_000_000, 1));
    let image = images.keep("image", &tree.image(&["-comp", "zstd"]));
    let head = whole(&image, sum(&image)).expect("a head");
    assert_eq!(head.kind, Kind::Whole);
    let outputs: Vec<u64> = head.segments.iter().map(|segment| segment.output).collect();
    assert_eq!(outputs[..2], [1 << 20, 1 << 20]);
    let recipe = RecipeFile::of_image(head, &image).expect("its file");
    images.carry_out(&recipe, &[]);
}

#[test]
fn a_making_that_is_cancelled_leaves_nothing() {
    let images = Images::new();
    let image = images.keep("image", &Tree::debian().image(&["-comp", "gzip"]));
    let out = images.dir.path().join("recipe");
    let cancelled = make(&image, &[], &out, &OPTIONS, &mut |_, _| false);
    assert!(matches!(cancelled, Err(MakeError::Cancelled)), "{cancelled:?}");
    let left: Vec<_> = fs::read_dir(images.dir.path()).expect("a directory").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
