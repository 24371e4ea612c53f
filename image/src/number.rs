//! Numbers of the file in the widths of memory.

/// A count of things in memory. Every system that this runs on has at least 32 bits for one.
pub(crate) fn count(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit")
}

/// A number of things in memory in 32 bits, where the caller has bounded it.
pub(crate) fn short(number: usize) -> u32 {
    u32::try_from(number).expect("bounded by the caller")
}

/// A number of things in memory in the width of file offsets.
pub(crate) fn wide(number: usize) -> u64 {
    u64::try_from(number).expect("no memory is larger than a u64 counts")
}

/// The little-endian number at a place of bytes that are long enough.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().expect("long enough"))
}

/// The little-endian number at a place of bytes that are long enough.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("long enough"))
}

/// The little-endian number at a place of bytes that are long enough.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("long enough"))
}
