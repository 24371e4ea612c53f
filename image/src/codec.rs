//! Compresses plain bytes to the blocks that mksquashfs made of them, to the bit.
//!
//! Part: a recipe sends changed blocks as plain bytes, and the receiver makes the stored blocks of
//! them. That works where both sides have the same libraries ([`codecs`]) and these give what the
//! library inside mksquashfs gave; the maker tries, and sends a block as it is where they do not.
//! So nothing here has to be right for every image: what does not come out is only sent dearer.
//!
//! For zlib and liblzma any version of the last years does. libzstd gave the same blocks up to
//! 1.5.5, and others from 1.5.6 on; linked is 1.5.5, as Debian 12 and Ubuntu 24.04 have it.
//!
//! Way in: [`Recompressor`]. Deliberately absent: gzip's strategies other than the default one,
//! which flate2 can't choose; and zstd's levels 5 to 12, where libzstd 1.5.5 salts the hashes of its
//! row match finder with what it compressed before, so that no two programs give the same block.

mod xz;

use flate2::{Compress, Compression, FlushCompress, Status};
use zstd::zstd_safe::CCtx;

use crate::compression::Compressor;
use crate::metadata::BLOCK_LEN;

/// The level and the window of mksquashfs where no option says otherwise.
const GZIP_LEVEL: u32 = 9;
const GZIP_WINDOW: u8 = 15;
const ZSTD_LEVEL: i32 = 15;

/// The dictionaries that the xz encoder takes; larger ones than a block are of no use.
const XZ_DICTIONARY: std::ops::RangeInclusive<u32> = 4096..=1 << 20;

/// The compression libraries that are linked: rebuilt blocks are the same only with the same ones.
#[must_use]
pub fn codecs() -> String {
    let zstd = zstd::zstd_safe::version_string();
    format!("zlib {}, xz {}, zstd {zstd}", env!("SHOAL_ZLIB"), env!("SHOAL_XZ"))
}

/// The variant of the blocks of tables, which mksquashfs compresses differently from file data.
pub(crate) const TABLE: u8 = 0x80;

/// Compresses blocks as an image's own are compressed.
pub(crate) struct Recompressor {
    method: Method,
    block_size: u32,
}

/// The states of the compressors are some hundred KiB, and kept from block to block.
enum Method {
    Gzip(Compress),
    Xz { dictionary: u32 },
    Zstd { context: CCtx<'static>, level: i32 },
}

impl std::fmt::Debug for Recompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recompressor").field("block_size", &self.block_size).finish_non_exhaustive()
    }
}

impl Recompressor {
    /// For an image of this compressor and block size. `options` are the image's compressor
    /// options, without their block's header; empty where it has none. `None` for options that no
    /// mksquashfs writes.
    pub(crate) fn new(compressor: Compressor, options: &[u8], block_size: u32) -> Option<Self> {
        let method = match compressor {
            Compressor::Gzip => gzip(options)?,
            Compressor::Xz => Method::Xz { dictionary: dictionary(options, block_size)? },
            Compressor::Zstd => {
                Method::Zstd { context: CCtx::try_create()?, level: level(options)? }
            }
        };
        Some(Self { method, block_size })
    }

    /// The stored block of `plain` bytes; `None` where compression makes them no smaller, so that
    /// the block would be stored as it is. `variant` is [`TABLE`], or what
    /// [`variant_of`](Self::variant_of) says of the block that is to come out.
    pub(crate) fn compress(&mut self, plain: &[u8], variant: u8) -> Option<Vec<u8>> {
        // As much room as mksquashfs gives: zstd decides by it.
        let room = match variant {
            TABLE => BLOCK_LEN,
            _ => usize::try_from(self.block_size).ok()?,
        };
        if plain.is_empty() || plain.len() > room {
            return None;
        }
        let stored = match &mut self.method {
            Method::Gzip(state) => deflate(state, plain, room),
            Method::Xz { .. } if variant == TABLE => xz::encode(plain, TABLE_DICTIONARY, 0),
            Method::Xz { dictionary } => xz::encode(plain, *dictionary, variant),
            Method::Zstd { context, level } => {
                let mut stored = Vec::with_capacity(room);
                context.compress(&mut stored, plain, *level).ok().map(|_| stored)
            }
        }?;
        (stored.len() < plain.len()).then_some(stored)
    }

    /// Which of the ways that its options allow a stored data block was compressed in: for xz the
    /// number of its filter for programs, where it has one, else 0.
    pub(crate) fn variant_of(&self, stored: &[u8]) -> u8 {
        match self.method {
            Method::Xz { .. } => xz::filter_of(stored).unwrap_or(0),
            Method::Gzip(_) | Method::Zstd { .. } => 0,
        }
    }
}

/// Of xz's tables, whatever the options say.
const TABLE_DICTIONARY: u32 = 8192;

/// Level, window, and the strategies that were tried.
fn gzip(options: &[u8]) -> Option<Method> {
    let (level, window) = match *options {
        [] => (GZIP_LEVEL, GZIP_WINDOW),
        [a, b, c, d, e, f, _, _] => {
            let window = u8::try_from(u16::from_le_bytes([e, f])).ok()?;
            (u32::from_le_bytes([a, b, c, d]), window)
        }
        _ => return None,
    };
    let sound = (1..=9).contains(&level) && (8..=15).contains(&window);
    // A window of 256 bytes is one of 512 in zlib.
    let state = || Compress::new_with_window_bits(Compression::new(level), true, window.max(9));
    sound.then(|| Method::Gzip(state()))
}

fn dictionary(options: &[u8], block_size: u32) -> Option<u32> {
    let dictionary = match *options {
        [] => block_size,
        [a, b, c, d, _, _, _, _] => u32::from_le_bytes([a, b, c, d]),
        _ => return None,
    };
    XZ_DICTIONARY.contains(&dictionary).then_some(dictionary)
}

fn level(options: &[u8]) -> Option<i32> {
    let level = match *options {
        [] => ZSTD_LEVEL,
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
        _ => return None,
    };
    (1..=22).contains(&level).then_some(level)
}

fn deflate(state: &mut Compress, plain: &[u8], room: usize) -> Option<Vec<u8>> {
    state.reset();
    let mut stored = Vec::with_capacity(room);
    match state.compress_vec(plain, &mut stored, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => Some(stored),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
