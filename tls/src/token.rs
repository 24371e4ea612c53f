//! Join tokens: the one line that introduces a host to its controller.
//!
//! `shoal1.<id>.<secret>.<ca>.<check>`: the token's id, a 128-bit secret, the SHA-256 of the CA's
//! public key, and four bytes of SHA-256 over all before it, so that a typo is found without
//! asking the controller. All but the id are base64url.
//!
//! Deliberately absent: expiry, single use and bindings. The controller's store keeps them under
//! the id, with [`JoinToken::secret_hash`] in the place of the secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::fingerprint::{Fingerprint, hex, sha256};

const PREFIX: &str = "shoal1";
const CHECK_BYTES: usize = 4;

/// What is wrong with a token. None of these shows the token or a part of its secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the join token is empty; get one with `shoal host token create`")]
    Empty,
    #[error(
        "this is not a join token: it does not begin with \"shoal1.\"; copy the whole line that `shoal host token create` printed"
    )]
    Prefix,
    #[error("this join token is of another version of Shoal; this one knows \"shoal1\" tokens")]
    Version,
    #[error(
        "the join token has {found} parts separated by dots instead of 5: it was cut off or joined when it was copied"
    )]
    Parts { found: usize },
    #[error(
        "the {part} in the join token has {found} characters instead of {expected}: it was cut off or mistyped"
    )]
    Length { part: &'static str, found: usize, expected: &'static str },
    #[error("the {part} in the join token has a character that cannot be there: it was mistyped")]
    Alphabet { part: &'static str },
    #[error("the join token's checksum does not match: it was mistyped; copy it again")]
    Checksum,
    #[error("cannot make a join token: the system gave no randomness")]
    Random,
}

/// A parsed or fresh token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: String,
    secret: [u8; 16],
    ca_spki_sha256: [u8; 32],
}

impl JoinToken {
    /// A new token for the CA with this public key.
    ///
    /// # Errors
    /// [`TokenError::Random`] when the system has no randomness.
    pub fn generate(ca_spki_sha256: [u8; 32]) -> Result<Self, TokenError> {
        let mut id = [0; 5];
        let mut secret = [0; 16];
        getrandom::fill(&mut id).map_err(|_| TokenError::Random)?;
        getrandom::fill(&mut secret).map_err(|_| TokenError::Random)?;
        Ok(Self { id: hex(&id), secret, ca_spki_sha256 })
    }

    /// The public name of the token, as it is listed and logged.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret, to be sent only to the CA that [`Self::ca_spki_sha256`] names.
    pub fn secret(&self) -> &[u8; 16] {
        &self.secret
    }

    /// What the controller stores and compares, with [`crate::constant_time_eq`].
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// SHA-256 of the CA's public key; the pin for [`crate::join_client_config`].
    pub fn ca_spki_sha256(&self) -> [u8; 32] {
        self.ca_spki_sha256
    }

    fn body(&self) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        format!("{PREFIX}.{}.{}.{}", self.id, encode(&self.secret), encode(&self.ca_spki_sha256))
    }
}

/// The whole token, secret included: for the person who asked for it, never for a log.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body();
        write!(f, "{body}.{}", URL_SAFE_NO_PAD.encode(checksum(&body)))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("secret", &"[redacted]")
            .field("ca", &Fingerprint(self.ca_spki_sha256))
            .finish()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        check_prefix(text)?;
        let parts: Vec<&str> = text.split('.').collect();
        let [_, id, secret, ca, check] = parts.as_slice() else {
            return Err(TokenError::Parts { found: parts.len() });
        };
        let token = Self {
            id: parse_id(id)?,
            secret: decode("secret", secret, "22")?,
            ca_spki_sha256: decode("CA hash", ca, "43")?,
        };
        let claimed: [u8; CHECK_BYTES] = decode("checksum", check, "6")?;
        if claimed == checksum(&token.body()) { Ok(token) } else { Err(TokenError::Checksum) }
    }
}

fn check_prefix(text: &str) -> Result<(), TokenError> {
    let first = text.split('.').next().unwrap_or_default();
    match first.strip_prefix("shoal") {
        _ if text.is_empty() => Err(TokenError::Empty),
        Some("1") => Ok(()),
        Some(version) if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()) => {
            Err(TokenError::Version)
        }
        _ => Err(TokenError::Prefix),
    }
}

fn parse_id(id: &str) -> Result<String, TokenError> {
    if !(4..=32).contains(&id.len()) {
        return Err(TokenError::Length { part: "id", found: id.len(), expected: "4 to 32" });
    }
    if !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Err(TokenError::Alphabet { part: "id" });
    }
    Ok(id.to_owned())
}

/// `expected` is the encoded length of `N` bytes, for the message.
fn decode<const N: usize>(
    part: &'static str,
    text: &str,
    expected: &'static str,
) -> Result<[u8; N], TokenError> {
    if text.len() != (N * 8).div_ceil(6) {
        return Err(TokenError::Length { part, found: text.chars().count(), expected });
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Alphabet { part })?;
    bytes.try_into().map_err(|_| TokenError::Alphabet { part })
}

fn checksum(body: &str) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = sha256(body.as_bytes());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fixed, so that the text format cannot change unnoticed.
    const GOLDEN: &str = "shoal1.abc123.AAECAwQFBgcICQoLDA0ODw.\
                          BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc.mn5qyg";

    fn fixed() -> JoinToken {
        let secret = std::array::from_fn(|i| u8::try_from(i).unwrap());
        JoinToken { id: "abc123".into(), secret, ca_spki_sha256: [7; 32] }
    }

    #[test]
    fn golden_text() {
        assert_eq!(fixed().to_string(), GOLDEN);
        assert_eq!(GOLDEN.parse(), Ok(fixed()));
    }

    #[test]
    fn fresh_tokens_survive_the_round_trip_and_differ() {
        let (a, b) = (JoinToken::generate([9; 32]).unwrap(), JoinToken::generate([9; 32]).unwrap());
        assert_eq!(format!(" {a}\n").parse(), Ok(a.clone()));
        assert_ne!(a.secret, b.secret);
        assert_ne!(a.id, b.id);
        assert_eq!(a.secret_hash(), sha256(&a.secret));
    }

    #[test]
    fn every_single_typo_is_found() {
        let good = fixed().to_string();
        for position in 0..good.len() {
            for replacement in ["x", "Q", "7", "-", ".", ""] {
                let mut typo = good.clone();
                typo.replace_range(position..=position, replacement);
                if typo != good {
                    assert!(typo.parse::<JoinToken>().is_err(), "{typo}");
                }
            }
        }
    }

    #[test]
    fn errors_say_which_part_is_wrong() {
        let good = fixed().to_string();
        let parts: Vec<&str> = good.split('.').collect();
        let with = |index: usize, value: &str| {
            let mut parts = parts.clone();
            parts[index] = value;
            parts.join(".").parse::<JoinToken>().unwrap_err()
        };
        assert_eq!("  ".parse::<JoinToken>(), Err(TokenError::Empty));
        assert_eq!(with(0, "K10"), TokenError::Prefix);
        assert_eq!(with(0, "shoal"), TokenError::Prefix);
        assert_eq!(with(0, "shoal2"), TokenError::Version);
        assert_eq!(parts[..3].join(".").parse::<JoinToken>(), Err(TokenError::Parts { found: 3 }));
        assert!(matches!(with(1, "ab"), TokenError::Length { part: "id", found: 2, .. }));
        assert_eq!(with(1, "ABC123"), TokenError::Alphabet { part: "id" });
        assert!(matches!(with(2, "short"), TokenError::Length { part: "secret", .. }));
        assert_eq!(with(2, &"!".repeat(22)), TokenError::Alphabet { part: "secret" });
        assert!(matches!(with(3, "short"), TokenError::Length { part: "CA hash", .. }));
        assert!(matches!(with(4, "x"), TokenError::Length { part: "checksum", .. }));
        assert_eq!(with(4, "AAAAAA"), TokenError::Checksum);
        assert_eq!(with(1, "abc124"), TokenError::Checksum);
    }

    #[test]
    fn the_secret_shows_only_in_display() {
        let token = fixed();
        let encoded = URL_SAFE_NO_PAD.encode(token.secret);
        assert!(token.to_string().contains(&encoded));
        let debug = format!("{token:?}");
        assert!(debug.contains("redacted") && !debug.contains(&encoded), "{debug}");
    }
}
