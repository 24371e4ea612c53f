//! The SHA-256 that names an image.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// How much is read at once: large enough for the disk, small enough to stay in the cache.
const CHUNK: usize = 256 * 1024;

/// A SHA-256, shown and parsed as the 64 lower-case hexadecimal digits that `sha256sum` prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Sum([u8; 32]);

impl Sha256Sum {
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The sum of bytes already in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl From<[u8; 32]> for Sha256Sum {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<Sha256Sum> for [u8; 32] {
    fn from(sum: Sha256Sum) -> Self {
        sum.0
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Sum({self})")
    }
}

/// A text that is not a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a SHA-256: 64 lower-case hexadecimal digits are expected")]
pub struct ParseSumError {
    pub text: String,
}

impl FromStr for Sha256Sum {
    type Err = ParseSumError;

    /// Capitals are refused: one digest has one name, also as a file name.
    fn from_str(text: &str) -> Result<Self, ParseSumError> {
        parse_hex(text.as_bytes()).map(Self).ok_or_else(|| ParseSumError { text: text.to_owned() })
    }
}

fn parse_hex(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A file whose digest could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{path} could not be read")]
pub struct DigestError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Reads a whole file and returns its SHA-256. `progress` is told the bytes read so far, after each
/// 256 KiB, which is also all the memory it takes.
///
/// # Errors
/// The file can't be opened or read.
pub fn sha256_of(path: &Path, mut progress: impl FnMut(u64)) -> Result<Sha256Sum, DigestError> {
    let mut hasher = Sha256::new();
    File::open(path)
        .and_then(|mut file| hash_into(&mut hasher, &mut file, &mut progress))
        .map_err(|source| DigestError { path: path.to_owned(), source })?;
    Ok(Sha256Sum(hasher.finalize().into()))
}

/// Feeds the rest of `from` to the hasher, and returns how many bytes that were.
pub(crate) fn hash_into(
    hasher: &mut Sha256,
    from: &mut impl Read,
    progress: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        total += u64::try_from(read).expect("a read is never longer than its buffer");
        progress(total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn shows_what_sha256sum_shows() {
        assert_eq!(Sha256Sum::of(b"abc").to_string(), ABC);
        assert_eq!(ABC.parse(), Ok(Sha256Sum::of(b"abc")));
    }

    #[test]
    fn only_the_one_spelling_is_parsed() {
        let capitals = ABC.to_uppercase();
        let long = format!("{ABC}0");
        for text in ["", "abc", &ABC[1..], &capitals, &long, &"é".repeat(32)] {
            let error = text.parse::<Sha256Sum>().expect_err(text);
            assert!(error.to_string().contains("64 lower-case hexadecimal"), "{error}");
        }
    }

    #[test]
    fn a_file_is_hashed_in_bounded_steps() {
        let bytes = vec![7; CHUNK * 2 + 5];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let mut steps = Vec::new();
        let sum = sha256_of(&path, |total| steps.push(total)).unwrap();
        assert_eq!(sum, Sha256Sum::of(&bytes));
        assert_eq!(steps.last().copied(), Some(524_293));
        assert!(steps.len() >= 3);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = sha256_of(Path::new("/nowhere/image"), |_| ()).expect_err("not there");
        assert_eq!(error.to_string(), "/nowhere/image could not be read");
    }
}
