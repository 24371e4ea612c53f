//! Inodes: the few kinds that finding a file by its path meets.

use crate::metadata::{Cursor, Reader};
use crate::problem::Problem;

/// The longest target of a symbolic link, as in the kernel.
const MAX_TARGET: u32 = 4096;

/// A file whose end is in no fragment.
const NO_FRAGMENT: u32 = u32::MAX;

/// Where an inode stands: the block's offset in the inode table, and the byte in its plain bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InodeRef {
    pub(crate) block: u64,
    pub(crate) offset: u16,
}

impl InodeRef {
    /// The reference that a superblock holds: 48 bits of block, 16 of offset.
    pub(crate) fn unpack(packed: u64) -> Self {
        let [low, high, rest @ ..] = packed.to_le_bytes();
        let mut block = [0; 8];
        block[..6].copy_from_slice(&rest);
        Self { block: u64::from_le_bytes(block), offset: u16::from_le_bytes([low, high]) }
    }
}

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Node {
    Directory(Directory),
    File(FileNode),
    Symlink(Vec<u8>),
    /// A device, a socket or a pipe.
    Other,
}

/// Where a directory's entries stand in the directory table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directory {
    pub(crate) block: u32,
    pub(crate) offset: u16,
    /// The length of its entries in bytes.
    pub(crate) length: u32,
}

/// Where a file's bytes stand.
#[derive(Debug)]
pub(crate) struct FileNode {
    pub(crate) size: u64,
    /// The offset of its first data block.
    pub(crate) start: u64,
    /// The fragment with its end, and the byte in it.
    pub(crate) fragment: Option<(u32, u32)>,
    /// At the list of its data blocks' lengths.
    pub(crate) list: Cursor,
}

impl Node {
    /// Reads the inode that the cursor is at.
    pub(crate) fn read(reader: &mut Reader<'_>, mut cursor: Cursor) -> Result<Self, Problem> {
        let header: [u8; 16] = cursor.array(reader)?;
        match u16::from_le_bytes([header[0], header[1]]) {
            1 => directory(reader, cursor),
            2 => file(reader, cursor),
            3 | 10 => symlink(reader, cursor),
            8 => extended_directory(reader, cursor),
            9 => extended_file(reader, cursor),
            4..=7 | 11..=14 => Ok(Self::Other),
            _ => Err(cursor.damaged("holds an inode of an unknown kind")),
        }
    }
}

fn directory(reader: &mut Reader<'_>, mut cursor: Cursor) -> Result<Node, Problem> {
    let block = u32(reader, &mut cursor)?;
    let _links = u32(reader, &mut cursor)?;
    let size = u16(reader, &mut cursor)?;
    let offset = u16(reader, &mut cursor)?;
    Ok(Node::Directory(Directory { block, offset, length: entries_len(size.into()) }))
}

fn extended_directory(reader: &mut Reader<'_>, mut cursor: Cursor) -> Result<Node, Problem> {
    let _links = u32(reader, &mut cursor)?;
    let size = u32(reader, &mut cursor)?;
    let block = u32(reader, &mut cursor)?;
    let _parent = u32(reader, &mut cursor)?;
    let _index = u16(reader, &mut cursor)?;
    let offset = u16(reader, &mut cursor)?;
    Ok(Node::Directory(Directory { block, offset, length: entries_len(size) }))
}

/// A directory's size counts three bytes for `.` and `..`, which are not stored.
fn entries_len(size: u32) -> u32 {
    size.saturating_sub(3)
}

fn file(reader: &mut Reader<'_>, mut cursor: Cursor) -> Result<Node, Problem> {
    let start = u32(reader, &mut cursor)?.into();
    let fragment = fragment(reader, &mut cursor)?;
    let size = u32(reader, &mut cursor)?.into();
    Ok(Node::File(FileNode { size, start, fragment, list: cursor }))
}

fn extended_file(reader: &mut Reader<'_>, mut cursor: Cursor) -> Result<Node, Problem> {
    let start = u64::from_le_bytes(cursor.array(reader)?);
    let size = u64::from_le_bytes(cursor.array(reader)?);
    let _sparse = u64::from_le_bytes(cursor.array(reader)?);
    let _links = u32(reader, &mut cursor)?;
    let fragment = fragment(reader, &mut cursor)?;
    let _xattr = u32(reader, &mut cursor)?;
    Ok(Node::File(FileNode { size, start, fragment, list: cursor }))
}

fn fragment(reader: &mut Reader<'_>, cursor: &mut Cursor) -> Result<Option<(u32, u32)>, Problem> {
    let number = u32(reader, cursor)?;
    let offset = u32(reader, cursor)?;
    Ok((number != NO_FRAGMENT).then_some((number, offset)))
}

fn symlink(reader: &mut Reader<'_>, mut cursor: Cursor) -> Result<Node, Problem> {
    let _links = u32(reader, &mut cursor)?;
    let length = u32(reader, &mut cursor)?;
    if length > MAX_TARGET {
        return Err(cursor.damaged("holds a symbolic link that is too long"));
    }
    let length = usize::try_from(length).expect("at most 4096");
    cursor.take(reader, length).map(Node::Symlink)
}

/// The next number of a cursor.
pub(crate) fn u32(reader: &mut Reader<'_>, cursor: &mut Cursor) -> Result<u32, Problem> {
    cursor.array(reader).map(u32::from_le_bytes)
}

/// The next number of a cursor.
pub(crate) fn u16(reader: &mut Reader<'_>, cursor: &mut Cursor) -> Result<u16, Problem> {
    cursor.array(reader).map(u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_reference_is_taken_apart() {
        let inode = InodeRef::unpack(0x1234_5678_9abc_def0);
        assert_eq!(inode.block, 0x1234_5678_9abc);
        assert_eq!(inode.offset, 0xdef0);
    }
}
