//! Images made out of others, as a receiver sees it.

mod mksquashfs;
mod recipes;

use std::fs;
use std::path::Path;

use mksquashfs::Tree;
use recipes::{Block, Recipe, Store, against, data_blocks, noise, segment, size};
use shoal_image::recipe::{Head, Kind, Op, Reference, Segment};
use shoal_image::{AssembleError, Assembler, PartialError, Sha256Sum};

/// An old image of gzip blocks of 4 KiB, and a recipe with every operation that makes bytes of it.
struct Case {
    store: Store,
    old: Vec<u8>,
    blocks: Vec<Block>,
    target: Vec<u8>,
    recipe: Recipe,
}

impl Case {
    fn new() -> Self {
        let tree = Tree::debian();
        let image = tree.image(&["-comp", "gzip", "-b", "4096", "-noI"]);
        let (old, blocks) = (fs::read(&image).unwrap(), data_blocks(&image));
        assert!(blocks.len() > 20, "{}", blocks.len());
        let (target, segments) = every_operation(&old, &blocks);
        let recipe = Recipe::delta(&target, &[&old], &segments);
        let store = Store::new();
        store.put(&old);
        Self { store, old, blocks, target, recipe }
    }

    fn open(&self) -> Result<Assembler, AssembleError> {
        open(&self.store, &self.recipe.head)
    }

    fn sum(&self) -> Sha256Sum {
        self.recipe.head.target
    }

    /// What is under the names of the new image.
    fn is_untouched(&self) -> bool {
        !self.store.complete(&self.sum()).exists() && !self.store.partial(&self.sum()).exists()
    }
}

fn open(store: &Store, head: &Head) -> Result<Assembler, AssembleError> {
    Assembler::open(head.clone(), store.path(), store.path(), 0)
}

/// Applies what is missing.
fn carry_on(
    mut assembler: Assembler,
    recipe: &Recipe,
) -> Result<std::path::PathBuf, AssembleError> {
    while let Some(next) = assembler.next() {
        assembler.apply(next, &recipe.segments[next])?;
    }
    assembler.finish()
}

/// Three segments: rebuilt blocks beside copies, literals coded against stored bytes, and one that
/// takes from the two before.
fn every_operation(old: &[u8], blocks: &[Block]) -> (Vec<u8>, Vec<Segment>) {
    let (first, second) = (&blocks[3], &blocks[4]);
    let window = [&first.plain[..], b"literal", &second.plain].concat();
    let rebuilt = against(
        &[&second.plain[..], &first.plain].concat(),
        vec![second.reference(0), first.reference(0)],
        &window,
        vec![
            Op::Copy { source: 0, offset: 100, length: 9000 },
            first.rebuild(),
            Op::Literal { length: 7 },
            Op::Copy { source: 0, offset: 0, length: 1 },
            second.rebuild(),
        ],
    );
    let mut target =
        [&old[100..9100], &first.stored, b"literal", &old[..1], &second.stored].concat();
    let changed = [&old[200..1200], b"changed", &old[1200..2000]].concat();
    let stored = Reference::Block { source: 0, offset: 200, stored: 1800, compressed: false };
    let length = u32::try_from(changed.len()).unwrap();
    let literal = against(&old[200..2000], vec![stored], &changed, vec![Op::Literal { length }]);
    target.extend(&changed);
    // The first rebuilt block, as it stands in the new image.
    let made =
        Reference::Block { source: 1, offset: 9000, stored: first.place.length, compressed: true };
    let again = against(
        &first.plain,
        vec![made],
        &first.plain,
        vec![
            Op::Copy { source: 1, offset: 10, length: size(&target) - 10 },
            first.rebuild(),
            Op::Copy { source: 0, offset: size(old), length: 0 },
        ],
    );
    target = [&target[..], &target[10..], &first.stored].concat();
    (target, vec![rebuilt, literal, again])
}

#[test]
fn a_whole_image_comes_in_segments() {
    let store = Store::new();
    let image = noise(1, 300_000);
    let recipe = Recipe::whole(&image, 70_000);
    let assembler = open(&store, &recipe.head).unwrap();
    assert_eq!((assembler.received(), assembler.next()), (0, Some(0)));
    let path = carry_on(assembler, &recipe).unwrap();
    assert_eq!(path, store.complete(&Sha256Sum::of(&image)));
    assert_eq!(fs::read(path).unwrap(), image);
}

#[test]
fn every_operation_makes_its_bytes() {
    let case = Case::new();
    let path = carry_on(case.open().unwrap(), &case.recipe).unwrap();
    assert_eq!(path, case.store.complete(&case.sum()));
    assert_eq!(fs::read(path).unwrap(), case.target);
    let error = case.open().expect_err("it is there");
    let complete = PartialError::AlreadyComplete { path: case.store.complete(&case.sum()) };
    assert_eq!(error.to_string(), complete.to_string());
}

#[test]
fn a_transfer_goes_on_wherever_it_was_broken_off() {
    let case = Case::new();
    for length in (0..=case.target.len()).step_by(397).chain([case.target.len()]) {
        fs::write(case.store.partial(&case.sum()), &case.target[..length]).unwrap();
        let assembler = case.open().unwrap();
        assert_eq!(assembler.received(), size(&case.target[..length]));
        let path = carry_on(assembler, &case.recipe).unwrap();
        assert_eq!(fs::read(&path).unwrap(), case.target, "broken off after {length}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_recipe_goes_on_with_what_came_whole_and_the_other_way_round() {
    let case = Case::new();
    let whole = Recipe::whole(&case.target, 5000);
    let mut assembler = open(&case.store, &whole.head).unwrap();
    assembler.apply(0, &whole.segments[0]).unwrap();
    drop(assembler);
    let mut assembler = case.open().unwrap();
    assert_eq!((assembler.received(), assembler.next()), (5000, Some(0)));
    assembler.apply(0, &case.recipe.segments[0]).unwrap();
    let received = assembler.received();
    drop(assembler);
    let assembler = open(&case.store, &whole.head).unwrap();
    assert_eq!(assembler.received(), received);
    let path = carry_on(assembler, &whole).unwrap();
    assert_eq!(fs::read(path).unwrap(), case.target);
}

#[test]
fn wrong_or_foreign_segments_change_nothing() {
    let case = Case::new();
    let mut assembler = case.open().unwrap();
    assembler.apply(0, &case.recipe.segments[0]).unwrap();
    let received = assembler.received();
    let right = &case.recipe.segments[1];
    let mut flipped = right.clone();
    flipped[20] ^= 4;
    let longer = [&right[..], &[0]].concat();
    for wrong in [&flipped[..], &longer, &right[1..], &[], &case.recipe.segments[2]] {
        let error = assembler.apply(1, wrong).expect_err("wrong bytes");
        assert!(matches!(error, AssembleError::WrongSegment { segment: 1, .. }), "{error}");
        assert!(!error.asks_for_whole());
        let words = format!("segment 1 of image {} are not those", case.sum());
        assert!(error.to_string().contains(&words), "{error}");
    }
    for number in [0, 2, 77] {
        let error = assembler.apply(number, right).expect_err("not its turn");
        assert!(matches!(error, AssembleError::NotNext { next: 1, .. }), "{error}");
    }
    assert_eq!(assembler.received(), received);
    let path = carry_on(assembler, &case.recipe).unwrap();
    assert_eq!(fs::read(path).unwrap(), case.target);
}

#[test]
fn nothing_is_under_the_image_s_name_before_the_end() {
    let case = Case::new();
    let mut assembler = case.open().unwrap();
    for (number, bytes) in case.recipe.segments.iter().enumerate() {
        assert!(!case.store.complete(&case.sum()).exists());
        assembler.apply(number, bytes).unwrap();
    }
    assert!(!case.store.complete(&case.sum()).exists());
    assembler.finish().unwrap();
}

#[test]
fn ending_too_early_keeps_what_is_there() {
    let case = Case::new();
    let mut assembler = case.open().unwrap();
    assembler.apply(0, &case.recipe.segments[0]).unwrap();
    let received = assembler.received();
    let error = assembler.finish().expect_err("two are missing");
    assert!(
        matches!(&error, AssembleError::Partial(PartialError::Incomplete { received: kept, .. })
            if *kept == received),
        "{error}"
    );
    carry_on(case.open().unwrap(), &case.recipe).unwrap();
}

#[test]
fn a_source_that_is_missing_or_other_is_said_before_anything_is_made() {
    let case = Case::new();
    let path = case.store.complete(&Sha256Sum::of(&case.old));
    let name = path.display().to_string();
    let table: &[(Box<dyn Fn(&Path)>, &[&str])] = &[
        (
            Box::new(|path| fs::write(path, b"short").unwrap()),
            &["has 5 bytes and not", "is damaged", "has to come whole"],
        ),
        (
            Box::new(|path| fs::write(path, vec![0; case.old.len()]).unwrap()),
            &["is not a squashfs file", "has to come whole"],
        ),
        (Box::new(|path| fs::remove_file(path).unwrap()), &["is not there", "has to come whole"]),
        (Box::new(|path| fs::create_dir(path).unwrap()), &["bytes and not"]),
    ];
    for (spoil, words) in table {
        spoil(&path);
        let error = case.open().expect_err("no such source");
        assert!(error.asks_for_whole(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&name), "{text}");
        words.iter().for_each(|words| assert!(text.contains(words), "{text}: {words}"));
        assert!(case.is_untouched());
    }
}

#[test]
fn other_libraries_make_no_image() {
    let mut case = Case::new();
    let Kind::Delta { codecs, .. } = &mut case.recipe.head.kind else { panic!("a delta") };
    *codecs = "zlib 1.2.3".to_owned();
    let error = case.open().expect_err("other libraries");
    assert!(matches!(error, AssembleError::Codecs { .. }) && error.asks_for_whole());
    let text = error.to_string();
    assert!(text.contains("made with zlib 1.2.3, and here are zlib "), "{text}");
    assert!(case.is_untouched());
}

#[test]
fn a_source_that_is_removed_in_the_middle_is_used_to_the_end() {
    let case = Case::new();
    let assembler = case.open().unwrap();
    fs::remove_file(case.store.complete(&Sha256Sum::of(&case.old))).unwrap();
    let path = carry_on(assembler, &case.recipe).unwrap();
    assert_eq!(fs::read(path).unwrap(), case.target);
}

#[test]
fn a_source_that_is_cut_in_the_middle_is_said() {
    let case = Case::new();
    let assembler = case.open().unwrap();
    let path = case.store.complete(&Sha256Sum::of(&case.old));
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap();
    let error = carry_on(assembler, &case.recipe).expect_err("half of it is gone");
    assert!(matches!(error, AssembleError::SourceIo { action: "read", .. }), "{error}");
    assert!(error.asks_for_whole());
    assert_eq!(case.open().map(|it| it.received()).ok(), None, "its source has another size now");
}

/// Bits of the source that are read as they are come out in the SHA-256, and where the damage is
/// noticed before, it is said where.
#[test]
fn every_damage_of_a_source_is_found() {
    let case = Case::new();
    let path = case.store.complete(&Sha256Sum::of(&case.old));
    let block = &case.blocks[3].place;
    let begin = usize::try_from(block.offset).unwrap();
    let end = usize::try_from(block.end()).unwrap();
    let mut kinds = [0; 3];
    for place in (100..2100).step_by(211).chain((begin..end).step_by(5)) {
        let mut damaged = case.old.clone();
        damaged[place] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let error = carry_on(case.open().unwrap(), &case.recipe).expect_err("a flipped bit");
        assert!(error.asks_for_whole(), "{error}");
        kinds[match &error {
            AssembleError::SourceDamaged { offset, .. } => {
                let next = case.blocks[4].place.offset;
                assert!([block.offset, next].contains(offset), "{offset}");
                0
            }
            AssembleError::WrongImage { sources, .. } => {
                assert_eq!(sources, &[Sha256Sum::of(&case.old)]);
                assert!(!case.store.partial(&case.sum()).exists(), "the wrong bytes are kept");
                1
            }
            AssembleError::Recipe(_) | AssembleError::Rebuild { .. } => 2,
            other => panic!("{other}"),
        }] += 1;
        assert!(!case.store.complete(&case.sum()).exists(), "{error}");
    }
    assert!(kinds[0] > 0 && kinds[1] > 0, "{kinds:?}");
    // What was made of a damaged image is not gone on with.
    let whole = Recipe::whole(&case.target, 10_000);
    let assembler = open(&case.store, &whole.head).unwrap();
    assert_eq!(assembler.received(), 0);
    let path = carry_on(assembler, &whole).unwrap();
    assert_eq!(fs::read(path).unwrap(), case.target);
}

#[test]
fn a_block_that_comes_out_otherwise_ends_it() {
    let case = Case::new();
    let block = &case.blocks[5];
    let plain = u32::try_from(block.plain.len()).unwrap();
    for (stored, variant) in [(block.place.length - 1, 0), (block.place.length, 9), (4096, 0)] {
        // gzip has no variants, so that another number is no fault there.
        let fails = variant == 0;
        let ops = vec![Op::Rebuild { plain, stored, variant }];
        let segments = [segment(&block.plain, ops)];
        let target = vec![7; usize::try_from(stored).unwrap()];
        let recipe = Recipe::delta(&target, &[&case.old], &segments);
        let error = carry_on(open(&case.store, &recipe.head).unwrap(), &recipe).expect_err("wrong");
        assert_eq!(matches!(error, AssembleError::Rebuild { offset: 0 }), fails, "{error}");
        assert!(error.asks_for_whole());
    }
}

#[test]
fn two_assemblies_of_one_image_do_not_meet() {
    let case = Case::new();
    let first = case.open().unwrap();
    let error = case.open().expect_err("the first has it");
    assert!(matches!(error, AssembleError::Partial(PartialError::Busy { .. })), "{error}");
    assert!(!error.asks_for_whole());
    carry_on(first, &case.recipe).unwrap();

    // Several that want the same at once: one makes it, and the others go on where it was.
    fs::remove_file(case.store.complete(&case.sum())).unwrap();
    let take_turns = || loop {
        let mut assembler = match case.open() {
            Ok(assembler) => assembler,
            Err(AssembleError::Partial(PartialError::Busy { .. })) => {
                std::thread::yield_now();
                continue;
            }
            Err(AssembleError::Partial(PartialError::AlreadyComplete { .. })) => return,
            Err(error) => panic!("{error}"),
        };
        match assembler.next() {
            Some(next) => assembler.apply(next, &case.recipe.segments[next]).unwrap(),
            None => drop(assembler.finish().unwrap()),
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(take_turns))));
    assert_eq!(fs::read(case.store.complete(&case.sum())).unwrap(), case.target);
    assert!(!case.store.partial(&case.sum()).exists());
}

#[test]
fn space_is_looked_at_before_anything_is_made() {
    let case = Case::new();
    let head = case.recipe.head.clone();
    let error = Assembler::open(head, case.store.path(), case.store.path(), 1 << 60)
        .expect_err("an exbibyte is to stay free");
    assert!(matches!(error, AssembleError::Partial(PartialError::NoSpace { .. })), "{error}");
    assert!(case.is_untouched());
}
