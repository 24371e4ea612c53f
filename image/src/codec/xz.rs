//! An xz stream of one block, as `lzma_stream_buffer_encode` writes it: with both sizes in the
//! block's header, and that header as long as the worst case needs.
//!
//! The streaming encoder that there is a safe way to writes no sizes. So only the compressed bytes
//! come from the library, and what stands around them is written here.

use flate2::Crc;
use liblzma::stream::{Action, Filters, LzmaOptions, PRESET_DEFAULT, Status, Stream};

/// The stream's beginning, and how it is checked: by CRC32.
const MAGIC: &[u8] = b"\xfd7zXZ\0";
const FLAGS: [u8; 2] = [0, 1];
const END_MAGIC: &[u8] = b"YZ";

/// Bytes of the stream's header, and of the check.
const HEADER_LEN: usize = 12;
const CHECK_LEN: usize = 4;

const LZMA2: u8 = 0x21;

/// In a block's header: both sizes stand in it.
const HAS_SIZES: u8 = 0xc0;

/// The most plain bytes in a chunk of LZMA2, and the bytes before each that is not compressed.
const CHUNK: usize = 1 << 16;
const CHUNK_HEADER: usize = 3;

/// The stream of `plain`, with the filter for programs of that number unless it is 0. `None` where
/// it would be no shorter than `plain`, or there is no such filter.
pub(super) fn encode(plain: &[u8], dictionary: u32, filter: u8) -> Option<Vec<u8>> {
    // What the bytes would take as they are, and so the most that the library lets them take.
    let bound = plain.len() + plain.len().div_ceil(CHUNK) * CHUNK_HEADER + 1;
    let filters = filters(dictionary, filter)?;
    let mut encoder = Stream::new_raw_encoder(&filters).ok()?;
    let mut packed = vec![0; bound];
    match encoder.process(plain, &mut packed, Action::Finish) {
        Ok(Status::StreamEnd) => packed.truncate(usize::try_from(encoder.total_out()).ok()?),
        Ok(_) | Err(_) => return None,
    }
    let header = block_header(bound, packed.len(), plain.len(), dictionary, filter);
    let unpadded = header.len() + packed.len() + CHECK_LEN;
    let mut out = [MAGIC, &FLAGS, &crc(&FLAGS), &header, &packed].concat();
    pad(&mut out);
    out.extend(crc(plain));
    let index = index(unpadded, plain.len());
    out.extend(&index);
    out.extend(footer(index.len()));
    (out.len() < plain.len()).then_some(out)
}

/// The filter for programs of a stored block; `None` where it has none or is no such stream.
pub(super) fn filter_of(stored: &[u8]) -> Option<u8> {
    let (_length, rest) = stored.get(HEADER_LEN..)?.split_first()?;
    let (flags, mut rest) = rest.split_first()?;
    for has_size in [0x40, 0x80] {
        if flags & has_size != 0 {
            let end = rest.iter().position(|byte| byte & 0x80 == 0)?;
            rest = &rest[end + 1..];
        }
    }
    rest.first().copied().filter(|filter| *filter != LZMA2)
}

fn filters(dictionary: u32, filter: u8) -> Option<Filters> {
    let mut options = LzmaOptions::new_preset(PRESET_DEFAULT).ok()?;
    options.dict_size(dictionary);
    let mut filters = Filters::new();
    match filter {
        0 => &mut filters,
        4 => filters.x86(),
        5 => filters.powerpc(),
        6 => filters.ia64(),
        7 => filters.arm(),
        8 => filters.arm_thumb(),
        9 => filters.sparc(),
        _ => return None,
    }
    .lzma2(&options);
    Some(filters)
}

/// `bound` was taken for the packed length when room was made for the header.
fn block_header(bound: usize, packed: usize, plain: usize, dictionary: u32, filter: u8) -> Vec<u8> {
    let mut chain = Vec::new();
    if filter != 0 {
        chain.extend([filter, 0]);
    }
    chain.extend([LZMA2, 1, dictionary_code(dictionary)]);
    let flags = HAS_SIZES | u8::from(filter != 0);
    let longest = 2 + number(bound).len() + number(plain).len() + chain.len();
    let length = longest.next_multiple_of(4);
    let units = u8::try_from(length / 4).expect("a header has a few dozen bytes");
    let mut header = [&[units, flags][..], &number(packed), &number(plain), &chain].concat();
    header.resize(length, 0);
    let check = crc(&header);
    header.extend(check);
    header
}

fn index(unpadded: usize, plain: usize) -> Vec<u8> {
    let mut index = [&[0, 1][..], &number(unpadded), &number(plain)].concat();
    pad(&mut index);
    let check = crc(&index);
    index.extend(check);
    index
}

fn footer(index: usize) -> Vec<u8> {
    let units = u32::try_from(index / 4 - 1).expect("an index has a few dozen bytes");
    let checked = [&units.to_le_bytes()[..], &FLAGS].concat();
    [&crc(&checked)[..], &checked, END_MAGIC].concat()
}

/// The smallest size that LZMA2 has a code for and that is not less: 2 or 3 times a power of two.
fn dictionary_code(dictionary: u32) -> u8 {
    let size = |code: u8| u64::from(2 | (code & 1)) << (code / 2 + 11);
    (0..40).find(|code| size(*code) >= u64::from(dictionary)).unwrap_or(40)
}

/// A number in as few bytes as it needs, the low bits first.
fn number(value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = value;
    loop {
        let low = u8::try_from(rest & 0x7f).expect("seven bits");
        rest >>= 7;
        if rest == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// Everything in a stream begins at a multiple of four bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}
