//! Carries a recipe out: the receiving end of a transfer.
//!
//! The image's bytes are made strictly in order and appended to a [`Partial`], whose length is the
//! journal: whoever opens it again goes on in the segment in which the last one ended, and drops
//! what of it is there already. Memory is bounded by [`limits`](crate::recipe::limits) and not by
//! the image: one segment at a time is held, with its window and its prefix.
//!
//! Way in: [`Assembler`]. Who sends the segments is no matter here: each is checked against its
//! hash in the head before anything is done with it. That the sources are what their names say is
//! not looked at, since that would cost as much as sending them; the SHA-256 of what comes out
//! says it in the end.

mod carry_out;
mod error;
mod source;

use std::path::{Path, PathBuf};

pub use error::AssembleError;
use source::Sources;

use crate::codec::{Recompressor, codecs};
use crate::partial::{Partial, PartialError};
use crate::recipe::{Head, Kind, RecipeError, Segment};

/// An image that is being made. Dropping it ends the transfer and keeps what was made.
#[derive(Debug)]
pub struct Assembler {
    head: Head,
    /// What bytes are taken from; `None` where the segments are the image's own bytes.
    delta: Option<Delta>,
    partial: Partial,
    next: Next,
}

/// What making an image out of others takes.
#[derive(Debug)]
struct Delta {
    sources: Sources,
    recompressor: Recompressor,
}

/// The segment that is wanted next, and the image's byte that it begins with.
#[derive(Debug, Clone, Copy)]
struct Next {
    segment: usize,
    begin: u64,
}

impl Assembler {
    /// Begins or resumes the making of the image of `head` in `dir`. The sources are looked for in
    /// `sources_dir` under the names of complete images, and kept open: they may be removed from
    /// then on. What was received before is read and hashed, which takes about a second per GiB;
    /// it may have come by another recipe or as a whole image.
    ///
    /// # Errors
    /// What [`Partial::open`] says. A source is missing or not what it was, or the libraries here
    /// are not those that the recipe was made with: then nothing is made or changed, and the image
    /// has to come whole.
    pub fn open(
        head: Head,
        sources_dir: &Path,
        dir: &Path,
        reserve: u64,
    ) -> Result<Self, AssembleError> {
        let delta = delta(&head, sources_dir)?;
        let partial = Partial::open(dir, head.target, head.size, reserve)?;
        let (segment, begin) =
            head.segment_at(partial.received()).unwrap_or((head.segments.len(), head.size));
        Ok(Self { head, delta, partial, next: Next { segment, begin } })
    }

    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of the image that are there.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.partial.received()
    }

    /// The number of the segment that is wanted next; `None` when all are in.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        (self.next.segment < self.head.segments.len()).then_some(self.next.segment)
    }

    /// Carries out a segment, as it was sent.
    ///
    /// # Errors
    /// `NotNext` and `WrongSegment` keep everything as it was: the right one can still come, from
    /// somebody else. An error of the disk keeps what was made, for a resume. All others mean that
    /// this recipe does not make its image here; what was made was thrown away then, since nobody
    /// knows what of it is right, and [`asks_for_whole`](AssembleError::asks_for_whole) says so.
    pub fn apply(&mut self, segment: usize, encoded: &[u8]) -> Result<(), AssembleError> {
        if self.next() != Some(segment) {
            return Err(AssembleError::NotNext { segment, next: self.next.segment });
        }
        let known = &self.head.segments[segment];
        let expected = usize::try_from(known.encoded).unwrap_or(usize::MAX);
        if encoded.len() != expected || *blake3::hash(encoded).as_bytes() != known.hash {
            let target = self.head.target;
            return Err(AssembleError::WrongSegment { segment, target });
        }
        let output = known.output;
        match self.carry_out(output, encoded) {
            Ok(()) => {
                self.next = Next { segment: segment + 1, begin: self.next.begin + output };
                Ok(())
            }
            Err(error) if error.asks_for_whole() => {
                self.partial.begin_again()?;
                self.next = Next { segment: 0, begin: 0 };
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the transfer: checks length and SHA-256, and gives the file the name of a complete
    /// image, durably. Returns its path.
    ///
    /// # Errors
    /// Not all segments are in: what was made is kept. The SHA-256 is another: nothing is kept, and
    /// where bytes came out of other images, one of those is damaged.
    pub fn finish(self) -> Result<PathBuf, AssembleError> {
        let Self { head, delta, partial, .. } = self;
        match partial.finish() {
            Err(PartialError::WrongDigest { path, expected, got }) if delta.is_some() => {
                let sources = head.sources().iter().map(|base| base.sum).collect();
                Err(AssembleError::WrongImage { path, expected, got, sources })
            }
            ended => Ok(ended?),
        }
    }

    fn carry_out(&mut self, output: u64, encoded: &[u8]) -> Result<(), AssembleError> {
        let begin = self.next.begin;
        let Some(delta) = &mut self.delta else {
            let done = usize::try_from(self.partial.received() - begin).unwrap_or(usize::MAX);
            return Ok(self.partial.append(encoded.get(done..).unwrap_or_default())?);
        };
        let (segment, coded) = Segment::decode_around(encoded, self.head.sources().len())?;
        if segment.output() != output {
            let fault = "a segment makes more or less than its head says";
            return Err(RecipeError::Damaged { fault }.into());
        }
        carry_out::segment(&segment, coded, begin, delta, &mut self.partial)
    }
}

fn delta(head: &Head, sources_dir: &Path) -> Result<Option<Delta>, AssembleError> {
    let Kind::Delta { sources, codecs: theirs, compressor, options, block_size } = &head.kind
    else {
        return Ok(None);
    };
    let ours = codecs();
    if *theirs != ours {
        return Err(AssembleError::Codecs { theirs: theirs.clone(), ours });
    }
    let fault = "its compressor's options can't be";
    let recompressor = Recompressor::new(*compressor, options, *block_size)
        .ok_or(RecipeError::Damaged { fault })?;
    let sources = Sources::open(sources_dir, sources, *compressor, *block_size)?;
    Ok(Some(Delta { sources, recompressor }))
}
