//! Values that nobody can guess, of characters that every program takes.

use shoal_core::secret::SecretValue;
use zeroize::Zeroizing;

use crate::refusal::Refusal;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Bytes from here on are thrown away: with them the first characters would come more often.
const FAIR: u8 = 248;

/// Characters where nothing is said: 190 bits.
const DEFAULT_LENGTH: usize = 32;
/// Fewer could be guessed.
const SHORTEST: usize = 8;
const LONGEST: usize = 1024;

/// How many characters are asked for; 0 leaves it to us.
pub(super) fn length(asked: u32) -> Result<usize, Refusal> {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => Ok(DEFAULT_LENGTH),
        length if (SHORTEST..=LONGEST).contains(&length) => Ok(length),
        length => Err(Refusal::Invalid(format!(
            "a generated secret has {SHORTEST} to {LONGEST} characters, and {length} are asked for"
        ))),
    }
}

/// So many random characters.
///
/// # Panics
/// Where the kernel has no randomness: then nothing that a controller does would be safe.
pub(super) fn value(length: usize) -> SecretValue {
    // Of its final size from the start, so that growing leaves no copy behind.
    let mut text = Vec::with_capacity(length);
    let mut bytes = Zeroizing::new([0; 64]);
    while text.len() < length {
        getrandom::fill(bytes.as_mut()).expect("a kernel that has booted gives randomness");
        let fair = bytes.iter().filter(|byte| **byte < FAIR);
        let characters = fair.map(|byte| ALPHABET[usize::from(*byte) % ALPHABET.len()]);
        text.extend(characters.take(length - text.len()));
    }
    SecretValue::new(text).expect("it has 8 to 1024 characters")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn lengths_have_bounds() {
        for (asked, wanted) in [(0, Some(32)), (8, Some(8)), (1024, Some(1024)), (7, None)] {
            assert_eq!(length(asked).ok(), wanted, "{asked}");
        }
        let error = length(1025).unwrap_err().to_string();
        assert!(error.contains("8 to 1024 characters, and 1025"), "{error}");
        for length in [8, 63, 64, 65, 1024] {
            assert_eq!(value(length).reveal().len(), length);
        }
    }

    /// A modulus without rejection would give eight of the characters a quarter more.
    #[test]
    fn no_character_is_favoured() {
        let mut counts: BTreeMap<u8, u32> = BTreeMap::new();
        for _ in 0..605 {
            value(1024).reveal().iter().for_each(|c| *counts.entry(*c).or_default() += 1);
        }
        assert_eq!(counts.len(), 62);
        // Each 10,000 times or so; ten standard deviations either way.
        for (character, count) in counts {
            assert!((9_000..11_000).contains(&count), "{}: {count}", char::from(character));
        }
    }
}
