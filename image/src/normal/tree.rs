//! Which inode is in which directory, and the numbers that follow from it.
//!
//! mksquashfs writes a directory's inode after those of all its entries, in their order. So while
//! the inodes go by, those that are in no directory yet are a stack, and a directory takes its
//! entries off its top; only further links to a file are something else. Numbers are given before
//! that, on the way down.

use super::columns::{CHILD, Coder, ENTRIES, KIND, NUMBER};
use super::given::Given;
use super::inode::{Shape, shape};
use crate::number::{count, short, wide};
use crate::recipe::code::{unzigzag, zigzag};

/// An inode that is in no directory.
const NOWHERE: u32 = u32::MAX;

/// The directories of an image. Inodes go by their order in their table.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) kinds: Vec<u16>,
    /// The directory that each inode is in.
    parents: Vec<u32>,
    /// The entries of all directories.
    children: Vec<u32>,
    /// Where those of each inode end; those of the first one begin at 0.
    ends: Vec<u32>,
    /// The numbers of all inodes.
    pub(super) numbers: Vec<u32>,
}

impl Tree {
    /// Codes the tree of so many inodes.
    pub(super) fn code<C: Coder>(
        coder: &mut C,
        inodes: u32,
        given: Option<&Given<'_>>,
    ) -> Option<Self> {
        let mut tree = Self::default();
        let mut loose = Vec::new();
        let mut listing_at = 0;
        for ordinal in 0..inodes {
            let actual = match given {
                Some(given) => given.inode(count(ordinal))?,
                None => super::inode::Inode::default(),
            };
            let kind = u16::try_from(coder.value(KIND, 0, actual.kind.into())?).ok()?;
            tree.kinds.push(kind);
            tree.parents.push(NOWHERE);
            if let (Shape::Directory, _) = shape(kind)? {
                let mut entries = Vec::new();
                if let Some(given) = given {
                    let listing = given.listing(listing_at, &actual)?;
                    entries.extend(listing.iter().map(|entry| entry.ordinal));
                    listing_at += usize::try_from(actual.size).ok()?.checked_sub(3)?;
                }
                tree.directory(coder, ordinal, &mut loose, &entries)?;
            }
            tree.ends.push(short(tree.children.len()));
            loose.push(ordinal);
        }
        tree.number(coder, given)?;
        Some(tree)
    }

    /// Codes the entries of a directory.
    fn directory<C: Coder>(
        &mut self,
        coder: &mut C,
        directory: u32,
        loose: &mut Vec<u32>,
        actual: &[u32],
    ) -> Option<()> {
        let entries = coder.value(ENTRIES, 0, wide(actual.len()))?;
        let named = self.named(directory, loose, actual);
        let mut actual = actual.iter().zip(named).map(|(child, named)| {
            let back = zigzag(u64::from(directory).wrapping_sub(u64::from(*child)));
            if named { back.wrapping_add(1) } else { 0 }
        });
        // How far before the directory the inode of each entry stands, and one; none where it is
        // taken off the stack.
        let mut links = Vec::new();
        for _ in 0..entries {
            let link = coder.value(CHILD, 0, actual.next().unwrap_or(0))?;
            links.push(link);
            // Only what a reader reads can ask for more than there are.
            if links.len() > self.kinds.len() && link == 0 {
                return None;
            }
        }
        let unnamed = links.iter().filter(|link| **link == 0).count();
        let mut taken = self.take(loose, unnamed)?.into_iter();
        for link in links {
            let child = match link.checked_sub(1) {
                None => taken.next()?,
                Some(link) => {
                    let child = u64::from(directory).wrapping_sub(unzigzag(link));
                    u32::try_from(child).ok().filter(|child| *child < directory)?
                }
            };
            self.claim(child, directory);
            self.children.push(child);
        }
        Some(())
    }

    fn claim(&mut self, child: u32, directory: u32) {
        let parent = &mut self.parents[count(child)];
        if *parent == NOWHERE {
            *parent = directory;
        }
    }

    /// The last `number` inodes that are in no directory, in order.
    fn take(&self, loose: &mut Vec<u32>, number: usize) -> Option<Vec<u32>> {
        let mut taken = Vec::new();
        while taken.len() < number {
            let child = loose.pop()?;
            if self.parents[count(child)] == NOWHERE {
                taken.push(child);
            }
        }
        taken.reverse();
        Some(taken)
    }

    /// Which entries have to be named: those that are in a directory already; and all of them,
    /// where the others are not just those that would be taken.
    fn named(&self, directory: u32, loose: &[u32], actual: &[u32]) -> Vec<bool> {
        let mut seen = std::collections::HashSet::new();
        let mut is_new = |child: &u32| {
            *child < directory && self.parents[count(*child)] == NOWHERE && seen.insert(*child)
        };
        let named: Vec<bool> = actual.iter().map(|child| !is_new(child)).collect();
        let rest = actual.iter().zip(&named).filter(|(_, named)| !**named).map(|(child, _)| child);
        let on_top = loose.iter().rev().filter(|child| self.parents[count(**child)] == NOWHERE);
        if rest.rev().ne(on_top.take(named.iter().filter(|named| !**named).count())) {
            return vec![true; actual.len()];
        }
        named
    }

    /// The entries of an inode; none where it is no directory.
    pub(super) fn children(&self, ordinal: usize) -> &[u32] {
        let begin = ordinal.checked_sub(1).map_or(0, |before| count(self.ends[before]));
        &self.children[begin..count(self.ends[ordinal])]
    }

    /// The number that an inode's parent should have: that of the root is one that no inode has.
    pub(super) fn parent(&self, ordinal: usize) -> u32 {
        match self.parents[ordinal] {
            NOWHERE => short(self.kinds.len()).wrapping_add(1),
            parent => self.numbers[count(parent)],
        }
    }

    /// Codes the numbers.
    fn number<C: Coder>(&mut self, coder: &mut C, given: Option<&Given<'_>>) -> Option<()> {
        let predicted = self.predicted_numbers();
        let mut off = 0_u64;
        for (ordinal, number) in predicted.into_iter().enumerate() {
            let number = u64::from(number);
            let actual = given.and_then(|given| given.inode(ordinal)).unwrap_or_default();
            let actual = coder.value(NUMBER, number.wrapping_add(off), actual.number.into())?;
            off = actual.wrapping_sub(number);
            self.numbers.push(u32::try_from(actual).ok()?);
        }
        Some(())
    }

    /// Each directory's entries get theirs before those of the directories among them, and what
    /// is in no directory, as the root, comes last.
    fn predicted_numbers(&self) -> Vec<u32> {
        let mut numbers = vec![0; self.kinds.len()];
        let mut next = 1;
        let roots = (0..self.kinds.len()).filter(|ordinal| self.parents[*ordinal] == NOWHERE);
        for root in roots {
            // Directories on the way down, and how many of their entries have been looked at.
            let mut trail = vec![(root, 0)];
            while let Some((directory, place)) = trail.last_mut() {
                let Some(child) = self.children(*directory).get(*place) else {
                    trail.pop();
                    continue;
                };
                *place += 1;
                let child = count(*child);
                if numbers[child] == 0 {
                    numbers[child] = next;
                    next += 1;
                    trail.push((child, 0));
                }
            }
            if numbers[root] == 0 {
                numbers[root] = next;
                next += 1;
            }
        }
        numbers
    }
}
