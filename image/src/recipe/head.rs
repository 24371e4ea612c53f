//! The head of a recipe: what comes out, what it is made from, and the segments' sizes and hashes.

use std::fmt;

use super::code::{Input, put, put_len};
use super::{RecipeError, limits};
use crate::compression::Compressor;
use crate::digest::Sha256Sum;

/// The form of recipes that this version makes and takes.
pub(super) const VERSION: u8 = 1;

const PART: &str = "head";

/// The longest name of the libraries.
const CODECS_LEN: usize = 128;

/// The longest compressor options of an image.
const OPTIONS_LEN: usize = 64;

/// What a recipe makes, and of what. One that exists keeps to [`limits`], and its segments make
/// just as many bytes as the image has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The SHA-256 of the image that comes out.
    pub target: Sha256Sum,
    /// Its bytes.
    pub size: u64,
    /// How its segments are to be read.
    pub kind: Kind,
    /// In order. At least one.
    pub segments: Vec<SegmentHead>,
}

/// How the segments of a recipe are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// They are the image's own bytes.
    Whole,
    /// They are [`Segment`](super::Segment)s.
    Delta {
        /// The images that bytes are taken from.
        sources: Vec<Base>,
        /// The compression libraries that rebuilt blocks were made with; with others, the same
        /// plain bytes may become other blocks. See [`crate::codecs`].
        codecs: String,
        /// What the blocks of the new image are compressed with.
        compressor: Compressor,
        /// The compressor's options as they stand in the new image, without the block's header;
        /// empty where it has none.
        options: Vec<u8>,
        /// Bytes of a data block of the new image.
        block_size: u32,
    },
}

/// An image that a recipe takes bytes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub sum: Sha256Sum,
    /// Bytes.
    pub size: u64,
}

/// One segment, as the head knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    /// Bytes of the image that it makes; more than none.
    pub output: u64,
    /// Bytes that it has itself.
    pub encoded: u32,
    /// The BLAKE3 of those.
    pub hash: [u8; 32],
}

/// What names a recipe: the BLAKE3 of its head, and so of all that is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipeId([u8; 32]);

impl RecipeId {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RecipeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecipeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipeId({self})")
    }
}

impl Head {
    /// The bytes that stand for it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.target.as_bytes());
        put(&mut out, self.size);
        match &self.kind {
            Kind::Whole => out.push(0),
            Kind::Delta { sources, codecs, compressor, options, block_size } => {
                out.push(1);
                put_len(&mut out, sources.len());
                for source in sources {
                    out.extend(source.sum.as_bytes());
                    put(&mut out, source.size);
                }
                put_bytes(&mut out, codecs.as_bytes());
                put(&mut out, compressor.id().into());
                put_bytes(&mut out, options);
                put(&mut out, (*block_size).into());
            }
        }
        put_len(&mut out, self.segments.len());
        for segment in &self.segments {
            put(&mut out, segment.output);
            put(&mut out, segment.encoded.into());
            out.extend(segment.hash);
        }
        out
    }

    /// Reads a head.
    ///
    /// # Errors
    /// It is cut short, damaged, of another form, or asks for more than [`limits`] allow.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecipeError> {
        if bytes.len() > limits::HEAD {
            let asked = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let limit = u64::try_from(limits::HEAD).expect("a constant");
            return Err(RecipeError::TooMuch { what: "bytes of head", asked, limit });
        }
        let mut input = Input::new(bytes, PART);
        let version = input.byte()?;
        if version != VERSION {
            return Err(RecipeError::Version { version });
        }
        let target = Sha256Sum::new(input.array()?);
        let size = input.number()?;
        let kind = match input.byte()? {
            0 => Kind::Whole,
            1 => delta(&mut input)?,
            _ => return Err(RecipeError::damaged("it is of an unknown kind")),
        };
        let segments = segments(&mut input, &kind)?;
        input.end()?;
        let head = Self { target, size, kind, segments };
        head.check_size()?;
        Ok(head)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> RecipeId {
        RecipeId(blake3::hash(&self.encode()).into())
    }

    /// The images that it takes bytes from.
    #[must_use]
    pub fn sources(&self) -> &[Base] {
        match &self.kind {
            Kind::Whole => &[],
            Kind::Delta { sources, .. } => sources,
        }
    }

    /// Bytes that all segments have, without the head.
    #[must_use]
    pub fn encoded(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.encoded)).sum()
    }

    /// The segment that makes byte `output` of the image, and where it begins; `None` at the end.
    #[must_use]
    pub fn segment_at(&self, output: u64) -> Option<(usize, u64)> {
        let mut begin = 0;
        for (number, segment) in self.segments.iter().enumerate() {
            let end = begin + segment.output;
            if output < end {
                return Some((number, begin));
            }
            begin = end;
        }
        None
    }

    fn check_size(&self) -> Result<(), RecipeError> {
        let lengths = self.segments.iter().map(|segment| segment.output);
        let sum = lengths.into_iter().try_fold(0_u64, u64::checked_add);
        if sum != Some(self.size) || self.size == 0 {
            return Err(RecipeError::damaged("its segments make an image of another size"));
        }
        Ok(())
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend(bytes);
}

fn delta(input: &mut Input<'_>) -> Result<Kind, RecipeError> {
    let mut sources = Vec::new();
    for _ in 0..input.count("sources", limits::SOURCES)? {
        sources.push(Base { sum: Sha256Sum::new(input.array()?), size: input.number()? });
    }
    let length = input.count("bytes of library names", CODECS_LEN)?;
    let codecs = String::from_utf8(input.bytes(length)?.to_vec())
        .map_err(|_| RecipeError::damaged("the names of the libraries are no text"))?;
    let compressor = u16::try_from(input.number()?).ok().and_then(Compressor::from_id);
    let compressor =
        compressor.ok_or_else(|| RecipeError::damaged("it names an unknown compressor"))?;
    let length = input.count("bytes of compressor options", OPTIONS_LEN)?;
    let options = input.bytes(length)?.to_vec();
    let block_size = input.length("bytes of a block", 1 << 20)?;
    if !block_size.is_power_of_two() || block_size < 4096 {
        return Err(RecipeError::damaged("it has an impossible block size"));
    }
    Ok(Kind::Delta { sources, codecs, compressor, options, block_size })
}

fn segments(input: &mut Input<'_>, kind: &Kind) -> Result<Vec<SegmentHead>, RecipeError> {
    let count = input.count("segments", limits::SEGMENTS)?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let output = input.at_most("bytes made by a segment", limits::OUTPUT)?;
        let limit = u32::try_from(limits::ENCODED).expect("a constant");
        let encoded = input.length("bytes of a segment", limit)?;
        let hash = input.array()?;
        if output == 0 {
            return Err(RecipeError::damaged("a segment makes nothing"));
        }
        if *kind == Kind::Whole && u64::from(encoded) != output {
            return Err(RecipeError::damaged("a segment of a whole image is not what it makes"));
        }
        segments.push(SegmentHead { output, encoded, hash });
    }
    Ok(segments)
}
