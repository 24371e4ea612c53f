//! Images that arrive in pieces, as a sender sees it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shoal_image::{
    Partial, PartialError, Sha256Sum, complete, discard_partial, free_space, list, remove,
};

fn bytes(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("fits")
}

fn open(dir: &Path, image: &[u8]) -> Result<Partial, PartialError> {
    Partial::open(dir, Sha256Sum::of(image), size(image), 0)
}

fn partial_file(dir: &Path, image: &[u8]) -> PathBuf {
    dir.join(format!("{}.partial", Sha256Sum::of(image)))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn a_whole_transfer_ends_under_its_digest() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("shoal/images");
    let image = bytes(300_000);
    let mut partial = open(&dir, &image).unwrap();
    assert_eq!((partial.received(), partial.size()), (0, 300_000));
    for piece in image.chunks(7001) {
        partial.append(piece).unwrap();
    }
    assert_eq!(partial.received(), 300_000);
    assert_eq!(complete(&dir, &partial.expected()).unwrap(), None, "not before the end");
    let path = partial.finish().unwrap();
    assert_eq!(path, dir.join(format!("{}.squashfs", Sha256Sum::of(&image))));
    assert_eq!(fs::read(&path).unwrap(), image);
    assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
    assert_eq!(complete(&dir, &Sha256Sum::of(&image)).unwrap(), Some(path));
    assert!(!partial_file(&dir, &image).exists());
}

#[test]
fn a_broken_off_transfer_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(100_000);
    let mut sent = 0;
    while sent < image.len() {
        let mut partial = open(dir.path(), &image).unwrap();
        assert_eq!(partial.received(), u64::try_from(sent).unwrap());
        let piece = &image[sent..image.len().min(sent + 30_001)];
        partial.append(piece).unwrap();
        sent += piece.len();
    }
    let path = open(dir.path(), &image).unwrap().finish().unwrap();
    assert_eq!(fs::read(path).unwrap(), image);
}

#[test]
fn ending_too_early_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(1000);
    let mut partial = open(dir.path(), &image).unwrap();
    partial.append(&image[..400]).unwrap();
    let error = partial.finish().expect_err("not all is there");
    assert!(matches!(error, PartialError::Incomplete { received: 400, size: 1000, .. }));
    assert!(error.to_string().contains("ended after 400 of 1000 bytes"), "{error}");
    let mut partial = open(dir.path(), &image).unwrap();
    assert_eq!(partial.received(), 400);
    partial.append(&image[400..]).unwrap();
    partial.finish().unwrap();
}

#[test]
fn wrong_bytes_are_thrown_away_and_both_digests_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(1000);
    let mut wrong = image.clone();
    wrong[500] ^= 1;
    let mut partial = open(dir.path(), &image).unwrap();
    partial.append(&wrong).unwrap();
    let error = partial.finish().expect_err("wrong bytes");
    let text = error.to_string();
    assert!(text.contains(&Sha256Sum::of(&image).to_string()), "{text}");
    assert!(text.contains(&Sha256Sum::of(&wrong).to_string()), "{text}");
    assert_eq!(list(dir.path()).unwrap(), shoal_image::Listing::default());
    assert_eq!(open(dir.path(), &image).unwrap().received(), 0, "and it can begin again");
}

#[test]
fn bytes_spoilt_between_two_transfers_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(1000);
    open(dir.path(), &image).unwrap().append(&image[..500]).unwrap();
    fs::write(partial_file(dir.path(), &image), [0; 500]).unwrap();
    let mut partial = open(dir.path(), &image).unwrap();
    partial.append(&image[500..]).unwrap();
    let error = partial.finish().expect_err("spoilt on disk");
    assert!(matches!(error, PartialError::WrongDigest { .. }), "{error}");
}

#[test]
fn more_than_announced_is_refused_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(1000);
    let mut partial = open(dir.path(), &image).unwrap();
    partial.append(&image[..900]).unwrap();
    let error = partial.append(&[0; 101]).expect_err("too much");
    assert!(matches!(error, PartialError::TooLong { size: 1000, .. }), "{error}");
    assert_eq!(partial.received(), 900);
    partial.append(&image[900..]).unwrap();
    partial.finish().unwrap();
}

#[test]
fn a_longer_leftover_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(1000);
    let mut partial = Partial::open(dir.path(), Sha256Sum::of(&image), 5000, 0).unwrap();
    partial.append(&bytes(3000)).unwrap();
    drop(partial);
    let mut partial = open(dir.path(), &image).unwrap();
    assert_eq!(partial.received(), 0);
    partial.append(&image).unwrap();
    assert_eq!(fs::read(partial.finish().unwrap()).unwrap(), image);
}

#[test]
fn one_writer_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (image, other) = (bytes(1000), bytes(2000));
    let mut first = open(dir.path(), &image).unwrap();
    let error = open(dir.path(), &image).expect_err("locked");
    assert!(matches!(error, PartialError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("another transfer is writing"), "{error}");
    let error = discard_partial(dir.path(), &Sha256Sum::of(&image)).expect_err("locked");
    assert!(matches!(error, PartialError::Busy { .. }), "{error}");
    open(dir.path(), &other).expect("another image is free");
    first.append(&image).unwrap();
    first.finish().unwrap();
}

#[test]
fn many_writers_leave_one_right_image() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(200_000);
    let send = || loop {
        let mut partial = match open(dir.path(), &image) {
            Ok(partial) => partial,
            Err(PartialError::Busy { .. }) => {
                std::thread::yield_now();
                continue;
            }
            Err(PartialError::AlreadyComplete { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        let from = usize::try_from(partial.received()).unwrap();
        // Each sends a little and breaks off, so that the others take over.
        let to = image.len().min(from + 9001);
        partial.append(&image[from..to]).unwrap();
        if to == image.len() {
            partial.finish().unwrap();
            return;
        }
    };
    std::thread::scope(|scope| {
        (0..6).for_each(|_| {
            scope.spawn(send);
        });
    });
    let listing = list(dir.path()).unwrap();
    assert_eq!((listing.complete.len(), listing.partial.len()), (1, 0));
    assert_eq!(fs::read(&listing.complete[0].path).unwrap(), image);
}

#[test]
fn a_complete_image_is_not_received_again() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(1000);
    let mut partial = open(dir.path(), &image).unwrap();
    partial.append(&image).unwrap();
    partial.finish().unwrap();
    let error = open(dir.path(), &image).expect_err("it is there");
    assert!(matches!(error, PartialError::AlreadyComplete { .. }), "{error}");
    assert!(!partial_file(dir.path(), &image).exists());
}

#[test]
fn space_is_looked_at_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let sum = Sha256Sum::of(b"huge");
    let error = Partial::open(dir.path(), sum, 1 << 60, 0).expect_err("an exbibyte");
    let PartialError::NoSpace { needed, available, .. } = &error else { panic!("{error}") };
    assert_eq!(*needed, 1 << 60);
    assert!(*available > 0);
    assert!(error.to_string().contains("1048576.0 TiB are needed"), "{error}");
    let error = Partial::open(dir.path(), sum, 10, 1 << 60).expect_err("the reserve");
    assert!(matches!(error, PartialError::NoSpace { needed: 10, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("10 bytes are needed and 1048576.0 TiB are to stay free, "), "{text}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(free_space(&dir.path().join("missing")).is_err());
}

#[test]
fn a_link_under_the_name_of_a_partial_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(10);
    let victim = dir.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    std::os::unix::fs::symlink(&victim, partial_file(dir.path(), &image)).unwrap();
    let error = open(dir.path(), &image).expect_err("a link");
    assert!(matches!(error, PartialError::Io { action: "open", .. }), "{error}");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn a_directory_lists_and_loses_its_images() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("images");
    assert_eq!(list(&dir).unwrap(), shoal_image::Listing::default());
    let (whole, half) = (bytes(1000), bytes(2000));
    let mut partial = open(&dir, &whole).unwrap();
    partial.append(&whole).unwrap();
    partial.finish().unwrap();
    open(&dir, &half).unwrap().append(&half[..700]).unwrap();
    for name in ["notes.txt", "abc.squashfs", "x.partial"] {
        fs::write(dir.join(name), b"not ours").unwrap();
    }
    fs::create_dir(dir.join(format!("{}.squashfs", Sha256Sum::of(b"dir")))).unwrap();

    let listing = list(&dir).unwrap();
    let complete: Vec<_> = listing.complete.iter().map(|file| (file.sum, file.size)).collect();
    let partial: Vec<_> = listing.partial.iter().map(|file| (file.sum, file.received)).collect();
    assert_eq!(complete, [(Sha256Sum::of(&whole), 1000)]);
    assert_eq!(partial, [(Sha256Sum::of(&half), 700)]);

    assert!(remove(&dir, &Sha256Sum::of(&whole)).unwrap());
    assert!(!remove(&dir, &Sha256Sum::of(&whole)).unwrap());
    assert!(discard_partial(&dir, &Sha256Sum::of(&half)).unwrap());
    assert!(!discard_partial(&dir, &Sha256Sum::of(&half)).unwrap());
    assert_eq!(list(&dir).unwrap(), shoal_image::Listing::default());
    assert!(dir.join("notes.txt").exists());
}

#[test]
fn an_image_longer_than_the_sync_interval_is_received() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(70 << 20);
    let mut partial = open(dir.path(), &image).unwrap();
    for piece in image.chunks(256 * 1024) {
        partial.append(piece).unwrap();
    }
    let path = partial.finish().unwrap();
    assert_eq!(shoal_image::sha256_of(&path, |_| ()).unwrap(), Sha256Sum::of(&image));
}

#[test]
fn an_empty_transfer_has_a_digest_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = open(dir.path(), b"").unwrap().finish().unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), 0);
}

#[test]
fn a_foreign_file_that_grows_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let image = bytes(100);
    open(dir.path(), &image).unwrap().append(&image).unwrap();
    let path = partial_file(dir.path(), &image);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    assert_eq!(open(dir.path(), &image).unwrap().received(), 0);
}
