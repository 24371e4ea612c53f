//! Which version of the agent this is.
//!
//! It is in the program as a stamp that others can read without running it
//! ([`shoal_core::agent_program`]), and is read from there, so that both are one.

use shoal_core::agent_program::{STAMP, stamp, stamped};

/// In its place in memory, and so in the file, that whoever looks for it goes by.
#[repr(align(64))]
struct Aligned([u8; STAMP]);

static THIS: Aligned = Aligned(stamp(env!("CARGO_PKG_VERSION")));

/// The version of this agent.
#[must_use]
pub fn version() -> &'static str {
    // Read when it is asked for: a compiler that knew the answer would leave the stamp out.
    let this: &'static Aligned = std::hint::black_box(&THIS);
    stamped(&this.0).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use shoal_core::agent_program::Scan;

    use super::*;

    #[test]
    fn the_program_says_the_version_that_it_has() {
        assert_eq!(version(), env!("CARGO_PKG_VERSION"));
        let mut scan = Scan::new();
        scan.feed(&std::fs::read("/proc/self/exe").unwrap());
        let about = scan.finish().unwrap();
        assert_eq!(about.version.as_str(), version());
    }
}
