//! A recipe on disk: its segments one after the other, then its head, then the head's length.
//!
//! The head comes last because only then all hashes are known. So the segments stand at the same
//! offsets as those of a whole image do in the image's own file, and whoever serves them need not
//! know the difference.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{Head, Kind, RecipeError, SegmentHead, limits};

/// What the last bytes of a recipe's file are.
const MAGIC: [u8; 8] = *b"shoalrc1";

/// The head's length and the magic bytes.
const TRAILER_LEN: u64 = 12;

/// A recipe's file that can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecipeFileError {
    #[error("could not {action} the recipe {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is no recipe that can be used; remove it, it is made again when needed")]
    Recipe { path: PathBuf, source: RecipeError },
}

/// A recipe on disk, or a whole image that stands for one.
#[derive(Debug)]
pub struct RecipeFile {
    head: Head,
    file: File,
    /// Where each segment stands in the file.
    offsets: Vec<u64>,
}

impl RecipeFile {
    /// Opens a recipe that [`RecipeWriter`] wrote.
    ///
    /// # Errors
    /// It can't be read, or is damaged.
    pub fn open(path: &Path) -> Result<Self, RecipeFileError> {
        let failed =
            |action| move |source| RecipeFileError::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(failed("open"))?;
        let size = file.metadata().map_err(failed("look at"))?.len();
        let head = match read_head(&file, size) {
            Ok(decoded) => decoded,
            Err(source) => return Err(failed("read")(source)),
        };
        let head =
            head.map_err(|source| RecipeFileError::Recipe { path: path.to_owned(), source })?;
        Ok(Self::of(head, file))
    }

    /// A whole image's file, of which `head` was made.
    ///
    /// # Errors
    /// The head is not that of a whole image, or the file can't be opened.
    pub fn of_image(head: Head, path: &Path) -> Result<Self, RecipeFileError> {
        if head.kind != Kind::Whole {
            let source = RecipeError::damaged("it is not that of a whole image");
            return Err(RecipeFileError::Recipe { path: path.to_owned(), source });
        }
        let opened = File::open(path);
        let file = opened.map_err(|source| RecipeFileError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::of(head, file))
    }

    fn of(head: Head, file: File) -> Self {
        let mut at = 0;
        let mut offset = |segment: &SegmentHead| {
            let begin = at;
            at += u64::from(segment.encoded);
            begin
        };
        let offsets = head.segments.iter().map(&mut offset).collect();
        Self { head, file, offsets }
    }

    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The file that segments are in.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where a segment stands in the file, and its bytes; `None` where there is none of that
    /// number.
    #[must_use]
    pub fn place(&self, segment: usize) -> Option<(u64, u32)> {
        Some((*self.offsets.get(segment)?, self.head.segments.get(segment)?.encoded))
    }

    /// The bytes of a segment.
    ///
    /// # Errors
    /// The file can't be read, or has no such segment.
    pub fn read(&self, segment: usize) -> io::Result<Vec<u8>> {
        let (offset, length) = self.place(segment).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; usize::try_from(length).expect("at most a few MiB")];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn read_head(file: &File, size: u64) -> io::Result<Result<Head, RecipeError>> {
    let Some(trailer_at) = size.checked_sub(TRAILER_LEN) else {
        return Ok(Err(RecipeError::Short { part: "end" }));
    };
    let mut trailer = [0; 12];
    file.read_exact_at(&mut trailer, trailer_at)?;
    let (length, magic) = trailer.split_at(4);
    if magic != MAGIC {
        return Ok(Err(RecipeError::damaged("its end is not that of a recipe")));
    }
    let length = u32::from_le_bytes(*length.first_chunk().expect("four bytes"));
    let count = usize::try_from(length).unwrap_or(usize::MAX);
    let Some(head_at) = trailer_at.checked_sub(length.into()).filter(|_| count <= limits::HEAD)
    else {
        return Ok(Err(RecipeError::damaged("its head is longer than the file")));
    };
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, head_at)?;
    Ok(Head::decode(&bytes).and_then(|head| {
        let fits = head.encoded() == head_at;
        fits.then_some(head).ok_or_else(|| RecipeError::damaged("its segments have another length"))
    }))
}

/// Writes a recipe. Nothing is under its name before it is whole.
#[derive(Debug)]
pub struct RecipeWriter {
    path: PathBuf,
    unfinished: PathBuf,
    file: File,
    segments: Vec<SegmentHead>,
}

impl RecipeWriter {
    /// Begins a recipe that is to be at `path`.
    ///
    /// # Errors
    /// The file beside it can't be made.
    pub fn create(path: &Path) -> Result<Self, RecipeFileError> {
        let unfinished = path.with_extension("unfinished");
        let file = File::create(&unfinished).map_err(io_error("create", &unfinished))?;
        Ok(Self { path: path.to_owned(), unfinished, file, segments: Vec::new() })
    }

    /// Adds the next segment: `encoded` makes `output` bytes of the image.
    ///
    /// # Errors
    /// The disk says no.
    ///
    /// # Panics
    /// Where the segment is longer than any that [`Segment::encode`](super::Segment::encode) makes.
    pub fn add(&mut self, encoded: &[u8], output: u64) -> Result<(), RecipeFileError> {
        self.file.write_all(encoded).map_err(io_error("write", &self.unfinished))?;
        let hash = blake3::hash(encoded).into();
        let encoded = u32::try_from(encoded.len()).expect("a segment has a few MiB");
        self.segments.push(SegmentHead { output, encoded, hash });
        Ok(())
    }

    /// Writes the head, which `head` makes of the segments, and gives the file its name.
    ///
    /// # Errors
    /// The disk says no.
    pub fn finish(
        mut self,
        head: impl FnOnce(Vec<SegmentHead>) -> Head,
    ) -> Result<RecipeFile, RecipeFileError> {
        let head = head(std::mem::take(&mut self.segments));
        let bytes = head.encode();
        let length = u32::try_from(bytes.len()).expect("a head has a few MiB");
        let end = [&bytes[..], &length.to_le_bytes(), &MAGIC].concat();
        self.file.write_all(&end).map_err(io_error("write", &self.unfinished))?;
        self.file.sync_all().map_err(io_error("write", &self.unfinished))?;
        fs::rename(&self.unfinished, &self.path).map_err(io_error("name", &self.path))?;
        RecipeFile::open(&self.path)
    }
}

impl Drop for RecipeWriter {
    /// What was not finished is worth nothing.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.unfinished);
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecipeFileError {
    move |source| RecipeFileError::Io { action, path: path.to_owned(), source }
}
