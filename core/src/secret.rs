//! Secrets: what they are called, which version of one is meant, and what is in it.
//!
//! A fleet file names secrets, a revision pins their versions, and only hosts that run an instance
//! which names one are told its value. Deliberately absent: how they are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::host::HostSpec;
use crate::name::{CredentialName, InvalidName, SecretPart};
use crate::text::as_text;

/// Bytes that the value of one secret may have.
pub const LARGEST_SECRET: usize = 64 << 10;

/// Parts that a secret's name may have, and bytes in all.
const MOST_PARTS: usize = 8;
const LONGEST_NAME: usize = 200;

/// The name of a secret among those of the controller: parts of `a-z0-9._-`, such as `db/creator`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(Vec<SecretPart>);

impl FromStr for SecretName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refused = |problem| {
            let text = text.chars().take(80).collect();
            Err(InvalidName { kind: "secret name", text, problem })
        };
        let parts: Vec<&str> = text.split('/').collect();
        if text.len() > LONGEST_NAME {
            let length = text.len();
            return refused(format!("is {length} bytes long; {LONGEST_NAME} are allowed"));
        }
        if parts.len() > MOST_PARTS {
            return refused(format!("has {} parts; {MOST_PARTS} are allowed", parts.len()));
        }
        Ok(Self(parts.into_iter().map(str::parse).collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<&str> = self.0.iter().map(SecretPart::as_str).collect();
        f.pad(&parts.join("/"))
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

as_text!(SecretName);

/// One version of a secret; its value never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PinnedSecret {
    /// The secret.
    pub name: SecretName,
    /// Counts from 1.
    pub version: u64,
}

impl fmt::Display for PinnedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}

/// What is in a secret. Wiped when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

/// A value that can't be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// There is nothing in it.
    #[error("the value is empty; nothing needs to be kept secret then")]
    Empty,
    /// There is too much in it.
    #[error("the value has {0} bytes; a secret may have {LARGEST_SECRET}")]
    TooLarge(usize),
}

impl SecretValue {
    /// Takes a value.
    ///
    /// # Errors
    /// Where it is empty or larger than [`LARGEST_SECRET`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidSecret> {
        let value = Self(Zeroizing::new(bytes));
        match value.0.len() {
            0 => Err(InvalidSecret::Empty),
            1..=LARGEST_SECRET => Ok(value),
            length => Err(InvalidSecret::TooLarge(length)),
        }
    }

    /// The value itself.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a secret)")
    }
}

/// The values of an instance's secrets, by what the instance calls them.
pub type Credentials = BTreeMap<CredentialName, SecretValue>;

/// The secrets that a host needs for what it is to run.
#[must_use]
pub fn needed(spec: &HostSpec) -> BTreeSet<PinnedSecret> {
    let settings = spec.instances.iter().map(|instance| &instance.config.settings);
    settings.flat_map(|settings| settings.secrets.values().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_parts() {
        for text in ["db", "db/creator", "shop/v1.2/tls_key"] {
            assert_eq!(text.parse::<SecretName>().unwrap().to_string(), text);
        }
        for text in ["", "/", "db/", "a//b", "../etc", "A", "a/b/c/d/e/f/g/h/i", "a b"] {
            assert!(text.parse::<SecretName>().is_err(), "{text}");
        }
        let long = vec!["a".repeat(60); 4].join("/");
        assert!(long.parse::<SecretName>().unwrap_err().to_string().contains("200 are allowed"));
    }

    #[test]
    fn values_are_bounded_and_never_shown() {
        let value = SecretValue::new(b"hunter2".to_vec()).unwrap();
        assert!(!format!("{value:?}").contains("hunter2"));
        assert_eq!(value.reveal(), b"hunter2");
        assert_eq!(SecretValue::new(vec![]), Err(InvalidSecret::Empty));
        let large = LARGEST_SECRET + 1;
        assert_eq!(SecretValue::new(vec![0; large]), Err(InvalidSecret::TooLarge(large)));
    }
}
