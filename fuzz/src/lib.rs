//! What the fuzz targets do: bytes from outside are read, and what can be read is carried out.
//! Whatever the bytes are, nothing panics, hangs, or takes more memory than the limits allow.
//!
//! Ways in: [`index`] and [`recipe`], each called with one input. Files are made in the temporary
//! directory, which should be in memory.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use shoal_image::recipe::{Base, Head, Kind, Segment, SegmentHead};
use shoal_image::{Assembler, Compressor, Index, Sha256Sum, codecs};

/// Images of some files each, with blocks of 4 KiB: what recipes take bytes from.
const IMAGES: [(Compressor, &[u8]); 3] = [
    (Compressor::Gzip, include_bytes!("../images/gzip.squashfs")),
    (Compressor::Xz, include_bytes!("../images/xz.squashfs")),
    (Compressor::Zstd, include_bytes!("../images/zstd.squashfs")),
];

/// The most segments of an input.
const SEGMENTS: u8 = 3;

/// An index as it is sent, and an image of which one is made.
pub fn index(data: &[u8]) {
    if let Ok(index) = Index::decode(data) {
        assert_eq!(Index::decode(&index.encode()).as_ref(), Ok(&index));
    }
    let Ok(memory) = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC) else {
        return;
    };
    let path = path_of(&memory);
    File::from(memory.try_clone().expect("a descriptor is free")).write_all(data).expect("memory");
    let _ = shoal_image::inspect(&path);
    let Ok(index) = Index::read(&path) else { return };
    let mut end = 0;
    for block in &index.blocks {
        assert_eq!(block.offset, end, "a gap, or an overlap");
        end = block.end();
    }
    assert_eq!(end, index.size);
    assert_eq!(Index::decode(&index.encode()).as_ref(), Ok(&index));
    assert_eq!(index.shared_bytes(&index), index.size);
}

fn path_of(memory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()))
}

/// A head as it is sent, and segments carried out against small images.
///
/// The segments of an input have right hashes and are not compressed, so that what is changed in
/// them reaches the code behind: first a byte that says how many there are, how the new image is
/// compressed and whether windows are coded; then each with its operations and its window, both
/// after their lengths (two bytes, little-endian).
pub fn recipe(data: &[u8]) {
    if let Ok(head) = Head::decode(data) {
        assert_eq!(head.encode(), data, "two spellings of a head");
        return;
    }
    let Some((segments, compressor)) = segments(data) else { return };
    let decoded: Option<Vec<u64>> = segments
        .iter()
        .map(|bytes| Segment::decode(bytes, IMAGES.len()).ok().map(|segment| segment.output()))
        .collect();
    let Some(outputs) = decoded else { return };
    carry_out(&head(&segments, &outputs, compressor), &segments);
}

/// The segments as they would be sent.
fn segments(data: &[u8]) -> Option<(Vec<Vec<u8>>, Compressor)> {
    let (first, mut rest) = data.split_first()?;
    let compressor = IMAGES[usize::from((first >> 2) % 3)].0;
    let coded = first & 0x80 != 0;
    let mut segments = Vec::new();
    for _ in 0..=(first & 3) % SEGMENTS {
        let operations = part(&mut rest)?;
        let window = part(&mut rest)?;
        let packed = frame(operations);
        let mut bytes = Vec::new();
        put(&mut bytes, operations.len());
        put(&mut bytes, packed.len());
        bytes.extend(packed);
        match window {
            [] => {}
            window if coded => bytes.extend(window),
            window => bytes.extend(frame(window)),
        }
        segments.push(bytes);
    }
    Some((segments, compressor))
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (part, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
    *rest = after;
    Some(part)
}

/// The bytes as a frame of zstd that holds them as they are.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("at most 64 KiB");
    let block = (length << 3) | 1;
    [b"\x28\xb5\x2f\xfd\xa0", &length.to_le_bytes()[..], &block.to_le_bytes()[..3], bytes].concat()
}

fn put(out: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
}

fn head(segments: &[Vec<u8>], outputs: &[u64], compressor: Compressor) -> Head {
    let base = |(_, image): &(Compressor, &[u8])| Base {
        sum: Sha256Sum::of(image),
        size: u64::try_from(image.len()).expect("a few KiB"),
    };
    let segment = |(bytes, output): (&Vec<u8>, &u64)| SegmentHead {
        output: *output,
        encoded: u32::try_from(bytes.len()).expect("a few KiB"),
        hash: blake3::hash(bytes).into(),
    };
    Head {
        target: Sha256Sum::of(b"made of what comes"),
        size: outputs.iter().sum(),
        kind: Kind::Delta {
            sources: IMAGES.iter().map(base).collect(),
            codecs: codecs(),
            compressor,
            options: Vec::new(),
            block_size: 4096,
        },
        segments: segments.iter().zip(outputs).map(segment).collect(),
    }
}

fn carry_out(head: &Head, segments: &[Vec<u8>]) {
    let dir = dir();
    let mut assembler = Assembler::open(head.clone(), dir, dir, 0).expect("all sources are here");
    for (number, bytes) in segments.iter().enumerate() {
        assert_eq!(assembler.next(), Some(number));
        let end = assembler.received() + head.segments[number].output;
        match assembler.apply(number, bytes) {
            Ok(()) => assert_eq!(assembler.received(), end),
            Err(error) => {
                assert!(error.asks_for_whole(), "{error}");
                assert_eq!((assembler.received(), assembler.next()), (0, Some(0)));
                return drop(fs::remove_file(dir.join(format!("{}.partial", head.target))));
            }
        }
    }
    assert_eq!((assembler.received(), assembler.next()), (head.size, None));
    assembler.finish().expect_err("no bytes have this sum");
}

/// Where the images are.
fn dir() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join("shoal-fuzz");
        fs::create_dir_all(&dir).expect("the temporary directory can be written to");
        for (_, image) in IMAGES {
            let name = format!("{}.squashfs", Sha256Sum::of(image));
            fs::write(dir.join(name), image).expect("the temporary directory can be written to");
        }
        dir
    })
}
