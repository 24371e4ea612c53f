//! The tables of an image in a normal form: what they say, without where it stands.
//!
//! An image's tables are full of positions: of blocks in the image, of inodes in their table, of
//! listings in theirs, and of numbers that count files. One file more changes nearly all of them.
//! All follow from the others by the order in which mksquashfs writes, so the normal form keeps
//! only where they do not: it holds names, modes, times, sizes and so on, column by column, and
//! those of two similar images are nearly the same.
//!
//! The code that predicts exists once and works in both directions (see [`columns`]); so what it
//! predicts need only be good, not right. The form is part of the recipe's: a change in here makes
//! other normal forms of the images that receivers have, and needs a new version of recipes.
//!
//! Ways in: [`of_image`], [`to_stored`]. Deliberately absent: images whose tables are laid out in
//! another way than mksquashfs does, which only cost more to send.

mod columns;
mod given;
mod inode;
mod listing;
mod pass;
mod places;
mod streams;
mod tree;

use std::fs::File;

use self::columns::{Reader, Writer};
use self::given::Given;
use self::pass::Pass;
use self::streams::Streams;
use crate::codec::Recompressor;
use crate::problem::Problem;
use crate::recipe::limits;
use crate::superblock::Superblock;

/// The most plain bytes of all tables together. Those of 100,000 files have about 8 MiB.
const PLAIN: usize = 2 * limits::TABLES;

/// The tables of an image in normal form; `None` where they are too large, or not such as
/// mksquashfs writes. Memory: a few times the plain bytes of the tables, which are at most 16 MiB.
///
/// # Errors
/// The file can't be read, or a table is damaged.
pub(crate) fn of_image(file: &File, superblock: &Superblock) -> Result<Option<Vec<u8>>, Problem> {
    let Some(streams) = Streams::read(file, superblock)? else { return Ok(None) };
    Ok(write(streams, superblock).filter(|normal| normal.len() <= limits::TABLES))
}

fn write(mut streams: Streams, superblock: &Superblock) -> Option<Vec<u8>> {
    let mut writer = Writer::new();
    streams.code(&mut writer)?;
    let given = Given::new(&streams, superblock)?;
    let made = Pass::new(&mut writer, superblock, &streams, Some(&given)).run()?;
    made.is(&streams).then(|| writer.finish())
}

/// The stored bytes of the tables, from the first one to the image's end; `None` where the bytes
/// are no normal form of tables that fit the superblock, or where recompressing gives other lengths
/// than it gave the maker of the image.
pub(crate) fn to_stored(
    normal: &[u8],
    superblock: &Superblock,
    recompressor: &mut Recompressor,
) -> Option<Vec<u8>> {
    let mut reader = Reader::new(normal)?;
    let mut streams = Streams::default();
    streams.code(&mut reader)?;
    let made = Pass::new(&mut reader, superblock, &streams, None).run()?;
    made.give(&mut streams);
    streams.store(superblock, recompressor)
}

#[cfg(test)]
mod tests;
