//! What a receiver lives through: being killed at any moment, disks that fill, bytes that are
//! wrong, and recipes that ask for too much.
//!
//! Where a process has to die or to have a small disk, a test starts this program once more with
//! one of the ignored tests, which are the parts that such a process plays.
#![allow(clippy::disallowed_methods, reason = "other processes are what these tests are about")]

mod mksquashfs;
mod recipes;

use std::env;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mksquashfs::Tree;
use recipes::{Block, Recipe, Store, against, data_blocks, noise, segment, size};
use sha2::{Digest as _, Sha256};
use shoal_image::recipe::{
    Head, Op, RecipeFile, RecipeWriter, Reference, Segment, SegmentHead, limits,
};
use shoal_image::{AssembleError, Assembler, PartialError, Sha256Sum, list};

/// Where a child finds the recipe and the images.
const RECIPE: &str = "SHOAL_TEST_RECIPE";
const IMAGES: &str = "SHOAL_TEST_IMAGES";

/// What says to a child where its disk is full.
const FILL: &str = "fill";

/// An old image of gzip blocks of 4 KiB.
fn old() -> (Vec<u8>, Vec<Block>) {
    let image_of = Tree::debian();
    let image = image_of.image(&["-comp", "gzip", "-b", "4096"]);
    (fs::read(&image).expect("the image"), data_blocks(&image))
}

/// A target of about `segments` times 230 KiB: copies, literals and rebuilt blocks, each segment
/// against blocks of the old image.
fn many_segments(segments: u64) -> (Vec<u8>, Vec<u8>, Recipe) {
    let (old, blocks) = old();
    let mut target = Vec::new();
    let mut made = Vec::new();
    for number in 0..segments {
        let literal = noise(number, 100_000);
        let mut window = literal.clone();
        let mut ops = vec![Op::Literal { length: 100_000 }];
        let mut prefix = Vec::new();
        let mut references = Vec::new();
        target.extend(&literal);
        for block in blocks.iter().take(25) {
            prefix.extend(&block.plain);
            references.push(block.reference(0));
            window.extend(&block.plain);
            ops.push(block.rebuild());
            ops.push(Op::Copy { source: 0, offset: number, length: 5000 });
            target.extend(&block.stored);
            target.extend(&old[usize::try_from(number).expect("small")..][..5000]);
        }
        made.push(against(&prefix, references, &window, ops));
    }
    let recipe = Recipe::delta(&target, &[&old], &made);
    (old, target, recipe)
}

/// Puts a recipe into a file, as a controller keeps it.
fn save(recipe: &Recipe, path: &Path) {
    let mut writer = RecipeWriter::create(path).expect("a new file");
    for (head, bytes) in recipe.head.segments.iter().zip(&recipe.segments) {
        writer.add(bytes, head.output).expect("room");
    }
    writer.finish(|segments| Head { segments, ..recipe.head.clone() }).expect("room");
}

fn open(store: &Store, head: &Head) -> Result<Assembler, AssembleError> {
    Assembler::open(head.clone(), store.path(), store.path(), 0)
}

fn carry_on(mut assembler: Assembler, recipe: &Recipe) -> Result<PathBuf, AssembleError> {
    while let Some(next) = assembler.next() {
        assembler.apply(next, &recipe.segments[next])?;
    }
    assembler.finish()
}

/// Starts one of the ignored tests of this file in a process of its own.
fn child(name: &str, recipe: &Path, images: &Path) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args(["--ignored", "--exact", name, "--nocapture"]);
    command.env(RECIPE, recipe).env(IMAGES, images);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

fn given(name: &str) -> PathBuf {
    env::var_os(name).map(PathBuf::from).expect("is started by another test")
}

/// The part of a receiver: makes the image of the recipe as far as it gets.
#[test]
#[ignore = "a part that another test starts"]
fn receives() {
    let recipe = RecipeFile::open(&given(RECIPE)).unwrap();
    let images = given(IMAGES);
    let mut assembler = match Assembler::open(recipe.head().clone(), &images, &images, 0) {
        Ok(assembler) => assembler,
        Err(AssembleError::Partial(PartialError::AlreadyComplete { .. })) => return,
        Err(error) => panic!("{error}"),
    };
    while let Some(next) = assembler.next() {
        assembler.apply(next, &recipe.read(next).unwrap()).unwrap();
    }
    assembler.finish().unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    println!("{peak}");
}

/// Kills the process after a while, unless it has ended by then.
fn kill_after(mut child: Child, moment: Duration) {
    std::thread::sleep(moment);
    let _ = child.kill();
    child.wait().expect("it was started here");
}

/// Two hundred times a receiver is killed, with the recipe and with the whole image by turns; the
/// one after goes on where it was. Never is anything but the right image under its name.
#[test]
fn two_hundred_killed_receivers_end_with_the_right_image() {
    let store = Store::new();
    let (old, target, recipe) = many_segments(60);
    store.put(&old);
    let sum = recipe.head.target;
    let ways = [store.path().join("delta.recipe"), store.path().join("whole.recipe")];
    save(&recipe, &ways[0]);
    save(&Recipe::whole(&target, 1 << 18), &ways[1]);

    let moments = noise(1, 400);
    let (mut kills, mut within, mut done, mut received) = (0, 0, 0, 0);
    while kills < 200 {
        let way = &ways[usize::from(moments[200 + kills]) % 2];
        let started = child("receives", way, store.path()).spawn().expect("this program");
        kill_after(started, Duration::from_micros(u64::from(moments[kills]) * 150));
        kills += 1;
        if let Ok(image) = fs::read(store.complete(&sum)) {
            assert!(image == target, "after {kills} kills the image is another");
            assert!(!store.partial(&sum).exists());
            fs::remove_file(store.complete(&sum)).expect("it is there");
            (done, received) = (done + 1, 0);
            continue;
        }
        let partial = fs::metadata(store.partial(&sum)).map_or(0, |it| it.len());
        assert!(partial >= received, "what was received is lost");
        within += usize::from(partial > received && partial < size(&target));
        received = partial;
    }
    assert!(within >= 30, "only {within} of {kills} died at work");
    let path = carry_on(open(&store, &recipe.head).unwrap(), &recipe).unwrap();
    assert!(fs::read(path).unwrap() == target, "the last one is another");
    eprintln!("{within} of {kills} died at work, {done} had ended");
}

/// Runs a part on a file system of its own, made and mounted by `mount`, which is gone with it.
fn on_a_small_disk(name: &str, mount: &str) {
    let store = Store::new();
    let (old, target, recipe) = many_segments(20);
    let disk = store.path().join("disk");
    fs::create_dir(&disk).expect("a new directory");
    fs::write(store.path().join("target"), &target).expect("room");
    save(&recipe, &store.path().join("recipe"));
    store.put(&old);
    let part = child(name, &store.path().join("recipe"), store.path());
    let script = format!("cd \"$1\"; {mount}; shift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", &script, "sh"]).arg(store.path());
    command.arg(part.get_program()).args(part.get_args());
    command.envs(part.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().expect("unshare can be run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let ended = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && ended.contains("1 passed"), "{ended}\n{text}");
}

/// Fills the disk but for so many bytes.
fn fill(disk: &Path, but: u64) {
    let _ = fs::remove_file(disk.join(FILL));
    let free = shoal_image::free_space(disk).unwrap();
    let mut left = std::io::repeat(7).take(free - but);
    let mut file = fs::File::create(disk.join(FILL)).unwrap();
    let _ = std::io::copy(&mut left, &mut file);
}

fn is_no_space(error: &AssembleError) -> bool {
    let text = error.to_string();
    matches!(error, AssembleError::Partial(PartialError::NoSpace { .. }))
        && text.contains("not enough space in ")
        && text.contains("remove what is not needed there, or make the disk larger")
}

/// A disk that can set space aside: no transfer begins that does not fit, and one that has begun
/// ends well however full the disk gets.
#[test]
#[ignore = "a part that another test starts"]
fn has_a_disk_that_sets_aside() {
    let recipe = RecipeFile::open(&given(RECIPE)).unwrap();
    let (images, disk) = (given(IMAGES), given(IMAGES).join("disk"));
    let (head, size) = (recipe.head().clone(), recipe.head().size);
    let open = || Assembler::open(head.clone(), &images, &disk, 0);
    fill(&disk, size / 2);
    let error = open().expect_err("half of it has no place");
    assert!(is_no_space(&error) && !error.asks_for_whole(), "{error}");
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 1, "something was made");
    fill(&disk, size + (64 << 10));
    let mut assembler = open().unwrap();
    fs::rename(disk.join(FILL), disk.join("more")).unwrap();
    fill(&disk, 0);
    assembler.apply(0, &recipe.read(0).unwrap()).unwrap();
    drop(assembler);
    fs::remove_file(disk.join(FILL)).unwrap();
    let mut assembler = open().unwrap();
    fill(&disk, 0);
    while let Some(next) = assembler.next() {
        assembler.apply(next, &recipe.read(next).unwrap()).unwrap();
    }
    let image = assembler.finish().unwrap();
    assert_eq!(shoal_image::sha256_of(&image, |_| ()).unwrap(), head.target);
}

/// A disk that can't: it fills in the middle, what was made is kept, and it goes on when there is
/// room again, in the same process or another.
#[test]
#[ignore = "a part that another test starts"]
fn has_a_disk_that_fills_in_the_middle() {
    let recipe = RecipeFile::open(&given(RECIPE)).unwrap();
    let (images, disk) = (given(IMAGES), given(IMAGES).join("disk"));
    let target = fs::read(images.join("target")).unwrap();
    let head = recipe.head().clone();
    let mut assembler = Assembler::open(head.clone(), &images, &disk, 0).unwrap();
    for stage in 0..8 {
        fill(&disk, 300_000);
        let error = loop {
            let next = assembler.next().expect("the disk is too small for all");
            if let Err(error) = assembler.apply(next, &recipe.read(next).unwrap()) {
                break error;
            }
        };
        assert!(is_no_space(&error) && !error.asks_for_whole(), "{error}");
        assert!(list(&disk).unwrap().complete.is_empty());
        let received = assembler.received();
        let partial = fs::read(&list(&disk).unwrap().partial[0].path).unwrap();
        assert_eq!(size(&partial), received);
        assert!(target.starts_with(&partial), "stage {stage}");
        if stage % 2 == 0 {
            fs::remove_file(disk.join(FILL)).unwrap();
            continue;
        }
        drop(assembler);
        let error = Assembler::open(head.clone(), &images, &disk, 0).expect_err("still full");
        assert!(is_no_space(&error), "{error}");
        fs::remove_file(disk.join(FILL)).unwrap();
        assembler = Assembler::open(head.clone(), &images, &disk, 0).unwrap();
        assert_eq!(assembler.received(), received);
    }
    while let Some(next) = assembler.next() {
        assembler.apply(next, &recipe.read(next).unwrap()).unwrap();
    }
    assert!(fs::read(assembler.finish().unwrap()).unwrap() == target);
}

#[test]
fn a_full_disk_is_said_before_the_first_byte_where_space_can_be_set_aside() {
    on_a_small_disk("has_a_disk_that_sets_aside", "mount -t tmpfs -o size=16m none disk");
}

#[test]
fn a_disk_that_fills_in_the_middle_costs_nothing() {
    on_a_small_disk(
        "has_a_disk_that_fills_in_the_middle",
        "truncate -s 16M ext2; mkfs.ext2 -q -m 0 ext2; mount -o loop ext2 disk",
    );
}

/// What a segment that asks for too much, or for what can't be, is refused with.
fn refused(old: &[u8], segments: &[Segment], coded: Option<Vec<u8>>) -> String {
    let store = Store::new();
    store.put(old);
    let output = segments.iter().map(Segment::output).fold(0, u64::wrapping_add);
    let target = noise(9, usize::try_from(output.min(1 << 20)).expect("small"));
    let mut recipe = Recipe::delta(&target, &[old], segments);
    if let Some(coded) = coded {
        let output = recipe.head.segments[0].output;
        recipe.head.segments[0] = recipes::segment_head(&coded, output);
        recipe.segments[0] = coded;
    }
    let assembler = open(&store, &recipe.head).expect("the head is in order");
    let error = carry_on(assembler, &recipe).expect_err("it is refused");
    assert!(error.asks_for_whole(), "{error}");
    let sum = recipe.head.target;
    assert!(!store.complete(&sum).exists());
    let left = fs::metadata(store.partial(&sum)).map_or(0, |partial| partial.len());
    assert_eq!(left, 0, "{error}: something of it is kept");
    error.to_string()
}

#[test]
fn places_that_can_not_be_are_refused() {
    let (old, blocks) = old();
    let end = size(&old);
    let copy = |source, offset, length| vec![Op::Copy { source, offset, length }];
    let reference = |source, offset, stored, compressed| Reference::Block {
        source,
        offset,
        stored,
        compressed,
    };
    let past = "a place is past the end of its source";
    let unmade = "it refers to what is not made yet";
    let table: Vec<(Vec<Segment>, &str)> = vec![
        (vec![segment(b"", copy(0, end - 10, 11))], past),
        (vec![segment(b"", copy(0, end, 1))], past),
        (vec![segment(b"", copy(0, u64::MAX - 1, 1))], past),
        (vec![segment(b"", copy(0, u64::MAX, 2))], "a place is past any file's end"),
        (vec![segment(b"", copy(0, 0, limits::OUTPUT + 1))], "bytes of a source, and at most"),
        (vec![segment(b"", copy(2, 0, 1))], "a source it does not have"),
        (vec![segment(b"", copy(1, 0, 1))], unmade),
        // One that copies what it makes itself, which would go on for ever.
        (vec![segment(b"abc", vec![Op::Literal { length: 3 }, copy(1, 0, 3)[0]])], unmade),
        (
            vec![
                segment(b"abc", vec![Op::Literal { length: 3 }]),
                segment(b"abc", vec![Op::Literal { length: 3 }, copy(1, 1, 3)[0]]),
            ],
            unmade,
        ),
        (vec![with_prefix(reference(0, end - 1, 2, false))], past),
        (vec![with_prefix(reference(0, 0, 1 << 20, true))], past),
        (vec![with_prefix(reference(1, 0, 1, false))], unmade),
        (vec![with_prefix(reference(0, 0, 0, false))], "a block has no bytes"),
        (vec![with_prefix(reference(0, 0, (1 << 20) + 1, true))], "bytes of a source"),
        (vec![with_prefix(reference(0, 5, 50, true))], "is damaged at byte 5"),
        (vec![with_prefix(Reference::Tables { source: 1 })], "a source that it does not have"),
        (vec![with_prefix(blocks[0].reference(9))], "a source that it does not have"),
    ];
    for (segments, words) in table {
        let text = refused(&old, &segments, None);
        assert!(text.contains(words), "{text}\nshould say: {words}");
    }
}

fn with_prefix(reference: Reference) -> Segment {
    against(b"", vec![reference], b"x", vec![Op::Literal { length: 1 }])
}

#[test]
fn what_is_larger_than_is_given_is_refused() {
    let (small, _) = old();
    // Room for plain references of 1 MiB.
    let old = [&small[..], &vec![0; 2 << 20]].concat();
    let block = Reference::Block { source: 0, offset: 0, stored: 1 << 20, compressed: false };
    let prefix = |count| against(b"", vec![block; count], b"x", vec![Op::Literal { length: 1 }]);
    let literal = |length| Op::Literal { length };
    let window = |window: usize, coded: Vec<u8>| Segment {
        prefix: Vec::new(),
        window,
        ops: vec![literal(u32::try_from(window).expect("small"))],
        coded,
    };
    let frame = |plain: usize| recipes::frame(b"", &vec![0; plain]);
    let undecoded = "its window can't be decoded";
    let table: Vec<(Segment, &str)> = vec![
        (prefix(33), "a prefix is larger than is given"),
        (prefix(limits::PARTS + 1), "65537 of references, and at most 65536"),
        (window(limits::WINDOW + 1, frame(1)), "8388609 of bytes of window, and at most 8388608"),
        (window(100, frame(limits::WINDOW)), undecoded),
        (window(100, frame(101)), undecoded),
        (window(100, frame(99)), "its window ends too early"),
        (window(100, b"\x28\xb5\x2f\xfd".to_vec()), undecoded),
        (window(100, vec![0; 9000]), undecoded),
        // A window of 2^41 bytes, and a content of 2^63.
        (window(10, raw_frame(&[0x00, 0xff])), undecoded),
        (window(10, raw_frame(&[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80])), undecoded),
        (segment(b"", vec![Op::Copy { source: 0, offset: 0, length: 1 << 20 }; 65]), "64"),
        (segment(&[7; 9], vec![literal(9); 2]), "take more or less than its window"),
        (segment(&[7; 9], vec![literal(4)]), "take more or less than its window"),
        (segment(&[0; 8192], vec![rebuild(8192, 50)]), "came out other"),
        (segment(&[0; 4096], vec![rebuild(4096, 1 << 20)]), "came out other"),
        (segment(&[0; 90], vec![Op::Tables { normal: 90, stored: 90 }]), "without a superblock"),
    ];
    for (segment, words) in table {
        let words_of_output = if words == "64" { "bytes made by a segment" } else { words };
        let text = refused(&old, &[segment], None);
        assert!(text.contains(words_of_output), "{text}\nshould say: {words_of_output}");
    }
    // The largest window that a one-shot decoder takes at all costs nothing, since none is made.
    let store = Store::new();
    store.put(&old);
    let coded = raw_frame(&[0x00, (31 - 10) << 3]);
    let recipe = Recipe::delta(&[b'x'; 10], &[&old], &[window(10, coded)]);
    carry_on(open(&store, &recipe.head).unwrap(), &recipe).unwrap();
}

fn rebuild(plain: u32, stored: u32) -> Op {
    Op::Rebuild { plain, stored, variant: 0 }
}

/// A zstd frame of ten bytes with this header.
fn raw_frame(header: &[u8]) -> Vec<u8> {
    [b"\x28\xb5\x2f\xfd", header, &[(10 << 3) | 1, 0, 0], &[b'x'; 10]].concat()
}

#[test]
fn a_block_that_would_fill_the_memory_is_refused() {
    let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![0; 64 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    let (small, _) = old();
    let old = [&small[..], &bomb].concat();
    let stored = u32::try_from(bomb.len()).unwrap();
    let offset = size(&small);
    let reference = Reference::Block { source: 0, offset, stored, compressed: true };
    let text = refused(&old, &[with_prefix(reference)], None);
    assert!(text.contains(&format!("is damaged at byte {offset}")), "{text}");
    // Operations that unpack to far more than may be.
    let header = zstd::bulk::compress(&vec![0; 1 << 30], 1).unwrap();
    for (says, words) in [(&[0x80, 0x80, 0x80, 0x80, 4][..], "bytes of operations"), (&[9], "")] {
        let mut coded = says.to_vec();
        let mut length = header.len();
        while length > 127 {
            coded.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        coded.push(u8::try_from(length).unwrap());
        coded.extend(&header);
        let text = refused(&small, &[segment(b"x", vec![Op::Literal { length: 1 }])], Some(coded));
        assert!(text.contains(words), "{text}");
    }
}

/// Heads with counts and lengths that can't be, and cut at every byte.
#[test]
fn heads_that_can_not_be_are_refused() {
    let (old, target, recipe) = many_segments(2);
    let head = &recipe.head;
    let bytes = head.encode();
    assert_eq!(Head::decode(&bytes).as_ref(), Ok(head));
    for length in 0..bytes.len() {
        Head::decode(&bytes[..length]).expect_err("cut short");
    }
    Head::decode(&[&bytes[..], &[0]].concat()).expect_err("too long");
    let with = |change: &dyn Fn(&mut Head)| {
        let mut head = head.clone();
        change(&mut head);
        Head::decode(&head.encode()).expect_err("can't be").to_string()
    };
    let whole = Recipe::whole(&target, 1000).head;
    let table: Vec<(String, &str)> = vec![
        (with(&|head| head.size += 1), "an image of another size"),
        (with(&|head| head.segments[0].output = 0), "makes nothing"),
        (with(&|head| head.segments[0].output = limits::OUTPUT + 1), "made by a segment"),
        (with(&|head| head.segments[0].encoded = u32::MAX), "bytes of a segment"),
        (with(&|head| head.segments.clear()), "another size"),
        (with(&|head| *sources(head) = vec![sources(head)[0]; 9]), "9 of sources"),
        (with(&|head| set(head, Some(vec![0; 65]), None, None)), "compressor options"),
        (with(&|head| set(head, None, Some(4095), None)), "block size"),
        (with(&|head| set(head, None, Some(2 << 20), None)), "of a block"),
        (with(&|head| set(head, None, None, Some("x".repeat(129)))), "library names"),
        (with(&|head| head.segments[0].output = u64::MAX), "made by a segment"),
        (with(&|head| *head = too_many(&whole)), "segments, and at most"),
    ];
    for (text, words) in table {
        assert!(text.contains(words), "{text}\nshould say: {words}");
    }
    // Options that can be read and are of no compressor.
    let mut odd = recipe.clone();
    set(&mut odd.head, Some(vec![1; 7]), None, None);
    let store = Store::new();
    store.put(&old);
    let error = open(&store, &odd.head).expect_err("no options of gzip");
    assert!(error.asks_for_whole() && error.to_string().contains("options"), "{error}");
}

fn too_many(head: &Head) -> Head {
    let one = SegmentHead { output: 1, encoded: 1, hash: [0; 32] };
    let count = limits::SEGMENTS + 1;
    let size = u64::try_from(count).expect("small");
    Head { size, segments: vec![one; count], ..head.clone() }
}

fn sources(head: &mut Head) -> &mut Vec<shoal_image::recipe::Base> {
    let shoal_image::recipe::Kind::Delta { sources, .. } = &mut head.kind else {
        panic!("a delta")
    };
    sources
}

fn set(head: &mut Head, with: Option<Vec<u8>>, size: Option<u32>, names: Option<String>) {
    let shoal_image::recipe::Kind::Delta { options, block_size, codecs, .. } = &mut head.kind
    else {
        panic!("a delta")
    };
    *options = with.unwrap_or_default();
    *block_size = size.unwrap_or(*block_size);
    *codecs = names.unwrap_or_else(shoal_image::codecs);
}

/// Bits flipped anywhere in a segment whose hash was made to fit: whatever happens, it ends, no
/// wrong image has the name of the right one, and what is kept is not more than the image.
#[test]
fn segments_with_flipped_bits_make_no_wrong_image() {
    let (old, target, recipe) = many_segments(1);
    let store = Store::new();
    store.put(&old);
    let right = &recipe.segments[0];
    let places = noise(3, 1200);
    let mut ends = [0; 2];
    for chosen in places.chunks_exact(4) {
        let place = u32::from_le_bytes([chosen[0], chosen[1], chosen[2], 0]);
        // Half of them where the operations are, which are few bytes.
        let range = if chosen[3] & 8 == 0 { right.len().min(100) } else { right.len() };
        let place = usize::try_from(place).unwrap() % range;
        let mut wrong = right.clone();
        wrong[place] ^= 1 << (chosen[3] & 7);
        let mut head = recipe.head.clone();
        head.segments[0] = recipes::segment_head(&wrong, head.segments[0].output);
        let mut assembler = open(&store, &head).unwrap();
        let ended = assembler.apply(0, &wrong).and_then(|()| assembler.finish());
        let error = match ended {
            Err(error) => error,
            Ok(path) => {
                // A bit that means nothing, such as one of a checksum that is not looked at.
                assert!(fs::read(&path).unwrap() == target, "a wrong image at byte {place}");
                fs::remove_file(path).unwrap();
                continue;
            }
        };
        assert!(error.asks_for_whole(), "{error}");
        ends[usize::from(matches!(error, AssembleError::WrongImage { .. }))] += 1;
        assert!(!store.complete(&head.target).exists());
        assert_eq!(fs::metadata(store.partial(&head.target)).map_or(0, |it| it.len()), 0);
    }
    assert!(ends[0] > 50 && ends[1] > 5, "{ends:?}");
}

/// Segments and heads cut or flipped, with the hashes as they were.
#[test]
fn segments_with_flipped_bits_are_found_by_their_hash() {
    let (old, target, recipe) = many_segments(2);
    let store = Store::new();
    store.put(&old);
    let mut assembler = open(&store, &recipe.head).unwrap();
    for (number, right) in recipe.segments.iter().enumerate() {
        for seed in noise(4, 60).chunks_exact(3) {
            let place = usize::from(u16::from_le_bytes([seed[0], seed[1]])) % right.len();
            let mut wrong = right.clone();
            match seed[2] % 3 {
                0 => wrong[place] ^= 1,
                1 => wrong.truncate(place),
                _ => drop(wrong.remove(place)),
            }
            let error = assembler.apply(number, &wrong).expect_err("wrong bytes");
            assert!(matches!(error, AssembleError::WrongSegment { .. }), "{error}");
        }
        assembler.apply(number, right).unwrap();
    }
    assert!(fs::read(assembler.finish().unwrap()).unwrap() == target);
}

/// The peak of a process that makes a recipe's image, in MiB.
fn peak(recipe: &Path, images: &Path) -> u64 {
    let mut started = child("receives", recipe, images).spawn().expect("this program");
    let mut text = String::new();
    started.stdout.take().expect("it is piped").read_to_string(&mut text).expect("text");
    assert!(started.wait().expect("it was started here").success(), "{text}");
    let words = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    let kib: u64 = words.split_whitespace().next().and_then(|it| it.parse().ok()).expect("KiB");
    kib / 1024
}

/// The dearest recipe that there is takes less than 64 MiB, and so does an image of 2 GiB.
#[test]
fn memory_does_not_depend_on_the_image() {
    let store = Store::new();
    let (small, _) = old();
    // An old image of 64 MiB: what follows the small one counts as padding here.
    let old = [&small[..], &noise(5, (64 << 20) - small.len())].concat();
    store.put(&old);
    let mut segments = Vec::new();
    let mut target = Sha256::new();
    for number in 0..32 {
        let (prefix, window) = match number % 11 {
            0 => (32, limits::WINDOW),
            _ => (0, 0),
        };
        let references = (0..prefix).map(|place: u64| Reference::Block {
            source: 0,
            offset: place << 20,
            stored: 1 << 20,
            compressed: false,
        });
        let mut ops = Vec::new();
        let bytes = noise(number, window);
        if window > 0 {
            ops.push(Op::Literal { length: u32::try_from(window).unwrap() });
            target.update(&bytes);
        }
        let length = limits::OUTPUT - size(&bytes);
        ops.push(Op::Copy { source: 0, offset: 0, length });
        target.update(&old[..usize::try_from(length).unwrap()]);
        let plain = &old[..usize::try_from(prefix << 20).unwrap()];
        segments.push(against(plain, references.collect(), &bytes, ops));
    }
    let mut recipe = Recipe::delta(b"", &[&old], &segments);
    recipe.head.size = 32 * limits::OUTPUT;
    recipe.head.target = Sha256Sum::new(target.finalize().into());
    save(&recipe, &store.path().join("recipe"));
    drop((old, segments, recipe));
    let peak = peak(&store.path().join("recipe"), store.path());
    eprintln!("2 GiB out of another image: {peak} MiB");
    assert!(peak < 64, "{peak} MiB");
}
