//! Signatures in minisign's format: Ed25519 over the BLAKE2b of a text.
//!
//! Deliberately absent: making them. Only who signs needs that, and keys that sign are not to be
//! where signatures are checked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a signature's text: two comments and two lines of base64.
pub const LONGEST_SIGNATURE: usize = 2 << 10;

/// A key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: minisign_verify::PublicKey,
    id: u64,
}

/// A signature, read and not yet checked.
#[derive(Clone)]
pub struct Signature {
    signature: minisign_verify::Signature,
    key: u64,
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signature").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why a text is not signed by whoever it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature is no signature.
    #[error("the signature is damaged; a signature of minisign has four lines")]
    Malformed,
    /// It is longer than any.
    #[error("the signature has {0} bytes, and one of minisign has at most {LONGEST_SIGNATURE}")]
    TooLong(usize),
    /// It was made in a way that is not taken.
    #[error(
        "the signature is of minisign's old kind, over the text and not over its hash; sign it \
         without -l"
    )]
    OldKind,
    /// It is of another key.
    #[error("it is signed by key {key:016X}, which is not among those that are asked for")]
    OtherKey {
        /// The number of that key.
        key: u64,
    },
    /// It names the right key, and that key did not sign this.
    #[error("it is not what key {key:016X} signed: the text or the signature was altered")]
    Forged {
        /// The number of that key.
        key: u64,
    },
}

/// A text that is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no public key of minisign: 56 characters that begin with RW, below a comment or alone"
)]
pub struct NoPublicKey;

impl PublicKey {
    /// Reads a key: a whole `.pub` file, or just its second line.
    ///
    /// # Errors
    /// Where the text is neither.
    pub fn parse(text: &str) -> Result<Self, NoPublicKey> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let line = match (lines.next(), lines.next(), lines.next()) {
            (Some(line), None, None) => line,
            (Some(comment), Some(line), None) if comment.starts_with("untrusted comment:") => line,
            _ => return Err(NoPublicKey),
        };
        let key = minisign_verify::PublicKey::from_base64(line).map_err(|_| NoPublicKey)?;
        let (_, id) = head(line).ok_or(NoPublicKey)?;
        Ok(Self { key, id })
    }

    /// The key's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Signature {
    /// Reads a signature.
    ///
    /// # Errors
    /// Where the text is none, or one of a kind that is not taken.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        if text.len() > LONGEST_SIGNATURE {
            return Err(SignatureError::TooLong(text.len()));
        }
        let malformed = SignatureError::Malformed;
        let signature = minisign_verify::Signature::decode(text).map_err(|_| malformed.clone())?;
        let line = text.lines().nth(1).ok_or_else(|| malformed.clone())?;
        let (kind, key) = head(line).ok_or(malformed)?;
        if kind != *b"ED" {
            return Err(SignatureError::OldKind);
        }
        Ok(Self { signature, key })
    }

    /// The number of the key that it says it is of.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The number of the one among `keys` that signed this text.
    ///
    /// # Errors
    /// Where none of them did.
    pub fn verify(&self, text: &[u8], keys: &[PublicKey]) -> Result<u64, SignatureError> {
        let key = self.key;
        let mut same = keys.iter().filter(|known| known.id == key).peekable();
        if same.peek().is_none() {
            return Err(SignatureError::OtherKey { key });
        }
        let signed = same.any(|known| known.key.verify(text, &self.signature, false).is_ok());
        if signed { Ok(key) } else { Err(SignatureError::Forged { key }) }
    }
}

/// What a line of base64 begins with: two letters for its kind, and a key's number.
fn head(line: &str) -> Option<([u8; 2], u64)> {
    let bytes = STANDARD.decode(line).ok()?;
    let (kind, rest) = bytes.split_first_chunk::<2>()?;
    let (id, _) = rest.split_first_chunk::<8>()?;
    Some((*kind, u64::from_le_bytes(*id)))
}
