//! How an image is coming to a host.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::{Digest, ImageRef, hex_decode};
use crate::text::as_text;

/// What names a recipe: 32 bytes that follow from its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecipeId([u8; 32]);

/// A text that names no recipe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a recipe's id is 64 hexadecimal digits")]
pub struct InvalidRecipeId;

impl RecipeId {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for RecipeId {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for RecipeId {
    type Err = InvalidRecipeId;

    fn from_str(text: &str) -> Result<Self, InvalidRecipeId> {
        let bytes = hex_decode(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(InvalidRecipeId)
    }
}

impl fmt::Display for RecipeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecipeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

as_text!(RecipeId);

/// How an image is coming to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Which image.
    pub digest: Digest,
    /// By which name it is wanted.
    pub image: ImageRef,
    /// How far it is.
    pub phase: Phase,
    /// Bytes of the image that are there.
    pub received: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Bytes that were sent for it.
    pub wire: u64,
    /// Bytes that were not, since images that are there have them.
    pub saved: u64,
    /// Where it comes from: `controller`, or the name of a host.
    pub source: String,
    /// Time until it is there, as it goes now; `None` where that is not known.
    pub left: Option<Duration>,
    /// The recipe by which it comes; `None` before that is known.
    pub recipe: Option<RecipeId>,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The controller is asked how the image is to come.
    Planning,
    /// The controller makes its recipe.
    Making {
        /// Bytes of the image for which it is made.
        made: u64,
    },
    /// It comes.
    Receiving,
    /// It is there, verified.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_in_hexadecimal() {
        let id = RecipeId::from([0xab; 32]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("ab".parse::<RecipeId>(), Err(InvalidRecipeId));
    }
}
