//! What a file is that should have been a squashfs: the wrong file is named, so that the person who
//! picked it knows at once.

use std::fmt;

/// What the first bytes of a file say it is. Shown as the middle of a sentence, with the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Tar,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    Zip,
    Cpio,
    Ext,
    Erofs,
    DiskImage,
    Elf,
    Text,
    Zeros,
    /// Nothing known; its first four bytes.
    Unknown([u8; 4]),
}

/// Magic bytes with the offset where they stand. The first that fits wins.
const SIGNATURES: &[(usize, &[u8], Found)] = &[
    (0, &[0x1f, 0x8b], Found::Gzip),
    (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], Found::Xz),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], Found::Zstd),
    (0, b"BZh", Found::Bzip2),
    (0, b"PK\x03\x04", Found::Zip),
    (0, b"07070", Found::Cpio),
    (0, b"\x7fELF", Found::Elf),
    (0, b"QFI\xfb", Found::DiskImage),
    (257, b"ustar", Found::Tar),
    (512, b"EFI PART", Found::DiskImage),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], Found::Erofs),
    (1080, &[0x53, 0xef], Found::Ext),
    (510, &[0x55, 0xaa], Found::DiskImage),
];

impl Found {
    /// Recognises a file by its beginning; 2 KiB are enough for every kind known.
    pub(crate) fn in_head(head: &[u8]) -> Self {
        let fits = |(at, magic, _): &&(usize, &[u8], Self)| {
            head.get(*at..).is_some_and(|rest| rest.starts_with(magic))
        };
        if let Some((_, _, found)) = SIGNATURES.iter().find(fits) {
            return *found;
        }
        if head.iter().all(|byte| *byte == 0) {
            return Self::Zeros;
        }
        if is_text(head) {
            return Self::Text;
        }
        let mut first = [0; 4];
        first.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        Self::Unknown(first)
    }
}

fn is_text(head: &[u8]) -> bool {
    let plain = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e);
    head.iter().take(512).all(plain)
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, remedy) = match self {
            Self::Tar => ("a tar archive (`ustar`)", "unpack it"),
            Self::Gzip => ("gzip data, perhaps a tar.gz archive", "unpack it"),
            Self::Xz => ("xz data, perhaps a tar.xz archive", "unpack it"),
            Self::Zstd => ("zstd data, perhaps a tar.zst archive", "unpack it"),
            Self::Bzip2 => ("bzip2 data, perhaps a tar.bz2 archive", "unpack it"),
            Self::Zip => ("a zip archive", "unpack it"),
            Self::Cpio => ("a cpio archive", "unpack it"),
            Self::Ext => ("an ext2, ext3 or ext4 file system", "mount it"),
            Self::Erofs => ("an EROFS file system", "mount it"),
            Self::DiskImage => ("a whole disk's image", "mount its root partition"),
            Self::Elf => ("an ELF program", "take the root file system that holds it"),
            Self::Text => ("text, perhaps an error page or a script", "look at what is in it"),
            Self::Zeros => {
                return write!(f, "it starts with zeros, as a broken-off copy does; copy it again");
            }
            Self::Unknown([a, b, c, d]) => {
                write!(f, "it starts with the bytes {a:02x} {b:02x} {c:02x} {d:02x}; ")?;
                return write!(f, "make an image with `mksquashfs DIR NAME.squashfs -comp zstd`");
            }
        };
        write!(f, "it starts like {what}; {remedy}, and make an image ")?;
        write!(f, "with `mksquashfs DIR NAME.squashfs -comp zstd`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 2048];
        head[at..at + magic.len()].copy_from_slice(magic);
        head
    }

    #[test]
    fn every_signature_is_found_where_it_stands() {
        for (at, magic, found) in SIGNATURES {
            assert_eq!(Found::in_head(&head(*at, magic)), *found);
        }
    }

    #[test]
    fn the_rest_is_text_zeros_or_its_bytes() {
        assert_eq!(Found::in_head(b"<!DOCTYPE html>\n"), Found::Text);
        assert_eq!(Found::in_head(&[0; 4096]), Found::Zeros);
        assert_eq!(Found::in_head(&[1, 2, 3, 4, 5]), Found::Unknown([1, 2, 3, 4]));
        assert_eq!(Found::in_head(&[0xff]), Found::Unknown([0xff, 0, 0, 0]));
    }

    #[test]
    fn the_message_says_what_to_do() {
        says(Found::Tar, "it starts like a tar archive (`ustar`); unpack it, and make");
        says(Found::Ext, "it starts like an ext2, ext3 or ext4 file system; mount it, and");
        says(Found::Zeros, "copy it again");
        says(Found::Unknown([1, 2, 3, 4]), "the bytes 01 02 03 04; make an image");
    }

    fn says(found: Found, part: &str) {
        let text = found.to_string();
        assert!(text.contains(part), "{text}");
    }
}
