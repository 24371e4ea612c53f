//! Keys: readable paths such as `hosts/abc`, checked once.

use std::{borrow::Borrow, fmt};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// A path of one or more segments between single slashes. Ordered by bytes.
///
/// Segments are UTF-8, not empty, neither `.` nor `..`, and free of control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// All keys (empty), or those below a path that ends in a slash: `hosts/` holds `hosts/abc`, and
/// neither `hosts` nor `hosts2/abc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Prefix(String);

/// A key or prefix that the store does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("store key of {bytes} bytes is too long: the most is {MAX_KEY_BYTES}")]
    TooLong { bytes: usize },
    #[error("store key {key:?} has an empty segment: write segments between single slashes")]
    EmptySegment { key: String },
    #[error("store key {key:?} has a `.` or `..` segment: write the path out")]
    DotSegment { key: String },
    #[error("store key {key:?} has a control character")]
    Control { key: String },
    #[error("store prefix {prefix:?} does not end in a slash")]
    NotAPrefix { prefix: String },
    #[error("store key is not UTF-8")]
    NotUtf8,
}

impl Key {
    /// Checks and takes `key`.
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key = key.into();
        check(&key)?;
        Ok(Self(key))
    }

    /// The same for bytes out of an engine.
    pub fn from_bytes(key: &[u8]) -> Result<Self, InvalidKey> {
        Self::new(str::from_utf8(key).map_err(|_| InvalidKey::NotUtf8)?)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Prefix {
    /// Checks and takes `prefix`, which is a path and a slash.
    pub fn new(prefix: impl Into<String>) -> Result<Self, InvalidKey> {
        let prefix = prefix.into();
        let Some(path) = prefix.strip_suffix('/') else {
            return Err(InvalidKey::NotAPrefix { prefix });
        };
        check(path)?;
        Ok(Self(prefix))
    }

    /// The prefix of every key.
    pub fn all() -> Self {
        Self::default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn contains(&self, key: &Key) -> bool {
        key.as_str().starts_with(&self.0)
    }

    /// The keys of this prefix are those greater than its bytes and less than these.
    pub fn end(&self) -> Vec<u8> {
        let mut end = self.0.clone().into_bytes();
        match end.last_mut() {
            Some(slash) => *slash += 1,
            // No UTF-8 holds this byte, so that every key is less.
            None => end.push(0xff),
        }
        end
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(key: &str) -> Result<(), InvalidKey> {
    if key.len() > MAX_KEY_BYTES {
        return Err(InvalidKey::TooLong { bytes: key.len() });
    }
    if key.chars().any(char::is_control) {
        return Err(InvalidKey::Control { key: key.into() });
    }
    for segment in key.split('/') {
        match segment {
            "" => return Err(InvalidKey::EmptySegment { key: key.into() }),
            "." | ".." => return Err(InvalidKey::DotSegment { key: key.into() }),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths() {
        for good in ["hosts", "hosts/abc", "tags/belenios:2.5.1", "users/zoë", "a/..b/c. d"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        let empty = |key: &str| InvalidKey::EmptySegment { key: key.into() };
        for bad in ["", "/", "/a", "a/", "a//b"] {
            assert_eq!(Key::new(bad), Err(empty(bad)));
        }
        for bad in [".", "a/../b", "a/."] {
            assert_eq!(Key::new(bad), Err(InvalidKey::DotSegment { key: bad.into() }));
        }
        assert_eq!(Key::new("a\nb"), Err(InvalidKey::Control { key: "a\nb".into() }));
        assert_eq!(Key::from_bytes(b"a/\xff"), Err(InvalidKey::NotUtf8));
    }

    #[test]
    fn keys_have_a_longest() {
        assert!(Key::new("k".repeat(MAX_KEY_BYTES)).is_ok());
        let bytes = MAX_KEY_BYTES + 1;
        assert_eq!(Key::new("k".repeat(bytes)), Err(InvalidKey::TooLong { bytes }));
    }

    #[test]
    fn prefixes_end_in_a_slash() {
        assert_eq!(Prefix::new("a/b/").unwrap().as_str(), "a/b/");
        assert_eq!(Prefix::new("a"), Err(InvalidKey::NotAPrefix { prefix: "a".into() }));
        assert_eq!(Prefix::new("a//"), Err(InvalidKey::EmptySegment { key: "a/".into() }));
        assert_eq!(Prefix::new("/"), Err(InvalidKey::EmptySegment { key: String::new() }));
    }

    #[test]
    fn the_end_of_a_prefix_bounds_its_keys() {
        let hosts = Prefix::new("hosts/").unwrap();
        assert_eq!(hosts.end(), b"hosts0");
        for (key, inside) in [("hosts/a", true), ("hosts", false), ("hosts0", false)] {
            let key = Key::new(key).unwrap();
            assert_eq!(hosts.contains(&key), inside, "{key}");
            let between = key.as_bytes() > hosts.as_str().as_bytes();
            assert_eq!(between && key.as_bytes() < hosts.end().as_slice(), inside, "{key}");
        }
        let last = Key::new("\u{10ffff}").unwrap();
        assert!(Prefix::all().contains(&last));
        assert!(last.as_bytes() < Prefix::all().end().as_slice());
    }
}
