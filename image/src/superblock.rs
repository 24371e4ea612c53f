//! The first 96 bytes of an image: parsed, and checked against the size of the file.

use crate::compression::Compressor;
use crate::found::Found;
use crate::problem::{Part, Problem};

/// The most files and directories that an image may hold. A Debian desktop has about 400,000.
pub const MAX_INODES: u32 = 4_000_000;

/// The length of a superblock in bytes.
pub(crate) const SUPERBLOCK_LEN: usize = 96;

/// The offset of the first byte after the superblock.
pub(crate) const SUPERBLOCK_END: u64 = 96;

/// The offset of a table that the image does not have.
const ABSENT: u64 = u64::MAX;

/// What an image says of itself. One that exists has passed every check that needs no more than
/// these bytes and the size of the file: tables are in order and within `bytes_used`, and
/// `bytes_used` is within the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    pub compressor: Compressor,
    /// Bytes of a data block: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Files, directories, links and devices, the root included.
    pub inodes: u32,
    /// When the image was made, in seconds since 1970-01-01 UTC. Reproducible builds fix it.
    pub mkfs_time: u32,
    pub flags: Flags,
    /// The length of the image in bytes, without padding.
    pub bytes_used: u64,
    pub(crate) fragments: u32,
    pub(crate) ids: u16,
    pub(crate) root_inode: u64,
    pub(crate) inode_table: u64,
    pub(crate) directory_table: u64,
    pub(crate) fragment_table: Option<u64>,
    pub(crate) export_table: Option<u64>,
    pub(crate) id_table: u64,
    pub(crate) xattr_table: Option<u64>,
}

/// The superblock's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// The bits as they stand in the file.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// File ends are not packed into fragments.
    pub const fn no_fragments(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Equal files were stored once.
    pub const fn deduplicated(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// The image has a table for export over NFS.
    pub const fn exportable(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// The image has no extended attributes, so no file capabilities either.
    pub const fn no_xattrs(self) -> bool {
        self.0 & 0x200 != 0
    }

    /// The compressor was given options, which stand after the superblock.
    pub const fn compressor_options(self) -> bool {
        self.0 & 0x400 != 0
    }
}

impl Superblock {
    /// Parses the beginning of a file of `size` bytes. `head` holds its first 2 KiB, or the whole
    /// file where that is shorter.
    pub(crate) fn parse(head: &[u8], size: u64) -> Result<Self, Problem> {
        if size == 0 {
            return Err(Problem::Empty);
        }
        check_magic(head)?;
        let Some(bytes) = head.first_chunk::<SUPERBLOCK_LEN>() else {
            return Err(Problem::TooShort { size });
        };
        check_version(bytes)?;
        let superblock = decode(bytes)?;
        superblock.check_size(size)?;
        superblock.check_counts()?;
        superblock.check_order()?;
        Ok(superblock)
    }

    /// The bytes that [`Superblock::parse`] reads.
    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_LEN] {
        let mut bytes = [0; SUPERBLOCK_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let block_log = u16::try_from(self.block_size.trailing_zeros()).expect("at most 32");
        put(0, b"hsqs");
        put(4, &self.inodes.to_le_bytes());
        put(8, &self.mkfs_time.to_le_bytes());
        put(12, &self.block_size.to_le_bytes());
        put(16, &self.fragments.to_le_bytes());
        put(20, &self.compressor.id().to_le_bytes());
        put(22, &block_log.to_le_bytes());
        put(24, &self.flags.0.to_le_bytes());
        put(26, &self.ids.to_le_bytes());
        put(28, &4_u16.to_le_bytes());
        put(32, &self.root_inode.to_le_bytes());
        put(40, &self.bytes_used.to_le_bytes());
        put(48, &self.id_table.to_le_bytes());
        put(56, &self.xattr_table.unwrap_or(ABSENT).to_le_bytes());
        put(64, &self.inode_table.to_le_bytes());
        put(72, &self.directory_table.to_le_bytes());
        put(80, &self.fragment_table.unwrap_or(ABSENT).to_le_bytes());
        put(88, &self.export_table.unwrap_or(ABSENT).to_le_bytes());
        bytes
    }

    fn check_size(&self, size: u64) -> Result<(), Problem> {
        match self.bytes_used.checked_sub(size) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(Problem::Truncated { missing, bytes_used: self.bytes_used }),
        }
    }

    fn check_counts(&self) -> Result<(), Problem> {
        match self.inodes {
            0 => Err(damaged("counts no inodes")),
            1..=MAX_INODES if self.ids == 0 => Err(damaged("counts no user ids")),
            1..=MAX_INODES => Ok(()),
            inodes => Err(Problem::TooManyInodes { inodes }),
        }
    }

    /// Every writer lays the tables out in this order; the kernel insists on it too.
    fn check_order(&self) -> Result<(), Problem> {
        let mut previous = SUPERBLOCK_END;
        let tables = [
            Some(self.inode_table),
            Some(self.directory_table),
            self.fragment_table,
            self.export_table,
            Some(self.id_table),
            self.xattr_table,
            Some(self.bytes_used),
        ];
        for table in tables.into_iter().flatten() {
            if table < previous {
                return Err(damaged("places the tables out of order or past the end"));
            }
            previous = table;
        }
        if self.fragments > 0 && self.fragment_table.is_none() {
            return Err(damaged("counts fragments but has no table of them"));
        }
        Ok(())
    }
}

fn damaged(fault: &'static str) -> Problem {
    Problem::Damaged { part: Part::Superblock, offset: 0, fault }
}

fn check_magic(head: &[u8]) -> Result<(), Problem> {
    if head.starts_with(b"hsqs") {
        return Ok(());
    }
    if head.starts_with(b"sqsh") {
        return Err(Problem::BigEndian);
    }
    Err(Problem::NotSquashfs { found: Found::in_head(head) })
}

/// All versions keep their number in the same place, so it is looked at before anything else.
fn check_version(bytes: &[u8; SUPERBLOCK_LEN]) -> Result<(), Problem> {
    match (le16(bytes, 28), le16(bytes, 30)) {
        (4, 0) => Ok(()),
        (major, minor) => Err(Problem::Version { major, minor }),
    }
}

fn decode(bytes: &[u8; SUPERBLOCK_LEN]) -> Result<Superblock, Problem> {
    let id = le16(bytes, 20);
    Ok(Superblock {
        compressor: Compressor::from_id(id).ok_or(Problem::Compressor { id })?,
        block_size: block_size(le32(bytes, 12), le16(bytes, 22))?,
        inodes: le32(bytes, 4),
        mkfs_time: le32(bytes, 8),
        flags: Flags(le16(bytes, 24)),
        bytes_used: le64(bytes, 40),
        fragments: le32(bytes, 16),
        ids: le16(bytes, 26),
        root_inode: le64(bytes, 32),
        inode_table: le64(bytes, 64),
        directory_table: le64(bytes, 72),
        fragment_table: optional(le64(bytes, 80)),
        export_table: optional(le64(bytes, 88)),
        id_table: le64(bytes, 48),
        xattr_table: optional(le64(bytes, 56)),
    })
}

fn block_size(block_size: u32, block_log: u16) -> Result<u32, Problem> {
    let matches = 1_u32.checked_shl(block_log.into()) == Some(block_size);
    if matches && (12..=20).contains(&block_log) {
        Ok(block_size)
    } else {
        Err(Problem::BlockSize { block_size, block_log })
    }
}

fn optional(table: u64) -> Option<u64> {
    (table != ABSENT).then_some(table)
}

fn le16(bytes: &[u8; SUPERBLOCK_LEN], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn le32(bytes: &[u8; SUPERBLOCK_LEN], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn le64(bytes: &[u8; SUPERBLOCK_LEN], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn field<const N: usize>(bytes: &[u8; SUPERBLOCK_LEN], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("every field lies within the superblock")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 8192;

    /// A superblock whose tables lie in order within 8000 bytes.
    fn valid() -> Vec<u8> {
        let mut head = vec![0; SUPERBLOCK_LEN];
        put(&mut head, 0, b"hsqs");
        put(&mut head, 4, &10_u32.to_le_bytes());
        put(&mut head, 8, &1_700_000_000_u32.to_le_bytes());
        put(&mut head, 12, &131_072_u32.to_le_bytes());
        put(&mut head, 20, &6_u16.to_le_bytes());
        put(&mut head, 22, &17_u16.to_le_bytes());
        put(&mut head, 26, &1_u16.to_le_bytes());
        put(&mut head, 28, &4_u16.to_le_bytes());
        put(&mut head, 40, &8000_u64.to_le_bytes());
        put(&mut head, 48, &7900_u64.to_le_bytes());
        put(&mut head, 56, &ABSENT.to_le_bytes());
        put(&mut head, 64, &7000_u64.to_le_bytes());
        put(&mut head, 72, &7200_u64.to_le_bytes());
        put(&mut head, 80, &ABSENT.to_le_bytes());
        put(&mut head, 88, &7800_u64.to_le_bytes());
        head
    }

    fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn with(at: usize, bytes: &[u8]) -> Result<Superblock, String> {
        let mut head = valid();
        put(&mut head, at, bytes);
        Superblock::parse(&head, SIZE).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_valid_one_is_read() {
        let superblock = with(24, &0x6c0_u16.to_le_bytes()).unwrap();
        assert_eq!(superblock.compressor, Compressor::Zstd);
        assert_eq!(superblock.block_size, 131_072);
        assert_eq!(superblock.inodes, 10);
        assert_eq!(superblock.mkfs_time, 1_700_000_000);
        assert_eq!(superblock.bytes_used, 8000);
        assert_eq!(superblock.fragment_table, None);
        let flags = superblock.flags;
        assert!(flags.exportable() && flags.deduplicated() && flags.no_xattrs());
        assert!(flags.compressor_options() && !flags.no_fragments());
    }

    #[test]
    fn what_was_read_is_written_as_it_was() {
        let head = valid();
        let superblock = Superblock::parse(&head, SIZE).unwrap();
        assert_eq!(superblock.encode()[..], head);
    }

    #[test]
    fn every_wrong_field_has_its_words() {
        let table: &[(usize, &[u8], &str)] = &[
            (0, b"sqsh", "is a big-endian squashfs"),
            (0, b"hsqt", "is not a squashfs file: it starts with the bytes 68 73 71 74"),
            (28, &[3, 0, 1, 0], "is a squashfs of version 3.1, and only version 4.0"),
            (28, &[1, 0, 0, 0], "is a squashfs of version 1.0"),
            (28, &[4, 0, 1, 0], "is a squashfs of version 4.1"),
            (20, &[2, 0], "is compressed with lzma"),
            (20, &[3, 0], "is compressed with lzo"),
            (20, &[5, 0], "is compressed with lz4"),
            (20, &[77, 0], "an unknown method (number 77)"),
            (12, &[1, 0, 2, 0], "a block size of 131073 bytes"),
            (22, &[16, 0], "(log 16)"),
            (22, &[255, 255], "(log 65535)"),
            (4, &[0; 4], "counts no inodes"),
            (4, &[255; 4], "holds 4294967295 files and directories, and at most 4000000"),
            (26, &[0; 2], "counts no user ids"),
            (16, &[1, 0, 0, 0], "counts fragments but has no table"),
            (40, &8193_u64.to_le_bytes(), "is truncated: 1 of its 8193 bytes are missing"),
            (40, &u64::MAX.to_le_bytes(), "of its 18446744073709551615 bytes are missing"),
            (40, &7899_u64.to_le_bytes(), "out of order or past the end"),
            (64, &95_u64.to_le_bytes(), "out of order or past the end"),
            (64, &7201_u64.to_le_bytes(), "out of order or past the end"),
            (88, &7901_u64.to_le_bytes(), "out of order or past the end"),
            (56, &9000_u64.to_le_bytes(), "out of order or past the end"),
        ];
        for (at, bytes, words) in table {
            let text = with(*at, bytes).expect_err(words);
            assert!(text.contains(words), "{text}\nshould say: {words}");
        }
    }

    #[test]
    fn a_short_file_says_so() {
        let head = valid();
        for length in 4..SUPERBLOCK_LEN {
            let size = u64::try_from(length).unwrap();
            let result = Superblock::parse(&head[..length], size);
            assert!(matches!(result, Err(Problem::TooShort { .. })), "{length}: {result:?}");
        }
        assert!(matches!(Superblock::parse(&[], 0), Err(Problem::Empty)));
        assert!(matches!(Superblock::parse(b"hs", 2), Err(Problem::NotSquashfs { .. })));
    }
}
