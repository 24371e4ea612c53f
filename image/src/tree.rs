//! Files of an image by their path, as a process with the image as its root would find them.
//!
//! Only what lies on the way is read. Whatever an image holds, a lookup ends: links are followed
//! a bounded number of times, and every block read draws on the reader's budget.

use crate::inode::{Directory, FileNode, InodeRef, Node, u16, u32};
use crate::metadata::{Cursor, Reader, length};
use crate::problem::{Part, Problem};
use crate::superblock::{SUPERBLOCK_END, Superblock};
use crate::tables::Tables;

/// The most metadata blocks that all lookups in one image may read: 128 MiB of plain bytes. A root
/// file system takes some dozens.
pub(crate) const LOOKUP_BUDGET: u32 = 16_384;

/// The most symbolic links followed for one path, as in the kernel.
const MAX_LINKS: u32 = 40;

/// In a data block's length: the bytes are stored as they are.
const STORED_PLAIN: u32 = 1 << 24;

/// The files of an image.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    reader: Reader<'a>,
    tables: Tables,
    root: InodeRef,
    block_size: u32,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(reader: Reader<'a>, tables: Tables, superblock: &Superblock) -> Self {
        let root = InodeRef::unpack(superblock.root_inode);
        Self { reader, tables, root, block_size: superblock.block_size }
    }

    /// The first `limit` bytes of the regular file at `path`, links followed; `None` where there is
    /// no such file.
    pub(crate) fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Problem> {
        match self.find(path)? {
            Some(Node::File(file)) => self.head(file, limit).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// Fails where the root is not a directory, which is true of no image that can be mounted.
    pub(crate) fn check_root(&mut self) -> Result<(), Problem> {
        self.root_directory().map(|_| ())
    }

    fn root_directory(&mut self) -> Result<Directory, Problem> {
        match self.node(self.root)? {
            Node::Directory(root) => Ok(root),
            Node::File(_) | Node::Symlink(_) | Node::Other => Err(Problem::Damaged {
                part: Part::Inodes,
                offset: self.tables.inodes.start,
                fault: "has something else than a directory as its root",
            }),
        }
    }

    fn node(&mut self, inode: InodeRef) -> Result<Node, Problem> {
        let region = self.tables.inodes;
        let cursor = Cursor::new(&mut self.reader, region, inode.block, inode.offset)?;
        Node::read(&mut self.reader, cursor)
    }

    fn find(&mut self, path: &str) -> Result<Option<Node>, Problem> {
        let mut trail = vec![self.root_directory()?];
        let mut pending = components(path.as_bytes());
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                // The root's parent is the root.
                trail.truncate(trail.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(here) = trail.last().copied() else { return Ok(None) };
            let Some(inode) = self.entry(here, &name)? else { return Ok(None) };
            match self.node(inode)? {
                Node::Directory(directory) => trail.push(directory),
                Node::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        trail.truncate(1);
                    }
                    pending.extend(components(&target));
                }
                node @ (Node::File(_) | Node::Other) => {
                    return Ok(pending.is_empty().then_some(node));
                }
            }
        }
        Ok(trail.last().copied().map(Node::Directory))
    }

    /// The inode of a directory's entry.
    fn entry(&mut self, here: Directory, name: &[u8]) -> Result<Option<InodeRef>, Problem> {
        if here.length == 0 {
            return Ok(None);
        }
        let region = self.tables.directories;
        let reader = &mut self.reader;
        let mut cursor = Cursor::new(reader, region, here.block.into(), here.offset)?;
        let mut left = u64::from(here.length);
        while left > 0 {
            let count = u32(reader, &mut cursor)?;
            let block = u32(reader, &mut cursor)?.into();
            let _inode_number = u32(reader, &mut cursor)?;
            if count >= 256 {
                return Err(cursor.damaged("has a directory of a wrong form"));
            }
            left = left.saturating_sub(12);
            for _ in 0..=count {
                let offset = u16(reader, &mut cursor)?;
                let [_, _, _, _, low, high] = cursor.array(reader)?;
                let name_len = usize::from(u16::from_le_bytes([low, high])) + 1;
                if name_len > 256 {
                    return Err(cursor.damaged("has a directory entry with too long a name"));
                }
                let found = cursor.take(reader, name_len)?;
                if found == name {
                    return Ok(Some(InodeRef { block, offset }));
                }
                left = left.saturating_sub(8 + length(&found));
            }
        }
        Ok(None)
    }

    /// The first bytes of a file: its data blocks first, then its end out of a fragment.
    fn head(&mut self, mut file: FileNode, limit: u64) -> Result<Vec<u8>, Problem> {
        let wanted = file.size.min(limit);
        let block_size = u64::from(self.block_size);
        let in_blocks = match file.fragment {
            Some(_) => file.size - file.size % block_size,
            None => file.size,
        };
        let mut head = Vec::new();
        let mut at = file.start;
        while length(&head) < wanted.min(in_blocks) {
            let stored = u32(&mut self.reader, &mut file.list)?;
            let plain_len = block_size.min(in_blocks - length(&head));
            head.extend(self.data(at, stored, plain_len)?);
            at = at.saturating_add((stored & !STORED_PLAIN).into());
        }
        if let Some((number, offset)) = file.fragment
            && length(&head) < wanted
        {
            head.extend(self.fragment(number, offset, file.size % block_size)?);
        }
        head.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        Ok(head)
    }

    /// The plain bytes of the data block at `at`, which must be `plain_len` long.
    fn data(&mut self, at: u64, stored: u32, plain_len: u64) -> Result<Vec<u8>, Problem> {
        let plain_len = usize::try_from(plain_len).expect("at most a block, 1 MiB");
        if stored & !STORED_PLAIN == 0 {
            return Ok(vec![0; plain_len]);
        }
        let plain = self.stored(at, stored)?;
        if plain.len() == plain_len {
            Ok(plain)
        } else {
            Err(data_damaged(at, "has a block of another length than its file says"))
        }
    }

    fn fragment(&mut self, number: u32, offset: u32, count: u64) -> Result<Vec<u8>, Problem> {
        let reader = &mut self.reader;
        let record = self.tables.fragments.record(reader, number.into())?;
        let start = record.first_chunk().copied().map(u64::from_le_bytes);
        let stored = record.get(8..).and_then(|rest| rest.first_chunk()).copied();
        let (Some(start), Some(stored)) = (start, stored.map(u32::from_le_bytes)) else {
            return Err(data_damaged(0, "has a fragment without a place"));
        };
        let plain = self.stored(start, stored)?;
        let from = usize::try_from(offset).expect("usize has at least 32 bits");
        let count = usize::try_from(count).expect("less than a block, 1 MiB");
        let found = plain.get(from..).and_then(|rest| rest.get(..count));
        found
            .map(<[u8]>::to_vec)
            .ok_or_else(|| data_damaged(start, "has a fragment that is shorter than its files"))
    }

    /// The plain bytes of a data or fragment block; data stands between superblock and inodes.
    fn stored(&mut self, at: u64, stored: u32) -> Result<Vec<u8>, Problem> {
        let length = stored & !STORED_PLAIN;
        let end = at.checked_add(length.into()).filter(|end| *end <= self.tables.inodes.start);
        if length > self.block_size || at < SUPERBLOCK_END || end.is_none() {
            return Err(data_damaged(at, "has a block outside of its bounds"));
        }
        let mut bytes = vec![0; usize::try_from(length).expect("at most a block, 1 MiB")];
        self.reader.bytes(at, &mut bytes)?;
        if stored & STORED_PLAIN != 0 {
            return Ok(bytes);
        }
        let limit = usize::try_from(self.block_size).expect("at most 1 MiB");
        let plain = self.reader.decompress(&bytes, limit);
        plain.ok_or_else(|| data_damaged(at, "has a block that can't be decompressed"))
    }
}

fn data_damaged(offset: u64, fault: &'static str) -> Problem {
    Problem::Damaged { part: Part::Data, offset, fault }
}

/// The names of a path, last one first, so that the next is popped.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/');
    let real = names.filter(|name| !name.is_empty() && name != b".");
    let mut names: Vec<_> = real.map(<[u8]>::to_vec).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_come_last_first() {
        let table: [(&str, &[&str]); 4] = [
            ("/etc/os-release", &["os-release", "etc"]),
            ("../usr//lib/./x", &["x", "lib", "usr", ".."]),
            ("/", &[]),
            ("", &[]),
        ];
        for (path, expected) in table {
            let names: Vec<_> = expected.iter().map(|name| name.as_bytes().to_vec()).collect();
            assert_eq!(components(path.as_bytes()), names, "{path}");
        }
    }
}
