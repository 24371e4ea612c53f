//! The pass over all tables, in either direction.

use super::PLAIN;
use super::columns::{
    BYTES, Coder, DEVICE, DIRECTORY_AT, DIRECTORY_SIZE, EXPORT, GROUP, HOLES, INDEX, LINKS, MODE,
    PARENT, SIZE, TARGET, TARGET_LEN, TIME, USER, XATTR, XATTR_AT, XATTR_COUNT, XATTR_SIZE,
};
use super::given::Given;
use super::inode::{Inode, Shape, shape};
use super::listing::{Child, Listing, index, index_count};
use super::places::Places;
use super::streams::Streams;
use super::tree::Tree;
use crate::number::{count, le32, le64, wide};
use crate::superblock::Superblock;

/// The bytes of an id of extended attributes.
const XATTR_ID: usize = 16;

/// Codes all tables.
pub(super) struct Pass<'a, C> {
    coder: &'a mut C,
    superblock: &'a Superblock,
    /// Of which only the positions of blocks are used.
    streams: &'a Streams,
    given: Option<&'a Given<'a>>,
    /// Where each inode begins in the plain bytes.
    inodes_at: Vec<u32>,
    made: Made,
}

/// The plain bytes of the tables, as they were put together.
#[derive(Debug, Default)]
pub(super) struct Made {
    inodes: Vec<u8>,
    directories: Vec<u8>,
    fragments: Vec<u8>,
    exports: Vec<u8>,
    ids: Vec<u8>,
    xattrs: Vec<u8>,
    xattr_ids: Vec<u8>,
}

impl Made {
    /// Whether they are just those of an image.
    pub(super) fn is(&self, streams: &Streams) -> bool {
        self.inodes == streams.inodes.plain
            && self.directories == streams.directories.plain
            && self.fragments == streams.fragments.plain
            && self.exports == streams.exports.plain
            && self.ids == streams.ids.plain
            && self.xattrs == streams.xattrs.plain
            && self.xattr_ids == streams.xattr_ids.plain
    }

    /// Gives the streams of an image their bytes.
    pub(super) fn give(self, streams: &mut Streams) {
        streams.inodes.plain = self.inodes;
        streams.directories.plain = self.directories;
        streams.fragments.plain = self.fragments;
        streams.exports.plain = self.exports;
        streams.ids.plain = self.ids;
        streams.xattrs.plain = self.xattrs;
        streams.xattr_ids.plain = self.xattr_ids;
    }
}

impl<'a, C: Coder> Pass<'a, C> {
    pub(super) fn new(
        coder: &'a mut C,
        superblock: &'a Superblock,
        streams: &'a Streams,
        given: Option<&'a Given<'a>>,
    ) -> Self {
        let made = Made::default();
        Self { coder, superblock, streams, given, inodes_at: Vec::new(), made }
    }

    pub(super) fn run(mut self) -> Option<Made> {
        let tree = Tree::code(self.coder, self.superblock.inodes, self.given)?;
        let fragments = self.given.map(|given| &given.streams.fragments);
        let mut places = Places::new(self.superblock, fragments);
        for ordinal in 0..tree.kinds.len() {
            self.inode(&tree, &mut places, ordinal)?;
            if self.made.inodes.len() + self.made.directories.len() > PLAIN {
                return None;
            }
        }
        places.rest(self.coder)?;
        self.made.fragments = places.table;
        self.exports(&tree)?;
        self.rest()?;
        Some(self.made)
    }

    fn inode(&mut self, tree: &Tree, places: &mut Places<'_>, ordinal: usize) -> Option<()> {
        let actual = match self.given {
            Some(given) => given.inode(ordinal)?,
            None => Inode::default(),
        };
        let (kind, number) = (tree.kinds[ordinal], tree.numbers[ordinal]);
        let mut inode = self.common(Inode { kind, number, ..Inode::default() }, &actual)?;
        let (shape, extended) = shape(kind)?;
        if extended {
            // Nearly always all bits are set, for none.
            let none = u64::from(u32::MAX);
            inode.xattr =
                u32::try_from(self.coder.value(XATTR, none, actual.xattr.into())?).ok()?;
        }
        if shape != Shape::File || extended {
            let links = if shape == Shape::Directory { 2 } else { 1 };
            inode.links =
                u32::try_from(self.coder.value(LINKS, links, actual.links.into())?).ok()?;
        }
        match shape {
            Shape::Directory => self.directory(tree, ordinal, &mut inode, &actual)?,
            Shape::File => {
                inode.size = self.coder.value(SIZE, 0, actual.size)?;
                if extended {
                    inode.holes = self.coder.value(HOLES, 0, actual.holes)?;
                }
                places.file(self.coder, &mut inode, &actual)?;
            }
            Shape::Link => {
                let length = self.coder.value(TARGET_LEN, 0, wide(actual.tail.len()))?;
                let length = usize::try_from(length).ok()?;
                inode.tail = self.coder.bytes(TARGET, length, &actual.tail)?;
            }
            Shape::Device => {
                let device = self.coder.value(DEVICE, 0, actual.device.into())?;
                inode.device = u32::try_from(device).ok()?;
            }
            Shape::Pipe => {}
        }
        self.inodes_at.push(u32::try_from(self.made.inodes.len()).ok()?);
        inode.write(&mut self.made.inodes)
    }

    /// What every inode has.
    fn common(&mut self, inode: Inode, actual: &Inode) -> Option<Inode> {
        let mode = self.coder.value(MODE, 0, actual.mode.into())?;
        let user = self.coder.value(USER, 0, actual.user.into())?;
        let group = self.coder.value(GROUP, 0, actual.group.into())?;
        let time = self.coder.value(TIME, 0, actual.time.into())?;
        Some(Inode {
            mode: u16::try_from(mode).ok()?,
            user: u16::try_from(user).ok()?,
            group: u16::try_from(group).ok()?,
            time: u32::try_from(time).ok()?,
            ..inode
        })
    }

    fn directory(
        &mut self,
        tree: &Tree,
        ordinal: usize,
        inode: &mut Inode,
        actual: &Inode,
    ) -> Option<()> {
        let at = self.made.directories.len();
        let entries = match self.given {
            Some(given) => given.listing(at, actual)?,
            None => Vec::new(),
        };
        let entries = entries.into_iter().map(Some).chain(std::iter::repeat(None));
        let mut listing = Listing::new(&self.streams.inodes, &mut self.made.directories);
        for (child, entry) in tree.children(ordinal).iter().zip(entries) {
            let child = count(*child);
            let child = Child {
                kind: tree.kinds[child],
                number: tree.numbers[child],
                at: count(*self.inodes_at.get(child)?),
            };
            listing.entry(self.coder, child, &entry.unwrap_or_default())?;
        }
        listing.end_run();
        let indexed = std::mem::take(&mut listing.index);
        let length = wide(self.made.directories.len() - at);
        inode.size = self.coder.value(DIRECTORY_SIZE, length + 3, actual.size)?;
        let stream = &self.streams.directories;
        let offset = u16::try_from(actual.offset).ok()?;
        let given = match self.given {
            Some(_) => stream.position(actual.start, offset)?,
            None => 0,
        };
        let position = self.coder.value(DIRECTORY_AT, wide(at), wide(given))?;
        let (block, offset) = stream.place(usize::try_from(position).ok()?)?;
        (inode.start, inode.offset) = (block, offset.into());
        let parent = self.coder.value(PARENT, tree.parent(ordinal).into(), actual.parent.into())?;
        inode.parent = u32::try_from(parent).ok()?;
        if inode.kind == 8 {
            let predicted = index(&indexed, at, stream)?;
            self.index(inode, actual, predicted)?;
        }
        Some(())
    }

    /// Codes the index of a large directory: as predicted, or as it is.
    fn index(&mut self, inode: &mut Inode, actual: &Inode, predicted: Vec<u8>) -> Option<()> {
        let class = u64::from(actual.tail != predicted);
        inode.tail = if self.coder.value(INDEX, 0, class)? == 0 {
            predicted
        } else {
            let length = self.coder.value(TARGET_LEN, 0, wide(actual.tail.len()))?;
            self.coder.bytes(TARGET, usize::try_from(length).ok()?, &actual.tail)?
        };
        inode.index = index_count(&inode.tail);
        Some(())
    }

    /// Codes the places of all inodes by their numbers.
    fn exports(&mut self, tree: &Tree) -> Option<()> {
        if self.superblock.export_table.is_none() {
            return Some(());
        }
        let mut by_number = vec![None; tree.numbers.len()];
        for (ordinal, number) in tree.numbers.iter().enumerate() {
            let place = number.checked_sub(1).and_then(|place| by_number.get_mut(count(place)));
            if let Some(place) = place {
                *place = Some(ordinal);
            }
        }
        for (place, ordinal) in by_number.into_iter().enumerate() {
            let at = ordinal.map(|ordinal| count(self.inodes_at[ordinal]));
            let predicted = at.and_then(|at| self.streams.inodes.packed(at)).unwrap_or(0);
            let plain = self.given.map(|given| &given.streams.exports.plain);
            let actual = plain.and_then(|plain| plain.get(place * 8..place * 8 + 8));
            let actual = actual.map_or(0, |bytes| le64(bytes, 0));
            let value = self.coder.value(EXPORT, predicted, actual)?;
            self.made.exports.extend(value.to_le_bytes());
        }
        Some(())
    }

    /// Codes what stands after the directories' and files' own tables.
    fn rest(&mut self) -> Option<()> {
        let given = self.given.map(|given| given.streams);
        let ids = given.map_or(&[][..], |given| &given.ids.plain);
        self.made.ids = self.coder.bytes(BYTES, usize::from(self.superblock.ids) * 4, ids)?;
        if self.superblock.xattr_table.is_none() {
            return Some(());
        }
        let xattrs = given.map_or(&[][..], |given| &given.xattrs.plain);
        let length = self.coder.value(TARGET_LEN, 0, wide(xattrs.len()))?;
        self.made.xattrs = self.coder.bytes(BYTES, usize::try_from(length).ok()?, xattrs)?;
        let xattr_ids = given.map_or(&[][..], |given| &given.xattr_ids.plain);
        let records = self.coder.value(TARGET_LEN, 0, wide(xattr_ids.len() / XATTR_ID))?;
        if records > wide(PLAIN / XATTR_ID) {
            return None;
        }
        let mut end = 0;
        for record in 0..usize::try_from(records).ok()? {
            let at = record * XATTR_ID;
            let actual = xattr_ids.get(at..at + XATTR_ID);
            end = self.xattr_id(end, actual)?;
        }
        Some(())
    }

    /// Codes one id, and says where its attributes end.
    fn xattr_id(&mut self, predicted: u64, actual: Option<&[u8]>) -> Option<u64> {
        let stream = &self.streams.xattrs;
        let bytes = actual.unwrap_or(&[0; XATTR_ID]);
        let position = match actual {
            Some(_) => {
                let packed = le64(bytes, 0);
                let offset = u16::try_from(packed & 0xffff).expect("16 bits");
                stream.position(packed >> 16, offset)?
            }
            None => 0,
        };
        let position = self.coder.value(XATTR_AT, predicted, wide(position))?;
        let number = self.coder.value(XATTR_COUNT, 0, le32(bytes, 8).into())?;
        let size = self.coder.value(XATTR_SIZE, 0, le32(bytes, 12).into())?;
        let packed = stream.packed(usize::try_from(position).ok()?)?;
        let out = &mut self.made.xattr_ids;
        out.extend(packed.to_le_bytes());
        out.extend(u32::try_from(number).ok()?.to_le_bytes());
        out.extend(u32::try_from(size).ok()?.to_le_bytes());
        position.checked_add(size)
    }
}
