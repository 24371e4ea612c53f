//! What a program of the agent says of itself: its version and the processor that it is for.
//!
//! Every `shoal-agent` carries a [`stamp`] with its version, so that the version can be read
//! without running what someone has sent. Way in: [`Scan`], which takes a file as it comes.
//!
//! Deliberately absent: whether it works. That is found out on a host, where the one before is
//! still there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::InvalidName;
use crate::text::as_text;

/// What a stamp begins with.
const MAGIC: &[u8; BLOCK] =
    b"\x7fshoal-agent \xc2\xa7 version stamp, format 1; the version is next:\n\n\n";
/// Bytes of each half of a stamp. It is put at a multiple of this, in memory and so in the file.
const BLOCK: usize = 64;
/// Bytes of a stamp.
pub const STAMP: usize = 2 * BLOCK;
/// Bytes of a program at most.
pub const LARGEST: u64 = 512 << 20;
/// Characters of a version.
const LONGEST: usize = 48;

/// The version of an agent: `0.3.0`, `0.3.0+fix1`. Compared for equality only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentVersion(String);

impl AgentVersion {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentVersion {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |problem: &str| InvalidName {
            kind: "agent version",
            text: text.chars().take(80).collect(),
            problem: problem.to_owned(),
        };
        if text.len() > LONGEST || !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(invalid(
                "begins with a digit and has at most 48 characters, as 0.3.0 does",
            ));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-~".contains(&b)) {
            return Err(invalid("has only letters, digits and . + - ~"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AgentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

as_text!(AgentVersion);

/// The stamp of a program of this version, for a static of the program that is aligned to 64.
///
/// # Panics
/// When it is compiled, where the version is longer than 48 bytes.
#[must_use]
pub const fn stamp(version: &str) -> [u8; STAMP] {
    let (mut stamp, text) = ([0; STAMP], version.as_bytes());
    assert!(text.len() <= LONGEST, "the version is too long for a stamp");
    let mut at = 0;
    while at < BLOCK {
        stamp[at] = MAGIC[at];
        at += 1;
    }
    while at < BLOCK + text.len() {
        stamp[at] = text[at - BLOCK];
        at += 1;
    }
    stamp
}

/// The version in a stamp; `None` where it has none.
#[must_use]
pub fn stamped(stamp: &[u8; STAMP]) -> Option<&str> {
    let text = stamp[BLOCK..].split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()
}

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its version.
    pub version: AgentVersion,
    /// The processor that it is for, in systemd's spelling: `x86-64`, `arm64`.
    pub architecture: &'static str,
    /// Its length in bytes.
    pub size: u64,
}

/// Why a file can't be an agent's program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAgent {
    /// No ELF file of a known kind.
    #[error("it is no program for Linux (no ELF file for a processor that is known here)")]
    NoProgram,
    /// Its end is missing.
    #[error("its end is missing: {found} bytes are there, and it needs {needed}; copy it again")]
    Truncated {
        /// Bytes that are there.
        found: u64,
        /// Bytes that its header speaks of.
        needed: u64,
    },
    /// A program, and not this one.
    #[error("it is a program, but no shoal-agent that says its version (older ones do not)")]
    NoStamp,
    /// More than one version.
    #[error("it says two versions of itself: {0} and {1}")]
    TwoStamps(AgentVersion, AgentVersion),
    /// Too large.
    #[error("it is larger than {} MiB, the most that is taken", LARGEST >> 20)]
    TooLarge,
}

/// Reads what a program says of itself, piece by piece.
#[derive(Debug, Default)]
pub struct Scan {
    head: Vec<u8>,
    /// What was not looked through yet. Begins at a multiple of a block.
    rest: Vec<u8>,
    size: u64,
    found: Vec<AgentVersion>,
}

impl Scan {
    /// Before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.size = self.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let missing = BLOCK.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(window) = self.rest.get(at..at + STAMP) {
            if window.starts_with(MAGIC) {
                let version = window.first_chunk().and_then(stamped);
                self.found.extend(version.and_then(|text| text.parse().ok()));
            }
            at += BLOCK;
        }
        self.rest.drain(..at);
    }

    /// What the file says, now that all of it was read.
    ///
    /// # Errors
    /// Where it is no whole `shoal-agent`.
    pub fn finish(mut self) -> Result<About, NotAnAgent> {
        if self.size > LARGEST {
            return Err(NotAnAgent::TooLarge);
        }
        let header = Header::read(&self.head).ok_or(NotAnAgent::NoProgram)?;
        if self.size < header.end {
            return Err(NotAnAgent::Truncated { found: self.size, needed: header.end });
        }
        self.found.dedup();
        let mut found = self.found.into_iter();
        match (found.next(), found.next()) {
            (None, _) => Err(NotAnAgent::NoStamp),
            (Some(version), None) => {
                Ok(About { version, architecture: header.architecture, size: self.size })
            }
            (Some(one), Some(other)) => Err(NotAnAgent::TwoStamps(one, other)),
        }
    }
}

/// What is needed of an ELF header of 64 bits, little-endian: those are the processors that there
/// are agents for.
struct Header {
    architecture: &'static str,
    /// Where the table of its sections ends, which linkers put last.
    end: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BLOCK] = bytes.first_chunk()?;
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let two = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        // Programs, fixed in their place or not.
        if !matches!(two(16), 2 | 3) {
            return None;
        }
        let architecture = match two(18) {
            62 => "x86-64",
            183 => "arm64",
            243 => "riscv64",
            21 => "ppc64-le",
            258 => "loongarch64",
            _ => return None,
        };
        let offset = u64::from_le_bytes(*bytes[40..].first_chunk()?);
        let table = u64::from(two(58)) * u64::from(two(60));
        Some(Self { architecture, end: offset.saturating_add(table) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small program with a stamp at byte 128, whose table of sections ends at byte 320.
    fn program(version: &str) -> Vec<u8> {
        let mut bytes = vec![0; 320];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 3;
        bytes[18] = 62;
        bytes[40..42].copy_from_slice(&256_u16.to_le_bytes());
        bytes[58] = 64;
        bytes[60] = 1;
        bytes[128..256].copy_from_slice(&stamp(version));
        bytes
    }

    fn scan(bytes: &[u8], piece: usize) -> Result<About, NotAnAgent> {
        let mut scan = Scan::new();
        bytes.chunks(piece).for_each(|piece| scan.feed(piece));
        scan.finish()
    }

    #[test]
    fn a_program_tells_its_version_however_it_comes() {
        let bytes = program("0.3.0+fix1");
        for piece in [1, 7, 64, 100, 1000] {
            let about = scan(&bytes, piece).unwrap();
            assert_eq!((about.version.as_str(), about.architecture), ("0.3.0+fix1", "x86-64"));
            assert_eq!(about.size, 320);
        }
        assert_eq!(stamped(&stamp("1.2.3")), Some("1.2.3"));
    }

    #[test]
    fn what_is_no_agent_is_told_apart() {
        assert_eq!(scan(b"", 10), Err(NotAnAgent::NoProgram));
        assert_eq!(scan(&[7; 1000], 10), Err(NotAnAgent::NoProgram));
        assert_eq!(scan(b"#!/bin/sh\nexit 0\n", 10), Err(NotAnAgent::NoProgram));
        let whole = program("1.0.0");
        let (found, needed) = (300, 320);
        assert_eq!(scan(&whole[..300], 64), Err(NotAnAgent::Truncated { found, needed }));
        let mut other = whole.clone();
        other[128] = 0;
        assert_eq!(scan(&other, 64), Err(NotAnAgent::NoStamp));
        let mut odd = whole.clone();
        odd[18] = 8;
        assert_eq!(scan(&odd, 64), Err(NotAnAgent::NoProgram), "a processor that is not known");
        let mut two = whole.clone();
        two.extend_from_slice(&stamp("2.0.0"));
        let both = NotAnAgent::TwoStamps("1.0.0".parse().unwrap(), "2.0.0".parse().unwrap());
        assert_eq!(scan(&two, 64), Err(both));
        let mut same = whole;
        same.extend_from_slice(&stamp("1.0.0"));
        assert!(scan(&same, 64).is_ok(), "the same twice is no contradiction");
    }

    #[test]
    fn versions_have_rules() {
        for good in ["0.1.0", "1", "2026.11.21-rc1", "1.0+a.b~c"] {
            assert_eq!(good.parse::<AgentVersion>().unwrap().as_str(), good);
        }
        for bad in ["", "v1", "1 0", "1/0", "1\n", &"1".repeat(49), "../1"] {
            assert!(bad.parse::<AgentVersion>().is_err(), "{bad:?}");
        }
    }
}
