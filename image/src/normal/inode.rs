//! One inode of any kind, out of its bytes and back.

use crate::number::{count, le16, le32, le64};

/// A file whose end is in no fragment.
pub(super) const NO_FRAGMENT: u32 = u32::MAX;

/// In a data block's length: the bytes are stored as they are.
const STORED_PLAIN: u32 = 1 << 24;

/// All fields that an inode of any kind has. Those that its kind does not have are zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) kind: u16,
    pub(super) mode: u16,
    pub(super) user: u16,
    pub(super) group: u16,
    pub(super) time: u32,
    pub(super) number: u32,
    pub(super) links: u32,
    pub(super) xattr: u32,
    /// Of a file its bytes, of a directory those of its listing and three.
    pub(super) size: u64,
    /// Of a file its first block in the image, of a directory its block in their table.
    pub(super) start: u64,
    pub(super) fragment: u32,
    /// Of a file in its fragment, of a directory in its block.
    pub(super) offset: u32,
    pub(super) parent: u32,
    pub(super) holes: u64,
    pub(super) device: u32,
    /// Entries of a directory's index.
    pub(super) index: u16,
    /// A link's target, a file's block lengths, a directory's index.
    pub(super) tail: Vec<u8>,
}

/// What kinds of inode have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Directory,
    File,
    Link,
    Device,
    Pipe,
}

/// The shape of a kind, and whether it is the longer form, which has extended attributes.
pub(super) fn shape(kind: u16) -> Option<(Shape, bool)> {
    let shape = match kind {
        1 | 8 => Shape::Directory,
        2 | 9 => Shape::File,
        3 | 10 => Shape::Link,
        4 | 5 | 11 | 12 => Shape::Device,
        6 | 7 | 13 | 14 => Shape::Pipe,
        _ => return None,
    };
    Some((shape, kind > 7))
}

/// How many blocks a file has besides its end in a fragment.
pub(super) fn blocks(size: u64, fragment: u32, block_size: u32) -> u64 {
    let block_size = u64::from(block_size);
    if fragment == NO_FRAGMENT { size.div_ceil(block_size) } else { size / block_size }
}

/// Takes fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| le16(bytes, 0))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| le32(bytes, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| le64(bytes, 0))
    }
}

impl Inode {
    /// Reads the inode at the beginning of `bytes`, and says how long it is.
    pub(super) fn parse(bytes: &[u8], block_size: u32) -> Option<(Self, usize)> {
        let mut fields = Fields(bytes);
        let mut inode = Self {
            kind: fields.u16()?,
            mode: fields.u16()?,
            user: fields.u16()?,
            group: fields.u16()?,
            time: fields.u32()?,
            number: fields.u32()?,
            ..Self::default()
        };
        match shape(inode.kind)? {
            (Shape::Directory, false) => inode.directory(&mut fields)?,
            (Shape::Directory, true) => inode.extended_directory(&mut fields)?,
            (Shape::File, false) => inode.file(&mut fields, block_size)?,
            (Shape::File, true) => inode.extended_file(&mut fields, block_size)?,
            (Shape::Link, extended) => inode.link(&mut fields, extended)?,
            (Shape::Device, extended) => {
                inode.links = fields.u32()?;
                inode.device = fields.u32()?;
                inode.xattr(&mut fields, extended)?;
            }
            (Shape::Pipe, extended) => {
                inode.links = fields.u32()?;
                inode.xattr(&mut fields, extended)?;
            }
        }
        let length = bytes.len() - fields.0.len();
        Some((inode, length))
    }

    fn xattr(&mut self, fields: &mut Fields<'_>, extended: bool) -> Option<()> {
        if extended {
            self.xattr = fields.u32()?;
        }
        Some(())
    }

    fn directory(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        self.start = fields.u32()?.into();
        self.links = fields.u32()?;
        self.size = fields.u16()?.into();
        self.offset = fields.u16()?.into();
        self.parent = fields.u32()?;
        Some(())
    }

    fn extended_directory(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        self.links = fields.u32()?;
        self.size = fields.u32()?.into();
        self.start = fields.u32()?.into();
        self.parent = fields.u32()?;
        self.index = fields.u16()?;
        self.offset = fields.u16()?.into();
        self.xattr = fields.u32()?;
        let all = fields.0;
        for _ in 0..self.index {
            fields.take(8)?;
            let name = fields.u32()?;
            fields.take(count(name).checked_add(1)?)?;
        }
        self.tail = all[..all.len() - fields.0.len()].to_vec();
        Some(())
    }

    fn file(&mut self, fields: &mut Fields<'_>, block_size: u32) -> Option<()> {
        self.start = fields.u32()?.into();
        self.fragment = fields.u32()?;
        self.offset = fields.u32()?;
        self.size = fields.u32()?.into();
        self.list(fields, block_size)
    }

    fn extended_file(&mut self, fields: &mut Fields<'_>, block_size: u32) -> Option<()> {
        self.start = fields.u64()?;
        self.size = fields.u64()?;
        self.holes = fields.u64()?;
        self.links = fields.u32()?;
        self.fragment = fields.u32()?;
        self.offset = fields.u32()?;
        self.xattr = fields.u32()?;
        self.list(fields, block_size)
    }

    fn list(&mut self, fields: &mut Fields<'_>, block_size: u32) -> Option<()> {
        let blocks = blocks(self.size, self.fragment, block_size);
        let length = usize::try_from(blocks).ok()?.checked_mul(4)?;
        self.tail = fields.take(length)?.to_vec();
        Some(())
    }

    fn link(&mut self, fields: &mut Fields<'_>, extended: bool) -> Option<()> {
        self.links = fields.u32()?;
        let length = fields.u32()?;
        self.tail = fields.take(count(length))?.to_vec();
        self.xattr(fields, extended)
    }

    /// Appends its bytes; `None` where a value does not go into its field.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Option<()> {
        for field in [self.kind, self.mode, self.user, self.group] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.time.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        let mut put = |number: u32| out.extend(number.to_le_bytes());
        let (shape, extended) = shape(self.kind)?;
        match (shape, extended) {
            (Shape::Directory, false) => {
                put(u32::try_from(self.start).ok()?);
                put(self.links);
                out.extend(u16::try_from(self.size).ok()?.to_le_bytes());
                out.extend(u16::try_from(self.offset).ok()?.to_le_bytes());
                out.extend(self.parent.to_le_bytes());
            }
            (Shape::Directory, true) => {
                put(self.links);
                put(u32::try_from(self.size).ok()?);
                put(u32::try_from(self.start).ok()?);
                put(self.parent);
                out.extend(self.index.to_le_bytes());
                out.extend(u16::try_from(self.offset).ok()?.to_le_bytes());
                out.extend(self.xattr.to_le_bytes());
                out.extend(&self.tail);
            }
            (Shape::File, false) => {
                put(u32::try_from(self.start).ok()?);
                put(self.fragment);
                put(self.offset);
                put(u32::try_from(self.size).ok()?);
                out.extend(&self.tail);
            }
            (Shape::File, true) => {
                for number in [self.start, self.size, self.holes] {
                    out.extend(number.to_le_bytes());
                }
                for number in [self.links, self.fragment, self.offset, self.xattr] {
                    out.extend(number.to_le_bytes());
                }
                out.extend(&self.tail);
            }
            (Shape::Link | Shape::Device | Shape::Pipe, _) => {
                put(self.links);
                if shape == Shape::Link {
                    put(u32::try_from(self.tail.len()).ok()?);
                    out.extend(&self.tail);
                }
                if shape == Shape::Device {
                    out.extend(self.device.to_le_bytes());
                }
                if extended {
                    out.extend(self.xattr.to_le_bytes());
                }
            }
        }
        Some(())
    }

    /// Bytes of the image that a file's blocks take.
    pub(super) fn stored(&self) -> u64 {
        self.tail.chunks_exact(4).map(|block| u64::from(le32(block, 0) & !STORED_PLAIN)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_written_as_it_was_read() {
        for kind in 1..=14 {
            let mut bytes: Vec<u8> = (1..=120).collect();
            bytes[0] = kind;
            bytes[1] = 0;
            // Small numbers where a length is read.
            for (at, number) in [(16, 1_u32), (20, 3), (28, 9000), (24, 9000)] {
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            if kind == 8 {
                bytes[32..34].copy_from_slice(&1_u16.to_le_bytes());
                bytes[48..52].copy_from_slice(&4_u32.to_le_bytes());
            }
            if kind == 9 {
                bytes[28..32].fill(0);
            }
            let (inode, length) = Inode::parse(&bytes, 4096).unwrap();
            let mut written = Vec::new();
            inode.write(&mut written).unwrap();
            assert_eq!(written, bytes[..length], "kind {kind}");
            for cut in 0..length {
                assert_eq!(Inode::parse(&bytes[..cut], 4096), None, "kind {kind}, {cut}");
            }
        }
    }
}
