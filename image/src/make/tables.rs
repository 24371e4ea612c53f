//! The tables of the new image in normal form, where that comes back.

use super::MakeError;
use super::image::Image;
use crate::normal;
use crate::number::wide;
use crate::recipe::limits;

/// The normal form of an image's tables; `None` where they have none.
pub(super) fn of(image: &Image) -> Result<Option<Vec<u8>>, MakeError> {
    let normal = normal::of_image(&image.file, &image.index.superblock);
    normal.map_err(|problem| image.problem(problem))
}

/// The normal form of the tables of the new image, proven to come back to the bit.
pub(super) fn proven(target: &Image) -> Result<Option<Vec<u8>>, MakeError> {
    let superblock = &target.index.superblock;
    let length = superblock.bytes_used - superblock.inode_table;
    let Some(length) = u32::try_from(length)
        .ok()
        .filter(|length| usize::try_from(*length).is_ok_and(|length| length <= limits::WINDOW))
    else {
        return Ok(None);
    };
    let Some(normal) = of(target)? else { return Ok(None) };
    let Some(mut recompressor) = target.recompressor() else { return Ok(None) };
    let stored = normal::to_stored(&normal, superblock, &mut recompressor);
    let expected = target.bytes(superblock.inode_table, length)?;
    debug_assert_eq!(wide(expected.len()), u64::from(length));
    Ok((stored.as_ref() == Some(&expected)).then_some(normal))
}
