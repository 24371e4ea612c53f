//! Real images of mksquashfs, old and new: a recipe is made on one side and carried out on the
//! other, and what comes out is the new image.
#![allow(clippy::disallowed_methods, reason = "the trees need devices and attributes")]

mod mksquashfs;
mod recipes;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mksquashfs::Tree;
use recipes::{Store, noise, size};
use shoal_image::recipe::RecipeFile;
use shoal_image::{AssembleError, Assembler, MakeOptions, Sha256Sum, Summary, make};

/// A host that has `old`, and to which `new` is sent.
struct Transfer {
    store: Store,
    new: PathBuf,
    sum: Sha256Sum,
    recipe: RecipeFile,
    summary: Summary,
}

impl Transfer {
    fn new(new: &Path, old: &[&Path]) -> Self {
        let store = Store::new();
        for path in old {
            store.put(&fs::read(path).expect("the old image"));
        }
        // Beside the others: its tree goes away.
        let kept = store.path().join("new");
        fs::copy(new, &kept).expect("the new image");
        let sum = shoal_image::sha256_of(new, |_| ()).expect("the new image");
        let options = MakeOptions { level: 3, threads: 2 };
        let out = store.path().join("recipe");
        let (recipe, summary) =
            make(new, old, &out, &options, &mut |_, _| true).expect("both are images");
        Self { store, new: kept, sum, recipe, summary }
    }

    fn open(&self) -> Result<Assembler, AssembleError> {
        let dir = self.store.path();
        Assembler::open(self.recipe.head().clone(), dir, dir, 0)
    }

    fn carry_on(&self, mut assembler: Assembler) -> Result<PathBuf, AssembleError> {
        while let Some(next) = assembler.next() {
            assembler.apply(next, &self.recipe.read(next).expect("the recipe"))?;
        }
        assembler.finish()
    }

    /// Carries it out, from nothing and from the middle.
    fn ends_well(&self) {
        let new = fs::read(&self.new).expect("the new image");
        for begin in [0, new.len() / 3, new.len() - 1] {
            fs::write(self.store.partial(&self.sum), &new[..begin]).expect("room");
            let image = self.carry_on(self.open().expect("its sources are here"));
            let image = image.expect("the recipe makes the image");
            assert!(fs::read(&image).expect("the image") == new, "another image");
            fs::remove_file(image).expect("it is there");
        }
    }
}

/// Two trees that differ in a changed, an added and a removed file.
fn changed(options: &[&str], more: impl Fn(&Tree)) -> Transfer {
    let (old, new) = (Tree::debian(), Tree::debian());
    more(&old);
    more(&new);
    let mut program = noise(1, 200_000);
    program.extend(b"the same, many times over ".repeat(9000));
    old.file("usr/bin/program", &program);
    program[100_000..100_020].copy_from_slice(b"some twenty bytes...");
    new.file("usr/bin/program", &program);
    old.file("usr/share/removed", &noise(2, 5000));
    new.file("usr/share/added", &noise(3, 5000));
    let options = [options, &["-mkfs-time", "1000000000", "-all-time", "1000000000"]].concat();
    Transfer::new(&new.image(&options), &[&old.image(&options)])
}

#[test]
fn what_changed_little_is_made_of_little() {
    for options in [
        &["-comp", "gzip"][..],
        &["-comp", "xz", "-Xbcj", "x86"],
        &["-comp", "zstd", "-b", "4096"],
        &["-comp", "zstd", "-Xcompression-level", "5", "-no-fragments"],
        &["-comp", "gzip", "-noI", "-noD", "-b", "1M"],
    ] {
        let transfer = changed(options, |_| ());
        transfer.ends_well();
        let wire = transfer.summary.wire_bytes;
        assert!(wire < 14_000, "{options:?}: {wire} bytes for 5 kB: {:?}", transfer.summary);
    }
}

/// Attributes, hard links, devices, pipes, sparse and empty files, and names of every length.
fn of_every_kind(tree: &Tree) {
    let root = tree.root();
    let path = |name: &str| root.join(name);
    tree.file("empty", b"");
    tree.file("long/".repeat(30).trim_end_matches('/'), b"deep");
    tree.file(&"n".repeat(255), b"a long name");
    let sparse = File::create(path("sparse")).expect("a new file");
    sparse.set_len(300 << 20).expect("a sparse file");
    sparse.write_all_at(b"in the middle", 200 << 20).expect("room");
    fs::write(path("large"), noise(7, 3 << 20)).expect("room");
    for (number, kind) in ["c", "b", "p"].into_iter().enumerate() {
        let mut command = Command::new("mknod");
        command.arg(path(&format!("node{number}"))).arg(kind);
        if kind != "p" {
            command.args(["1", "3"]);
        }
        assert!(command.status().expect("mknod can be run").success());
    }
    fs::hard_link(path("large"), path("hard")).expect("another name");
    for number in 0..300 {
        let name = format!("attributes{number}");
        tree.file(&name, b"x");
        let value = number.to_string();
        rustix::fs::setxattr(
            path(&name),
            format!("user.number{}", number % 7),
            value.as_bytes(),
            rustix::fs::XattrFlags::empty(),
        )
        .expect("the temporary directory keeps attributes");
    }
}

#[test]
fn files_of_every_kind_are_sent() {
    for options in [&["-comp", "gzip"][..], &["-comp", "zstd"], &["-comp", "xz", "-b", "64K"]] {
        let transfer = changed(options, of_every_kind);
        transfer.ends_well();
        let wire = transfer.summary.wire_bytes;
        assert!(wire < 30_000, "{options:?}: {wire} bytes: {:?}", transfer.summary);
    }
}

#[test]
fn an_image_without_a_file_is_sent() {
    let (empty, full) = (Tree::new(), Tree::debian());
    for comp in ["gzip", "xz", "zstd"] {
        let options = ["-comp", comp];
        let (empty, full) = (empty.image(&options), full.image(&options));
        Transfer::new(&empty, &[&full]).ends_well();
        Transfer::new(&full, &[&empty]).ends_well();
        Transfer::new(&full, &[]).ends_well();
    }
}

#[test]
fn several_old_images_and_other_compressors_are_sources() {
    let tree = Tree::debian();
    let gzip = tree.image(&["-comp", "gzip"]);
    let other = Tree::debian();
    other.file("usr/bin/program", &noise(1, 300_000));
    let xz = other.image(&["-comp", "xz", "-b", "32K"]);
    let new = Tree::debian();
    new.file("usr/bin/program", &noise(1, 300_000));
    let zstd = new.image(&["-comp", "zstd"]);
    let transfer = Transfer::new(&zstd, &[&gzip, &xz]);
    transfer.ends_well();
    let wire = transfer.summary.wire_bytes;
    assert!(wire < size(&fs::read(&zstd).unwrap()) / 4, "{wire}: {:?}", transfer.summary);
}

/// An old image whose damage lies in its tables, in a block that is decompressed, or in bytes that
/// are copied: always found, and never under the new image's name.
#[test]
fn a_damaged_old_image_is_found() {
    let transfer = changed(&["-comp", "gzip"], |_| ());
    let old = transfer.recipe.head().sources()[0].sum;
    let path = transfer.store.complete(&old);
    let right = fs::read(&path).unwrap();
    let mut found = 0;
    for chosen in noise(11, 60).chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([chosen[0], chosen[1]]));
        // Half of them in the tables, which stand last.
        let place = match chosen[2] & 1 {
            0 => place % right.len(),
            _ => right.len() - 4096 - place % 4000,
        };
        let mut damaged = right.clone();
        damaged[place] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let made = transfer.open().and_then(|assembler| transfer.carry_on(assembler));
        match made {
            Err(error) => {
                found += 1;
                assert!(error.asks_for_whole(), "{error}");
                assert!(!transfer.store.complete(&transfer.sum).exists());
            }
            // What was damaged is in the removed file or in the padding.
            Ok(image) => {
                assert_eq!(shoal_image::sha256_of(&image, |_| ()).unwrap(), transfer.sum);
                fs::remove_file(image).unwrap();
            }
        }
        let _ = fs::remove_file(transfer.store.partial(&transfer.sum));
    }
    assert!(found >= 15, "{found} of 20");
}

/// Bits flipped in the recipe's file: it is not opened, or its segment is not taken, or what is made
/// is not the image that it names.
#[test]
fn a_damaged_recipe_is_found() {
    let transfer = changed(&["-comp", "zstd"], |_| ());
    let path = transfer.store.path().join("recipe");
    let right = fs::read(&path).unwrap();
    let mut found = 0;
    for place in (0..right.len()).step_by(right.len() / 200 + 1) {
        let mut damaged = right.clone();
        damaged[place] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let Ok(recipe) = RecipeFile::open(&path) else { continue };
        let dir = transfer.store.path();
        let Ok(mut assembler) = Assembler::open(recipe.head().clone(), dir, dir, 0) else {
            continue;
        };
        let mut apply = |next| assembler.apply(next, &recipe.read(next).unwrap());
        let applied = (0..recipe.head().segments.len()).try_for_each(&mut apply);
        found += usize::from(applied.and_then(|()| assembler.finish()).is_err());
        // A bit of an option that no block was made with.
        if let Ok(image) = fs::read(transfer.store.complete(&transfer.sum)) {
            assert!(image == fs::read(&transfer.new).unwrap(), "a wrong image, byte {place}");
            fs::remove_file(transfer.store.complete(&transfer.sum)).unwrap();
        }
    }
    assert!(found > 150, "{found}");
    for length in (0..right.len()).step_by(right.len() / 100 + 1) {
        fs::write(&path, &right[..length]).unwrap();
        RecipeFile::open(&path).expect_err("cut short");
    }
}

/// A tree of 100,000 small files, as an archive: on a disk they would take minutes.
fn many_files(changed: &[usize]) -> Vec<u8> {
    let mut archive = Vec::new();
    for number in 0..100_000 {
        let name = format!("d{:03}/file-{number:06}", number / 500);
        let text = if changed.contains(&number) { "changed".into() } else { number.to_string() };
        let mut header = [0; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, &name);
        put(100, "0000644\x000000000\x000000000\x00");
        put(124, &format!("{:011o}\0{:011o}\0", text.len(), 1));
        put(148, "        0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(text.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend([0; 1024]);
    archive
}

/// Looking for duplicates among so many small files would take a minute.
fn image_of(archive: &[u8], image: &Path) {
    let mut started = Command::new("mksquashfs")
        .arg("-")
        .arg(image)
        .args(
            "-tar -no-duplicates -comp gzip -mkfs-time 1 -all-time 1 -quiet -no-progress"
                .split(' '),
        )
        .stdin(Stdio::piped())
        .spawn()
        .expect("mksquashfs can be run; install squashfs-tools");
    started.stdin.take().expect("it is piped").write_all(archive).expect("it reads all");
    assert!(started.wait().expect("it was started here").success());
}

/// The tables are the most of such an image.
#[test]
fn a_hundred_thousand_files_are_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    image_of(&many_files(&[]), &old);
    image_of(&many_files(&[5, 50_000, 99_999]), &new);
    let transfer = Transfer::new(&new, &[&old]);
    transfer.ends_well();
    let (wire, whole) = (transfer.summary.wire_bytes, fs::metadata(&new).unwrap().len());
    eprintln!("{wire} of {whole} bytes: {:?}", transfer.summary);
    assert!(wire < whole / 50, "{wire} of {whole}: {:?}", transfer.summary);
}
