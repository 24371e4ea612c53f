//! The compressors of squashfs, for decompression into a buffer of a known size.

use std::fmt;

use flate2::{Decompress, FlushDecompress};
use liblzma::stream::{Action, Status, Stream};

/// What an xz block may make its decoder allocate: its dictionary is at most as large as a data
/// block (1 MiB), but a hostile header can ask for 4 GiB.
const XZ_MEMORY: u64 = 8 << 20;

/// How an image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compressor {
    Gzip,
    Xz,
    Zstd,
}

impl Compressor {
    pub(crate) fn from_id(id: u16) -> Option<Self> {
        match id {
            1 => Some(Self::Gzip),
            4 => Some(Self::Xz),
            6 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number in squashfs.
    pub(crate) fn id(self) -> u16 {
        match self {
            Self::Gzip => 1,
            Self::Xz => 4,
            Self::Zstd => 6,
        }
    }

    /// The plain bytes of a block; `None` where it is damaged or longer than `limit` bytes. No more
    /// than `limit` bytes are ever written.
    pub(crate) fn decompress(self, stored: &[u8], limit: usize) -> Option<Vec<u8>> {
        let mut plain = vec![0; limit];
        let length = match self {
            Self::Gzip => gzip(stored, &mut plain),
            Self::Xz => xz(stored, &mut plain),
            Self::Zstd => zstd::bulk::decompress_to_buffer(stored, &mut plain[..]).ok(),
        }?;
        plain.truncate(length);
        // No block of an image is empty, but zstd makes nothing out of nothing.
        (length > 0).then_some(plain)
    }
}

impl fmt::Display for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

fn gzip(stored: &[u8], plain: &mut [u8]) -> Option<usize> {
    let mut decoder = Decompress::new(true);
    match decoder.decompress(stored, plain, FlushDecompress::Finish) {
        Ok(flate2::Status::StreamEnd) => usize::try_from(decoder.total_out()).ok(),
        Ok(_) | Err(_) => None,
    }
}

fn xz(stored: &[u8], plain: &mut [u8]) -> Option<usize> {
    let mut decoder = Stream::new_stream_decoder(XZ_MEMORY, 0).ok()?;
    match decoder.process(stored, plain, Action::Finish) {
        Ok(Status::StreamEnd) => usize::try_from(decoder.total_out()).ok(),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn blocks(plain: &[u8]) -> [(Compressor, Vec<u8>); 3] {
        let mut gzip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(plain).unwrap();
        [
            (Compressor::Gzip, gzip.finish().unwrap()),
            (Compressor::Xz, xz_block(plain, 1 << 20)),
            (Compressor::Zstd, zstd::bulk::compress(plain, 3).unwrap()),
        ]
    }

    fn xz_block(plain: &[u8], dictionary: u32) -> Vec<u8> {
        use liblzma::stream::{Check, Filters, LzmaOptions};
        let mut options = LzmaOptions::new_preset(1).unwrap();
        options.dict_size(dictionary);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compressor_gives_the_bytes_back() {
        let plain = b"shoal ".repeat(1000);
        for (compressor, stored) in blocks(&plain) {
            let back = compressor.decompress(&stored, plain.len());
            assert_eq!(back.as_ref(), Some(&plain), "{compressor}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        for (compressor, stored) in blocks(&vec![0; 8 << 20]) {
            assert_eq!(compressor.decompress(&stored, 8192), None, "{compressor}");
        }
    }

    #[test]
    fn cut_or_foreign_blocks_are_refused() {
        for (compressor, stored) in blocks(&b"shoal ".repeat(1000)) {
            for cut in 0..stored.len() {
                assert_eq!(compressor.decompress(&stored[..cut], 8192), None, "{compressor} {cut}");
            }
            assert_eq!(compressor.decompress(&[0x55; 300], 8192), None, "{compressor}");
        }
    }

    #[test]
    fn an_xz_block_can_not_ask_for_much_memory() {
        let stored = xz_block(b"small", 64 << 20);
        assert_eq!(Compressor::Xz.decompress(&stored, 8192), None);
    }
}
