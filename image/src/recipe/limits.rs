//! What a recipe may ask of its receiver. Together they bound an assembler's memory: a window, its
//! prefix, the coded bytes of one segment and the tables of one image.

/// The most plain bytes that a segment brings: its window.
pub const WINDOW: usize = 8 << 20;

/// The most plain bytes that a window is coded against: its prefix.
pub const PREFIX: usize = 32 << 20;

/// The most bytes of a segment as it is sent. A window that can't be made smaller has a few more.
pub const ENCODED: usize = WINDOW + (1 << 20);

/// The most bytes of image that one segment makes. It bounds what an interrupted transfer repeats.
pub const OUTPUT: u64 = 64 << 20;

/// The most operations and references in a segment, each.
pub const PARTS: usize = 1 << 16;

/// The most images that a recipe takes bytes from.
pub const SOURCES: usize = 8;

/// The most segments in a recipe.
pub const SEGMENTS: usize = 1 << 17;

/// The most bytes of a head.
pub const HEAD: usize = 8 << 20;

/// The most plain bytes of the tables of an image that are brought in their normal form; those of
/// an image with more are brought block by block.
pub const TABLES: usize = 8 << 20;
